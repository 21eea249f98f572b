"""Where rows come from: files or stdin, as JSON lines (plain, gz, zst), a JSON list, Arrow IPC or Parquet.

A format follows the file's suffix; stdin is told by its first bytes. `read` never stops at a bad row: it yields it as
`Rejected`, in its place, and what becomes of it is decided by the run.
"""

from __future__ import annotations

import io
import sys
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Literal, NamedTuple, cast

import orjson

from mmkit.errors import DataError, MissingInputError, UsageError
from mmkit.records import Record
from mmkit.streams import inline
from mmkit.streams.rows import Check, Rejected, Row, as_record, parse, require_exact

Format = Literal["jsonl", "json", "arrow", "parquet"]
Wanted = Callable[[int], bool]
STDIN = "-"
_BUFFER = 1 << 20
_GZIP, _ZSTD, _ARROW_FILE, _ARROW_STREAM, _PARQUET = (
    b"\x1f\x8b",
    b"\x28\xb5\x2f\xfd",
    b"ARROW1",
    b"\xff\xff\xff\xff",
    b"PAR1",
)
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".arrow": "arrow", ".parquet": "parquet"}


def format_of(path: str) -> Format | None:
    """The format that a path's suffix names, a compression suffix aside; None where it names none."""
    name = Path(path)
    if name.suffix in (".gz", ".zst"):
        name = name.with_suffix("")
    return cast("Format | None", _SUFFIXES.get(name.suffix))


@dataclass(frozen=True, slots=True)
class NamedRows:
    """An input that is no file: rows from elsewhere (a set of the hub), the same and in the same order every time.

    `name` is what messages call it.
    """

    name: str
    rows: Iterable[Record]

    def __str__(self) -> str:
        return self.name


def read(
    inputs: Sequence[str | NamedRows],
    *,
    fmt: Format | None = None,
    kind: Check = "record",
    start: int = 0,
    checksum: bool = False,
    wanted: Wanted | None = None,
) -> Iterator[Row | Rejected]:
    """All rows of `inputs`, one file after the other; no input, or "-", is stdin.

    Lines at positions that `wanted` says no to are not parsed: such a row has an empty record.

    Rows before position `start` are passed over (and go into the checksum), but for the last of them, which comes out
    first, empty: by its checksum a run that goes on tells whether the input is the same. Raises MissingInputError for
    a file that is not there, before the first row; DataError for a file whose container is broken.
    """
    sources = list(inputs) or [STDIN]
    for name in sources:
        if isinstance(name, NamedRows):
            continue
        if name != STDIN and not Path(name).exists():
            raise MissingInputError(f"{name}: no such file")
        if name != STDIN and Path(name).is_dir():
            raise MissingInputError(f"{name}: is a directory; name the files in it")
    place = _Place(0, 0 if checksum else None)
    for name in sources:
        if isinstance(name, NamedRows):
            place = yield from _read_whole(name.rows, name.name, kind, place, start)
        else:
            place = yield from _read_one(name, fmt, kind, place, start, wanted)


def read_rows(inputs: Sequence[str], *, kind: Check = "record", fmt: Format | None = None) -> Iterator[Row]:
    """The rows of an input that is needed whole. The first bad row is an error with file and line."""
    for row in read(inputs, fmt=fmt, kind=kind):
        if isinstance(row, Rejected):
            raise type(row.error)(f"{row.source}:{row.line}: {row.error}")
        yield row


def read_records(path: str, *, kind: Check = "record", fmt: Format | None = None) -> Iterator[Record]:
    """The records of one side input (captions, weights, scores), as `read_rows`."""
    return (row.record for row in read_rows([path], kind=kind, fmt=fmt))


class _Place(NamedTuple):
    """How far reading has come: rows so far, and their checksum if it is wanted."""

    position: int
    crc: int | None


_Reading = Generator["Row | Rejected", None, _Place]


def _read_one(name: str, fmt: Format | None, kind: Check, place: _Place, start: int, wanted: Wanted | None) -> _Reading:
    shown = "<stdin>" if name == STDIN else name
    with _open(name) as raw_file:
        head = raw_file.peek(8)[:8]
        file = _decompressed(raw_file, head, shown)
        if file is not raw_file:
            head = _whole(shown, lambda: file.peek(8)[:8])
        chosen = fmt or (format_of(name) if name != STDIN else None) or _sniffed(head)
        if chosen == "jsonl":
            return (yield from _read_lines(file, shown, kind, place, start, wanted))
        return (yield from _read_whole(_containers(chosen, file, name, shown), shown, kind, place, start))


def _open(name: str) -> io.BufferedReader:
    try:
        file = io.FileIO(sys.stdin.fileno(), closefd=False) if name == STDIN else io.FileIO(name)
    except OSError as error:
        raise MissingInputError(f"{name}: {error.strerror}") from None
    return io.BufferedReader(file, _BUFFER)


def open_to_seek(name: str) -> IO[bytes]:
    """A file to look things up in: the one named, or a temporary one with what a compressed file or a pipe holds.

    "-" is stdin. Raises MissingInputError, and DataError where the compression is broken.
    """
    file = _open(name)
    plain = _decompressed(file, file.peek(8)[:8], name)
    if plain is file and file.seekable():
        return file
    with file:
        return _copied(plain, name)


def _copied(file: IO[bytes], shown: str) -> IO[bytes]:
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        copy.writelines(_lines(file, shown))
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy


