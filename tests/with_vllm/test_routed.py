"""Several adapters on one model in vLLM: each request by the one that it names, as transformers answers it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_engine_vllm import CHOICES, ask, raw, start

from mmkit.engines import Request
from mmkit.engines.transformers import TransformersEngine
from mmkit.errors import DataError

LAYERS = r".*language_model.*\.({})"


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], Path]) -> Path:
    return tiny_model("qwen2_vl")


def make_adapter(model: Path, folder: Path, seed: int, rank: int, layers: str, **settings: Any) -> str:
    """A LoRA adapter that changes the model's answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    config = LoraConfig(r=rank, lora_alpha=8 * rank, target_modules=LAYERS.format(layers), **settings)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        tuned = get_peft_model(AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32), config)
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:  # 0 until it is trained
                weight.normal_(0, 0.2)
    tuned.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Three adapters, one of another rank and on other layers."""
    forms = ((4, "q_proj|v_proj|o_proj"), (4, "q_proj|v_proj|o_proj"), (16, "k_proj|down_proj"))
    folder = tmp_path_factory.mktemp("adapters")
    return tuple(make_adapter(model, folder / str(seed), seed, *form) for seed, form in enumerate(forms))


def mixed(adapters: tuple[str, ...], make: Callable[[int], Request], count: int) -> list[Request]:
    """Requests to the model itself and to each adapter, in turn."""
    names = ("", *adapters)
    return [replace(make(number), adapter=names[number % len(names)]) for number in range(count)]


def test_each_request_is_answered_by_its_adapter_as_in_transformers(model: Path, adapters: tuple[str, ...]) -> None:
    asked = mixed(adapters, ask, 24)
    scored = mixed(adapters, lambda number: raw(number, shared_prefix="is the circle red? yes. " * 6), 12)
    reference = TransformersEngine(str(model), dtype="float32", adapters=adapters)
    engine = start(model, adapters=adapters)
    try:
        assert list(engine.generate(asked)) == list(reference.generate(asked))
        for ours, theirs in zip(engine.choose(scored, CHOICES), reference.choose(scored, CHOICES), strict=True):
            assert ours.error is None and ours.log_probs == pytest.approx(theirs.log_probs, abs=1e-3)
        same = [replace(asked[0], id=name, adapter=name) for name in ("", *adapters)]
        assert len({reply.text for reply in engine.generate(same)}) == 4, "the adapters answer alike"
        (unknown,) = engine.generate([replace(asked[0], adapter="elsewhere")])
        assert "was opened without the adapter 'elsewhere'" in str(unknown.error)
    finally:
        engine.close()


def test_an_adapter_that_does_not_fit_is_named_before_vllm_starts(
    model: Path, adapters: tuple[str, ...], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    misfit = tmp_path / "misfit"
    shutil.copytree(adapters[0], misfit)
    weights = load_file(misfit / "adapter_model.safetensors")
    narrow = {name: weight[:, :-8].contiguous() if "lora_A" in name else weight for name, weight in weights.items()}
    save_file(narrow, misfit / "adapter_model.safetensors")
    engine = start(model, adapters=(adapters[1], str(misfit)))
    with pytest.raises(DataError, match="misfit does not fit the model: size mismatch"):
        list(engine.generate([ask(0, adapter=adapters[1])]))
    assert engine.num_starts == 0


@pytest.mark.parametrize(
    ("rank", "settings", "why"),
    [(1024, {}, "rank 1024 is more than vLLM's largest"), (4, {"use_dora": True}, "vLLM does not take .*odd: .*DoRA")],
)
def test_an_adapter_that_vllm_refuses_is_named(
    rank: int, settings: dict[str, Any], why: str, model: Path, adapters: tuple[str, ...], tmp_path: Path
) -> None:
    odd = make_adapter(model, tmp_path / "odd", 0, rank, "q_proj", **settings)
    engine = start(model, adapters=(adapters[1], odd))
    with pytest.raises(DataError, match=why):
        list(engine.generate([ask(0, adapter=adapters[1])]))
    assert engine.num_starts == 0
