"""Answers graded by a language model: MM-Vet and LLaVA-Bench.

A judge's prompt is a text file with slots. What it says about a record becomes the record's `judgement`, and the
metric of the same name (`tasks.metrics.judged`) reads that, so that a judged file is scored again without the judge.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import orjson

from mmkit import __version__
from mmkit.engines import Reply, Request, Sampling
from mmkit.engines.exchange import Inquiry
from mmkit.errors import DataError, MissingInputError, UnavailableError, UsageError
from mmkit.records import Record, message, with_lineage
from mmkit.streams import Row
from mmkit.tasks.metrics.fields import golds, prediction

_SLOT = re.compile(r"\{(\w+)\}")
_GRADE = re.compile(r"(?:0(?:\.\d+)?|1(?:\.0+)?)\.?")
_TWO_GRADES = re.compile(r"(10(?:\.0+)?|[1-9](?:\.\d+)?)[ ,]+(10(?:\.0+)?|[1-9](?:\.\d+)?)")
_SAMPLING = Sampling(max_new_tokens=16)


@dataclass(frozen=True, slots=True)
class Protocol:
    """How one benchmark asks its judge: the texts of each request about a record, and what the replies say.

    `texts` gives one mapping of slots to texts a request; `read` the `scores` of the judgement from the replies, None
    where one does not keep to the form.
    """

    slots: frozenset[str]
    texts: Callable[[Record], list[dict[str, str]]]
    read: Callable[[Sequence[str]], list[float] | None]


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """The text that a judge is asked with. `digest` tells it from other texts."""

    protocol: str
    text: str

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:8]

    def filled(self, texts: dict[str, str]) -> str:
        """The prompt with each text as a JSON string in its slot: no text can end its own quotes."""
        return _SLOT.sub(lambda slot: orjson.dumps(texts[slot[1]]).decode(), self.text)


def load_prompt(protocol: str, path: str | None = None) -> JudgePrompt:
    """The project's own prompt, or that of a text file with the same slots.

    Raises UsageError for a slot that the protocol does not know or that is missing, MissingInputError for no file.
    """
    if path is None:
        return JudgePrompt(protocol, _own_text(protocol))
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise MissingInputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text in UTF-8") from None
    slots, wanted = set(_SLOT.findall(text)), PROTOCOLS[protocol].slots
    if unknown := sorted(slots - wanted):
        raise UsageError(
            f"{path}: {{{unknown[0]}}} is no slot of {protocol}'s prompt; it has: {', '.join(sorted(wanted))}"
        )
    if missing := sorted(wanted - slots - {"context"}):
        raise UsageError(f"{path}: {protocol}'s prompt needs {{{missing[0]}}}")
    return JudgePrompt(protocol, text)


def _own_text(protocol: str) -> str:
    return resources.files("mmkit.evaluation").joinpath("judges", f"{protocol}.txt").read_text(encoding="utf-8")


def judge(prompt: JudgePrompt, model: str) -> Inquiry[Reply]:
    """The inquiry that adds `judgement` to every record: {"by", "model", "prompt", "scores"}.

    Greedy, at most 16 tokens. A reply that is not the grade alone, in the asked form, rejects its row, as does one
    that failed: what the judge meant is never guessed.
    """
    protocol = PROTOCOLS[prompt.protocol]

    def requests(row: Row) -> list[Request]:
        record = row.record
        return [
            Request(
                id=record["id"] if number == 0 else f"{record['id']}/swapped",
                position=row.position,
                messages=[message("user", prompt.filled(texts))],
                sampling=_SAMPLING,
            )
            for number, texts in enumerate(protocol.texts(record))
        ]

    def finish(row: Row, replies: Sequence[Reply]) -> Row:
        for reply in replies:
            if reply.error is not None:
                raise UnavailableError(f"the judge gave no reply: {reply.error}")
        scores = protocol.read([reply.text for reply in replies])
        if scores is None:
            said = " / ".join(reply.text[:80] for reply in replies)
            raise DataError(f"the judge did not keep to the form: {said!r}")
        judgement = {"by": prompt.protocol, "model": model, "prompt": prompt.digest, "scores": scores}
        record = row.record
        for reply in replies:
            entry = {
                "op": "judge",
                "version": __version__,
                "parents": [record["id"]],
                "model": model,
                "params": _SAMPLING.digest(),
                "usage": reply.usage.to_wire(),
            }
            record = with_lineage(record, entry)
        return row.replaced({**record, "judgement": judgement})

    return Inquiry(requests, finish)


def _mm_vet_texts(record: Record) -> list[dict[str, str]]:
    return [{"question": _question(record), "answer": golds(record)[0], "prediction": prediction(record)}]


def _mm_vet_grade(replies: Sequence[str]) -> list[float] | None:
    (reply,) = replies
    return [float(reply.strip().removesuffix("."))] if _GRADE.fullmatch(reply.strip()) else None


def _llava_bench_texts(record: Record) -> list[dict[str, str]]:
    """Two requests: the reference's answer as assistant 1, then as assistant 2."""
    asked = {"question": _question(record), "context": str(record.get("context") or record.get("caption") or "")}
    reference, candidate = golds(record)[0], prediction(record)
    return [
        {**asked, "answer_1": reference, "answer_2": candidate},
        {**asked, "answer_1": candidate, "answer_2": reference},
    ]


def _llava_bench_grades(replies: Sequence[str]) -> list[float] | None:
    """The candidate's grade and the reference's, each the mean over both positions."""
    first, swapped = (_TWO_GRADES.fullmatch(reply.strip()) for reply in replies)
    if first is None or swapped is None:
        return None
    return [(float(first[2]) + float(swapped[1])) / 2, (float(first[1]) + float(swapped[2])) / 2]


def _question(record: Record) -> str:
    question: Any = record.get("question")
    if not isinstance(question, str) or not question.strip():
        raise DataError("question: a judge needs it")
    return question


PROTOCOLS = {
    "mm-vet": Protocol(frozenset({"question", "answer", "prediction"}), _mm_vet_texts, _mm_vet_grade),
    "llava-bench": Protocol(
        frozenset({"question", "context", "answer_1", "answer_2"}), _llava_bench_texts, _llava_bench_grades
    ),
}
"""By name. MM-Vet: Yu et al. 2023, a grade from 0 to 1 with few-shot examples. LLaVA-Bench: Liu et al. 2023, two grades
from 1 to 10. Deviations: the wording; only the grades are asked for; LLaVA-Bench asks in both orders, against the
judge's liking for one position."""
