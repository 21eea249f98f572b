"""How a task is put to a model. Training (`compose`) and evaluation (`predict`) both ask through here, so that a
prompt can never differ between them by accident. Nothing here looks at an answer.
"""

from __future__ import annotations

import functools
import re
import string
from importlib import resources
from typing import Any

import orjson

from mmkit import seeds
from mmkit.errors import DataError
from mmkit.records import Record
from mmkit.tasks.benchmarks import definition_of

CAPTION_HINT = "Describe the image."
PRECISE_HINT = "Answer with a precise response."
INFORMATIVE_HINT = "Answer with an informative response."
"""The lines that open the turns of AdaMLLM's synthesizer. They are its protocol: the released one knows no others."""
COMMON_PROMPT = "{context}\n{question}\n{choices}"

_SLOT = re.compile(r"\{(?:question|context|choices)\}")


def ask(record: Record) -> str:
    """The text of a task's user turn: by the prompt of the benchmark that the record names, else by the common one.

    Raises DataError without a question, or where the benchmark is unknown.
    """
    definition = definition_of(record)
    return fill((definition and definition.prompt) or COMMON_PROMPT, record)


def fill(template: str, record: Record) -> str:
    """A template with {question}, {context} and {choices} (lettered, one a line) put in.

    In one pass: a text that holds braces stays as it is. A line of the template that comes out empty is left out, as
    where there is no context. Raises DataError without a question, unless the template asks without one.
    """
    if "{question}" in template and not str(record.get("question") or "").strip():
        raise DataError("question: a task needs one")
    choices = record.get("choices") or ()
    texts = {
        "{question}": record.get("question") or "",
        "{context}": record.get("context") or "",
        "{choices}": "\n".join(
            f"{letter}. {choice}" for letter, choice in zip(letters(len(choices)), choices, strict=True)
        ),
    }
    lines = (_SLOT.sub(lambda slot: texts[slot[0]], line) for line in template.split("\n"))
    return "\n".join(line for line in lines if line.strip())


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
