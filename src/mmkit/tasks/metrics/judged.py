"""Scores that a judge has given: they stand in the record's `judgement`, which `mmkit eval --judge` writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmkit.errors import DataError
from mmkit.tasks.metrics.metric import Record, Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def mm_vet(record: Record) -> Score:
    """The judge's grade of the answer, in percent.

    Range 0 to 100 %. Source: MM-Vet (Yu et al. 2023). Deviation: one grading, not the mean of five.
    """
    judge, (grade,) = _judgement(record, "mm-vet", 1)
    if not 0 <= grade <= 1:
        raise DataError("judgement.scores: expected a grade from 0 to 1")
    return Score(100 * grade, str(grade), by=judge)


def llava_bench(record: Record) -> Score:
    """The judge's grade of the answer over that of the reference's, in percent; pooled over rows as a ratio of sums.

    Range 10 to 1000 % (grades lie between 1 and 10); an answer like the reference's gets 100. Source: LLaVA-Bench (Liu
    et al. 2023). Deviation: both grades are means over the two orders of the answers.
    """
    judge, (candidate, reference) = _judgement(record, "llava-bench", 2)
    if not (1 <= candidate <= 10 and 1 <= reference <= 10):
        raise DataError("judgement.scores: expected grades from 1 to 10")
    value = 100 * candidate / reference
    return Score(value, f"{candidate:g} against {reference:g}", (candidate, reference), by=judge)


def relative_grade(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Summed grades of the answers over those of the references, in percent: shape (..., 2) to (...); 0 of none."""
    import numpy as np

    candidate, reference = sums[..., 0], sums[..., 1]
    return np.divide(100 * candidate, reference, out=np.zeros_like(reference), where=reference > 0)


def _judgement(record: Record, metric: str, count: int) -> tuple[str, Sequence[float]]:
    """Who judged, and the grades."""
    judgement: Any = record.get("judgement")
    if not isinstance(judgement, dict) or judgement.get("by") != metric:
        raise DataError(f"judgement: {metric} is scored by a judge: mmkit eval --judge {metric} --model JUDGE")
    scores = judgement.get("scores")
    if not (isinstance(scores, list) and len(scores) == count and all(type(s) in (int, float) for s in scores)):
        raise DataError(f"judgement.scores: expected {count} numbers")
    return f"{judgement.get('model')}, prompt {judgement.get('prompt')}", scores
