"""Write what the miniature recipe starts from: the base model's lessons, captions, training sets, held-out sets.

    python make_data.py DIRECTORY [--seed N] [--share F]

Everything comes from mmkit.testing.planted. Image paths start at DIRECTORY.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmkit.testing.planted import bimodal, write, write_pictures

NUM_LESSONS, NUM_CAPTIONS, NUM_TEST = 16000, 1600, 100
NUM_TRAIN = {
    "note-colour": 1600,
    "note-thing": 1600,
    "note-warm": 600,
    "note-not-place": 600,
    "note-size-and-thing": 600,
    "picture-colour": 2400,
    "picture-size-and-thing": 1200,
}
"""As in the paper, the sets of reasoning hold fewer tasks than a mixture wants of them, and come more than once."""


def main() -> None:
    """Read the command line and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of all row counts, to see that it runs")
    arguments = parser.parse_args()
    write_all(arguments.directory, arguments.seed, arguments.share)


def write_all(directory: Path, seed: int, share: float = 1.0) -> None:
    """The pictures under img/, lessons and captions, one file a set under language/, vision/ and test/."""
    lessons = list(bimodal.lessons(round(share * NUM_LESSONS), seed))
    captioned = list(bimodal.captioned(round(share * NUM_CAPTIONS), seed))
    write((record for record, _ in lessons), directory / "lessons.jsonl")
    write((scene.caption_record() for scene in captioned), directory / "captions.jsonl")
    write_pictures([*(scene for _, scene in lessons if scene is not None), *captioned], directory)
    for task_set in (*bimodal.TRAINING, *bimodal.HELD_OUT):
        count = NUM_TEST if task_set.held_out else NUM_TRAIN[task_set.name]
        rows = list(bimodal.tasks(task_set, round(share * count), seed))
        folder = "test" if task_set.held_out else task_set.modality
        write((record for record, _ in rows), directory / folder / f"{task_set.name}.jsonl")
        write_pictures((scene for _, scene in rows if scene is not None), directory)


if __name__ == "__main__":
    main()
