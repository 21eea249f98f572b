"""What `group` gives, as values."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
        """Read what another task can be put beside: `task`, `group`, `score` and `corrected`, of which only the first
        two are needed.

        Raises DataError with the field's name.
        """
        task, group, score, corrected = (row.get(name) for name in ("task", "group", "score", "corrected"))
        if not isinstance(task, str) or not isinstance(group, str) or not group:
            raise DataError('expected {"task": "…", "group": "…"}')
        if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
            raise DataError(f"score: expected a number, got {type(score).__name__}")
        if score is not None and not math.isfinite(score):
            raise DataError(f"score: {score} is not finite")
        if corrected is not None and not isinstance(corrected, bool):
            raise DataError(f"corrected: expected true or false, got {type(corrected).__name__}")
        return cls(task, group, score=None if score is None else float(score), corrected=corrected)
