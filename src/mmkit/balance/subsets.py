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

import orjson

from mmkit import images, seeds
from mmkit.errors import DataError, MissingInputError, UsageError

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
    """The rows of each task as JSON, by id. Relative paths of their images start at `image_root`.

    An image is read once, when something is asked for that depends on it.
    """

    def __init__(self, image_root: str | None = None) -> None:
        self._by_task: dict[str, dict[str, bytes]] = {}
        self._image_root = image_root
        self._digests: dict[str, bytes] = {}
        self._ranked: dict[tuple[str, int], list[str]] = {}

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

    def ids(self, task: str) -> list[str]:
        """The ids of all rows of a task, sorted."""
        return sorted(self._by_task[task])

    def drawn(self, task: str, num_rows: int, seed: int) -> list[str]:
        """The ids of `num_rows` of a task's rows, sorted: those of a smaller number are among them."""
        if (task, seed) not in self._ranked:
            self._ranked[task, seed] = sorted(
                self._by_task[task], key=lambda id: (seeds.derive(seed, id, "contribution.subset"), id)
            )
        return sorted(self._ranked[task, seed][:num_rows])

    def lines(self, task: str, ids: Iterable[str] | None = None) -> list[bytes]:
        """The lines of these rows; of all, in order of ids, without `ids`."""
        rows = self._by_task[task]
        return [rows[id] for id in (self.ids(task) if ids is None else ids)]

    def references(self, task: str, id: str) -> list[Mapping[str, str]]:
        """The row's images, as the record names them."""
        line = self._by_task[task][id]
        return (orjson.loads(line).get("images") or []) if b'"images"' in line else []

    def seen(self, task: str, id: str) -> list[bytes]:
        """A hash of each of the row's images: of what it shows, wherever it lies. Raises MissingInputError and
        DataError as `images.sha256`, naming the row."""
        try:
            return [self._digest(reference) for reference in self.references(task, id)]
        except (MissingInputError, DataError) as error:
            raise type(error)(f"row {id!r} of task {task!r}: {error}") from None

    def contents(self, task: str, ids: Iterable[str] | None = None) -> list[bytes]:
        """What decides all that is learned from these rows, or measured by them: their lines, and what their images
        show. Raises as `seen`."""
        rows = self._by_task[task]
        return [b"".join([rows[id], *self.seen(task, id)]) for id in (self.ids(task) if ids is None else ids)]

    def _digest(self, reference: Mapping[str, str]) -> bytes:
        path = reference.get("path") or ""
        if path.startswith("data:"):
            return bytes.fromhex(images.sha256(reference))
        if path not in self._digests:
            self._digests[path] = bytes.fromhex(images.sha256(reference, self._image_root))
        return self._digests[path]


def digest_of(contents: Iterable[bytes]) -> str:
    """A hash of these in their order, 64 hex digits."""
    found = hashlib.sha256()
    for content in contents:
        found.update(len(content).to_bytes(8, "big") + content)
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
