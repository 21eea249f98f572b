"""A set's own row → mmkit's records, by the set's definition. Nothing here opens a file or asks a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mmkit.errors import DataError, MmkitError
from mmkit.records import Record
from mmkit.tasks.benchmarks import Benchmark, TaskDefinition
from mmkit.tasks.benchmarks.reshapes import Asked, ImageSize, shown
from mmkit.tasks.benchmarks.sources import RawRow, Source, as_text, is_empty, look_up
from mmkit.tasks.prompts import COMMON_PROMPT

SizeOf = Callable[[Mapping[str, Any]], ImageSize]

_TEXT_FIELDS = ("id", "question", "context", "caption", "answer", "rationale")
_LIST_FIELDS = ("choices", "answers")


def to_records(benchmark: Benchmark, row: RawRow, made_id: str, size_of: SizeOf) -> list[Record]:
    """The records that a row of the set gives: one, or with `each` one for each place; none where no task fits.

    A record's id is the benchmark's name with the row's own id, else with `made_id`. `size_of` gives (width, height)
    in pixels of an image reference; it is asked only where a box is reshaped. Raises DataError, naming benchmark and
    column, for a row that lacks what its task needs or holds it in another shape, and what `size_of` raises.
    """
    try:
        return [
            record
            for part, place in _parts(benchmark, row)
            if (record := _record(benchmark, part, place, made_id, size_of))
        ]
    except MmkitError as error:
        raise type(error)(f"{benchmark.name}: {error}") from None


def why_dropped(benchmark: Benchmark, row: RawRow) -> str:
    """Why a row that gave no record belongs to no task: what it holds in the columns that decide."""
    columns = dict.fromkeys(
        column
        for task in benchmark.tasks.values()
        for column in (*task.where, *task.matching, *task.present, *task.absent)
    )
    if benchmark.each or not columns:
        return f"belongs to no task of {benchmark.name}"
    held = ", ".join(f"{column}: {shown(look_up(row, column))}" for column in columns)
    return f"belongs to no task of {benchmark.name} ({held})"


def _parts(benchmark: Benchmark, row: RawRow) -> Iterator[tuple[RawRow, str]]:
    """The row itself, or its copies with one element of each list of `each`, and what tells their ids apart."""
    if not benchmark.each:
        yield row, ""
        return
    lists = {}
    for column in benchmark.each:
        value = row.get(column)
        if not isinstance(value, list | tuple):
            raise DataError(f"column {column}: expected a list, got {shown(value)}")
        lists[column] = value
    if len({len(value) for value in lists.values()}) > 1:
        lengths = ", ".join(f"{column} {len(value)}" for column, value in lists.items())
        raise DataError(f"columns of one length are expected, got {lengths}")
    for place, values in enumerate(zip(*lists.values(), strict=True)):
        yield {**row, **dict(zip(lists, values, strict=True))}, f"-{place}"


def _record(benchmark: Benchmark, row: RawRow, place: str, made_id: str, size_of: SizeOf) -> Record | None:
    task = next((task for task in benchmark.tasks.values() if _fits(task, row)), None)
    if task is None:
        return None
    sources = benchmark.fields
    images = _images(sources["images"].read(row, Asked())) if "images" in sources else []

    def image_size() -> ImageSize:
        if not images:
            raise DataError("a box needs the size of its image, and there is no image")
        return size_of(images[0])

    places = _texts(sources["choices"], row, Asked(image_size=image_size)) if "choices" in sources else []
    asked = Asked(places, image_size)
    own_id = _field("id", sources["id"], row, asked) if "id" in sources else None
    record = {"id": f"{benchmark.name}-{own_id or made_id}{place}", "benchmark": benchmark.name, "task": task.name}
    rest = {name: _field(name, source, row, asked) for name, source in sources.items() if name not in ("id", "images")}
    record |= {name: value for name, value in {"images": images, **rest}.items() if not is_empty(value)}
    _require(benchmark, task, record)
    return record


def _field(name: str, source: Source, row: RawRow, asked: Asked) -> Any:
    """The value of a record's field, None or an empty list where the row holds nothing for it."""
    if name == "choices":
        return [choice for choice in asked.choices if choice is not None]
    if name in _LIST_FIELDS:
        return [text for text in _texts(source, row, asked) if text is not None]
    value = source.read(row, asked)
    if name in _TEXT_FIELDS and value is not None:
        return as_text(value, source.shown)
    return value


def _texts(source: Source, row: RawRow, asked: Asked) -> list[str | None]:
    """The texts of a list source in their places; None where one is empty."""
    value = source.read(row, asked)
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise DataError(f"{source.shown}: expected a list, got a {type(value).__name__}")
    return [None if is_empty(item) else as_text(item, source.shown) for item in value]


def _fits(task: TaskDefinition, row: RawRow) -> bool:
    return (
        all(_is_one_of(look_up(row, column), wanted) for column, wanted in task.where.items())
        and all(not is_empty(look_up(row, column)) for column in task.present)
        and all(is_empty(look_up(row, column)) for column in task.absent)
        and all(_holds(look_up(row, column), pattern) for column, pattern in task.matching.items())
    )


def _holds(value: Any, pattern: str) -> bool:
    return isinstance(value, str) and re.search(pattern, value) is not None


def _is_one_of(value: Any, wanted: Any) -> bool:
    options = wanted if isinstance(wanted, list) else [wanted]
    return any(type(value) is type(option) and value == option for option in options)


def _require(benchmark: Benchmark, task: TaskDefinition, record: Record) -> None:
    """Raise DataError where a record lacks what its task asks with or is scored by."""
    needed = ["question"] if "{question}" in (task.prompt or COMMON_PROMPT) else []
    if "images" in benchmark.fields and not task.absent:
        needed.append("images")
    if task.answer_type == "choice" or "{choices}" in (task.prompt or ""):
        needed.append("choices")
    for name in needed:
        if name not in record:
            raise DataError(f"{name}: {_place(benchmark, name)} is missing or empty")
    if not record.get("answer") and not record.get("answers"):
        raise DataError(f"answer: {_place(benchmark, 'answer', 'answers')} is missing or empty")
    if task.answer_type == "choice" and record.get("answer") not in record["choices"]:
        raise DataError(f"answer: {shown(record.get('answer'))} is none of the choices {shown(record['choices'])}")


def _place(benchmark: Benchmark, *names: str) -> str:
    return " / ".join(benchmark.fields[name].shown for name in names if name in benchmark.fields)


def _images(value: Any) -> list[dict[str, Any]]:
    """References out of a path, bytes, an object of both, or a list of these; nothing for null."""
    if value is None:
        return []
    values = value if isinstance(value, list | tuple) else [value]
    return [_reference(image) for image in values if not is_empty(image)]


def _reference(image: Any) -> dict[str, Any]:
    if isinstance(image, str):
        return {"path": image}
    if isinstance(image, bytes):
        return {"bytes": image}
    held = {name: image.get(name) for name in ("bytes", "path")} if isinstance(image, Mapping) else {}
    if any(held.values()):
        return {name: value for name, value in held.items() if value}
    raise DataError(f"images: expected a path or bytes, got {shown(image)}")
