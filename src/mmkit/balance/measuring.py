"""Doing a plan of contributions: what has been trained and measured before, by content, and what is left.

Under the work directory: `trainings/KEY/` with the model and its predictions of validation rows; `cells/KEY.json` with
one value; `checked/KEY` where rows have been looked at. A key is a hash of everything that decides the result, what
images show included; versions of software are no part of it. Files are put in their place in one step, so that one
that is there is whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from mmkit import console
from mmkit.balance.cells import Cell
from mmkit.balance.plan import Pace, Plan, Planned
from mmkit.balance.subsets import Rows, digest_of
from mmkit.errors import DataError, LimitError, MmkitError

_LAYOUT = 2
"""Of the work directory: raised where a key would come to mean something else."""
_FACTS_FILE = "trained.json"


class Value(NamedTuple):
    """What a model reaches on a task: larger is better. `error` is the standard error, None where nobody knows it."""

    metric: str
    value: float
    error: float | None


@dataclass(frozen=True, slots=True)
class CheckOrder:
    """Rows of a file to be looked at: whether a model can be trained on them. `folder` is for what that needs."""

    rows: Path
    folder: Path
    log: Path


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

    `check` raises for rows that cannot be trained on; None where nobody is to look. `evaluate` gives the value of each
    task that has rows. `model`, `training` and `evaluation` are all that decides the results beside rows and seeds (the
    base model's files, the configuration; the metric, the length of replies), as JSON.
    """

    train: Callable[[TrainingOrder], None]
    evaluate: Callable[[EvaluationOrder], Mapping[str, Value]]
    model: Mapping[str, Any]
    training: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    check: Callable[[CheckOrder], None] | None = None


class Done(NamedTuple):
    """What one `measure` did; nothing where all was there."""

    planned: Planned
    trained: bool
    num_cells: int


