"""A comparison as text for a terminal: lists of rows of cells, the header first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mmkit.evaluation.compare import Comparison, ComparisonRow, SummaryRow
from mmkit.evaluation.improvement import Improvement
from mmkit.evaluation.methods import Key, Method, Spread, named

Table: TypeAlias = list[list[str]]
BEST, BETTER = "*", "+"


@dataclass(frozen=True, slots=True)
class _Average:
    """One of the averages over tasks: which method it is against, and where it is in a summary."""

    name: str
    higher_is_better: bool
    reference: Callable[[SummaryRow], str]
    over: Callable[[SummaryRow], Improvement]
    of: Callable[[Improvement], Spread | None]


_AVERAGES = (
    _Average("ΔI%", True, lambda row: row.reference, lambda row: row.fine_tuned, lambda tasks: tasks.delta_i),
    _Average("ΔE%", False, lambda row: row.reference, lambda row: row.fine_tuned, lambda tasks: tasks.delta_e),
    _Average("ΔI_zero%", True, lambda row: row.zero_reference, lambda row: row.zero_shot, lambda tasks: tasks.delta_i),
)


def tables(comparison: Comparison) -> list[Table]:
    """What a person should see: with one method beside the baseline the details, with more of them a column each."""
    if len(comparison.methods) > 2:
        found = [by_method(comparison)]
        notes = [_legend(comparison)]
    else:
        found = [details(comparison), overall(comparison)]
        notes = _row_notes(comparison)
    notes += _left_out_notes(comparison)
    return [*found, [["notes"], *([note] for note in notes)]] if notes else found


def details(comparison: Comparison) -> Table:
    """A line a row of the one method beside the baseline, with its interval, its p-value, and what made them."""
    both = _headers(comparison.methods)
    header = ["task", "metric", *both, "difference", "95 % interval", "p", "relative", "test"]
    return [header, *(_detail(row) for row in comparison.rows)]


def overall(comparison: Comparison) -> Table:
    """A line a method with its averages over tasks."""
    cells = [_average_cells(average, comparison.summaries) for average in _AVERAGES]
    lines = [list(line) for line in zip(_headers(comparison.methods), *cells, strict=True)]
    return [["method", *(average.name for average in _AVERAGES)], *lines]


def by_method(comparison: Comparison) -> Table:
    """A line a task and metric, a column a method, the baseline first; the averages over tasks are the last lines.

    The best of a line is marked, and what is better than the baseline (on zero-shot tasks: the zero-shot baseline).
    """
    methods = comparison.methods
    keys = dict.fromkeys(key for method in methods for key in method.keys)
    lines = [[key[0], _metric(key), *_value_cells(key, comparison)] for key in keys]
    averages = [[average.name, "", *_average_cells(average, comparison.summaries)] for average in _AVERAGES]
    return [["task", "metric", *_headers(methods)], *lines, *(line for line in averages if any(line[1:]))]


def _detail(row: ComparisonRow) -> list[str]:
    decimals = _decimals([side.mean for side in (row.baseline, row.value) if side is not None])
    return [
        row.task,
        _metric((row.task, row.metric, row.rule)),
        _number(row.baseline, decimals),
        _number(row.value, decimals),
        "" if row.difference is None else f"{row.difference:+z.{decimals}f}",
        "" if row.ci95 is None else f"{row.ci95[0]:+z.{decimals}f} to {row.ci95[1]:+z.{decimals}f}",
        "" if row.p_value is None else f"{row.p_value:.2g}",
        "" if row.relative is None else f"{row.relative:+z.1f} %",
        _test(row),
    ]


def _test(row: ComparisonRow) -> str:
    made_by = row.test or row.interval or ""
    return f"{made_by}, n = {row.n_paired}" if row.n_paired else made_by


def _headers(methods: Sequence[Method]) -> list[str]:
    return [
        f"{method.name} ({len(method.seeds)} seeds)" if len(method.seeds) > 1 else method.name for method in methods
    ]


def _value_cells(key: Key, comparison: Comparison) -> list[str]:
    rows = [method.rows(key) for method in comparison.methods]
    spreads = [Spread.of([row.value for row in each]) if each else None for each in rows]
    higher_is_better = next(row.higher_is_better for each in rows for row in each)
    reference = spreads[comparison.methods.index(comparison.reference(key[0]))]
    means = [None if spread is None else spread.mean for spread in spreads]
    best, decimals = _best(means, higher_is_better), _decimals(means)
    return [
        _number(spread, decimals)
        + _marks(
            i in best,
            spread is not None
            and reference is not None
            and spread.mean != reference.mean
            and (spread.mean > reference.mean) == higher_is_better,
        )
        for i, spread in enumerate(spreads)
    ]


def _average_cells(average: _Average, summaries: Sequence[SummaryRow]) -> list[str]:
    """A cell a method. The best is marked among those compared, and only where all of them have the same tasks."""
    tasks = [average.over(summary) for summary in summaries]
    figures = [average.of(one) for one in tasks]
    compared = [
        None if figure is None or average.reference(summary) == summary.method else figure.mean
        for figure, summary in zip(figures, summaries, strict=True)
    ]
    numbers = {one.num_tasks for one, mean in zip(tasks, compared, strict=True) if mean is not None}
    best = _best(compared, average.higher_is_better) if len(numbers) == 1 else set()
    return [
        _number(figure, 2)
        + _marks(i in best, False)
        + (f" ({one.num_tasks} tasks)" if len(numbers) > 1 and compared[i] is not None else "")
        for i, (figure, one) in enumerate(zip(figures, tasks, strict=True))
    ]


def _best(means: Sequence[float | None], higher_is_better: bool) -> set[int]:
    """The places of the best, none where all are equal or there is one alone."""
    known = [mean for mean in means if mean is not None]
    if len(set(known)) < 2:
        return set()
    best = max(known) if higher_is_better else min(known)
    return {i for i, mean in enumerate(means) if mean == best}


def _marks(best: bool, better: bool) -> str:
    return BEST * best + BETTER * better


def _metric(key: Key) -> str:
    _, metric, rule = key
    return f"{metric} ({rule})" if rule else metric


def _decimals(values: Sequence[float | None]) -> int:
    """As many as give the largest four significant digits; two at least, as tables print, and six at most."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    return min(max(3 - math.floor(math.log10(largest)), 2), 6) if largest else 2


