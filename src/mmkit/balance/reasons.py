"""Why a task got its weight, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping

from mmkit.balance.task_measure import TaskMeasure
from mmkit.balance.weights import Alphas, BySize, TaskWeight

_ALIKE = 0.005
_WORDS = (
    ("C_out", "gives much", "gives little", "gives as much as most"),
    ("C_in", "receives little", "receives much", "receives as much as most"),
    ("D", "is hard", "is easy", "is as hard as most"),
)


def of_measure(weight: TaskWeight, measure: TaskMeasure, alphas: Alphas) -> str:
    """The sentence for a weight of eq. 8: each part with its measure, what moved the weight most first, and last what
    moved it the other way. Parts without a share in the weight are not told.
    """
    assert weight.parts is not None
    shares = (alphas.out, alphas.inward, alphas.difficulty)
    sign = 1 if weight.weight >= 1 else -1
    pushes = sorted(
        (
            (sign * share * (part - 1), _clause(words, value, part))
            for share, part, value, words in zip(shares, weight.parts, measure.measured, _WORDS, strict=True)
            if share
        ),
        reverse=True,
    )
    towards = ", ".join(clause for push, clause in pushes if push >= 0)
    against = ", ".join(clause for push, clause in reversed(pushes) if push < 0)
    side = "about equal" if abs(weight.weight - 1) < _ALIKE else "raised" if weight.weight > 1 else "lowered"
    but = f", although it {against}" if against else ""
    flat = f"; flat, so read with care: {', '.join(measure.flat)}" if measure.flat else ""
    return f"{weight.task}: {weight.weight:.4f}, {side}: it {towards}{but}{flat}"


def of_size(weight: TaskWeight, amounts: Mapping[str, float], strategy: BySize) -> str:
    """The sentence for a weight by size."""
    said = f"{weight.task}: {weight.weight:.4f}, "
    if strategy == "equal":
        return f"{said}as every task"
    amount, total = amounts[weight.task], sum(amounts.values())
    if strategy == "tokens":
        return f"{said}for {amount:,} of {total:,} loss tokens: the fewer, the greater"
    root = "the square root of " if strategy == "sqrt-size" else ""
    return f"{said}for {root}{amount:,} of {total:,} rows"


def of_fixed(weight: TaskWeight) -> str:
    """The sentence for a weight that somebody set."""
    return f"{weight.task}: {weight.weight:.4f}, fixed; it does not count among the others"


def _clause(words: tuple[str, str, str, str], value: float, part: float) -> str:
    name, raising, lowering, alike = words
    said = alike if abs(part - 1) < _ALIKE else raising if part > 1 else lowering
    return f"{said} ({name} {value:.4f} makes {part:.4f})"
