"""The journal of a run with `-o FILE`: what has been done, so that a killed run goes on.

While a run is under way its rows are in `FILE.part` and its journal in `FILE.journal`: a line that says what the run
is, then a line a checkpoint. A checkpoint holds how many input rows are wholly done and how long each output file was
at that moment; going on means cutting the files to these lengths and reading on from that row. When the run is done
the part file takes the place of FILE in one step and the journal goes away.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from mmkit.errors import UsageError


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state after `position` input rows: checksum of the input so far, file lengths in bytes, and counts."""

    position: int = 0
    crc: int = 0
    lengths: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


class Journal:
    """Reads and writes the journal of one output file."""

    def __init__(self, target: Path, identity: Mapping[str, Any]) -> None:
        """`identity` is what makes it the same run: command, arguments, contents of side inputs."""
        self.path = target.with_name(target.name + ".journal")
        self.part = target.with_name(target.name + ".part")
        self._target = target
        self._identity = {key: _plain(value) for key, value in identity.items()}
        self._file: Any = None
        self.last_position = 0
        """How many input rows the newest checkpoint calls done."""

    def last_checkpoint(self, sides: Mapping[str, Path] | None = None) -> Checkpoint:
        """Where to go on: the newest checkpoint that the files still hold, or the beginning if there is none.

        `sides` are the files beside the output, by the name that `Checkpoint.counts` has for their rows. Raises
        UsageError if the journal belongs to a run with other arguments, or a side file lacks rows that were written
        to it: going on would mix two runs, starting over would throw work away, and only the user knows which is right.
        """
        if not self.path.exists() or not self.part.exists():
            return Checkpoint()
        lines = self.path.read_bytes().split(b"\n")
        entries = [_loads(line) for line in lines]
        if not entries or not isinstance(entries[0], dict) or "run" not in entries[0]:
            return Checkpoint()
        self._require_same(entries[0]["run"])
        points = [Checkpoint(**entry) for entry in entries[1:] if isinstance(entry, dict)]
        for name, path in (sides or {}).items():
            if points and _is_another(points[-1], name, path):
                raise UsageError(
                    f"{path} does not hold the {name} rows of the unfinished run that {self.part} belongs to; "
                    f"name the file that does, or start over: rm {self.part} {self.path}"
                )
        # After a power failure the files may be shorter than the newest checkpoint says.
        files = {"output": self.part, **(sides or {})}
        whole = (point for point in reversed(points) if _is_whole(point, files))
        return next(whole, Checkpoint())

    def open(self, checkpoint: Checkpoint) -> None:
        """Start writing: a fresh journal, or behind the given checkpoint."""
        first = orjson.dumps({"run": self._identity})
        begin = [first] if not checkpoint.position else [first, orjson.dumps(asdict(checkpoint))]
        temporary = self.path.with_name(self.path.name + ".new")
        temporary.write_bytes(b"\n".join(begin) + b"\n")
        temporary.replace(self.path)
        self._file = self.path.open("ab", buffering=0)
        self.last_position = checkpoint.position

    def add(self, checkpoint: Checkpoint) -> None:
        """One more checkpoint. The output files must have been flushed before."""
        self._file.write(orjson.dumps(asdict(checkpoint)) + b"\n")
        self.last_position = checkpoint.position

    def close(self) -> None:
        """Stop writing, leaving the journal for a later run."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def finish(self) -> None:
        """The run is done: forget the journal and the part file."""
        self.close()
        self.part.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _require_same(self, other: Mapping[str, Any]) -> None:
        for key in sorted({*self._identity, *other}):
            mine, theirs = self._identity.get(key), other.get(key)
            if mine != theirs:
                raise UsageError(
                    f"{self.part} belongs to an unfinished run with {key} {_shown(theirs)}, now {_shown(mine)}; "
                    f"give the same arguments to go on with it, or start over: rm {self.part} {self.path}"
                )


def _is_another(point: Checkpoint, name: str, path: Path) -> bool:
    """Whether a side file is not the one that rows were written to up to a checkpoint."""
    if name not in point.lengths:
        return bool(point.counts.get(name))
    return point.lengths[name] > 0 and (not path.is_file() or path.stat().st_size == 0)


def _is_whole(point: Checkpoint, files: Mapping[str, Path]) -> bool:
    """Whether the files are as long as they were at a checkpoint."""
    return all(path.stat().st_size >= point.lengths[name] for name, path in files.items() if point.lengths.get(name))


class BackgroundSync:
    """Has a growing file written to the disk while the run goes on, so that little is left to wait for at its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, unless the last one is still at it. The system call runs without Python's lock."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._sync, name="mmkit-sync", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Wait for the one under way."""
        if self._thread is not None:
            self._thread.join()

    def _sync(self) -> None:
        with suppress(OSError):  # what matters here is reported by the sync at the end, or by the next write
            sync(self._path)


def sync(path: Path) -> None:
    """Have the file's bytes on the disk before what comes next."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value, default=str))


def _loads(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return None  # the torn last line of a killed run


def _shown(value: Any) -> str:
    return orjson.dumps(value).decode()[:80]
