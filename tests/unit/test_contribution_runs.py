"""The trainings of `measure-contribution` as processes: their devices, what makes two the same, how they end."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from mmkit.balance.subsets import Rows
from mmkit.cli import contribution_process, contribution_runs
from mmkit.cli.contribution_options import Trainings
from mmkit.cli.contribution_runs import Runs, device_shares, steps_of
from mmkit.errors import LimitError, MmkitError, UsageError
from mmkit.training.config import TuneConfig
from mmkit.training.plan import RowFacts, epoch_plan
from mmkit.training.samples import Sample


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


@pytest.fixture
def python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Runs]:
    """Runs whose processes do what a script says."""

    def running(script: str) -> Runs:
        program = tmp_path / "python"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "$SCRIPT"\n')
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        monkeypatch.setenv("SCRIPT", script)
        return Runs("base", TuneConfig(), [[]], {}, None)

    return running


@pytest.mark.parametrize(
    ("script", "kind", "said"),
    [
        ("import sys; sys.stderr.write('warning\\nno room\\n'); sys.exit(75)", LimitError, "no room ("),
        ("import os; os.kill(os.getpid(), 9)", LimitError, "killed by SIGKILL"),
        ("raise KeyError('a bug')", MmkitError, "KeyError: 'a bug'"),
    ],
)
def test_a_process_that_fails_is_told_of_by_its_own_words(
    python: Callable[[str], Runs], tmp_path: Path, script: str, kind: type[MmkitError], said: str
) -> None:
    with pytest.raises(MmkitError) as raised:
        python(script)._run("train", {}, tmp_path / "log")
    assert type(raised.value) is kind and said in str(raised.value)


STOPPABLE = """
import pathlib, signal, sys, time
def stop(*_):
    {reaction}
signal.signal(signal.SIGTERM, stop)
pathlib.Path("{ready}").touch()
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGTERM, LimitError), (signal.SIGINT, KeyboardInterrupt)], ids=["SIGTERM", "SIGINT"]
)
@pytest.mark.parametrize("reaction", ["sys.exit(75)", "pathlib.Path('{asked}').touch()"], ids=["heeds", "goes-on"])
def test_what_stops_us_has_a_process_stop_and_the_second_time_ends_it(
    python: Callable[[str], Runs], tmp_path: Path, number: signal.Signals, kind: type[BaseException], reaction: str
) -> None:
    ready, asked = tmp_path / "ready", tmp_path / "asked"
    runs = python(STOPPABLE.format(reaction=reaction.format(asked=asked), ready=ready))
    before = signal.getsignal(number)

    def stop() -> None:
        for sign in (ready, asked) if "asked" in reaction else (ready,):
            while not sign.exists():
                time.sleep(0.01)
            os.kill(os.getpid(), number)

    with pytest.raises(kind), runs.stoppable(), ThreadPoolExecutor(2) as pool:
        done = pool.submit(runs._run, "train", {}, tmp_path / "log")
        pool.submit(stop)
        done.result()
    assert signal.getsignal(number) is before


def test_a_process_that_is_begun_after_the_stop_is_ended(python: Callable[[str], Runs], tmp_path: Path) -> None:
    runs = python("import time; time.sleep(60)")
    with pytest.raises(LimitError, match="stopped by SIGTERM"), runs.stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
        runs._run("train", {}, tmp_path / "log")
    assert not runs._running


def identity(config: TuneConfig, gpus: int) -> dict[str, Any]:
    runs = Runs("base", config, [[str(number) for number in range(gpus)]], {}, None)
    return dict(runs.procedure().training)


def test_a_batch_is_known_by_its_rows_on_whatever_devices() -> None:
    one, two = TuneConfig(batch_size=4, accumulation=2), TuneConfig(batch_size=4, accumulation=1)
    assert identity(one, 0) == identity(one, 1) == identity(two, 2)
    assert identity(two, 1) != identity(two, 2)


@pytest.mark.parametrize(
    ("settings", "added"),
    [
        ({}, ["--global-batch", "8"]),
        ({"device": "cpu"}, []),
        ({"device": "cpu", "accumulation": 2}, []),
        ({"global_batch": 16}, []),
        ({"preset": "visatb"}, []),
    ],
    ids=str,
)
def test_a_batch_that_devices_would_decide_is_fixed(settings: dict[str, Any], added: list[str]) -> None:
    assert given(settings).fixing_batch(8) == added


