"""Log-probabilities of given continuations, token by token.

A choice of several tokens is scored by asking for one token behind the prompt, behind the prompt and the choice's
first token, and so on; the choices' common beginnings are asked once. vLLM could return the log-probabilities of a
whole prompt, but then it reads nothing from its prefix cache: the examples that all prompts of a judge share, and the
image before a question, would be computed anew for each choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from typing import TYPE_CHECKING, Any

from mmkit.engines import Choice, Request, Usage
from mmkit.engines.adapters import require_open
from mmkit.engines.choices import ChoiceTokens
from mmkit.engines.vllm.backend import Job, Output
from mmkit.engines.vllm.jobs import encode, to_job

if TYPE_CHECKING:
    from mmkit.models.encoding import Chat


@dataclass(frozen=True, slots=True)
class ScoringPlan:
    """`job_of` finds the job behind a context; `wholes` are prompt and choice as tokens, scored from `start` on; the
    prompt alone has `num_prompt` tokens, placeholders not expanded."""

    jobs: list[Job]
    job_of: dict[tuple[int, ...], int]
    wholes: list[list[int]]
    start: int
    num_prompt: int


class Scoring:
    """The work behind `VllmEngine.choose`."""

    def __init__(self, chat: Chat, choices: Sequence[str], adapters: Sequence[str]) -> None:
        self._chat, self._adapters = chat, adapters
        self._choices = list(choices)
        self._tokens = ChoiceTokens(chat, choices)

    def prepare(self, request: Request) -> ScoringPlan:
        """One job for each different beginning of a choice."""
        require_open(request, self._adapters)
        ids, num_placeholders = encode(self._chat, request)
        wholes, start = self._tokens.behind(request, ids)
        contexts = steps(wholes, start)
        jobs = [
            to_job(request, list(context), num_placeholders, self._sampling(next_tokens), 1)
            for context, next_tokens in contexts.items()
        ]
        return ScoringPlan(jobs, {context: place for place, context in enumerate(contexts)}, wholes, start, len(ids))

    def finish(self, request: Request, plan: ScoringPlan, results: Sequence[Output]) -> Choice:
        """The sums of the choices' tokens."""
        sums = [
            fsum(
                results[plan.job_of[tuple(whole[:place])]].log_probs[whole[place]]
                for place in range(plan.start, len(whole))
            )
            for whole in plan.wholes
        ]
        # As the prompt is counted where it is read once: the steps behind it come from the prefix cache.
        first = results[0]
        usage = Usage(len(first.prompt_ids) + plan.num_prompt - plan.start, first.num_image)
        return Choice(request.id, dict(zip(self._choices, sums, strict=True)), usage)

    def failed(self, request: Request, why: str) -> Choice:
        """A choice that is none."""
        return Choice(request.id, error=why)

    def _sampling(self, next_tokens: Sequence[int]) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            max_tokens=1,
            temperature=0.0,
            ignore_eos=True,
            logprob_token_ids=list(next_tokens),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,
        )


def steps(wholes: Sequence[list[int]], start: int) -> dict[tuple[int, ...], list[int]]:
    """The tokens to score behind each context: every beginning of a sequence from `start` on, with what follows it."""
    found: dict[tuple[int, ...], list[int]] = {}
    for whole in wholes:
        for place in range(start, len(whole)):
            following = found.setdefault(tuple(whole[:place]), [])
            if whole[place] not in following:
                following.append(whole[place])
    return found
