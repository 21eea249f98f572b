"""What VisATB weighs a task by, as `measure-contribution` writes it and `weights` reads it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard

from mmkit.errors import DataError


class Measured(NamedTuple):
    """A task's mean contribution to the others (`c_out`, eq. 4), theirs to it (`c_in`, eq. 5) and its difficulty
    (eq. 6). 1 is what the task's own data give; all may be negative."""

    c_out: float
    c_in: float
    difficulty: float


FIELDS = ("C_out", "C_in", "D")
_LARGEST = 1e100


@dataclass(frozen=True, slots=True)
class TaskMeasure:
    """What is known of a task, or of a group as a whole.

    `measured` is the mean over seeds, `by_seed` what each of several gave (empty for one). `tasks` are those of a
    group, empty for a task. `flat` names the tasks of which a denominator was flat (see `contribution`).
    """

    task: str
    measured: Measured
    by_seed: tuple[Measured, ...] = ()
    tasks: tuple[str, ...] = ()
    flat: tuple[str, ...] = ()

    @classmethod
    def of_seeds(
        cls, task: str, by_seed: Sequence[Measured], tasks: Sequence[str] = (), flat: Sequence[str] = ()
    ) -> TaskMeasure:
        """From what each seed gave; there must be one at least."""
        means = Measured(*(mean(values) for values in zip(*by_seed, strict=True)))
        return cls(task, means, tuple(by_seed) if len(by_seed) > 1 else (), tuple(tasks), tuple(flat))

    def to_wire(self) -> dict[str, Any]:
        """The JSON row: `task`, `C_out`, `C_in`, `D`; of several seeds each one's, and their deviation."""
        row: dict[str, Any] = {"task": self.task, **dict(zip(FIELDS, self.measured, strict=True))}
        if self.by_seed:
            columns = dict(zip(FIELDS, zip(*self.by_seed, strict=True), strict=True))
            row["deviation"] = {name: deviation(values) for name, values in columns.items()}
            row["by_seed"] = {name: list(values) for name, values in columns.items()}
        if self.tasks:
            row["tasks"] = list(self.tasks)
        if self.flat:
            row["flat"] = list(self.flat)
        return row

    @classmethod
    def from_wire(cls, row: Mapping[str, Any]) -> TaskMeasure:
        """A row, of which {"task", "C_out", "C_in", "D"} are needed. Raises DataError with the field's name."""
        task = row.get("task")
        if not isinstance(task, str) or not task:
            raise DataError("task: expected a name")
        return cls(
            task,
            Measured(*(_finite(row.get(name), name) for name in FIELDS)),
            _by_seed(row.get("by_seed")),
            names(row, "tasks"),
            names(row, "flat"),
        )


def mean(values: Sequence[float]) -> float:
    """The mean of one value at least."""
    return math.fsum(values) / len(values)


def deviation(values: Sequence[float]) -> float:
    """The sample standard deviation (divisor n - 1) of two values at least."""
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a number that differences of such numbers cannot make infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _by_seed(value: object) -> tuple[Measured, ...]:
    if value is None:
        return ()
    columns = [value[name] for name in FIELDS if isinstance(value.get(name), list)] if isinstance(value, dict) else []
    if len(columns) < len(FIELDS) or len({len(column) for column in columns}) > 1:
        raise DataError("by_seed: expected lists C_out, C_in and D with one value a seed")
    rows = [Measured(*map(_finite, seed, (f"by_seed.{n}" for n in FIELDS))) for seed in zip(*columns, strict=True)]
    return tuple(rows) if len(rows) > 1 else ()


def names(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The names in a field, none where it is not there. Raises DataError where it holds something else."""
    value = row.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise DataError(f"{name}: expected names of tasks")
    return tuple(value)


def _finite(value: object, name: str) -> float:
    if not is_number(value):
        raise DataError(f"{name}: expected a finite number, got {value!r}")
    return float(value)
