"""Records to samples and score rows, in one step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmkit.evaluation.aggregate import Aggregate
from mmkit.evaluation.scores import Sample
from mmkit.evaluation.scoring import Scorer


def score_all(records: Iterable[Mapping[str, Any]], metric: str | None = None, rule: str | None = None) -> list[Sample]:
    scorer = Scorer(metric, rule)
    samples = [sample for record in records if (sample := scorer.score(record)) is not None]
    return [*samples, *scorer.rest()]


def collected(records: Iterable[Mapping[str, Any]], metric: str | None = None, rule: str | None = None) -> Aggregate:
    found = Aggregate()
    for sample in score_all(records, metric, rule):
        found.add(sample)
    return found
