"""What finetune writes is what vLLM reads: the adapter, and the whole model with it merged in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from vllm_kit import COLOURS

from mmkit.engines import Reply, Request, Sampling
from mmkit.engines.transformers import TransformersEngine
from mmkit.engines.vllm import VllmEngine
from mmkit.images import load
from mmkit.training import Sample, TuneConfig
from mmkit.training.finetune import finetune


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], Path]) -> Path:
    return tiny_model("qwen2_vl")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for colour in COLOURS:
        Image.new("RGB", (48, 48), colour).save(folder / f"{colour}.png")
    return folder


def asked() -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is in the image?"}]}


@pytest.fixture(scope="module")
def tuned(model: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with an adapter that has learned to name the colours, merged, and the adapter beside it."""
    samples = [
        Sample(
            id=colour,
            messages=(asked(), {"role": "assistant", "content": [{"type": "text", "text": f"a {colour} circle."}]}),
            images=({"path": f"{colour}.png"},),
            image_root=pictures,
        )
        for colour in COLOURS
    ]
    config = TuneConfig(train="lora", merge=True, lr=2e-2, max_steps=30, batch_size=3, device="cpu", threads=1)
    return finetune(samples, model=str(model), out=tmp_path_factory.mktemp("tuned") / "out", config=config).out


@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_vllm_reads_what_finetune_writes(form: str, tuned: Path, model: Path, pictures: Path) -> None:
    from test_engine_vllm import start

    requests = [
        Request(
            colour,
            number,
            messages=(asked(),),
            images=(load({"path": f"{colour}.png"}, pictures),),
            sampling=Sampling(max_new_tokens=8),
        )
        for number, colour in enumerate(COLOURS)
    ]

    def answers(engine: VllmEngine | TransformersEngine) -> list[Reply]:
        try:
            return list(engine.generate(requests))
        finally:
            engine.close()

    of: dict[str, Any] = {"adapter": str(tuned / "adapter")} if form == "adapter" else {}
    read = model if form == "adapter" else tuned
    replies = answers(start(read, **of))
    assert replies == answers(TransformersEngine(str(read), dtype="float32", **of))
    assert [reply.text for reply in replies] == [f"a {colour} circle." for colour in COLOURS]
