"""What a run reports, read back from a real event file; and the count of FLOPs against torch's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmkit.errors import UnavailableError
from mmkit.training import StepReport, TuneConfig
from mmkit.training.config import Validation
from mmkit.training.flops import Flops
from mmkit.training.prepare import prepare_model
from mmkit.training.ranks import Ranks
from mmkit.training.tracking import Trackers, scalars

pytestmark = pytest.mark.tiny

STEP = StepReport(
    step=3,
    num_steps=9,
    loss=2.5,
    lr=1e-4,
    grad_norm=0.75,
    tokens=300,
    seconds=2.0,
    task_losses={"vqa": 2.0, "": 3.0},
    mfu=0.25,
)
VALIDATION = Validation(step=3, loss=1.5, task_losses={"vqa": 1.25})


def test_figures_by_name() -> None:
    assert scalars(STEP) == {
        "loss": 2.5,
        "lr": 1e-4,
        "grad_norm": 0.75,
        "tokens_per_s": 150.0,
        "mfu": 0.25,
        "loss/vqa": 2.0,
        "loss/no task": 3.0,
    }
    assert scalars(VALIDATION) == {"val/loss": 1.5, "val/loss/vqa": 1.25}


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trackers = Trackers(("tensorboard",), tmp_path)
    trackers.add(STEP)
    trackers.add(VALIDATION)
    trackers.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (loss,) = events.Scalars("loss")
    assert (loss.step, loss.value) == (3, 2.5)
    (validated,) = events.Scalars("val/loss/vqa")
    assert (validated.step, validated.value) == (3, 1.25)


def test_a_tracker_that_is_missing_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"wandb is not installed; add it with: pip install 'mmkit\[track\]'"):
        Trackers(("wandb",), tmp_path)


@pytest.mark.parametrize("train", ["full", "lora", "projector"])
def test_flops_are_those_that_torch_counts(train: str, tiny_model: Callable[[str], Path]) -> None:
    config = TuneConfig(train=train, device="cpu", lora_r=4)
    net = prepare_model(str(tiny_model("qwen2_vl")), config)
    net.set_attn_implementation("eager")  # torch counts no others on a CPU
    if train == "projector":
        net.get_input_embeddings().weight.requires_grad_(True)  # stands for the projector, as there is no image here
    ids = torch.arange(20, 84).view(2, 32)
    mask = torch.ones_like(ids)
    with FlopCounterMode(display=False) as counter:
        net(input_ids=ids, attention_mask=mask, use_cache=False).logits.sum().backward()
    batch = {"inputs": {"attention_mask": mask}, "text_tokens": 64, "image_tokens": 0, "loss_tokens": 64}
    counted = Flops.of(net, config, Ranks())
    # Torch counts the half of attention that the mask throws away too.
    thrown_away = 6 * counted.attention_width * 2 * 32 * 32
    # Under adapters no gradient has to reach the input of the first of the two layers, which the formula leaves out.
    tolerance = 0.04 if train == "lora" else 0.02
    assert counted.of_batch(batch) + thrown_away == pytest.approx(counter.get_total_flops(), rel=tolerance)
    assert counted.utilisation([batch], 1.0) is None  # no GPU
