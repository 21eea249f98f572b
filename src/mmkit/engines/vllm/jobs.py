"""From a request to what vLLM is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmkit.engines import Request
from mmkit.engines.vllm.backend import Job
from mmkit.errors import DataError

if TYPE_CHECKING:
    from mmkit.models.encoding import Chat


def encode(chat: Chat, request: Request) -> tuple[list[int], int]:
    """The prompt's tokens, with one placeholder for each image, and how many of the tokens those are.

    vLLM gets tokens and never text, so that no text of a record becomes a control token. Raises DataError where a raw
    prompt comes with images.
    """
    if request.prompt is None:
        return chat.encode_unexpanded(request.messages, len(request.images), open_turn=request.open_turn)
    if request.images:
        raise DataError("a raw prompt cannot hold images")
    return chat.encode_text(request.shared_prefix + request.prompt), 0


def to_job(request: Request, ids: list[int], num_placeholders: int, sampling: Any, num_new: int) -> Job:
    """A job with the request's images."""
    return Job(
        ids=ids,
        num_placeholders=num_placeholders,
        images=lambda: [image.rgb() for image in request.images],
        image_hashes=[image.sha256() for image in request.images],
        sampling=sampling,
        num_new=num_new,
        adapter=request.adapter,
    )
