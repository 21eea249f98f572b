"""What `make smoke` of each recipe would run: every option of every command stands by itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("recipe", ["adamllm", "mlan", "mint", "visatb"])
def test_no_option_is_glued_to_the_word_before_it(recipe: str, tmp_path: Path) -> None:
    """Make strips the blank that a variable's value begins with."""
    copy = shutil.copytree(EXAMPLES / recipe, tmp_path / recipe, ignore=shutil.ignore_patterns("work"))
    asked = ["make", "-n", "-C", str(copy), "smoke", f"BIN={Path(sys.executable).parent}"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip().startswith("mmkit ")]
    assert {line.split()[1] for line in lines} >= {"finetune", "predict"}
    assert [line for line in lines if re.search(r"[^\s(]--[a-z]", line)] == []
