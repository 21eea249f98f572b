"""The loss is exact, rows come when they should, and masks hold: on a real tiny model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from training_kit import CONFIG, CORPUS, base, one_batch, pictures, rows_of, samples
from transformers import TrainerCallback

from mmkit.errors import DataError, UnavailableError
from mmkit.models.loading import load_chat, load_model
from mmkit.testing import tiny_models
from mmkit.training import Sample, TuneConfig
from mmkit.training.collate import Batches, Collator
from mmkit.training.loss import IGNORED, check_head, head_of, hidden_states, weighted_nll
from mmkit.training.prepare import prepare_model
from mmkit.training.trainer import WeightedTrainer

pytestmark = pytest.mark.tiny
__all__ = ["base", "pictures", "samples"]  # fixtures


class _Gradients(TrainerCallback):  # type: ignore[misc]
    """Keeps the gradients of the last step as the optimizer would see them."""

    def __init__(self) -> None:
        self.kept: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        self.kept = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def trained_gradients(
    samples: Sequence[Sample], base: str, folder: Path, *, spoiled: bool = False, **settings: Any
) -> dict[str, torch.Tensor]:
    """The gradients of one optimizer step of the real trainer, unclipped."""
    config = dataclasses.replace(CONFIG, max_steps=1, max_grad_norm=0.0, **settings)
    net = adapted(base, config)
    trainer = WeightedTrainer(net, rows_of(samples, base), load_chat(base), config, folder)
    gradients = _Gradients()
    trainer.add_callback(gradients)
    trainer.train()
    return gradients.kept


def adapted(base: str, config: TuneConfig) -> Any:
    """The model of a run. Fresh adapters are zero in one half; here both halves are random, so that both learn."""
    torch.manual_seed(1)
    net = prepare_model(base, config)
    for name, parameter in net.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return net


def reference_gradients(samples: Sequence[Sample], base: str, **settings: Any) -> dict[str, torch.Tensor]:
    """Eq. 2 written out over one batch of all rows, from the model's own full logits."""
    net = adapted(base, dataclasses.replace(CONFIG, **settings))
    net.train()
    batch = one_batch(samples, base)
    logits = net(**batch["inputs"]).logits
    labels, weights = batch["labels"][:, 1:], batch["weights"][:, 1:].to(logits.dtype)
    nll = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten(), reduction="none").view_as(weights)
    valid = labels != -100
    ((weights * nll)[valid].sum() / weights[valid].sum()).backward()
    return {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}


