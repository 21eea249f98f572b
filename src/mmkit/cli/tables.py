"""Answers that are tables: for a person on a terminal, rows for a pipe or a file."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmkit.errors import UsageError


def deliver(rows: Iterable[Mapping[str, Any]], table: Sequence[Sequence[str]], output: str | None) -> None:
    """Write `rows` to `output` or stdout; to a terminal show `table`, header first. See `write`."""
    if on_terminal(output):
        show(table)
    else:
        write(rows, output)


def on_terminal(output: str | None) -> bool:
    """Whether a person will read the answer. Raises UsageError where nobody could, as stdout is closed."""
    if output in (None, "-") and sys.stdout is None:
        raise UsageError("stdout is closed: name an output with -o FILE")
    return output is None and sys.stdout.isatty()


def write(rows: Iterable[Mapping[str, Any]], output: str | None) -> None:
    """Write `rows` to `output` or stdout: to a file in one step, in the format of its name; else as JSON lines."""
    import orjson

    from mmkit.streams import sinks
    from mmkit.streams.sources import format_of

    data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    if output in (None, "-"):
        _to_stdout(data)
        return
    target = Path(str(output))
    unfinished = target.with_name(target.name + ".part")
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(data)
        sinks.finalise(unfinished, target, format_of(target.name) or "jsonl")
        unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"-o {output}: cannot be written: {error.strerror}") from None


def _to_stdout(data: bytes) -> None:
    from mmkit.streams import sinks

    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        full = sinks.full_disk(error, None)
        if full is None:
            raise
        raise full from None


_LONGEST_UNCUT, _WIDE = 12, 10_000


def show(table: Sequence[Sequence[str]]) -> None:
    """Print a table to stdout; columns that are empty in every row are left out."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from mmkit.console import escape

    header, *body = table
    used = [i for i in range(len(header)) if any(row[i] for row in body)]
    drawn = Table(box=SIMPLE, show_edge=False)
    for i in used:
        # At least the longest word: a number that is cut in two is another number.
        words = [word for row in table for word in row[i].split()]
        drawn.add_column(Text(header[i]), overflow="fold", min_width=min(max(map(len, words)), _LONGEST_UNCUT))
    for row in body:
        drawn.add_row(*(Text(escape(row[i])) for i in used))
    # A terminal that is too narrow breaks the lines itself: nothing is left out.
    least = Console(width=_WIDE).measure(drawn).minimum
    Console(width=max(Console().width, least)).print(drawn)
