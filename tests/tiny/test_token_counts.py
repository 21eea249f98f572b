"""Tokens counted from the sizes of images are those that the real processor makes of the images."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmkit.data.stats.stages import token_count
from mmkit.errors import DataError
from mmkit.models import token_counts
from mmkit.models.loading import load_chat
from mmkit.models.token_counts import TokenCount, TokenCounter
from mmkit.testing.tiny_models import FAMILIES
from mmkit.training import TuneConfig, sample_of
from mmkit.training.finetune import finetune
from mmkit.training.rows import fitted

pytestmark = pytest.mark.tiny

WITH_IMAGES = [family for family in FAMILIES if family != "causal_lm"]
WORDS = ("red", "circle", "two", "<image>", "<|im_end|>", "<|image_pad|>", "\n\n", " ", "é", "日本", "?")


def sample(draw: random.Random) -> tuple[list[dict[str, Any]], list[tuple[int, int]]]:
    """A conversation of one to three rounds with none to three images, of sizes up to 15 to 1 in shape."""
    sizes = [
        (draw.randint(8, 300), draw.randint(8, 300)) if draw.random() < 0.8 else (draw.randint(8, 20), 120)[::turn]
        for turn in [draw.choice([1, -1]) for _ in range(draw.choice([0, 1, 1, 1, 2, 3]))]
    ]
    messages: list[dict[str, Any]] = []
    left = len(sizes)
    for number in range(draw.randint(1, 3)):
        images = left if number == 0 and draw.random() < 0.7 else draw.randint(0, left)
        left -= images
        words = draw.choices(WORDS, k=draw.randint(0, 12))
        parts = [{"type": "text", "text": "".join(words)}, *[{"type": "image"}] * images]
        draw.shuffle(parts)
        messages.append({"role": "user", "content": parts})
        said = [{"type": "text", "text": " ".join(draw.choices(WORDS, k=draw.randint(0, 8)))}]
        messages.append({"role": "assistant", "content": said})
    messages[0]["content"] += [{"type": "image"}] * left
    return messages, sizes


def counted(encoded: Any) -> TokenCount:
    return TokenCount(len(encoded.input_ids), encoded.num_image_tokens, sum(encoded.in_loss))


def outcome(count: Callable[[], TokenCount]) -> TokenCount | str:
    """The count, or why there is none, less what only the caller knows."""
    try:
        return count()
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("family", WITH_IMAGES)
def test_counts_are_those_of_the_real_processor(family: str, tiny_model: Callable[[str], Path]) -> None:
    chat = load_chat(str(tiny_model(family)))
    draw = random.Random(family)
    limits = (None, 60, 150)
    counters = {
        (limit, overlong): TokenCounter(chat, max_length=limit, overlong=overlong)
        for limit in limits
        for overlong in ("reject", "shorten")
    }
    seen = set()
    for _ in range(125):
        messages, sizes = sample(draw)
        encoded = chat.encode(messages, [Image.new("RGB", size) for size in sizes])
        for (limit, overlong), counter in counters.items():
            count = outcome(lambda: counter.count(messages, sizes))  # noqa: B023 - called at once
            real = outcome(lambda: counted(fitted(encoded, limit, overlong, "row")))  # noqa: B023
            assert count == (real if isinstance(real, TokenCount) else real.removeprefix("row: "))
        seen.add((counted(encoded).image, len(sizes)))
    assert len(seen) > (3 if family in ("mllama", "llava") else 10)


@pytest.mark.parametrize("family", WITH_IMAGES)
def test_every_family_has_a_rule_that_needs_no_pixels(
    family: str, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = load_chat(str(tiny_model(family)))
    counter = TokenCounter(chat)
    monkeypatch.setattr(chat, "replacements", lambda images: pytest.fail("pixels were processed"))
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
    ]
    assert counter.count(messages, [(100, 60)]).image > 0


def test_a_processor_without_a_rule_sees_a_blank_image_of_that_size(
    tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = load_chat(str(tiny_model("llava_next")))
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
    ]
    by_rule = [TokenCounter(chat).count(messages, [size]) for size in ((100, 60), (60, 200), (48, 48))]
    monkeypatch.setattr(token_counts, "_RULES", {})
    assert [TokenCounter(chat).count(messages, [size]) for size in ((100, 60), (60, 200), (48, 48))] == by_rule
    assert len({count.image for count in by_rule}) == 3


@pytest.mark.parametrize("family", ["idefics3", "smolvlm"])
def test_tiles_are_counted_where_the_longest_edge_is_no_whole_number_of_them(
    family: str, tiny_model: Callable[[str], Path]
) -> None:
    """There the processors' own get_number_of_image_patches differs from what they do with images."""
    chat = load_chat(str(tiny_model(family)))
    images = chat.processor.image_processor
    images.size = type(images.size)(longest_edge=images.max_image_size["longest_edge"] * 5 // 2)
    draw, seen = random.Random(family), set()
    for _ in range(80):
        size = (draw.randint(8, 300), draw.randint(8, 300))
        messages = [
            {"role": "user", "content": [{"type": "image"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
        ]
        count = TokenCounter(chat).count(messages, [size])
        assert count == counted(chat.encode(messages, [Image.new("RGB", size)]))
        seen.add(count.image)
    assert len(seen) >= 4


def test_published_settings_give_the_published_numbers(tiny_model: Callable[[str], Path]) -> None:
    """576 for LLaVA-1.5 at 336 pixels in patches of 14, whatever the image's size (MLAN, Liu et al. 2024)."""
    chat = load_chat(str(tiny_model("llava")))
    chat.processor.patch_size = 14
    chat.processor.image_processor.crop_size = {"height": 336, "width": 336}
    messages = [
        {"role": "user", "content": [{"type": "image"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
    ]
    assert {TokenCounter(chat).count(messages, [size]).image for size in ((336, 336), (20, 3000))} == {576}


def test_what_finetune_would_refuse_is_refused(tiny_model: Callable[[str], Path]) -> None:
    said = {"role": "assistant", "content": [{"type": "text", "text": "red"}]}
    asked = {"role": "user", "content": [{"type": "image"}]}
    text_model = TokenCounter(load_chat(str(tiny_model("causal_lm"))))
    assert text_model.count([said], []).image == 0
    with pytest.raises(DataError, match="text model and takes no images"):
        text_model.count([asked, said], [(9, 9)])
    qwen = TokenCounter(load_chat(str(tiny_model("qwen2_vl"))))
    with pytest.raises(DataError, match="aspect ratio"):
        qwen.count([asked, said], [(3, 900)])
    with pytest.raises(DataError, match="no turn of this conversation is learned"):
        qwen.count([asked], [(9, 9)])
    with pytest.raises(DataError, match="1 image parts, but there are 2 images"):
        qwen.count([asked, said], [(9, 9), (9, 9)])


@pytest.mark.parametrize("overlong", ["reject", "shorten"])
@pytest.mark.parametrize(("family", "max_length"), [("qwen2_vl", 120), ("llava_next", 150)])
def test_finetune_counts_the_same(
    family: str, max_length: int, overlong: str, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    draw = random.Random(7)
    records = []
    for number in range(12):
        messages, sizes = sample(draw)
        for place, size in enumerate(sizes):
            Image.new("RGB", size).save(tmp_path / f"{number}-{place}.png")
        images = [{"path": f"{number}-{place}.png"} for place in range(len(sizes))]
        records.append({"id": str(number), "messages": messages, "images": images})
    model = str(tiny_model(family))
    count = token_count(TokenCounter(load_chat(model), max_length=max_length, overlong=overlong), tmp_path)
    counts = [found for record in records if isinstance(found := outcome(lambda: count(record)), TokenCount)]  # noqa: B023
    assert len(counts) >= 2
    if overlong == "reject":
        assert len(counts) < len(records)
    else:
        assert any(found.total == max_length for found in counts)
    report = finetune(
        [sample_of(record, image_root=tmp_path) for record in records],
        model=model,
        out=tmp_path / "tuned",
        config=TuneConfig(batch_size=2, device="cpu", threads=1, epochs=2, max_length=max_length, overlong=overlong),
        on_refused=lambda refused: None,
    )
    assert report.rows == len(counts)
    assert report.text_tokens + report.image_tokens == 2 * sum(found.total for found in counts)
    assert report.image_tokens == 2 * sum(found.image for found in counts)
    assert report.loss_tokens == 2 * sum(found.loss for found in counts)
