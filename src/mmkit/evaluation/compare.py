"""Score rows against a baseline: difference, interval and p-value, pair by pair where the rows carry their samples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from mmkit import seeds
from mmkit.errors import DataError
from mmkit.evaluation.intervals import (
    Z95,
    bootstrap_interval,
    bootstrap_means,
    cluster_totals,
    constant_interval,
)
from mmkit.evaluation.scores import Samples, ScoreRow
from mmkit.tasks.metrics import METRICS

PAIRED_RESAMPLES = 10_000
PAIRED = "paired bootstrap"
UNPAIRED = "unpaired intervals"
DIFFERENCE_ONLY = "difference only"
UNMATCHED = "unmatched"
Key: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One score row against the baseline's row of the same task, metric and rule.

    `baseline`, `value`, `difference` (value minus baseline) and `ci95` are in `unit`. Where `method` is "paired
    bootstrap" they are all of the `n_paired` ids that both sides have; otherwise of the whole rows, and `n_paired` is
    0. `relative` is the difference in percent of the baseline, null where that is 0. `better` follows the metric's
    direction and is null where nothing differs. `note` says what a reader has to know beside the figures.
    """

    task: str
    metric: str
    rule: str
    unit: str
    baseline_model: str | None
    model: str | None
    baseline: float | None
    value: float | None
    difference: float | None
    ci95: tuple[float, float] | None
    p_value: float | None
    n_paired: int
    method: str
    relative: float | None
    better: bool | None
    note: str | None

    def to_wire(self) -> dict[str, Any]:
        """The JSON row."""
        return asdict(self) | {"ci95": None if self.ci95 is None else list(self.ci95)}


@dataclass(frozen=True, slots=True)
class _Estimate:
    """What one method makes of two rows."""

    baseline: float
    value: float
    ci95: tuple[float, float] | None
    p_value: float | None
    n_paired: int
    method: str
    notes: tuple[str, ...] = ()


def compare(baseline: Sequence[ScoreRow], *others: Sequence[ScoreRow], seed: int = 0) -> list[ComparisonRow]:
    """Each row of each of `others` against the baseline, in the baseline's order; unmatched rows are named as such.

    Paired bootstrap (Efron and Tibshirani 1993; 10,000 resamples of ids, or of images where ids share them) where
    both rows carry samples with common ids; else Newcombe's (1998) interval of a difference from the two intervals;
    else the difference alone. Raises DataError where the baseline has two rows of one task, metric and rule, or where
    an id occurs twice in a row's samples.
    """
    base: dict[Key, ScoreRow] = {}
    for row in baseline:
        if base.setdefault(_key(row), row) is not row:
            raise DataError(f"baseline: two rows of {_named(row)}; which one to compare with is not clear")
    compared: list[ComparisonRow] = []
    for other in others:
        found = {_key(row) for row in other}
        for key, row in base.items():
            compared += [_against(row, match, seed) for match in other if _key(match) == key]
            if key not in found:
                compared.append(_unmatched(row, None))
        compared += [_unmatched(None, row) for row in other if _key(row) not in base]
    return compared


def table(rows: Sequence[ComparisonRow]) -> list[list[str]]:
    """The rows as text for a terminal, the header first."""

    def number(value: float | None, spec: str = ".1f") -> str:
        return "" if value is None else format(value, spec)

    body = [
        [
            row.task,
            f"{row.metric} ({row.rule})" if row.rule else row.metric,
            row.model or "",
            number(row.baseline),
            number(row.value),
            number(row.difference, "+.1f"),
            "" if row.ci95 is None else f"{row.ci95[0]:+.1f} to {row.ci95[1]:+.1f}",
            number(row.p_value, ".2g"),
            "" if row.relative is None else f"{row.relative:+.1f} %",
            f"{row.method}, n = {row.n_paired}" if row.n_paired else row.method,
            row.note or "",
        ]
        for row in rows
    ]
    header = ["task", "metric", "model", "baseline", "value", "difference", "95 % interval", "p", "relative", "method"]
    return [[*header, "note"], *body]


def _key(row: ScoreRow) -> Key:
    return row.task, row.metric, row.rule


def _named(row: ScoreRow) -> str:
    return " ".join(part for part in _key(row) if part)


def _against(base: ScoreRow, other: ScoreRow, seed: int) -> ComparisonRow:
    if (base.unit, base.higher_is_better) != (other.unit, other.higher_is_better):
        raise DataError(f"{_named(base)}: the rows differ in unit or direction")
    estimate = _paired(base, other, seed) or _unpaired(base, other)
    difference = estimate.value - estimate.baseline
    notes = estimate.notes
    if estimate.baseline == 0:
        notes += ("the baseline is 0, so there is no relative change",)
    return ComparisonRow(
        task=base.task,
        metric=base.metric,
        rule=base.rule,
        unit=base.unit,
        baseline_model=base.model,
        model=other.model,
        baseline=estimate.baseline,
        value=estimate.value,
        difference=difference,
        ci95=estimate.ci95,
        p_value=estimate.p_value,
        n_paired=estimate.n_paired,
        method=estimate.method,
        relative=100 * difference / abs(estimate.baseline) if estimate.baseline else None,
        better=None if difference == 0 else (difference > 0) == base.higher_is_better,
        note="; ".join(notes) or None,
    )


