"""Scores of one row: a metric is a name, a unit, a direction and one scorer a rule.

Every value is in the metric's unit. Adding a metric is one entry of `METRICS`; adding a rule is one scorer of its
entry. Scorers read `prediction`, `answer`, `answers` and `choices` of a record and nothing else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from mmkit.errors import DataError, UsageError
from mmkit.tasks.extraction import Options, parse_yes_no, plain

Record: TypeAlias = Mapping[str, Any]
Scorer: TypeAlias = "Callable[[Record], Score]"

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


@dataclass(frozen=True, slots=True)
class Score:
    """One row's score in the metric's unit, and the answer as it was understood (None: not parsed, so no credit)."""

    value: float
    parsed: str | None


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric and the rules it can be computed by. `range` is in `unit`; both ends can be reached."""

    name: str
    default_rule: str
    unit: str
    higher_is_better: bool
    range: tuple[float, float]
    rules: Mapping[str, Scorer]

    def scorer(self, rule: str) -> Scorer:
        """The scorer of one rule. Raises UsageError for a rule that the metric does not have."""
        if rule not in self.rules:
            raise UsageError(f"metric {self.name} has no rule {rule!r}; it has: {', '.join(self.rules)}")
        return self.rules[rule]


def metric_for(record: Record, name: str | None = None) -> Metric:
    """The metric of a row: `name` if given, else the record's `metric`, else accuracy where it has `choices`, else em.

    The gold answer is never looked at. Raises UsageError for an unknown `name`, DataError for an unknown `metric`.
    """
    if name is not None:
        if name not in METRICS:
            raise UsageError(f"unknown metric {name!r}; known: {', '.join(METRICS)}")
        return METRICS[name]
    own = record.get("metric")
    if own is not None:
        if not isinstance(own, str) or own not in METRICS:
            raise DataError(f"metric: unknown metric {own!r}; known: {', '.join(METRICS)}")
        return METRICS[own]
    return METRICS["accuracy" if record.get("choices") else "em"]


def exact_match(record: Record, normalise: Callable[[str], str]) -> Score:
    """100 where the prediction equals `answer` or any of `answers` after `normalise`, else 0. A blank one is unparsed.

    Range 0 to 100 %. Source: VisATB (rule "strict", see `extraction.plain`). Rule "raw" compares the bare strings.
    """
    prediction = _prediction(record)
    parsed = normalise(prediction)
    right = any(parsed == normalise(gold) for gold in _golds(record))
    return Score(100.0 if right else 0.0, parsed if prediction.strip() else None)


def accuracy(record: Record) -> Score:
    """100 where the reply answers with the right option of `choices`, or, with no choices, the right one of yes and no.

    Range 0 to 100 %. The reply is read by the strict rule of `extraction`; one that cannot be read is wrong. Raises
    DataError where the gold answer is none of the options.
    """
    prediction, golds = _prediction(record), _golds(record)
    choices = _choices(record)
    if not choices:
        word = parse_yes_no(prediction)
        right_words = {plain(gold) for gold in golds} & {"yes", "no"}
        if not right_words:
            raise DataError("answer: accuracy needs choices, or an answer that is yes or no")
        return Score(100.0 if word in right_words else 0.0, word)
    options = Options(choices)
    right = [index for gold in golds if (index := options.find(gold)) is not None]
    if not right:
        raise DataError(f"answer: {golds[0][:80]!r} is none of the {len(choices)} choices")
    index = options.parse(prediction)
    if index is None:
        return Score(0.0, None)
    return Score(100.0 if any(options.same(index, gold) for gold in right) else 0.0, options.texts[index])


def token_recall(record: Record, recall: Callable[[Counter[str], Counter[str]], float]) -> Score:
    """The share of the gold answer's words that the prediction holds; the best of several gold answers.

    Range 0 to 100 %. Source: AdaMLLM's OPEN score, which is LLaVA-Med's recall, under the rule "adamllm"; the rule
    "strict" counts each gold word at most as often as the prediction has it. Both read words alike: lower case,
    no articles, number words as digits. Deviation: any mark separates words and apostrophes are dropped, where the
    released code treats marks by the blanks around them. A gold answer without a word (such as "+") is
    compared as exact match does.
    """
    prediction = _prediction(record)
    words = _words(prediction)
    counts = Counter(words)
    best = 0.0
    for gold in _golds(record):
        wanted = Counter(_words(gold))
        share = recall(counts, wanted) if wanted else float(plain(prediction) == plain(gold))
        best = max(best, share)
    return Score(100.0 * best, " ".join(words) or plain(prediction) or None)


def _true_recall(candidate: Counter[str], reference: Counter[str]) -> float:
    return (candidate & reference).total() / reference.total()


def _adamllm_recall(candidate: Counter[str], reference: Counter[str]) -> float:
    """A word in both counts as often as the *candidate* has it: "lung lung lung" gets 3 / 4 of "left lung"."""
    found = sum(candidate[word] for word in reference)
    missed = sum(count for word, count in reference.items() if word not in candidate)
    return found / (found + missed)


def _words(text: str) -> list[str]:
    found = _WORD.findall(_IGNORED_INSIDE_WORDS.sub("", text.lower()))
    return [_NUMBERS.get(word, word) for word in found if word not in _ARTICLES]


def _prediction(record: Record) -> str:
    prediction = record.get("prediction")
    if prediction is None:
        raise DataError("prediction: missing")
    if not isinstance(prediction, str):
        raise DataError(f"prediction: expected a string, got {type(prediction).__name__}")
    return prediction


def _golds(record: Record) -> list[str]:
    """The gold answers, `answer` first; blank ones do not count, so that an empty reply can never be right."""
    answer, answers = record.get("answer"), record.get("answers")
    if answers is not None and not isinstance(answers, list | tuple):
        raise DataError(f"answers: expected a list, got {type(answers).__name__}")
    given = [*([] if answer is None else [answer]), *(answers or ())]
    for gold in given:
        if not isinstance(gold, str):
            raise DataError(f"answer: expected a string, got {type(gold).__name__}")
    golds = [gold for gold in given if gold.strip()]
    if not golds:
        raise DataError("answer: missing or blank, and there are no answers")
    return golds


def _choices(record: Record) -> list[str]:
    choices = record.get("choices") or []
    if not isinstance(choices, list | tuple) or not all(isinstance(choice, str) for choice in choices):
        raise DataError("choices: expected a list of strings")
    return list(choices)


_PERCENT = (0.0, 100.0)

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "em",
            "strict",
            "%",
            True,
            _PERCENT,
            {
                "strict": lambda record: exact_match(record, plain),
                "raw": lambda record: exact_match(record, str),
            },
        ),
        Metric("accuracy", "strict", "%", True, _PERCENT, {"strict": accuracy}),
        Metric(
            "token-recall",
            "strict",
            "%",
            True,
            _PERCENT,
            {
                "strict": lambda record: token_recall(record, _true_recall),
                "adamllm": lambda record: token_recall(record, _adamllm_recall),
            },
        ),
    )
}
