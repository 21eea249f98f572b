"""What a metric is: a name, a unit, a direction and one scorer a rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from mmkit.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Record: TypeAlias = Mapping[str, Any]
RowScorer: TypeAlias = "Callable[[Record], Score]"
CorpusScorer: TypeAlias = "Callable[[Sequence[Record]], list[Score]]"

PERCENT = (0.0, 100.0)


class Score(NamedTuple):
    """One row's score in the metric's unit, and the answer as it was understood (None: not parsed, so no credit).

    `statistics` are there for a pooled metric only: what is summed over rows to give the metric's value. `by` names the
    judge and its prompt where a model gave the score; it becomes part of the rule.
    """

    value: float
    parsed: str | None
    statistics: tuple[float, ...] = ()
    by: str | None = None


@dataclass(frozen=True, slots=True)
class Pooled:
    """How a metric's value follows from statistics summed over rows, where it is not the mean of the rows' scores.

    `value` takes sums of shape (..., len(names)) to values of shape (...), in the metric's unit, never nan. `details`
    are further figures to be had from the same sums, by name (a yes-ratio, a precision). With `of_image` the summed
    statistics are those of images: it makes them from the scores of one image's rows.
    """

    names: tuple[str, ...]
    value: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    details: Mapping[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]]
    of_image: Callable[[Sequence[Score]], tuple[float, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric and the rules it can be computed by.

    `range` is in `unit`, and both ends can be reached. A rule of `rules` scores one row; one of `corpus_rules` needs
    all rows of a task at once (document frequencies, a batch through an encoder) and gives their scores in order. A
    name is in one of the two. `pooled` is None where the metric is the mean of its rows' scores.
    """

    name: str
    default_rule: str
    unit: str
    higher_is_better: bool
    range: tuple[float, float]
    rules: Mapping[str, RowScorer]
    corpus_rules: Mapping[str, CorpusScorer] = field(default_factory=dict)
    pooled: Pooled | None = None

    def require_rule(self, rule: str) -> None:
        """Raise UsageError for a rule that the metric does not have."""
        if rule not in self.rules and rule not in self.corpus_rules:
            known = ", ".join((*self.rules, *self.corpus_rules))
            raise UsageError(f"metric {self.name} has no rule {rule!r}; it has: {known}")
