"""The rows that `measure-contribution` reads: to train on, to measure on, and the values of `--scores`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mmkit.errors import DataError, MissingInputError, MmkitError, UsageError

if TYPE_CHECKING:
    from mmkit.balance.cells import Cell
    from mmkit.balance.subsets import Rows
    from mmkit.records import Record
    from mmkit.streams import Row


def read_tasks(
    train: Sequence[str] | None,
    val: Sequence[str] | None,
    *,
    metric: str | None,
    rule: str | None,
    image_root: str | None,
) -> tuple[Rows, Rows]:
    """The rows to train on and those to measure on, of files by name or pattern.

    The first row that cannot be trained on or scored is an error that names file and line. Raises DataError for a task
    that only one of the two has.
    """
    from mmkit.balance.subsets import require_same_tasks
    from mmkit.cli.contribution_checks import TrainingCheck, ValidationCheck
    from mmkit.streams.sources import STDIN

    if STDIN in (train or ()) and STDIN in (val or ()):
        raise UsageError("--train - and --val -: standard input is read once")
    scored = ValidationCheck(metric, rule)
    training = _read("--train", train, TrainingCheck(image_root), image_root)
    validation = _read("--val", val, scored, image_root)
    require_same_tasks(training.tasks, validation.tasks)
    scored.finish()
    return training, validation


def _read(option: str, patterns: Sequence[str] | None, check: Callable[[Row], None], image_root: str | None) -> Rows:
    from mmkit.balance.subsets import Rows
    from mmkit.streams import read_rows

    rows = Rows(image_root)
    for row in read_rows(_files(option, patterns)):
        try:
            rows.add(row.record, _line(row.record))
            check(row)
        except MmkitError as error:
            told = str(error)
            raise type(error)(told if told.startswith(row.where) else f"{row.where}: {told}") from None
    return rows


def _line(record: Record) -> bytes:
    """The record as JSON; an image that it holds as bytes becomes a data URI."""
    import orjson

    from mmkit.training.samples import without_bytes

    images = record.get("images")
    return orjson.dumps({**record, "images": list(map(without_bytes, images))} if images else record)


def _files(option: str, patterns: Sequence[str] | None) -> list[str]:
    from glob import glob
    from pathlib import Path

    from mmkit.streams.sources import STDIN

    if not patterns:
        raise UsageError(f"no rows: give {option} FILES")
    files: list[str] = []
    for pattern in patterns:
        found = [pattern] if pattern == STDIN or Path(pattern).exists() else sorted(glob(pattern))  # noqa: PTH207 - of any directory
        if not found:
            raise MissingInputError(f"{option} {pattern}: no such file")
        files += found
    return list(dict.fromkeys(files))


def read_cells(path: str) -> list[Cell]:
    """The V rows of a file; others, such as what was computed from them before, are passed over."""
    from mmkit.balance.cells import Cell
    from mmkit.streams import read_rows

    cells = []
    for row in read_rows([path], kind="json"):
        if "trained_on" not in row.record:
            continue
        try:
            cells.append(Cell.from_wire(row.record))
        except DataError as error:
            raise DataError(f"{row.where}: {error}") from None
    return cells