class Measuring:
    """A plan's trainings and cells in a work directory.

    Several threads, processes and machines may share the directory: a training that two of them want is done by the
    one, and the other waits. Without `keeps_models` a model is removed as soon as its values are there. Raises what
    `Rows.contents` raises for images that are not there, LimitError where the directory cannot be written to.
    """

    def __init__(
        self, work: Path, rows: Rows, validation: Rows, procedure: Procedure, *, keeps_models: bool = True
    ) -> None:
        self._work, self._rows, self._validation, self._procedure = work, rows, validation, procedure
        self._keeps_models = keeps_models
        self._validation_digests = {task: digest_of(validation.contents(task)) for task in validation.tasks}
        self._keys: dict[str, str] = {}

    def key(self, planned: Planned) -> str:
        """A training's name by content: two of one key are one. The base model's depends on no seed and no setting."""
        if planned.name not in self._keys:
            what: list[Any] = [_LAYOUT, self._procedure.model]
            if planned.num_rows_of:
                ids = self._ids(planned).items()
                rows = digest_of(content for task, drawn in ids for content in self._rows.contents(task, drawn))
                what += [self._procedure.training, planned.seed, _max_steps(planned), rows]
            self._keys[planned.name] = _hash(what)
        return self._keys[planned.name]

    def is_trained(self, planned: Planned) -> bool:
        """Whether nothing is left to train: so of the base model, and where all values are there."""
        return not planned.num_rows_of or self._has_model(planned) or not self.tasks_left(planned)

    def tasks_left(self, planned: Planned) -> list[str]:
        """The tasks on which the training is still to be evaluated."""
        return [task for task in planned.evaluated_on if not self._cell_file(planned, task).exists()]

    def num_rows_left(self, planned: Planned) -> int:
        """The validation rows that the training is still to answer."""
        return sum(map(self._validation.num_rows, self.tasks_left(planned)))

    def pace(self) -> Pace:
        """The medians over what has been done in the work directory by these settings, from this model."""
        settings = self._settings()
        facts = [json.loads(path.read_bytes()) for path in self._work.glob(f"trainings/*/{_FACTS_FILE}")]
        cells = [json.loads(path.read_bytes()) for path in self._work.glob("cells/*.json")]
        steps = [one["seconds_a_step"] for one in facts if one.get("settings") == settings]
        rows = [one["seconds_a_row"] for one in cells if one.get("settings") == settings]
        return Pace(*(median(times) if times else None for times in (_known(steps), _known(rows))))

    def check(self, plan: Plan) -> None:
        """Look at all rows that are still to be trained on, once: a bad one in the last training is to cost no other.

        A single training looks at its own. Raises what the procedure's `check` raises.
        """
        left = [planned for planned in plan.trainings if not self.is_trained(planned)]
        if self._procedure.check is None or len(left) < 2:
            return
        done = self._work / "checked" / _hash([self._settings(), sorted(map(self.key, plan.trainings))])
        if done.exists():
            return
        chosen: dict[str, set[str]] = {}
        for planned in plan.trainings:
            for task, ids in self._ids(planned).items():
                chosen.setdefault(task, set()).update(ids)
        folder = done.with_name(f"{done.name}.part-{os.getpid()}")
        with _explained(self._work):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        try:
            rows, log = folder / "train.jsonl", done.with_suffix(".log")
            self._write_lines(
                rows, (line for task, ids in chosen.items() for line in self._rows.lines(task, sorted(ids)))
            )
            self._procedure.check(CheckOrder(rows, folder, log))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._write(done, b"")

    def measure_all(self, plan: Plan, *, jobs: int, on_done: Callable[[Done], None]) -> None:
        """Do all that is left of a plan, `jobs` trainings at once. After an error nothing new is begun; it is raised
        when what is under way has ended."""
        failed = threading.Event()

        def measure(planned: Planned) -> Done:
            if failed.is_set():  # a thread takes the next one before anybody can cancel it
                raise CancelledError
            try:
                return self.measure(planned)
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(jobs) as pool:
            futures = [pool.submit(measure, planned) for planned in plan.trainings]
            try:
                for done in as_completed(futures):
                    with suppress(CancelledError):
                        on_done(done.result())
            finally:
                failed.set()

    def measure(self, planned: Planned) -> Done:
        """Train and evaluate what is left of one training.

        Raises, naming the training, what the functions raise, and DataError for a task of which `evaluate` gives no
        value, or one that is not finite.
        """
        if self._keeps_models and not self.tasks_left(planned):
            return Done(planned, False, 0)
        with self._claimed(planned):
            left = self.tasks_left(planned)
            trains = not self.is_trained(planned)
            try:
                if trains:
                    self._train(planned)
                if left:
                    self._evaluate(planned, left)
            except MmkitError as error:
                raise type(error)(f"{planned.name}: {error}") from error
            if not self._keeps_models:
                shutil.rmtree(self._folder(planned) / "model", ignore_errors=True)
            return Done(planned, trains, len(left))

    def cells(self, plan: Plan) -> list[Cell]:
        """All cells of a plan that has been done, in its order."""
        return [self._cell(planned, task) for planned in plan.trainings for task in planned.evaluated_on]

    def _cell(self, planned: Planned, task: str) -> Cell:
        found = json.loads(self._cell_file(planned, task).read_bytes())
        value = Value(*(found[name] for name in Value._fields))
        return Cell(planned.training, planned.of, task, value.metric, value.value, planned.seed, value.error)

    def _train(self, planned: Planned) -> None:
        folder = self._folder(planned)
        rows, out = folder / "train.jsonl", folder / "model"
        goes_on = out.exists()
        ids = self._ids(planned).items()
        self._write_lines(rows, (line for task, drawn in ids for line in self._rows.lines(task, drawn)))
        begin = time.monotonic()
        self._procedure.train(TrainingOrder(rows, out, planned.seed, _max_steps(planned), folder / "train.log"))
        a_step = None if goes_on else (time.monotonic() - begin) / planned.steps
        facts = {"training": planned.name, "rows": planned.num_rows, "steps": planned.steps, "seconds_a_step": a_step}
        self._write(folder / _FACTS_FILE, _json({**facts, "settings": self._settings()}))
        rows.unlink()

    def _evaluate(self, planned: Planned, tasks: list[str]) -> None:
        folder = self._folder(planned)
        lines = [line for task in tasks for line in self._validation.lines(task)]
        name = _hash([self._procedure.evaluation, *(self._validation_digests[task] for task in tasks)])
        rows = folder / f"validation-{name}.jsonl"
        self._write_lines(rows, lines)
        model = folder / "model" if planned.num_rows_of else None
        begin = time.monotonic()
        values = self._procedure.evaluate(
            EvaluationOrder(model, rows, folder / f"predictions-{name}.jsonl", folder / "evaluate.log")
        )
        timed = {"settings": self._settings(), "seconds_a_row": (time.monotonic() - begin) / len(lines)}
        for task in tasks:
            if task not in values:
                raise DataError(f"the evaluation gave no value of {task!r}")
            Cell(planned.training, planned.of, task, *values[task][:2], planned.seed, values[task].error)  # checks it
        for task in tasks:
            self._write(self._cell_file(planned, task), _json({**values[task]._asdict(), **timed}))
        rows.unlink()

    def _has_model(self, planned: Planned) -> bool:
        folder = self._folder(planned)
        return (folder / _FACTS_FILE).exists() and (folder / "model").exists()

    def _ids(self, planned: Planned) -> dict[str, list[str]]:
        """The rows that are trained on, by task."""
        numbers = sorted(planned.num_rows_of.items())
        return {task: self._rows.drawn(task, num_rows, planned.seed) for task, num_rows in numbers}

    def _settings(self) -> str:
        """What tells apart how long things take."""
        return _hash([self._procedure.model, self._procedure.training, self._procedure.evaluation])

    def _folder(self, planned: Planned) -> Path:
        return self._work / "trainings" / self.key(planned)

    def _cell_file(self, planned: Planned, task: str) -> Path:
        what = [self.key(planned), self._procedure.evaluation, task, self._validation_digests[task]]
        return self._work / "cells" / f"{_hash(what)}.json"

    @contextmanager
    def _claimed(self, planned: Planned) -> Iterator[None]:
        """Have a training for ourselves; wait for whoever has it. A disk that knows no locks has none."""
        folder = self._folder(planned)
        with _explained(self._work):
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / "lock").open("wb")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                console.say(f"mmkit measure-contribution: {planned.name}: waiting for who is at work in {folder}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError:
                pass
            yield

    def _write_lines(self, path: Path, lines: Iterable[bytes]) -> None:
        self._write(path, b"".join(line + b"\n" for line in lines))

    def _write(self, path: Path, content: bytes) -> None:
        """Write a file in one step: it is whole or not there, also after a power cut."""
        unfinished = path.with_name(f"{path.name}.part-{os.getpid()}")
        with _explained(self._work):
            path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)


@contextmanager
def _explained(work: Path) -> Iterator[None]:
    """Turn what a full or read-only disk raises into one sentence."""
    try:
        yield
    except OSError as error:
        raise LimitError(f"cannot write to {work}: {error.strerror or error}; the same command goes on") from error


def _max_steps(planned: Planned) -> int | None:
    """The steps where the rows alone would not make them: so that a training with equal ones is the same training."""
    return None if planned.repeats == 1 else planned.steps


def _known(times: list[float | None]) -> list[float]:
    return [one for one in times if one is not None]


def _hash(what: object) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]


def _json(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, allow_nan=False).encode() + b"\n"
