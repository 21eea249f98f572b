"""Task weights from contributions and difficulties, or from sizes.

Source: VisATB (Dai et al., WWW 2026), sections 2.2 to 2.4. Deviation: none; a temperature that is found (`auto`)
instead of given, and intervals, are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

from mmkit.balance.task_measure import Measured, TaskMeasure, deviation
from mmkit.errors import DataError, UsageError

TEMPERATURE = 0.5
"""The paper's for its Academic and Chat benchmarks; 1 for M3IT's groups (section 3.1)."""

LEAST, GREATEST = 0.5, 2.0
"""Between which the paper advises to keep final weights (section 3.5, temperatures)."""

BySize: TypeAlias = Literal["equal", "size", "sqrt-size", "tokens"]
"""Weights without C and D: the same for all, by rows, by their square root, by the inverse of loss tokens."""

_STEP = 0.999
_FLOOR = 1e-6
_EQUAL = 1e-9
_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t at .975 for 1 to 9 degrees of freedom; the last for more too, which makes intervals a little wide."""


@dataclass(frozen=True, slots=True)
class Alphas:
    """The shares of the three parts in eq. 8. Raises UsageError unless none is negative and they sum to 1."""

    out: float = 0.25
    inward: float = 0.25
    difficulty: float = 0.5

    def __post_init__(self) -> None:
        shares = (self.out, self.inward, self.difficulty)
        if not all(0 <= share <= 1 for share in shares) or not math.isclose(sum(shares), 1, abs_tol=1e-9):
            raise UsageError(f"--alpha: expected three shares that sum to 1, got {' '.join(f'{s:g}' for s in shares)}")


class Parts(NamedTuple):
    """λ_out, λ_in and λ_D of a task (eqs. 4, 5 and 7)."""

    out: float
    inward: float
    difficulty: float


@dataclass(frozen=True, slots=True)
class TaskWeight:
    """A task's final weight, and what is known of it.

    `parts` are the three that it is made of, None for weights by size. `ci95` is its 95 % interval over seeds, None
    where there is one seed. `group` is the group whose weight it is. `fixed` says that somebody set it.
    """

    task: str
    weight: float
    parts: Parts | None = None
    ci95: tuple[float, float] | None = None
    group: str | None = None
    fixed: bool = False

    def to_wire(self) -> dict[str, Any]:
        """The row that `finetune --weights` and `mix --weights` read."""
        row: dict[str, Any] = {"task": self.task, "weight": self.weight}
        if self.group is not None:
            row["group"] = self.group
        if self.parts is not None:
            row |= {"out": self.parts.out, "in": self.parts.inward, "difficulty": self.parts.difficulty}
        if self.ci95 is not None:
            row["ci95"] = list(self.ci95)
        return {**row, "fixed": True} if self.fixed else row


def visatb(
    measures: Sequence[TaskMeasure], *, temperature: float = TEMPERATURE, alphas: Alphas = Alphas()
) -> list[TaskWeight]:
    """The weights of eq. 8, in the order of `measures`: more for tasks that give much, receive little and are hard.

    Where there are several seeds, `ci95` is the weight ± t times the standard error of what each seed's own C and D
    would give at the same temperature, within [0, N].

    Source: eqs. 4, 5, 7 and 8. Deviation: none. Raises UsageError for a temperature that is not above 0, DataError
    where there is no task, one twice, or tasks with different numbers of seeds.
    """
    if not 0 < temperature < math.inf:
        raise UsageError(f"--temperature: expected a number above 0, got {temperature:g}")
    if not measures:
        raise DataError("there is no task to weigh")
    _require_distinct([measure.task for measure in measures])
    parts = _parts([measure.measured for measure in measures], temperature)
    weights = [
        TaskWeight(measure.task, _mixed(part, alphas), part) for measure, part in zip(measures, parts, strict=True)
    ]
    by_seed = [
        [_mixed(part, alphas) for part in _parts([measure.by_seed[seed] for measure in measures], temperature)]
        for seed in range(_num_seeds(measures))
    ]
    if not by_seed:
        return weights
    return [
        replace(weight, ci95=_interval(weight.weight, values, len(measures)))
        for weight, values in zip(weights, zip(*by_seed, strict=True), strict=True)
    ]


def lowest_temperature(measures: Sequence[TaskMeasure], *, alphas: Alphas = Alphas()) -> float:
    """The temperature down to which all final weights of one task or more stay within [0.5, 2.0], to a relative 1e-6.

    From a temperature above which they cannot leave it (the widest range of a measure over log 2) it goes down until
    one does: weights of mixed parts need not move one way. Where none ever does there is no lowest, and it is the
    paper's own: as for tasks that are equal in C and D, or two of which neither leads in more than 3/4 of the shares.
    """
    columns = zip(*(measure.measured for measure in measures), strict=True)
    above: float = max(max(values) - min(values) for values in columns) / math.log(GREATEST)
    if above < _EQUAL:
        return TEMPERATURE

    def is_within(temperature: float) -> bool:
        parts = _parts([measure.measured for measure in measures], temperature)
        return not any(is_outside(_mixed(part, alphas)) for part in parts)

    floor = above * _FLOOR
    below = above
    while is_within(below):
        above, below = below, below * _STEP
        if below < floor:
            return max(TEMPERATURE, floor)
    return _last_within(is_within, below, above)


def is_outside(weight: float) -> bool:
    """Whether the paper advises against so small or so great a final weight."""
    return not LEAST <= weight <= GREATEST


