"""Two processes train what one trains: gradients, weights and losses, whatever each of them saw."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_kit import WORKERS, torchrun
from training_kit import COLOURS, CORPUS, LAMBDAS, pictures, turn
from workers.train_worker import recorded

from mmkit.testing import tiny_models
from mmkit.training import Placement, Sample, TuneConfig
from mmkit.training.finetune import prepare
from mmkit.training.ranks import Ranks

pytestmark = pytest.mark.tiny
__all__ = ["pictures"]  # fixtures

EIGHT = TuneConfig(batch_size=8, device="cpu", threads=1, lora_r=4, lora_alpha=8.0, max_steps=5, lr=2e-4)
"""Five steps of eight rows; two processes make them of two micro-steps of two rows each."""

RATES = {"float32": 2e-5, "float64": 2e-4}
"""Adam takes a gradient that is nothing but rounding for as good as any other, and moves its weight by some of the
learning rate: at 1e-3 two float32 runs of one process differ by 2e-5 when their rows are summed in another order."""

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    f"{family} {train} {dtype}{' by modality' if apart else ''}": (
        family,
        {"train": train, "dtype": dtype, "modality_batches": apart, "weight_decay": 0.1, "lr": RATES[dtype]},
    )
    for family in ("qwen2_vl", "llava")
    for train in ("full", "lora")
    for dtype in ("float32", "float64")
    for apart in (False, True)
} | {
    **{f"balance {balance}": ("qwen2_vl", {"balance": balance, "dtype": "float64"}) for balance in ("tla", "rlw")},
    **{
        f"balance {balance}": ("qwen2_vl", {"balance": balance, "balance_window": 1, "dtype": "float64"})
        for balance in ("dwa", "igb")
    },
    "divided by tokens": ("qwen2_vl", {"weight_norm": "tokens", "dtype": "float64"}),
    "projector": ("llava", {"train": "projector", "dtype": "float64"}),
    "filled up": ("qwen2_vl", {"dtype": "float64"}),
    "packed and filled up": ("qwen2_vl", {"pack": True, "dtype": "float64"}),
    "packed": ("qwen2_vl", {"pack": True, "dtype": "float64"}),
    "checkpointed": ("qwen2_vl", {"gradient_checkpointing": True, "dtype": "float64"}),
}


@pytest.fixture(scope="module")
def mixture(pictures: Path) -> list[Sample]:
    """24 rows of three tasks with a λ each and uneven lengths, one in three without an image."""
    made = []
    for i in range(24):
        colour, image, task = COLOURS[i % 8], i % 3 != 0, i % 4 % 3
        asked = turn("user", "what colour is it ?" if image else "say it please", image=image)
        said = turn("assistant", " ".join([colour] * (1 + i % 5)))
        images = ({"path": f"{colour}.png"},) if image else ()
        made.append(
            Sample(f"row-{i}", (asked, said), images, task="abc"[task], weight=LAMBDAS[task], image_root=pictures)
        )
    return made


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    for family in ("qwen2_vl", "llava"):
        tiny_models.build(family, folder / family, corpus=CORPUS, hidden_size=64, tokenizer="words")
    return {family: str(folder / family) for family in ("qwen2_vl", "llava")}


@pytest.fixture(scope="module")
def both(
    mixture: list[Sample], bases: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[dict[str, Any], dict[str, Any]]]]:
    """What one process saw in each case, and what two saw."""
    folder = tmp_path_factory.mktemp("runs")
    alone, outs = {}, {}
    for number, (name, (family, settings)) in enumerate(CASES.items()):
        config = dataclasses.replace(EIGHT, **settings)
        # Seven rows are one too few for two processes: a copy of one fills up, and counts nothing.
        given = mixture[:7] if "filled up" in name else mixture
        _, rows = prepare(given, model=bases[family], out=folder / f"{number}-1", config=config)
        alone[name] = recorded(folder / f"{number}-1", Ranks(), rows)
        outs[name] = folder / f"{number}-2"
        split = dataclasses.replace(config, batch_size=2, accumulation=2)
        prepare(given, model=bases[family], out=outs[name], config=split, placement=Placement(nproc=2))
    torchrun(WORKERS / "train_worker.py", *outs.values())
    yield {name: (alone[name], torch.load(f"{out}.pt")) for name, out in outs.items()}


def worst(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest difference, relative to the largest number."""
    assert a.keys() == b.keys() and a
    return max(float((a[n] - b[n]).abs().max()) for n in a) / max(float(t.abs().max()) for t in a.values())


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The length of the difference, relative to the length."""
    assert a.keys() == b.keys() and a
    squares = [(float((a[n] - b[n]).double().square().sum()), float(a[n].double().square().sum())) for n in a]
    return (sum(one for one, _ in squares) / sum(other for _, other in squares)) ** 0.5


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_what_one_trains(case: str, both: dict[str, Any]) -> None:
    one, two = both[case]
    tolerance = 1e-6 if "float32" in case else 1e-12
    assert len(one["gradients"]) == len(two["gradients"]) == 5
    for alone, together in zip(one["gradients"][1:], two["gradients"][1:], strict=True):
        assert apart(alone, together) <= 10 * tolerance  # of the later steps, where the weights differ a little
    assert apart(one["gradients"][0], two["gradients"][0]) <= tolerance
    assert worst(one["gradients"][0], two["gradients"][0]) <= 3 * tolerance  # one number of thousands, on any CPU
    assert worst(one["weights"], two["weights"]) <= tolerance
    assert two["losses"] == pytest.approx(one["losses"], rel=10 * tolerance)


def test_the_cases_hold_steps_of_every_kind(both: dict[str, Any], mixture: list[Sample]) -> None:
    """Text-only steps, image-only ones, mixed ones, and micro-steps in which one process has an image and the other
    has none."""
    has_image = {sample.id: bool(sample.images) for sample in mixture}

    def kinds(case: str) -> Counter[frozenset[bool]]:
        return Counter(frozenset(has_image[i] for batch in step for i in batch) for step in both[case][0]["batches"])

    assert kinds("qwen2_vl full float64 by modality").keys() == {frozenset([True]), frozenset([False])}
    assert kinds("qwen2_vl full float64").keys() == {frozenset([True, False])}
    asymmetric = [
        (left, right)
        for step in zip(*both["qwen2_vl full float64"][1]["batches"], strict=True)
        for left, right in zip(*step, strict=True)
        if any(has_image[i] for i in left) != any(has_image[i] for i in right)
    ]
    assert asymmetric


@pytest.mark.parametrize("case", ["qwen2_vl full float64 by modality", "llava full float64 by modality"])
def test_a_step_without_an_image_gives_encoder_and_projector_no_gradient(
    case: str, both: dict[str, Any], mixture: list[Sample]
) -> None:
    """None, in both processes: zeros would still move them, by momentum and decay."""
    has_image = {sample.id: bool(sample.images) for sample in mixture}
    for seen in both[case]:
        steps = seen["batches"] if seen is both[case][0] else seen["batches"][0]
        for gradients, step in zip(seen["gradients"], steps, strict=True):
            looks = {name for name in gradients if "vis" in name or "projector" in name}
            assert bool(looks) == any(has_image[i] for batch in step for i in batch)


def test_seven_rows_on_two_processes_are_each_trained_once_an_epoch(
    mixture: list[Sample], bases: dict[str, str], tmp_path: Path
) -> None:
    rows = [s for s in mixture if not s.images][:4] + [s for s in mixture if s.images][:3]
    outs = []
    for apart in (False, True):
        config = dataclasses.replace(
            EIGHT, batch_size=2, accumulation=2, max_steps=None, epochs=2, modality_batches=apart
        )
        outs.append(tmp_path / f"apart-{apart}")
        prepare(rows, model=bases["qwen2_vl"], out=outs[-1], config=config, placement=Placement(nproc=2))
    torchrun(WORKERS / "train_worker.py", *outs)
    for out in outs:
        one, other = torch.load(f"{out}.pt")["batches"]
        assert [len(step) for step in one] == [len(step) for step in other]
        trained = Counter(i for rank in (one, other) for step in rank for batch in step for i in batch)
        assert trained == {sample.id: 2 for sample in rows}
