"""Task weights from contributions and difficulties.

Source: VisATB (Dai et al., WWW 2026), sections 2.2 to 2.4. Deviation: none; a temperature that is found (`auto`) instead
of given is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmkit.errors import DataError, UsageError

TEMPERATURE = 0.5
"""The paper's for its Academic and Chat benchmarks; 1 for M3IT's groups (section 3.1)."""

LEAST, GREATEST = 0.5, 2.0
"""Between which the paper advises to keep final weights (appendix F)."""

_STEP = 0.999
_FLOOR = 1e-6


@dataclass(frozen=True, slots=True)
class TaskMeasure:
    """What is known of a task: its mean contribution to the others (`c_out`, eq. 4), theirs to it (`c_in`, eq. 5) and its
    difficulty (eq. 6). 1 is what the task's own data give; all may be negative."""

    task: str
    c_out: float
    c_in: float
    difficulty: float

    @classmethod
    def from_wire(cls, row: Mapping[str, Any]) -> TaskMeasure:
        """A row {"task", "C_out", "C_in", "D"}. Raises DataError with the field's name."""
        task = row.get("task")
        if not isinstance(task, str) or not task:
            raise DataError("task: expected a name")
        return cls(task, *(_finite(row, name) for name in ("C_out", "C_in", "D")))


@dataclass(frozen=True, slots=True)
class Alphas:
    """The shares of the three parts in eq. 8. Raises UsageError unless none is negative and they sum to 1."""

    out: float = 0.25
    inward: float = 0.25
    difficulty: float = 0.5

    def __post_init__(self) -> None:
        parts = (self.out, self.inward, self.difficulty)
        if not all(0 <= part <= 1 for part in parts) or not math.isclose(sum(parts), 1, abs_tol=1e-9):
            raise UsageError(f"--alpha: expected three shares that sum to 1, got {' '.join(f'{p:g}' for p in parts)}")


@dataclass(frozen=True, slots=True)
class TaskWeight:
    """A task's final weight (eq. 8) and the three that it is made of (eqs. 4, 5 and 7). Each sums to the number of tasks."""

    task: str
    weight: float
    out: float
    inward: float
    difficulty: float

    def to_wire(self) -> dict[str, Any]:
        """The row that `finetune --weights` and `mix --weights` read."""
        return {
            "task": self.task,
            "weight": self.weight,
            "out": self.out,
            "in": self.inward,
            "difficulty": self.difficulty,
        }


def softmax_weights(values: Sequence[float], temperature: float) -> list[float]:
    """N softmax(values / T): positive weights that sum to the number of values. `temperature` above 0."""
    top = max(values)
    shares = [math.exp((value - top) / temperature) for value in values]
    total = math.fsum(shares)
    return [len(values) * share / total for share in shares]


def visatb(
    measures: Sequence[TaskMeasure], *, temperature: float = TEMPERATURE, alphas: Alphas = Alphas()
) -> list[TaskWeight]:
    """The weights of eq. 8, in the order of `measures`: more for tasks that give much, receive little and are hard.

    Source: eqs. 4, 5, 7 and 8. Deviation: none. Raises UsageError for a temperature that is not above 0, DataError where
    there is no task or one twice.
    """
    if not 0 < temperature < math.inf:
        raise UsageError(f"--temperature: expected a number above 0, got {temperature:g}")
    require_distinct([measure.task for measure in measures])
    parts = zip(
        measures,
        softmax_weights([measure.c_out for measure in measures], temperature),
        softmax_weights([-measure.c_in for measure in measures], temperature),
        softmax_weights([measure.difficulty for measure in measures], temperature),
        strict=True,
    )
    return [
        TaskWeight(
            measure.task,
            alphas.out * out + alphas.inward * inward + alphas.difficulty * difficulty,
            out,
            inward,
            difficulty,
        )
        for measure, out, inward, difficulty in parts
    ]


def lowest_temperature(measures: Sequence[TaskMeasure], *, alphas: Alphas = Alphas()) -> float:
    """The temperature down to which all final weights stay within [0.5, 2.0], to a relative 1e-6.

    From a temperature above which they cannot leave it (the widest range of a measure over log 2) it goes down until one
    does: weights of mixed parts need not move one way. Where none ever does, the paper's own temperature.
    """
    ranges = [
        max(values) - min(values) for values in zip(*((m.c_out, m.c_in, m.difficulty) for m in measures), strict=True)
    ]
    above = max(ranges) / math.log(GREATEST)
    if above == 0:
        return TEMPERATURE

    def is_within(temperature: float) -> bool:
        found = [row.weight for row in visatb(measures, temperature=temperature, alphas=alphas)]
        return LEAST <= min(found) and max(found) <= GREATEST

    floor = above * _FLOOR
    below = above
    while is_within(below):
        above, below = below, below * _STEP
        if below < floor:
            return TEMPERATURE
    return _last_within(is_within, below, above)


def _last_within(is_within: Callable[[float], bool], below: float, above: float) -> float:
    while above - below > 1e-7 * above:
        middle = (below + above) / 2
        if is_within(middle):
            above = middle
        else:
            below = middle
    return above


def require_distinct(tasks: Sequence[str]) -> None:
    """Raise DataError where there is no task, or one twice."""
    if not tasks:
        raise DataError("there is no task to weigh")
    if twice := next((task for number, task in enumerate(tasks) if task in tasks[:number]), None):
        raise DataError(f"task {twice!r} has two rows")


def _finite(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{name}: expected a finite number, got {value!r}")
    return float(value)
