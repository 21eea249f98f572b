"""Doing a plan of contributions: what has been trained and measured before, by content, and what is left.

Under the work directory: `trainings/KEY/` with the model and its predictions of validation rows; `cells/KEY.json` with
one value. A key is a hash of everything that decides the result; of images it is their references, not their bytes.
Files are put in their place in one step, so that one that is there is whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from mmkit.balance.cells import Cell
from mmkit.balance.plan import Plan, Planned
from mmkit.balance.subsets import Rows, digest_of
from mmkit.errors import DataError

_LAYOUT = 1
_FACTS_FILE = "trained.json"


class Value(NamedTuple):
    """What a model reaches on a task: larger is better. `error` is the standard error, None where nobody knows it."""

    metric: str
    value: float
    error: float | None


@dataclass(frozen=True, slots=True)
class TrainingOrder:
    """A model to train on the rows of a file, in `out`; what an earlier process left there is to be gone on from.

    `max_steps` stands in for the configuration's epochs; None leaves them.
    """

    rows: Path
    out: Path
    seed: int
    max_steps: int | None
    log: Path


@dataclass(frozen=True, slots=True)
class EvaluationOrder:
    """A model, None for the base model, to answer the validation rows of a file; answers go to `predictions`."""

    model: Path | None
    rows: Path
    predictions: Path
    log: Path


@dataclass(frozen=True, slots=True)
class Procedure:
    """How models are trained and evaluated, by functions of other packages.

    `evaluate` gives the value of each task that has rows. `training` and `evaluation` are all that decides the results
    beside rows and seeds (the base model's files, the configuration; the metric, the length of replies), as JSON.
    """

    train: Callable[[TrainingOrder], None]
    evaluate: Callable[[EvaluationOrder], Mapping[str, Value]]
    model: Mapping[str, Any]
    training: Mapping[str, Any]
    evaluation: Mapping[str, Any]


class Done(NamedTuple):
    """What one `measure` did; nothing where all was there."""

    planned: Planned
    trained: bool
    num_cells: int


class Measuring:
    """A plan's trainings and cells in a work directory.

    Several threads, processes and machines may share the directory: a training that two of them want is done by the
    one, and the other waits.
    """

    def __init__(self, work: Path, rows: Rows, validation: Rows, procedure: Procedure) -> None:
        self._work, self._rows, self._validation, self._procedure = work, rows, validation, procedure
        self._validation_digests = {task: validation.digest(task) for task in validation.tasks}
        self._keys: dict[str, str] = {}

    def is_trained(self, planned: Planned) -> bool:
        """Whether nothing is left to train; so of the base model."""
        return not planned.num_rows_of or (self._folder(planned) / _FACTS_FILE).exists()

    def tasks_left(self, planned: Planned) -> list[str]:
        """The tasks on which the training is still to be evaluated."""
        return [task for task in planned.evaluated_on if not self._cell_file(planned, task).exists()]

    def seconds_a_step(self) -> float | None:
        """The median over the trainings in the work directory; None where none has been done in one go."""
        facts = [json.loads(path.read_bytes()) for path in self._work.glob(f"trainings/*/{_FACTS_FILE}")]
        times = [one["seconds"] / one["steps"] for one in facts if one["seconds"] is not None]
        return median(times) if times else None

    def measure_all(self, plan: Plan, *, jobs: int, on_done: Callable[[Done], None]) -> None:
        """Do all that is left of a plan, `jobs` trainings at once. After an error nothing new is begun; it is raised
        when what is under way has ended."""
        pool = ThreadPoolExecutor(jobs)
        try:
            for done in as_completed([pool.submit(self.measure, planned) for planned in plan.trainings]):
                on_done(done.result())
        finally:
            pool.shutdown(cancel_futures=True)

    def measure(self, planned: Planned) -> Done:
        """Train and evaluate what is left of one training. Raises what the functions raise, DataError for a task of
        which `evaluate` gives no value, or one that is not finite."""
        with self._claimed(planned):
            left = self.tasks_left(planned)
            trains = bool(left) and not self.is_trained(planned)
            if trains:
                self._train(planned)
            if left:
                self._evaluate(planned, left)
            return Done(planned, trains, len(left))

    def cells(self, plan: Plan) -> list[Cell]:
        """All cells of a plan that has been done, in its order."""
        return [self._cell(planned, task) for planned in plan.trainings for task in planned.evaluated_on]

    def _cell(self, planned: Planned, task: str) -> Cell:
        found = Value(**json.loads(self._cell_file(planned, task).read_bytes()))
        return Cell(planned.training, planned.of, task, found.metric, found.value, planned.seed, found.error)

    def _train(self, planned: Planned) -> None:
        folder = self._folder(planned)
        rows, out = folder / "train.jsonl", folder / "model"
        goes_on = out.exists()
        _write(rows, b"".join(line + b"\n" for line in self._lines(planned)))
        begin = time.monotonic()
        self._procedure.train(
            TrainingOrder(rows, out, planned.seed, _max_steps(planned), folder / "train.log"),
        )
        seconds = None if goes_on else round(time.monotonic() - begin, 3)
        facts = {"training": planned.name, "rows": planned.num_rows, "steps": planned.steps, "seconds": seconds}
        _write(folder / _FACTS_FILE, _json(facts))
        rows.unlink()

    def _evaluate(self, planned: Planned, tasks: list[str]) -> None:
        folder = self._folder(planned)
        lines = [line for task in tasks for line in self._validation.lines(task)]
        name = digest_of(lines)[:16]
        rows = folder / f"validation-{name}.jsonl"
        _write(rows, b"".join(line + b"\n" for line in lines))
        model = folder / "model" if planned.num_rows_of else None
        values = self._procedure.evaluate(
            EvaluationOrder(model, rows, folder / f"predictions-{name}.jsonl", folder / "evaluate.log")
        )
        for task in tasks:
            if task not in values:
                raise DataError(f"{planned.name}: the evaluation gave no value of {task!r}")
            Cell(planned.training, planned.of, task, *values[task][:2], planned.seed, values[task].error)  # checks it
            _write(self._cell_file(planned, task), _json(values[task]._asdict()))
        rows.unlink()

    def _lines(self, planned: Planned) -> Iterator[bytes]:
        for task, num_rows in sorted(planned.num_rows_of.items()):
            yield from self._rows.lines(task, self._rows.drawn(task, num_rows, planned.seed))

    def _key(self, planned: Planned) -> str:
        """Of a training. The base model's depends on no seed and no configuration."""
        if planned.name not in self._keys:
            what: list[Any] = [_LAYOUT, self._procedure.model]
            if planned.num_rows_of:
                rows = digest_of(self._lines(planned))
                what += [self._procedure.training, planned.seed, _max_steps(planned), rows]
            self._keys[planned.name] = _hash(what)
        return self._keys[planned.name]

    def _folder(self, planned: Planned) -> Path:
        return self._work / "trainings" / self._key(planned)

    def _cell_file(self, planned: Planned, task: str) -> Path:
        what = [self._key(planned), self._procedure.evaluation, task, self._validation_digests[task]]
        return self._work / "cells" / f"{_hash(what)}.json"

    @contextmanager
    def _claimed(self, planned: Planned) -> Iterator[None]:
        """Have a training for ourselves; wait for whoever has it."""
        folder = self._folder(planned)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _max_steps(planned: Planned) -> int | None:
    """The steps where the rows alone would not make them: so that a training with equal ones is the same training."""
    return None if planned.repeats == 1 else planned.steps


def _hash(what: object) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]


def _json(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, allow_nan=False).encode() + b"\n"


def _write(path: Path, content: bytes) -> None:
    """Write a file in one step: it is whole or not there, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part-{os.getpid()}")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
