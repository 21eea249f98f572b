"""The models and rows that the benchmarks of training share. All of it is made on the spot, from a seed."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import orjson
from PIL import Image

from mmkit.models.loading import quiet
from mmkit.testing import tiny_models
from mmkit.training import Sample

_VOCABULARY = (
    "the a of in and is with to on left right upper lower scan slide section image shows region tissue cells dense "
    "pale dark round irregular margin contrast view patient history lesion mass finding normal small large figure "
    "panel plate dish fresh grilled sliced bowl sauce herb rice leaf bark road river field building vehicle what where"
)
WORDS = _VOCABULARY.split()
TASKS = ("vqa", "caption", "report")

QWEN2_VL_VOCABULARY = 151_936


def write_model(
    folder: Path,
    *,
    text: Mapping[str, Any],
    vision: Mapping[str, Any] | None = None,
    patch_size: int = 14,
    max_pixels: int = 1280 * 28 * 28,
    tied: bool = True,
    dtype: str = "float32",
    device: str = "cpu",
) -> None:
    """Write a qwen2_vl of random weights: a tiny one with `text` and `vision` put over its configuration.

    Its tokenizer is a tiny one whatever `vocab_size` says: what a head costs depends on its size, not on which of its
    tokens occur.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    tiny_models.build(
        "qwen2_vl", folder, corpus=WORDS * 20, patch_size=patch_size, image_size=4 * patch_size, tokenizer="words"
    )
    with _edited(folder / "processor_config.json") as processor:
        processor["image_processor"]["size"] = {"shortest_edge": 56 * 56, "longest_edge": max_pixels}
    with _edited(folder / "config.json") as config:
        half_head = text["hidden_size"] // text["num_attention_heads"] // 2
        side = 3 * half_head // 8
        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [half_head - 2 * side, side, side]}
        config["text_config"].pop("layer_types")  # transformers works them out
        config["text_config"] |= {**text, "rope_parameters": rope, "tie_word_embeddings": tied}
        config["vision_config"] |= {**(vision or {}), "hidden_size": text["hidden_size"]}
        config["tie_word_embeddings"] = tied
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=getattr(torch, dtype))
    with quiet():
        model.save_pretrained(folder)


@contextmanager
def _edited(path: Path) -> Iterator[dict[str, Any]]:
    """The content of a JSON file, written back at the end."""
    content = orjson.loads(path.read_bytes())
    yield content
    path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))


def samples(
    folder: Path,
    number: int,
    *,
    image_edges: Sequence[int],
    prompt_words: float,
    answer_words: float,
    weights: Mapping[str, float] | None = None,
) -> list[Sample]:
    """`number` questions with an image each, the tasks taking turns; `weights` are λ by task.

    An image is a JPEG, square, its edge in pixels one of `image_edges`. The word counts are medians of log-normal
    distributions with σ = .5.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    made = []
    for i in range(number):
        name, task = f"{i}.jpg", TASKS[i % len(TASKS)]
        (folder / name).write_bytes(_picture(draw.choice(list(image_edges)), i))
        asked = [{"type": "image"}, {"type": "text", "text": _text(draw, prompt_words)}]
        answer = [{"type": "text", "text": _text(draw, answer_words)}]
        made.append(
            Sample(
                id=f"row-{i}",
                task=task,
                messages=({"role": "user", "content": asked}, {"role": "assistant", "content": answer}),
                images=({"path": name},),
                weight=1.0 if weights is None else weights[task],
                image_root=folder,
            )
        )
    return made


def _text(draw: random.Random, median: float) -> str:
    return " ".join(draw.choices(WORDS, k=max(1, round(draw.lognormvariate(math.log(median), 0.5)))))


def _picture(edge: int, seed: int) -> bytes:
    """A photo-like JPEG: noise of 28 × 28, enlarged."""
    noise = numpy.random.default_rng(seed).integers(0, 255, (28, 28, 3), dtype=numpy.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((edge, edge)).save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()
