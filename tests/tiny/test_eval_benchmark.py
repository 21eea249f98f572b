"""`eval --benchmark --model` is convert, predict and eval in one process: the same rows as the three in a pipe."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from distributed_kit import ENVIRONMENT

pytestmark = pytest.mark.tiny

MMKIT = [sys.executable, "-c", "import sys; sys.argv[0] = 'mmkit'; from mmkit.cli.main import main; main()"]
FIXTURES = Path(__file__).parents[1] / "benchmarks"
ROOT = ["--image-root", str(FIXTURES / "images")]


def mmkit(folder: Path, *arguments: str) -> tuple[bytes, str]:
    done = subprocess.run([*MMKIT, *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout, done.stderr.decode()


@pytest.mark.parametrize("name", ["scienceqa", "pope"])
def test_a_benchmark_in_one_command_and_in_three(name: str, tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    lines = [json.loads(line) for line in (FIXTURES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    rows: list[Any] = [line["row"] for line in lines]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked = ["--model", str(tiny_model("qwen2_vl")), "--device", "cpu", "--max-new-tokens", "4", *ROOT]
    rejects = ["--rejects", "rejects.jsonl"]
    once, said = mmkit(tmp_path, "eval", "--benchmark", name, "set.jsonl", *asked, *rejects)
    mmkit(tmp_path, "convert", "--benchmark", name, "set.jsonl", "-o", "tasks.jsonl", *ROOT, *rejects)
    mmkit(tmp_path, "predict", "tasks.jsonl", "-o", "predictions.jsonl", *asked)
    assert once == mmkit(tmp_path, "eval", "predictions.jsonl")[0]
    scores = [json.loads(line) for line in once.splitlines()]
    assert {score["task"] for score in scores} == {
        record["task"] for line in lines for record in line.get("gives", ())
    } | {name}
    assert f"{sum('rejected' in line for line in lines)} rejected" in said
