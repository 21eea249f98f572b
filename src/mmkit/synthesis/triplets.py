"""Image-caption pairs become instruction triplets, by AdaMLLM's synthesizer.

A triplet is an instruction (`question`), a precise response (`answer`) and an informative response (`rationale`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mmkit import __version__, images
from mmkit.engines import Reply, Request, Sampling, Turn
from mmkit.engines.exchange import Inquiry
from mmkit.errors import DataError, UnavailableError
from mmkit.records import Record, message, with_lineage
from mmkit.streams import Dropped, Row
from mmkit.tasks.prompts import CAPTION_HINT, INFORMATIVE_HINT, PRECISE_HINT


@dataclass(frozen=True, slots=True)
class Triplet:
    """An instruction with its two responses."""

    instruction: str
    precise: str
    informative: str


def synthesize(
    model: str, *, sampling: Sampling, num_samples: int = 1, image_root: str | None = None
) -> Inquiry[Reply]:
    """The inquiry that makes task records out of caption records; `model` is the synthesizer's name, for lineage.

    Source: AdaMLLM, section 3.1.1: the pair goes in as a first turn that asks for a description and its answer, and
    the synthesizer goes on with the conversation. `num_samples` above 1 asks that often, with draws of their own, and
    keeps the triplets with different instructions. A caption that gives no triplet is dropped; a reply that failed
    rejects its row alone. Deviation: more than one sample; the released code loses a chunk of 500 rows to one error.
    """
    synthesizer = _Synthesizer(model, sampling, num_samples, image_root)
    return Inquiry(synthesizer.requests, synthesizer.finish)


def triplet_of(turns: Sequence[Turn]) -> Triplet | None:
    """The first instruction that stands under both hints with equal text, with its responses; None without one.

    Source: AdaMLLM's released code. Deviation: hints are matched without regard to case.
    """
    precise: dict[str, str] = {}
    informative: dict[str, str] = {}
    for user, assistant in _pairs(turns):
        for hint, answers in ((PRECISE_HINT, precise), (INFORMATIVE_HINT, informative)):
            instruction = _after_hint(user, hint)
            if instruction and assistant:
                answers.setdefault(instruction, assistant)
                if instruction in precise and instruction in informative:
                    return Triplet(instruction, precise[instruction], informative[instruction])
    return None


class _Synthesizer:
    def __init__(self, model: str, sampling: Sampling, num_samples: int, image_root: str | None) -> None:
        self._model, self._sampling, self._image_root = model, sampling, image_root
        self._num_samples = num_samples

    def requests(self, row: Row) -> list[Request]:
        record = row.record
        caption = record.get("caption")
        if not isinstance(caption, str) or not caption.strip():
            raise DataError("caption: synthesize needs one")
        pictures = [images.load(image, self._image_root) for image in record.get("images") or ()]
        if not pictures:
            raise DataError("images: synthesize needs an image (a caption alone gives no visual task)")
        turns = [message("user", CAPTION_HINT, len(pictures)), message("assistant", caption)]
        return [
            Request(
                id=f"{record['id']}#{sample}",
                position=row.position,
                messages=turns,
                images=pictures,
                open_turn="user",
                sampling=self._sampling,
            )
            for sample in range(self._num_samples)
        ]

    def finish(self, row: Row, replies: Sequence[Reply]) -> Iterable[Row] | Dropped:
        found: dict[str, tuple[Triplet, Reply]] = {}
        for reply in replies:
            if reply.error is not None:
                raise UnavailableError(f"the synthesizer gave no reply: {reply.error}")
            triplet = triplet_of(reply.turns)
            if triplet is not None:
                found.setdefault(triplet.instruction, (triplet, reply))
        if not found:
            shown = replies[0].text[:200]
            return Dropped(row, f"no instruction stands under both hints in the reply: {shown}")
        return [
            row.replaced(self._task(row.record, number, triplet, reply))
            for number, (triplet, reply) in enumerate(found.values())
        ]

    def _task(self, caption: Record, number: int, triplet: Triplet, reply: Reply) -> Record:
        task = {
            **caption,
            "id": f"{caption['id']}#{number}",
            "question": triplet.instruction,
            "answer": triplet.precise,
            "rationale": triplet.informative,
        }
        entry = {
            "op": "synthesize",
            "version": __version__,
            "parents": [caption["id"]],
            "model": self._model,
            "params": self._sampling.digest(),
            "usage": reply.usage.to_wire(),
        }
        return with_lineage(task, entry)


def _pairs(turns: Sequence[Turn]) -> Iterator[tuple[str, str]]:
    for first, second in itertools.pairwise(turns):
        if first.role == "user" and second.role == "assistant":
            yield first.text, second.text.strip()


def _after_hint(text: str, hint: str) -> str | None:
    text = text.strip()
    return text[len(hint) :].strip() if text[: len(hint)].lower() == hint.lower() else None
