"""The difference of two methods on one task and metric, with its interval and p-value.

Where the rows carry their single scores the test is over the records that both sides have, pair by pair: two methods
on the same questions differ far less than their own intervals suggest.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmkit.errors import DataError
from mmkit.evaluation.intervals import Z95, bootstrap_interval, bootstrap_sums, constant_interval
from mmkit.evaluation.methods import Spread, named
from mmkit.evaluation.scores import Samples, ScoreRow, cluster_statistics, value_from_sums
from mmkit.tasks.metrics import METRICS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmkit.tasks.metrics import Metric, Pooled

RESAMPLES = 10_000
BOOTSTRAP = "paired bootstrap"
MCNEMAR = "McNemar"
NEWCOMBE = "Newcombe"


@dataclass(frozen=True, slots=True)
class Difference:
    """Two sides and what tells them apart. `ci95` is of after minus before; all but the p-value in the rows' unit.

    `interval` and `test` name what made `ci95` and `p_value`, and are None where there is none. `n_paired` is the
    number of records that both sides have, 0 where the sides were not paired.
    """

    before: Spread
    after: Spread
    ci95: tuple[float, float] | None = None
    interval: str | None = None
    p_value: float | None = None
    test: str | None = None
    n_paired: int = 0
    notes: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """After minus before, of the means over seeds."""
        return self.after.mean - self.before.mean


def difference(before: Sequence[ScoreRow], after: Sequence[ScoreRow], *, seed: int) -> Difference:
    """Compare the rows of two methods on one task, metric and rule, a row a seed; one at least on each side.

    Where all rows carry their samples, everything is of the records that all of them have. Interval: paired bootstrap
    (Efron and Tibshirani 1993; 10,000 resamples of records, or of images where records share them). p-value: McNemar's
    exact test where each side has one seed, only right and wrong scores and no shared images; else the bootstrap's.
    Several seeds are drawn together, record by record, so that the interval is over records for these seeds.
    Otherwise, of one row a side: Newcombe's (1998) interval from the two intervals. Otherwise the difference alone.
    Raises DataError where an id occurs twice in a row's samples.
    """
    return _paired(before, after, seed) or _unpaired(before, after)


def mcnemar(gained: int, lost: int) -> float:
    """The two-sided exact p-value where `gained` pairs went from wrong to right and `lost` from right to wrong.

    Twice the binomial probability of as few as the fewer of the two among all that changed, at even odds; at most 1.
    Source: McNemar 1947, in its exact form. Deviation: none.
    """
    changed, fewer = gained + lost, min(gained, lost)
    ways = of_size = 1
    for i in range(fewer):
        of_size = of_size * (changed - i) // (i + 1)
        ways += of_size
    return max(min(1.0, (2 * ways) / (1 << changed)), sys.float_info.min)


def _paired(before: Sequence[ScoreRow], after: Sequence[ScoreRow], seed: int) -> Difference | None:
    """None where a row carries no samples, or no record is in all of them."""
    rows = [*before, *after]
    if any(row.samples is None for row in rows):
        return None
    metric = METRICS.get(rows[0].metric)
    if metric is not None and metric.pooled is not None:
        _require_statistics(rows, metric.pooled)
    common = _common_samples(rows)
    if not common[0].ids:
        return None
    bounds = _bounds(metric, common)
    drawn = _Drawn.of(rows[0].metric, common, len(before), seed)
    changes = _changes(common, bounds) if metric is None or metric.pooled is None else None
    return Difference(
        Spread.of(drawn.values[: len(before)]),
        Spread.of(drawn.values[len(before) :]),
        ci95=drawn.interval(bounds),
        interval=BOOTSTRAP,
        p_value=drawn.p_value(bounds) if changes is None else mcnemar(*changes),
        test=BOOTSTRAP if changes is None else MCNEMAR,
        n_paired=len(common[0].ids),
        notes=_notes(rows, len(before), len(common[0].ids)),
    )


def _common_samples(rows: Sequence[ScoreRow]) -> list[Samples]:
    """Each row's samples of the records that all rows have, in the order of their ids, with one row's clusters."""
    places = [_places(row) for row in rows]
    ids = sorted(set(places[0]).intersection(*places[1:]))
    clusters: list[int] | None = None
    for row, place in zip(rows, places, strict=True):
        if clusters is None and row.samples is not None and row.samples.clusters is not None:
            clusters = [row.samples.clusters[place[record]] for record in ids]
    if clusters is not None and len(set(clusters)) == len(clusters):
        clusters = None
    return [
        _selected(row.samples, ids, [place[record] for record in ids], clusters)
        for row, place in zip(rows, places, strict=True)
        if row.samples is not None
    ]


def _require_statistics(rows: Sequence[ScoreRow], pooled: Pooled) -> None:
    for row in rows:
        assert row.samples is not None
        vectors = row.samples.statistics
        if pooled.of_image is None and (vectors is None or any(len(one) != len(pooled.names) for one in vectors)):
            raise DataError(
                f"{_of(row)}: samples.statistics: expected {len(pooled.names)} numbers an id: {', '.join(pooled.names)}"
            )


def _selected(samples: Samples, ids: Sequence[str], places: Sequence[int], clusters: Sequence[int] | None) -> Samples:
    statistics = None if samples.statistics is None else [samples.statistics[place] for place in places]
    return Samples(ids, [samples.values[place] for place in places], clusters, statistics)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The bootstrap of all rows together: record by record, so that what is hard for one is hard for all.

    `values` are the rows' observed ones, `difference` that of the two sides' means; `differences` has shape
    (resamples,). `num_changed` counts the clusters of `num_clusters` that differ between the two sides.
    """

    values: Sequence[float]
    difference: float
    differences: NDArray[np.float64]
    num_clusters: int
    num_changed: int

    @classmethod
    def of(cls, metric: str, samples: Sequence[Samples], num_before: int, seed: int) -> _Drawn:
        import numpy as np

        statistics = [cluster_statistics(metric, one) for one in samples]
        num_after = len(samples) - num_before
        weights = np.array([-1 / num_before] * num_before + [1 / num_after] * num_after)
        # In an order that neither the sides nor the seeds decide: swapped, they give the same draws.
        order = sorted(range(len(samples)), key=lambda row: statistics[row].tobytes())
        ordered, weights_ordered = np.stack([statistics[row] for row in order], axis=1), weights[order]
        num_clusters, num_rows, k = ordered.shape
        value = value_from_sums(metric)
        observed = value(np.stack([one.sum(axis=0) for one in statistics]))
        sums = bootstrap_sums(ordered.reshape(num_clusters, num_rows * k), resamples=RESAMPLES, seed=seed)
        changes = np.einsum("crk,r->ck", ordered, weights_ordered)
        return cls(
            values=observed.tolist(),
            difference=float(observed @ weights),
            differences=value(sums.reshape(-1, num_rows, k)) @ weights_ordered,
            num_clusters=num_clusters,
            num_changed=int((np.abs(changes) > 1e-9).any(axis=1).sum()),
        )

    def interval(self, bounds: tuple[float, float]) -> tuple[float, float]:
        lower, upper = bootstrap_interval(self.differences)
        if math.isclose(lower, upper, rel_tol=1e-9, abs_tol=1e-9):
            largest = bounds[1] - bounds[0]
            lower, upper = constant_interval(self.difference, self.num_clusters, (-largest, largest))
        return round(min(lower, self.difference), 6), round(max(upper, self.difference), 6)

    def p_value(self, bounds: tuple[float, float]) -> float:
        """2 (k + 1) / (resamples + 1), k resamples being on the other side of 0 or at it; at most 1.

        It is never below 2^(1 - m), the least that a sign test of m differing clusters can reach: three pairs prove
        nothing.
        """
        tolerance = 1e-9 * max(bounds[1] - bounds[0], 1.0)
        crossed = min(int((self.differences <= tolerance).sum()), int((self.differences >= -tolerance).sum()))
        bootstrapped = 2 * (crossed + 1) / (len(self.differences) + 1)
        return min(1.0, max(bootstrapped, math.ldexp(1.0, 1 - self.num_changed)))


