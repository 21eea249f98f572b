"""Rows that are packed are trained as if each stood alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from training_kit import CONFIG, CORPUS, one_batch, pictures, samples

from mmkit.errors import UnavailableError, UsageError
from mmkit.models.loading import load_model
from mmkit.testing import tiny_models
from mmkit.training import Sample, packing
from mmkit.training.finetune import finetune
from mmkit.training.loss import IGNORED, head_of, hidden_states, token_nll, valid_tokens

pytestmark = pytest.mark.tiny
__all__ = ["pictures", "samples"]  # fixtures


@pytest.fixture(scope="module", params=packing.PACKABLE)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / request.param
    tiny_models.build(request.param, folder, corpus=CORPUS, hidden_size=64, tokenizer="words")
    return str(folder)


def chosen(samples: Sequence[Sample], kind: str) -> list[Sample]:
    return [s for s in samples if kind == "mixed" or bool(s.images) == (kind == "images")]


@pytest.mark.parametrize("kind", ["mixed", "text", "images"])
def test_packed_padded_and_chunked_rows_have_the_same_loss_and_gradient(
    samples: list[Sample], model: str, kind: str
) -> None:
    net = load_model(model, device="cpu", dtype=torch.float32)
    batch = one_batch(chosen(samples, kind), model)
    seen = {}
    for name, made, chunk in (
        ("padded", batch, None),
        ("packed", packing.pack(net, batch), None),
        ("packed in chunks", packing.pack(net, batch), 3),
    ):
        net.zero_grad()
        nll = token_nll(hidden_states(net, made["inputs"]), head_of(net), made["labels"], chunk)
        weights = made["weights"][:, 1:][valid_tokens(made["labels"])]
        ((nll * weights).sum() / weights.sum()).backward()
        seen[name] = (nll.detach(), {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None})
    plain, gradients = seen.pop("padded")
    scale = max(float(gradient.abs().max()) for gradient in gradients.values())
    for nll, others in seen.values():
        torch.testing.assert_close(nll, plain, rtol=1e-6, atol=1e-6)
        assert gradients.keys() == others.keys()
        assert max(float((gradients[n] - others[n]).abs().max()) for n in gradients) <= 1e-6 * scale


def test_packed_rows_do_not_see_each_other(samples: list[Sample], model: str) -> None:
    """Another first row, of the same length, changes nothing in the rows behind it."""
    net = load_model(model, device="cpu", dtype=torch.float64)
    batch = one_batch([samples[1], samples[2], samples[3]], model)
    other = {**batch, "inputs": {name: tensor.clone() for name, tensor in batch["inputs"].items()}}
    first = int(batch["inputs"]["attention_mask"][0].sum())
    text = batch["inputs"]["mm_token_type_ids"][0] == 0
    other["inputs"]["input_ids"][0, text] = other["inputs"]["input_ids"][0, text].roll(1)
    with torch.no_grad():
        one, two = (hidden_states(net, packing.pack(net, made)["inputs"])[0] for made in (batch, other))
    assert not torch.equal(one[:first], two[:first])
    assert torch.equal(one[first:], two[first:])


def test_the_first_token_of_a_row_is_learned_in_no_pack(samples: list[Sample], model: str) -> None:
    """Nothing of its row stands before it; in a pack another row does."""
    net = load_model(model, device="cpu")
    batch = one_batch(samples[:3], model)
    batch["labels"] = batch["inputs"]["input_ids"].masked_fill(batch["inputs"]["attention_mask"] == 0, IGNORED)
    packed = packing.pack(net, batch)
    assert valid_tokens(packed["labels"]).sum() == valid_tokens(batch["labels"]).sum()


def test_a_model_in_which_rows_would_see_each_other_is_refused(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = load_model(model, device="cpu")
    packing.check_packing(net)
    positions = packing._position_ids

    def running_on(net: Any, inputs: Any, there: torch.Tensor) -> torch.Tensor:
        found = positions(net, inputs, there)
        return torch.arange(found.shape[-1]).expand(found.shape)

    monkeypatch.setattr(packing, "_position_ids", running_on)
    with pytest.raises(UnavailableError, match="see each other"):
        packing.check_packing(net)


def test_other_families_are_refused_before_anything_is_read(samples: list[Sample], tmp_path: Path) -> None:
    tiny_models.build("llava", tmp_path / "base", corpus=CORPUS, hidden_size=64)
    config = dataclasses.replace(CONFIG, pack=True)
    with pytest.raises(UsageError, match="--pack knows qwen2_vl, qwen2_5_vl, qwen3_vl, not llava"):
        finetune(samples, model=str(tmp_path / "base"), out=tmp_path / "out", config=config)
    assert not (tmp_path / "out").exists()
