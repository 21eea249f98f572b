"""--to-batch and --from-batch as a user runs them: two runs with a batch in between are one run with a server."""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_kit import ENVIRONMENT, MMKIT

from mmkit.testing.batch_runner import run_batch
from mmkit.testing.planted_language import PlantedModel
from mmkit.testing.server import Answer, OpenAiServer, Received, chat, failure


class Judge(PlantedModel):
    """With so little for each word that the probabilities of all cannot sum to more than 1."""

    def log_prob(self, before: str, token: str) -> float:
        return super().log_prob(before, token) - 2.0


JUDGE = Judge([" Yes", " No", " Open"])
SEVERAL = ["--samples", "2", "--temperature", "1"]


def model(received: Received) -> Answer:
    """Judges where log-probabilities are wanted; else writes two turns about the caption, or answers the question."""
    body = received.body
    if "logprobs" in body:
        return JUDGE.answer(received)
    spoken = " ".join(part["text"] for turn in body["messages"] for part in turn["content"] if part["type"] == "text")
    if "bad" in spoken:
        return failure(400, "this row is bad")
    if len(body["messages"]) == 1:
        return chat(f"It is {spoken[-8:]}", tokens=(9, 4))
    question = f"Which {body['seed'] % 3}?"
    hints = (("precise", "red"), ("informative", f"{spoken} is red"))
    turns = [
        f"<|im_start|>user\nAnswer with {'an' if hint[0] == 'i' else 'a'} {hint} response.\n{question}<|im_end|>\n"
        f"<|im_start|>assistant\n{text}<|im_end|>\n"
        for hint, text in hints
    ]
    return chat("".join(turns))


def task(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "image": "p.png", "caption": f"{name} page", "question": f"Which is {name}?", **more}


@pytest.fixture
def rows(write: Any, picture: Any) -> str:
    picture("p.png")
    tasks = [task(str(n), answer="red", rationale=f"The page {n} is red.") for n in range(7)]
    return str(write("rows.jsonl", [*tasks[:3], task("bad", answer="bad", rationale="bad"), *tasks[3:]]))


def answer(folder: Path, name: str, *, order: random.Random | None = None) -> str:
    """What a batch service writes for a file of requests; the name of its file."""
    lines = run_batch((folder / name).read_bytes().splitlines(), model, "vllm").splitlines(keepends=True)
    if order is not None:
        order.shuffle(lines)
    (folder / f"answers-{name}").write_bytes(b"".join(lines))
    return f"answers-{name}"


COMMANDS = [
    ("predict", []),
    ("synthesize", []),
    ("synthesize", SEVERAL),
    ("filter", ["--keep", "yes,open", "--dropped", "dropped.jsonl"]),
]


@pytest.mark.loopback
@pytest.mark.parametrize(("command", "options"), COMMANDS, ids=["predict", "synthesize", "samples", "filter"])
def test_a_batch_in_between_gives_the_bytes_that_a_server_does(
    mmkit: Any, rows: str, tmp_path: Path, socket_enabled: None, command: str, options: list[str]
) -> None:
    asking = [command, rows, "--model", "m", "--rejects", "rejects.jsonl", *options]
    with OpenAiServer(model) as server:
        served = mmkit(*asking, "--engine", "openai", "--base-url", server.base_url)
    assert served.code == 0, served.err
    sides = [(tmp_path / name).read_bytes() for name in ("rejects.jsonl", "dropped.jsonl") if name in " ".join(asking)]
    if command != "filter":
        assert b"this row is bad" in sides[0]

    written = mmkit(*asking, "--to-batch", "requests.jsonl")
    assert (written.code, written.out) == (0, b"")
    answers = answer(tmp_path, "requests.jsonl", order=random.Random(3))
    batched = mmkit(*asking, "--from-batch", answers)
    assert batched.code == 0, batched.err
    assert batched.out == served.out
    again = [(tmp_path / name).read_bytes() for name in ("rejects.jsonl", "dropped.jsonl") if name in " ".join(asking)]
    assert again == sides
    summary = [text.err.partition(" rows in")[2].partition(" s;") for text in (served, batched)]
    assert summary[0][2] == summary[1][2], "the same replies and tokens"


def test_shards_are_answered_apart_and_read_together(mmkit: Any, rows: str, tmp_path: Path) -> None:
    asking = ["predict", rows, "--model", "m", "--rejects", "rejects.jsonl"]
    mmkit(*asking, "--to-batch", "whole.jsonl")
    whole = mmkit(*asking, "--from-batch", answer(tmp_path, "whole.jsonl"))
    reading = []
    for shard in range(3):
        assert mmkit(*asking, "--to-batch", f"{shard}.jsonl", "--shard", f"{shard}/3").code == 0
        reading += ["--from-batch", answer(tmp_path, f"{shard}.jsonl")]
    lines = [(tmp_path / f"{shard}.jsonl").read_bytes().splitlines() for shard in range(3)]
    assert sorted(itertools.chain(*lines)) == sorted((tmp_path / "whole.jsonl").read_bytes().splitlines())
    assert mmkit(*asking, *reading).out == whole.out


