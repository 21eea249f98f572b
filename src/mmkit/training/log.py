"""log.jsonl: a row for each optimizer step and each validation, written as they happen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import orjson

from mmkit.training.config import StepReport, Validation
from mmkit.training.job import LOG_FILE, Job, full_disk_explained
from mmkit.training.ranks import Ranks
from mmkit.training.tracking import Trackers


class Log:
    """Takes reports to the log and to what else was asked for; in processes that are not the main one, nowhere."""

    def __init__(self, file: BinaryIO | None, trackers: Trackers | None) -> None:
        self._file, self._trackers = file, trackers

    def add(self, report: StepReport | Validation) -> None:
        """Write one. Raises LimitError where the disk is full."""
        if self._file is None:
            return
        with full_disk_explained(Path(self._file.name)):
            self._file.write(orjson.dumps(report.to_wire()) + b"\n")
            self._file.flush()
        if self._trackers is not None:
            self._trackers.add(report)

    def flush(self) -> None:
        """Wait until the disk has it all."""
        if self._file is not None:
            os.fsync(self._file.fileno())


@contextmanager
def logged(job: Job, ranks: Ranks, step: int, *, validated: bool) -> Iterator[Log]:
    """The log of a run that goes on after `step` steps, and after the validation at that step if it was `validated`:
    what an earlier process wrote of later ones is taken out."""
    if not ranks.is_main:
        yield Log(None, None)
        return
    path = job.folder / LOG_FILE
    partial = path.with_suffix(".partial")
    with full_disk_explained(job.folder), partial.open("wb") as file:
        file.writelines(line for line in _lines(path) if step and _belongs_before(line, step, validated))
    partial.replace(path)
    trackers = Trackers(job.config.report_to, job.out) if job.config.report_to else None
    with path.open("ab") as file:
        try:
            yield Log(file, trackers)
        finally:
            if trackers is not None:
                trackers.close()


def read_losses(folder: Path) -> Iterator[float]:
    """The loss of each step of the run whose log is in `folder`."""
    for line in _lines(folder / LOG_FILE):
        row = orjson.loads(line)
        if "loss" in row:
            yield row["loss"]


def _lines(path: Path) -> Iterator[bytes]:
    if path.exists():
        with path.open("rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))


def _belongs_before(line: bytes, step: int, validated: bool) -> bool:
    """A checkpoint may be written before or after the validation of its step."""
    row = orjson.loads(line)
    done: bool = row["step"] <= step if "loss" in row or validated else row["step"] < step
    return done
