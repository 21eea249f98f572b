"""Write what the miniature recipe starts from: seed tasks, the base model's lessons, captioned digits, a test set.

    python make_data.py DIRECTORY [--seed N] [--share F]

Everything comes from mmkit.testing.planted, so that the right answer to every task on a digit is known. `truth.jsonl`
holds those answers for the report; no command of the recipe reads it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from mmkit.testing.planted import (
    SIDE,
    Scene,
    base_conversations,
    digits,
    drawn,
    vocabulary,
    write,
    write_pictures,
)

SCENES_OF = {"shape": 600, "line": 600, "card": 600, "sign": 1200}
NUM_BASE_ROWS = 8000
NUM_TRAIN_DIGITS, NUM_TEST_DIGITS = 1200, 300


def main() -> None:
    """Read the command line and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of all row counts, to see that it runs")
    arguments = parser.parse_args()
    write_all(arguments.directory, arguments.seed, arguments.share)


def write_all(directory: Path, seed: int, share: float = 1.0) -> None:
    """The pictures under img/, and five files of records."""
    general = [scene for kind, count in SCENES_OF.items() for scene in drawn.scenes(kind, round(share * count), seed)]
    train, test = digits(round(share * NUM_TRAIN_DIGITS), round(share * NUM_TEST_DIGITS), seed)
    write_pictures([*general, *train, *test], directory)
    Image.new("RGB", (SIDE, SIDE)).save(directory / "img" / "blank.png")

    words = vocabulary([*general, *train])
    write(base_conversations(general, words, round(share * NUM_BASE_ROWS), seed), directory / "base.jsonl")
    write((record for scene in general for record in scene.seed_records()), directory / "seeds.jsonl")
    write((scene.caption_record() for scene in train), directory / "digits.jsonl")
    write((record for scene in test for record in scene.test_records()), directory / "test.jsonl")
    write((_truth(scene) for scene in train), directory / "truth.jsonl")


def _truth(scene: Scene) -> dict[str, object]:
    return {"id": scene.id, "answers": {question.question: question.answer for question in scene.questions}}


if __name__ == "__main__":
    main()
