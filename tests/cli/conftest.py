"""Real commands in real processes."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from cli_kit import ENVIRONMENT, MMKIT, Done, Mmkit


@pytest.fixture
def mmkit(tmp_path: Path) -> Mmkit:
    """Runs `mmkit ARGUMENTS` in tmp_path, with stdin empty unless given."""

    def run(*arguments: object, stdin: bytes = b"", **options: Any) -> Done:
        done = subprocess.run(
            [*MMKIT, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            cwd=tmp_path,
            env=ENVIRONMENT,
            timeout=120,
            check=False,
            **options,
        )
        return Done(done.returncode, done.stdout, done.stderr.decode())

    return run


@pytest.fixture
def shell(tmp_path: Path) -> Callable[[str], Done]:
    """Runs a line of bash in tmp_path with `mmkit` on the path, as `set -euo pipefail` users do."""
    binaries = tmp_path / ".bin"
    binaries.mkdir()
    program = binaries / "mmkit"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(MMKIT)} "$@"\n')
    program.chmod(0o755)

    def run(line: str) -> Done:
        done = subprocess.run(
            ["bash", "-c", f"set -euo pipefail\n{line}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=tmp_path,
            env={**ENVIRONMENT, "PATH": f"{binaries}:{ENVIRONMENT['PATH']}"},
            timeout=120,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr.decode())

    return run


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes rows (or bytes as they are) to a file in tmp_path; its name."""

    def put(name: str, rows: Iterable[Any] | bytes) -> str:
        data = rows if isinstance(rows, bytes) else "".join(json.dumps(row) + "\n" for row in rows).encode()
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
        return name

    return put


@pytest.fixture
def picture(tmp_path: Path) -> Callable[[str], str]:
    """Writes a small image to a file in tmp_path; its name."""

    def put(name: str) -> str:
        from PIL import Image

        Image.new("RGB", (16, 16), "navy").save(tmp_path / name)
        return name

    return put
