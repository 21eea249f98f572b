"""A method: what somebody trained and scored, once or with several seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mmkit.errors import DataError
from mmkit.evaluation.scores import ScoreRow

Key: TypeAlias = tuple[str, str, str]
"""Task, metric, rule."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation (divisor n - 1; None of a single value) over seeds."""

    mean: float
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value a seed; there must be one at least."""
        mean = math.fsum(values) / len(values)
        if len(values) == 1:
            return cls(mean, None)
        return cls(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)))


@dataclass(frozen=True, slots=True)
class Method:
    """A name and, a seed, the score rows by task, metric and rule."""

    name: str
    seeds: tuple[Mapping[Key, ScoreRow], ...]

    @classmethod
    def of(cls, name: str, *seeds: Iterable[ScoreRow]) -> Method:
        """From the rows of one or more seeds. Raises DataError where a seed has two rows of one key."""
        return cls(name, tuple(_by_key(name, rows) for rows in seeds))

    @property
    def keys(self) -> list[Key]:
        """The keys of any of its seeds, in the order of the rows."""
        return list(dict.fromkeys(key for rows in self.seeds for key in rows))

    def rows(self, key: Key) -> list[ScoreRow]:
        """The rows of a key, one from each seed that has it."""
        return [rows[key] for rows in self.seeds if key in rows]

    def lacks(self, key: Key) -> str | None:
        """What is to be said where a key is not in every seed; None where it is."""
        there = len(self.rows(key))
        if there == len(self.seeds):
            return None
        return f"only in {there} of the {len(self.seeds)} seeds of {self.name}" if there else f"not in {self.name}"


@dataclass(frozen=True, slots=True)
class Pair:
    """The rows of two methods to be compared, a row a seed; `problem` says why they cannot be (None: they can).

    `rule` is the reference's where the two differ.
    """

    task: str
    metric: str
    rule: str
    before: Sequence[ScoreRow]
    after: Sequence[ScoreRow]
    problem: str | None


def pairs(reference: Method, method: Method) -> Iterator[Pair]:
    """The rows of two methods side by side, the reference's order first. Each row of either is in one pair.

    Rows of one task and metric that only the rule keeps apart make one pair, with that as its problem. Raises
    DataError where two rows of one key differ in unit or direction.
    """
    ours, theirs = dict.fromkeys(reference.keys), dict.fromkeys(method.keys)
    alone = [key for key in theirs if key not in ours]
    for key in ours:
        if key in theirs:
            yield _matched(reference, method, key)
            continue
        by_other_rules = [other for other in alone if other[:2] == key[:2]]
        if not by_other_rules:
            yield Pair(*key, reference.rows(key), [], f"not in {method.name}")
            continue
        other = by_other_rules[0]
        alone.remove(other)
        problem = f"scored by other rules: {_rule(key)} in {reference.name}, {_rule(other)} in {method.name}"
        yield Pair(*key, reference.rows(key), method.rows(other), problem)
    for key in alone:
        yield Pair(*key, [], method.rows(key), f"not in {reference.name}")


def named(key: Key) -> str:
    """Task, metric and rule as words."""
    return " ".join(part for part in key if part)


def _matched(reference: Method, method: Method, key: Key) -> Pair:
    before, after = reference.rows(key), method.rows(key)
    scales = dict.fromkeys(
        f"{row.unit or 'no unit'}, {'more' if row.higher_is_better else 'less'} is better" for row in (*before, *after)
    )
    if len(scales) > 1:
        found = " and ".join(scales)
        raise DataError(
            f"{named(key)}: rows of {reference.name} and {method.name} differ in unit or direction: {found}"
        )
    return Pair(*key, before, after, reference.lacks(key) or method.lacks(key))


def _by_key(name: str, rows: Iterable[ScoreRow]) -> dict[Key, ScoreRow]:
    found: dict[Key, ScoreRow] = {}
    for row in rows:
        key = (row.task, row.metric, row.rule)
        first = found.setdefault(key, row)
        if first is not row:
            models = sorted({str(model) for model in (first.model, row.model)})
            by = f" (by {' and '.join(models)})" if len(models) > 1 else ""
            raise DataError(f"{name}: two rows of {named(key)}{by}; give each model and each seed a file of its own")
    return found


def _rule(key: Key) -> str:
    return key[2] or "an unnamed one"
