"""Log-probabilities of given continuations."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from math import fsum
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from mmkit.engines import Choice, Request, Usage
from mmkit.engines.choices import ChoiceTokens, common_length
from mmkit.engines.transformers.batches import Job
from mmkit.engines.transformers.placement import move
from mmkit.engines.transformers.prompts import check_context, encode_ids, encode_prompt
from mmkit.models.mixlora import conditioned, has_mixture

if TYPE_CHECKING:
    from mmkit.models.encoding import Chat, Encoded


@dataclass(slots=True)
class ScoringJob(Job):
    """A request with its choices. `wholes` are prompt and choice as tokens, one a choice; all agree before `start`,
    and what comes from there on is scored. `inputs` are the sequences that the model has to read for that,
    `instruction` is that of the prompt."""

    wholes: list[list[int]]
    start: int
    inputs: list[list[int]]
    num_prompt: int
    num_image: int
    num_shared: int
    instruction: list[int]


class Scoring:
    """The work behind `TransformersEngine.choose`."""

    def __init__(self, chat: Chat, model: Any, prefixes: PrefixCache, choices: Sequence[str]) -> None:
        self._chat = chat
        self._model = model
        self._prefixes = prefixes
        self._choices = list(choices)
        self._tokens = ChoiceTokens(chat, choices)

    def prepare(self, request: Request) -> ScoringJob:
        """Encode one request with each choice; DataError where a choice adds no token or the context is too short."""
        encoded = encode_prompt(self._chat, request)
        prompt = encoded.input_ids
        wholes, start = self._tokens.behind(request, prompt)
        check_context(self._model, encoded, max(map(len, wholes)) - len(prompt))
        inputs = sequences_to_read(wholes)
        shared = self._prefixes.shared_tokens(request, inputs[0][:start])
        key: Hashable = (request.shared_prefix if shared else None, bool(encoded.image_inputs))
        rest = len(prompt), encoded.num_image_tokens, shared, encoded.instruction
        longest = len(inputs[0])
        return ScoringJob(request, key, len(inputs), longest, encoded, wholes, start, inputs, *rest)

    def run(self, jobs: Sequence[Job]) -> list[Choice]:
        """Score jobs of one key in one forward pass."""
        scoring = [job for job in jobs if isinstance(job, ScoringJob)]
        shared = min(job.num_shared for job in scoring)
        cells = _cells(scoring, shared)
        keep = sorted({column for spans in cells for span in spans for _, column, _ in span})
        flat = [cell for spans in cells for span in spans for cell in span]
        instructions = [job.instruction for job in scoring for _ in job.inputs]
        with torch.inference_mode(), conditioned(self._model, instructions):
            batch = self._after_prefix(scoring, shared) if shared else self._whole(scoring)
            device = batch["input_ids"].device
            logits = self._model(**batch, logits_to_keep=torch.tensor(keep, device=device)).logits
            columns = {column: place for place, column in enumerate(keep)}
            rows = torch.tensor([row for row, _, _ in flat], device=logits.device)
            places = torch.tensor([columns[column] for _, column, _ in flat], device=logits.device)
            targets = torch.tensor([target for _, _, target in flat], device=logits.device)
            log_probs = logits[rows, places].float().log_softmax(-1)
            values = iter(log_probs.gather(1, targets[:, None])[:, 0].tolist())
        sums = [[fsum(next(values) for _ in span) for span in spans] for spans in cells]
        return [
            Choice(
                job.request.id,
                dict(zip(self._choices, scores, strict=True)),
                Usage(prompt_tokens=job.num_prompt, image_tokens=job.num_image),
            )
            for job, scores in zip(scoring, sums, strict=True)
        ]

    def failed(self, request: Request, why: str) -> Choice:
        """A choice that is none."""
        return Choice(request.id, error=why)

    def _whole(self, jobs: Sequence[ScoringJob]) -> dict[str, Any]:
        samples: list[Encoded] = []
        for job in jobs:
            encoded = job.encoded or encode_prompt(self._chat, job.request)
            samples += [_with_ids(encoded, ids) for ids in job.inputs]
        batch = move(self._chat.collate(samples, padding_side="right"), self._model)
        return {**batch, "use_cache": False}

    def _after_prefix(self, jobs: Sequence[ScoringJob], shared: int) -> dict[str, Any]:
        """The sequences without their first `shared` tokens, whose keys and values are there already."""
        suffixes = [ids[shared:] for job in jobs for ids in job.inputs]
        width = max(map(len, suffixes))
        pads = [width - len(ids) for ids in suffixes]
        rows = [ids + [self._chat.pad_token_id] * pad for ids, pad in zip(suffixes, pads, strict=True)]
        mask = [[1] * (shared + width - pad) + [0] * pad for pad in pads]
        positions = torch.arange(shared, shared + width).expand(len(rows), -1)
        batch = {
            "input_ids": torch.tensor(rows),
            "attention_mask": torch.tensor(mask),
            # Given, because some families (qwen) would otherwise go on from the positions of the last call.
            "position_ids": positions,
        }
        cache = self._prefixes.expanded(jobs[0].request, shared, len(rows))
        return {**move(batch, self._model), "past_key_values": cache}


class PrefixCache:
    """Keys and values of the last shared prefix, computed once with each adapter."""

    def __init__(self, chat: Chat, model: Any) -> None:
        self._chat = chat
        self._model = model
        # A sliding window or a recurrent state cannot be cut back to a shorter prefix; a mixture of LoRA computes each
        # prefix by the whole instruction.
        layers = DynamicCache(config=model.config.get_text_config()).layers
        self._possible = not has_mixture(model) and all(type(layer) is DynamicLayer for layer in layers)
        self._text: str | None = None
        self._ids: list[int] = []
        self._caches: dict[str, Any] = {}  # by adapter: what one computes is nothing to another

    def shared_tokens(self, request: Request, context: list[int]) -> int:
        """How many tokens of `context`, the part of a prompt before what is scored, come from the request's shared
        prefix. The last token is never counted: the model has to read one to predict the next."""
        if request.prompt is None or not request.shared_prefix or not self._possible:
            return 0
        self._use(request.shared_prefix)
        return common_length(self._ids, context[:-1])

    def expanded(self, request: Request, length: int, rows: int) -> Any:
        """A cache of the first `length` tokens of the request's prefix for `rows` sequences, for one forward pass."""
        self._use(request.shared_prefix)
        if request.adapter not in self._caches:
            self._caches[request.adapter] = self._compute()
        cache = DynamicCache()
        for number, layer in enumerate(self._caches[request.adapter].layers):
            if layer.is_initialized:  # the cross-attention layers of a prefix without images are not
                keys, values = layer.keys[..., :length, :], layer.values[..., :length, :]
                cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), number)
        return cache

    def _use(self, text: str) -> None:
        if text != self._text:
            self._text, self._ids, self._caches = text, self._chat.encode_text(text), {}

    def _compute(self) -> Any:
        batch = move(self._chat.collate([encode_ids(self._ids)], padding_side="right"), self._model)
        return self._model(**batch, use_cache=True, logits_to_keep=1).past_key_values


