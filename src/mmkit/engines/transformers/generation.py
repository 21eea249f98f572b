"""Batched decoding: greedy, or sampled so that a reply depends on nothing but its own request and the seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, TopPLogitsWarper

from mmkit.engines import Reply, Request, Sampling
from mmkit.engines.replies import to_reply
from mmkit.engines.transformers.batches import Job
from mmkit.engines.transformers.placement import move
from mmkit.engines.transformers.prompts import check_context, encode_prompt
from mmkit.models.mixlora import conditioned
from mmkit.seeds import derive

if TYPE_CHECKING:
    from mmkit.models.encoding import Chat


class Generation:
    """The work behind `TransformersEngine.generate`."""

    def __init__(self, chat: Chat, model: Any) -> None:
        self._chat = chat
        self._model = model

    def prepare(self, request: Request) -> Job:
        """Encode one request; DataError where it is longer than the context."""
        encoded = encode_prompt(self._chat, request)
        num_new = request.sampling.max_new_tokens
        check_context(self._model, encoded, num_new)
        # Rows with and without images stay apart: some families (mllama) attend wrongly in a mixed batch.
        key = (request.sampling, request.open_turn, bool(encoded.image_inputs))
        return Job(request, key, 1, len(encoded.input_ids) + num_new, encoded)

    def run(self, jobs: Sequence[Job]) -> list[Reply]:
        """Answer jobs of one key in one call of the model's `generate`."""
        encoded = [job.encoded or encode_prompt(self._chat, job.request) for job in jobs]
        batch = move(self._chat.collate(encoded, padding_side="left"), self._model)
        requests = [job.request for job in jobs]
        stops = self._chat.stop_ids(requests[0].open_turn)
        with torch.inference_mode(), conditioned(self._model, [prompt.instruction for prompt in encoded]):
            tokens = self._model.generate(
                **batch,
                generation_config=self._config(requests[0].sampling, stops),
                logits_processor=self._sampler(requests),
            )
        news = tokens[:, batch["input_ids"].shape[1] :].tolist()
        return [
            to_reply(self._chat, request, new, len(prompt.input_ids), prompt.num_image_tokens)
            for request, prompt, new in zip(requests, encoded, news, strict=True)
        ]

    def failed(self, request: Request, why: str) -> Reply:
        """A reply that is none."""
        return Reply(request.id, error=why)

    def _config(self, sampling: Sampling, stops: list[int]) -> GenerationConfig:
        return GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            eos_token_id=stops or None,
            pad_token_id=self._chat.pad_token_id,
        )

    def _sampler(self, requests: Sequence[Request]) -> LogitsProcessorList:
        sampling = requests[0].sampling
        if sampling.temperature == 0:
            return LogitsProcessorList()
        return LogitsProcessorList([GumbelMax(sampling, [r.id for r in requests], self._model.device)])


class GumbelMax(LogitsProcessor):  # type: ignore[misc]
    """Exact sampling by taking the maximum: with independent standard Gumbel noise G, argmax(logits / T + G) is
    distributed as softmax(logits / T).

    Each row's noise comes from a generator of its own, seeded by (seed, request id), so that a draw does not depend
    on which rows share the batch. `top_p` removes tokens before the noise is added.
    """

    def __init__(self, sampling: Sampling, ids: Sequence[str], device: torch.device) -> None:
        self._temperature = sampling.temperature
        self._nucleus = TopPLogitsWarper(sampling.top_p) if sampling.top_p < 1 else None
        self._generators = [torch.Generator(device).manual_seed(derive(sampling.seed, id_, "sample")) for id_ in ids]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Noisy scores (batch × vocabulary) whose maximum is the draw."""
        scores = scores.float() / self._temperature
        if self._nucleus is not None:
            scores = self._nucleus(input_ids, scores)
        exponential = torch.empty_like(scores)
        for row, generator in zip(exponential, self._generators, strict=True):
            row.exponential_(generator=generator)
        # Minus the logarithm of an exponential variable is a Gumbel variable.
        return scores - exponential.clamp_(min=torch.finfo(scores.dtype).tiny).log()
