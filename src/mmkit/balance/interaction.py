"""What `score-interaction` measures, as values: the views, a task's instances with their predictions, a task's row.

Source: MINT (arXiv 2506.02308v1), section 3.1. Every view is a prediction function: f1 sees the text, f2 the image, fm
both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

from mmkit.errors import DataError
from mmkit.records import Record

View: TypeAlias = Literal["text", "image", "both"]
VIEWS: tuple[View, ...] = get_args(View)
Unimodal: TypeAlias = Literal["text", "image"]
UNIMODAL: tuple[Unimodal, ...] = get_args(Unimodal)

Similarity: TypeAlias = Literal[
    "auto", "exact", "choice", "number", "f1", "rouge-l", "embed", "iou", "judge", "likelihood"
]
SIMILARITIES: tuple[Similarity, ...] = get_args(Similarity)

Mark: TypeAlias = Literal["few", "unlearned", "undefined", "unparsed"]
"""Why a row is to be read with care. "few": fewer instances than a draw has. "unlearned": `both` is not shown to be
right more often than by chance, and of a model that is not, agreement says nothing about the task. "undefined": there
is no chance-corrected score, as the predictions hardly vary, or a judge gave the agreements. "unparsed": of more than a
tenth of the instances a prediction could not be read, and what cannot be read agrees with hardly anything, which looks
like synergy."""
MARKS: tuple[Mark, ...] = get_args(Mark)


@dataclass(frozen=True, slots=True)
class Instance:
    """A record of a task with what each view predicted.

    Where the similarity is "likelihood", `log_probs` are there, by view: the log-probability of each choice, and the
    predictions are the most probable choices. Where it is "judge", `judged` is there: how alike the prediction of each
    unimodal view is to that of `both`, in [0, 1].
    """

    record: Record
    predictions: Mapping[View, str]
    log_probs: Mapping[View, Mapping[str, float]] | None = None
    judged: Mapping[Unimodal, float] | None = None


@dataclass(frozen=True, slots=True)
class InteractionRow:
    """A task's interaction score.

    `score` is eq. 1, from 0 (synergy) over 1 (uniqueness) to 2 (redundancy), the sum of `score_text` and `score_image`,
    the mean agreements of the unimodal views with `both`, each in [0, 1]. `se` is its standard error over draws, null
    for one draw and where all hold the same; `ci95` a bootstrap interval over instances. `draws` samples of `size`
    instances hold `n` different ones. Of `unparsed` of these a view named no option, or gave no number or box; null
    where texts or probabilities are compared.

    `chance_*` is the agreement expected if predictions were shuffled among the task's instances, `corrected_*` is
    (score - chance) / (1 - chance) (Cohen's kappa for exact matches), at most 1, 0 for a constant guess, null where the
    chance is above .95; `corrected` is their sum. `accuracy` in [0, 1] is that of `both` against gold answers, with its
    own chance and interval, null where there are none.

    A row typed in from a paper has `task` and `score` alone.
    """

    task: str
    score: float
    score_text: float | None = None
    score_image: float | None = None
    se: float | None = None
    ci95: tuple[float, float] | None = None
    n: int | None = None
    draws: int | None = None
    size: int | None = None
    similarity: str = ""
    unparsed: int | None = None
    chance_text: float | None = None
    chance_image: float | None = None
    corrected: float | None = None
    corrected_text: float | None = None
    corrected_image: float | None = None
    corrected_ci95: tuple[float, float] | None = None
    accuracy: float | None = None
    accuracy_chance: float | None = None
    accuracy_ci95: tuple[float, float] | None = None
    marks: tuple[Mark, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        """The JSON row: every field by its name."""
        row = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in row.items()}

    @classmethod
    def from_wire(cls, row: Mapping[str, Any]) -> InteractionRow:
        """Read a row. Only `task` and `score` are needed: a row typed in from a paper is one, too.

        Fields that are not of it are passed over. Raises DataError with the field's name.
        """
        return cls(
            task=_named(row, "task"),
            score=_needed(row, "score", 0, 2),
            score_text=_number(row, "score_text", 0, 1),
            score_image=_number(row, "score_image", 0, 1),
            se=_number(row, "se", 0, 2),
            ci95=_interval(row, "ci95", 0, 2),
            n=_count(row, "n", 1),
            draws=_count(row, "draws", 1),
            size=_count(row, "size", 1),
            similarity="" if row.get("similarity") in (None, "") else _named(row, "similarity"),
            unparsed=_count(row, "unparsed", 0),
            chance_text=_number(row, "chance_text", 0, 1),
            chance_image=_number(row, "chance_image", 0, 1),
            corrected=_number(row, "corrected", *_CORRECTED),
            corrected_text=_number(row, "corrected_text", *_CORRECTED),
            corrected_image=_number(row, "corrected_image", *_CORRECTED),
            corrected_ci95=_interval(row, "corrected_ci95", *_CORRECTED),
            accuracy=_number(row, "accuracy", 0, 1),
            accuracy_chance=_number(row, "accuracy_chance", 0, 1),
            accuracy_ci95=_interval(row, "accuracy_ci95", 0, 1),
            marks=_marks(row.get("marks")),
        )


def table(rows: Sequence[InteractionRow]) -> list[list[str]]:
    """Rows as text for a terminal, the header first."""
    body = [
        [
            row.task,
            _shown(row.score),
            "" if row.ci95 is None else f"{_shown(row.ci95[0])} to {_shown(row.ci95[1])}",
            _shown(row.score_text),
            _shown(row.score_image),
            _shown(row.corrected),
            _shown(row.accuracy),
            "" if row.n is None else str(row.n),
            row.similarity,
            ", ".join(row.marks),
        ]
        for row in rows
    ]
    header = ["task", "score", "95 % interval", "text", "image", "corrected", "accuracy", "n", "similarity", "marks"]
    return [header, *body]


_CORRECTED = (-40.0, 2.0)
"""The least there can be: two agreements of 0 where chance gives .95."""
_ROUNDING = 1e-9


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _named(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value in (None, ""):
        raise DataError(f"{name}: missing")
    if not isinstance(value, str):
        raise DataError(f"{name}: expected a string, got {value!r}")
    return value


def _needed(row: Mapping[str, Any], name: str, low: float, high: float) -> float:
    value = _number(row, name, low, high)
    if value is None:
        raise DataError(f"{name}: missing")
    return value


def _number(row: Mapping[str, Any], name: str, low: float, high: float) -> float | None:
    value = row.get(name)
    return None if value is None else _within(value, name, low, high)


def _within(value: Any, name: str, low: float, high: float) -> float:
    """The value as a float of the range; rounding may have taken it a little beyond."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not known or not low - _ROUNDING <= value <= high + _ROUNDING:
        raise DataError(f"{name}: expected a number from {low:g} to {high:g}, got {value!r}")
    return float(value)


def _interval(row: Mapping[str, Any], name: str, low: float, high: float) -> tuple[float, float] | None:
    value = row.get(name)
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise DataError(f"{name}: expected two numbers or null")
    lower, upper = (_within(bound, f"{name}[{i}]", low, high) for i, bound in enumerate(value))
    if lower > upper:
        raise DataError(f"{name}: expected the lower bound first, got {value!r}")
    return lower, upper


def _count(row: Mapping[str, Any], name: str, least: int) -> int | None:
    value = row.get(name)
    if value is not None and (type(value) is not int or value < least):
        raise DataError(f"{name}: expected a whole number from {least}, got {value!r}")
    return value


def _marks(value: Any) -> tuple[Mark, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise DataError(f"marks: expected a list, got {value!r}")
    for mark in value:
        if mark not in MARKS:
            raise DataError(f"marks: expected some of {', '.join(MARKS)}, got {mark!r}")
    return tuple(value)