def _unmatched(base: ScoreRow | None, other: ScoreRow | None) -> ComparisonRow:
    row = base or other
    assert row is not None
    return ComparisonRow(
        task=row.task,
        metric=row.metric,
        rule=row.rule,
        unit=row.unit,
        baseline_model=base.model if base else None,
        model=other.model if other else None,
        baseline=base.value if base else None,
        value=other.value if other else None,
        difference=None,
        ci95=None,
        p_value=None,
        n_paired=0,
        method=UNMATCHED,
        relative=None,
        better=None,
        note="only in the baseline" if base else "not in the baseline",
    )


def _paired(base: ScoreRow, other: ScoreRow, seed: int) -> _Estimate | None:
    """The paired bootstrap over common ids; None where there are none."""
    if base.samples is None or other.samples is None:
        return None
    before, after = _by_id(base), _by_id(other)
    common = sorted(before.keys() & after.keys())
    if not common:
        return None
    number = _cluster_by_id(base.samples)
    differences = [after[one] - before[one] for one in common]
    sums, counts = cluster_totals(differences, None if number is None else [number[one] for one in common])
    ci95, p_value = _paired_test(sums, counts, _largest_difference(base, other), seed=_seed(base, seed))
    notes = []
    if len(common) < len(before) or len(common) < len(after):
        notes.append(
            f"on the {len(common)} common ids; {len(before) - len(common)} only in the baseline and "
            f"{len(after) - len(common)} not in it were left out"
        )
    return _Estimate(
        baseline=math.fsum(before[one] for one in common) / len(common),
        value=math.fsum(after[one] for one in common) / len(common),
        ci95=ci95,
        p_value=p_value,
        n_paired=len(common),
        method=PAIRED,
        notes=tuple(notes),
    )


def _paired_test(
    sums: Sequence[float], counts: Sequence[int], largest: float, *, seed: int
) -> tuple[tuple[float, float], float]:
    """Interval and two-sided p of the mean difference, from the differences' sums and numbers by cluster.

    p is 2 (k + 1) / (resamples + 1), k resamples being on the other side of 0 or at it, at most 1. It is never below
    2^(1 - m), the least that a sign test of m differing clusters can reach: three pairs prove nothing.
    """
    means = bootstrap_means(sums, counts, resamples=PAIRED_RESAMPLES, seed=seed)
    lower, upper = bootstrap_interval(means)
    if math.isclose(lower, upper, rel_tol=1e-9, abs_tol=1e-9):
        lower, upper = constant_interval(math.fsum(sums) / sum(counts), len(sums), (-largest, largest))
    tolerance = 1e-9 * max(largest, 1.0)
    crossed = min(int((means <= tolerance).sum()), int((means >= -tolerance).sum()))
    bootstrapped = 2 * (crossed + 1) / (len(means) + 1)
    num_differing = sum(abs(total) > tolerance for total in sums)
    least = math.ldexp(1.0, 1 - num_differing)
    return (round(lower, 6), round(upper, 6)), min(1.0, max(bootstrapped, least))


def _unpaired(base: ScoreRow, other: ScoreRow) -> _Estimate:
    """The difference of two independent means from their intervals, and p from the same limits.

    Source: Newcombe 1998, method 10, which is for two Wilson intervals. Deviation: used for every interval.
    """
    notes: tuple[str, ...] = ()
    if base.samples is not None and other.samples is not None:
        notes = ("no id is on both sides",)
    if base.ci95 is None or other.ci95 is None:
        return _Estimate(base.value, other.value, None, None, 0, DIFFERENCE_ONLY, notes)
    difference = other.value - base.value
    below = math.hypot(other.value - other.ci95[0], base.ci95[1] - base.value)
    above = math.hypot(other.ci95[1] - other.value, base.value - base.ci95[0])
    # The limit on zero's side decides, so that p < .05 exactly where the interval leaves zero out.
    towards_zero = below if difference > 0 else above
    if difference == 0 or towards_zero == 0:
        p_value = 1.0 if difference == 0 else None
    else:
        p_value = math.erfc(Z95 * abs(difference) / towards_zero / math.sqrt(2))
    ci95 = (round(difference - below, 6), round(difference + above, 6))
    return _Estimate(base.value, other.value, ci95, p_value, 0, UNPAIRED, notes)


def _by_id(row: ScoreRow) -> dict[str, float]:
    assert row.samples is not None
    values = dict(zip(row.samples.ids, row.samples.values, strict=True))
    if len(values) != len(row.samples.ids):
        repeated = Counter(row.samples.ids).most_common(1)[0][0]
        raise DataError(f"{_named(row)}: samples.ids: {repeated!r} occurs more than once")
    return values


def _cluster_by_id(samples: Samples) -> dict[str, int] | None:
    return None if samples.clusters is None else dict(zip(samples.ids, samples.clusters, strict=True))


def _largest_difference(base: ScoreRow, other: ScoreRow) -> float:
    """The range of the metric, or of the values seen where the metric is not one of ours."""
    assert base.samples is not None and other.samples is not None
    known = METRICS.get(base.metric)
    low, high = known.range if known else (math.inf, -math.inf)
    return max(high, *base.samples.values, *other.samples.values) - min(
        low, *base.samples.values, *other.samples.values
    )


def _seed(row: ScoreRow, seed: int) -> int:
    return seeds.derive(seed, "\x1f".join(_key(row)), "evaluation.compare")
