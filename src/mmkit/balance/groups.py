"""What `group` gives, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A task and the group it is in.

    `score` is what it was grouped by, null where that is no single number. `probabilities` are those of every group, from
    the score's interval, and `probability` that of `group`; null where nothing is known of the score's error. `unsure` says that
    the interval reaches over a threshold.
    """

    task: str
    group: str
    score: float | None = None
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
        }
        if self.probabilities is not None:
            row |= {"probabilities": dict(self.probabilities), "unsure": self.unsure}
        return row