def by_size(amounts: Mapping[str, float], strategy: BySize) -> list[TaskWeight]:
    """Weights that sum to the number of tasks, from the rows of each, or its loss tokens for "tokens".

    "tokens" is what averaging the mean losses of the tasks (TLA) implies: λ_i T_i is the same for all in eq. 2. Raises
    DataError where an amount is not above 0.
    """
    if empty := next((task for task, amount in amounts.items() if not 0 < amount < math.inf), None):
        raise DataError(f"task {empty!r}: expected a size above 0, got {amounts[empty]!r}")
    share_of: Mapping[BySize, Callable[[float], float]] = {
        "equal": lambda amount: 1.0,
        "size": float,
        "sqrt-size": math.sqrt,
        "tokens": lambda amount: 1 / amount,
    }
    shares = [share_of[strategy](amount) for amount in amounts.values()]
    total = math.fsum(shares)
    return [TaskWeight(task, len(shares) * share / total) for task, share in zip(amounts, shares, strict=True)]


Members: TypeAlias = Mapping[str, Sequence[str]]
"""The tasks of each group; of a task, itself."""


def fixed_tasks(named: Iterable[tuple[str, float]], members: Members) -> dict[str, float]:
    """The weight of each task that somebody set, by its own name or its group's; what names both is the task.

    Raises UsageError where a task gets two.
    """
    tasks = {task for own in members.values() for task in own}
    weights: dict[str, float] = {}
    for name, weight in named:
        for task in (name,) if name in tasks else members.get(name, (name,)):
            if task in weights:
                raise UsageError(f"--fixed: task {task!r} a second time")
            weights[task] = weight
    return weights


def counted(members: Members, fixed: Collection[str]) -> list[str]:
    """The tasks and groups that share out the weights: those with a task that is not fixed.

    Source: VisATB's Academic benchmark, whose text-only set ShareGPT has weight 1 and is not counted in N.
    """
    return [name for name, own in members.items() if not set(own) <= set(fixed)]


def of_each_task(weights: Iterable[TaskWeight], members: Members, fixed: Mapping[str, float]) -> list[TaskWeight]:
    """A weight for each task: a group's for each of its `members`, and the `fixed` ones, last, in place of any other.

    Raises DataError where a task would get two.
    """
    group_of = {task: name for name, own in members.items() for task in own if list(own) != [name]}
    spread = [
        replace(weight, task=task, group=group_of.get(task)) for weight in weights for task in members[weight.task]
    ]
    _require_distinct([weight.task for weight in spread])
    set_by_hand = [TaskWeight(task, weight, group=group_of.get(task), fixed=True) for task, weight in fixed.items()]
    return [weight for weight in spread if weight.task not in fixed] + set_by_hand


def _require_distinct(tasks: Sequence[str]) -> None:
    """Raise DataError where one comes twice."""
    seen: set[str] = set()
    for task in tasks:
        if task in seen:
            raise DataError(f"task {task!r} a second time")
        seen.add(task)


def table(weights: Sequence[TaskWeight]) -> list[list[str]]:
    """The weights for a terminal, header first."""
    header = ["task", "group", "weight", "95 %", "out", "in", "difficulty", ""]
    return [header, *map(_table_row, weights)]


def _table_row(weight: TaskWeight) -> list[str]:
    interval = "" if weight.ci95 is None else " to ".join(f"{bound:.2f}" for bound in weight.ci95)
    parts = [""] * 3 if weight.parts is None else [f"{part:.4f}" for part in weight.parts]
    return [weight.task, weight.group or "", f"{weight.weight:.4f}", interval, *parts, "fixed" * weight.fixed]


def _parts(measured: Sequence[Measured], temperature: float) -> list[Parts]:
    """N softmax(C_out / T), N softmax(-C_in / T) and N softmax(D / T)."""
    c_out, c_in, difficulty = zip(*measured, strict=True)
    columns = (c_out, [-value for value in c_in], difficulty)
    return [Parts(*row) for row in zip(*(_softmax_weights(values, temperature) for values in columns), strict=True)]


def _softmax_weights(values: Sequence[float], temperature: float) -> list[float]:
    """N softmax(values / T): weights that sum to the number of values."""
    top = max(values)
    shares = [math.exp((value - top) / temperature) for value in values]
    total = math.fsum(shares)
    return [len(values) * share / total for share in shares]


def _mixed(parts: Parts, alphas: Alphas) -> float:
    return alphas.out * parts.out + alphas.inward * parts.inward + alphas.difficulty * parts.difficulty


def _num_seeds(measures: Sequence[TaskMeasure]) -> int:
    first, *others = measures
    for other in others:
        if len(other.by_seed) != len(first.by_seed):
            counts = f"{max(1, len(first.by_seed))} for {first.task!r}, {max(1, len(other.by_seed))} for {other.task!r}"
            raise DataError(f"by_seed: tasks have different numbers of seeds: {counts}")
    return len(first.by_seed)


def _interval(weight: float, by_seed: Sequence[float], greatest: float) -> tuple[float, float]:
    quantile = _T975[min(len(by_seed) - 1, len(_T975)) - 1]
    half = quantile * deviation(by_seed) / math.sqrt(len(by_seed))
    return max(0.0, weight - half), min(greatest, weight + half)


def _last_within(is_within: Callable[[float], bool], below: float, above: float) -> float:
    while above - below > 1e-7 * above:
        middle = (below + above) / 2
        if is_within(middle):
            above = middle
        else:
            below = middle
    return above
