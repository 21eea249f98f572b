"""Randomness as a function of (seed, record id, purpose).

Nothing here holds state, so a result never depends on the order of rows, on batches, shards or workers, or on
having been resumed. A purpose is a short constant such as "compose.order"; two decisions about one record use two
purposes, or they would be the same decision.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def derive(seed: int, record_id: str, purpose: str) -> int:
    """A 64-bit integer that depends on all three arguments and on nothing else."""
    key = f"{seed}\x1f{purpose}\x1f{record_id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")


def uniform(seed: int, record_id: str, purpose: str) -> float:
    """A float in [0, 1) with 53 random bits."""
    return (derive(seed, record_id, purpose) >> 11) / (1 << 53)


def pick(items: Sequence[T], seed: int, record_id: str, purpose: str) -> T:
    """One of `items`, each equally likely. Raises ValueError if there are none."""
    if not items:
        raise ValueError("nothing to pick from")
    return items[int(uniform(seed, record_id, purpose) * len(items))]


def generator(seed: int, record_id: str, purpose: str) -> random.Random:
    """A generator of its own, for decisions that need more than one draw (a shuffle, a sample)."""
    return random.Random(derive(seed, record_id, purpose))
