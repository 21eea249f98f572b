"""The best partition of numbers on a line."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise

_Partition = tuple[Fraction, tuple[int, ...]]  # the sum of its diameters, and where its parts begin


def partition(values: Sequence[Fraction], num_parts: int) -> list[range]:
    """The positions in each of `num_parts` parts of the ascending `values`, such that the largest diameter is least.

    A part's diameter is the distance of its outermost values. Of all partitions with the least largest diameter it is
    one with the least sum of diameters, and of these the one whose starts come first in lexicographic order. No
    partition is better, not even one whose parts overlap: the values of two that do can be shared out anew between
    two that do not, neither of them wider than the wider one nor both together wider than before. Exact, in
    O(values² · parts).

    Needs 1 ≤ num_parts ≤ number of values.
    """
    limit = _least_diameter(values, num_parts)
    best: dict[int, _Partition] = {0: (Fraction(0), ())}
    for _ in range(num_parts):
        best = _with_another_part(best, values, limit)
    starts = best[len(values)][1]
    return [range(*bounds) for bounds in pairwise([*starts, len(values)])]


def fewest_parts(values: Sequence[Fraction], limit: Fraction) -> int:
    """The least number of parts of the ascending `values` whose diameters are all within `limit`."""
    parts, first = 0, None
    for value in values:
        if first is None or value - first > limit:
            parts, first = parts + 1, value
    return parts


def _with_another_part(
    best: Mapping[int, _Partition], values: Sequence[Fraction], limit: Fraction
) -> dict[int, _Partition]:
    """The best partitions of the first values, by the number of these, with one part more than those in `best`."""
    found: dict[int, _Partition] = {}
    for end, last in enumerate(values, 1):
        longer = [
            (total + last - values[start], (*starts, start))
            for start, (total, starts) in best.items()
            if start < end and last - values[start] <= limit
        ]
        if longer:
            found[end] = min(longer)
    return found


def _least_diameter(values: Sequence[Fraction], num_parts: int) -> Fraction:
    """The least limit within which `num_parts` parts are enough."""
    distances = sorted({high - low for i, high in enumerate(values) for low in values[: i + 1]})
    return distances[bisect_left(distances, True, key=lambda limit: fewest_parts(values, limit) <= num_parts)]
