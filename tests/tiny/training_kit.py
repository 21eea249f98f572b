"""Rows, pictures and a model that the tests of training share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from mmkit.models.loading import load_chat
from mmkit.testing import tiny_models
from mmkit.training import Sample, TuneConfig
from mmkit.training.collate import Collator
from mmkit.training.finetune import prepare
from mmkit.training.ranks import Ranks
from mmkit.training.rows import Rows
from mmkit.training.trainer import Tuning, rows_of

COLOURS = ("red", "blue", "green", "yellow", "white", "purple", "orange", "grey")
CORPUS = [*COLOURS, "what colour is it say please are you sure yes hello 0 1 2 3 4 5 6 7 ?"]
LAMBDAS = (0.1, 1.0, 5.0)
CONFIG = TuneConfig(batch_size=8, device="cpu", threads=1, lora_r=4, lora_alpha=8.0, lr=1e-3)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One 48×48 drawing a colour."""
    folder = tmp_path_factory.mktemp("pictures")
    for colour in COLOURS:
        picture = Image.new("RGB", (48, 48), "black")
        ImageDraw.Draw(picture).ellipse([8, 8, 40, 40], fill=colour)
        picture.save(folder / f"{colour}.png")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A qwen2_vl of two layers that knows the words of these tests and has learnt nothing."""
    folder = tmp_path_factory.mktemp("models") / "base"
    tiny_models.build("qwen2_vl", folder, corpus=CORPUS, hidden_size=64, tokenizer="words")
    return str(folder)


def turn(role: str, text: str, *, image: bool = False, **fields: Any) -> dict[str, Any]:
    parts: list[dict[str, str]] = [{"type": "image"}] if image else []
    return {"role": role, "content": [*parts, {"type": "text", "text": text}], **fields}


@pytest.fixture(scope="module")
def samples(pictures: Path) -> list[Sample]:
    """Eight rows of uneven length, λ of three sizes, every third without an image, one of two rounds."""
    made = []
    for i, colour in enumerate(COLOURS):
        image = i % 3 != 0
        asked = turn("user", "what colour is it ?" if image else f"say {colour} please", image=image)
        messages = [asked, turn("assistant", " ".join([colour] * (1 + i % 4)))]
        if i == 4:
            messages += [turn("user", "are you sure ?"), turn("assistant", "yes")]
        made.append(
            Sample(
                id=f"row-{i}",
                messages=tuple(messages),
                images=({"path": f"{colour}.png"},) if image else (),
                weight=LAMBDAS[i % 3],
                image_root=pictures,
            )
        )
    return made


def encoded(samples: Sequence[Sample], base: str, config: TuneConfig = CONFIG) -> Rows:
    return rows_of(samples, load_chat(base), config)


def one_batch(samples: Sequence[Sample], base: str) -> dict[str, Any]:
    rows = encoded(samples, base)
    numbers = {task: number for number, task in enumerate(sorted({s.task for s in samples}, key=str))}
    return Collator(load_chat(base), numbers)([(rows[i], False) for i in range(len(rows))])  # type: ignore[return-value]


def tuning_of(samples: Sequence[Sample], base: str, out: Path, config: TuneConfig, **options: Any) -> Tuning:
    """A run that is about to begin, in one process."""
    job, rows = prepare(samples, model=base, out=out, config=config, **options)
    assert rows is not None
    return Tuning(job, load_chat(base), rows, Ranks())
