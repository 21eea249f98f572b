"""What `group` gives, as values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from mmkit.errors import DataError

By: TypeAlias = Literal["interaction", "distance", "similarity", "single", "all", "file"]
METHODS: tuple[By, ...] = get_args(By)


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A task and the group it is in.

    `by` is the method that put it there; null where somebody wrote the row by hand. `score` is what it was grouped by,
    null where that is no single number, and `corrected` whether that is the chance-corrected one. `probabilities` are
    those of every group, from the score's interval, and `probability` that of `group`; null where nothing is known of
    the score's error. `unsure` says that the interval reaches over a threshold.
    """

    task: str
    group: str
    by: By | None = None
    score: float | None = None
    corrected: bool | None = None
    probability: float | None = None
    probabilities: Mapping[str, float] | None = None
    unsure: bool = False

    def to_wire(self) -> dict[str, Any]:
        """The JSON row: `task`, `group`, `probability` and `score`, and what else there is."""
        row: dict[str, Any] = {
            "task": self.task,
            "group": self.group,
            "probability": self.probability,
            "score": self.score,
            "by": self.by,
        }
        if self.corrected is not None:
            row["corrected"] = self.corrected
        if self.probabilities is not None:
            row |= {"probabilities": dict(self.probabilities), "unsure": self.unsure}
        return row

    @classmethod
    def from_wire(cls, row: Mapping[str, Any]) -> GroupRow:
        """Read a row, of which only `task` and `group` are needed; not its method nor the other groups' probabilities.

        Raises DataError with the field's name.
        """
        task, group, corrected, unsure = (row.get(name) for name in ("task", "group", "corrected", "unsure"))
        if not isinstance(task, str) or not isinstance(group, str) or not group:
            raise DataError('expected {"task": "…", "group": "…"}')
        for name, value in (("corrected", corrected), ("unsure", unsure)):
            if value is not None and not isinstance(value, bool):
                raise DataError(f"{name}: expected true or false, got {type(value).__name__}")
        return cls(
            task,
            group,
            score=_number(row, "score"),
            corrected=corrected,
            probability=_number(row, "probability"),
            unsure=unsure is True,
        )


def table(rows: Iterable[GroupRow]) -> list[list[str]]:
    """The rows for a terminal, header first."""
    header = ["group", "task", "score", "probability", ""]
    return [
        header,
        *([row.group, row.task, _shown(row.score), _shown(row.probability), "unsure" * row.unsure] for row in rows),
    ]


def _shown(number: float | None) -> str:
    return "" if number is None else f"{number:.2f}"


def _number(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{name}: expected a number, got {value!r}")
    return float(value)