def _number(spread: Spread | None, decimals: int) -> str:
    if spread is None:
        return ""
    return f"{spread.mean:z.{decimals}f}" + ("" if spread.sd is None else f" ± {spread.sd:.{decimals}f}")


def _legend(comparison: Comparison) -> str:
    baseline, other = comparison.methods[0].name, comparison.zero_baseline.name
    zero_shot = f", on zero-shot tasks than {other}" if comparison.zero_shot and other != baseline else ""
    return f"{BEST} best of the line, {BETTER} better than {baseline}{zero_shot}"


def _row_notes(comparison: Comparison) -> list[str]:
    """The rows' notes, a line each with the rows that have it; without those that the averages' notes repeat."""
    said = {one.reason for summary in comparison.summaries for one in summary.left_out}
    rows: dict[str, list[str]] = {}
    for row in comparison.rows:
        if row.note is not None and row.note not in said:
            rows.setdefault(row.note, []).append(named((row.task, row.metric, row.rule)))
    return [f"{', '.join(names)}: {note}" for note, names in rows.items()]


def _left_out_notes(comparison: Comparison) -> list[str]:
    """What does not count in the averages, a line a reason."""
    methods: dict[tuple[str, str], list[str]] = {}
    for summary in comparison.summaries:
        what: dict[str, list[str]] = {}
        for one in summary.left_out:
            what.setdefault(one.reason, []).append(named((one.task, one.metric or "", one.rule or "")))
        for reason, left_out in what.items():
            methods.setdefault((reason, ", ".join(left_out)), []).append(summary.method)
    return [
        f"not in the averages of {', '.join(names)}: {left_out} ({reason})"
        for (reason, left_out), names in methods.items()
    ]
