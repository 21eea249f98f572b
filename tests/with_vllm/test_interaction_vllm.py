"""score-interaction over the real vLLM: the rows that transformers gives; what two views show is read once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_engine_vllm import ask, picture, start

from mmkit.balance.measure import Measurement, Method
from mmkit.engines import Engine, Sampling
from mmkit.engines.transformers import TransformersEngine
from mmkit.streams import StreamOptions, read_records, run
from mmkit.testing.planted import write

NUM_RECORDS = 6


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Records of one task, each with an image and a context of its own."""
    for number in range(NUM_RECORDS):
        (tmp_path / f"{number}.png").write_bytes(picture(number).data)
    records = (
        {
            "id": str(number),
            "task": "colours",
            "images": [{"path": f"{number}.png"}],
            "context": f"there are {number} circles and a square. " * 3,
            "question": "Which colour is the circle?",
            "choices": ["red", "blue", "green"],
        }
        for number in range(NUM_RECORDS)
    )
    write(records, tmp_path / "tasks.jsonl")
    return tmp_path / "tasks.jsonl"


def samples(engine: Engine, tasks: Path) -> list[dict[str, Any]]:
    """What score-interaction --per-sample writes."""
    method = Method(size=NUM_RECORDS, sampling=Sampling(max_new_tokens=8), image_root=str(tasks.parent))
    stage = Measurement(method, dict.fromkeys(("text", "image", "both"), "m"), lambda _: engine, "samples")
    out = tasks.with_name(f"{type(engine).__name__}.jsonl")
    run(stage, StreamOptions(inputs=[str(tasks)], output=str(out)), command="score-interaction", resumable=False)
    return list(read_records(str(out)))


@pytest.fixture
def images_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images the vision tower is run on, call by call."""
    from vllm.model_executor.models.qwen2_vl import Qwen2VisionTransformer

    counts: list[int] = []
    forward = Qwen2VisionTransformer.forward

    def counting(tower: Any, x: Any, grid_thw: Any, *more: Any, **named: Any) -> Any:
        counts.append(len(grid_thw))
        return forward(tower, x, grid_thw, *more, **named)

    monkeypatch.setattr(Qwen2VisionTransformer, "forward", counting)
    return counts


def test_two_views_share_an_image_and_all_are_answered_as_in_transformers(
    tiny_model: Callable[[str], Path], tasks: Path, images_read: list[int]
) -> None:
    model = tiny_model("qwen2_vl")
    reference = samples(TransformersEngine(str(model), dtype="float32"), tasks)
    engine = start(model)
    try:
        next(engine.generate([ask(0, images=0)]))  # what vLLM measures at its start reads images, too
        images_read.clear()
        ours = samples(engine, tasks)
    finally:
        engine.close()
    assert sum(images_read) == NUM_RECORDS, "shown twice, in `both` and `image`, and read once"
    assert [row["predictions"] for row in ours] == [row["predictions"] for row in reference]
    assert [row["delta"] for row in ours] == [row["delta"] for row in reference]
