"""What `measure-contribution` measures: how well a model that was trained on something does on a task (V of eq. 3).

Source: VisATB (Dai et al., WWW 2026), eqs. 3, 6 and 10 to 12.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from mmkit.errors import DataError

Training: TypeAlias = Literal["mini", "large", "base", "own-mini", "own-large", "matched"]
"""What a model was trained on: "mini" the mini subsets of all tasks (eqs. 3, 6); "large" the large subset of one task and
the mini subsets of the others (i + mini, eqs. 3, 6); "base" nothing (eq. 10); "own-large" one task's large subset alone
(eq. 10); "own-mini" one task's mini subset alone (eqs. 11, 12); "matched" the mini subsets of all for as many steps as a
"large" training takes."""

TRAININGS: tuple[Training, ...] = get_args(Training)


@dataclass(frozen=True, slots=True)
class Cell:
    """One V: the value of `metric` that a model trained on `training` (of the group or task `of`; None where that is all
    tasks' or none) reaches on the validation rows of the task `evaluated_on`, with one seed.

    Larger is better; `measure-contribution` turns other metrics round and says so in `metric`.
    """

    training: Training
    of: str | None
    evaluated_on: str
    metric: str
    value: float
    seed: int = 0

    @property
    def trained_on(self) -> str:
        """The training's name in rows: "mini", "base", "matched", or the task with what was taken of it."""
        return self.training if self.of is None else f"{self.training}:{self.of}"

    def to_wire(self) -> dict[str, Any]:
        """The JSON row."""
        return {
            "trained_on": self.trained_on,
            "evaluated_on": self.evaluated_on,
            "metric": self.metric,
            "value": self.value,
            "seed": self.seed,
        }

    @classmethod
    def from_wire(cls, row: Mapping[str, Any]) -> Cell:
        """Read a row. Raises DataError with the field's name, also for a value that is not finite."""
        raise DataError("not yet")