def worst(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest difference, relative to the largest gradient."""
    assert a.keys() == b.keys() and a
    return max(float((a[n] - b[n]).abs().max()) for n in a) / max(float(t.abs().max()) for t in a.values())


@pytest.mark.parametrize("train", ["full", "lora"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
def test_gradients_of_micro_batches_are_those_of_one_big_batch(
    samples: list[Sample], base: str, tmp_path: Path, train: str, dtype: str, tolerance: float
) -> None:
    expected = reference_gradients(samples, base, train=train, dtype=dtype)
    for batch_size, accumulation in ((8, 1), (2, 4), (3, 3)):
        seen = trained_gradients(
            samples, base, tmp_path, train=train, dtype=dtype, batch_size=batch_size, accumulation=accumulation
        )
        assert worst(expected, seen) <= tolerance, (batch_size, accumulation)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_the_gradient_is_exact_in_every_family(family: str, samples: list[Sample], tmp_path: Path) -> None:
    """mllama refuses batches that mix rows with and without images, causal_lm takes no images."""
    tiny_models.build(family, tmp_path / "base", corpus=CORPUS, hidden_size=64, tokenizer="words")
    kept = [s for s in samples if family not in ("mllama", "causal_lm") or bool(s.images) == (family == "mllama")]
    expected = reference_gradients(kept, str(tmp_path / "base"), dtype="float64")
    seen = trained_gradients(kept, str(tmp_path / "base"), tmp_path, dtype="float64", batch_size=3, accumulation=3)
    assert worst(expected, seen) <= 1e-12


def test_rows_that_cannot_share_a_batch_are_named(samples: list[Sample], tmp_path: Path) -> None:
    tiny_models.build("mllama", tmp_path / "base", corpus=CORPUS, hidden_size=64, tokenizer="words")
    with pytest.raises(DataError, match=r"records 'row-\d'(, 'row-\d'){7}: mllama cannot hold text-only rows"):
        trained_gradients(samples, str(tmp_path / "base"), tmp_path)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_adapters_stand_on_all_of_the_language_model_and_nothing_else(family: str, tmp_path: Path) -> None:
    tiny_models.build(family, tmp_path, corpus=CORPUS, hidden_size=64)
    net = prepare_model(str(tmp_path), dataclasses.replace(CONFIG, train="lora"))
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    layers = {name.split(".lora_")[0] for name in trained}
    assert all("lora_" in name for name in trained) and len(layers) == 2 * 7
    assert {name.rpartition(".")[2] for name in layers} == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }
    inside = {"idefics3": "text_model", "smolvlm": "text_model", "causal_lm": "layers"}.get(family, "language_model")
    assert all(f".{inside}." in name and "vision" not in name for name in layers)
    check_head(net)


def with_weights(samples: Sequence[Sample], weights: Sequence[float]) -> list[Sample]:
    return [dataclasses.replace(s, weight=w) for s, w in zip(samples, weights, strict=True)]


def test_lambda_times_a_constant_changes_nothing(samples: list[Sample], base: str, tmp_path: Path) -> None:
    scaled = with_weights(samples, [1000 * s.weight for s in samples])
    assert worst(*(trained_gradients(s, base, tmp_path, dtype="float64") for s in (samples, scaled))) <= 1e-7


def test_lambda_0_is_as_if_the_row_were_left_out(samples: list[Sample], base: str, tmp_path: Path) -> None:
    silenced = with_weights(samples, [0.0 if i in (1, 4) else 1.0 for i in range(8)])
    without = [s for i, s in enumerate(with_weights(samples, [1.0] * 8)) if i not in (1, 4)]
    settings = {"dtype": "float64", "batch_size": 2, "accumulation": 4}
    assert worst(*(trained_gradients(s, base, tmp_path, **settings) for s in (silenced, without))) <= 1e-12  # type: ignore[arg-type]


def test_a_row_twice_is_a_row_of_weight_2(samples: list[Sample], base: str, tmp_path: Path) -> None:
    five = with_weights(samples[:5], [1.0] * 5)
    twice = [*five, five[2]]
    doubled = with_weights(five, [1, 1, 2, 1, 1])
    assert worst(*(trained_gradients(s, base, tmp_path, dtype="float64") for s in (twice, doubled))) <= 1e-12


def test_a_step_of_weight_0_only_moves_nothing(samples: list[Sample], base: str, tmp_path: Path) -> None:
    gradients = trained_gradients(with_weights(samples, [0.0] * 8), base, tmp_path)
    assert gradients and all(not tensor.any() for tensor in gradients.values())


def test_the_loss_in_chunks_is_the_loss_in_one_piece(samples: list[Sample], base: str) -> None:
    net = load_model(base, device="cpu", dtype=torch.float64)
    check_head(net)
    batch = one_batch(samples, base)
    results = []
    for chunk in (1, 7, None):
        net.zero_grad()
        loss = weighted_nll(hidden_states(net, batch["inputs"]), head_of(net), batch["labels"], batch["weights"], chunk)
        loss.backward()
        results.append((loss.item(), {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}))
    for loss_value, gradients in results[:-1]:
        assert loss_value == pytest.approx(results[-1][0], rel=1e-12)
        assert worst(results[-1][1], gradients) <= 1e-12


def test_a_batch_with_nothing_in_the_loss_has_gradient_0_not_nan(samples: list[Sample], base: str) -> None:
    net = load_model(base, device="cpu", dtype=torch.float32)
    batch = one_batch(samples[:2], base)
    loss = weighted_nll(
        hidden_states(net, batch["inputs"]),
        head_of(net),
        torch.full_like(batch["labels"], IGNORED),
        batch["weights"],
    )
    loss.backward()
    assert loss.item() == 0
    assert all(not p.grad.any() for p in net.parameters() if p.grad is not None)


def test_the_trained_tokens_are_the_assistants_words_and_their_ends(samples: list[Sample], base: str) -> None:
    chat = load_chat(base)
    batch = one_batch(samples, base)
    end = chat.tokenizer.convert_ids_to_tokens(chat.end_of_turn_id)
    for sample, labels, weights in zip(samples, batch["labels"], batch["weights"], strict=True):
        valid = labels != IGNORED
        said = [m["content"][-1]["text"] for m in sample.messages if m["role"] == "assistant"]
        trained = chat.tokenizer.decode(labels[valid], skip_special_tokens=False)
        assert [text.strip() for text in trained.split(end)] == [*said, ""]
        assert weights[valid].tolist() == pytest.approx([sample.weight] * int(valid.sum()))
    assert batch["loss_tokens"] == int((batch["labels"] != IGNORED).sum())
    assert batch["image_tokens"] == 5 * 9
    assert batch["text_tokens"] + batch["image_tokens"] == int(batch["inputs"]["attention_mask"].sum())


def test_every_row_comes_once_an_epoch_in_an_order_of_its_own(samples: list[Sample], base: str) -> None:
    config = dataclasses.replace(CONFIG, batch_size=3)
    batches = Batches(rows_of(samples, base), Collator(load_chat(base)), config, pin_memory=False)
    orders = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        got = [batch["ids"] for batch in batches]
        assert [len(ids) for ids in got] == [3, 3, 2]
        orders.append([record_id for ids in got for record_id in ids])
    assert all(sorted(order) == sorted(s.id for s in samples) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_the_trainer_walks_through_the_epochs(samples: list[Sample], base: str, tmp_path: Path) -> None:
    """Three epochs of 8 rows in micro-batches of 3, two a step: 2 steps an epoch, the second of one micro-batch."""
    config = dataclasses.replace(CONFIG, batch_size=3, accumulation=2, epochs=3)
    net = prepare_model(base, config)
    seen: list[list[str]] = []
    trainer = WeightedTrainer(net, rows_of(samples, base), load_chat(base), config, tmp_path)
    trainer._on_step = lambda _: seen.append([i for b in trainer._step_batches for i in b["ids"]])
    trainer.train()
    assert [len(ids) for ids in seen] == [6, 2] * 3
    epochs = [seen[i] + seen[i + 1] for i in (0, 2, 4)]
    assert all(sorted(ids) == sorted(s.id for s in samples) for ids in epochs)
    assert len({tuple(ids) for ids in epochs}) == 3


def test_gradient_checkpointing_changes_no_gradient(samples: list[Sample], base: str, tmp_path: Path) -> None:
    for train in ("full", "lora"):
        plain, less = (
            trained_gradients(
                samples, base, tmp_path, train=train, dtype="float64", gradient_checkpointing=checkpointing
            )
            for checkpointing in (False, True)
        )
        assert worst(plain, less) <= 1e-12


def test_a_model_that_changes_its_logits_is_refused(base: str) -> None:
    net = load_model(base, device="cpu")
    check_head(net)

    def cap(_module: Any, _args: Any, output: Any) -> Any:
        output.logits = output.logits.tanh()
        return output

    net.register_forward_hook(cap)
    with pytest.raises(UnavailableError, match="changes its logits after its head"):
        check_head(net)
