"""Counts what an engine was asked and what it cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from mmkit.engines import Choice, Engine, Reply, Request, Usage


class Metered:
    """An engine with a meter on it. Prices are per million tokens, in whatever currency the user thinks in."""

    def __init__(self, engine: Engine, price_in: float = 0.0, price_out: float = 0.0) -> None:
        self._engine = engine
        self._price_in, self._price_out = price_in, price_out
        self.window = engine.window
        self.model = engine.model
        self.num_replies = self.prompt_tokens = self.image_tokens = self.completion_tokens = 0

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """As the engine."""
        for reply in self._engine.generate(requests):
            self._count(reply.usage)
            yield reply

    def choose(self, requests: Iterable[Request], choices: Sequence[str]) -> Iterator[Choice]:
        """As the engine."""
        for choice in self._engine.choose(requests, choices):
            self._count(choice.usage)
            yield choice

    def close(self) -> None:
        """As the engine."""
        self._engine.close()

    def line(self) -> str:
        """Replies, tokens and cost, for the summary."""
        tokens = f"{self.prompt_tokens:,} prompt"
        if self.image_tokens:
            tokens += f" ({self.image_tokens:,} image)"
        text = f"{self.num_replies:,} replies, {tokens} + {self.completion_tokens:,} completion tokens"
        cost = (self.prompt_tokens * self._price_in + self.completion_tokens * self._price_out) / 1e6
        return f"{text}, cost {cost:.4f}" if self._price_in or self._price_out else text

    def _count(self, usage: Usage) -> None:
        self.num_replies += 1
        self.prompt_tokens += usage.prompt_tokens
        self.image_tokens += usage.image_tokens
        self.completion_tokens += usage.completion_tokens
