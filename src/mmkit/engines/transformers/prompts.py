"""A request as the model reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmkit.engines import Request
from mmkit.engines.context import require_fit
from mmkit.errors import DataError

if TYPE_CHECKING:
    from mmkit.models.encoding import Chat, Encoded


def encode_prompt(chat: Chat, request: Request) -> Encoded:
    """The prompt's tokens, with images. Raises DataError where a raw prompt comes with images."""
    if request.prompt is None:
        return chat.encode(request.messages, request.images, open_turn=request.open_turn)
    if request.images:
        raise DataError("a raw prompt cannot hold images")
    return encode_ids(chat.encode_text(request.shared_prefix + request.prompt))


def encode_ids(ids: list[int]) -> Encoded:
    """Text that is tokens already."""
    from mmkit.models.encoding import Encoded

    nowhere = [False] * len(ids)
    return Encoded(input_ids=ids, in_loss=nowhere, is_image=nowhere, image_inputs={})


def check_context(model: Any, encoded: Encoded, num_more: int) -> None:
    """Raise DataError where the prompt and `num_more` tokens are longer than the model's context."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    require_fit(context, len(encoded.input_ids), encoded.num_image_tokens, num_more)
