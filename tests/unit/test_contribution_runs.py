"""Which devices the trainings of `measure-contribution` get, and what is told of a process that fails."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mmkit.cli import contribution_runs
from mmkit.cli.contribution_runs import Runs, device_shares
from mmkit.errors import LimitError, MmkitError, UsageError
from mmkit.training.config import TuneConfig


def test_gpus_are_dealt_out_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contribution_runs, "_visible_gpus", lambda: ["4", "5", "6", "7", "GPU-a"])
    assert device_shares("auto", 2) == [["4", "5"], ["6", "7"]]
    assert device_shares("cuda", 1) == [["4", "5", "6", "7", "GPU-a"]]
    assert device_shares("cpu", 2) == [[], []]
    with pytest.raises(UsageError, match="--jobs 6: 5 GPUs are visible"):
        device_shares("auto", 6)


def test_gpus_keep_the_names_that_the_caller_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert device_shares("auto", 2) == [["3"], ["1"]]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert device_shares("auto", 2) == [["0"], ["1"]]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert device_shares("auto", 2) == [[], []]


@pytest.mark.parametrize(
    ("script", "kind", "said"),
    [
        ("import sys; sys.stderr.write('warning\\nno room\\n'); sys.exit(75)", LimitError, "no room ("),
        ("import os; os.kill(os.getpid(), 9)", LimitError, "killed by SIGKILL"),
        ("raise KeyError('a bug')", MmkitError, "KeyError: 'a bug'"),
    ],
)
def test_a_process_that_fails_is_told_of_by_its_own_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, kind: type[MmkitError], said: str
) -> None:
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "$SCRIPT"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setenv("SCRIPT", script)
    with pytest.raises(MmkitError) as raised:
        Runs("base", TuneConfig(), [[]], {}, None)._run("train", {}, tmp_path / "log")
    assert type(raised.value) is kind and said in str(raised.value)
