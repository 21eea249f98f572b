"""What transformers and vLLM each make of the same prompts, one after the other in this process.

Each goes the way that its engine goes: the same encoding, the same checks, the same refusals. Prompts are read one by
one, so that neither batches nor padding have a part in what differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any

from mmkit.engines import Request
from mmkit.engines.parity import NUM_TOKENS, TOLERANCES, Parity, Reading, compare
from mmkit.engines.parity.requests import built_in
from mmkit.engines.transformers import free_memory
from mmkit.engines.transformers.batches import Job, answer
from mmkit.engines.vllm import arguments
from mmkit.errors import UsageError, missing_extra

if TYPE_CHECKING:
    from mmkit.engines.vllm.backend import Output
    from mmkit.engines.vllm.writing import JobsOnly
    from mmkit.models.encoding import Chat


@dataclass(frozen=True, slots=True)
class Side:
    """How one engine is set up. `device` is for transformers; `gpu_memory`, `tensor_parallel` and `engine_args` are
    for vLLM, as `VllmEngine` has them."""

    adapter: str | None = None
    device: str | None = None
    gpu_memory: float | None = None
    tensor_parallel: int = 1
    engine_args: Sequence[str] = ()


def examine(
    model: str,
    requests: Sequence[Request] | None,
    *,
    transformers: Side,
    vllm: Side,
    dtype: str | None = None,
    tolerance: float | None = None,
) -> Parity:
    """Put `requests` (None: the built-in ones) through both engines and compare.

    Both compute in `dtype`, by default the checkpoint's: vLLM by itself would choose a narrower one for float32.
    `tolerance` None is that of the type. Raises UnavailableError where torch or vLLM is missing or vLLM cannot start,
    UsageError for options that make no sense, DataError for an adapter that vLLM does not take, and what loading a
    model raises.
    """
    _require_vllm()
    arguments.require_whole(model)
    if vllm.adapter is not None:
        arguments.lora(vllm.adapter)  # says what vLLM does not take, before the other model is loaded for nothing
    from mmkit.models.loading import load_chat

    chat = load_chat(model)
    asked = built_in(chat) if requests is None else requests
    numbered = [replace(request, position=place) for place, request in enumerate(asked)]
    ours, dtype = read_with_transformers(chat, numbered, transformers, dtype)
    free_memory()  # vLLM takes what it finds
    theirs = read_with_vllm(chat, numbered, vllm, dtype, [list(reading.log_probs) for reading in ours])
    allowed = TOLERANCES[dtype] if tolerance is None else tolerance
    comparisons = [
        compare(request.id, one, other, spell=partial(_spelling, chat), tolerance=allowed)
        for request, one, other in zip(asked, ours, theirs, strict=True)
    ]
    return Parity(comparisons, dtype, allowed)


def read_with_transformers(
    chat: Chat, requests: Sequence[Request], side: Side, dtype: str | None
) -> tuple[list[Reading], str]:
    """A reading a request, with the log-probabilities of the most probable tokens; and the type computed in."""
    from mmkit.engines.transformers.placement import choose_device, to_dtype
    from mmkit.models.loading import load_model

    device, wanted = choose_device(side.device), to_dtype(dtype)
    model = load_model(chat.name, device=device, dtype=wanted, adapter=side.adapter)
    computed_in = str(model.dtype).removeprefix("torch.")
    if computed_in not in TOLERANCES:
        raise UsageError(f"{chat.name} is in {computed_in}: name a --dtype, one of {', '.join(TOLERANCES)}")
    work = partial(_TransformersWork, chat, model)
    one_by_one = answer(requests, work, window=1, max_tokens=1, max_rows=1, free_memory=free_memory)
    return list(one_by_one), computed_in


def read_with_vllm(
    chat: Chat, requests: Sequence[Request], side: Side, dtype: str, tokens: Sequence[Sequence[int]]
) -> list[Reading]:
    """A reading a request, with the log-probabilities of the tokens named for each."""
    from mmkit.engines.vllm.backend import VllmBackend
    from mmkit.engines.vllm.feed import Feed

    settings = {
        "dtype": dtype,
        "gpu_memory_utilization": side.gpu_memory,
        "tensor_parallel_size": side.tensor_parallel,
    }
    feed = Feed(VllmBackend(chat.name, settings, side.engine_args, side.adapter), max_in_flight=1)
    try:
        return list(feed.answers(requests, partial(_VllmWork, chat, dict(enumerate(tokens)))))
    finally:
        feed.close()


def _require_vllm() -> None:
    """Raise UnavailableError for a missing or unknown vLLM before the other model is loaded for nothing."""
    from mmkit.engines.vllm.backend import require_version

    try:
        require_version(metadata.version("vllm"))
    except metadata.PackageNotFoundError:
        raise missing_extra("vllm", "vllm") from None


def _spelling(chat: Chat, token: int) -> str:
    """The token as the vocabulary has it. Models may have more rows than their vocabulary has tokens."""
    return chat.tokenizer.convert_ids_to_tokens(token) or f"#{token}"


class _TransformersWork:
    """The first token behind each prompt, by the model itself."""

    def __init__(self, chat: Chat, model: Any) -> None:
        self._chat, self._model = chat, model

    def prepare(self, request: Request) -> Job:
        from mmkit.engines.transformers.prompts import check_context, encode_prompt

        encoded = encode_prompt(self._chat, request)
        check_context(self._model, encoded, 1)
        return Job(request, None, 1, len(encoded.input_ids), encoded)

    def run(self, jobs: Sequence[Job]) -> list[Reading]:
        import torch

        from mmkit.engines.transformers.placement import move
        from mmkit.engines.transformers.prompts import encode_prompt

        (job,) = jobs
        encoded = job.encoded or encode_prompt(self._chat, job.request)
        batch = move(self._chat.collate([encoded], padding_side="right"), self._model)
        with torch.inference_mode():
            logits = self._model(**batch, use_cache=False, logits_to_keep=1).logits[0, -1]
            values, tokens = logits.float().log_softmax(-1).topk(min(NUM_TOKENS, logits.shape[-1]))
        found = dict(zip(tokens.tolist(), values.tolist(), strict=True))
        return [Reading(encoded.input_ids, encoded.num_image_tokens, found, next(iter(found)))]

    def failed(self, request: Request, why: str) -> Reading:
        return Reading(refusal=why)


class _VllmWork:
    """The first token behind each prompt, by vLLM. `tokens` are those to score, by the request's position."""

    def __init__(self, chat: Chat, tokens: Mapping[int, Sequence[int]]) -> None:
        self._chat, self._tokens = chat, tokens

    def prepare(self, request: Request) -> JobsOnly:
        from mmkit.engines.vllm.jobs import encode, to_job
        from mmkit.engines.vllm.writing import JobsOnly

        ids, num_placeholders = encode(self._chat, request)
        sampling = _greedy(list(self._tokens[request.position]))
        return JobsOnly([to_job(request, ids, num_placeholders, sampling, 1)])

    def finish(self, request: Request, plan: JobsOnly, results: Sequence[Output]) -> Reading:
        (output,) = results
        return Reading(output.prompt_ids, output.num_image, output.log_probs, output.ids[0])

    def failed(self, request: Request, why: str) -> Reading:
        return Reading(refusal=why)


def _greedy(tokens: list[int]) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=1, temperature=0.0, ignore_eos=True, logprob_token_ids=tokens or None, detokenize=False
    )
