"""Killed anywhere, it goes on from there: with -o by the journal, in a bare pipe by the engine's cache."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from cli_kit import ENVIRONMENT, MMKIT

ROWS = 400
HINTS = ("Answer with a precise response.", "Answer with an informative response.")


@pytest.fixture
def job(write: Any, picture: Any, tmp_path: Path) -> list[str]:
    """A synthesis of about two seconds, of kept, dropped and rejected rows; its command line without the output."""
    picture("p.png")
    write("captions.jsonl", [{"id": str(i), "image": "p.png", "caption": f"square {i}"} for i in range(ROWS)])
    answers = []
    for i in range(ROWS):
        turns = []
        for hint in HINTS[: 1 if i % 7 == 3 else 2]:
            turns += [{"role": "user", "text": f"{hint}\nWhich {i}?"}, {"role": "assistant", "text": f"{hint[14]} {i}"}]
        answer = {"error": "it broke"} if i % 11 == 5 else {"turns": turns}
        answers.append({"id": f"{i}#0", "delay_s": 0.005, **answer})
    write("answers.jsonl", answers)
    return ["synthesize", "captions.jsonl", "--engine", "replay", "--answers", "answers.jsonl"]


def outputs(name: str) -> list[str]:
    return ["-o", f"{name}.jsonl", "--rejects", f"{name}.rejects", "--dropped", f"{name}.dropped"]


def contents(folder: Path, name: str) -> list[bytes]:
    return [(folder / f"{name}.{suffix}").read_bytes() for suffix in ("jsonl", "rejects", "dropped")]


def start(arguments: list[str], folder: Path, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*MMKIT, *arguments], cwd=folder, env=ENVIRONMENT, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, **options
    )


def test_fifty_kills_and_the_same_bytes(mmkit: Any, job: list[str], tmp_path: Path) -> None:
    assert mmkit(*job, *outputs("whole")).code == 0
    kills = progressed = 0
    chance = random.Random(7)
    went_on_at = [0]
    while kills < 50:
        process = start([*job, *outputs("killed")], tmp_path)
        try:
            # Mostly during start-up and the first rows; now and then far enough for a checkpoint to be behind it.
            process.wait(chance.choice([chance.uniform(0, 0.4), chance.uniform(0.1, 0.5), 1.1]))
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        process.communicate()
        if process.returncode == 0:
            assert contents(tmp_path, "killed") == contents(tmp_path, "whole")
            progressed += 1
            for suffix in ("jsonl", "rejects", "dropped"):
                (tmp_path / f"killed.{suffix}").unlink()
        journal = tmp_path / "killed.jsonl.journal"
        if journal.exists():
            went_on_at += [json.loads(x)["position"] for x in journal.read_bytes().splitlines() if b'"position"' in x]
    done = mmkit(*job, *outputs("killed"))
    assert done.code == 0
    assert contents(tmp_path, "killed") == contents(tmp_path, "whole")
    assert len(set(went_on_at)) > 3, "the kills came too early to show anything"
    assert len(list(tmp_path.glob("killed*"))) == 3


def slow_down(folder: Path) -> None:
    """Have the job take five seconds: time enough for a busy machine to send a signal after the first checkpoint."""
    answers = folder / "answers.jsonl"
    answers.write_text(answers.read_text().replace('"delay_s": 0.005', '"delay_s": 0.012'))


def test_an_interrupt_keeps_what_was_done(mmkit: Any, job: list[str], tmp_path: Path) -> None:
    slow_down(tmp_path)
    assert mmkit(*job, *outputs("whole")).code == 0
    process = start([*job, *outputs("stopped")], tmp_path)
    _wait_for_checkpoint(tmp_path / "stopped.jsonl.journal")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    said = err.decode().splitlines()
    assert "rows are kept; the same command goes on from there" in said[0]
    assert said[1:] == ["mmkit synthesize: interrupted"]
    assert (tmp_path / "stopped.jsonl.part").exists()
    assert not (tmp_path / "stopped.jsonl").exists()
    other = mmkit(*job, "--samples", "2", "--temperature", "1", *outputs("stopped"))
    assert other.code == 2
    assert "belongs to an unfinished run with num_samples 1, now 2" in other.err
    done = mmkit(*job, *outputs("stopped"))
    assert done.code == 0
    assert "went on at row" in done.err
    assert contents(tmp_path, "stopped") == contents(tmp_path, "whole")


def _wait_for_checkpoint(journal: Path) -> None:
    until = time.monotonic() + 30
    while not (journal.exists() and b'"position"' in journal.read_bytes()):
        assert time.monotonic() < until, "no checkpoint"
        time.sleep(0.02)


def test_a_changed_input_is_refused(mmkit: Any, job: list[str], write: Any, tmp_path: Path) -> None:
    slow_down(tmp_path)
    process = start([*job, *outputs("killed")], tmp_path)
    _wait_for_checkpoint(tmp_path / "killed.jsonl.journal")
    process.kill()
    process.communicate()
    captions = (tmp_path / "captions.jsonl").read_bytes()
    (tmp_path / "captions.jsonl").write_bytes(captions[100:])
    done = mmkit(*job, *outputs("killed"))
    assert done.code == 65
    assert "rm killed.jsonl.part killed.jsonl.journal" in done.err


def test_a_bare_pipe_with_a_cache_asks_nothing_twice(mmkit: Any, job: list[str], write: Any, tmp_path: Path) -> None:
    rejects = ["--rejects", "r.jsonl"]
    whole = mmkit(*job, *rejects)
    cached = [*job, "--cache", "replies", *rejects]
    for patience in (0.6, 1.0, 1.4):
        process = start(cached, tmp_path, stdout=subprocess.DEVNULL)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
    assert mmkit(*cached).out == whole.out
    # Everything that was answered is known now: without the recording, only the rows whose reply failed are asked.
    write("answers.jsonl", [])
    done = mmkit(*cached)
    assert done.out == whole.out
    failed = len([i for i in range(ROWS) if i % 11 == 5])
    assert f"{failed} rejected" in done.err
    assert f"{failed} replies" in done.err


def test_compose_and_repeated_ids_start_over_rather_than_lie(mmkit: Any, write: Any, tmp_path: Path) -> None:
    """Both remember rows that lie before a checkpoint, so they keep none."""
    write("captions.jsonl", [{"id": str(i), "caption": "x" * 1000} for i in range(20_000)])
    write("tasks.jsonl", [{"id": "t", "question": "q", "answer": "a", "rationale": "so a"}])
    for name, arguments in (
        ("c", ["compose", "tasks.jsonl", "--captions", "captions.jsonl"]),
        ("v", ["validate", "captions.jsonl", "--check-ids"]),
    ):
        process = start([*arguments, "-o", f"{name}.jsonl"], tmp_path)
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        process.communicate()
        if process.returncode == 130:
            assert not list(tmp_path.glob(f"{name}.jsonl.*"))
        assert mmkit(*arguments, "-o", f"{name}.jsonl").code == 0
        assert (tmp_path / f"{name}.jsonl").read_bytes() == mmkit(*arguments).out
