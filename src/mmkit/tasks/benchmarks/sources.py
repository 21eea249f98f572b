"""Sources: where the value of a record's field comes from in a set's own row. The grammar is the package's text.

A source is parsed once, when its definition is loaded; what is wrong with it is a ValueError then. What is wrong with
a row is a DataError that names the column.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from mmkit.errors import DataError
from mmkit.tasks.benchmarks.reshapes import RESHAPES, Asked

RawRow: TypeAlias = Mapping[str, Any]
Read: TypeAlias = Callable[[RawRow, Asked], Any]

_SLOT = re.compile(r"\{([^{}]+)\}")
_STEP = re.compile(r"([^\[\]]+)(?:\[(\d*)\])?")
_TABLE_KEYS = {"from", "value", "drop", "map", "labels", "reshape"}


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed source: the columns that it reads, as the definition writes them, and the function that reads them.

    `read(row, asked)` gives the value, None where the row holds nothing there; in a list, None stands for an element
    that is empty. Raises DataError.
    """

    columns: tuple[str, ...]
    read: Read
    takes_raw: bool = False
    """Whether the values go through a step (labels, map, reshape), which is written for what the column holds."""

    @property
    def shown(self) -> str:
        """The columns, for a message."""
        return "column " + ", ".join(self.columns) if len(self.columns) == 1 else "columns " + ", ".join(self.columns)


def parse(source: Any) -> Source:
    """A definition's source. Raises ValueError, saying what is wrong with it."""
    if isinstance(source, str) and source:
        return _template(source) if _SLOT.search(source) else _column(source)
    if isinstance(source, list) and source:
        return _list([parse(item) for item in source])
    if isinstance(source, Mapping):
        return _table(source)
    raise ValueError(f"{source!r} is no source: a column, a template, a list or a table with `from`")


def is_empty(value: Any) -> bool:
    """Whether a column's value says nothing: null, nan, a blank text, a list or an object with nothing in it."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, list | tuple | dict | bytes) and not value)


def compiled(pattern: Any, key: str) -> re.Pattern[str]:
    """A definition's regular expression. Raises ValueError, naming the key, for what is none."""
    if not isinstance(pattern, str):
        raise ValueError(f"{key}: expected a regular expression, got {pattern!r}")
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{key}: {error}") from None


def look_up(row: RawRow, column: str) -> Any:
    """What a row holds at a column's place ("a", "a.b", "a[].b", "a[0].b"); None where there is nothing.

    A column of exactly that name comes first. Raises DataError where the row's shape is another one.
    """
    if column in row:
        return row[column]
    return _follow(row, column.split("."), column)


def _follow(value: Any, steps: Sequence[str], column: str) -> Any:
    if not steps or value is None:
        return value
    match = _STEP.fullmatch(steps[0])
    if match is None:
        raise DataError(f"column {column}: {steps[0]!r} names no place")
    if not isinstance(value, Mapping):
        raise DataError(f"column {column}: expected an object with {match[1]}, got a {type(value).__name__}")
    found, place, rest = value.get(match[1]), match[2], steps[1:]
    if place is None or found is None:
        return _follow(found, rest, column)
    if not isinstance(found, list | tuple):
        raise DataError(f"column {column}: expected a list in {match[1]}, got a {type(found).__name__}")
    if place == "":
        return [_follow(item, rest, column) for item in found]
    return _follow(found[int(place)], rest, column) if int(place) < len(found) else None


def _column(name: str) -> Source:
    if any(_STEP.fullmatch(step) is None for step in name.split(".")):
        raise ValueError(f"{name!r} is no column")

    def read(row: RawRow, asked: Asked) -> Any:
        value = look_up(row, name)
        return None if is_empty(value) else value

    return Source((name,), read)


def _template(template: str) -> Source:
    names = tuple(_SLOT.findall(template))

    def read(row: RawRow, asked: Asked) -> Any:
        values = {name: look_up(row, name) for name in names}
        if any(is_empty(value) for value in values.values()):
            return None
        return _SLOT.sub(lambda slot: as_text(values[slot[1]], slot[1]), template)

    return Source(names, read)


def _list(items: Sequence[Source]) -> Source:
    def read(row: RawRow, asked: Asked) -> Any:
        return [item.read(row, asked) for item in items]

    columns = tuple(column for item in items for column in item.columns)
    return Source(columns, read, any(item.takes_raw for item in items))


def _constant(value: Any) -> Source:
    return Source((), lambda row, asked: value)


def _table(table: Mapping[str, Any]) -> Source:
    unknown = set(table) - _TABLE_KEYS
    if unknown:
        raise ValueError(f"unknown key {min(unknown)!r}; known: {', '.join(sorted(_TABLE_KEYS))}")
    if ("from" in table) == ("value" in table):
        raise ValueError("a source's table has either `from` or `value`")
    first = parse(table["from"]) if "from" in table else _constant(table["value"])
    steps = [make(table[key]) for key, make in _STEPS.items() if key in table]

    def read(row: RawRow, asked: Asked) -> Any:
        value = first.read(row, asked)
        try:
            for step in steps:
                value = None if is_empty(value) else step(value, asked)
        except DataError as error:
            raise DataError(f"{first.shown}: {error}") from None
        return None if is_empty(value) else value

    return Source(first.columns, read, first.takes_raw or bool(steps))


Step: TypeAlias = Callable[[Any, Asked], Any]


def _drop(pattern: Any) -> Step:
    dropped = compiled(pattern, "drop")
    return _for_each(lambda value: dropped.sub("", value) if isinstance(value, str) else value)


def _map(values: Any) -> Step:
    if not isinstance(values, Mapping) or not all(isinstance(value, str) for value in values.values()):
        raise ValueError(f"map: expected a table of texts, got {values!r}")

    def mapped(value: Any) -> Any:
        is_key = isinstance(value, str | int | float)
        return values.get(as_key(value), value) if is_key else value

    return _for_each(mapped)


def _labels(labels: Any) -> Step:
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError("labels: expected a list of texts")

    def named(value: Any) -> Any:
        if type(value) is not int or not 0 <= value < len(labels):
            raise DataError(f"expected a label from 0 to {len(labels) - 1}, got {value!r}")
        return labels[value]

    return _for_each(named)


def _reshape(name: Any) -> Step:
    if name not in RESHAPES:
        raise ValueError(f"reshape: unknown {name!r}; known: {', '.join(RESHAPES)}")
    return RESHAPES[name]


_STEPS: Mapping[str, Callable[[Any], Step]] = {"drop": _drop, "map": _map, "labels": _labels, "reshape": _reshape}
"""In the order that they are taken."""


def _for_each(function: Callable[[Any], Any]) -> Step:
    def step(value: Any, asked: Asked) -> Any:
        if isinstance(value, list | tuple):
            return [None if is_empty(item) else function(item) for item in value]
        return function(value)

    return step


def as_key(value: str | float) -> str:
    """A value as `map` writes it: true and false as in JSON, a number as it is written."""
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def as_text(value: Any, column: str) -> str:
    """A text or a number as text, stripped. Raises DataError for anything else, so also for true and false."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise DataError(f"{column}: expected a text, got a {type(value).__name__}")