def _changes(samples: Sequence[Samples], bounds: tuple[float, float]) -> tuple[int, int] | None:
    """How many pairs gained and lost, where there are two rows of right or wrong on images of their own; else None."""
    if len(samples) != 2 or samples[0].clusters is not None:
        return None
    before, after = samples[0].values, samples[1].values
    if not set(before).union(after) <= set(bounds):
        return None
    gained = sum(one < other for one, other in zip(before, after, strict=True))
    return gained, sum(one > other for one, other in zip(before, after, strict=True))


def _bounds(metric: Metric | None, samples: Sequence[Samples]) -> tuple[float, float]:
    """The range of the metric, or of the values seen where the metric is not one of ours."""
    low, high = metric.range if metric else (math.inf, -math.inf)
    return min(low, *(min(one.values) for one in samples)), max(high, *(max(one.values) for one in samples))


def _notes(rows: Sequence[ScoreRow], num_before: int, num_common: int) -> tuple[str, ...]:
    notes = []
    before, after = (
        len({record for row in side if row.samples for record in row.samples.ids}) - num_common
        for side in (rows[:num_before], rows[num_before:])
    )
    if before or after:
        notes.append(
            f"on the {num_common} common ids; {before} only in the baseline and {after} not in it were left out"
        )
    if len(rows) > 2:
        notes.append("interval and p say what other records would give, not what other seeds would")
    return tuple(notes)


