"""Where rows go: stdout or a file, as JSON lines, Arrow IPC or Parquet.

`-o FILE` is written as JSON lines into a part file first, whatever FILE's format, because lines can be cut at a
checkpoint and a compressed or columnar file cannot; the finished part file is then renamed or converted.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Protocol, cast

import orjson

from mmkit.errors import DataError, LimitError, UsageError
from mmkit.records import Record
from mmkit.streams import inline
from mmkit.streams.journal import sync
from mmkit.streams.rows import Row, encode
from mmkit.streams.sources import Format, zstd

_BUFFER = 1 << 20
_FLUSH_EVERY_S = 0.2


class Sink(Protocol):
    """Takes the rows of one output."""

    def write(self, row: Row) -> None:
        """Add a row. Raises DataError where the format cannot hold it."""
        ...

    def flush(self) -> int:
        """Hand everything to the operating system; the number of bytes written so far."""
        ...

    def close(self) -> None:
        """Write what is missing for the output to be whole."""
        ...

    def abandon(self) -> None:
        """Let go of the output as it is, after a failure."""
        ...


class LineSink:
    """JSON lines into a binary file. Rows that are unchanged go out as the bytes they came in as."""

    def __init__(self, file: IO[bytes], length: int = 0, *, part: bool = False, live: bool = False) -> None:
        """`length` is how much the file holds already; `live` flushes every now and then, for a reader that waits."""
        self._file, self._length, self._live = file, length, live
        self._encode: Callable[[Record], bytes] = encode_part if part else encode
        self._flushed_at = time.monotonic()

    def write(self, row: Row) -> None:
        raw = row.raw
        if raw is None:
            raw = self._encode(row.record)
        self.write_line(raw)

    def write_line(self, line: bytes) -> None:
        """Add one line, given without its newline."""
        self._length += len(line) + 1
        self._file.write(line + b"\n")
        if self._live and time.monotonic() - self._flushed_at > _FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> int:
        self._file.flush()
        self._flushed_at = time.monotonic()
        return self._length

    def close(self) -> None:
        self._file.close()

    def abandon(self) -> None:
        _close_anyhow(self._file)


class TableSink:
    """Arrow IPC or Parquet into a binary file."""

    def __init__(self, file: IO[bytes], fmt: Format, *, stream: bool) -> None:
        from mmkit.streams import tables

        self._file = file
        self._writer = tables.TableWriter(file, fmt, stream=stream)

    def write(self, row: Row) -> None:
        self._writer.write(row.record)

    def flush(self) -> int:
        return 0

    def close(self) -> None:
        self._writer.close()
        self._file.close()

    def abandon(self) -> None:
        _close_anyhow(self._file)


def _close_anyhow(file: IO[bytes]) -> None:
    """Close a file whose last bytes may have nowhere to go: a full disk, a reader that went away."""
    with contextlib.suppress(OSError):
        file.close()


def to_stdout(fmt: Format | None) -> Sink:
    """The sink for a run without `-o`."""
    if sys.stdout is None:
        raise UsageError("stdout is closed: name an output with -o FILE")
    # A buffer of our own over the same descriptor: sys.stdout must not be closed, and text mode must not touch bytes.
    file = io.BufferedWriter(io.FileIO(os.dup(sys.stdout.fileno()), "wb"), _BUFFER)
    if fmt in (None, "jsonl"):
        return LineSink(file, live=True)
    if fmt == "json":
        raise UsageError("a JSON list goes to a file: -o FILE.json")
    return TableSink(file, cast(Format, fmt), stream=True)


@contextlib.contextmanager
def stdout_on_stderr() -> Iterator[None]:
    """While this lasts, what is written to descriptor 1 comes out on stderr. Open sinks are not concerned.

    Model libraries print, and so do the processes that they start, which inherit the descriptor. One such line among
    the records would spoil the output.
    """
    stdout = os.dup(1)
    close_stdout()
    try:
        yield
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def close_stdout() -> None:
    """From now on, what is written to descriptor 1 comes out on stderr, and whoever reads our output sees its end."""
    if sys.stdout is not None:
        sys.stdout.flush()
    os.dup2(2, 1)


def to_device(path: Path) -> LineSink:
    """The sink for `-o` with something that is no regular file: a named pipe, /dev/null."""
    return LineSink(io.BufferedWriter(io.FileIO(path, "wb"), _BUFFER), live=True)


def to_part(path: Path, length: int, fmt: Format) -> LineSink:
    """The part file of a run with `-o`, cut to `length` bytes. `fmt` is what it will be turned into."""
    return LineSink(reopened(path, length), length, part=fmt in ("arrow", "parquet"))


def reopened(path: Path, length: int) -> IO[bytes]:
    """The file opened for appending behind its first `length` bytes; a pipe or a device is opened as it is."""
    if path.exists() and not path.is_file():
        return io.BufferedWriter(io.FileIO(path, "wb"), _BUFFER)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("r+b" if path.exists() else "w+b", buffering=_BUFFER)
    file.truncate(length)
    file.seek(length)
    return file


def finalise(part: Path, target: Path, fmt: Format) -> None:
    """Put the finished part file in the target's place, in the target's format, in one step."""
    if fmt == "jsonl" and target.suffix not in (".gz", ".zst"):
        finished = part
    else:
        finished = target.with_name(target.name + ".finished")
        _convert(part, finished, target, fmt)
    sync(finished)
    finished.replace(target)
    sync_directory(target.parent)


def sync_directory(path: Path) -> None:
    """Have a rename in this directory on the disk."""
    sync(path)


def _convert(part: Path, finished: Path, target: Path, fmt: Format) -> None:
    with finished.open("wb", buffering=_BUFFER) as plain:
        file = _compressed(plain, target.suffix)
        if fmt == "jsonl":
            with part.open("rb") as lines:
                while chunk := lines.read(_BUFFER):
                    file.write(chunk)
        elif fmt == "json":
            _write_json_list(part, file)
        else:
            table = TableSink(file, fmt, stream=False)
            for record in _part_records(part):
                table.write(Row(record, 0, "", 0))
            table.close()
        if file is not plain:
            file.close()


def _compressed(file: IO[bytes], suffix: str) -> IO[bytes]:
    if suffix == ".gz":
        import gzip

        # No name and no time in the header: equal rows give equal files.
        return cast("IO[bytes]", gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0))
    if suffix == ".zst":
        return cast("IO[bytes]", zstd().ZstdFile(file, "w"))
    return file


def _write_json_list(part: Path, file: IO[bytes]) -> None:
    separator = b"[\n"
    with part.open("rb") as lines:
        for line in lines:
            file.write(separator + line.rstrip(b"\n"))
            separator = b",\n"
    file.write(b"\n]\n" if separator == b",\n" else b"[]\n")


def encode_part(record: Record) -> bytes:
    """A line of a part file: like `encode`, with an image's inline bytes as base64, since a table may follow."""
    try:
        return orjson.dumps(record, default=inline.as_json)
    except TypeError as error:
        raise DataError(f"the record cannot be written as JSON: {error}") from None


def _part_records(part: Path) -> Iterator[Record]:
    with part.open("rb") as lines:
        for line in lines:
            yield inline.restore(orjson.loads(line))


def full_disk(error: OSError, path: str | None) -> LimitError | None:
    """What to tell the user when a write failed for want of space; None if that was not the reason."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        way_out = "" if path is None else "; free some space and run the same command again"
        return LimitError(f"{path or 'stdout'}: {os.strerror(error.errno)}{way_out}")
    return None
