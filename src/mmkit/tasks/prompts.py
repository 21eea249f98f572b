"""How a task is put to a model. Training (`compose`, `instruct`) and evaluation (`predict`) ask through here, so that
a prompt can never differ between them by accident. Nothing here looks at an answer.
"""

from __future__ import annotations

import functools
import hashlib
import re
import string
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import orjson

from mmkit import seeds
from mmkit.errors import DataError, MissingInputError, UsageError
from mmkit.records import Record, message
from mmkit.streams.rows import require_exact
from mmkit.tasks.benchmarks import ANSWER_TYPES, definition_of
from mmkit.tasks.extraction import Options, answer_span, parse_yes_no

CAPTION_HINT = "Describe the image."
PRECISE_HINT = "Answer with a precise response."
INFORMATIVE_HINT = "Answer with an informative response."
"""The lines that open the turns of AdaMLLM's synthesizer. They are its protocol: the released one knows no others."""
COMMON_PROMPT = "{context}\n{question}\n{choices}"

OptionStyle: TypeAlias = Literal["dot", "paren", "parens", "inline"]
"""How options are listed: "A. liver", "A) liver" or "(A) liver" one a line, or "A. liver B. lung" on one line."""
_LABELS: Mapping[OptionStyle, str] = {"dot": "{}. ", "paren": "{}) ", "parens": "({}) ", "inline": "{}. "}

Pool: TypeAlias = Literal["multiple_choice", "short_answer", "yes_no", "closer"]
"""The pools of an instruction: phrasings by answer type, and closers, which say the answer directly."""
_SLOTS: Mapping[str, tuple[str, ...]] = {
    "multiple_choice": ("{question}", "{choices}"),
    "short_answer": ("{question}",),
    "yes_no": ("{question}",),
    "closer": ("{answer}",),
}
_POOL_OF_TYPE: Mapping[str, Pool] = {
    "choice": "multiple_choice",
    "yes-no": "yes_no",
    "short": "short_answer",
    "number": "short_answer",
}

_SLOT = re.compile(r"\{(?:question|context|choices)\}")
_ANY_SLOT = re.compile(r"\{\w*\}")


def conversation(record: Record) -> Sequence[Mapping[str, Any]]:
    """What a model is asked: the record's messages up to its last answer, else its question, behind its images.

    Raises DataError where there is neither, or no user turn to answer. The gold answer is never part of it.
    """
    turns: list[Mapping[str, Any]] = list(record.get("messages") or ())
    if not turns:
        return [message("user", ask(record), len(record.get("images") or ()))]
    while turns and turns[-1]["role"] == "assistant":
        turns.pop()
    if not turns or turns[-1]["role"] != "user":
        raise DataError("messages: no user turn to answer")
    return turns


def ask(record: Record) -> str:
    """The text of a task's user turn: by the prompt of the benchmark that the record names, else by the common one.

    Raises DataError without a question, or where the benchmark is unknown.
    """
    definition = definition_of(record)
    return fill((definition and definition.prompt) or COMMON_PROMPT, record)


def fill(template: str, record: Record, option_style: OptionStyle = "dot") -> str:
    """A template with {question}, {context} and {choices} (see `listed`) put in.

    In one pass: a text that holds braces stays as it is. A line of the template that comes out empty is left out, as
    where there is no context. Raises DataError without a question, or with more than 26 choices, where the template has
    the slot.
    """
    if "{question}" in template and not str(record.get("question") or "").strip():
        raise DataError("question: a task needs one")
    # A label set of hundreds, to be searched for in the reply, cannot be lettered and is not asked for.
    choices = listed(record.get("choices") or (), option_style) if "{choices}" in template else ()
    texts = {
        "{question}": record.get("question") or "",
        "{context}": record.get("context") or "",
        "{choices}": (" " if option_style == "inline" else "\n").join(choices),
    }
    lines = (_SLOT.sub(lambda slot: texts[slot[0]], line) for line in template.split("\n"))
    return "\n".join(line for line in lines if line.strip())


def listed(choices: Sequence[str], option_style: OptionStyle = "dot") -> list[str]:
    """The choices with their labels before them; labels that they carry themselves are taken off first.

    Raises DataError for more than 26.
    """
    texts = Options(choices).texts
    return [label(letter, option_style) + text for letter, text in zip(letters(len(texts)), texts, strict=True)]


def label(letter: str, option_style: OptionStyle) -> str:
    """What stands before the option of a letter, such as "B. "."""
    return _LABELS[option_style].format(letter)


def letters(count: int) -> list[str]:
    """A, B, C, … as names of `count` choices. Raises DataError beyond 26."""
    if count > len(string.ascii_uppercase):
        raise DataError(f"choices: at most {len(string.ascii_uppercase)} can be lettered, got {count}")
    return list(string.ascii_uppercase[:count])


