"""Why a task got its weight, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping

from mmkit.balance.task_measure import TaskMeasure
from mmkit.balance.weights import Alphas, BySize, TaskWeight

_ALIKE = 0.005
_WORDS = (
    ("C_out", "gives more", "gives less", "gives as much"),
    ("C_in", "receives less", "receives more", "receives as much"),
    ("D", "is harder", "is easier", "is as hard"),
)
"""Of a part above 1, below 1 and of about 1. They compare with the others: also who gives more may give little."""


def of_measure(weight: TaskWeight, measure: TaskMeasure, alphas: Alphas) -> str:
    """The sentence for a weight of eq. 8: each part with its measure, what moved the weight most first, then what
    moved it the other way, and last what did not move it. Parts without a share in the weight are not told.
    """
    assert weight.parts is not None
    shares = (alphas.out, alphas.inward, alphas.difficulty)
    sign = 1 if weight.weight >= 1 else -1
    pushes = sorted(
        (
            (sign * share * _moved(part), _clause(words, value, part))
            for share, part, value, words in zip(shares, weight.parts, measure.measured, _WORDS, strict=True)
            if share
        ),
        reverse=True,
    )
    towards = [clause for push, clause in pushes if push > 0]
    against = [clause for push, clause in reversed(pushes) if push < 0]
    unmoved = [clause for push, clause in pushes if push == 0]
    why = ", although it ".join(", ".join(clauses) for clauses in (towards, against) if clauses)
    said = "; it ".join(filter(None, (why, ", ".join(unmoved))))
    side = "raised" if _moved(weight.weight) > 0 else "lowered" if _moved(weight.weight) < 0 else "about equal"
    tasks = f" ({', '.join(measure.tasks)})" if measure.tasks else ""
    flat = f"; flat, so read with care: {', '.join(measure.flat)}" if measure.flat else ""
    return f"{weight.task}{tasks}: {weight.weight:.4f}, {side}: it {said}{flat}"


def of_size(weight: TaskWeight, amounts: Mapping[str, float], strategy: BySize) -> str:
    """The sentence for a weight by size."""
    said = f"{weight.task}: {weight.weight:.4f}, "
    if strategy == "equal":
        return f"{said}as every task that is not fixed"
    amount, total = amounts[weight.task], sum(amounts.values())
    if strategy == "tokens":
        return f"{said}for {amount:,} of {total:,} loss tokens: the fewer, the greater"
    root = ", by their square root" if strategy == "sqrt-size" else ""
    return f"{said}for {amount:,} of {total:,} rows{root}"


def of_fixed(weight: TaskWeight) -> str:
    """The sentence for a weight that somebody set."""
    return f"{weight.task}: {weight.weight:.4f}, fixed; it does not count among the others"


def _clause(words: tuple[str, str, str, str], value: float, part: float) -> str:
    name, raising, lowering, alike = words
    said = raising if _moved(part) > 0 else lowering if _moved(part) < 0 else alike
    return f"{said} ({name} {value:.4f} makes {part:.4f})"


def _moved(part: float) -> float:
    """How far a part or a weight is from 1, 0 where it is about that."""
    return 0.0 if abs(part - 1) < _ALIKE else part - 1
