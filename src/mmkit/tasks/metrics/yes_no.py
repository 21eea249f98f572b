"""Scores of yes-or-no questions: right or wrong, POPE's F1 and MME's accuracies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from mmkit.errors import DataError
from mmkit.tasks.extraction import answer_span, parse_yes_no, plain
from mmkit.tasks.metrics.fields import golds, prediction
from mmkit.tasks.metrics.metric import Pooled, Record, Score
from mmkit.tasks.metrics.vqa import vqa_form

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Sums: TypeAlias = "NDArray[np.float64]"
Figure: TypeAlias = "Callable[[Sums], Sums]"


def closed(record: Record) -> Score:
    """100 where the reply answers with the right one of yes and no, else 0.

    Range 0 to 100 %. The reply is read by the strict rule of `extraction`; one that cannot be read is wrong. Closed
    questions of medical sets have other answers too ("left"): such a one has to be all that the reply, or its
    statement of an answer, says, and only a blank reply to such a question counts as unparsed.
    """
    reply, gold_answers = prediction(record), [plain(gold) for gold in golds(record)]
    word, text = parse_yes_no(reply), plain(answer_span(reply))
    right = any((word if gold in ("yes", "no") else text) == gold for gold in gold_answers)
    parsed = word if {"yes", "no"} & set(gold_answers) else text or None
    return Score(100.0 if right else 0.0, parsed)


def closed_adamllm(record: Record) -> Score:
    """100 where the reply holds "yes" or "no" and the gold answer, each anywhere in it, else 0.

    Range 0 to 100 %. "The lungs are normal" counts as "no", for "normal" holds it. Source: AdaMLLM's CLOSED, which is
    LLaVA-Med's. Deviation: none.
    """
    reply, gold_answers = _llava_med_form(prediction(record)), golds(record)
    found = [word for word in ("yes", "no") if word in reply]
    right = bool(found) and any(_llava_med_form(gold) in reply for gold in gold_answers)
    return Score(100.0 if right else 0.0, " and ".join(found) or None)


def pope(record: Record) -> Score:
    """100 where the reply answers with the right one of yes and no, else 0; the task's value is an F1, see `POPE`.

    Range 0 to 100 %. An unparsed reply is wrong: a false negative where the gold answer is yes, a false positive where
    it is no. The statistics are `POPE.names`. Raises DataError where the gold answer is neither yes nor no.
    """
    word, gold = _read(record)
    right = word == gold
    cell = (gold == "yes" and right, gold == "no" and not right, gold == "yes" and not right, gold == "no" and right)
    return Score(100.0 if right else 0.0, word, (*map(float, cell), float(word == "yes")))


def mme(record: Record) -> Score:
    """200 where the reply answers with the right one of yes and no, else 0; the task's value needs images, see `MME`.

    Range 0 to 200 points: 100 for the question and 100 for the image, as if it were the image's only question. Raises
    as `pope`.
    """
    word, gold = _read(record)
    return Score(200.0 if word == gold else 0.0, word)


def _image_statistics(scores: Sequence[Score]) -> tuple[float, ...]:
    right = sum(score.value > 0 for score in scores)
    return float(len(scores)), float(right), 1.0, float(right == len(scores))


def _percent(share: Callable[[Sums], tuple[Sums, Sums]]) -> Figure:
    """100 times the ratio that `share` gives of sums, and 0 where the denominator is 0."""

    def figure(sums: Sums) -> Sums:
        import numpy as np

        numerator, denominator = share(sums)
        ratio: Sums = np.divide(100.0 * numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
        return ratio

    return figure


def _mme_points(sums: Sums) -> Sums:
    points: Sums = MME.details["accuracy"](sums) + MME.details["accuracy_plus"](sums)
    return points


_TP, _FP, _FN, _TN, _YES = range(5)

POPE = Pooled(
    ("tp", "fp", "fn", "tn", "yes"),
    _percent(lambda s: (2 * s[..., _TP], 2 * s[..., _TP] + s[..., _FP] + s[..., _FN])),
    {
        "accuracy": _percent(lambda s: (s[..., _TP] + s[..., _TN], s[..., :_YES].sum(-1))),
        "precision": _percent(lambda s: (s[..., _TP], s[..., _TP] + s[..., _FP])),
        "recall": _percent(lambda s: (s[..., _TP], s[..., _TP] + s[..., _FN])),
        "yes_ratio": _percent(lambda s: (s[..., _YES], s[..., :_YES].sum(-1))),
    },
)
"""POPE (Li et al. 2023): F1 of "yes" in percent, with accuracy, precision, recall, the share of *replies* that say yes.

A figure whose denominator is 0 is 0. Deviation: replies are read by the strict rule of `extraction`, where the released
script takes whatever does not hold "no" or "not" for a yes.
"""

MME = Pooled(
    ("questions", "right", "images", "images_right"),
    _mme_points,
    {
        "accuracy": _percent(lambda s: (s[..., 1], s[..., 0])),
        "accuracy_plus": _percent(lambda s: (s[..., 3], s[..., 2])),
    },
    of_image=_image_statistics,
)
"""MME (Fu et al. 2023): the percentage of questions that are right plus that of images with all questions right.

Range 0 to 200 points a category; a category is a task. Deviation: replies are read by the strict rule of `extraction`,
where the released script looks at the first four characters.
"""


def _read(record: Record) -> tuple[str | None, str]:
    """The word that the reply answers with, and the right one."""
    reply = prediction(record)
    right = {plain(gold) for gold in golds(record)} & {"yes", "no"}
    if len(right) != 1:
        raise DataError("answer: expected yes or no")
    return parse_yes_no(reply), right.pop()


def _llava_med_form(text: str) -> str:
    return vqa_form(text).replace(",", "")
