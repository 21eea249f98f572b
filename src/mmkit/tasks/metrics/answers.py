"""Scores of an answer that is right or wrong: exact match, multiple choice, yes and no."""

from __future__ import annotations

from collections.abc import Callable

from mmkit.errors import DataError
from mmkit.tasks.extraction import Options, parse_yes_no, plain
from mmkit.tasks.metrics.fields import choices, golds, prediction
from mmkit.tasks.metrics.metric import Record, Score


def exact_match(record: Record, normalise: Callable[[str], str]) -> Score:
    """100 where the prediction equals `answer` or any of `answers` after `normalise`, else 0. A blank one is unparsed.

    Range 0 to 100 %. Source: VisATB (rule "strict", see `extraction.plain`). Rule "raw" compares the bare strings.
    """
    reply = prediction(record)
    parsed = normalise(reply)
    right = any(parsed == normalise(gold) for gold in golds(record))
    return Score(100.0 if right else 0.0, parsed if reply.strip() else None)


def multiple_choice(record: Record) -> Score:
    """100 where the reply answers with the right option of `choices`, else 0.

    Range 0 to 100 %. The reply is read by the strict rule of `extraction`; one that cannot be read is wrong. Raises
    DataError without choices, or where the gold answer is none of them.
    """
    reply, gold_answers, given = prediction(record), golds(record), choices(record)
    if not given:
        raise DataError("choices: missing; multiple choice needs them")
    options = Options(given)
    right = [index for gold in gold_answers if (index := options.find(gold)) is not None]
    if not right:
        raise DataError(f"answer: {gold_answers[0][:80]!r} is none of the {len(given)} choices")
    index = options.parse(reply)
    if index is None:
        return Score(0.0, None)
    return Score(100.0 if any(options.same(index, gold) for gold in right) else 0.0, options.texts[index])


def closed(record: Record) -> Score:
    """100 where the reply answers with the right one of yes and no, else 0.

    Range 0 to 100 %. The reply is read by the strict rule of `extraction`; one that cannot be read is wrong. Raises
    DataError where the gold answer is neither yes nor no.
    """
    reply = prediction(record)
    right = {plain(gold) for gold in golds(record)} & {"yes", "no"}
    if not right:
        raise DataError("answer: expected yes or no")
    word = parse_yes_no(reply)
    return Score(100.0 if word in right else 0.0, word)
