"""A run that was stopped, or killed, goes on as if nothing had been: to the last bit of every figure and weight."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from distributed_kit import ENVIRONMENT, WORKERS, torchrun
from training_kit import CONFIG, base, pictures, samples

from mmkit.errors import DataError, MissingInputError, UsageError
from mmkit.training import Placement, Refused, Sample, StepReport, TuneConfig
from mmkit.training import checkpoints as store
from mmkit.training.finetune import finetune, prepare
from mmkit.training.ranks import Ranks
from mmkit.training.stopping import Stopped
from mmkit.training.trainer import run

pytestmark = pytest.mark.tiny
__all__ = ["base", "pictures", "samples"]  # fixtures

RUN = dataclasses.replace(
    CONFIG,
    batch_size=1,
    accumulation=2,
    epochs=3,
    lora_dropout=0.1,
    balance="dwa",
    balance_window=2,
    val_size=0.2,
    weight_decay=0.1,
)
"""Twelve steps or less over three epochs, with everything that a step may remember."""


def with_tasks(samples: Sequence[Sample]) -> list[Sample]:
    return [dataclasses.replace(sample, task="ab"[i % 2]) for i, sample in enumerate(samples)]


def figures(out: Path) -> list[dict[str, Any]]:
    """The log, without what depends on the clock."""
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def weights(out: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(out.glob("*.safetensors")))


def stopped_after(step: int) -> tuple[Callable[[StepReport], None], Callable[[], str | None]]:
    """What counts the steps, and what asks for a stop when so many are done."""
    done = [0]
    return (lambda report: done.__setitem__(0, report.step)), (lambda: "SIGTERM" if done[0] == step else None)


@pytest.mark.parametrize("train", ["full", "lora", "mixlora"])
def test_a_run_that_stops_five_times_is_the_run_that_does_not(
    samples: list[Sample], base: str, tmp_path: Path, train: str
) -> None:
    config = dataclasses.replace(RUN, train=train)
    rows = with_tasks(samples)
    whole = finetune(rows, model=base, out=tmp_path / "whole", config=config)
    out = tmp_path / "stopped"
    for step in sorted(random.Random(train).sample(range(1, whole.steps), 5)):
        prepare(rows, model=base, out=out, config=config)
        on_step, stop = stopped_after(step)
        with pytest.raises(Stopped, match=f"stopped by SIGTERM after step {step} of "):
            run(out, Ranks(), on_step=on_step, stop_requested=stop)
        assert store.latest(out / "checkpoints").step == step  # type: ignore[union-attr]
    report = finetune(rows, model=base, out=out, config=config)
    assert figures(out) == figures(tmp_path / "whole")
    assert weights(out) == weights(tmp_path / "whole")
    assert (report.losses, report.text_tokens, report.validation) == (whole.losses, whole.text_tokens, whole.validation)
    assert not (out / "checkpoints").exists()


def test_two_processes_that_stop_five_times_are_those_that_do_not(
    samples: list[Sample], base: str, tmp_path: Path
) -> None:
    arguments: list[object] = []
    for train in ("full", "lora"):
        for name in ("whole", "stopped"):
            config = dataclasses.replace(RUN, train=train, epochs=4, val_size=0.0)
            out = tmp_path / f"{train}-{name}"
            prepare(with_tasks(samples), model=base, out=out, config=config, placement=Placement(nproc=2))
            steps = sorted(random.Random(train).sample(range(1, 8), 5)) if name == "stopped" else []
            arguments += [out, *steps]
    torchrun(WORKERS / "resume_worker.py", *arguments)
    for train in ("full", "lora"):
        whole, stopped = (tmp_path / f"{train}-{name}" for name in ("whole", "stopped"))
        assert len(figures(whole)) == 8
        assert figures(stopped) == figures(whole)
        assert weights(stopped) == weights(whole)


def interrupted(samples: Sequence[Sample], base: str, out: Path, config: TuneConfig, step: int = 3) -> None:
    """Leave a checkpoint of `step` steps."""
    prepare(samples, model=base, out=out, config=config)
    on_step, stop = stopped_after(step)
    with pytest.raises(Stopped):
        run(out, Ranks(), on_step=on_step, stop_requested=stop)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lr": 2e-3}, "lr: 0.001 there, 0.002 here"),
        ({"batch_size": 2, "accumulation": 1}, "batch_size: 1 there, 2 here\naccumulation: 2 there, 1 here"),
        ({"seed": 7}, "seed: 0 there, 7 here"),
    ],
)
def test_another_configuration_is_an_error_that_names_the_difference(
    samples: list[Sample], base: str, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    out = tmp_path / "out"
    interrupted(samples, base, out, RUN)
    with pytest.raises(UsageError, match="holds a checkpoint after step 3 of another run") as caught:
        finetune(samples, model=base, out=out, config=dataclasses.replace(RUN, **settings))
    assert str(caught.value).endswith(said)
    assert store.latest(out / "checkpoints").step == 3  # type: ignore[union-attr]
    finetune(samples, model=base, out=out, config=dataclasses.replace(RUN, **settings), resume=False)
    finetune(samples, model=base, out=tmp_path / "fresh", config=dataclasses.replace(RUN, **settings))
    assert weights(out) == weights(tmp_path / "fresh")


def test_other_rows_or_another_model_are_an_error_too(samples: list[Sample], base: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(samples, base, out, RUN)
    with pytest.raises(UsageError, match=r"training rows \(sha256\): '[0-9a-f]{12}' there, '[0-9a-f]{12}' here"):
        finetune(samples[:-1], model=base, out=out, config=RUN)
    shutil.copytree(base, tmp_path / "other")
    with pytest.raises(UsageError, match=r"model: '.*base' there, '.*other' here"):
        finetune(samples, model=str(tmp_path / "other"), out=out, config=RUN)


def test_what_changes_no_figure_may_change(samples: list[Sample], base: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(samples, base, out, RUN)
    finetune(samples, model=base, out=out, config=dataclasses.replace(RUN, workers=1, cache_mb=0, save_every=2))
    finetune(samples, model=base, out=tmp_path / "whole", config=RUN)
    assert weights(out) == weights(tmp_path / "whole")


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("left", [0.5, None])
def test_a_torn_checkpoint_is_an_error_that_names_the_file(
    samples: list[Sample], base: str, tmp_path: Path, name: str, left: float | None
) -> None:
    out = tmp_path / "out"
    interrupted(samples, base, out, RUN)
    file = out / "checkpoints" / "step-00000003" / name
    if left is None:
        file.unlink()
    else:
        os.truncate(file, int(file.stat().st_size * left))
    with pytest.raises(DataError, match=rf"step-00000003 is damaged: {name} .*remove that directory"):
        finetune(samples, model=base, out=out, config=RUN)


@pytest.mark.parametrize("train", ["full", "mixlora"])
def test_kill_9_at_any_moment_costs_what_came_after_the_last_checkpoint_and_no_bit(
    samples: list[Sample], base: str, tmp_path: Path, train: str
) -> None:
    """Real processes with a checkpoint after every step, killed while they train and write."""
    config = dataclasses.replace(RUN, train=train, save_every=1, epochs=12)
    rows = with_tasks(samples)
    finetune(rows, model=base, out=tmp_path / "whole", config=dataclasses.replace(config, save_every=500))
    out, moments, kills = tmp_path / "killed", random.Random(0), 0
    prepare(rows, model=base, out=out, config=config)
    while not (out / "run.json").exists():
        process = subprocess.Popen([sys.executable, "-m", "mmkit.training", str(out)], env=ENVIRONMENT)
        if kills < 3:
            before = store.any_in(out / "checkpoints") and store.latest(out / "checkpoints").step  # type: ignore[union-attr]
            while process.poll() is None and (
                not (log := out / "checkpoints" / "log.jsonl").exists() or _steps(log) <= before + 2
            ):
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait(timeout=120)
    assert kills == 3
    assert figures(out) == figures(tmp_path / "whole")
    assert weights(out) == weights(tmp_path / "whole")


def _steps(log: Path) -> int:
    return log.read_bytes().count(b'"loss"')


def test_killed_while_it_writes_a_checkpoint_the_one_before_is_used(
    samples: list[Sample], base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends in the middle of the write, as by kill -9: nothing of it is cleaned up."""
    config = dataclasses.replace(RUN, save_every=2)
    out, pid = tmp_path / "out", os.fork()
    if not pid:
        saved = store.save

        def torn(folder: Path, step: int, *rest: Any) -> None:
            if step == 4:
                monkeypatch.setattr(store, "sync", lambda _: os._exit(9))
            saved(folder, step, *rest)

        monkeypatch.setattr(store, "save", torn)
        finetune(samples, model=base, out=out, config=config)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert sorted(path.name for path in (out / "checkpoints").glob("step-*")) == [
        "step-00000002",
        "step-00000004.partial",
    ]
    steps: list[int] = []
    finetune(samples, model=base, out=out, config=config, on_step=lambda report: steps.append(report.step))
    assert steps[0] == 3
    finetune(samples, model=base, out=tmp_path / "whole", config=config)
    assert weights(out) == weights(tmp_path / "whole")


