"""What make would run of the recipes: every option of every command stands by itself, and is that of its own target."""

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


@pytest.mark.parametrize("wanted", ["report", "weights-visatb-matched.jsonl"])
@pytest.mark.parametrize("methods", ["visatb visatb-matched", "visatb-matched visatb"])
def test_each_kind_of_difficulty_is_measured_whichever_is_wanted_first(
    methods: str, wanted: str, tmp_path: Path
) -> None:
    """What is set for a target holds for what it needs, too, unless it is private."""
    (tmp_path / "mmkit.toml").write_text("seed = 0\n")
    asked = ["make", "-n", "-f", str(EXAMPLES / "visatb" / "recipe.mk"), f"METHODS={methods}", wanted]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    calls = done.stdout.replace("\\\n", " ").splitlines()
    measured = {line.split("> ")[1]: line for line in calls if line.startswith("mmkit measure-contribution")}
    assert set(measured) == {"contribution-visatb.jsonl", "contribution-visatb-matched.jsonl"}
    assert [name for name, line in measured.items() if "--difficulty matched" in line] == [
        "contribution-visatb-matched.jsonl"
    ]


def test_real_data_that_are_not_there_are_named(tmp_path: Path) -> None:
    asked = ["make", "-C", str(EXAMPLES / "visatb"), "real", "MODEL=m", f"DATA={tmp_path}/no", f"BIN={tmp_path}"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and f"there is no {tmp_path}/no/train/*.jsonl" in done.stderr
