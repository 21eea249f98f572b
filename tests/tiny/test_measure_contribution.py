"""`mmkit measure-contribution` with real trainings: nothing twice, after a kill neither, and nothing left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from distributed_kit import ENVIRONMENT

pytestmark = pytest.mark.tiny

MMKIT = [sys.executable, "-c", "import sys; sys.argv[0] = 'mmkit'; from mmkit.cli.main import main; main()"]
WORDS = {"colour": ("red", "blue"), "shape": ("circle", "square"), "number": ("two", "three")}


def row(task: str, number: int, **fields: Any) -> dict[str, Any]:
    word = WORDS[task][number % 2]
    turns = [("user", f"say {word}"), ("assistant", word)]
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    return {"id": f"{task}-{number}", "task": task, "answer": word, "messages": messages, **fields}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))


def write_task(folder: Path, task: str) -> None:
    write(folder / "train" / f"{task}.jsonl", [row(task, number) for number in range(12)])
    write(folder / "val" / f"{task}.jsonl", [row(task, number) for number in range(12, 14)])


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Callable[[str], Path]) -> Path:
    """A model and two tasks."""
    (tmp_path / "base").symlink_to(tiny_model("qwen2_vl"))
    for task in ("colour", "shape"):
        write_task(tmp_path, task)
    return tmp_path


def arguments(*options: str) -> list[str]:
    """Each process costs some seconds, so few: of the chat form, and with mini subsets that are the large ones."""
    files = ["--train", "train/*.jsonl", "--val", "val/*.jsonl", "--model", "base"]
    subsets = ["--form", "chat", "--large", "1", "--mini", "1", "--on-flat", "clip", "--no-check-rows"]
    tuning = ["--batch-size", "2", "--lr", "1e-3", "--tune", "lora", "--lora-r", "2", "--device", "cpu"]
    return ["measure-contribution", *files, *subsets, *tuning, "--max-new-tokens", "2", *options]


def measure(folder: Path, *options: str, code: int = 0) -> tuple[bytes, str]:
    done = subprocess.run(
        [*MMKIT, *arguments(*options)], cwd=folder, env=ENVIRONMENT, capture_output=True, timeout=400, check=False
    )
    assert done.returncode == code, done.stderr.decode()
    return done.stdout, done.stderr.decode()


def left(folder: Path) -> tuple[int, int]:
    """Trainings and cells that the plan says are left."""
    rows = [json.loads(line) for line in measure(folder, "--plan")[0].splitlines()]
    return sum(not found["trained"] for found in rows), sum(found["cells_left"] for found in rows)


def test_what_was_killed_is_finished_by_make_and_a_further_task_trains_what_the_plan_says(folder: Path) -> None:
    assert left(folder) == (2, 3 * 2)
    begun = kill_in_training(folder, *arguments("--only", "own-large:shape@0", "--save-every", "1"))
    (folder / "Makefile").write_bytes(measure(folder, "--makefile")[0])
    make(folder)
    assert json.loads((begun / "trained.json").read_bytes())["seconds_a_step"] is None, "it went on"
    assert json.loads((begun / "model/run.json").read_bytes())["steps"] == 6, "as planned"
    rows, said = measure(folder)
    assert rows == (folder / "contribution.jsonl").read_bytes()
    assert "0 trained (4 there), 0 cells measured (8 there)" in said

    measure(folder, "--only", "own-large:shape@0", "--work", "never-killed")
    assert values(folder / "never-killed").items() <= values(folder / "contribution").items()

    write_task(folder, "number")
    assert left(folder) == (1, 3 + 3)
    kept = {*folder.glob("contribution/trainings/*/model")}
    _, said = measure(folder, "--only", "own-large:number@0", "--drop-models")
    assert "1 trained (0 there), 3 cells measured (0 there)" in said
    assert {*folder.glob("contribution/trainings/*/model")} == kept
    assert left(folder) == (0, 3), "the other models on the new task, and its mini subset is the large one"


def test_a_row_that_cannot_be_trained_on_is_named_before_the_first_training(folder: Path) -> None:
    long = row("shape", 12)
    long["messages"][0]["content"][0]["text"] *= 100
    write(folder / "train/shape.jsonl", [row("shape", number) for number in range(11)] + [long])
    _, said = measure(folder, "--max-length", "50", "--check-rows", code=65)
    assert "measure-contribution: task 'shape': record 'shape-12': " in said and "more than max_length 50" in said
    assert not (folder / "contribution/trainings").exists()


def kill_in_training(folder: Path, *options: str) -> Path:
    """Kill the command when a training of it has a checkpoint, and wait for its process; gives its folder."""
    run = subprocess.Popen([*MMKIT, *options], cwd=folder, env=ENVIRONMENT)
    while not (found := [*folder.glob("contribution/trainings/*/model/checkpoints/step-*")]):
        assert run.poll() is None
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    training = found[0].parents[2]
    while is_running(str(training)):
        time.sleep(0.01)
    assert not (training / "trained.json").exists()
    return training


def is_running(argument: str) -> bool:
    """Whether a process has this in its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if argument.encode() in path.read_bytes():
                return True
        except OSError:  # it has just ended
            continue
    return False


def make(folder: Path) -> None:
    program = folder / "mmkit"
    program.write_text(f'#!/bin/sh\nexec "{MMKIT[0]}" {MMKIT[1]} "{MMKIT[2]}" "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["make", "-j2", "MMKIT=./mmkit"], cwd=folder, env=ENVIRONMENT, capture_output=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert "0 trained (4 there), 0 cells measured (8 there)" in done.stderr.decode()


def values(work: Path) -> dict[str, tuple[str, float]]:
    """What was measured, by content."""
    cells = {path.name: json.loads(path.read_bytes()) for path in work.glob("cells/*.json")}
    return {name: (cell["metric"], cell["value"]) for name, cell in cells.items()}
