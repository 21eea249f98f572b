"""Scores of a set of labels that a reply names: the classes on an image, the ingredients of a dish."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias

from mmkit.errors import DataError
from mmkit.tasks.metrics.fields import choices, golds, prediction
from mmkit.tasks.metrics.metric import Record, Score

Naming: TypeAlias = "Callable[[str, Sequence[str]], set[str]]"


def multilabel_f1(record: Record, named: Naming) -> Score:
    """F1 of the classes of `choices` that the reply names against the gold ones: `answers`, or `answer` at its commas.

    Range 0 to 100 %, a score a sample; 100 where neither names a class, as with `zero_division=1` in scikit-learn.
    Rules: see `named_words` ("strict") and `named_parts` ("adamllm"); under "strict" a blank reply is unparsed and
    wrong. Source: AdaMLLM's FoodSeg103. Deviation of "adamllm": none. Raises DataError without choices, without a gold
    field, or where a gold label is none of the choices.
    """
    reply, classes, gold = prediction(record), _distinct(choices(record)), _gold_labels(record)
    if not classes:
        raise DataError("choices: missing; the label set is needed")
    unknown = gold.difference(classes)
    if unknown:
        raise DataError(f"answers: {min(unknown)[:80]!r} is none of the {len(classes)} choices")
    found = named(reply, classes)
    f1 = 2 * len(found & gold) / (len(found) + len(gold)) if found or gold else 1.0
    return _score(reply, f1, found, named)


def ingredient_recall(record: Record, named: Naming) -> Score:
    """The share of the gold labels that the reply names: of `answers`, or of `answer` at its commas.

    Range 0 to 100 %, a score a sample; 100 where there is no gold label, as with `zero_division=1` in scikit-learn.
    With `choices`, the list of all ingredients, "egg" is not named by "egg tart", where that is one too.
    Rules: as of `multilabel_f1`. Source: AdaMLLM's Nutrition5K. Deviation of "adamllm": none with `choices`. Raises
    DataError without a gold field.
    """
    reply, gold = prediction(record), _gold_labels(record)
    found = named(reply, _distinct((*choices(record), *gold)))
    return _score(reply, len(found & gold) / len(gold) if gold else 1.0, found & gold, named)


def named_words(reply: str, labels: Sequence[str]) -> set[str]:
    """The labels that stand in the reply as words of their own; at one place the longest one."""
    return set(_pattern(tuple(labels)).findall(reply.lower())) if labels else set()


def named_parts(reply: str, labels: Sequence[str]) -> set[str]:
    """The labels anywhere in the reply, inside words too; longer ones first, and taken out of it once found."""
    found, rest = set(), reply.lower()
    for label in sorted(labels, key=len, reverse=True):
        if label in rest:
            found.add(label)
            rest = rest.replace(label, "")
    return found


@functools.lru_cache(maxsize=64)
def _pattern(labels: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(labels, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")


def _score(reply: str, share: float, found: set[str], named: Naming) -> Score:
    if named is named_words and not reply.strip():
        return Score(0.0, None)
    return Score(100.0 * share, ", ".join(sorted(found)))


def _gold_labels(record: Record) -> set[str]:
    """The gold labels; a gold field that is there and empty means that there is none."""
    answer, answers = record.get("answer"), record.get("answers")
    if answers == [] or (answers is None and isinstance(answer, str) and not answer.strip()):
        return set()
    given = golds({"answers": answers}) if answers is not None else golds(record)[0].split(",")
    return set(_distinct(given))


def _distinct(labels: Collection[str]) -> list[str]:
    return [label for label in dict.fromkeys(label.strip().lower() for label in labels) if label]
