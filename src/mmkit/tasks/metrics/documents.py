"""Scores of answers read off documents and charts: ANLS and relaxed accuracy."""

from __future__ import annotations

from mmkit.tasks.extraction import answer_span, parse_number, plain, whole_number
from mmkit.tasks.metrics.fields import golds, prediction
from mmkit.tasks.metrics.metric import Record, Score

_ANLS_THRESHOLD = 0.5
_RELAXED_TOLERANCE = 0.05


def anls(record: Record) -> Score:
    """1 - (Levenshtein distance / length of the longer text), 0 below .5; the best of several gold answers.

    Range 0 to 100 %. Lower case, white space collapsed; exactly .5 counts as .5. Source: ST-VQA (Biten et al. 2019).
    Deviation: an answer that the reply states is taken from it.
    """
    from rapidfuzz.distance import Levenshtein

    reply, gold_answers = prediction(record), golds(record)
    parsed = _collapsed(answer_span(reply))
    similarities = [Levenshtein.normalized_similarity(parsed, _collapsed(gold)) for gold in gold_answers]
    best = max(similarities) if parsed else 0.0
    return Score(100.0 * best if best >= _ANLS_THRESHOLD else 0.0, parsed or None)


def relaxed(record: Record) -> Score:
    """100 where the number of the reply lies within 5 % of the gold number, or its text equals the gold text, else 0.

    Range 0 to 100 %. Numbers are read by `extraction.parse_number`; a percent sign divides by 100, so that "35%" is .35
    and not 35. A gold 0 wants exactly 0. Texts are compared as exact match does. Source: ChartQA (Masry et al. 2022).
    Deviation: the answer is read out of a sentence, commas that group thousands are dropped, and 0 equals 0.0.
    """
    reply, gold_answers = prediction(record), golds(record)
    text, number = plain(answer_span(reply)), parse_number(reply)
    right = bool(text) and any(text == plain(gold) or _close(number, whole_number(gold)) for gold in gold_answers)
    return Score(100.0 if right else 0.0, text or None)


def _close(number: float | None, target: float | None) -> bool:
    if number is None or target is None:
        return False
    return abs(number - target) <= _RELAXED_TOLERANCE * abs(target)


def _collapsed(text: str) -> str:
    return " ".join(text.lower().split())
