"""How alike the questions of sets are: cosine similarity of pairs within a set and between two."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement
from typing import TYPE_CHECKING, Any

from mmkit import seeds
from mmkit.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Embed = Callable[[Sequence[str]], "NDArray[np.float32]"]
SetPair = tuple[str, str]


class Questions:
    """A sample of each set's questions, large enough for `num_pairs` pairs that share no question.

    Which ones is a function of (seed, record id, question), so it depends on no order. Memory is two questions a pair
    and set.
    """

    def __init__(self, num_pairs: int, seed: int) -> None:
        self._room, self._seed = 2 * num_pairs, seed
        self._heaps: dict[str, list[tuple[int, str]]] = {}

    def add(self, name: str, record_id: str, question: str) -> None:
        """Take in a question of the set `name`."""
        heap = self._heaps.setdefault(name, [])
        entry = (-seeds.derive(self._seed, f"{record_id}\x1f{question}", "stats.diversity"), question)
        if len(heap) < self._room:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)

    def few(self) -> list[str]:
        """The sets that have too few questions for pairs that share none, and how many they have."""
        return [
            f"{name or '(none)'} {len(heap):,}" for name, heap in sorted(self._heaps.items()) if len(heap) < self._room
        ]

    def sample(self) -> dict[str, list[str]]:
        """The sampled questions of each set in random order; sets by name."""
        return {name: [text for _, text in sorted(self._heaps[name], reverse=True)] for name in sorted(self._heaps)}


@dataclass(frozen=True, slots=True)
class Similarity:
    """Cosine similarities of question pairs, both of one set or one of each: their number, mean (-1 to 1) and
    standard deviation."""

    sets: SetPair
    pairs: int
    mean: float
    sd: float

    def to_wire(self) -> dict[str, Any]:
        """The row as a JSON object."""
        se = self.sd / math.sqrt(self.pairs)
        return {"sets": list(self.sets), "pairs": self.pairs, "mean": self.mean, "sd": self.sd, "se": se}


@dataclass(frozen=True, slots=True)
class Difference:
    """Two means of similarity against each other: `first` less `second`, its z, and p (two-sided)."""

    first: Similarity
    second: Similarity

    @property
    def difference(self) -> float:
        """Of the means."""
        return self.first.mean - self.second.mean

    @property
    def z(self) -> float:
        """The difference in its standard errors; infinite where both sets have no spread and differ.

        Source: MLAN, Figure 8 (z-test of mean similarities). Deviation: none; the variances are not pooled.
        """
        se = math.hypot(*(one.sd / math.sqrt(one.pairs) for one in (self.first, self.second)))
        return self.difference / se if se else math.copysign(math.inf, self.difference) if self.difference else 0.0

    @property
    def p(self) -> float:
        """How probable so large a difference is where there is none."""
        return math.erfc(abs(self.z) / math.sqrt(2))

    def to_wire(self) -> dict[str, Any]:
        """The row as a JSON object; an infinite z is null."""
        return {
            "sets": list(self.first.sets),
            "against": list(self.second.sets),
            "difference": self.difference,
            "z": self.z if math.isfinite(self.z) else None,
            "p": self.p,
        }


def similarities(questions: Mapping[str, Sequence[str]], num_pairs: int, seed: int, embed: Embed) -> list[Similarity]:
    """The similarities within each set and between each two, `num_pairs` pairs each.

    A pair has two different records. Where a set is large enough no question is in two pairs, else pairs are drawn
    with replacement. Source: MLAN, section 3.4 (10,000 pairs in three settings). Deviation: none. Raises DataError
    where a set has fewer than two questions, and where there is no set.
    """
    if not questions:
        raise DataError("no record has a question")
    for name, texts in questions.items():
        if len(texts) < 2:
            raise DataError(f"{name or '(none)'}: diversity needs two questions at least, there is {len(texts)}")
    different = list(dict.fromkeys(text for texts in questions.values() for text in texts))
    vectors = embed(different)
    number = {text: i for i, text in enumerate(different)}
    rows = {name: [number[text] for text in texts] for name, texts in questions.items()}
    return [
        _similarity(pair, rows[pair[0]], rows[pair[1]], num_pairs, seed, vectors)
        for pair in combinations_with_replacement(questions, 2)
    ]


def _similarity(
    pair: SetPair, first: Sequence[int], second: Sequence[int], num_pairs: int, seed: int, vectors: NDArray[np.float32]
) -> Similarity:
    import numpy as np

    draw = np.random.default_rng(seeds.derive(seed, "\x1f".join(pair), "stats.pairs"))
    within = pair[0] == pair[1]
    if within and len(first) >= 2 * num_pairs:
        left, right = np.arange(num_pairs), np.arange(num_pairs, 2 * num_pairs)
    elif not within and min(len(first), len(second)) >= num_pairs:
        left = right = np.arange(num_pairs)
    else:
        left = draw.integers(len(first), size=num_pairs)
        # Of one set the partner is any other question.
        right = (
            (left + draw.integers(1, len(first), size=num_pairs)) % len(first)
            if within
            else draw.integers(len(second), size=num_pairs)
        )
    ones, others = (vectors[np.asarray(rows)[at]] for rows, at in ((first, left), (second, right)))
    cosines = np.einsum("ij,ij->i", ones, others, dtype=np.float64).clip(-1, 1)
    return Similarity(pair, num_pairs, float(cosines.mean()), float(cosines.std(ddof=1)) if num_pairs > 1 else 0.0)


def differences(found: Sequence[Similarity]) -> list[Difference]:
    """Each two means against each other."""
    return [Difference(first, second) for first, second in combinations(found, 2)]


def tables(found: Sequence[Similarity]) -> list[list[list[str]]]:
    """For a terminal, headers first: the similarities, then their differences."""
    means = [["questions of", "pairs", "mean similarity", "sd"]]
    means += [[_name(one.sets), f"{one.pairs:,}", f"{one.mean:.4f}", f"{one.sd:.4f}"] for one in found]
    tests = [["questions of", "against", "difference", "z", "p"]]
    tests += [
        [_name(one.first.sets), _name(one.second.sets), f"{one.difference:+.4f}", f"{one.z:.2f}", f"{one.p:.3g}"]
        for one in differences(found)
    ]
    return [means, tests] if len(tests) > 1 else [means]


def _name(pair: SetPair) -> str:
    first, second = (name or "(none)" for name in pair)
    return first if first == second else f"{first} × {second}"
