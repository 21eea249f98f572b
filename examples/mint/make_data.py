"""Write what the miniature recipe starts from: lessons for two models, and tasks to score, to tune on and to test.

    python make_data.py DIRECTORY [--seed N] [--share F]

Everything comes from mmkit.testing.planted.interaction. Image paths start at DIRECTORY. No row is in two sets, but the
base model's lessons caption the pictures of the scorer's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mmkit import seeds
from mmkit.balance.interaction import VIEWS, View
from mmkit.balance.views import Statements, shown
from mmkit.records import Record, message
from mmkit.testing.planted import Scene, interaction, write, write_pictures

NUM_TEST, NUM_SCORED, NUM_TRAIN, NUM_LESSONS = 144, 144, 288, 432
"""Rows a task. In 144 the facts of every task run through all their combinations, a whole number of times."""
TIMES = {"synergy-latin": 3, "synergy-xor": 2}
"""How many times NUM_LESSONS a task has, where it is not once: what takes two facts together is learned last."""

Pairs = Sequence[tuple[Scene, Record]]


def main() -> None:
    """Read the command line and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of all row counts, to see that it runs")
    arguments = parser.parse_args()
    write_all(arguments.directory, arguments.seed, arguments.share)


def write_all(directory: Path, seed: int, share: float = 1.0) -> None:
    """The pictures under img/, one file a task under scored/, train/ and test/, and three files of lessons."""
    lessons: list[tuple[Scene, Record]] = []
    for task in interaction.TASKS:
        sets = {"test": NUM_TEST, "scored": NUM_SCORED, "train": NUM_TRAIN}
        counts = {name: round(share * count) for name, count in sets.items()}
        num_lessons = round(share * TIMES.get(task, 1) * NUM_LESSONS)
        pairs = interaction.scenes(task, sum(counts.values()) + num_lessons, seed)
        for name, count in counts.items():
            own = [next(pairs) for _ in range(count)]
            write((record for _, record in own), directory / name / f"{task}.jsonl")
            write_pictures((scene for scene, _ in own), directory)
        lessons += pairs
    write_pictures((scene for scene, _ in lessons), directory)
    write(base_lessons(lessons, seed), directory / "base.jsonl")
    for name, view in {"one-modality": first_view, "any-view": any_view}.items():
        write(scorer_lessons(lessons, view, seed), directory / f"{name}.jsonl")


def base_lessons(pairs: Pairs, seed: int) -> Iterator[Record]:
    """Records that make a base model of a random one: half of them caption a picture, half repeat the tasks' words."""
    words = sorted({word.strip(":.") for pair in pairs for word in _words(*pair)})
    for scene, record in pairs:
        rng = seeds.generator(seed, record["id"], "mint.base")
        if rng.random() < 0.5:
            asked, answer = message("user", "Describe the image.", 1), scene.caption
        else:
            answer = " ".join(rng.choices(words, k=rng.randint(6, 14)))
            asked = message("user", f"Repeat the words.\n{answer}")
        images = record["images"] if len(asked["content"]) > 1 else []
        yield {"id": record["id"], "images": images, "messages": [asked, message("assistant", answer)]}


def _words(scene: Scene, record: Record) -> list[str]:
    return [*scene.caption.split(), *record["context"].split(), *record["choices"]]


def scorer_lessons(pairs: Pairs, view: Callable[[Record, int], View], seed: int) -> Iterator[Record]:
    """The tasks as `score-interaction` asks them, each record in the view that is chosen for it, with their answers."""
    statements, records = Statements(), [record for _, record in pairs]
    for task in interaction.TASKS:
        statements.learn(task, [record for record in records if record["task"] == task])
    for record in records:
        seen = shown(record, view(record, seed), statements)
        messages = [*seen.messages, message("assistant", record["answer"])]
        yield {"id": record["id"], "task": record["task"], "images": list(seen.images), "messages": messages}


def first_view(record: Record, seed: int) -> View:
    """One modality of what both tell, else both.

    With the note beside it, nothing would make a model look at the picture. And where each view is a third of the cases
    from the start, a model of this size does not learn synergy.
    """
    if record["truth"]["kind"] == "redundancy":
        return seeds.pick(("text", "image"), seed, record["id"], "mint.first-view")
    return "both"


def any_view(record: Record, seed: int) -> View:
    """Each view in a third of the cases: modality dropout."""
    return seeds.pick(VIEWS, seed, record["id"], "mint.any-view")


if __name__ == "__main__":
    main()
