"""Records in Arrow IPC and Parquet, with one explicit schema, and back without loss.

A field goes into its typed column where its value has exactly that type. Everything else (fields that mmkit does not
know, explicit nulls, shapes with extra keys) is kept as JSON text in the column `__extra__`, which wins when a record
is read: absent, null and nested values come back as they were. A table that others wrote is read by its columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

import orjson
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from mmkit.errors import DataError
from mmkit.records import Record
from mmkit.streams import inline
from mmkit.streams.sources import Format

_ROWS_PER_BATCH = 1024
_JSON = "__extra__"
_TEXTS = ("id", "task", "caption", "question", "context", "answer", "rationale", "prediction")
_TEXT_LISTS = ("choices", "answers")
_PART = pa.struct([("type", pa.string()), ("text", pa.string())])
_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.list_(_PART)), ("train", pa.bool_())])

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in _TEXTS),
        *((name, pa.list_(pa.string())) for name in _TEXT_LISTS),
        ("images", pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))),
        ("messages", pa.list_(_MESSAGE)),
        ("weight", pa.float64()),
        ("lineage", pa.string()),
        (_JSON, pa.string()),
    ],
    metadata={"mmkit": "record-1"},
)


class TableWriter:
    """Writes records as Arrow IPC (file or stream) or Parquet, a batch at a time."""

    def __init__(self, file: IO[bytes], fmt: Format, *, stream: bool) -> None:
        self._file = file
        self._rows: list[dict[str, Any]] = []
        if fmt == "parquet":
            self._writer: Any = pa.parquet.ParquetWriter(file, SCHEMA, compression="zstd")
        elif stream:
            self._writer = pa.ipc.new_stream(file, SCHEMA)
        else:
            self._writer = pa.ipc.new_file(file, SCHEMA)

    def write(self, record: Record) -> None:
        """Add one record. Raises DataError for what the schema cannot hold."""
        self._rows.append(to_columns(record))
        if len(self._rows) >= _ROWS_PER_BATCH:
            self._flush()

    def close(self) -> None:
        """Write the rest and the footer."""
        self._flush()
        self._writer.close()
        self._file.flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=SCHEMA))
            self._rows = []


def to_columns(record: Record) -> dict[str, Any]:
    """The record as a row of SCHEMA."""
    row: dict[str, Any] = {}
    rest: Record = {}
    for name, value in record.items():
        if name == "lineage" and isinstance(value, list):
            row[name] = orjson.dumps(value).decode()
        elif _fits(name, value):
            row[name] = value
        else:
            rest[name] = value
    try:
        row[_JSON] = orjson.dumps(rest, default=inline.as_json).decode() if rest else None
    except TypeError as error:
        raise DataError(f"the record cannot be written as a table row: {error}") from None
    return row


def from_columns(row: dict[str, Any]) -> Record:
    """The record in a row of SCHEMA, or of a table that somebody else wrote (nulls are left out there)."""
    record: Record = {name: value for name, value in row.items() if value is not None}
    rest = record.pop(_JSON, None)
    lineage = record.get("lineage")
    if isinstance(lineage, str):
        record["lineage"] = orjson.loads(lineage)
    for image in record.get("images") or ():
        if isinstance(image, dict):
            _drop_nulls(image)
    for message in record.get("messages") or ():
        if isinstance(message, dict):
            _drop_nulls(message)
            for part in message.get("content") or ():
                if isinstance(part, dict):
                    _drop_nulls(part)
    if isinstance(rest, str):
        record.update(inline.restore(orjson.loads(rest)))
    return record


def read_arrow(file: IO[bytes], shown: str) -> Iterator[Record]:
    """Records of an Arrow IPC stream or file; a stream may come through a pipe."""
    head = file.peek(6)[:6]  # type: ignore[attr-defined]
    if not head:
        return
    try:
        if head.startswith(b"ARROW1"):
            if not file.seekable():
                raise DataError(f"{shown}: an Arrow file cannot be read from a pipe (a stream can: --to arrow)")
            reader = pa.ipc.open_file(file)
            for i in range(reader.num_record_batches):
                yield from _records(reader.get_batch(i))
            return
        for batch in pa.ipc.open_stream(file):
            yield from _records(batch)
    except pa.ArrowInvalid as error:
        raise DataError(f"{shown}: broken or torn Arrow data: {error}") from None
    except OSError as error:
        raise DataError(f"{shown}: broken or torn Arrow data: {error}") from None


def read_parquet(path: str) -> Iterator[Record]:
    """Records of a Parquet file, a batch at a time."""
    try:
        with pa.parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=_ROWS_PER_BATCH):
                yield from _records(batch)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: broken or torn Parquet file: {error}") from None


def _records(batch: pa.RecordBatch) -> Iterator[Record]:
    for row in batch.to_pylist():
        yield from_columns(row)


def _drop_nulls(value: dict[str, Any]) -> None:
    for key in [key for key, item in value.items() if item is None]:
        del value[key]


def _fits(name: str, value: Any) -> bool:
    if name in _TEXTS:
        return type(value) is str
    if name in _TEXT_LISTS:
        return type(value) is list and all(type(item) is str for item in value)
    if name == "weight":
        return type(value) is float
    if name == "images":
        return type(value) is list and all(_is_image(item) for item in value)
    return name == "messages" and type(value) is list and all(_is_message(item) for item in value)


def _is_image(value: Any) -> bool:
    return (
        type(value) is dict
        and value.keys() <= {"bytes", "path"}
        and type(value.get("path", "")) is str
        and type(value.get("bytes", b"")) is bytes
    )


def _is_message(value: Any) -> bool:
    if type(value) is not dict or not {"role", "content"} <= value.keys() <= {"role", "content", "train"}:
        return False
    if type(value["role"]) is not str or type(value["content"]) is not list:
        return False
    return type(value.get("train", True)) is bool and all(
        type(part) is dict
        and "type" in part
        and part.keys() <= {"type", "text"}
        and all(type(v) is str for v in part.values())
        for part in value["content"]
    )
