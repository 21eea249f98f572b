"""Whole runs: they repeat to the byte, learn, stop at bad rows and numbers, and what they save loads again."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_kit import CONFIG, base, one_batch, pictures, samples, tuning_of, turn
from transformers import AutoModelForImageTextToText, AutoTokenizer

from mmkit.errors import DataError, LimitError, MissingInputError, UsageError
from mmkit.models.loading import load_chat, load_model
from mmkit.training import Sample, StepReport, TuneConfig
from mmkit.training.finetune import finetune
from mmkit.training.loss import head_of
from mmkit.training.prepare import prepare_model
from mmkit.training.rows import Rows

pytestmark = pytest.mark.tiny
__all__ = ["base", "pictures", "samples"]  # fixtures


def weights_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.safetensors")))


@pytest.mark.parametrize("train", ["full", "lora", "mixlora"])
def test_the_same_seed_gives_the_same_bytes(samples: list[Sample], base: str, tmp_path: Path, train: str) -> None:
    config = dataclasses.replace(CONFIG, train=train, batch_size=3, epochs=2, lora_dropout=0.1)
    for name, seed, given in (("a", 0, samples), ("b", 0, samples[::-1]), ("c", 1, samples)):
        torch.rand(3)  # what the process drew before does not matter
        finetune(given, model=base, out=tmp_path / name, config=dataclasses.replace(config, seed=seed))
    first, again, other = (weights_of(tmp_path / name) for name in "abc")
    assert first and first == again and first != other


@pytest.mark.parametrize("train", ["full", "lora"])
def test_it_learns_planted_rows_by_heart_and_what_it_saved_says_them(
    samples: list[Sample], base: str, tmp_path: Path, train: str
) -> None:
    planted = [
        dataclasses.replace(
            s, weight=1.0, messages=(turn("user", f"colour {i} ?", image=bool(s.images)), s.messages[1])
        )
        for i, s in enumerate(samples)
    ]
    reports: list[StepReport] = []
    report = finetune(
        planted,
        model=base,
        out=tmp_path / "tuned",
        config=dataclasses.replace(
            CONFIG, train=train, lr=5e-3, max_steps=150, warmup_steps=5, lora_r=32, lora_alpha=64.0
        ),
        on_step=reports.append,
    )
    assert report.final_loss < 0.05
    assert [step.step for step in reports] == list(range(1, 151)) and reports[0].num_steps == 150
    assert [step.loss for step in reports] == list(report.losses)
    chat = load_chat(str(tmp_path / "tuned"))
    net = load_model(str(tmp_path / "tuned"), device="cpu", dtype=torch.float32)
    for sample in planted:
        prompt = chat.encode(sample.messages[:1], sample.load_images(), open_turn="assistant")
        inputs = chat.collate([prompt], padding_side="left")
        made = net.generate(**inputs, max_new_tokens=12, do_sample=False)
        said = sample.messages[1]["content"][0]["text"]
        assert chat.decode(made[0, len(prompt.input_ids) :].tolist()) == said


@pytest.mark.parametrize("train", ["full", "lora"])
def test_what_is_saved_loads_to_the_same_logits(
    samples: list[Sample], base: str, tmp_path: Path, train: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run from the model's folder with a relative name, load from elsewhere."""
    config = dataclasses.replace(CONFIG, train=train, epochs=3)
    tuning = tuning_of(samples, base, tmp_path / "first", config)
    tuning.run()
    net = tuning.net
    batch = one_batch(samples, base)
    with torch.no_grad():
        expected = net.eval()(**batch["inputs"]).logits
        before = load_model(base, device="cpu")(**batch["inputs"]).logits
    monkeypatch.chdir(Path(base).parent)
    out = finetune(samples, model=Path(base).name, out=tmp_path / "tuned", config=config).out
    monkeypatch.chdir(tmp_path)
    with torch.no_grad():
        seen = load_model(str(out), device="cpu")(**batch["inputs"]).logits
    assert (expected - before).abs().max() > 1e-2
    torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-5)


