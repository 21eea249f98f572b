"""How long `--help` takes, as a ratio to a bare typer app with as many empty commands."""

from __future__ import annotations

import tempfile
from pathlib import Path

from measure import HEAD, compare

from mmkit.cli.main import COMMANDS

LIMIT = 1.3
BARE = f"""
import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def empty() -> None:
    "An empty command."


for name in {COMMANDS!r}:
    app.command(name)(empty)
app()
"""


def main() -> None:
    print(f"\n## Start-up, against a bare typer app with {len(COMMANDS)} empty commands\n\n{HEAD}")
    with tempfile.TemporaryDirectory() as directory:
        bare = Path(directory, "bare.py")
        bare.write_text(BARE)
        for command in ("", *COMMANDS):
            words = [*command.split(), "--help"]
            compare(f"mmkit {' '.join(words)}", ["-m", "mmkit", *words], [str(bare), *words], LIMIT)


if __name__ == "__main__":
    main()
