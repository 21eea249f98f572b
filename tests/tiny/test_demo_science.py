"""`make demo` learns, on three seeds, and says the same twice.

Each run is the user's own command line in a copy of examples/adamllm: about 200 CPU-seconds on one thread.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.science, pytest.mark.tiny, pytest.mark.timeout(3600)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "adamllm"
KINDS = {
    "word": "which word is shown?",
    "thickness": "how thick is it?",
    "slant": "which way does it slant?",
    "place": "where is it?",
}
SEEDS = (0, 1, 2)
MADE = ("base.jsonl", "seeds.jsonl", "synthesizer.jsonl", "tasks.jsonl", "train.jsonl", "before.jsonl", "after.jsonl")


@dataclass(frozen=True, slots=True)
class Demo:
    """What a finished run left."""

    directory: Path

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.directory / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Demo]:
    """The demo with a seed, run when first asked for; another `time` runs it from nothing again."""
    copy = tmp_path_factory.mktemp("demo") / "adamllm"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("work"))
    done: dict[tuple[int, int], Demo] = {}

    def run(seed: int, time: int = 1) -> Demo:
        if (seed, time) not in done:
            line = ["make", "-C", str(copy), "demo", f"SEED={seed}", f"BIN={Path(sys.executable).parent}"]
            make = subprocess.run(line, capture_output=True, text=True)
            assert make.returncode == 0, make.stderr[-3000:]
            kept = (copy / "work" / f"tiny-{seed}").rename(copy / f"seed-{seed}-run-{time}")
            done[seed, time] = Demo(kept)
        return done[seed, time]

    return run


@pytest.mark.parametrize("seed", SEEDS)
def test_every_kind_of_question_is_answered_better_after_than_before(demo: Callable[..., Demo], seed: int) -> None:
    before, after = ({row["task"]: row for row in demo(seed).rows(f"{name}.jsonl")} for name in ("before", "after"))
    assert set(before) == set(after) == set(KINDS)
    for kind in KINDS:
        assert before[kind]["n"] == after[kind]["n"] == 300
        assert before[kind]["ci95"][1] < after[kind]["ci95"][0], kind
    assert after["word"]["value"] >= 70


@pytest.mark.parametrize("seed", SEEDS)
def test_enough_tasks_of_every_kind_are_kept_and_they_are_right(demo: Callable[..., Demo], seed: int) -> None:
    truth = {row["id"]: row["answers"] for row in demo(seed).rows("truth.jsonl")}
    kept, right = Counter[str](), Counter[str]()
    for task in demo(seed).rows("tasks.jsonl"):
        answers = truth[task["lineage"][-1]["parents"][0]]
        kept[task["question"]] += 1
        right[task["question"]] += answers.get(task["question"]) == task["answer"]
    assert set(kept) >= set(KINDS.values())
    for question in KINDS.values():
        assert kept[question] >= 100
        assert right[question] >= 0.95 * kept[question]


def test_the_same_seed_twice_gives_the_same_bytes(demo: Callable[..., Demo]) -> None:
    first, second = demo(0), demo(0, time=2)
    for name in (*MADE, *(f"{model}/model.safetensors" for model in ("init", "base", "synthesizer", "tuned"))):
        assert (first.directory / name).read_bytes() == (second.directory / name).read_bytes(), name


def test_another_seed_is_another_run(demo: Callable[..., Demo]) -> None:
    assert demo(0).rows("test.jsonl") != demo(1).rows("test.jsonl")
    assert (demo(0).directory / "tasks.jsonl").read_bytes() != (demo(1).directory / "tasks.jsonl").read_bytes()
