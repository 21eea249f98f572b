"""A sharded model learns what a whole one learns, with images on one process only; and goes on to the bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_kit import ENVIRONMENT, WORKERS, torchrun
from safetensors.torch import load_file
from training_kit import CONFIG, base, pictures, samples  # noqa: F401 - fixtures
from workers.sharding_worker import CASES, work

from mmkit.training import Placement, Sample, StepReport
from mmkit.training.finetune import finetune
from mmkit.training.ranks import Ranks

pytestmark = pytest.mark.tiny

TWO = Placement(nproc=2)
FLOAT64 = 1e-12
OTHERS = {"float32": 1e-3, "bfloat16": None}
"""AdamW divides by a gradient's own size, be it of rounding errors; in bfloat16 sharding rounds norms too, so that only
finite figures are asked for."""


@pytest.fixture(scope="module")
def sharded(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of each case, in files named like these."""
    folder = tmp_path_factory.mktemp("sharded")
    models = {case.family: tiny_model(case.family) for case in CASES.values()}
    torchrun(WORKERS / "sharding_worker.py", folder, *(f"{family}={path}" for family, path in models.items()))
    return folder


@pytest.mark.parametrize("name", CASES)
def test_five_steps_equal_those_of_one_process(name: str, sharded: Path, tiny_model: Callable[[str], Path]) -> None:
    case = CASES[name]
    together: dict[str, Any] = torch.load(sharded / f"{name}.pt")
    assert together["num_sharded"] > 0  # a sharding that did nothing would pass all else
    first, second = together["norms_of_ranks"]
    assert torch.equal(first, second)
    assert together["loaded"]
    assert together["next"]
    tolerance = OTHERS.get(name, FLOAT64)
    if tolerance is None:
        assert first.isfinite().all()
        return
    alone = work(case, str(tiny_model(case.family)), Ranks())
    assert alone["num_sharded"] == 0
    assert alone["weights"].keys() == together["weights"].keys()
    torch.testing.assert_close(first, alone["norms"], rtol=tolerance, atol=0)
    for parameter, weight in alone["weights"].items():
        difference = (together["weights"][parameter] - weight).norm() / weight.norm().clamp_min(1e-30)
        assert difference <= tolerance, parameter


class Interrupted(Exception):  # noqa: N818
    """What a test stops a run with."""


@pytest.mark.parametrize("train", ["full", "lora", "mixlora"])
def test_a_sharded_run_leaves_the_model_of_one_that_is_not(
    train: str,
    samples: list[Sample],  # noqa: F811
    base: str,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    alone = dataclasses.replace(CONFIG, train=train, dtype="float64", batch_size=8, epochs=4)
    sharded = dataclasses.replace(alone, batch_size=2, accumulation=2, save_every=1, fsdp=True)

    def interrupt(step: StepReport) -> None:
        if step.step == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        finetune(samples, model=base, out=tmp_path / "b", config=sharded, placement=TWO, on_step=interrupt)
    heard: list[int] = []
    two = finetune(
        samples,
        model=base,
        out=tmp_path / "b",
        config=sharded,
        placement=TWO,
        on_step=lambda step: heard.append(step.step),
    )
    one = finetune(samples, model=base, out=tmp_path / "a", config=alone)
    assert heard[0] > 1  # it went on
    assert two.losses == pytest.approx(one.losses, rel=FLOAT64)
    file = "adapter_model.safetensors" if "lora" in train else "model.safetensors"
    left, right = load_file(tmp_path / "a" / file), load_file(tmp_path / "b" / file)
    assert left.keys() == right.keys()
    for name, weight in left.items():
        torch.testing.assert_close(right[name], weight, rtol=FLOAT64, atol=FLOAT64)
