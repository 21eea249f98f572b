"""A task's interaction score from what its views predicted: eq. 1, what chance gives, and how sure both are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmkit.balance.interaction import Instance, InteractionRow, Similarity
from mmkit.records import Record


@dataclass(frozen=True, slots=True)
class Scored:
    """A task's row, and the agreements it is made of: (text with both, image with both) of each instance, in order."""

    row: InteractionRow
    agreements: Sequence[tuple[float, float]]


def require_scorable(record: Record, similarity: Similarity) -> None:
    """Raise DataError for a record that could not be scored whatever the views predict, and UnavailableError where what
    its similarity needs is not installed. To be called before a model is asked about it."""


def score_task(
    task: str,
    instances: Sequence[Instance],
    drawn: Sequence[Sequence[int]],
    *,
    draws: int,
    size: int,
    similarity: Similarity = "auto",
    seed: int = 0,
) -> Scored:
    """Score a task. `drawn` has the numbers of the draws, from 0, that each instance is in (`Drawn.draws`).

    Raises DataError, naming record and field, for what cannot be scored.
    """
    raise NotImplementedError
