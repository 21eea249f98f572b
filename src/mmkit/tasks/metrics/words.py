"""Scores by the words that a prediction shares with the gold answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

from mmkit.tasks.extraction import answer_span, plain
from mmkit.tasks.metrics.fields import golds, prediction
from mmkit.tasks.metrics.metric import Record, Score
from mmkit.tasks.metrics.vqa import ARTICLES, NUMBERS

Words: TypeAlias = "Counter[str]"
Overlap: TypeAlias = Callable[[Words, Words], float]

_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")
_IGNORED_INSIDE_WORDS = re.compile(r"['’]|(?<=\d),(?=\d)")


def token_recall(record: Record, recall: Overlap) -> Score:
    """The share of the gold answer's words that the prediction holds; the best of several gold answers.

    Range 0 to 100 %. Source: AdaMLLM's OPEN score, which is LLaVA-Med's recall, under the rule "adamllm"; the rule
    "strict" counts each gold word at most as often as the prediction has it. Both take the whole reply and read words
    alike: lower case, no articles, number words as digits. Deviation: any mark separates words and apostrophes are
    dropped, where the released code treats marks by the blanks around them. A gold answer without a word (such as
    "+") is compared as exact match does.
    """
    return _best_overlap(record, prediction(record), recall)


def token_f1(record: Record, f1: Overlap) -> Score:
    """The harmonic mean of token recall and precision; the best of several gold answers.

    Range 0 to 100 %; 0 where no word is shared. Rule "strict" takes the answer that the reply states, where it states
    one, and counts a word as often as both have it; "adamllm" takes the whole reply and counts as its recall does.
    Source and deviation: as of `token_recall`; the strict count is that of SQuAD's F1.
    """
    reply = prediction(record)
    return _best_overlap(record, answer_span(reply) if f1 is true_f1 else reply, f1)


def true_recall(candidate: Words, reference: Words) -> float:
    return (candidate & reference).total() / reference.total()


def adamllm_recall(candidate: Words, reference: Words) -> float:
    """A word in both counts as often as the *candidate* has it: "lung lung lung" gets 3 / 4 of "left lung"."""
    found = _found(candidate, reference)
    missed = sum(count for word, count in reference.items() if word not in candidate)
    return found / (found + missed)


def true_f1(candidate: Words, reference: Words) -> float:
    return 2 * (candidate & reference).total() / (candidate.total() + reference.total())


def adamllm_f1(candidate: Words, reference: Words) -> float:
    found = _found(candidate, reference)
    if not found:
        return 0.0
    precision, recall = found / candidate.total(), adamllm_recall(candidate, reference)
    return 2 * precision * recall / (precision + recall)


def _found(candidate: Words, reference: Words) -> int:
    return sum(candidate[word] for word in reference)


def _best_overlap(record: Record, reply: str, overlap: Overlap) -> Score:
    words = scored_words(reply)
    counts = Counter(words)
    best = 0.0
    for gold in golds(record):
        wanted = Counter(scored_words(gold))
        share = overlap(counts, wanted) if wanted else float(plain(reply) == plain(gold))
        best = max(best, share)
    return Score(100.0 * best, " ".join(words) or plain(reply) or None)


def scored_words(text: str) -> list[str]:
    """The words of a text as these scores read them, in order: numbers as digits, no articles."""
    found = _WORD.findall(_IGNORED_INSIDE_WORDS.sub("", text.lower()))
    return [NUMBERS.get(word, word) for word in found if word not in ARTICLES]
