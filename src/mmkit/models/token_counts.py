"""Training tokens of a conversation, counted without its images' pixels and without the model.

Texts go through the model's chat template and tokenizer as they do in training. What stands for an image follows from
its width and height, by the rule of the family's own processor.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mmkit.errors import DataError

if TYPE_CHECKING:
    from mmkit.models.encoding import Chat

Size = tuple[int, int]
_MAX_SIZES = 100_000


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Tokens of one conversation as the language model sees them, all that stands for images included.

    `image` are those of `total` that stand for images, tags of tiles among them; `loss` those that are learned.
    """

    total: int
    image: int
    loss: int


class TokenCounter:
    """Counts what `finetune` would feed a model.

    Of a row longer than `max_length` tokens (None: no limit), `overlong` says as in finetune whether it is refused
    ("reject") or counted without its end ("shorten").
    """

    def __init__(self, chat: Chat, *, max_length: int | None = None, overlong: str = "reject") -> None:
        self._chat = chat
        self._max_length, self._overlong = max_length, overlong
        self._replacement = lru_cache(_MAX_SIZES)(self._replacement_of)
        token = chat.image_token
        # A tokenizer takes long over a run of image tokens, each of which it turns into one token whatever its
        # neighbours are. So a run is written once, and counted as often as it stands.
        self._run = None if token is None else re.compile(f"(?:{re.escape(token)})+")

    def count(self, messages: Sequence[Mapping[str, Any]], sizes: Sequence[Size]) -> TokenCount:
        """The tokens of a conversation whose images have these (width, height).

        Source: MLAN, Table 2 (training tokens, visual prefix included). Deviation: none. Raises DataError where
        finetune would refuse the row: nothing is learned, the processor refuses an image, it is too long.
        """
        replaced = [self._replacement(size) for size in sizes]
        encoded = self._chat.encode_replaced(messages, [text for text, _ in replaced])
        unwritten = sum(number for _, number in replaced)
        total = len(encoded.input_ids) + unwritten
        in_loss, is_image = encoded.in_loss, encoded.is_image
        if self._max_length is not None and total > self._max_length:
            kept = self._kept(total, in_loss, is_image, unwritten)
            total, in_loss = self._max_length, in_loss[:kept]
        return TokenCount(total, sum(is_image) + unwritten, sum(in_loss))

    def _kept(self, total: int, in_loss: Sequence[bool], is_image: Sequence[bool], unwritten: int) -> int:
        """How many of the tokens that were written stay within max_length. Images are never cut."""
        assert self._max_length is not None
        num_image = sum(is_image) + unwritten
        of_images = f" ({num_image:,} of images)" if num_image else ""
        too_long = f"{total:,} tokens{of_images} are more than max_length {self._max_length:,}"
        if self._overlong == "reject":
            raise DataError(too_long)
        kept = max(0, len(in_loss) - (total - self._max_length))
        if any(is_image[kept:]):
            raise DataError(f"{too_long}, and an image lies where it would be cut")
        if not any(in_loss[1:kept]):
            raise DataError(f"{too_long}, and no token that is learned would be left")
        return kept

    def _replacement_of(self, size: Size) -> tuple[str, int]:
        """What stands for an image of this size with runs of image tokens written once, and how many were left out."""
        try:
            text = _replacement(self._chat.processor, *size)
        except ValueError as error:
            raise DataError(f"the image processor of {self._chat.name} refuses an image: {error}") from error
        if text is None:
            (text,) = self._chat.replacements([_blank(size)])
        assert self._run is not None and self._chat.image_token is not None
        written = self._run.sub(lambda _: self._chat.image_token or "", text)
        return written, (len(text) - len(written)) // len(self._chat.image_token)


def _replacement(processor: Any, width: int, height: int) -> str | None:
    """What the processor writes for an image of this size, by its own words, from what it would have made of the image.

    None where no rule is known here: another processor, or one with other settings than its family's.
    """
    rule = _RULES.get(type(processor).__name__)
    inputs = None if rule is None else rule(processor, width, height)
    return None if inputs is None else str(processor.replace_image_token(inputs, 0))


def _nothing(processor: Any, width: int, height: int) -> Mapping[str, Any]:
    return {}


def _cropped(processor: Any, width: int, height: int) -> Mapping[str, Any] | None:
    """LLaVA-1.5: every image is cropped to one size (576 tokens at 336 pixels). LLaVA-NeXT: tiles of one size, as
    many as the image's own size asks for."""
    import numpy as np

    images = processor.image_processor
    if not getattr(images, "do_center_crop", False):
        return None
    edges = (3, images.crop_size["height"], images.crop_size["width"])
    tile = np.broadcast_to(np.uint8(0), edges)
    tiled = type(processor).__name__ == "LlavaNextProcessor"
    return {"pixel_values": [[tile]] if tiled else [tile], "image_sizes": [(height, width)]}


def _patches(processor: Any, width: int, height: int) -> Mapping[str, Any] | None:
    """Qwen-VL: as many patches as the image has within the limits on pixels, merged by the processor's own rule."""
    import numpy as np

    images = processor.image_processor
    if not images.do_resize:
        return None
    return {"image_grid_thw": np.array([[1, 1, images.get_number_of_image_patches(height, width, {})]])}


def _tiles(processor: Any, width: int, height: int) -> Mapping[str, Any] | None:
    """Idefics3 and SmolVLM: rows and columns of tiles, none where one tile holds the image.

    Deviation from the processors' own get_number_of_image_patches, which differs where the longest edge is no whole
    number of tiles: the shorter edge is rounded up after it was scaled with the longer one, as they do it with images.
    """
    images = processor.image_processor
    longest, tile = images.size.get("longest_edge"), images.max_image_size["longest_edge"]
    if not images.do_resize or not longest:
        return None
    rows = columns = 0
    if images.do_image_splitting:
        wide = width >= height
        width, height = _scaled(width, height, longest)
        width, height = (width, height + height % 2) if wide else (width + width % 2, height)
        width, height = max(width, 1), max(height, 1)
        if max(width, height) > _IDEFICS_LONGEST_EDGE:
            width, height = (max(edge, 1) for edge in _scaled(width, height, _IDEFICS_LONGEST_EDGE))
        width, height = _scaled(width, height, -(-max(width, height) // tile) * tile)
        columns, rows = -(-width // tile), -(-height // tile)
    return {"rows": [[rows]], "cols": [[columns]]} if rows * columns > 1 else {"rows": [[0]], "cols": [[0]]}


_IDEFICS_LONGEST_EDGE = 4096
"""The 4k resolution beyond which these processors never scale."""


def _scaled(width: int, height: int, longest: int) -> Size:
    """The size with its longer edge at `longest`. Rounded as the processors do, which differs by the longer edge."""
    ratio = width / height
    return (longest, int(longest / ratio)) if width >= height else (int(longest * ratio), longest)


_RULES: dict[str, Callable[[Any, int, int], Mapping[str, Any] | None]] = {
    "MllamaProcessor": _nothing,  # one token stands for an image of any size
    "LlavaProcessor": _cropped,
    "LlavaNextProcessor": _cropped,
    "Qwen2VLProcessor": _patches,
    "Qwen2_5_VLProcessor": _patches,
    "Qwen3VLProcessor": _patches,
    "Idefics3Processor": _tiles,
    "SmolVLMProcessor": _tiles,
}


def _blank(size: Size) -> Any:
    from PIL import Image

    return Image.new("RGB", size)
