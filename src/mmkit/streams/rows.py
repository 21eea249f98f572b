"""A row, what can become of it, and its JSON form.

JSON is parsed by orjson, which would silently keep the last of two equal keys and turn integers beyond 64 bit into
floats. `parse` refuses both, so that no command alters a value that it did not mean to touch.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import orjson

from mmkit.errors import DataError, MmkitError
from mmkit.records import Record, check, is_canonical, made_id, normalise


@dataclass(slots=True)
class Row:
    """A record and where it came from.

    `position` counts all input rows from 0, across files. `raw` holds the bytes that the record was read from as long
    as they say the same as the record; a stage that changes a record sets it to None (see `replaced`). `crc` is the
    checksum of the input up to and including this row, where the run keeps a journal. `has_made_id` says that the
    reader made the id (see `made_id`).
    """

    record: Record
    position: int
    source: str
    line: int
    raw: bytes | None = None
    crc: int = 0
    has_made_id: bool = False

    @property
    def where(self) -> str:
        """File and line, for messages."""
        return f"{self.source}:{self.line}"

    def replaced(self, record: Record) -> Row:
        """This row with another record in it."""
        return Row(record, self.position, self.source, self.line, None, self.crc)


@dataclass(slots=True)
class Kept:
    """A row that goes to the output. One input row may give several."""

    row: Row


@dataclass(slots=True)
class Used:
    """A row that went into a result which comes at the end (a score, a count)."""

    row: Row


@dataclass(slots=True)
class Result:
    """A row of what all rows gave together. It comes after every input row was answered for, and belongs to none."""

    row: Row


@dataclass(slots=True)
class Withdrawn:
    """A row that was `Used` and turned out later to be of no use, as a model gave no reply about it: it is rejected.

    It comes after every input row was answered for, as results do, and once for a row.
    """

    row: Row
    error: MmkitError


@dataclass(slots=True)
class Dropped:
    """A row that the command decided against."""

    row: Row
    reason: str


@dataclass(slots=True)
class Rejected:
    """A row that could not be processed. `record` is what could be read of it: an object, or the text of the line."""

    position: int
    source: str
    line: int
    record: Record | str
    error: MmkitError
    crc: int = 0

    @classmethod
    def of(cls, row: Row, error: MmkitError) -> Rejected:
        """The rejection of a row that had been read."""
        return cls(row.position, row.source, row.line, row.record, error, row.crc)


Outcome = Kept | Used | Withdrawn | Result | Dropped | Rejected
Stage = Callable[[Iterator[Row]], Iterator[Outcome]]


class Each:
    """A stage that treats every row by itself. What `function` raises as an MmkitError rejects that row alone.

    `finish` is called behind the last row. What it raises ends the run before the output is in its place.

    A run can call `function` row by row, since nothing is under way between two rows; as a stage beside others it is
    called with the stream.
    """

    def __init__(
        self, function: Callable[[Row], Row | Iterable[Row] | Dropped], finish: Callable[[], None] = lambda: None
    ) -> None:
        self.function, self.finish = function, finish

    def __call__(self, rows: Iterator[Row]) -> Iterator[Outcome]:
        """The outcomes of all rows, in order."""
        for row in rows:
            yield from outcomes_of(row, partial(self.function, row))
        self.finish()


def outcomes_of(row: Row, decide: Callable[[], Row | Iterable[Row] | Dropped]) -> Iterable[Outcome]:
    """What becomes of one row: what `decide` says, or its rejection where that raises an MmkitError."""
    try:
        result = decide()
    except MmkitError as error:
        return (Rejected.of(row, error),)
    if isinstance(result, Row):
        return (Kept(result),)
    if isinstance(result, Dropped):
        return (result,)
    return map(Kept, result)


def each(function: Callable[[Row], Row | Iterable[Row] | Dropped]) -> Each:
    """A stage out of a function of one row."""
    return Each(function)


def chained(first: Stage, second: Stage) -> Stage:
    """The stage that hands what `first` keeps to `second`; what `first` drops or rejects comes out in its place.

    `first` has no results and withdraws nothing.
    """

    def stage(rows: Iterator[Row]) -> Iterator[Outcome]:
        settled: deque[Outcome] = deque()  # by `first`, before their turn has come

        def kept() -> Iterator[Row]:
            for outcome in first(rows):
                if isinstance(outcome, Kept):
                    yield outcome.row
                else:
                    settled.append(outcome)

        for outcome in second(kept()):
            at_the_end = isinstance(outcome, Result | Withdrawn)
            while settled and (at_the_end or position_of(settled[0]) < position_of(outcome)):
                yield settled.popleft()
            yield outcome
        yield from settled

    return stage


def position_of(outcome: Outcome) -> int:
    """The position of the input row that an outcome belongs to."""
    return outcome.position if isinstance(outcome, Rejected) else outcome.row.position


Check = Literal["record", "json"]


def parse(raw: bytes, line: int, kind: Check = "record") -> tuple[Record, bool, bool]:
    """The record in one line of JSON, whether the line's own bytes may stand for it, and whether its id was made.

    With `kind` "json" any object is taken as it is (tables of scores, groups, weights). Raises DataError.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise DataError(_why_invalid(raw, error)) from None
    if type(value) is not dict:
        if type(value) is list:
            raise DataError("an array where one JSON object a line is expected (for a JSON list use --from json)")
        raise DataError(f"expected a JSON object, got {orjson.dumps(value).decode()[:40]}")
    require_exact(raw, value)
    if kind == "json":
        return value, True, False
    record = as_record(value, raw, line)
    return record, record is value, not value.get("id")