def _decompressed(file: io.BufferedReader, head: bytes, shown: str) -> io.BufferedReader:
    if head.startswith(_GZIP):
        import gzip

        return io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=file)), _BUFFER)
    if head.startswith(_ZSTD):
        return io.BufferedReader(cast(io.RawIOBase, zstd().ZstdFile(file)), _BUFFER)
    return file


def zstd() -> ModuleType:
    """The standard library's module from Python 3.14 on, before that its backport."""
    try:
        from compression import zstd as module
    except ModuleNotFoundError:
        from backports import zstd as module
    return cast(ModuleType, module)


def _sniffed(head: bytes) -> Format:
    if head.startswith((_ARROW_FILE, _ARROW_STREAM)):
        return "arrow"
    return "parquet" if head.startswith(_PARQUET) else "jsonl"


def _read_lines(file: IO[bytes], shown: str, kind: Check, place: _Place, start: int, wanted: Wanted | None) -> _Reading:
    position, crc = place
    checksum = crc or 0
    number = 0
    for raw_line in _lines(file, shown):
        number += 1
        raw = raw_line.strip()
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if not raw:
            continue
        if crc is not None:
            checksum = zlib.crc32(raw, checksum)
        if position < start:
            if position == start - 1:
                yield Row({}, position, shown, number, None, checksum)
            position += 1
            continue
        if wanted is not None and not wanted(position):
            yield Row({}, position, shown, number, None, checksum)
            position += 1
            continue
        try:
            record, as_read, has_made_id = parse(raw, number, kind)
            yield Row(record, position, shown, number, raw if as_read else None, checksum, has_made_id)
        except DataError as error:
            if not raw_line.endswith(b"\n") and str(error).startswith("invalid JSON"):
                error = DataError(f"the last line is torn (no newline at its end): {error}")
            text = raw[:_SHOWN_OF_BAD_LINE].decode("utf-8", "backslashreplace")
            yield Rejected(position, shown, number, text, error, checksum)
        position += 1
    return _Place(position, None if crc is None else checksum)


_SHOWN_OF_BAD_LINE = 1 << 26


def _lines(file: IO[bytes], shown: str) -> Iterator[bytes]:
    """The file's lines; a stream that breaks off in the middle of its compression is bad data, not a bug."""
    try:
        yield from file
    except Exception as error:  # noqa: BLE001 - told apart in _broken
        raise _broken(error, shown) from None


def _whole(shown: str, read: Callable[[], bytes]) -> bytes:
    """What `read` gives, with its errors as those of `_lines`."""
    try:
        return read()
    except Exception as error:  # noqa: BLE001 - told apart in _broken
        raise _broken(error, shown) from None


def _broken(error: Exception, shown: str) -> Exception:
    # gzip raises EOFError, zlib.error and an OSError without a number; zstd an error of its own, not imported here.
    torn = isinstance(error, EOFError | zlib.error) or type(error).__name__ == "ZstdError"
    if torn or (isinstance(error, OSError) and error.errno is None):
        return DataError(f"{shown}: the compressed stream is broken or torn: {error}")
    return error


def _containers(fmt: Format, file: io.BufferedReader, name: str, shown: str) -> Iterable[Record]:
    if fmt == "json":
        return _read_json_list(file, shown)
    from mmkit.streams import tables

    if fmt == "arrow":
        return tables.read_arrow(file, shown)
    if name == STDIN:
        raise UsageError("Parquet cannot be read from a pipe: name the file, or pipe Arrow (--to arrow)")
    return tables.read_parquet(name)


def _read_json_list(file: IO[bytes], shown: str) -> Iterable[Record]:
    data = _whole(shown, file.read).removeprefix(b"\xef\xbb\xbf").strip()
    if not data:
        return []
    if data.startswith(b"{"):
        raise DataError(f"{shown}: expected a JSON list of records (for one object a line: --from jsonl)")
    try:
        rows = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{shown}:{error.lineno}: invalid JSON: {error.msg}") from None
    if not isinstance(rows, list):
        raise DataError(f"{shown}: expected a JSON list of records")
    try:
        require_exact(data, rows)
    except DataError as error:
        raise DataError(f"{shown}: {error}") from None
    return rows


def _read_whole(rows: Iterable[Record], shown: str, kind: Check, place: _Place, start: int) -> _Reading:
    """Rows of a container that is no text: checked like lines, numbered from 1, with no original bytes."""
    position, crc = place
    checksum = crc or 0
    for number, value in enumerate(rows, 1):
        raw = orjson.dumps(value, default=inline.as_any_json)
        if crc is not None:
            checksum = zlib.crc32(raw, checksum)
        try:
            if position >= start:
                record = _checked(value, raw, number, kind)
                yield Row(record, position, shown, number, None, checksum, record is not value and not value.get("id"))
            elif position == start - 1:
                yield Row({}, position, shown, number, None, checksum)
        except DataError as error:
            yield Rejected(position, shown, number, raw.decode("utf-8", "replace"), error, checksum)
        position += 1
    return _Place(position, None if crc is None else checksum)


def _checked(value: object, raw: bytes, number: int, kind: Check) -> Record:
    if not isinstance(value, dict):
        raise DataError(f"expected an object, got {raw[:40].decode('utf-8', 'replace')}")
    return value if kind == "json" else as_record(value, raw, number)
