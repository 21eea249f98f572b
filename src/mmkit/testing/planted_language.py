"""A language model whose every log-probability is known, behind a server that tells them as vLLM does."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmkit.testing.server import Answer, Received, completed, failure


class PlantedModel:
    """Answers `choose` requests, and says what the answers should be.

    Tokens are a word with the space before it in pieces of at most `piece` characters, or one other character. The
    log-probability of a token depends on the three characters before it and on the token. The chat template writes
    `gap` between "assistant:" and an answer. Where `tells_prompts` is False, fields that only vLLM knows are refused,
    as OpenAI's own service does; where it is None, they are ignored.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        *,
        piece: int = 4,
        begin: str = "",
        gap: str = "",
        tells_prompts: bool | None = True,
    ) -> None:
        self._vocabulary = vocabulary
        self._piece = piece
        self._begin = begin
        self._gap = gap
        self._tells_prompts = tells_prompts
        self._ids: dict[str, str] = {}

    def tokens(self, text: str) -> list[str]:
        """The text cut into tokens."""
        return re.findall(rf" ?\w{{1,{self._piece}}}|.", text, re.DOTALL)

    def log_prob(self, before: str, token: str) -> float:
        """Of one token after a text."""
        digest = hashlib.sha256(f"{before[-3:]}\x1f{token}".encode()).digest()
        return -0.01 - 8.0 * int.from_bytes(digest[:4], "big") / 2**32

    def total(self, prompt: str, choice: str) -> float:
        """The truth: the sum over the choice's tokens after the prompt."""
        total = 0.0
        for token in self.tokens(choice):
            total += self.log_prob(prompt, token)
            prompt += token
        return total

    def total_in_chat(self, messages: Sequence[Mapping[str, Any]], choice: str) -> float:
        """The truth for an answer in a chat."""
        return self.total(self._rendered(messages, asks=True), self._gap + choice)

    def answer(self, received: Received) -> Answer:
        """To a request for the most probable next tokens, or for a prompt's own log-probabilities."""
        body = received.body
        if "messages" not in body:
            if body.get("echo"):
                return Answer(completed({"text": received.text, "logprobs": self._echoed(received.text)}))
            top = self._top(received.text)
            return Answer(completed({"text": next(iter(top)), "logprobs": {"top_logprobs": [top]}}))
        if "prompt_logprobs" in body and self._tells_prompts is False:
            return failure(400, "Unrecognized request argument supplied: prompt_logprobs")
        text = self._rendered(body["messages"], asks=not body.get("continue_final_message"))
        listed = [{"token": token, "logprob": value} for token, value in self._top(text).items()]
        log_probs = {"content": [{**listed[0], "top_logprobs": listed}]}
        whole = completed({"message": {"content": listed[0]["token"]}, "logprobs": log_probs})
        if "prompt_logprobs" in body and self._tells_prompts:
            whole["prompt_logprobs"] = self._places(text)
        return Answer(whole)

    def _rendered(self, messages: Sequence[Mapping[str, Any]], *, asks: bool) -> str:
        """The chat as the template writes it, up to where the assistant speaks or to the end of what it says."""
        turns = [f"{message['role']}:{self._gap}{_text(message)}" for message in messages]
        return "\n".join([*turns, "assistant:"] if asks else turns)

    def _top(self, text: str) -> dict[str, float]:
        scored = {token: self.log_prob(text, token) for token in self._vocabulary}
        return dict(sorted(scored.items(), key=lambda pair: -pair[1])[:20])

    def _places(self, text: str) -> list[dict[str, Any] | None]:
        places: list[dict[str, Any] | None] = []
        before = ""
        for token in self.tokens(text):
            entry = {"logprob": self.log_prob(before, token), "rank": 1, "decoded_token": token}
            places.append({self._ids.setdefault(token, str(len(self._ids))): entry} if before else None)
            before += token
        return places

    def _echoed(self, text: str) -> dict[str, Any]:
        tokens = [*([self._begin] if self._begin else []), *self.tokens(text), " next"]
        columns: dict[str, list[Any]] = {"tokens": tokens, "token_logprobs": [], "text_offset": []}
        before, offset = "", 0
        for token in tokens:
            first = offset == 0
            columns["token_logprobs"].append(None if first else self.log_prob(before, token))
            columns["text_offset"].append(offset)
            offset += len(token)
            before += "" if first and self._begin else token
        return columns


def _text(message: Mapping[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
