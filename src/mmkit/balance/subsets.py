"""The mini and large subsets of each task, by record id.

Source: VisATB (Dai et al., WWW 2026), section 2.2: the mini subset is drawn from the large one, at rates that are the
same for all tasks. Deviation: none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias

from mmkit import seeds
from mmkit.errors import DataError, UsageError

Size: TypeAlias = Literal["mini", "large"]


@dataclass(frozen=True, slots=True)
class Rates:
    """The shares of each task's rows that the subsets are; a float would make 1/3 of 3 rows two.

    Raises UsageError unless 0 < mini <= large <= 1.
    """

    large: Fraction = Fraction(1, 4)
    mini: Fraction = Fraction(1, 32)

    def __post_init__(self) -> None:
        if not 0 < self.mini <= self.large <= 1:
            raise UsageError(
                f"--large {self.large} --mini {self.mini}: expected shares of the rows, 0 < mini <= large <= 1"
            )

    @classmethod
    def parsed(cls, large: str, mini: str) -> Rates:
        """Of texts such as "1/4" and "0.25". Raises UsageError for others."""
        return cls(_share("--large", large), _share("--mini", mini))

    def num_rows(self, size: Size, num_all: int) -> int:
        """The rows of the subset of a task of `num_all` rows: rounded up, so that no task is left without any."""
        rate = self.large if size == "large" else self.mini
        return -(-num_all * rate.numerator // rate.denominator)


class Rows:
    """The rows of each task as JSON, by id."""

    def __init__(self) -> None:
        self._by_task: dict[str, dict[str, bytes]] = {}

    def add(self, record: Mapping[str, object], line: bytes) -> None:
        """Take a row in. Raises DataError for one without a task, and an id that its task has already: a subset by ids
        could not tell the two apart."""
        task, id = record.get("task"), str(record["id"])
        if not isinstance(task, str) or not task:
            raise DataError("task: expected a name")
        rows = self._by_task.setdefault(task, {})
        if id in rows:
            raise DataError(f"id {id!r} a second time in task {task!r}")
        rows[id] = line

    @property
    def tasks(self) -> list[str]:
        """Their names, sorted."""
        return sorted(self._by_task)

    def num_rows(self, task: str) -> int:
        """How many rows a task has."""
        return len(self._by_task[task])

    def drawn(self, task: str, num_rows: int, seed: int) -> list[str]:
        """The ids of `num_rows` of a task's rows, sorted: those of a smaller number are among them."""
        rows = self._by_task[task]
        return sorted(sorted(rows, key=lambda id: (seeds.derive(seed, id, "contribution.subset"), id))[:num_rows])

    def lines(self, task: str, ids: Iterable[str] | None = None) -> list[bytes]:
        """The lines of these rows; of all, in order of ids, without `ids`."""
        rows = self._by_task[task]
        return [rows[id] for id in (sorted(rows) if ids is None else ids)]

    def digest(self, task: str) -> str:
        """A hash of all rows of a task, whatever order they came in."""
        return digest_of(self.lines(task))


def digest_of(lines: Iterable[bytes]) -> str:
    """A hash of lines in their order, 64 hex digits."""
    found = hashlib.sha256()
    for line in lines:
        found.update(line + b"\n")
    return found.hexdigest()


def require_same_tasks(train: Collection[str], validation: Collection[str]) -> None:
    """Raise DataError with the names of the tasks that only one of the two has."""
    if unmeasured := sorted(set(train) - set(validation)):
        raise DataError(f"no validation row of {_quoted(unmeasured)}: what a model does on it could not be measured")
    if untrained := sorted(set(validation) - set(train)):
        raise DataError(f"no training row of {_quoted(untrained)}, which the validation rows have")


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def _share(option: str, text: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"{option}: expected a share of the rows, such as 1/4 or 0.25, got {text!r}") from None
