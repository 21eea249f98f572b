"""The loss is exact, rows come when they should, and masks hold: on a real tiny model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from training_kit import CONFIG, CORPUS, base, one_batch, pictures, samples, tuning_of
from transformers import AutoModelForImageTextToText

from mmkit.errors import UnavailableError
from mmkit.models.loading import load_chat, load_model
from mmkit.models.mixlora import conditioned
from mmkit.models.parts import part_of
from mmkit.testing import tiny_models
from mmkit.training import Sample
from mmkit.training.finetune import finetune, prepare
from mmkit.training.log import logged, read_losses
from mmkit.training.loss import IGNORED, check_head, head_of, hidden_states, token_nll, valid_tokens
from mmkit.training.plan import Place
from mmkit.training.prepare import prepare_model
from mmkit.training.trainer import Tuning

pytestmark = pytest.mark.tiny
__all__ = ["base", "pictures", "samples"]  # fixtures


def trained_gradients(samples: Sequence[Sample], base: str, folder: Path, **settings: Any) -> dict[str, torch.Tensor]:
    """The gradients of one optimizer step of the real run, unclipped, as the optimizer sees them."""
    config = dataclasses.replace(CONFIG, max_steps=1, max_grad_norm=0.0, **settings)
    tuning = tuning_of(samples, base, folder / "gradients", config, resume=False)
    shake_adapters(tuning.net)
    kept: dict[str, torch.Tensor] = {}

    def keep(*_: Any) -> None:
        kept.update({n: p.grad.clone() for n, p in tuning.net.named_parameters() if p.grad is not None})

    tuning.optimizer.register_step_pre_hook(keep)
    tuning.run()
    return kept


def shake_adapters(net: Any) -> None:
    """Fresh adapters are zero in one half, and gates are; here all is random, so that all learns."""
    torch.manual_seed(1)
    for name, parameter in net.named_parameters():
        if "lora_B" in name or name.endswith(".gate"):
            torch.nn.init.normal_(parameter, std=0.02)


def reference_gradients(samples: Sequence[Sample], base: str, **settings: Any) -> dict[str, torch.Tensor]:
    """Eq. 2 written out over one batch of all rows, from the model's own full logits."""
    net = prepare_model(base, dataclasses.replace(CONFIG, **settings))
    shake_adapters(net)
    net.train()
    batch = one_batch(samples, base)
    with conditioned(net, batch["instructions"]):
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


@pytest.mark.parametrize("train", ["full", "lora", "mixlora"])
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


def test_mllama_never_mixes_modalities_in_a_batch(samples: list[Sample], tmp_path: Path) -> None:
    tiny_models.build("mllama", tmp_path / "base", corpus=CORPUS, hidden_size=64, tokenizer="words")
    tuning = tuning_of(samples, str(tmp_path / "base"), tmp_path / "out", dataclasses.replace(CONFIG, epochs=2))
    collator, mixtures = tuning._collator, list[set[bool]]()

    def watched(rows: Any) -> Any:
        mixtures.append({bool(row.encoded.image_inputs) for row, _ in rows})
        return collator(rows)

    tuning._collator = watched  # type: ignore[assignment]
    tuning.run()
    assert sorted(map(sorted, mixtures)) == [[False], [False], [True], [True]]


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
    """Nor does Adam's momentum of the steps before it, or weight decay."""
    trained = with_weights(samples[:4], [1.0] * 4)
    config = dataclasses.replace(CONFIG, batch_size=4, weight_decay=0.5, epochs=2)
    tuning = tuning_of([*trained, *with_weights(samples[4:], [0.0] * 4)], base, tmp_path / "out", config)
    facts = tuning._trained_on
    moved: list[bool] = []
    with logged(tuning.job, tuning.ranks, 0, validated=False) as tuning._log:
        tuning._began = 0.0
        for indices in ((0, 1, 2, 3), (4, 5, 6, 7), (0, 1, 2, 3)):
            before = [p.detach().clone() for p in tuning.parameters]
            (batches,) = tuning._batches([((tuple(map(Place, indices)),),)], facts)
            tuning._one_step(batches)
            moved.append(any(not torch.equal(old, new) for old, new in zip(before, tuning.parameters, strict=True)))
    assert moved == [True, False, True]
    assert list(read_losses(tuning.job.folder))[1] == 0


