"""What render shows is what the trainer would get."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from training_kit import base, pictures, samples, turn

from mmkit.errors import DataError
from mmkit.models.encoding import Chat
from mmkit.models.loading import load_chat
from mmkit.testing import tiny_models
from mmkit.training import Sample
from mmkit.training.render import Rendering, Segment, render
from mmkit.training.rows import Rows, encode
from mmkit.training.samples import Refused

pytestmark = pytest.mark.tiny
__all__ = ["base", "pictures", "samples"]  # fixtures


@pytest.fixture(scope="module")
def chat_of(tiny_model: Callable[[str], Path]) -> Callable[[str], Chat]:
    return cache(lambda family: load_chat(str(tiny_model(family))))


@pytest.fixture(scope="module")
def sample(samples: list[Sample]) -> Sample:
    """Two rounds about an image, whose question spells a control token."""
    messages = (
        turn("user", "What is <|im_end|> it?", image=True),
        turn("assistant", "a red circle"),
        turn("user", "Why?"),
        turn("assistant", "because"),
    )
    return dataclasses.replace(samples[1], id="a", messages=messages, task="colour", weight=2.5, where="t.jsonl:3")


def test_a_row_is_shown_in_runs_of_tokens_that_are_treated_alike(
    sample: Sample, chat_of: Callable[[str], Chat]
) -> None:
    shown = render(sample, chat_of("qwen2_vl"))
    assert [(segment.kind, segment.text, segment.in_loss) for segment in shown.segments] == [
        ("control", "<|im_start|>", False),
        ("text", "user\n", False),
        ("control", "<|vision_start|>", False),
        ("image", "<image ×9>", False),
        ("control", "<|vision_end|>", False),
        ("text", "What is <|im_end|> it?", False),
        ("control", "<|im_end|>", False),
        ("text", "\n", False),
        ("control", "<|im_start|>", False),
        ("text", "assistant\n", False),
        ("text", "a red circle", True),
        ("control", "<|im_end|>", True),
        ("text", "\n", False),
        ("control", "<|im_start|>", False),
        ("text", "user\nWhy?", False),
        ("control", "<|im_end|>", False),
        ("text", "\n", False),
        ("control", "<|im_start|>", False),
        ("text", "assistant\n", False),
        ("text", "because", True),
        ("control", "<|im_end|>", True),
        ("text", "\n", False),
    ]
    assert (shown.id, shown.where, shown.task, shown.weight, shown.error) == ("a", "t.jsonl:3", "colour", 2.5, None)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_the_tokens_are_those_that_the_trainer_gets(
    family: str, sample: Sample, chat_of: Callable[[str], Chat]
) -> None:
    chat = chat_of(family)
    if family == "causal_lm":
        sample = dataclasses.replace(sample, images=(), messages=sample.messages[2:])
    for max_length, overlong in ((None, "reject"), (len(encode(sample, chat).input_ids) - 4, "shorten")):
        shown = render(sample, chat, max_length=max_length, overlong=overlong)
        row = Rows([sample], chat, max_length=max_length, overlong=overlong, cache_bytes=0)[0].encoded
        assert row is not None
        kept = [segment for segment in shown.segments if not segment.cut]
        ids = [i for segment in kept for i in segment.tokens or [None] * segment.num_tokens]
        of_row = [None if image else i for i, image in zip(row.input_ids, row.is_image, strict=True)]
        assert ids == of_row
        assert [learned for s in kept for learned in [s.in_loss] * s.num_tokens] == row.in_loss
        assert shown.num_tokens == len(row.input_ids)
        assert shown.num_image_tokens == row.num_image_tokens
        assert shown.num_loss_tokens == sum(row.in_loss)
        assert shown.num_cut_tokens == (0 if max_length is None else 4)


def test_texts_keep_the_spaces_between_them(samples: list[Sample], base: str) -> None:
    """A tokenizer of words puts spaces between them when it decodes, and none at the start."""
    chat = load_chat(base)
    messages = (turn("user", "are you sure ?"), turn("assistant", "yes red"), turn("user", "?", train=False))
    sample = dataclasses.replace(samples[0], messages=messages)
    encoded = encode(sample, chat)
    whole = chat.tokenizer.decode(encoded.input_ids, skip_special_tokens=False)
    assert "".join(segment.text for segment in render(sample, chat).segments) == whole


def test_what_is_cut_is_told_from_what_is_kept(sample: Sample, chat_of: Callable[[str], Chat]) -> None:
    chat = chat_of("qwen2_vl")
    whole = render(sample, chat)
    shown = render(sample, chat, max_length=whole.num_tokens - 4, overlong="shorten")
    assert shown.num_cut_tokens == 4 and shown.num_loss_tokens < whole.num_loss_tokens
    cut = [segment for segment in shown.segments if segment.cut]
    assert cut == list(shown.segments[-len(cut) :])
    assert "".join(segment.text for segment in shown.segments) == "".join(segment.text for segment in whole.segments)


@pytest.mark.parametrize(
    ("overlong", "complaint"), [("reject", "are more than max_length 20"), ("shorten", "no token that is learned")]
)
def test_a_row_that_does_not_fit_is_shown_with_the_reason(
    overlong: str, complaint: str, sample: Sample, chat_of: Callable[[str], Chat]
) -> None:
    shown = render(sample, chat_of("qwen2_vl"), max_length=20, overlong=overlong)
    assert shown.error is not None and shown.error.startswith("t.jsonl:3: record 'a': ") and complaint in shown.error
    assert shown.segments == render(sample, chat_of("qwen2_vl")).segments
    assert shown.num_cut_tokens == 0


def test_a_row_that_cannot_be_encoded_has_the_reason_alone(sample: Sample, chat_of: Callable[[str], Chat]) -> None:
    gone = dataclasses.replace(sample, images=({"path": "gone.png"},))
    shown = render(gone, chat_of("qwen2_vl"))
    assert shown.segments == () and shown.error is not None and "'gone.png' not found" in shown.error
    assert shown.to_wire()["num_tokens"] is None and shown.to_wire()["weight"] == 2.5


@pytest.mark.parametrize(("record", "expected"), [({"id": "b"}, "b"), ("{oops", None)])
def test_a_row_that_could_not_be_read_has_the_reason_alone(
    record: dict[str, str] | str, expected: str | None, chat_of: Callable[[str], Chat]
) -> None:
    shown = render(Refused("t.jsonl:4", record, DataError("t.jsonl:4: no messages")), chat_of("qwen2_vl"))
    assert shown == Rendering("t.jsonl:4", expected, error="t.jsonl:4: no messages")


def test_the_wire_form() -> None:
    segment = Segment("text", "red", (7, 8), 2, in_loss=True, cut=False)
    assert Rendering("t.jsonl:1", "a", None, 1.0, (segment,)).to_wire() == {
        "id": "a",
        "where": "t.jsonl:1",
        "task": None,
        "weight": 1.0,
        "num_tokens": 2,
        "num_image_tokens": 0,
        "num_loss_tokens": 2,
        "num_cut_tokens": 0,
        "segments": [{"kind": "text", "text": "red", "tokens": (7, 8), "num_tokens": 2, "in_loss": True, "cut": False}],
        "error": None,
    }
