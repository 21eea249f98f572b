"""Scores of one row: a metric is a name, a unit, a direction and one scorer a rule.

Every value is in the metric's unit. Adding a metric is one entry of `METRICS`; adding a rule is one scorer of its
entry. Scorers read `prediction`, `answer`, `answers` and `choices` of a record and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

from mmkit.errors import DataError, UsageError
from mmkit.tasks.benchmarks import definition_of
from mmkit.tasks.extraction import plain
from mmkit.tasks.metrics import answers, judged, words
from mmkit.tasks.metrics.metric import PERCENT, CorpusScorer, Metric, Pooled, Record, RowScorer, Score

__all__ = [
    "METRICS",
    "PERCENT",
    "CorpusScorer",
    "Metric",
    "Pooled",
    "Record",
    "RowScorer",
    "Score",
    "metric_for",
    "metric_named",
]

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "em",
            "strict",
            "%",
            True,
            PERCENT,
            {
                "strict": lambda record: answers.exact_match(record, plain),
                "raw": lambda record: answers.exact_match(record, str),
            },
        ),
        Metric("closed", "strict", "%", True, PERCENT, {"strict": answers.closed}),
        Metric("mc", "strict", "%", True, PERCENT, {"strict": answers.multiple_choice}),
        Metric(
            "token-recall",
            "strict",
            "%",
            True,
            PERCENT,
            {
                "strict": lambda record: words.token_recall(record, words.true_recall),
                "adamllm": lambda record: words.token_recall(record, words.adamllm_recall),
            },
        ),
        Metric("mm-vet", "judge", "%", True, PERCENT, {"judge": judged.mm_vet}),
        Metric(
            "llava-bench",
            "judge",
            "%",
            True,
            (10.0, 1000.0),
            {"judge": judged.llava_bench},
            pooled=Pooled(("candidate", "reference"), judged.relative_grade, {}),
        ),
    )
}


def metric_named(name: str) -> Metric:
    """The metric of that name. Raises UsageError, with the names there are, for an unknown one."""
    if name not in METRICS:
        raise UsageError(f"unknown metric {name!r}; known: {', '.join(METRICS)}")
    return METRICS[name]


def metric_for(record: Record) -> Metric:
    """The metric of a row that nobody named.

    Its `metric`, else that of the benchmark it names, else by its `answer_type` or `choices`: mc for a choice, closed
    for yes-no, iou50 for a box, em for the rest. The gold answer is never looked at. Raises DataError for an unknown
    `metric` or `benchmark`.
    """
    own = record.get("metric")
    if own is None:
        definition = definition_of(record)
        own = _by_answer_type(record) if definition is None else definition.metric
    if not isinstance(own, str) or own not in METRICS:
        raise DataError(f"metric: unknown metric {own!r}; known: {', '.join(METRICS)}")
    return METRICS[own]


def _by_answer_type(record: Record) -> str:
    answer_type = record.get("answer_type") or ("choice" if record.get("choices") else None)
    return {"choice": "mc", "yes-no": "closed", "box": "iou50"}.get(str(answer_type), "em")