def answer_type(record: Record) -> str:
    """What kind of answer a task has, one of ANSWER_TYPES.

    It is that of the benchmark's definition, else the record's `answer_type`, else "yes-no" where the choices are
    exactly yes and no, "choice" where there are others, "short" where there are none. Source: MLAN, appendix C.2.
    Deviation: the answer is never looked at (the released scripts take an answer with "no" in it for yes or no).
    Raises DataError for an unknown benchmark or type.
    """
    definition = definition_of(record)
    if definition is not None:
        return definition.answer_type
    own = record.get("answer_type")
    if own is not None:
        if own not in ANSWER_TYPES:
            raise DataError(f"answer_type: expected one of {', '.join(ANSWER_TYPES)}, got {str(own)[:40]!r}")
        return str(own)
    choices = record.get("choices")
    if not choices:
        return "short"
    return "yes-no" if Options(choices).closed else "choice"


class Phrasings:
    """The pools that instructions are drawn from, each a list of wordings."""

    def __init__(self, pools: Mapping[Pool, Sequence[str]]) -> None:
        self._pools = pools

    def phrasing(self, kind: str, seed: int, record_id: str) -> str | None:
        """A wording for a question of an answer type, by (seed, record id); None for long answers, boxes and lists,
        whose questions say themselves what they want."""
        pool = _POOL_OF_TYPE.get(kind)
        return None if pool is None else self._pick(pool, seed, record_id)

    def closer(self, seed: int, record_id: str) -> str:
        """A wording that states an answer, with the slot {answer}; by (seed, record id)."""
        return self._pick("closer", seed, record_id)

    def digest(self) -> str:
        """A short hash of all wordings."""
        return hashlib.sha256(orjson.dumps(self._pools, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]

    def _pick(self, pool: Pool, seed: int, record_id: str) -> str:
        return seeds.pick(self._pools[pool], seed, record_id, f"template.{pool}")


def load_phrasings(path: str | None = None) -> Phrasings:
    """The project's own pools, with those in their place that a JSON file {pool: [wording, …]} holds.

    Every phrasing holds each slot of its pool once and no other: {question}, and {choices} where it asks for one of
    them. A closer states its {answer} such that `extraction` reads it back. Raises UsageError, naming file, pool and
    entry, where that is not so, and MissingInputError where there is no file.
    """
    pools: dict[Pool, Sequence[str]] = {name: templates(name) for name in get_args(Pool)}
    if path is not None:
        pools |= _own_pools(path)
    return Phrasings(pools)


def templates(name: str) -> list[str]:
    """A pool of wordings: "describe" asks for a caption, "reasoned_answer" joins {reasoning} and {answer}; for the
    others see `Pool`."""
    pool: list[str] = _built_in()[name]
    return pool


def pick_template(name: str, seed: int, record_id: str) -> str:
    """One wording of a pool, by (seed, record id)."""
    return seeds.pick(templates(name), seed, record_id, f"template.{name}")


@functools.cache
def _built_in() -> dict[str, Any]:
    pools: dict[str, Any] = orjson.loads(resources.files("mmkit.tasks").joinpath("templates.json").read_bytes())
    return pools


def _own_pools(path: str) -> dict[Pool, Sequence[str]]:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise MissingInputError(f"{path}: {error.strerror}") from None
    try:
        pools = orjson.loads(data)
        require_exact(data, pools)
    except (orjson.JSONDecodeError, DataError) as error:
        raise UsageError(f"{path}: {error}") from None
    if not isinstance(pools, dict):
        raise UsageError(f'{path}: expected an object such as {{"closer": ["The answer is {{answer}}"]}}')
    for name, pool in pools.items():
        if name not in _SLOTS:
            raise UsageError(f"{path}: {name}: no such pool; there are {', '.join(_SLOTS)}")
        if not isinstance(pool, list) or not pool:
            raise UsageError(f"{path}: {name}: expected a list of at least one wording")
        for i, wording in enumerate(pool):
            if fault := _fault(wording, name):
                raise UsageError(f"{path}: {name}[{i}]: {fault}")
    return pools


def _fault(wording: object, pool: str) -> str | None:
    """What is wrong with a wording of a pool."""
    if not isinstance(wording, str):
        return "expected a string"
    found, wanted = _ANY_SLOT.findall(wording), _SLOTS[pool]
    if unknown := [slot for slot in found if slot not in wanted]:
        why = "; --context says where it stands" if unknown[0] == "{context}" else ""
        return f"unknown slot {unknown[0]}; the slots here are {', '.join(wanted)}{why}"
    for slot in wanted:
        if found.count(slot) != 1:
            return f"expected {slot} once, found it {found.count(slot)} times"
    if pool == "closer" and not _reads_back(wording):
        return 'an answer could not be read back: end a line with "answer is {answer}" or "answer: {answer}", said once'
    return None


def _reads_back(closer: str) -> bool:
    """Whether an answer that the closer states behind some reasoning is understood, be it a letter or either word."""
    letter, *words = (f"Some reasoning.\n{closer}".replace("{answer}", answer) for answer in ("B", "yes", "no"))
    of_letter, of_words = Options(["lung", "liver"]).parse(letter), [parse_yes_no(word) for word in words]
    return of_letter == 1 and of_words == [answer_span(word) for word in words] == ["yes", "no"]