def test_only_what_failed_is_asked_again(mmkit: Any, write: Any, rows: str, tmp_path: Path) -> None:
    asking = ["--model", "m", "--rejects", "rejects.jsonl"]
    mmkit("predict", rows, *asking, "--to-batch", "requests.jsonl")
    answers = answer(tmp_path, "requests.jsonl")
    half = b"".join((tmp_path / answers).read_bytes().splitlines(keepends=True)[:5])
    first = write("first.jsonl", half)
    assert "5 rejected" not in mmkit("predict", rows, *asking, "--from-batch", first).err
    rejects = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_bytes().splitlines()]
    assert [reject["record"]["id"] for reject in rejects] == ["bad", "4", "5", "6"]
    assert "no answer to '4-" in rejects[1]["reason"]

    left = write("left.jsonl", [reject["record"] for reject in rejects])
    mmkit("predict", left, *asking, "--to-batch", "again.jsonl")
    assert len((tmp_path / "again.jsonl").read_bytes().splitlines()) == 4
    both = mmkit("predict", rows, *asking, "--from-batch", first, "--from-batch", answer(tmp_path, "again.jsonl"))
    assert both.out == mmkit("predict", rows, *asking, "--from-batch", answers).out


def test_rows_that_ask_the_same_are_asked_once(mmkit: Any, write: Any, picture: Any, tmp_path: Path) -> None:
    picture("p.png")
    twice = write("twice.jsonl", [task("a"), task("b"), task("a"), {"id": "c", "caption": "no image"}])
    done = mmkit("synthesize", twice, "--model", "m", "--to-batch", "requests.jsonl", "--rejects", "rejects.jsonl")
    assert "4 rows in, 3 kept (as 2 rows out), 0 dropped, 1 rejected" in done.err
    answers = answer(tmp_path, "requests.jsonl")
    found = mmkit("synthesize", twice, "--model", "m", "--from-batch", answers, "--rejects", "rejects.jsonl")
    assert [row["id"] for row in found.rows()] == ["a#0", "b#0", "a#0"]


def test_the_first_rows_alone_and_a_batch_file_in_a_pipe(mmkit: Any, rows: str, tmp_path: Path) -> None:
    done = mmkit("predict", rows, "--model", "m", "--to-batch", "-", "--limit", "2")
    assert [row["custom_id"].partition("-")[0] for row in done.rows()] == ["0", "1"]
    assert "next:" not in done.err, "where the file will be, nobody knows"
    (tmp_path / "requests.jsonl").write_bytes(done.out)
    answers = (tmp_path / answer(tmp_path, "requests.jsonl")).read_bytes()
    reading = ["--model", "m", "--from-batch", "-", "--limit", "2"]
    assert len(mmkit("predict", rows, *reading, stdin=answers).rows()) == 2
    refused = mmkit("predict", *reading, stdin=answers)
    assert refused.code == 2
    assert "cannot both come from stdin" in refused.err


def test_nothing_to_ask_names_no_next_step(mmkit: Any, write: Any) -> None:
    done = mmkit("predict", write("none.jsonl", []), "--model", "m", "--to-batch", "requests.jsonl")
    assert done.code == 0
    assert "next:" not in done.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to-batch", "q.jsonl", "--from-batch", "a.jsonl"], "one run after the other"),
        (["--to-batch", "q.jsonl", "--cache", "c"], "--cache has nothing to act on: --to-batch asks nobody"),
        (["--to-batch", "q.jsonl", "--price-in", "1"], "--price-in has nothing to act on"),
        (
            ["--from-batch", "a.jsonl", "--engine", "openai"],
            "--engine has nothing to act on: with --from-batch",
        ),
        (["--from-batch", "a.jsonl", "--rejects", "a.jsonl"], "--rejects a.jsonl would overwrite the answers"),
        (["--from-batch", "a.jsonl", "--dropped", "./a.jsonl"], "--dropped ./a.jsonl would overwrite the answers"),
        (["--to-batch", "q.jsonl", "--to", "arrow"], "a batch file is plain JSON lines"),
        (["--to-batch", "q.jsonl.gz"], "a batch file is plain JSON lines"),
        (["--to-batch", "q.json"], "a batch file is plain JSON lines"),
        (["--to-batch", "q.jsonl", "--rejects", "q.jsonl"], "name the same file"),
        (["--to-batch", "./rows.jsonl"], "the requests would take the place of the rows"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    mmkit: Any, write: Any, rows: str, tmp_path: Path, options: list[str], words: str
) -> None:
    write("a.jsonl", b"")
    before = sorted(path.name for path in tmp_path.iterdir())
    refused = mmkit("predict", rows, "--model", "m", *options)
    assert refused.code == 2
    assert words in refused.err
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / rows).stat().st_size > 0