def test_a_batch_by_accumulation_cannot_be_fixed() -> None:
    for settings in ({"accumulation": 2}, {"accumulation": 2, "preset": "visatb"}):
        with pytest.raises(UsageError, match="give --global-batch in its place"):
            given(settings).fixing_batch(8)


def given(settings: Mapping[str, Any]) -> Trainings:
    trainings = Trainings(**settings)
    sources = dict.fromkeys(settings, SimpleNamespace(name="COMMANDLINE"))
    trainings.context = SimpleNamespace(get_parameter_source=sources.get)  # type: ignore[assignment]
    return trainings


DECIDES = {field.name for field in fields(TuneConfig)} - {
    *("workers", "cache_mb", "save_every", "check_rows", "report_to", "merge"),
    *("seed", "accumulation"),  # of their own in a key
}


@pytest.mark.parametrize("name", [field.name for field in fields(TuneConfig)])
def test_each_setting_that_decides_what_is_learned_is_in_the_identity(name: str) -> None:
    config = TuneConfig()
    value = getattr(config, name)
    other = not value if isinstance(value, bool) else ("x",) if isinstance(value, tuple) else 0.375
    object.__setattr__(config, name, other if name != "accumulation" else 3)
    if name == "batch_size":
        object.__setattr__(config, name, 9)
    assert (identity(config, 0) != identity(TuneConfig(), 0)) == (name in DECIDES or name == "accumulation")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"epochs": 3},
        {"max_steps": 5},
        {"accumulation": 3},
        {"modality_batches": True},
        {"task_sampling": "uniform"},
    ],
    ids=str,
)
@pytest.mark.parametrize("nproc", [1, 2])
def test_the_steps_of_the_plan_are_those_of_finetune(settings: dict[str, Any], nproc: int) -> None:
    config, rows = TuneConfig(batch_size=4, **settings), Rows()
    facts = []
    for number in range(27):
        task, images = ("look", [{"path": "a.png"}]) if number < 9 else ("read", [])
        id = f"{number:02}"
        rows.add({"id": id, "task": task}, orjson.dumps({"id": id, "images": images} if images else {"id": id}))
        facts.append(RowFacts(id, task, 10, bool(images)))
    ids = {task: rows.ids(task) for task in rows.tasks}
    expected = len(
        [step for epoch in range(config.epochs) for step in epoch_plan(facts, config, epoch=epoch, world=nproc)]
    )
    assert steps_of(config, nproc, rows, "base")(ids, 0) == (config.max_steps or expected)


def test_a_model_that_cannot_mix_rows_with_and_without_images_takes_more_steps(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mllama"}')
    rows = Rows()
    rows.add({"id": "a", "task": "t"}, b'{"images":[{"path":"a.png"}]}')
    rows.add({"id": "b", "task": "t"}, b"{}")
    assert steps_of(TuneConfig(), 1, rows, str(tmp_path))({"t": ["a", "b"]}, 0) == 2
    assert steps_of(TuneConfig(), 1, rows, "a/hub-id")({"t": ["a", "b"]}, 0) == 1


def test_a_checkpoint_that_cannot_be_gone_on_from_is_in_nobodys_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = tmp_path / "train.jsonl"
    rows.write_text('{"id": "a", "task": "look", "messages": [{"role": "user", "content": "say"}]}\n')
    begun: list[tuple[bool, list[str]]] = []

    def finetune(samples: Iterable[Sample], *, resume: bool = True, **_: object) -> None:
        begun.append((resume, [sample.label for sample in samples]))
        if resume:
            raise UsageError("processes: 8 there, 4 here")

    monkeypatch.setattr("mmkit.training.finetune.finetune", finetune)
    job = {"rows": str(rows), "out": str(tmp_path), "model": "base", "image_root": None, "config": {}, "nproc": 4}
    contribution_process.train(job)
    assert begun == [(True, ["task 'look': record 'a'"]), (False, ["task 'look': record 'a'"])]
