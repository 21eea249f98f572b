"""`mmkit finetune` as a person runs it: real processes, signals, mistakes, and one to two of them at work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed_kit import ENVIRONMENT
from PIL import Image

from mmkit.testing import tiny_models

pytestmark = pytest.mark.tiny

MMKIT = [sys.executable, "-c", "import sys; sys.argv[0] = 'mmkit'; from mmkit.cli.main import main; main()"]
COLOURS = ("red", "blue", "green", "white")


def row(number: int) -> dict[str, Any]:
    colour, image = COLOURS[number % 4], number % 3 != 0
    asked: list[dict[str, Any]] = [{"type": "text", "text": "what colour is it ?" if image else f"say {colour}"}]
    return {
        "id": f"r{number}",
        "task": "look" if image else "say",
        "images": [{"path": f"{colour}.png"}] if image else [],
        "messages": [
            {"role": "user", "content": [{"type": "image"}, *asked] if image else asked},
            {"role": "assistant", "content": [{"type": "text", "text": colour}]},
        ],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model, and 24 rows to train it on."""
    folder = tmp_path_factory.mktemp("finetune")
    for colour in COLOURS:
        Image.new("RGB", (48, 48), colour).save(folder / f"{colour}.png")
    (folder / "train.jsonl").write_text("".join(json.dumps(row(n)) + "\n" for n in range(24)))
    tiny_models.build("qwen2_vl", folder / "base", corpus=["what colour is it ? say", *COLOURS], hidden_size=64)
    yield folder


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*MMKIT, "finetune", "train.jsonl", "--model", "base", "--device", "cpu", *arguments],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finetune(folder: Path, *arguments: str) -> tuple[int, str]:
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=200)
    assert out == b""
    return process.returncode, err.decode()


def figures(out: Path) -> list[dict[str, Any]]:
    log = out / "checkpoints" / "log.jsonl"
    lines = (log if log.exists() else out / "log.jsonl").read_bytes().splitlines(keepends=True)
    rows = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def wait_for_steps(out: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None and not ((out / "checkpoints" / "log.jsonl").exists() and len(figures(out)) >= count):
        time.sleep(0.01)


LONG = ("--epochs", "120", "--batch-size", "2", "--accumulation", "2", "--lr", "1e-3", "--train", "lora")
"""720 steps in one process, 360 in two: seconds in which to send a signal."""


@pytest.mark.parametrize(
    ("name", "nproc", "code", "said"), [("SIGTERM", "1", 75, "SIGTERM"), ("SIGINT", "2", 130, "SIGINT")]
)
def test_a_signal_leaves_a_checkpoint_and_the_same_command_goes_on(
    folder: Path, name: str, nproc: str, code: int, said: str
) -> None:
    arguments = (*LONG, "--nproc", nproc, "-o", f"stopped-{name}")
    out = folder / f"stopped-{name}"
    process = start(folder, *arguments)
    wait_for_steps(out, 5, process)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=100)
    assert process.returncode == code, err.decode()
    assert f"stopped by {said} after step " in err.decode() and "the same command goes on from there" in err.decode()
    assert "Traceback" not in err.decode()
    assert not (out / "run.json").exists() and any((out / "checkpoints").glob("step-*"))
    stopped = figures(out)
    assert 5 <= len(stopped) < 360

    code, err = finetune(folder, *arguments)
    assert code == 0, err
    assert figures(out)[: len(stopped)] == stopped
    assert len(figures(out)) == 720 // int(nproc)
    assert not (out / "checkpoints").exists()


