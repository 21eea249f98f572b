"""`mmkit measure-contribution` with real trainings: nothing twice, after a kill neither, and nothing left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed_kit import ENVIRONMENT

pytestmark = pytest.mark.tiny

MMKIT = [sys.executable, "-c", "import sys; sys.argv[0] = 'mmkit'; from mmkit.cli.main import main; main()"]
WORDS = {"colour": ("red", "blue"), "shape": ("circle", "square"), "number": ("two", "three")}


def row(task: str, number: int) -> dict[str, Any]:
    word = WORDS[task][number % 2]
    turns = [("user", f"say {word}"), ("assistant", word)]
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    return {"id": f"{task}-{number}", "task": task, "answer": word, "messages": messages}


def write_task(folder: Path, task: str) -> None:
    for part, numbers in (("train", range(8)), ("val", range(8, 11))):
        (folder / part).mkdir(exist_ok=True)
        text = "".join(json.dumps(row(task, number)) + "\n" for number in numbers)
        (folder / part / f"{task}.jsonl").write_text(text)


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Callable[[str], Path]) -> Iterator[Path]:
    """A model and two tasks."""
    (tmp_path / "base").symlink_to(tiny_model("qwen2_vl"))
    for task in ("colour", "shape"):
        write_task(tmp_path, task)
    yield tmp_path


def arguments(*options: str) -> list[str]:
    files = ["--train", "train/*.jsonl", "--val", "val/*.jsonl", "--model", "base"]
    shares = ["--large", "1", "--mini", "1/4", "--on-flat", "clip", "--batch-size", "2", "--lr", "1e-3"]
    return ["measure-contribution", *files, *shares, "--device", "cpu", "--max-new-tokens", "2", *options]


def measure(folder: Path, *options: str) -> tuple[bytes, str]:
    done = subprocess.run(
        [*MMKIT, *arguments(*options)], cwd=folder, env=ENVIRONMENT, capture_output=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout, done.stderr.decode()


def left(folder: Path, *options: str) -> tuple[int, int]:
    """Trainings and cells that the plan says are left."""
    rows = [json.loads(line) for line in measure(folder, "--plan", *options)[0].splitlines()]
    return sum(not found["trained"] for found in rows), sum(found["cells_left"] for found in rows)


def test_nothing_is_done_twice_and_a_further_task_trains_what_the_plan_said(folder: Path) -> None:
    chat = ("--form", "chat")
    assert left(folder, *chat) == (4, 8)
    rows, said = measure(folder, *chat)
    assert "4 trained (0 there), 8 cells measured (0 there)" in said
    cells = [json.loads(line) for line in rows.splitlines() if b"trained_on" in line]
    assert {cell["trained_on"] for cell in cells} == {
        "base",
        *(f"own-{size}:{task}" for size in ("mini", "large") for task in ("colour", "shape")),
    }
    again, said = measure(folder, *chat)
    assert again == rows and "0 trained (4 there), 0 cells measured (8 there)" in said
    write_task(folder, "number")
    assert left(folder, *chat) == (2, 3 + 3 + 1)
    _, said = measure(folder, *chat)
    assert "2 trained (4 there), 7 cells measured (8 there)" in said


def test_a_killed_run_leaves_no_process_and_goes_on_to_the_same_rows(folder: Path) -> None:
    rows, _ = measure(folder, "--tune", "lora", "--lora-r", "2", "--work", "whole")
    options = arguments("--tune", "lora", "--lora-r", "2", "--work", "killed", "--save-every", "1")
    run = subprocess.Popen(
        [*MMKIT, *options], cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    begun = wait_for(lambda: [*folder.glob("killed/trainings/*/model/checkpoints/step-*")], run)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert begun
    again, said = measure(folder, "--tune", "lora", "--lora-r", "2", "--work", "killed")
    assert "3 trained (0 there), 6 cells measured (0 there)" in said
    assert again == rows


def wait_for(found: Callable[[], list[Path]], run: subprocess.Popen[bytes]) -> list[Path]:
    """What is found while the run is at work."""
    while run.poll() is None:
        if paths := found():
            return paths
        time.sleep(0.01)
    return []
