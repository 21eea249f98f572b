"""How much a method gains and loses over tasks: ΔI%, ΔE% and ΔI_zero% of VisATB (eq. 9)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from mmkit.evaluation.methods import Pair, Spread


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What does not count in an average, and why. `metric` is None where the whole task does not."""

    task: str
    metric: str | None
    rule: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Improvement:
    """ΔI% and ΔE% over `num_tasks` tasks, over seeds; None where no task counts."""

    delta_i: Spread | None
    delta_e: Spread | None
    num_tasks: int
    left_out: tuple[LeftOut, ...]


def relative_change(baseline: float, value: float, *, higher_is_better: bool) -> float:
    """By how many percent of the baseline a value is better (above 0) or worse (below).

    Raises ZeroDivisionError where the baseline is 0. Source: VisATB, eq. 9, the summand of I_i. Deviation: divided by
    the baseline's magnitude, so that of a negative baseline, too, what is better counts as better.
    """
    change = 100 * (value - baseline) / abs(baseline)
    return change if higher_is_better else -change


def average(improvements: Sequence[float]) -> tuple[float, float]:
    """ΔI% and ΔE% from each task's I_i, in percent: the flat mean of I_i, and that of the losses, max(0, -I_i).

    Source: VisATB, eq. 9. Deviation: none.
    """
    count = len(improvements)
    return math.fsum(improvements) / count, math.fsum(max(0.0, -one) for one in improvements) / count


def improvement(pairs: Iterable[Pair], *, uncounted: Mapping[str, str] = MappingProxyType({})) -> Improvement:
    """ΔI% and ΔE% of a method against a reference, from their rows side by side (see `methods.pairs`).

    Each row of a task counts as one of its metrics: I_i is their mean. A metric does not count where the two sides
    cannot be compared or where the reference is 0; a task does not where none of its metrics does, or where it is in
    `uncounted`, which holds reasons by task. All that is named in `left_out`.

    Of several seeds each gives a ΔI% and a ΔE%, always against the mean of the reference's seeds: which of its seeds
    belongs to which of the reference's would be arbitrary. So the spread is that of the method alone, and the
    reference against itself has a ΔI% of 0 with its own spread.
    """
    by_task: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_task.setdefault(pair.task, []).append(pair)
    left_out: list[LeftOut] = []
    by_seed: list[Sequence[float]] = []
    for task, metrics in by_task.items():
        problems = [uncounted.get(task) or _problem(pair) for pair in metrics]
        usable = [pair for pair, problem in zip(metrics, problems, strict=True) if problem is None]
        if usable:
            by_seed.append(_of_task(usable))
            left_out += [
                LeftOut(task, pair.metric, pair.rule, problem)
                for pair, problem in zip(metrics, problems, strict=True)
                if problem is not None
            ]
        else:
            left_out.append(LeftOut(task, None, None, "; ".join(dict.fromkeys(filter(None, problems)))))
    if not by_seed:
        return Improvement(None, None, 0, tuple(left_out))
    averages = [average(improvements) for improvements in zip(*by_seed, strict=True)]
    gains, losses = zip(*averages, strict=True)
    return Improvement(Spread.of(gains), Spread.of(losses), len(by_seed), tuple(left_out))


def _problem(pair: Pair) -> str | None:
    if pair.problem is None and _reference(pair) == 0:
        return "the baseline is 0"
    return pair.problem


def _reference(pair: Pair) -> float:
    return Spread.of([row.value for row in pair.before]).mean


def _of_task(metrics: Sequence[Pair]) -> list[float]:
    """I_i of each seed, in percent."""
    changes = [
        [
            relative_change(_reference(pair), row.value, higher_is_better=pair.before[0].higher_is_better)
            for row in pair.after
        ]
        for pair in metrics
    ]
    return [math.fsum(seed) / len(seed) for seed in zip(*changes, strict=True)]
