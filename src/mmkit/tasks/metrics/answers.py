"""Scores of an answer that is right or wrong: exact match, and the right option of several."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence

from mmkit import seeds
from mmkit.errors import DataError
from mmkit.tasks.extraction import Options, answer_span, plain
from mmkit.tasks.metrics.fields import choices, golds, prediction
from mmkit.tasks.metrics.metric import Record, Score

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def exact_match(record: Record, read: Callable[[str], str], normalise: Callable[[str], str]) -> Score:
    """100 where what `read` finds in the reply equals `answer` or one of `answers` after `normalise`, else 0.

    Range 0 to 100 %. Rule "strict" reads by `extraction.answer_span` and normalises by `extraction.plain`; "visatb"
    takes the whole reply and normalises by `visatb_form`, "squad" the whole reply and `squad_form`, "raw" the bare
    strings. A blank reply is unparsed, and never right.
    """
    reply, gold_answers = prediction(record), golds(record)
    if not reply.strip():
        return Score(0.0, None)
    parsed = normalise(read(reply))
    return Score(100.0 if parsed in map(normalise, gold_answers) else 0.0, parsed)


def exact_answer(record: Record) -> Score:
    """`exact_match` by the rule "strict"."""
    return exact_match(record, answer_span, plain)


def visatb_form(text: str) -> str:
    """Stripped, lower-cased, one final "." dropped. Source: the "EM" of VisATB. Deviation: none."""
    return text.strip().lower().removesuffix(".")


def squad_form(text: str) -> str:
    """Lower-cased, without punctuation and articles, white space collapsed.

    Source: the evaluation of SQuAD 1.1 (Rajpurkar et al. 2016). Deviation: none.
    """
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def multiple_choice(record: Record) -> Score:
    """100 where the reply answers with the right option of `choices`, else 0.

    Range 0 to 100 %. The reply is read by the strict rule of `extraction`; one that cannot be read is wrong. Raises
    DataError without choices, or where the gold answer is none of them.
    """
    reply, options, right = _question(record)
    return _chosen(options, right, options.parse(reply))


def multiple_choice_mmmu(record: Record, long_enough: Callable[[str], bool]) -> Score:
    """100 where MMMU's parser finds the right option of `choices` in the reply, else 0.

    Range 0 to 100 %. The parser takes the last letter in brackets, else the last that stands between blanks, else, in
    a reply that is `long_enough`, the last option text; else it guesses, and the row counts as unparsed. Rule "mmmu"
    asks for more than five words, "adamllm" for more than five characters. Beyond 26 options their names are their
    numbers from 0, as for AdaMLLM's Food101. Source: MMMU (Yue et al. 2024); AdaMLLM. Deviation: the guess depends on
    the record's id alone. Raises as `multiple_choice`.
    """
    reply, options, right = _question(record)
    index = _last_named(reply, options, long_enough)
    if index is not None:
        return _chosen(options, right, index)
    record_id = record.get("id")
    if not isinstance(record_id, str):
        raise DataError("id: missing; this rule guesses by it where a reply names no option")
    guess = seeds.pick(range(len(options.texts)), 0, record_id, "metrics.mc.guess")
    return Score(_chosen(options, right, guess).value, None)


def more_than_five_words(reply: str) -> bool:
    return len(reply.split()) > 5


def more_than_five_characters(reply: str) -> bool:
    return len(reply) > 5


def _question(record: Record) -> tuple[str, Options, list[int]]:
    """The reply, the options, and the indexes of the right ones."""
    reply, gold_answers, given = prediction(record), golds(record), choices(record)
    if not given:
        raise DataError("choices: missing; multiple choice needs them")
    options = Options(given)
    right = [index for gold in gold_answers if (index := options.find(gold)) is not None]
    if not right:
        raise DataError(f"answer: {gold_answers[0][:80]!r} is none of the {len(given)} choices")
    return reply, options, right


def _chosen(options: Options, right: list[int], index: int | None) -> Score:
    if index is None:
        return Score(0.0, None)
    return Score(100.0 if any(options.same(index, gold) for gold in right) else 0.0, options.texts[index])


def _last_named(reply: str, options: Options, long_enough: Callable[[str], bool]) -> int | None:
    for mark in ",.!?;:'":
        reply = reply.strip(mark)
    reply = f" {reply} "
    count = len(options.texts)
    names = string.ascii_uppercase[:count] if count <= len(string.ascii_uppercase) else map(str, range(count))
    bracketed, bare = zip(*((f"({name})", f" {name} ") for name in names), strict=True)
    for forms in (bracketed, bare):
        index = _last_found(reply, forms)
        if index is not None:
            return index
    return _last_found(reply.lower(), [text.lower() for text in options.texts]) if long_enough(reply) else None


def _last_found(reply: str, forms: Sequence[str]) -> int | None:
    """The index of the form whose last occurrence is furthest to the right; the first of equals."""
    found = {index: position for index, form in enumerate(forms) if (position := reply.rfind(form)) >= 0}
    return max(found, key=found.__getitem__, default=None)