def _unpaired(before: Sequence[ScoreRow], after: Sequence[ScoreRow]) -> Difference:
    """The difference of two independent scores from their intervals, and p from the same limits.

    Source: Newcombe 1998, method 10, which is for two Wilson intervals. Deviation: used for every interval.
    """
    notes: tuple[str, ...] = ()
    if all(row.samples is not None for row in (*before, *after)):
        notes = ("no id is on both sides",)
    spreads = Spread.of([row.value for row in before]), Spread.of([row.value for row in after])
    if len(before) + len(after) > 2 or before[0].ci95 is None or after[0].ci95 is None:
        return Difference(*spreads, notes=notes)
    (low_before, high_before), (low_after, high_after) = before[0].ci95, after[0].ci95
    value = after[0].value - before[0].value
    below = math.hypot(after[0].value - low_after, high_before - before[0].value)
    above = math.hypot(high_after - after[0].value, before[0].value - low_before)
    # The limit on zero's side decides, so that p < .05 exactly where the interval leaves zero out.
    towards_zero = below if value > 0 else above
    p_value: float | None = 1.0
    if value != 0:
        p_value = math.erfc(Z95 * abs(value) / towards_zero / math.sqrt(2)) if towards_zero else None
    ci95 = (round(value - below, 6), round(value + above, 6))
    return Difference(
        *spreads,
        ci95=ci95,
        interval=NEWCOMBE,
        p_value=p_value,
        test=None if p_value is None else NEWCOMBE,
        notes=notes,
    )


def _places(row: ScoreRow) -> dict[str, int]:
    """Where in the row's samples each id is."""
    assert row.samples is not None
    places = {record: place for place, record in enumerate(row.samples.ids)}
    if len(places) != len(row.samples.ids):
        repeated = Counter(row.samples.ids).most_common(1)[0][0]
        raise DataError(
            f"{_of(row)}: samples.ids: {repeated!r} occurs more than once, so records cannot be paired; "
            "give every record an id of its own, and score again"
        )
    return places


def _of(row: ScoreRow) -> str:
    return named((row.task, row.metric, row.rule))
