"""Scores by the words that a prediction shares with the gold answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from mmkit.tasks.extraction import plain
from mmkit.tasks.metrics.fields import golds, prediction
from mmkit.tasks.metrics.metric import Record, Score

_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")
_IGNORED_INSIDE_WORDS = re.compile(r"['’]|(?<=\d),(?=\d)")
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = dict(
    zip(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
        map(str, range(11)),
        strict=True,
    )
) | {"none": "0"}


def token_recall(record: Record, recall: Callable[[Counter[str], Counter[str]], float]) -> Score:
    """The share of the gold answer's words that the prediction holds; the best of several gold answers.

    Range 0 to 100 %. Source: AdaMLLM's OPEN score, which is LLaVA-Med's recall, under the rule "adamllm"; the rule
    "strict" counts each gold word at most as often as the prediction has it. Both read words alike: lower case,
    no articles, number words as digits. Deviation: any mark separates words and apostrophes are dropped, where the
    released code treats marks by the blanks around them. A gold answer without a word (such as "+") is
    compared as exact match does.
    """
    reply = prediction(record)
    words = _words(reply)
    counts = Counter(words)
    best = 0.0
    for gold in golds(record):
        wanted = Counter(_words(gold))
        share = recall(counts, wanted) if wanted else float(plain(reply) == plain(gold))
        best = max(best, share)
    return Score(100.0 * best, " ".join(words) or plain(reply) or None)


def true_recall(candidate: Counter[str], reference: Counter[str]) -> float:
    return (candidate & reference).total() / reference.total()


def adamllm_recall(candidate: Counter[str], reference: Counter[str]) -> float:
    """A word in both counts as often as the *candidate* has it: "lung lung lung" gets 3 / 4 of "left lung"."""
    found = sum(candidate[word] for word in reference)
    missed = sum(count for word, count in reference.items() if word not in candidate)
    return found / (found + missed)


def _words(text: str) -> list[str]:
    found = _WORD.findall(_IGNORED_INSIDE_WORDS.sub("", text.lower()))
    return [_NUMBERS.get(word, word) for word in found if word not in _ARTICLES]
