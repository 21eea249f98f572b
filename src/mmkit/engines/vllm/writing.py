"""Replies: one job a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmkit.engines import Reply, Request
from mmkit.engines.adapters import require_open
from mmkit.engines.replies import to_reply
from mmkit.engines.vllm.backend import Job, Output
from mmkit.engines.vllm.jobs import encode, to_job
from mmkit.seeds import derive

if TYPE_CHECKING:
    from mmkit.models.encoding import Chat


@dataclass(frozen=True, slots=True)
class JobsOnly:
    """A plan that needs no memory of its own."""

    jobs: list[Job]


class Writing:
    """The work behind `VllmEngine.generate`."""

    def __init__(self, chat: Chat, adapters: Sequence[str]) -> None:
        self._chat, self._adapters = chat, adapters

    def prepare(self, request: Request) -> JobsOnly:
        """One job: the prompt and how to go on from it."""
        require_open(request, self._adapters)
        ids, num_placeholders = encode(self._chat, request)
        num_new = request.sampling.max_new_tokens
        return JobsOnly([to_job(request, ids, num_placeholders, self._sampling(request), num_new)])

    def finish(self, request: Request, plan: JobsOnly, results: Sequence[Output]) -> Reply:
        """The reply, from what vLLM wrote."""
        (output,) = results
        return to_reply(self._chat, request, output.ids, len(output.prompt_ids), output.num_image)

    def failed(self, request: Request, why: str) -> Reply:
        """A reply that is none."""
        return Reply(request.id, error=why)

    def _sampling(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = request.sampling
        return SamplingParams(
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            # Each request has its own, so that equal prompts get different draws. Greedy decoding draws nothing, and
            # a seed would have vLLM keep a generator for every row.
            seed=derive(sampling.seed, request.id, "engine.sample") >> 33 if sampling.temperature > 0 else None,
            stop_token_ids=self._chat.stop_ids(request.open_turn),
            ignore_eos=True,  # the stops above are all there are
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,
        )
