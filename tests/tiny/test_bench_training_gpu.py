"""`make bench-gpu` runs, as far as a CPU can tell: tiny models, the same cases, the same table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.tiny

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "training_gpu.py"


def test_the_gpu_benchmark_runs_end_to_end_on_tiny_models(tmp_path: Path) -> None:
    cases = ["2B-lora-pack", "2B-full-checkpointing", "7B-full-pack-checkpointing-fsdp"]
    words = [sys.executable, str(SCRIPT), "--smoke", "--out", str(tmp_path), *cases]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if line[:1] == "|"
    ]
    figures = {name: cells for name, *cells in table[2:]}
    assert set(figures) == set(cases)
    for name in ("2B-lora-pack", "2B-full-checkpointing"):
        rows, *measured = figures[name]
        assert rows == "2" and all(float(figure.replace(",", "")) > 0 for figure in measured[:3])
        assert measured[3:] == ["", ""]  # MFU and GPU memory: of a CPU there are none
        assert "aten::" in (tmp_path / f"{name}.txt").read_text()
    assert figures[cases[2]][0] == "skipped: needs several GPUs"
