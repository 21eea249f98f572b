"""Sessions as a user sees them: each `*.session` file holds command lines after `$ ` and what they print, in a folder
that holds a copy of `files/`.

Run with UPDATE_TRANSCRIPTS=1 to rewrite the files from what is printed now, then read the difference.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SESSIONS = sorted(Path(__file__).parent.glob("*.session"))
_DURATION = re.compile(r"\d+(\.\d+)? s\b")


@pytest.mark.parametrize("session", SESSIONS, ids=lambda path: path.stem)
def test_the_session_prints_what_it_printed(session: Path, tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parent / "files", tmp_path, dirs_exist_ok=True)
    expected = session.read_text(encoding="utf-8")
    actual = "".join(f"$ {line}\n{output_of(line, tmp_path)}" for line in commands(expected))
    if os.environ.get("UPDATE_TRANSCRIPTS"):
        session.write_text(actual, encoding="utf-8")
    assert actual == expected


def commands(text: str) -> list[str]:
    """The command lines of a session."""
    return [line[2:] for line in text.splitlines() if line.startswith("$ ")]


def output_of(line: str, directory: Path) -> str:
    """What the command prints, stdout before stderr (a pipe mixes them at random), and an exit code that is not 0."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=directory,
        env={**os.environ, "PATH": path, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    stderr = _DURATION.sub("0.0 s", done.stderr.replace(str(directory), "HERE"))
    text = done.stdout + in_order(stderr)
    return text + (f"[exit {done.returncode}]\n" if done.returncode else "")


def in_order(text: str) -> str:
    """Summaries of the commands of one pipe come in any order: sort each run of them."""
    lines = text.splitlines(keepends=True)
    start = 0
    while start < len(lines):
        end = start
        while end < len(lines) and lines[end].startswith("mmkit "):
            end += 1
        lines[start:end] = sorted(lines[start:end])
        start = max(end, start + 1)
    return "".join(lines)