def test_rows_that_were_refused_are_told_again(samples: list[Sample], base: str, tmp_path: Path) -> None:
    """A file of rejects is written anew by the command that goes on."""
    bad = dataclasses.replace(samples[2], images=({"path": "gone.png"},))
    rows: list[Sample | Refused] = [Refused("in.jsonl:9", "{", DataError("in.jsonl:9: half a row")), bad, *samples[3:]]
    out, config = tmp_path / "out", dataclasses.replace(RUN, val_size=0.0)
    first: list[Refused] = []
    prepare(rows, model=base, out=out, config=config, on_refused=first.append)
    on_step, stop = stopped_after(2)
    with pytest.raises(Stopped):
        run(out, Ranks(), on_step=on_step, stop_requested=stop)
    again: list[Refused] = []
    report = finetune(rows, model=base, out=out, config=config, on_refused=again.append)
    assert [str(refused.error) for refused in again] == [str(refused.error) for refused in first]
    assert [type(refused.error) for refused in again] == [DataError, MissingInputError]
    assert (report.rows, report.rejected) == (5, 2)


def test_two_runs_in_one_directory_are_refused(samples: list[Sample], base: str, tmp_path: Path) -> None:
    def second(_: StepReport) -> None:
        with pytest.raises(UsageError, match="another run is at work in"):
            finetune(samples, model=base, out=tmp_path / "out", config=RUN)

    config = dataclasses.replace(CONFIG, max_steps=1)
    finetune(samples, model=base, out=tmp_path / "out", config=config, on_step=second)
    assert (tmp_path / "out" / "run.json").exists()