def test_a_full_model_is_one_that_transformers_loads_unaided(samples: list[Sample], base: str, tmp_path: Path) -> None:
    out = finetune(samples, model=base, out=tmp_path / "tuned", config=CONFIG).out
    was, now = (json.loads((Path(folder) / "config.json").read_text()) for folder in (base, out))
    for part in ("text_config", "vision_config"):
        assert now[part].pop("dtype") == "float32"  # transformers writes it once a model was loaded
    assert now == was
    for name in ("generation_config.json", "tokenizer.json", "chat_template.jinja", "processor_config.json"):
        assert (out / name).read_bytes() == (Path(base) / name).read_bytes(), name
    AutoModelForImageTextToText.from_pretrained(out)
    AutoTokenizer.from_pretrained(out)
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


def test_the_run_is_written_down(samples: list[Sample], base: str, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, batch_size=2, accumulation=2, epochs=2)
    report = finetune(samples, model=base, out=tmp_path / "tuned", config=config)
    run = json.loads((report.out / "run.json").read_text())
    batch = one_batch(samples, base)
    assert run["tokens"] == {
        "text": 2 * batch["text_tokens"],
        "image": 2 * batch["image_tokens"],
        "in_loss": 2 * batch["loss_tokens"],
    }
    assert (run["rows"], run["steps"]) == (8, 4)
    assert TuneConfig(**{**run["arguments"], "report_to": ()}) == config
    assert (run["processes"], run["rejected"]) == (1, 0) and len(run["data_sha256"]) == 64
    assert run["model_files"].keys() == {path.name for path in Path(base).iterdir()}
    assert sorted(run["files"]) == sorted(path.name for path in report.out.iterdir())
    assert run["versions"]["torch"] == torch.__version__
    assert [loss for _, loss in run["loss"]["curve"]] == list(report.losses)
    assert run["seconds"] == pytest.approx(report.seconds, abs=1e-3)


def test_a_second_run_replaces_the_first_and_touches_no_other_directory(
    samples: list[Sample], base: str, tmp_path: Path
) -> None:
    out = tmp_path / "tuned"
    finetune(samples, model=base, out=out, config=CONFIG)
    first = weights_of(out)
    (out / "scores.jsonl").write_text("the user's own")
    finetune(samples, model=base, out=out, config=dataclasses.replace(CONFIG, epochs=2))
    assert weights_of(out) != first and (out / "scores.jsonl").exists()
    finetune(samples, model=base, out=out, config=dataclasses.replace(CONFIG, train="lora"))
    assert [path.name for path in out.glob("*.safetensors")] == ["adapter_model.safetensors"]
    assert not (out / "config.json").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="mine holds files that no tuning run left there"):
        finetune(samples, model=base, out=mine, config=CONFIG)
    assert (mine / "thesis.tex").read_text() == "years of work"
    with pytest.raises(UsageError, match=r"thesis\.tex is a file"):
        finetune(samples, model=base, out=mine / "thesis.tex", config=CONFIG)


def broken(samples: Sequence[Sample], **fields: Any) -> list[Sample]:
    """The samples with one, "row-2", changed."""
    return [dataclasses.replace(s, **fields) if s.id == "row-2" else s for s in samples]


MISTAKES = {
    "no image file": ({"images": ({"path": "gone.png"},)}, MissingInputError, r"gone\.png"),
    "an image too many": ({"images": ({"path": "red.png"},) * 2}, DataError, "image"),
    "nobody answers": ({"messages": (turn("user", "hello ?"),), "images": ()}, DataError, "no assistant turn"),
    "too long": (
        {"messages": (turn("user", "what colour is it ?"), turn("assistant", "red " * 400)), "images": ()},
        DataError,
        "more than max_length 200",
    ),
}


@pytest.mark.parametrize("check_rows", [True, False])
@pytest.mark.parametrize(("mistake", "workers"), [*((mistake, 0) for mistake in MISTAKES), ("too long", 1)])
def test_a_row_that_cannot_be_trained_on_is_named(
    samples: list[Sample], base: str, tmp_path: Path, mistake: str, check_rows: bool, workers: int
) -> None:
    fields, error, words = MISTAKES[mistake]
    steps: list[StepReport] = []
    config = dataclasses.replace(CONFIG, batch_size=1, max_length=200, epochs=2, check_rows=check_rows, workers=workers)
    with pytest.raises(error, match=f"record 'row-2': .*{words}") as caught:
        finetune(broken(samples, **fields), model=base, out=tmp_path / "out", config=config, on_step=steps.append)
    assert "Traceback" not in str(caught.value)
    assert len(steps) < 8 and (not steps or not check_rows)
    assert list(tmp_path.iterdir()) == []


