"""From the tokens that a local model wrote to a reply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmkit.engines import Reply, Request, Turn, Usage

if TYPE_CHECKING:
    from mmkit.models.encoding import Chat


def to_reply(chat: Chat, request: Request, new: Sequence[int], num_prompt: int, num_image: int) -> Reply:
    """The reply in `new`, the tokens behind a prompt of `num_prompt`, `num_image` of which stand for images.

    It ends at the first token that ends the turn or the text; without one it is truncated.
    """
    stops = chat.stop_ids(request.open_turn)
    end = next((place for place, token in enumerate(new) if token in stops), None)
    ids = list(new[:end])
    usage = Usage(num_prompt, num_image, completion_tokens=len(ids) + (end is not None))
    if request.open_turn == "user":
        # With the token that ended the text: it closes a turn that has no end of its own.
        written, _ = chat.split_turns(new if end is None else new[: end + 1])
        turns = tuple(Turn(turn.role, turn.text) for turn in written)
        return Reply(request.id, chat.tokenizer.decode(ids, skip_special_tokens=False), turns, end is None, usage)
    return Reply(request.id, chat.decode(ids), (), end is None, usage)
