"""How a run is asked to stop, and how it says that it did. No torch here.

A request is a signal to this process, or a file OUT/checkpoints/stop, by which every process of a run is reached.
"""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from mmkit.errors import LimitError
from mmkit.training.job import FOLDER

STOP_FILE = "stop"
"""In OUT/checkpoints: asks a run to stop. It may hold the name of the signal that was the cause."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_NAMES = frozenset(number.name for number in _SIGNALS)
_INTERRUPTED = 130


class Stopped(LimitError):  # noqa: N818 - no error: it was asked to
    """The run stopped because it was asked to, by `why` ("SIGTERM", "SIGINT", "stop file"; None where only another
    process was asked), and left a checkpoint of `step` steps. After SIGINT the exit code is that of an interrupted
    command."""

    def __init__(self, why: str | None, step: int, out: Path) -> None:
        by = "" if why is None else f" by {why}"
        super().__init__(f"stopped{by} after step {step:,} of {out}; the same command goes on from there")
        self.why, self.step, self.out = why, step, out
        if why == signal.SIGINT.name:
            self.exit_code = _INTERRUPTED


class StopSignal:
    """While it is entered, SIGTERM and Ctrl-C are requests to stop in place of the end; a second Ctrl-C is the end.

    Signals that the process ignores (as a shell's background jobs do) stay ignored. Only the main thread receives
    signals: entered in another one, the stop file alone is heard. The file is removed on leaving.
    """

    def __init__(self, out: Path) -> None:
        self.signal: str | None = None
        """The name of the signal that this process received."""
        self._file = out / FOLDER / STOP_FILE
        self._by_file: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def requested(self) -> str | None:
        """Who asked: "SIGTERM", "SIGINT" or "stop file"; None if nobody did. Once somebody has, that stays so."""
        if self.signal is None and self._by_file is None:
            self._by_file = _content(self._file)
        return self.signal or self._by_file

    def pass_on(self) -> None:
        """Let the other processes of the run know, by the file. A run that has ended has no place for it."""
        partial = self._file.with_suffix(".partial")
        with suppress(FileNotFoundError):
            partial.write_text(self.signal or "", encoding="utf-8")
            partial.replace(self._file)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if name == self.signal == signal.SIGINT.name:
            raise KeyboardInterrupt
        self.signal = name

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._file.unlink(missing_ok=True)


def _content(file: Path) -> str | None:
    """The signal's name that a stop file holds, or else what it is; None where there is none."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    return text if text in _NAMES else "stop file"
