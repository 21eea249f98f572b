"""Prompts on which engines tend to part ways, made in code: images of odd shapes, control tokens spelled in a caption,
characters of several bytes, length."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mmkit import images
from mmkit.engines import Request
from mmkit.images import LoadedImage
from mmkit.records import message

if TYPE_CHECKING:
    from mmkit.models.encoding import Chat

_SPELLINGS = ("<image>", "<|image_pad|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "</s>", "[INST]")
_QUESTION = "What is in the image? Answer in a few words."
_PARAGRAPH = (
    "A field of wheat lies below a hill with three trees, and a road leads past it to a village whose church can be "
    "seen from afar. In the morning the tower's shadow falls on the school, at noon on nothing, and in the evening on "
    "the mill by the river. "
)


def built_in(chat: Chat) -> list[Request]:
    """The prompts, each named by what it is about. Control tokens are spelled as this model and as others have them."""
    own = [token for token in (*chat.tokenizer.all_special_tokens, chat.image_token) if token]
    spelled = " ".join(dict.fromkeys([*own, *_SPELLINGS]))
    contents: Sequence[tuple[str, str, Sequence[tuple[int, int]]]] = (
        ("text only", "Which is larger, a mouse or a horse?", ()),
        ("one image", _QUESTION, [(320, 240)]),
        ("two images of odd sizes", "What do the two images have in common?", [(61, 97), (131, 45)]),
        ("a very small image", _QUESTION, [(7, 5)]),
        ("a very wide image", _QUESTION, [(400, 12)]),
        ("control tokens spelled in a caption", f"Rewrite this caption: a sign that reads {spelled}", [(64, 64)]),
        ("text beyond ASCII", "Übersetze: „naïve café“, 日本語のテキスト, Ελληνικά, مرحبا, 👩‍🔬 e\u0301", ()),
        ("a longer text", _PARAGRAPH * 4 + "Where is the shadow at noon?", ()),
    )
    return list(_requests(contents))


def _requests(contents: Sequence[tuple[str, str, Sequence[tuple[int, int]]]]) -> Iterator[Request]:
    for position, (name, text, sizes) in enumerate(contents):
        pictures = [_picture(size, turn) for turn, size in enumerate(sizes)]
        yield Request(name, position, messages=[message("user", text, len(pictures))], images=pictures)


def _picture(size: tuple[int, int], turn: int) -> LoadedImage:
    """Colour that changes everywhere, so that a crop, a resize or a swap of two images shows; `turn` makes others."""
    from PIL import Image

    ramp, rings = Image.linear_gradient("L"), Image.radial_gradient("L")
    channels = [ramp, rings, ramp.transpose(Image.Transpose.ROTATE_90)]
    channels = channels[turn:] + channels[:turn]
    buffer = io.BytesIO()
    Image.merge("RGB", channels).resize(size).save(buffer, format="PNG")
    return images.load({"bytes": buffer.getvalue(), "path": f"{size[0]}×{size[1]}"})
