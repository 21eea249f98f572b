"""Choices as tokens behind a prompt: what has to be scored, and what several choices have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmkit.engines import Request
from mmkit.errors import DataError

if TYPE_CHECKING:
    from mmkit.models.encoding import Chat


class ChoiceTokens:
    """The same choices behind many prompts.

    For a chat request a choice is the text of the assistant turn that follows (its end is not scored); for a raw
    prompt it is the text that stands right behind it.
    """

    def __init__(self, chat: Chat, choices: Sequence[str]) -> None:
        self._chat = chat
        self._choices = list(choices)
        self._tails: list[tuple[int, list[int]]] | None = None

    def behind(self, request: Request, prompt: list[int]) -> tuple[list[list[int]], int]:
        """Prompt and choice as tokens, one sequence a choice, and the place from which tokens are scored.

        A tokenizer may merge the prompt's end with a choice's beginning. All choices are scored from the first place
        at which any of them departs from the prompt, so that they stay comparable. Raises DataError where a choice
        adds no token, or there is none before them.
        """
        if request.prompt is None:
            wholes = [prompt[: len(prompt) - drop] + tail for drop, tail in self._chat_tails()]
        else:
            text = request.shared_prefix + request.prompt
            wholes = [self._chat.encode_text(text + choice) for choice in self._choices]
        start = common_length(prompt, *wholes)
        if start == 0:
            raise DataError("there is no token before the choices to condition on")
        if empty := [c for c, whole in zip(self._choices, wholes, strict=True) if len(whole) == start]:
            raise DataError(f"the choice {empty[0]!r} adds no token to the prompt")
        return wholes, start

    def _chat_tails(self) -> list[tuple[int, list[int]]]:
        """What each choice adds behind a generation prompt: how many tokens of its end to drop, and those to add.

        A template's generation prompt does not depend on the turns before it, so one short conversation shows it for
        all, without encoding every request's images once more for each choice.
        """
        if self._tails is None:
            ask = {"role": "user", "content": [{"type": "text", "text": "?"}]}
            prompt = self._chat.encode([ask], [], open_turn="assistant").input_ids
            self._tails = [self._chat_tail(ask, prompt, choice) for choice in self._choices]
        return self._tails

    def _chat_tail(self, ask: dict[str, Any], prompt: list[int], choice: str) -> tuple[int, list[int]]:
        say = {"role": "assistant", "content": [{"type": "text", "text": choice}]}
        encoded = self._chat.encode([ask, say], [])
        whole = encoded.input_ids
        start = common_length(prompt, whole)
        # The choice goes as far as the assistant's turn, but neither its end nor what the template writes behind it.
        last = max(place for place, learned in enumerate(encoded.in_loss) if learned)
        ends = {*self._chat.end_of_text_ids, self._chat.end_of_turn_id}
        end = next((place for place in range(start, last + 1) if whole[place] in ends), last + 1)
        return len(prompt) - start, whole[start:end]


def common_length(*sequences: Sequence[int]) -> int:
    """How many tokens all sequences have in common at their beginning."""
    return next(
        (place for place, tokens in enumerate(zip(*sequences, strict=False)) if len(set(tokens)) > 1),
        min(map(len, sequences)),
    )
