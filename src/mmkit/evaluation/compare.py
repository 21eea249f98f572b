"""Methods against a baseline: task by task, and over all tasks as ΔI%, ΔE% and ΔI_zero% (VisATB, eq. 9)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mmkit import seeds
from mmkit.errors import DataError, UsageError
from mmkit.evaluation.differences import difference
from mmkit.evaluation.improvement import Improvement, LeftOut, improvement, relative_change
from mmkit.evaluation.methods import Key, Method, Pair, Spread, named, pairs
from mmkit.tasks import benchmarks


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One method against the reference on one task, metric and rule.

    `reference` is the name of the baseline, on zero-shot tasks that of the zero-shot baseline. `baseline` and `value`
    (over seeds), `difference` (value minus baseline) and `ci95` are in `unit`. `difference` is None where the two
    cannot be compared, and `note` says why. `interval` and `test` say what made `ci95` and `p_value` (see
    `differences.difference`); where there are pairs, `n_paired` of them, all figures are of these. `relative` is the
    difference in percent of the baseline's magnitude, None where that is 0. `better` follows the metric's direction
    and is None where nothing differs.
    """

    task: str
    metric: str
    rule: str
    unit: str
    zero_shot: bool
    reference: str
    method: str
    baseline: Spread | None
    value: Spread | None
    difference: float | None = None
    ci95: tuple[float, float] | None = None
    interval: str | None = None
    p_value: float | None = None
    test: str | None = None
    n_paired: int = 0
    relative: float | None = None
    better: bool | None = None
    note: str | None = None

    def to_wire(self) -> dict[str, Any]:
        """The JSON row, its `kind` "task". A figure that there is not is null, and so is an sd of one seed."""
        return {
            "kind": "task",
            "task": self.task,
            "metric": self.metric,
            "rule": self.rule,
            "unit": self.unit,
            "zero_shot": self.zero_shot,
            "reference": self.reference,
            "method": self.method,
            **_wire("baseline", self.baseline),
            **_wire("value", self.value),
            "difference": self.difference,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "interval": self.interval,
            "p_value": self.p_value,
            "test": self.test,
            "n_paired": self.n_paired,
            "relative": self.relative,
            "better": self.better,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """One method over all tasks: ΔI% and ΔE% against the method `reference`, ΔI_zero% against `zero_reference`."""

    method: str
    num_seeds: int
    reference: str
    zero_reference: str
    fine_tuned: Improvement
    zero_shot: Improvement

    def to_wire(self) -> dict[str, Any]:
        """The JSON row, its `kind` "summary". A figure over no task is null, and so is an sd of one seed."""
        return {
            "kind": "summary",
            "method": self.method,
            "num_seeds": self.num_seeds,
            "reference": self.reference,
            **_wire("delta_i_percent", self.fine_tuned.delta_i),
            **_wire("delta_e_percent", self.fine_tuned.delta_e),
            "num_tasks": self.fine_tuned.num_tasks,
            "zero_reference": self.zero_reference,
            **_wire("delta_i_zero_percent", self.zero_shot.delta_i),
            "num_zero_shot": self.zero_shot.num_tasks,
            "left_out": [asdict(one) for one in self.left_out],
        }

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """What counts in none of the three, and why."""
        return self.fine_tuned.left_out + self.zero_shot.left_out


@dataclass(frozen=True, slots=True)
class Comparison:
    """The methods, the baseline first; `rows` of the others, method by method, and a summary of each method.

    `zero_shot` holds the tasks that are compared with `zero_baseline`.
    """

    methods: Sequence[Method]
    zero_baseline: Method
    zero_shot: Collection[str]
    rows: Sequence[ComparisonRow]
    summaries: Sequence[SummaryRow]

    def reference(self, task: str) -> Method:
        """The method that the others are compared with on a task."""
        return self.zero_baseline if task in self.zero_shot else self.methods[0]

    def to_wire(self) -> Iterator[dict[str, Any]]:
        """All rows as JSON rows, the summaries last."""
        yield from (row.to_wire() for row in self.rows)
        yield from (summary.to_wire() for summary in self.summaries)


def compare(
    baseline: Method,
    others: Sequence[Method],
    *,
    exclude: Collection[str] = (),
    zero_shot: Collection[str] = (),
    zero_baseline: str | None = None,
    seed: int = 0,
) -> Comparison:
    """Each of `others` against the baseline, row by row and over all tasks.

    Tasks of `exclude` count in no average. Those of `zero_shot` are compared with the method named `zero_baseline` (the
    baseline where None) and count in ΔI_zero% only, all others in ΔI% and ΔE%. A benchmark with an overall score among
    the tasks counts once, by that; its parts count in its place where it is excluded. The baseline, too, has a summary:
    of several seeds it shows what training anew alone makes of ΔI% and ΔE%. A method is not compared with itself row by
    row. `seed` is that of the bootstrap. The order of rows and of seeds changes no figure; two methods swapped have the
    same p-values, and differences and intervals of the other sign.

    Raises UsageError for a task or a method that is not there and for a name that two methods have; DataError for a
    method that shares no task and metric with what it is compared with, and for rows that differ in unit or direction.
    """
    methods = [baseline, *others]
    zero_reference = _named_method(methods, zero_baseline or baseline.name)
    tasks = list(dict.fromkeys(task for method in methods for task, _, _ in method.keys))
    _require_known(tasks, {"exclude": exclude, "zero-shot": zero_shot})
    wholes = _wholes(tasks)
    unseen = {task for task in tasks if task in zero_shot or wholes.get(task) in zero_shot}
    parts = {task: f"part of {whole}" for task, whole in wholes.items() if whole not in exclude}
    uncounted = parts | dict.fromkeys(exclude, "excluded")
    rows: list[ComparisonRow] = []
    summaries: list[SummaryRow] = []
    for method in methods:
        fine_tuned = [pair for pair in pairs(baseline, method) if pair.task not in unseen]
        zero = [pair for pair in pairs(zero_reference, method) if pair.task in unseen]
        if method is not baseline:
            _require_common(method, [baseline, zero_reference], [*fine_tuned, *zero])
            rows += [_row(pair, baseline, method, False, seed) for pair in fine_tuned]
            rows += [_row(pair, zero_reference, method, True, seed) for pair in zero if method is not zero_reference]
        summaries.append(
            SummaryRow(
                method=method.name,
                num_seeds=len(method.seeds),
                reference=baseline.name,
                zero_reference=zero_reference.name,
                fine_tuned=improvement(fine_tuned, uncounted=uncounted),
                zero_shot=improvement(zero, uncounted=uncounted),
            )
        )
    return Comparison(methods, zero_reference, unseen, rows, summaries)


def _row(pair: Pair, reference: Method, method: Method, zero_shot: bool, seed: int) -> ComparisonRow:
    key = (pair.task, pair.metric, pair.rule)
    first = (*pair.before, *pair.after)[0]
    before, after = (Spread.of([row.value for row in rows]) if rows else None for rows in (pair.before, pair.after))
    row = ComparisonRow(
        *key,
        unit=first.unit,
        zero_shot=zero_shot,
        reference=reference.name,
        method=method.name,
        baseline=before,
        value=after,
        note=pair.problem,
    )
    if pair.problem is not None:
        return row
    found = difference(pair.before, pair.after, seed=seeds.derive(seed, "\x1f".join(key), "evaluation.compare"))
    means, notes = (found.before.mean, found.after.mean), found.notes
    if means[0] == 0:
        notes += ("the baseline is 0, so there is no relative change",)
    return replace(
        row,
        baseline=found.before,
        value=found.after,
        difference=found.value,
        ci95=found.ci95,
        interval=found.interval,
        p_value=found.p_value,
        test=found.test,
        n_paired=found.n_paired,
        relative=relative_change(*means, higher_is_better=True) if means[0] else None,
        better=None if found.value == 0 else (found.value > 0) == first.higher_is_better,
        note="; ".join(notes) or None,
    )


def _wholes(tasks: Collection[str]) -> Mapping[str, str]:
    """The benchmark that each part belongs to, of those whose overall score is among the tasks."""
    return {
        part: name
        for name in benchmarks.names()
        if name in tasks and benchmarks.benchmark(name).overall is not None
        for part in benchmarks.benchmark(name).tasks
        if part != name
    }


def _named_method(methods: Sequence[Method], name: str) -> Method:
    names = [method.name for method in methods]
    for one in names:
        if names.count(one) > 1:
            raise UsageError(f"two methods are named {one}; name them apart: NAME=FILE")
    if name not in names:
        raise UsageError(f"--zero-baseline {name}: no method of that name; there are: {', '.join(names)}")
    return methods[names.index(name)]


def _require_known(tasks: Sequence[str], wanted: Mapping[str, Collection[str]]) -> None:
    for option, named_tasks in wanted.items():
        for task in named_tasks:
            if task not in tasks:
                raise UsageError(f"--{option} {task}: no such task in the scores; there are: {', '.join(tasks)}")


def _require_common(method: Method, references: Sequence[Method], found: Sequence[Pair]) -> None:
    """Raise DataError where a method meets its references nowhere: most likely a wrong file."""
    if any(pair.before and pair.after for pair in found):
        return
    names = " and ".join(dict.fromkeys(reference.name for reference in references))
    keys = list(dict.fromkeys(key for reference in references for key in reference.keys))
    raise DataError(
        f"{method.name} has no task and metric in common with {names}\n"
        f"{method.name}: {_shown(method.keys)}\n{names}: {_shown(keys)}"
    )


def _shown(keys: Sequence[Key], most: int = 5) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(named(key) for key in keys[:most]) + more


def _wire(name: str, spread: Spread | None) -> dict[str, float | None]:
    return {name: None, f"{name}_sd": None} if spread is None else {name: spread.mean, f"{name}_sd": spread.sd}