def test_the_loss_in_chunks_is_the_loss_in_one_piece(samples: list[Sample], base: str) -> None:
    net = load_model(base, device="cpu", dtype=torch.float64)
    check_head(net)
    batch = one_batch(samples, base)
    weights = batch["weights"][:, 1:][valid_tokens(batch["labels"])]
    results = []
    for chunk in (1, 7, None):
        net.zero_grad()
        nll = token_nll(hidden_states(net, batch["inputs"]), head_of(net), batch["labels"], chunk)
        loss = (nll * weights).sum()
        loss.backward()
        results.append((nll.detach(), {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}))
    for nll, gradients in results[:-1]:
        torch.testing.assert_close(nll, results[-1][0], rtol=1e-12, atol=0)
        assert worst(results[-1][1], gradients) <= 1e-12


def test_a_batch_with_nothing_in_the_loss_has_gradient_0_not_nan(samples: list[Sample], base: str) -> None:
    net = load_model(base, device="cpu", dtype=torch.float32)
    batch = one_batch(samples[:2], base)
    nll = token_nll(hidden_states(net, batch["inputs"]), head_of(net), torch.full_like(batch["labels"], IGNORED))
    nll.sum().backward()
    assert nll.shape == (0,)
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
        assert weights[valid].tolist() == [sample.weight] * int(valid.sum())
    assert batch["loss_tokens"] == int((batch["labels"] != IGNORED).sum())
    assert batch["image_tokens"] == 5 * 9
    assert batch["text_tokens"] + batch["image_tokens"] == int(batch["inputs"]["attention_mask"].sum())


def test_the_run_walks_through_the_epochs(samples: list[Sample], base: str, tmp_path: Path) -> None:
    """Three epochs of 8 rows in micro-batches of 3, two a step: 2 steps an epoch, the second of one micro-batch."""
    config = dataclasses.replace(CONFIG, batch_size=3, accumulation=2, epochs=3)
    tuning = tuning_of(samples, base, tmp_path / "out", config)
    seen: list[list[str]] = []
    count = tuning._count
    tuning._count = lambda batches: seen.append([i for b in batches for i in b["ids"]]) or count(batches)  # type: ignore[func-returns-value, method-assign]
    tuning.run()
    assert [len(ids) for ids in seen] == [6, 2] * 3
    epochs = [seen[i] + seen[i + 1] for i in (0, 2, 4)]
    assert all(sorted(ids) == sorted(s.id for s in samples) for ids in epochs)
    assert len({tuple(ids) for ids in epochs}) == 3


def test_gradient_checkpointing_changes_no_gradient(samples: list[Sample], base: str, tmp_path: Path) -> None:
    for train in ("full", "lora", "mixlora"):
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


def parts_moved(tuning: Tuning) -> list[tuple[bool, set[str]]]:
    """Do the run; for each step whether it held an image, and which parts of the model it moved."""
    family = tuning.chat.family
    moved: list[tuple[bool, set[str]]] = []
    take = tuning._one_step

    def watched(batches: Sequence[dict[str, Any]]) -> None:
        before = {name: p.detach().clone() for name, p in tuning.net.named_parameters()}
        take(batches)
        changed = {part_of(n, family) for n, p in tuning.net.named_parameters() if not torch.equal(before[n], p)}
        moved.append((any(batch["image_tokens"] for batch in batches), changed))

    tuning._one_step = watched  # type: ignore[method-assign, assignment]
    tuning.run()
    return moved


@pytest.mark.parametrize(
    ("train", "with_image"),
    [
        ("full", {"vision", "projector", "llm"}),
        ("llm", {"llm"}),
        ("projector", {"projector"}),
        ("llm+projector", {"llm", "projector"}),
    ],
)
@pytest.mark.parametrize("family", ["qwen2_vl", "llava"])
def test_a_step_without_an_image_leaves_encoder_and_projector_where_they_are(
    family: str, train: str, with_image: set[str], samples: list[Sample], tmp_path: Path
) -> None:
    """To the byte, after steps that gave Adam a momentum for them, and with weight decay."""
    tiny_models.build(family, tmp_path / "base", corpus=CORPUS, hidden_size=64, tokenizer="words")
    config = dataclasses.replace(
        CONFIG, train=train, batch_size=2, epochs=3, modality_batches=True, weight_decay=0.5, schedule="constant"
    )
    moved = parts_moved(tuning_of(samples, str(tmp_path / "base"), tmp_path / "out", config))
    assert {image for image, _ in moved[1:]} == {True, False}
    for image, changed in moved:
        assert changed == (with_image if image else with_image & {"llm"})


