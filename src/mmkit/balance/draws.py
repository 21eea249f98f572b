"""The draws of eq. 1: which records of a task are asked about.

    sample = Draws(draws=10, size=100, seed=0)
    for row in rows: sample.add(row)
    for task, drawn in sample.tasks().items(): ...   # the distinct rows, each with the draws that it is in

A draw of a task is the `size` records with the smallest keys, and a record's key depends on (seed, its id, the draw's
number) alone. So neither the order of the rows nor how they are cut into shards changes a draw, and the draws of two
shards' draws are those of both shards.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

import orjson

from mmkit import seeds
from mmkit.records import Record
from mmkit.streams import Row, inline

DEFAULT_TASK = "default"


@dataclass(frozen=True, slots=True)
class Drawn:
    """A row, and the numbers of the draws that it is in, ascending."""

    row: Row
    draws: tuple[int, ...]


class Draws:
    """Draws of each task without replacement, in one pass; only what is drawn is held.

    Source: MINT, definition 1; the paper gives neither the number of draws nor their size. A task with fewer than
    `size` records is drawn whole every time. Records of one id are records of their own, each counted: which of them
    a draw holds, where it has no room for all, goes by their content.
    """

    def __init__(self, draws: int = 10, size: int = 100, seed: int = 0) -> None:
        self.draws = draws
        self.size = size
        self._seed = seed
        self._tasks: dict[str, list[list[_Entry]]] = {}
        self._added = 0

    def add(self, row: Row) -> None:
        """Take one row in; it belongs to the task "default" where its record names none."""
        task = task_of(row.record)
        heaps = self._tasks.setdefault(task, [[] for _ in range(self.draws)])
        held = _Held(row, self._added)
        self._added += 1
        for number, heap in enumerate(heaps):
            entry = _Entry(seeds.derive(self._seed, row.record["id"], f"interaction.draw.{number}"), held)
            if len(heap) < self.size:
                heapq.heappush(heap, entry)
            elif heap[0] < entry:
                heapq.heapreplace(heap, entry)

    def tasks(self) -> dict[str, list[Drawn]]:
        """The distinct rows that were drawn, by task in alphabetical order; a task's in order of id, then content."""
        return {task: _distinct(heaps) for task, heaps in sorted(self._tasks.items())}


def task_of(record: Record) -> str:
    """The task that a record belongs to: "default" where it names none."""
    return record.get("task") or DEFAULT_TASK


@dataclass(slots=True, eq=False)
class _Held:
    row: Row
    number: int
    _digest: bytes = field(default=b"", init=False)

    @property
    def order(self) -> tuple[str, bytes, int]:
        """The records' order. Their numbers tell apart only what is the same in everything."""
        return self.row.record["id"], self.digest, self.number

    @property
    def digest(self) -> bytes:
        """Of the content; only records of one id need it."""
        if not self._digest:
            content = orjson.dumps(self.row.record, default=inline.as_json, option=orjson.OPT_SORT_KEYS)
            self._digest = hashlib.blake2b(content, digest_size=16).digest()
        return self._digest


@dataclass(slots=True, eq=False)
class _Entry:
    """A heap's top is its least entry, and has to be the one with the largest key: the next to make room."""

    key: int
    held: _Held

    def __lt__(self, other: _Entry) -> bool:
        return self.key > other.key if self.key != other.key else self.held.order > other.held.order


def _distinct(heaps: Iterable[Iterable[_Entry]]) -> list[Drawn]:
    draws: dict[int, list[int]] = {}
    held: dict[int, _Held] = {}
    for number, heap in enumerate(heaps):
        for entry in heap:
            held[entry.held.number] = entry.held
            draws.setdefault(entry.held.number, []).append(number)
    return [Drawn(one.row, tuple(draws[one.number])) for one in sorted(held.values(), key=lambda one: one.order)]