def test_engines_in_mmkit_toml_stand_in_no_batch_s_way(mmkit: Any, write: Any, rows: str, tmp_path: Path) -> None:
    write("mmkit.toml", b'model = "m"\nengine = "openai"\nbase-url = ["http://127.0.0.1:9/v1"]\n')
    assert mmkit("predict", rows, "--to-batch", "requests.jsonl").code == 0
    reading = ["--from-batch", answer(tmp_path, "requests.jsonl"), "--rejects", "rejects.jsonl"]
    assert len(mmkit("predict", rows, *reading).rows()) == 7
    write("mmkit.toml", b'model = "m"\nadapter = "lora"\n')
    refused = mmkit("predict", rows, "--to-batch", "more.jsonl")
    assert refused.code == 2, "the base model would be asked in place of the adapted one"
    assert "--lora-modules NAME=DIR" in refused.err


def test_batches_need_no_extra(rows: str, tmp_path: Path) -> None:
    without = "import sys; sys.modules.update(dict.fromkeys(('httpx', 'torch', 'transformers', 'vllm')))"
    start = [sys.executable, "-c", f"{without}; sys.argv[0] = 'mmkit'; from mmkit.cli.main import main; main()"]

    def run(*options: str) -> bytes:
        asking = [*start, "predict", rows, "--model", "m", "--rejects", "rejects.jsonl", *options]
        return subprocess.run(asking, cwd=tmp_path, env=ENVIRONMENT, check=True, capture_output=True).stdout

    run("--to-batch", "requests.jsonl")
    assert len(run("--from-batch", answer(tmp_path, "requests.jsonl")).splitlines()) == 7


def killed_after(arguments: list[str], folder: Path, some: bytes, more: bytes, *, checkpoint: bool) -> None:
    """Kill the command while it waits for input: when it has begun, or when a checkpoint is behind it."""
    process = subprocess.Popen([*MMKIT, *arguments], cwd=folder, env=ENVIRONMENT, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(some)
    process.stdin.flush()
    wait_for(lambda: any(folder.glob("*.journal")))
    time.sleep(0.7)  # checkpoints are half a second apart
    process.stdin.write(more)
    process.stdin.flush()
    wait_for(lambda: not checkpoint or any(b'"position"' in path.read_bytes() for path in folder.glob("*.journal")))
    process.send_signal(signal.SIGKILL)
    process.stdin.close()
    process.wait()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_and_started_again_the_requests_are_the_same(mmkit: Any, rows: str, tmp_path: Path) -> None:
    lines = (tmp_path / rows).read_bytes().splitlines(keepends=True)
    lines += lines[:2]  # which ask what was asked before the kill
    asking = ["predict", "-", "--model", "m", "--to-batch", "killed.jsonl"]
    killed_after(asking, tmp_path, b"".join(lines[:3]), b"".join(lines[3:5]), checkpoint=False)
    assert (tmp_path / "killed.jsonl.part").exists()
    assert not (tmp_path / "killed.jsonl").exists()
    assert mmkit(*asking, stdin=b"".join(lines)).code == 0
    assert mmkit(*asking[:-1], "whole.jsonl", stdin=b"".join(lines)).code == 0
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len((tmp_path / "whole.jsonl").read_bytes().splitlines()) == 8


def test_a_run_goes_on_with_the_same_answers_only(mmkit: Any, rows: str, tmp_path: Path) -> None:
    mmkit("predict", rows, "--model", "m", "--to-batch", "requests.jsonl")
    answers = answer(tmp_path, "requests.jsonl")
    lines = [line for line in (tmp_path / rows).read_bytes().splitlines(keepends=True) if b"bad" not in line]
    reading = ["predict", "-", "--model", "m", "--from-batch", answers, "-o", "out.jsonl"]
    killed_after(reading, tmp_path, b"".join(lines[:3]), b"".join(lines[3:5]), checkpoint=True)
    original = (tmp_path / answers).read_bytes()
    (tmp_path / answers).write_bytes(original.replace(b"It is", b"It was"))
    refused = mmkit(*reading, stdin=b"".join(lines))
    assert refused.code == 2
    assert "unfinished run with from_batch_digest" in refused.err
    (tmp_path / answers).write_bytes(original)
    went_on = mmkit(*reading, stdin=b"".join(lines))
    assert went_on.code == 0
    assert "went on at row" in went_on.err
    assert (tmp_path / "out.jsonl").read_bytes() == mmkit(*reading[:-2], stdin=b"".join(lines)).out
