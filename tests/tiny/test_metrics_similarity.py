"""The similarity metric with a real sentence encoder: a tiny BERT with random weights in the place of MiniLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmkit.tasks import embedding
from mmkit.tasks.metrics import METRICS

pytestmark = pytest.mark.tiny

SENTENCES = ["a dog in the grass", "the dog", "a red ball", "two people and a dog on the beach"]


@pytest.fixture
def bert(tmp_path: Path) -> tuple[Any, Any, Path]:
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", *sorted({word for sentence in SENTENCES for word in sentence.split()})]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = BertModel(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return model, tokenizer, tmp_path


def test_similarity_is_the_cosine_of_mean_pooled_states(
    bert: tuple[Any, Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    model, tokenizer, directory = bert
    monkeypatch.setattr(embedding, "MODEL", str(directory))
    embedding.encoder.cache_clear()
    records = [{"prediction": said, "answer": gold} for said in SENTENCES for gold in SENTENCES]
    try:
        found = METRICS["similarity"].corpus_rules["strict"]([*records, {"prediction": "\ud800 \x00", "answer": "a"}])
    finally:
        embedding.encoder.cache_clear()

    def vector(text: str) -> Any:
        with torch.no_grad():
            return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)

    expected = [float(torch.cosine_similarity(vector(r["prediction"]), vector(r["answer"]), dim=0)) for r in records]
    assert [score.value for score in found[:-1]] == pytest.approx(expected, abs=1e-5)
    assert max(expected) == pytest.approx(1)
    assert min(expected) < 0.99


@pytest.mark.usefixtures("minilm")
def test_the_real_encoder_knows_meaning_and_not_numbers(capfd: pytest.CaptureFixture[str]) -> None:
    pairs = [
        ("3", "4"),
        ("The man is riding a horse.", "Someone rides on horseback."),
        ("The man is riding a horse.", "The invoice is due on Friday."),
        ("  ", "anything"),
    ]
    records = [{"prediction": said, "answer": gold} for said, gold in pairs]
    numbers, alike, apart, blank = METRICS["similarity"].corpus_rules["strict"](records)
    assert numbers.value == pytest.approx(0.859, abs=0.0005)  # no judge of numbers
    assert alike.value > 0.6 > 0.2 > apart.value
    assert (blank.value, blank.parsed) == (0.0, None)
    assert capfd.readouterr() == ("", "")
