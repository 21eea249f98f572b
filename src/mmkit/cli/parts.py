"""Outputs of which each holds a part of the rows: DIR/PART.jsonl, or as --to says, one pass over the input for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmkit.cli.options import Streams
from mmkit.errors import UsageError


def from_files(streams: Streams) -> bool:
    """Whether the input can be read more than once: no stdin, named pipe or the shell's <(…) is in it."""
    return bool(streams.inputs) and not any(_is_pipe(name) for name in streams.inputs or ())


def require_room(option: str, directory: str, parts: Sequence[str], streams: Streams, *, instead: str = "") -> None:
    """Raise UsageError for what a pass a part cannot do.

    `option` is the one that names the directory, `instead` says what else there is for a pipe.
    """
    if not from_files(streams):
        raise UsageError(f"{option} reads its input once a part, which a pipe cannot do: name a file{instead}")
    if streams.output is not None or streams.dropped is not None:
        raise UsageError(f"{option} names the outputs itself and drops nothing; leave out -o and --dropped")
    for part in parts:
        target = Path(path_of(directory, part, streams)).resolve()
        if any(Path(name).resolve() == target for name in streams.inputs or ()):
            raise UsageError(f"{option} {directory}: the part {part!r} would overwrite the input")


def path_of(directory: str, part: str, streams: Streams) -> str:
    """Where a part goes: under a name that says its format, by which the next command reads it."""
    return f"{directory}/{part}.{streams.to_format or 'jsonl'}"


def _is_pipe(name: str) -> bool:
    path = Path(name)
    return name == "-" or (path.exists() and not path.is_file())