def as_record(value: dict[str, Any], raw: bytes, line: int) -> Record:
    """The record that an object of any accepted shape stands for: itself, if it is canonical. Raises DataError."""
    if "conversations" not in value and "image" not in value:
        try:
            check(value)
            return value
        except DataError:
            if is_canonical(value):
                raise
    record = normalise(value, "" if value.get("id") else made_id(raw, line))
    check(record)
    return record


def encode(record: Record) -> bytes:
    """One line of JSON without its newline. Raises DataError for what JSON cannot hold."""
    try:
        return orjson.dumps(record)
    except TypeError as error:
        if any(isinstance(image.get("bytes"), bytes) for image in record.get("images") or ()):
            raise DataError(
                "images hold inline bytes, which JSONL does not carry: write .parquet or .arrow, "
                "or put the images into files with: mmkit convert --images-to DIR"
            ) from None
        raise DataError(f"the record cannot be written as JSON: {error}") from None


def require_exact(raw: bytes, value: object) -> None:
    """Refuse what orjson read differently from what is written: duplicate keys and integers beyond 64 bit.

    Parsing every line a second time would cost more than everything else, so cheap tests come first. If the line is
    what orjson would write, nothing was lost. Otherwise count the colons: each key has one, and strings hold the same
    number of them on both sides unless they are escaped (\\u003a), so a key that is missing shows. A lost integer is
    19 digits long at least; where no such run of digits begins as a number does, there is none.
    """
    try:
        written = orjson.dumps(value)
    except TypeError:
        raise DataError("nested more than 250 levels deep, which cannot be written again") from None
    if written == raw or (
        raw.count(b":") == written.count(b":")
        and (b"\\" not in raw or b"\\u003" not in raw)
        and (_LONG_NUMBER not in raw.translate(_DIGITS_TO_ZERO) or not _LONG_INTEGER.search(raw))
    ):
        return
    _parse_strictly(raw)


_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 19
_LONG_INTEGER = re.compile(rb"[\[:,\s-]\d{19}")  # where a number may begin, so not in the middle of a hash


def _parse_strictly(raw: bytes) -> None:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            seen: set[str] = set()
            twice = next(key for key, _ in items if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise DataError(f'duplicate key "{twice[:40]}"')
        return result

    def integer(digits: str) -> int:
        if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
            raise DataError(f"an integer beyond 64 bit ({digits[:24]}…) cannot be carried exactly")
        return int(digits)

    json.loads(raw, object_pairs_hook=pairs, parse_int=integer)


def _why_invalid(raw: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as broken:
        return f"not valid UTF-8 (byte {broken.start + 1} of the line)"
    for word in ("NaN", "Infinity"):
        if word.encode() in raw:
            return f"invalid JSON at column {error.colno}: {error.msg} ({word} is not JSON; use null)"
    return f"invalid JSON at column {error.colno}: {error.msg}"