def sequences_to_read(wholes: Sequence[list[int]]) -> list[list[int]]:
    """The fewest sequences, longest first, whose next-token logits cover all of `wholes`.

    Nobody has to read a last token, and a sequence that begins another is read with it: choices of one token each
    need a single sequence.
    """
    kept: list[list[int]] = []
    for ids in sorted((whole[:-1] for whole in wholes), key=len, reverse=True):
        if all(longer[: len(ids)] != ids for longer in kept):
            kept.append(ids)
    return kept


def _cells(jobs: Sequence[ScoringJob], shared: int) -> list[list[list[tuple[int, int, int]]]]:
    """Where to read what: a job's choices, their scored tokens, each as (row, column, token) of the batch's logits.
    Columns begin after the `shared` tokens; the logits of a column predict the token after it."""
    cells: list[list[list[tuple[int, int, int]]]] = []
    first_row = 0
    for job in jobs:
        spans = []
        for whole in job.wholes:
            row = next(n for n, ids in enumerate(job.inputs) if ids[: len(whole) - 1] == whole[:-1])
            places = range(job.start, len(whole))
            spans.append([(first_row + row, place - 1 - shared, whole[place]) for place in places])
        cells.append(spans)
        first_row += len(job.inputs)
    return cells


def _with_ids(encoded: Encoded, ids: list[int]) -> Encoded:
    """The same images before other text."""
    return replace(encoded, input_ids=ids, in_loss=[False] * len(ids))
