"""How a task is put to a model. Training (`compose`) and evaluation (`predict`) both ask through here, so that a
prompt can never differ between them by accident. Nothing here looks at an answer.
"""

from __future__ import annotations

import functools
import string
from importlib import resources
from typing import Any

import orjson

from mmkit import seeds
from mmkit.errors import DataError
from mmkit.records import Record

CAPTION_HINT = "Describe the image."
PRECISE_HINT = "Answer with a precise response."
INFORMATIVE_HINT = "Answer with an informative response."
"""The lines that open the turns of AdaMLLM's synthesizer. They are its protocol: the released one knows no others."""


def question(record: Record) -> str:
    """The text of a task's user turn: context, question, lettered choices. Raises DataError without a question."""
    text = record.get("question")
    if not isinstance(text, str) or not text.strip():
        raise DataError("question: a task needs one")
    lines = [record["context"]] if record.get("context") else []
    lines.append(text)
    choices = record.get("choices") or ()
    lines.extend(f"{letter}. {choice}" for letter, choice in zip(letters(len(choices)), choices, strict=True))
    return "\n".join(lines)


def letters(count: int) -> list[str]:
    """A, B, C, … as names of `count` choices. Raises DataError beyond 26."""
    if count > len(string.ascii_uppercase):
        raise DataError(f"choices: at most {len(string.ascii_uppercase)} can be lettered, got {count}")
    return list(string.ascii_uppercase[:count])


def templates(name: str) -> list[str]:
    """A pool of wordings: "describe" asks for a caption, "reasoned_answer" joins {reasoning} and {answer}."""
    pool: list[str] = _pools()[name]
    return pool


def pick_template(name: str, seed: int, record_id: str) -> str:
    """One wording of a pool, by (seed, record id)."""
    return seeds.pick(templates(name), seed, record_id, f"template.{name}")


@functools.cache
def _pools() -> dict[str, Any]:
    pools: dict[str, Any] = orjson.loads(resources.files("mmkit.tasks").joinpath("templates.json").read_bytes())
    return pools
