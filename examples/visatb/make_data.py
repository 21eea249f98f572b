"""Write what the miniature recipe starts from: lessons for a base model, and five tasks in three sets each.

    python make_data.py DIRECTORY [--seed N] [--share F]

Everything comes from mmkit.testing.planted.overlap. Image paths start at DIRECTORY. No row is in two sets.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from mmkit.records import Record
from mmkit.testing.planted import Scene, overlap, write, write_pictures

ROWS = {"test": 300, "val": 300, "train": 3200}
"""Rows a task of each set, in the order in which they are drawn: more training rows change no other set."""
NUM_LESSONS = 3000


def main() -> None:
    """Read the command line and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of all row counts, to see that it runs")
    arguments = parser.parse_args()
    write_all(arguments.directory, arguments.seed, arguments.share)


def write_all(directory: Path, seed: int, share: float = 1.0) -> None:
    """The pictures under img/, one file a task under tasks/train/, tasks/val/ and tasks/test/, and lessons.jsonl."""
    counts = {name: round(share * count) for name, count in ROWS.items()}
    for task in overlap.TASKS:
        pairs = overlap.scenes(task, sum(counts.values()), seed)
        for name, count in counts.items():
            _write_pairs(islice(pairs, count), directory, f"tasks/{name}/{task}.jsonl")
    _write_pairs(overlap.lessons(round(share * NUM_LESSONS), seed), directory, "lessons.jsonl")


def _write_pairs(pairs: Iterable[tuple[Scene, Record]], directory: Path, name: str) -> None:
    scenes, records = zip(*pairs, strict=True)
    write_pictures(scenes, directory)
    write(records, directory / name)


if __name__ == "__main__":
    main()
