"""What goes to a person: lines on stderr, progress on a terminal, the summary of a run.

Nothing here writes to stdout, which belongs to records. Text from records is hostile (terminal escapes, control
characters, megabytes) until `escape` has been over it.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

_SHOWN_CHARS = 2000


def escape(text: str, limit: int = _SHOWN_CHARS) -> str:
    """The text with control characters made visible and cut to `limit` characters."""
    cut = text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in cut)


def say(message: str) -> None:
    """One line on stderr, if there is one."""
    if sys.stderr is None:  # closed by whoever started us
        return
    sys.stderr.write(escape(message) + "\n")
    sys.stderr.flush()


def seconds(duration_s: float) -> str:
    """A duration for people: "0.4 s", "12 s", "3 min 20 s", "2 h 5 min"."""
    if duration_s < 10:
        return f"{duration_s:.1f} s"
    whole = round(duration_s)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Progress:
    """A counter on stderr that is drawn on a terminal only, a few times a second at most.

    Use it as a context manager; `advance` is cheap enough to call for every row.
    """

    _EVERY_S = 0.2

    def __init__(self, label: str, unit: str = "rows") -> None:
        self._label, self._unit = label, unit
        self._done = 0
        self._live = sys.stderr is not None and sys.stderr.isatty()
        self._bar: Any = None
        self._next_draw = 0.0

    def __enter__(self) -> Progress:
        return self

    @property
    def done(self) -> int:
        """What has been counted so far."""
        return self._done

    def advance(self, count: int = 1, *, total: int | None = None, note: str = "") -> None:
        """Count `count` more, of `total` if that is known by now."""
        self._done += count
        if not self._live:
            return
        now = time.monotonic()
        if now < self._next_draw:
            return
        self._next_draw = now + self._EVERY_S
        if self._bar is None:
            self._start()
        self._bar[0].update(self._bar[1], completed=self._done, total=total, note=note)

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(self._unit, markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        bar.start()
        self._bar = (bar, bar.add_task(self._label, total=None, note=""))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar[0].stop()
