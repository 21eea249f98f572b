"""How the tests start a command, and what they get back."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}
MMKIT = [sys.executable, "-c", "import sys; sys.argv[0] = 'mmkit'; from mmkit.cli.main import main; main()"]


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: bytes
    err: str

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Mmkit = Callable[..., Done]


def on_terminal(arguments: list[object], directory: Path, **environment: str) -> str:
    """What the command shows on a terminal, on stdout alone."""
    ours, theirs = pty.openpty()
    command = subprocess.Popen(
        [*MMKIT, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        cwd=directory,
        env={**ENVIRONMENT, "TERM": "xterm", **environment},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            read = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not read:
            break
        shown += read
    os.close(ours)
    assert command.wait(timeout=60) == 0
    return shown.decode().replace("\r\n", "\n")
