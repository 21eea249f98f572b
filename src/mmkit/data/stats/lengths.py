"""How often each length occurs: small, and exact."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

QUANTILES = (0.5, 0.9, 0.99)


class Lengths:
    """Lengths of many rows. Memory is one counter for each different length, however many rows there are."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, length: int) -> None:
        """Count one row's length."""
        self._counts[length] += 1

    @property
    def total(self) -> int:
        """The sum of all lengths."""
        return sum(length * count for length, count in self._counts.items())

    def quantile(self, share: float) -> int:
        """The shortest length that at least `share` (0 to 1) of the rows do not exceed: always one that occurs.

        Source: nearest rank, exact. Raises ValueError where there are no rows.
        """
        rank = max(1, math.ceil(share * self._counts.total()))
        for length in sorted(self._counts):
            rank -= self._counts[length]
            if rank <= 0:
                return length
        raise ValueError("no lengths")

    def histogram(self) -> list[tuple[int, int]]:
        """Each length and how many rows have it, the shortest first."""
        return sorted(self._counts.items())

    def to_wire(self) -> dict[str, Any] | None:
        """Mean, least, quantiles and greatest; None where there are no rows."""
        if not self._counts:
            return None
        return {
            "mean": self.total / self._counts.total(),
            "min": min(self._counts),
            **{f"p{share * 100:g}": self.quantile(share) for share in QUANTILES},
            "max": max(self._counts),
        }