@pytest.mark.parametrize("train", ["llm", "lora", "projector", "full"])
def test_the_vision_encoder_does_not_run_for_text(train: str, samples: list[Sample], base: str, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, train=train, batch_size=1, group_by_length=False)
    tuning = tuning_of(samples, base, tmp_path / "out", config)
    before = calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    core = tuning.net.get_base_model() if train == "lora" else tuning.net
    core.model.visual.register_forward_hook(count)
    before = calls
    tuning.run()
    assert calls - before == sum(bool(sample.images) for sample in samples) == 5


def test_parts_learn_at_rates_of_their_own(samples: list[Sample], base: str, tmp_path: Path) -> None:
    """A rate so small that nothing moves by it."""
    config = dataclasses.replace(CONFIG, epochs=2, lr_vision=1e-30, lr_projector=2e-3)
    tuning = tuning_of(samples, base, tmp_path / "out", config)
    assert {group["name"].split(",")[0]: group["lr"] for group in tuning.optimizer.param_groups} == {
        "llm": 1e-3,
        "projector": 2e-3,
        "vision": 1e-30,
    }
    before = {name: p.detach().clone() for name, p in tuning.net.named_parameters()}
    tuning.run()
    after = dict(tuning.net.named_parameters())
    moved = {part_of(name, "qwen2_vl") for name in after if (after[name] - before[name]).abs().max() > 1e-9}
    assert moved == {"llm", "projector"}
    assert len({group["lr"] / group["peak_lr"] for group in tuning.optimizer.param_groups}) == 1


def test_the_logged_loss_of_a_task_is_the_mean_of_its_tokens(samples: list[Sample], base: str, tmp_path: Path) -> None:
    """Unweighted, whatever λ the task has."""
    rows = [dataclasses.replace(sample, task="ab"[i % 2]) for i, sample in enumerate(samples)]
    net = prepare_model(base, CONFIG)
    expected = {}
    for task in "ab":
        batch = one_batch([row for row in rows if row.task == task], base)
        nll = token_nll(hidden_states(net, batch["inputs"]), head_of(net), batch["labels"])
        expected[task] = pytest.approx(nll.mean().item(), rel=1e-5)
    reports = []
    config = dataclasses.replace(CONFIG, batch_size=2, accumulation=4)
    finetune(rows, model=base, out=tmp_path / "out", config=config, on_step=reports.append)
    assert reports[0].task_losses == expected


def test_held_out_rows_are_measured_by_task_and_not_trained_on(
    samples: list[Sample], base: str, tmp_path: Path
) -> None:
    rows = [dataclasses.replace(sample, task="ab"[i % 2]) for i, sample in enumerate(samples)]
    config = dataclasses.replace(CONFIG, batch_size=3, epochs=2, val_size=0.5, seed=1)
    job, _ = prepare(rows, model=base, out=tmp_path / "out", config=config)
    kept = {fact.index for fact in job.facts() if fact.held_out}
    assert 2 <= len(kept) <= 6
    report = finetune(rows, model=base, out=tmp_path / "out", config=config)
    assert report.rows == 8 - len(kept)
    net = load_model(str(tmp_path / "out"), device="cpu")
    batch = one_batch([rows[i] for i in kept], base)
    with torch.no_grad():
        nll = token_nll(hidden_states(net, batch["inputs"]), head_of(net), batch["labels"])
    assert report.validation is not None and report.validation.step == report.steps
    assert report.validation.loss == pytest.approx(nll.mean().item(), rel=1e-5)
    assert report.validation.task_losses.keys() == {rows[i].task for i in kept}


def test_merged_and_unmerged_adapters_say_the_same(samples: list[Sample], base: str, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, train="lora", epochs=5, lr=1e-2, merge=True)
    tuning = tuning_of(samples, base, tmp_path / "out", config)
    tuning.run()
    batch = one_batch(samples, base)
    with torch.no_grad():
        unmerged = tuning.net.eval()(**batch["inputs"]).logits
        untrained = load_model(base, device="cpu")(**batch["inputs"]).logits
        merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")(**batch["inputs"]).logits
        adapted = load_model(str(tmp_path / "out" / "adapter"), device="cpu")(**batch["inputs"]).logits
    assert (unmerged - untrained).abs().max() > 0.1
    assert (merged - unmerged).abs().max() <= 1e-5
    assert (adapted - unmerged).abs().max() <= 1e-5
