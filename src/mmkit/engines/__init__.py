"""One protocol for everything that answers: local transformers, vLLM, OpenAI-compatible servers, recorded answers.

A stage hands an engine a stream of requests and gets one reply a request, in order. Batching, retries, timeouts and
the in-flight window are the engine's own affair. Engines are named by lazy strings, so naming one imports nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, Protocol

from mmkit.images import LoadedImage


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to decode. `temperature` 0 is greedy; above 0, draws depend on (seed, request id) where the engine can."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def digest(self) -> str:
        """A short hash of the settings, for lineage: two replies with equal ones were decoded alike."""
        return hashlib.sha256(repr(astuple(self)).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Request:
    """One thing to answer.

    Either `messages` (rendered by the model's own chat template) or `prompt` (raw text, for base language models) is
    given. `shared_prefix` is raw text that stands before `prompt` and is the same for many requests, so that an
    engine may compute it once.

    `open_turn` names the role whose turn the model writes next. "assistant" is ordinary chat. With "user" the model
    goes on writing the conversation itself, user and assistant turns alike (AdaMLLM's synthesizer), and the reply's
    `turns` hold them.

    `position` is the index of the input row. Engines that batch cut their batches where `position // window` changes,
    so that a resumed run batches exactly as an uninterrupted one.

    `adapter` names the LoRA adapter to answer with, of those that the engine was opened with; "" is the engine's own
    model.
    """

    id: str
    position: int
    messages: Sequence[Mapping[str, Any]] = ()
    images: Sequence[LoadedImage] = ()
    prompt: str | None = None
    shared_prefix: str = ""
    open_turn: str = "assistant"
    sampling: Sampling = field(default_factory=Sampling)
    adapter: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that one reply cost. `image_tokens` is the part of `prompt_tokens` that images take."""

    prompt_tokens: int = 0
    image_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        """What both cost."""
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.image_tokens + other.image_tokens,
            self.completion_tokens + other.completion_tokens,
        )

    def to_wire(self) -> dict[str, int]:
        """The form in which lineage holds it."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "image_tokens": self.image_tokens,
            "completion_tokens": self.completion_tokens,
        }


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation that the model wrote by itself."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one request: `text`, without white space around it, or the `turns` of a conversation.

    `truncated` says that the model had not come to an end. Where `error` is set there is no answer, and the row is
    rejected with these words.
    """

    id: str
    text: str = ""
    turns: Sequence[Turn] = ()
    truncated: bool = False
    usage: Usage = field(default_factory=Usage)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """Summed log-probability (natural logarithm) of each choice's tokens, given the prompt; or an `error`."""

    id: str
    log_probs: Mapping[str, float] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    error: str | None = None

    @property
    def best(self) -> str:
        """The most probable choice; the first of several equal ones."""
        return max(self.log_probs, key=lambda choice: self.log_probs[choice])


class Engine(Protocol):
    """What a stage needs. `window` is how many input rows share a batch plan: a run may stop and go on only at
    multiples of it (1 where replies do not depend on what else is in flight)."""

    window: int
    model: str

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """One reply a request, in input order, streaming."""
        ...

    def choose(self, requests: Iterable[Request], choices: Sequence[str]) -> Iterator[Choice]:
        """The log-probability of each of `choices` as the continuation of each request's prompt, in input order."""
        ...

    def close(self) -> None:
        """Free the model or the connections."""
        ...
