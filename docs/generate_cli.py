"""Write docs/cli.md from the commands' own help, or with --check say whether it is up to date."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mmkit.cli.main import COMMANDS

TARGET = Path(__file__).with_name("cli.md")
HEAD = """# The commands

Generated from `--help` by `make docs`; `make check` compares.
"""


def main() -> int:
    text = HEAD + "".join(section(command) for command in ("", *COMMANDS))
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if TARGET.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{TARGET.name} is not what --help says; run: make docs\n")
    return 1


def section(command: str) -> str:
    """One command's help as a section."""
    words = [sys.executable, "-m", "mmkit", *command.split(), "--help"]
    # Outside of any project, so that no mmkit.toml has a say in the defaults shown.
    done = subprocess.run(
        words, capture_output=True, text=True, check=True, cwd="/", env={**os.environ, "COLUMNS": "100"}
    )
    text = done.stdout.replace("python -m mmkit", "mmkit").rstrip()
    return f"\n## {f'mmkit {command}'.strip()}\n\n```\n{text}\n```\n"


if __name__ == "__main__":
    sys.exit(main())
