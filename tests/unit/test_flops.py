"""Model FLOPs by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmkit.training.flops import Flops, Weights, num_patches, peak_flops


def flops(**changes: Any) -> Flops:
    """A language model of 100 parameters and a head of 10, of which all learn; 7 × 3 × 2 of attention."""
    parts = {"llm": Weights(100, 100), "head": Weights(10, 10), "projector": Weights(), "vision": Weights()}
    return Flops(**{**parts, "attention_width": 42, "patch_size": 14, "peak": None, **changes})


def batch(lengths: tuple[int, ...] = (5, 3), loss: int = 4, image: int = 0, **inputs: Any) -> dict[str, Any]:
    mask = torch.tensor([[1] * n + [0] * (max(lengths) - n) for n in lengths])
    tokens = {"text_tokens": sum(lengths) - image, "image_tokens": image, "loss_tokens": loss}
    return {**tokens, "inputs": {"attention_mask": mask, **inputs}}


ATTENTION = 6 * 42 * (5 * 5 + 3 * 3)


def test_six_a_token_and_parameter_where_all_is_trained() -> None:
    assert flops().of_batch(batch()) == 6 * 100 * 8 + 6 * 10 * 4 + ATTENTION


def test_four_under_adapters_and_six_for_these() -> None:
    lora = flops(llm=Weights(103, 3), head=Weights(10, 0))
    assert lora.of_batch(batch()) == 4 * 100 * 8 + 6 * 3 * 8 + 4 * 10 * 4 + ATTENTION


def test_a_frozen_vision_encoder_costs_its_forward_pass() -> None:
    seen = batch(image=2, pixel_values=torch.zeros(8, 588))
    model = flops(projector=Weights(20, 20), vision=Weights(30, 0))
    text = flops().of_batch(batch())
    # 2 + 2 for the projector, whose input needs no gradient; 2 a patch for the encoder
    assert model.of_batch(seen) == text + 4 * 20 * 2 + 2 * 30 * 8
    all_trained = flops(projector=Weights(20, 20), vision=Weights(30, 30))
    assert all_trained.of_batch(seen) == text + 6 * 20 * 2 + 6 * 30 * 8


def test_gradients_pass_through_a_frozen_language_model_to_the_projector() -> None:
    frozen = {"llm": Weights(100, 0), "head": Weights(10, 0)}
    model = flops(**frozen, projector=Weights(20, 20), vision=Weights(30, 0))
    seen = batch(image=2, pixel_values=torch.zeros(8, 588))
    assert model.of_batch(seen) == 4 * 100 * 8 + 4 * 10 * 4 + ATTENTION + 4 * 20 * 2 + 2 * 30 * 8


def test_the_share_is_of_the_peak_in_the_time_taken() -> None:
    one = flops().of_batch(batch())
    assert flops(peak=1000.0).utilisation([batch(), batch()], 2.0) == pytest.approx(2 * one / 2000)
    assert flops(peak=None).utilisation([batch()], 2.0) is None


def test_patches_of_images() -> None:
    assert num_patches({}, 14) == 0
    assert num_patches({"pixel_values": torch.zeros(96, 1176)}, 14) == 96
    assert num_patches({"pixel_values": torch.zeros(2, 3, 336, 336)}, 14) == 2 * 24 * 24
    mask = torch.zeros(2, 3, 28, 28, dtype=torch.bool)
    mask[0, :2], mask[1, 0, :14] = True, True
    tiles = {"pixel_values": torch.zeros(2, 3, 3, 28, 28), "pixel_attention_mask": mask}
    assert num_patches(tiles, 14) == 3 * 4  # three images; the rest fills up


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA RTX A6000", 154.8e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_peaks_by_name(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak
