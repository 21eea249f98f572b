"""Any image-text-to-text or causal language model of the transformers library, run in this process.

`batches` plans, `prompts` encodes, `generation` and `scoring` hold what is done to a batch, `switching` with which
adapter. Generation and scoring need torch and are imported with the model, when the first request comes.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmkit.engines import Choice, Reply, Request
from mmkit.engines.transformers.batches import Work, answer
from mmkit.engines.transformers.switching import Switching
from mmkit.models.adapters import SwitchedAdapters, require_lora

if TYPE_CHECKING:
    from mmkit.engines.transformers.scoring import PrefixCache
    from mmkit.models.encoding import Chat


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What the first request loads, and all of them share."""

    chat: Chat
    model: Any
    prefixes: PrefixCache
    adapters: SwitchedAdapters | None


class TransformersEngine:
    """Batched local inference. `model` is a directory or a hub id, `adapter` a LoRA directory or hub id, merged into
    the model. `adapters` are LoRA directories that requests name; they share the model's weights and are not merged.

    `device` is a torch device, by default the accelerator if there is one; `dtype` is "bfloat16", "float16" or
    "float32", by default that of the checkpoint.

    `max_batch_tokens` bounds a batch's rows × its longest row, new tokens included; a longer single row goes alone.
    `window` is the number of input positions that are sorted and batched together: a larger one pads less and holds
    more requests in memory.

    Decoding is what `Sampling` says and nothing else: of the generation defaults that a model ships (repetition
    penalty, suppressed tokens), none applies.

    Raises MissingInputError where one of `adapters` is not there, DataError where it is no LoRA adapter of this model;
    where its weights do not fit, the first request raises it, before the model's own weights are read.
    """

    def __init__(
        self,
        model: str,
        *,
        adapter: str | None = None,
        adapters: Sequence[str] = (),
        device: str | None = None,
        dtype: str | None = None,
        max_batch_tokens: int = 16384,
        max_batch_rows: int = 128,
        window: int = 512,
    ) -> None:
        self.model = model
        self.window = window
        self._adapter = adapter
        self._adapters = tuple(adapters)
        self._device = device
        self._dtype = dtype
        self._max_batch_tokens = max_batch_tokens
        self._max_batch_rows = max_batch_rows
        self._loaded: _Loaded | None = None
        for directory in self._adapters:
            require_lora(directory, model)

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """One reply a request, in input order. A request that cannot be encoded, is longer than the model's context
        or does not fit in memory alone gets a reply with `error`; its neighbours are answered."""

        def work() -> Work[Reply]:
            loaded = self._load()
            from mmkit.engines.transformers.generation import Generation

            return self._switching(loaded, Generation(loaded.chat, loaded.model))

        return self._answer(requests, work)

    def choose(self, requests: Iterable[Request], choices: Sequence[str]) -> Iterator[Choice]:
        """The summed log-probability of each choice's tokens after each request's prompt, in input order.

        For a chat request a choice is the text of the assistant turn that follows (its end is not scored); for a raw
        prompt it is the text that stands right behind it.
        """

        def work() -> Work[Choice]:
            loaded = self._load()
            from mmkit.engines.transformers.scoring import Scoring

            return self._switching(loaded, Scoring(loaded.chat, loaded.model, loaded.prefixes, choices))

        return self._answer(requests, work)

    def close(self) -> None:
        """Free the model. A later request loads it again."""
        if self._loaded is not None:
            self._loaded = None
            free_memory()

    def _answer(self, requests: Iterable[Request], work: Any) -> Iterator[Any]:
        return answer(
            requests,
            work,
            window=self.window,
            max_tokens=self._max_batch_tokens,
            max_rows=self._max_batch_rows,
            free_memory=free_memory,
        )

    def _switching(self, loaded: _Loaded, work: Work[Any]) -> Work[Any]:
        return Switching(work, loaded.adapters, self._adapters)

    def _load(self) -> _Loaded:
        if self._loaded is None:
            from mmkit.models.loading import load_chat, load_model, load_skeleton

            chat = load_chat(self.model)  # says what is missing where torch is not installed
            from transformers import GenerationConfig

            from mmkit.engines.transformers.placement import choose_device, to_dtype
            from mmkit.engines.transformers.scoring import PrefixCache

            device, dtype = choose_device(self._device), to_dtype(self._dtype)
            if self._adapters:
                SwitchedAdapters(load_skeleton(self.model), self._adapters)  # to say at once which of them does not fit
            model = load_model(self.model, device=device, dtype=dtype, adapter=self._adapter)
            model.generation_config = GenerationConfig()
            prefixes = PrefixCache(chat, model)
            adapters = SwitchedAdapters(model, self._adapters) if self._adapters else None
            self._loaded = _Loaded(chat, model, prefixes, adapters)
        return self._loaded


def free_memory() -> None:
    """Give back what is no longer referenced, to the accelerator too."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