def test_two_processes_write_what_one_writes_and_predict_reads_it(folder: Path) -> None:
    settings = ("--epochs", "2", "--lr", "1e-5", "--dtype", "float64", "--val-size", "0.3", "--seed", "3")
    for out, split in (("one", ("--batch-size", "4")), ("two", ("--batch-size", "2", "--nproc", "2"))):
        code, err = finetune(folder, *settings, *split, "-o", out)
        assert code == 0, err
    one, two = (figures(folder / out) for out in ("one", "two"))
    assert [list(step) for step in one] == [list(step) for step in two]
    for a, b in zip(one, two, strict=True):
        for field in ("loss", "grad_norm", "val_loss"):
            assert a.get(field) == (None if field not in a else pytest.approx(b[field], rel=1e-9))
    run = json.loads((folder / "two" / "run.json").read_text())
    assert run["processes"] == 2 and run["command"][:3] == ["mmkit", "finetune", "train.jsonl"]
    done = subprocess.run(
        [*MMKIT, "predict", "train.jsonl", "--model", "two", "--limit", "2", "--max-new-tokens", "3"],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.count(b'"prediction"') == 2


def test_a_mixture_of_lora_is_trained_and_answers(folder: Path) -> None:
    sizes = ("--train", "mixlora", "--experts", "2", "--lora-r", "2", "--max-steps", "2")
    code, err = finetune(folder, *sizes, "-o", "mixture")
    assert code == 0, err
    run = json.loads((folder / "mixture" / "run.json").read_text())
    assert run["arguments"]["experts"] == 2 and "adapter_config.json" in run["files"]
    done = subprocess.run(
        [*MMKIT, "predict", "train.jsonl", "--model", "base", "--adapter", "mixture", "--limit", "2"],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.count(b'"prediction"') == 2


def test_rows_that_cannot_be_trained_on_are_counted_and_written_down(folder: Path) -> None:
    bad = [
        json.dumps({**row(1), "id": "no image", "images": [{"path": "gone.png"}], "caption": "kept", "weight": 2}),
        '{"id": "half',
        json.dumps({**row(0), "id": "nobody speaks", "messages": row(0)["messages"][:1]}),
        json.dumps({"id": "no messages", "task": "say"}),
    ]
    mixed = [*(json.dumps(row(n)) for n in range(8)), *bad]
    (folder / "mixed.jsonl").write_text("\n".join(mixed) + "\n")
    command = [*MMKIT, "finetune", "mixed.jsonl", "--model", "base", "-o", "mixed", "--device", "cpu"]
    stopped = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=100)
    assert stopped.returncode == 65 and "mixed.jsonl:10" in stopped.stderr
    assert not (folder / "mixed").exists()
    (folder / "weights.jsonl").write_text('{"task": "say", "weight": 1}\n{"task": "look", "weight": 5}\n')
    done = subprocess.run(
        [*command, "--rejects", "rejects.jsonl", "--weights", "weights.jsonl"],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "8 rows (4 rejected)" in done.stderr
    rejects = [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]
    assert sorted(reject["line"] for reject in rejects) == [9, 10, 11, 12]
    assert {reject["command"] for reject in rejects} == {"finetune"}
    (unread,) = [reject for reject in rejects if "gone.png" in reject["reason"]]
    assert unread["record"] == json.loads(bad[0])
    assert json.loads((folder / "mixed" / "run.json").read_text())["rejected"] == 4


def test_a_preset_sets_what_is_not_given_and_is_told(folder: Path) -> None:
    code, err = finetune(folder, "--preset", "mlan", "--lr", "3e-5", "--batch-size", "4", "-o", "preset")
    assert code == 0, err
    assert "preset mlan (MLAN" in err and "lr 3e-05 (given)" in err and "64 rows a step" in err
    arguments = json.loads((folder / "preset" / "run.json").read_text())["arguments"]
    wanted = {"train": "llm+projector", "lr": 3e-5, "modality_batches": True, "batch_size": 4, "accumulation": 16}
    assert {name: arguments[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--preset", "mlam"), "no preset 'mlam'; presets: mint, "),
        (("--global-batch", "10", "--batch-size", "4"), "a step of 10 rows cannot be made of 4 at once"),
        (("--nnodes", "2"), "the place where they meet (--rdzv-endpoint) go together"),
        (("--merge",), "--merge needs --train lora"),
        (("--train", "lora", "--lr-vision", "1e-6"), "--lr-vision needs a vision encoder that is trained"),
        (("--global-batch", "8", "--accumulation", "2"), "--accumulation needs no --global-batch"),
        (("--fsdp",), "there is one (--nproc)"),
        (("--fsdp", "--nproc", "2", "--train", "projector"), "of which --train projector trains nothing"),
        (("--balance", "tla", "--balance-window", "3"), "has no window"),
        (("--task-sampling", "weights"), "needs the weights of the tasks"),
        (("--train", "lora", "--lora-targets", "q_prj"), "'q_prj'"),
        (("--train", "mixlora", "--lora-targets", "q_prj"), "'q_prj'"),
        (("--train", "lora", "--experts", "4"), "--experts needs --train mixlora"),
        (("--lora-r", "4"), "--lora-r needs --train lora or mixlora"),
        (("--preset", "mint-mixlora", "--pack"), "--train mixlora takes no --pack: it joins rows"),
        (("--preset", "mint-mixlora", "--merge"), "--train mixlora takes no --merge"),
        (("--train", "mixlora", "--lr-projector", "1e-5"), "--lr-projector needs a projector that is trained"),
        (("--val-size", "1"), "rejected or held out"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    code, err = finetune(folder, *arguments, "-o", "never")
    assert code in (2, 65) and said in err, err
    assert "Traceback" not in err
    assert not (folder / "never").exists()


def test_a_worker_that_dies_says_so_and_the_run_goes_on_from_its_checkpoint(folder: Path) -> None:
    arguments = (*LONG, "--epochs", "20", "--nproc", "2", "--save-every", "2", "-o", "killed")
    out = folder / "killed"
    process = start(folder, *arguments)
    wait_for_steps(out, 7, process)
    commands = {int(path.parent.name): _read(path) for path in Path("/proc").glob("[0-9]*/cmdline")}
    ours = {pid: words for pid, words in commands.items() if b"mmkit.training" in words and str(out).encode() in words}
    workers = [pid for pid, words in ours.items() if b"torch.distributed.run" not in words]
    assert len(workers) == 2
    os.kill(max(workers), signal.SIGKILL)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 75 and "was killed by SIGKILL" in err.decode(), err.decode()
    code, said = finetune(folder, *arguments)
    assert code == 0, said
    assert [step["step"] for step in figures(out)] == list(range(1, 61))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
