"""What a record brings along of its views: predictions, log-probabilities of choices, a judge's verdicts. All of it is
what `--per-sample` writes, so that the samples of several shards are scored together without a model."""

from __future__ import annotations

import math
from typing import Any

from mmkit.balance.interaction import UNIMODAL, VIEWS, Instance, Unimodal, View
from mmkit.balance.similarity import answer_of, choices_of
from mmkit.errors import DataError
from mmkit.records import Record

_ROUNDING = 0.01
"""How far the sum of many tokens' log-probabilities, each rounded, may lie above 0."""


def predictions(record: Record) -> dict[View, str]:
    """`predictions`, by view. Raises DataError for one that is no text or says nothing."""
    given = _object(record, "predictions")
    found = {view: given[view] for view in VIEWS if given.get(view) is not None}
    for view in found:
        answer_of(Instance(record, found), view)
    return found


def log_probs(record: Record) -> dict[View, dict[str, float]]:
    """`choice_log_probs`, by view, in the choices' order.

    Raises DataError where they are not of all the choices or no log-probabilities, and where `predictions`, in which
    the most probable choices are to stand, is no object.
    """
    given = _object(record, "choice_log_probs")
    _object(record, "predictions")
    choices = choices_of(record)
    found: dict[View, dict[str, float]] = {}
    for view in VIEWS:
        values = given.get(view)
        if values is None:
            continue
        if not isinstance(values, dict) or set(values) != set(choices):
            raise DataError(f"choice_log_probs.{view}: expected a number for each of the choices, and for nothing else")
        for choice, value in values.items():
            if type(value) not in (int, float) or not math.isfinite(value) or value > _ROUNDING:
                raise DataError(f"choice_log_probs.{view}: expected a number of at most 0 for {choice[:40]!r}")
        found[view] = {choice: float(values[choice]) for choice in choices}
    return found


def judged(record: Record) -> dict[Unimodal, float]:
    """How alike a judge found the predictions of a record that `--per-sample` wrote; empty for any other, and
    where a prediction is missing: nobody has judged the one that takes its place.

    Raises DataError for what is no number from 0 to 1.
    """
    delta = record.get("delta")
    if record.get("similarity") != "judge" or not isinstance(delta, dict) or len(predictions(record)) < len(VIEWS):
        return {}
    found = {view: delta[view] for view in UNIMODAL if delta.get(view) is not None}
    for view, value in found.items():
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise DataError(f"delta.{view}: expected a number from 0 to 1, got {str(value)[:40]}")
    return {view: float(value) for view, value in found.items()}


def _object(record: Record, name: str) -> dict[str, Any]:
    value = record.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DataError(f'{name}: expected an object of "text", "image" and "both"')
    return value
