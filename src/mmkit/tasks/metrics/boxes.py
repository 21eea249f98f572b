"""Scores of a box: its intersection over union with the gold box."""

from __future__ import annotations

import math
from collections.abc import Callable

from mmkit.errors import DataError
from mmkit.tasks.extraction import Box, parse_box
from mmkit.tasks.metrics.fields import golds, prediction
from mmkit.tasks.metrics.metric import Record, Score


def iou(record: Record) -> Score:
    """Intersection over union of the reply's box [x1, y1, x2, y2] and the gold one; the best of several gold boxes.

    Range 0 to 100 %. The box is the first bracketed group of four numbers, in the gold answer's units: nothing is
    rescaled. One without area, or without a group, gets 0. Raises DataError where the gold answer is no box with an
    area. Source: VisATB's grounding tasks. Deviation: none.
    """
    return _score(record, lambda overlap: 100.0 * overlap)


def iou50(record: Record) -> Score:
    """100 where the intersection over union is above .5, else 0; exactly .5 gets 0.

    Range 0 to 100 %. Source: the "IoU" of VisATB's tables. Deviation: none. Reads and raises as `iou`.
    """
    return _score(record, lambda overlap: 100.0 if overlap > 0.5 else 0.0)


def _score(record: Record, value_of: Callable[[float], float]) -> Score:
    box = parse_box(prediction(record))
    targets = [_gold_box(gold) for gold in golds(record)]
    if box is None:
        return Score(0.0, None)
    best = max(_overlap(box, target) for target in targets)
    return Score(value_of(best), "[" + ", ".join(f"{side:g}" for side in box) + "]")


def _gold_box(gold: str) -> Box:
    box = parse_box(gold)
    if box is None or not 0 < _area(box) < math.inf:
        raise DataError(f"answer: expected a box [x1, y1, x2, y2] with an area, got {gold[:80]!r}")
    return box


def _overlap(one: Box, other: Box) -> float:
    common = _area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))
    union = _area(one) + _area(other) - common
    # A box of numbers beyond the floats has no area that could be told, and overlaps nothing.
    return common / union if _area(one) > 0 and union < math.inf else 0.0


def _area(box: Box) -> float:
    x1, y1, x2, y2 = box
    return (x2 - x1) * (y2 - y1) if x2 > x1 and y2 > y1 else 0.0
