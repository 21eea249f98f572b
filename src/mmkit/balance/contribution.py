"""Inter-task contribution and intra-task difficulty from the values of trained models.

Source: VisATB (Dai et al., WWW 2026), eqs. 3 to 6 and 10 to 12.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from mmkit.balance.cells import SHARED, Cell, Training, cell_name
from mmkit.balance.task_measure import Measured, TaskMeasure, deviation, mean
from mmkit.errors import DataError, UsageError

Form: TypeAlias = Literal["standard", "chat"]
"""Of C: "standard" with mini subsets that teach all instructions (eq. 3), "chat" from the base model (eq. 10)."""
Difficulty: TypeAlias = Literal["paper", "precise", "matched"]
"""Of D: "paper" from the models that C needs (eq. 6; eq. 11 in the chat form), "precise" from models of one task alone
(eq. 12), "matched" with the mini model trained for as many steps as the large one: steps do not count as data."""
OnFlat: TypeAlias = Literal["error", "clip", "drop"]
"""What is done about a flat denominator: see `contribution`."""

FORMS: tuple[Form, ...] = get_args(Form)
DIFFICULTIES: tuple[Difficulty, ...] = get_args(Difficulty)

_ROUNDING = 1e-9
_SHOWN = 3


class Terms(NamedTuple):
    """The trainings in C = (V(given_i) - V(start)) / (V(given_j) - V(start)) and D = 1 - V(little) / V(much)."""

    start: Training
    given: Training
    little: Training
    much: Training


def terms(form: Form, difficulty: Difficulty) -> Terms:
    """The trainings that C and D need. Raises UsageError for "matched" in the chat form: there is no mini of all."""
    if form == "chat":
        if difficulty == "matched":
            raise UsageError("--difficulty matched needs --form standard: the chat form trains no model on all minis")
        return Terms("base", "own-large", "own-mini", "own-large")
    if difficulty == "precise":
        return Terms("mini", "large", "own-mini", "own-large")
    return Terms("mini", "large", "matched" if difficulty == "matched" else "mini", "large")


Units: TypeAlias = Mapping[str, Sequence[str]]
"""The tasks of each group; without groups, each task of itself."""


def trainings(units: Iterable[str], form: Form, difficulty: Difficulty) -> list[tuple[Training, str | None]]:
    """Every training, with the task or group of `units` that it is of: those of no single one first, each once.

    The base model is among them in the chat form, though nobody trains it. Raises as `terms`.
    """
    kinds = dict.fromkeys(terms(form, difficulty))
    shared: list[tuple[Training, str | None]] = [(kind, None) for kind in kinds if kind in SHARED]
    return shared + [(kind, unit) for kind in kinds if kind not in SHARED for unit in units]


@dataclass(frozen=True, slots=True)
class PairContribution:
    """C of one task (or group) to another, one value a seed."""

    giver: str
    taker: str
    by_seed: tuple[float, ...]

    def to_wire(self) -> dict[str, Any]:
        """The JSON row: `from`, `to`, `C`, and over several seeds its `deviation`."""
        row = {"from": self.giver, "to": self.taker, "C": mean(self.by_seed)}
        return row if len(self.by_seed) == 1 else {**row, "deviation": deviation(self.by_seed)}


@dataclass(frozen=True, slots=True)
class Flat:
    """A denominator that cannot be divided by: of the validation task `task`, in its `quantity`.

    `by_seed` are its values, `noise` twice the standard error of their mean (None where nothing is known of it).
    """

    task: str
    quantity: Literal["C", "D"]
    by_seed: tuple[float, ...]
    noise: float | None

    def __str__(self) -> str:
        what = "what its own data add" if self.quantity == "C" else "what it reaches"
        values = ", ".join(f"{value:.4g}" for value in self.by_seed)
        if min(self.by_seed) <= 0:
            return f"{self.task}: {self.quantity} divides by {what}, which is not above 0: {values}"
        noise = "rounding" if self.noise is None else f"its noise of {self.noise:.4g}"
        return f"{self.task}: {self.quantity} divides by {what}, which is within {noise}: {values}"


@dataclass(frozen=True, slots=True)
class Contribution:
    """C of every pair, then C_out, C_in and D of every task (or group), which denominators were flat, and by which
    rule all were computed."""

    pairs: tuple[PairContribution, ...]
    tasks: tuple[TaskMeasure, ...]
    flat: tuple[Flat, ...]
    form: Form
    difficulty: Difficulty
    on_flat: OnFlat

    def to_wire(self) -> list[dict[str, Any]]:
        """The JSON rows, pairs first. They hold finite numbers alone; those of tasks also say by which rule."""
        return [*(pair.to_wire() for pair in self.pairs), *(task.to_wire() | self._rule(task) for task in self.tasks)]

    def _rule(self, task: TaskMeasure) -> dict[str, str]:
        rule: dict[str, str] = {"form": self.form, "difficulty": self.difficulty}
        return {**rule, "on_flat": self.on_flat} if task.flat else rule


def contribution(
    cells: Iterable[Cell],
    *,
    groups: Mapping[str, str] | None = None,
    form: Form = "standard",
    difficulty: Difficulty = "paper",
    on_flat: OnFlat = "error",
) -> Contribution:
    """C, C_out, C_in and D over seeds, of tasks or, with `groups` (the group of each task), of groups.

    In groups, trainings are of a group and C and D of a task; they are averaged within its group.

    A denominator, V_j(given_j) - V_j(start) of C and V_j(much) of D, is flat where it is not above 0 (or rounding) in
    any seed, or its mean over seeds not above twice its standard error (with one seed: by the cells' `error`).
    `on_flat` "error" raises DataError and names the tasks. "clip" bounds the task's C (or its D) to [-1, 1], and where
    the denominator is not above 0 takes what the ratio tends to as it falls to 0. "drop" leaves the task out: C_out is
    a mean over the other tasks, and C_in (or D) of the task itself becomes the mean of the others'.

    Raises DataError for missing and repeated cells, tasks that are trained on and not evaluated, a task with two
    metrics, and where nothing is left; UsageError as `terms`.

    Source: VisATB, eqs. 3 to 6, 10 to 12. Deviation: guards against flat denominators, "matched"; none without them.
    """
    table = _Table(cells)
    units = table.units(groups)
    use = terms(form, difficulty)
    table.require(_needed(units, form, difficulty))
    columns = {task: _Column.of(table, task, unit, list(units), use) for unit, tasks in units.items() for task in tasks}
    flat = [one for column in columns.values() for one in column.flat()]
    if flat and on_flat == "error":
        raise DataError(
            "\n".join([*map(str, flat), "--on-flat clip bounds C and D of such tasks, drop leaves them out"])
        )
    in_c, in_d = ({one.task for one in flat if one.quantity == quantity} for quantity in ("C", "D"))
    pairs = _pairs(units, columns, in_c, on_flat)
    measured = _measured(units, pairs, _difficulties(units, columns, in_d, on_flat))
    return Contribution(
        tuple(PairContribution(giver, taker, tuple(by_seed)) for (giver, taker), by_seed in pairs.items()),
        tuple(
            TaskMeasure.of_seeds(
                unit,
                measured[unit],
                () if groups is None else tasks,
                [task for task in tasks if task in in_c | in_d],
            )
            for unit, tasks in units.items()
        ),
        tuple(flat),
        form,
        difficulty,
        on_flat,
    )


BySeed: TypeAlias = Sequence[float]


def _needed(units: Units, form: Form, difficulty: Difficulty) -> Iterator[tuple[Training, str | None, str]]:
    """Training, what it is of, and evaluated task of every cell that C and D need."""
    use = terms(form, difficulty)
    for training, of in trainings(units, form, difficulty):
        for unit, tasks in units.items():
            if training in (use.start, use.given) or of in (None, unit):
                yield from ((training, of, task) for task in tasks)


class _Table:
    """The cells by what they are of. Raises DataError for a cell that comes twice, and for a task with two metrics."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self._cells: dict[tuple[Training, str | None, str, int], Cell] = {}
        metrics: dict[str, str] = {}
        for cell in cells:
            key = (cell.training, cell.of, cell.evaluated_on, cell.seed)
            if key in self._cells:
                raise DataError(f"{cell.name}: a second time")
            if metrics.setdefault(cell.evaluated_on, cell.metric) != cell.metric:
                raise DataError(f"{cell.name}: by {cell.metric}, other cells by {metrics[cell.evaluated_on]}")
            self._cells[key] = cell
        if not self._cells:
            raise DataError("there is no V row")
        self.tasks = list(metrics)
        self.seeds = sorted({cell.seed for cell in self._cells.values()})

    def units(self, groups: Mapping[str, str] | None) -> dict[str, list[str]]:
        """The evaluated tasks of each unit, in the order of the cells. Raises DataError for units without any."""
        if groups is not None and (absent := [task for task in self.tasks if task not in groups]):
            raise DataError(f"{_listed(absent)}: in no group")
        units: dict[str, list[str]] = {}
        for task in self.tasks:
            units.setdefault(task if groups is None else groups[task], []).append(task)
        trained = dict.fromkeys(cell.of for cell in self._cells.values() if cell.of is not None)
        if absent := [unit for unit in trained if unit not in units]:
            raise DataError(f"{_listed(absent)}: trained on and not evaluated")
        if groups is not None and (absent := [task for task in groups if task not in self.tasks]):
            raise DataError(f"{_listed(absent)}: in a group and not evaluated")
        if len(units) == 1:
            raise DataError(f"{next(iter(units))} is alone: contribution is between two at least")
        return units

    def require(self, cells: Iterable[tuple[Training, str | None, str]]) -> None:
        """Raise DataError, naming them, where cells (training, what it is of, evaluated task) are missing."""
        missing = [cell_name(*cell, seed) for cell in cells for seed in self.seeds if (*cell, seed) not in self._cells]
        if missing:
            raise DataError(f"missing: {_listed(missing)}")

    def values(self, training: Training, of: str | None, task: str) -> list[Cell]:
        """One cell a seed."""
        return [self._cells[training, None if training in SHARED else of, task, seed] for seed in self.seeds]


@dataclass(frozen=True, slots=True)
class _Column:
    """What C to a validation task and its D are made of, one value a seed."""

    task: str
    gains: Mapping[str, BySeed]
    """V(given) - V(start) of each unit's data."""
    own_gain: BySeed
    little: BySeed
    much: BySeed
    gain_noise: float | None
    reach_noise: float | None
    scale: float
    """The greatest magnitude of a V."""

    @classmethod
    def of(cls, table: _Table, task: str, unit: str, units: Sequence[str], use: Terms) -> _Column:
        start = table.values(use.start, None, task)
        given = {giver: table.values(use.given, giver, task) for giver in units}
        little, much = (table.values(training, unit, task) for training in (use.little, use.much))
        gains = {
            giver: [cell.value - first.value for cell, first in zip(cells, start, strict=True)]
            for giver, cells in given.items()
        }
        everything = (start, little, much, *given.values())
        return cls(
            task,
            gains,
            gains[unit],
            [cell.value for cell in little],
            [cell.value for cell in much],
            _noise(gains[unit], start, given[unit]),
            _noise([cell.value for cell in much], much),
            max(abs(cell.value) for cells in everything for cell in cells),
        )

    def flat(self) -> Iterator[Flat]:
        """What C or D would divide by, where it is flat."""
        if self._is_flat(self.own_gain, self.gain_noise):
            yield Flat(self.task, "C", tuple(self.own_gain), self.gain_noise)
        if self._is_flat(self.much, self.reach_noise):
            yield Flat(self.task, "D", tuple(self.much), self.reach_noise)

    def contribution_of(self, giver: str, *, clip: bool) -> list[float]:
        """C of a unit to the task (eq. 3)."""
        return _ratios(self.gains[giver], self.own_gain, clip=clip)

    def difficulty(self, *, clip: bool) -> list[float]:
        """D of the task: 1 - V(little) / V(much), as (V(much) - V(little)) / V(much) (eq. 6)."""
        gaps = [much - little for much, little in zip(self.much, self.little, strict=True)]
        return _ratios(gaps, self.much, clip=clip)

    def _is_flat(self, denominators: BySeed, noise: float | None) -> bool:
        least = _ROUNDING * self.scale
        return min(denominators) <= least or (noise is not None and mean(denominators) <= noise)


def _noise(values: BySeed, *cells: Sequence[Cell]) -> float | None:
    """Twice the standard error of the values' mean: over seeds, or of one seed from its cells' errors."""
    if len(values) > 1:
        return 2 * deviation(values) / math.sqrt(len(values))
    errors = [cell.error for [cell] in cells]
    return None if None in errors else 2 * math.hypot(*(error for error in errors if error is not None))


def _ratios(numerators: BySeed, denominators: BySeed, *, clip: bool) -> list[float]:
    return [
        _clipped(numerator, denominator) if clip else numerator / denominator
        for numerator, denominator in zip(numerators, denominators, strict=True)
    ]


def _clipped(numerator: float, denominator: float) -> float:
    """The ratio within [-1, 1]; by a denominator that is not above 0, what it tends to as that falls to 0."""
    if abs(numerator) < denominator:
        return numerator / denominator
    return float((numerator > 0) - (numerator < 0))


Pairs: TypeAlias = Mapping[tuple[str, str], BySeed]


def _pairs(units: Units, columns: Mapping[str, _Column], flat: Set[str], on_flat: OnFlat) -> Pairs:
    """C of each giver to each other taker that has a column left, averaged over the taker's tasks."""
    return {
        (giver, taker): _mean_by_seed([columns[task].contribution_of(giver, clip=task in flat) for task in tasks])
        for giver in units
        for taker, tasks in _kept(units, flat, on_flat).items()
        if giver != taker and tasks
    }


def _difficulties(
    units: Units, columns: Mapping[str, _Column], flat: Set[str], on_flat: OnFlat
) -> dict[str, list[float]]:
    """D of each unit, averaged over its tasks."""
    kept = _kept(units, flat, on_flat)
    return _or_neutral(
        {unit: [columns[task].difficulty(clip=task in flat) for task in tasks] for unit, tasks in kept.items()}, "D"
    )


def _kept(units: Units, flat: Set[str], on_flat: OnFlat) -> Units:
    """The tasks of each unit that are not left out."""
    return {unit: [task for task in tasks if on_flat != "drop" or task not in flat] for unit, tasks in units.items()}


def _measured(units: Units, pairs: Pairs, difficulties: Mapping[str, BySeed]) -> dict[str, list[Measured]]:
    """C_out, C_in and D of each unit, of each seed."""
    given = {unit: [by_seed for (giver, _), by_seed in pairs.items() if giver == unit] for unit in units}
    taken = {unit: [by_seed for (_, taker), by_seed in pairs.items() if taker == unit] for unit in units}
    c_out, c_in = _or_neutral(given, "C_out"), _or_neutral(taken, "C_in")
    return {unit: list(map(Measured, c_out[unit], c_in[unit], difficulties[unit])) for unit in units}


def _or_neutral(found: Mapping[str, Sequence[BySeed]], quantity: str) -> dict[str, list[float]]:
    """The mean of what was found for each unit; the mean of the other units' where that is nothing."""
    means = {unit: _mean_by_seed(values) for unit, values in found.items() if values}
    if not means:
        raise DataError(f"every task is flat: there is no {quantity} to weigh by")
    neutral = _mean_by_seed(list(means.values()))
    return {unit: means.get(unit, neutral) for unit in found}


def _mean_by_seed(values: Sequence[BySeed]) -> list[float]:
    return [mean(seed) for seed in zip(*values, strict=True)]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return "; ".join(names[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
