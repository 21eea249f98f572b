"""Streams of predictions to scores: the stages of `mmkit eval`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from mmkit.errors import MmkitError
from mmkit.evaluation.aggregate import Aggregate
from mmkit.evaluation.scores import Sample, ScoreRow
from mmkit.evaluation.scoring import Scorer
from mmkit.streams import Kept, Outcome, Rejected, Result, Row, Used
from mmkit.streams.rows import Stage


def collect(scorer: Scorer, collected: Aggregate, rows_of: Callable[[], Iterable[ScoreRow]]) -> Stage:
    """A stage that takes every record's score into `collected` and ends with the score rows that `rows_of` gives."""

    def stage(rows: Iterator[Row]) -> Iterator[Outcome]:
        last: Row | None = None
        for last in rows:
            sample = _score(scorer, last)
            if isinstance(sample, Rejected):
                yield sample
                continue
            if sample is not None:
                collected.add(sample)
            yield Used(last)
        for waiting in scorer.rest():
            collected.add(waiting)
        if last is not None:
            for score in rows_of():
                yield Result(last.replaced(score.to_wire()))

    return stage


def per_sample(scorer: Scorer) -> Stage:
    """A stage that adds to every record its score, the rule and the answer as it was understood.

    Order is kept: from the first record on whose metric needs all records, all wait for the end.
    """

    def stage(rows: Iterator[Row]) -> Iterator[Outcome]:
        held: list[Outcome | Row] = []
        for row in rows:
            result = _with_score(scorer, row)
            if held or isinstance(result, Row):
                held.append(result)
            else:
                yield result
        rest = iter(scorer.rest())
        for result in held:
            yield _scored(result, next(rest)) if isinstance(result, Row) else result

    return stage


def _score(scorer: Scorer, row: Row) -> Sample | Rejected | None:
    try:
        return scorer.score(row.record)
    except MmkitError as error:
        return Rejected.of(row, error)


def _with_score(scorer: Scorer, row: Row) -> Outcome | Row:
    """The scored or rejected row, or the row itself where its score has to wait."""
    sample = _score(scorer, row)
    if sample is None:
        return row
    return sample if isinstance(sample, Rejected) else _scored(row, sample)


def _scored(row: Row, sample: Sample) -> Kept:
    return Kept(row.replaced({**row.record, **sample.additions()}))
