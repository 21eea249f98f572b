"""vLLM in this process, with its scheduler and caches.

`feed` keeps the engine busy and in order, `backend` is the engine, `arguments` what it is set up with; `jobs`,
`writing` and `scoring` hold what is asked of it. vLLM is imported with the model, when the first request comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mmkit.engines import Choice, Reply, Request
from mmkit.engines.vllm.backend import VllmBackend
from mmkit.engines.vllm.feed import Feed, Work
from mmkit.models.adapters import require_lora

if TYPE_CHECKING:
    from mmkit.models.encoding import Chat


class VllmEngine:
    """Continuous batching with vLLM's own scheduler, prefix cache and image cache.

    `model` is a directory or a hub id, `adapter` a LoRA directory, `adapters` such directories that requests name;
    vLLM computes requests with different ones together. `gpu_memory` is the share of each GPU that vLLM may
    take, `tensor_parallel` the number of GPUs that one model is spread over. At most `max_in_flight` requests are in
    the engine at once, and at most four times as many rows are read ahead. After `restart_every` requests the engine
    is replaced by a fresh one. `engine_args` are further settings of vLLM, as "name=value".

    Replies come in input order. A request that cannot be encoded, is longer than the model's context or is refused by
    vLLM gets a reply with `error`; an engine that dies is replaced, and what was in it is asked again. Which requests
    are computed together is vLLM's affair, so texts may differ in near-ties from run to run (VLLM_BATCH_INVARIANT=1
    prevents that on recent GPUs): a resumed run keeps the rows it has and never asks for them again.

    Raises MissingInputError where one of `adapters` is not there, DataError where it is no LoRA adapter of this model;
    while iterating, DataError where an adapter does not fit the model, UnavailableError where vLLM is missing, cannot
    start, or dies again and again.
    """

    window = 1

    def __init__(
        self,
        model: str,
        *,
        adapter: str | None = None,
        adapters: Sequence[str] = (),
        dtype: str | None = None,
        gpu_memory: float | None = None,
        tensor_parallel: int = 1,
        restart_every: int | None = None,
        max_in_flight: int = 256,
        engine_args: Sequence[str] = (),
    ) -> None:
        self.model = model
        self._adapters = tuple(adapters)
        for directory in adapters:
            require_lora(directory, model)
        settings = {
            "dtype": dtype,
            "gpu_memory_utilization": gpu_memory,
            "tensor_parallel_size": tensor_parallel,
        }
        backend = VllmBackend(model, settings, engine_args, adapter, adapters)
        self._feed = Feed(backend, max_in_flight=max_in_flight, restart_every=restart_every)

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """One reply a request, in input order, streaming."""

        def work() -> Work[Reply]:
            from mmkit.engines.vllm.writing import Writing

            return Writing(self._chat, self._adapters)

        return self._answers(requests, work)

    def choose(self, requests: Iterable[Request], choices: Sequence[str]) -> Iterator[Choice]:
        """The summed log-probability of each choice's tokens after each request's prompt, in input order.

        For a chat request a choice is the text of the assistant turn that follows (its end is not scored); for a raw
        prompt it is the text that stands right behind it.
        """

        def work() -> Work[Choice]:
            from mmkit.engines.vllm.scoring import Scoring

            return Scoring(self._chat, choices, self._adapters)

        return self._answers(requests, work)

    def close(self) -> None:
        """End vLLM. A later request starts it again."""
        self._feed.close()

    @property
    def num_starts(self) -> int:
        """How many engines were started so far."""
        return self._feed.num_starts

    def _answers(self, requests: Iterable[Request], work: Callable[[], Work[Any]]) -> Iterator[Any]:
        return self._feed.answers(requests, work)

    @cached_property
    def _chat(self) -> Chat:
        from mmkit.models.loading import load_chat

        return load_chat(self.model)