def test_no_rows_are_no_run(base: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row to train on"):
        finetune([], model=base, out=tmp_path / "out", config=CONFIG)


def test_workers_and_a_full_cache_change_no_byte(samples: list[Sample], base: str, tmp_path: Path) -> None:
    for name, settings in (
        ("plain", {}),
        ("workers", {"workers": 1}),
        ("no-cache", {"cache_mb": 0}),
        ("unchecked", {"check_rows": False, "cache_mb": 0, "workers": 1}),
    ):
        # Unchecked rows have no lengths to be grouped by.
        config = dataclasses.replace(CONFIG, batch_size=3, epochs=2, group_by_length=False, **settings)  # type: ignore[arg-type]
        finetune(samples, model=base, out=tmp_path / name, config=config)
        assert weights_of(tmp_path / name) == weights_of(tmp_path / "plain"), name


def test_encoded_rows_are_kept_while_there_is_room(samples: list[Sample], base: str, tmp_path: Path) -> None:
    """A row that is kept outlives its image file; one that found no room is read again."""
    shutil.copy(samples[1].image_root / "blue.png", tmp_path)  # type: ignore[operator]
    moved = dataclasses.replace(samples[1], image_root=tmp_path)
    chat = load_chat(base)
    roomy, full = (Rows([moved], chat, max_length=None, overlong="reject", cache_bytes=size) for size in (10**6, 10**3))
    assert roomy[0].encoded is not None and full[0].encoded is not None
    (tmp_path / "blue.png").unlink()
    assert roomy[0].encoded is not None
    assert isinstance(full[0].error, MissingInputError)


def spoil(base: str, folder: Path, value: float) -> str:
    """A copy of the model with one weight of the first block set to `value`."""
    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(weights) if "layers.0.mlp.down_proj" in name)
    weights[name][0, 0] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def test_a_loss_that_is_no_number_stops_with_step_and_records(samples: list[Sample], base: str, tmp_path: Path) -> None:
    model = spoil(base, tmp_path / "spoiled", float("inf"))
    with pytest.raises(LimitError, match=r"step 1: the loss is nan; records of the batch: 'row-\d', 'row-\d'$"):
        finetune(samples, model=model, out=tmp_path / "out", config=dataclasses.replace(CONFIG, batch_size=2))
    assert not (tmp_path / "out").exists()


def test_a_gradient_that_is_no_number_stops_before_the_weights_take_it(
    samples: list[Sample], base: str, tmp_path: Path
) -> None:
    tuning = tuning_of(samples, base, tmp_path / "out", CONFIG)
    weight = head_of(tuning.net).weight
    weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weight.detach().clone()
    with pytest.raises(
        LimitError, match=r"step 1: the gradient norm is (nan|inf); records of the batch: ('row-\d'(, )?){8}$"
    ):
        tuning.run()
    assert torch.equal(before, weight)


@pytest.mark.parametrize("train", ["full", "lora", "mixlora"])
def test_bfloat16_learns_in_float32_and_is_close(samples: list[Sample], base: str, tmp_path: Path, train: str) -> None:
    config = dataclasses.replace(CONFIG, train=train, dtype="bfloat16")
    net = prepare_model(base, config)
    assert {p.dtype for p in net.parameters() if p.requires_grad} == {torch.float32}
    reports = [
        finetune(samples, model=base, out=tmp_path / dtype, config=dataclasses.replace(config, dtype=dtype))
        for dtype in ("float32", "bfloat16")
    ]
    assert reports[1].losses[0] == pytest.approx(reports[0].losses[0], rel=0.02)
    load_model(str(tmp_path / "bfloat16"), device="cpu")


def test_an_adapter_is_no_base_for_another_one(samples: list[Sample], base: str, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, train="lora")
    first = finetune(samples, model=base, out=tmp_path / "first", config=config).out
    with pytest.raises(UsageError, match="first is an adapter"):
        finetune(samples, model=str(first), out=tmp_path / "second", config=config)
    onwards = finetune(samples, model=str(first), out=tmp_path / "third", config=CONFIG)
    assert (onwards.out / "model.safetensors").is_file()
