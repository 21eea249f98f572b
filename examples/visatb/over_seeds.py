"""The recipe over several seeds: each seed's figures, means with Student's intervals, and what differs from EW."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev

from results import BASELINE, EQUAL, LABELS, Results, number, table

_RELATED = ("containing", "contained")
"""The planted kinds of tasks that share knowledge; all others share none."""


class Seeds:
    """Working directories of the same recipe, each of another seed: other data, base model and trainings.

    Raises SystemExit where two have the same seed, or other tasks than the first, or one has no EW to compare with.
    """

    def __init__(self, results: Sequence[Results]) -> None:
        self.results, self.seeds = results, [one.seed for one in results]
        self.tasks, self.planted = results[0].tasks, results[0].planted
        for one, seed in zip(results, self.seeds, strict=True):
            if self.seeds.count(seed) > 1:
                raise SystemExit(f"{one.here}: seed {seed} is given twice")
            if {*one.tasks} != {*self.tasks}:
                raise SystemExit(f"{one.here}: other tasks than in {results[0].here}")
            if EQUAL not in one.scores:
                raise SystemExit(f"{one.here}: no scores of {LABELS[EQUAL]}, with which all others are compared")
        self.methods = [name for name in LABELS if all(name in one.scores for one in results)]
        self.others = [name for name in self.methods if name not in (BASELINE, EQUAL)]
        self.weighed = [name for name in LABELS if all(name in one.weighed for one in results)]

    def tables(self) -> list[list[str]]:
        """ΔI%, ΔE% and scores, each also less those of EW; C_out and the kinds of D."""
        averages = [self.averages(kind, is_less) for kind in ("ΔI%", "ΔE%") for is_less in (False, True)]
        scores = [self.scores(is_less) for is_less in (False, True)]
        measures = [self.measures(name, "D") for name in self.weighed]
        if self.weighed:  # C does not depend on how difficulty is measured
            measures.insert(0, [*self.measures(self.weighed[0], "C_out"), *self.shared_knowledge()])
        return [self.what(), *averages, *scores, *measures]

    def what(self) -> list[str]:
        """What the numbers are, and what is missing."""
        count = len(self.seeds)
        lines = [
            f"{count} seeds ({', '.join(map(str, self.seeds))}): means, and ± half a 95 % interval over seeds "
            f"(Student's t, {count - 1} degrees of freedom), of each line by itself"
        ]
        scored = {name for one in self.results for name in one.scores}
        if names := [label for name, label in LABELS.items() if name in scored and name not in self.methods]:
            lines.append(f"Not in all directories, and left out: {', '.join(names)}")
        told = ((seed, line) for seed, one in zip(self.seeds, self.results, strict=True) for line in one.left_out())
        return [*lines, *(f"Seed {seed}: {line[0].lower()}{line[1:]}" for seed, line in told)]

    def averages(self, kind: str, is_less: bool) -> list[str]:
        """ΔI% or ΔE% of each method, or what is left of it without EW's, seed by seed; then with a verdict: whether
        the interval leaves 0 out, and on which side."""
        lines = [["", *self._columns(), *["than EW"] * is_less]]
        for name in self.others if is_less else self.methods[1:]:
            values = [_less_equal(one, name, kind) if is_less else one.average(name, kind) for one in self.results]
            verdict = [_verdict(values, more_is_better=kind == "ΔI%")] * is_less
            lines.append([LABELS[name], *_cells(values, "+" * is_less), *verdict])
        return table(f"{kind} less that of EW, seed by seed" if is_less else f"{kind} against STL", lines)

    def scores(self, is_less: bool) -> list[str]:
        """The mean score of each method (a line) on each task (a column), or what is left of it without EW's."""
        lines = [["", *self.tasks]]
        for name in self.others if is_less else self.methods:
            found = [self._score(name, task, is_less) for task in self.tasks]
            lines += [[LABELS[name], *(mean for mean, _ in found)], ["±", *(half for _, half in found)]]
        return table("Scores by task less those of EW, seed by seed" if is_less else "Scores by task", lines)

    def _score(self, method: str, task: str, is_less: bool) -> list[str]:
        """The mean and half its interval."""
        values = [one.value(method, task) for one in self.results]
        equal = [one.value(EQUAL, task) if is_less else 0.0 for one in self.results]
        pairs = zip(values, equal, strict=True)
        return _cells([None if None in pair else pair[0] - pair[1] for pair in pairs], "+" * is_less)[-2:]

    def measures(self, method: str, field: str) -> list[str]:
        """C_out or D, a line each task, a column each seed; * is the highest of its seed."""
        found = [{task: row[field] for task, row in one.measures(method).items()} for one in self.results]
        highest = [max(values, key=values.__getitem__) for values in found]
        lines = [["", *(f"{column} " for column in self._columns()), *["planted"] * bool(self.planted)]]
        for task in found[0]:
            cells = zip(_cells([values[task] for values in found]), [*highest, None, None], strict=True)
            marked = [cell + ("*" if top == task else " ") for cell, top in cells]
            lines.append([task, *marked, *[self.planted.get(task, "")] * bool(self.planted)])
        counts = ", ".join(f"{task} in {count} of {len(found)} seeds" for task, count in Counter(highest).most_common())
        flat = ((seed, line) for seed, one in zip(self.seeds, self.results, strict=True) for line in one.flat(method))
        return [
            *table(f"{field}, {LABELS[method]}; * is the highest of its seed", lines),
            *(f"seed {seed}: {line}" for seed, line in flat),
            f"highest: {counts}",
        ]

    def shared_knowledge(self) -> list[str]:
        """In how many seeds tasks that contain others have a higher C_out than those that share nothing."""
        containing = [task for task, kind in self.planted.items() if kind == "containing"]
        unrelated = [task for task, kind in self.planted.items() if kind not in _RELATED]
        if not (containing and unrelated):
            return []
        found = [{task: row["C_out"] for task, row in one.measures(self.weighed[0]).items()} for one in self.results]
        above = [min(map(rows.__getitem__, containing)) > max(map(rows.__getitem__, unrelated)) for rows in found]
        return [f"{', '.join(containing)} above {', '.join(unrelated)}: in {sum(above)} of {len(above)} seeds"]

    def _columns(self) -> list[str]:
        return [*(f"seed {seed}" for seed in self.seeds), "mean", "±"]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean of two values or more, and half its 95 % interval by Student's t with n - 1 degrees of freedom."""
    from scipy.special import stdtrit

    return fmean(values), float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / math.sqrt(len(values))


def _less_equal(one: Results, method: str, kind: str) -> float | None:
    """A method's average less that of EW; None where they are not over the same tasks."""
    value, equal = one.average(method, kind), one.average(EQUAL, kind)
    if value is None or equal is None or one.uncounted(method) != one.uncounted(EQUAL):
        return None
    return value - equal


def _interval(values: Iterable[float | None]) -> tuple[float, float] | None:
    """None where a value is missing."""
    known = []
    for value in values:
        if value is None:
            return None
        known.append(value)
    return interval(known)


def _cells(values: Sequence[float | None], sign: str = "") -> list[str]:
    """Each value, their mean and half its interval."""
    mean, half = _interval(values) or (None, None)
    return [*(number(value, sign) for value in values), number(mean, sign), number(half)]


def _verdict(values: Sequence[float | None], *, more_is_better: bool) -> str:
    found = _interval(values)
    if found is None:
        return "unknown"
    mean, half = found
    if abs(mean) <= half:
        return "no difference shown"
    return "better" if (mean > 0) == more_is_better else "worse"
