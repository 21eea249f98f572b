"""What `measure-contribution` measures: how well a model that was trained on something does on a task (V of eq. 3).

Source: VisATB (Dai et al., WWW 2026), eqs. 3, 6 and 10 to 12.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from mmkit.balance.task_measure import is_number
from mmkit.errors import DataError

Training: TypeAlias = Literal["mini", "large", "base", "own-mini", "own-large", "matched"]
"""What a model was trained on: "mini" the mini subsets of all tasks (eqs. 3, 6); "large" the large subset of one task
and the mini subsets of the others (i + mini, eqs. 3, 6); "base" nothing (eq. 10); "own-large" one task's large subset
alone (eqs. 10 to 12); "own-mini" one task's mini subset alone (eqs. 11, 12); "matched" the mini subsets of all for as
many steps as a "large" training takes."""

TRAININGS: tuple[Training, ...] = get_args(Training)
SHARED: frozenset[Training] = frozenset({"mini", "base", "matched"})
"""Those that are of no single task."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One V: the value of `metric` that a model trained on `training` (of the group or task `of`; None where that is
    all tasks' or none) reaches on the validation rows of the task `evaluated_on`, with one seed.

    Larger is better; `measure-contribution` turns other metrics round and says so in `metric`. `error` is the value's
    standard error over the validation rows, None where nobody knows it. Raises DataError, naming the cell, for a value
    or an error that is no finite number.
    """

    training: Training
    of: str | None
    evaluated_on: str
    metric: str
    value: float
    seed: int = 0
    error: float | None = None

    def __post_init__(self) -> None:
        if not is_number(self.value):
            raise DataError(f"{self.name}: value: expected a finite number, got {self.value!r}")
        if self.error is not None and not (is_number(self.error) and self.error >= 0):
            raise DataError(f"{self.name}: error: expected a finite number of 0 or more, got {self.error!r}")

    @property
    def trained_on(self) -> str:
        """The training's name in rows: "mini", "base", "matched", or what was taken of which task: "large:vqa"."""
        return trained_on(self.training, self.of)

    @property
    def name(self) -> str:
        """How messages call the cell."""
        return cell_name(self.training, self.of, self.evaluated_on, self.seed)

    def to_wire(self) -> dict[str, Any]:
        """The JSON row."""
        row: dict[str, Any] = {
            "trained_on": self.trained_on,
            "evaluated_on": self.evaluated_on,
            "metric": self.metric,
            "value": self.value,
            "seed": self.seed,
        }
        return row if self.error is None else {**row, "error": self.error}

    @classmethod
    def from_wire(cls, row: Mapping[str, Any]) -> Cell:
        """Read a row. Raises DataError with the field's name, also for a value that is not finite (nan, null)."""
        training, of = _training_of(_text(row, "trained_on"))
        seed = row.get("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise DataError(f"seed: expected a whole number, got {seed!r}")
        task, metric = _text(row, "evaluated_on"), _text(row, "metric")
        return cls(training, of, task, metric, row.get("value"), seed, row.get("error"))  # type: ignore[arg-type]


def trained_on(training: Training, of: str | None) -> str:
    """A training's name in rows and messages."""
    return training if of is None else f"{training}:{of}"


def cell_name(training: Training, of: str | None, evaluated_on: str, seed: int) -> str:
    """How messages call a cell, whether there is one or not."""
    return f"V of {trained_on(training, of)} on {evaluated_on}, seed {seed}"


def _training_of(text: str) -> tuple[Training, str | None]:
    kind, colon, of = text.partition(":")
    training = next((known for known in TRAININGS if known == kind), None)
    if training is None or (training in SHARED) == bool(colon) or (colon and not of):
        known = ", ".join(one if one in SHARED else f"{one}:TASK" for one in TRAININGS)
        raise DataError(f"trained_on: expected one of {known}, got {text!r}")
    return training, of or None


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value:
        raise DataError(f"{name}: expected a name, got {value!r}")
    return value
