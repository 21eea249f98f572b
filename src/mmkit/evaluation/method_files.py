"""Methods from files of score rows, or of records that were scored one by one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmkit.errors import DataError, UsageError
from mmkit.evaluation.aggregate import Aggregate
from mmkit.evaluation.methods import Method
from mmkit.evaluation.scores import Sample, ScoreRow
from mmkit.streams import named_files, read_rows
from mmkit.streams.sources import STDIN
from mmkit.tasks.metrics import METRICS, Record


def read_methods(specs: Sequence[str], output: str | None = None) -> list[Method]:
    """The methods that `[NAME=]FILE[,FILE…]` name, each file being a seed; without NAME a file's stem is the name.

    A text that is the path of a file is that file, whatever signs are in it. "-" is stdin. Raises UsageError for
    several files without a name, for a file given twice and for one that is the `output`, too; MissingInputError for
    one that is not there; DataError for one that holds neither score rows nor records with their scores.
    """
    named = [named_files.parse(spec) for spec in specs]
    seen: set[str] = set()
    for _, paths in named:
        for path in paths:
            place = _place(path)
            if place in seen:
                raise UsageError(f"{path} is given twice")
            seen.add(place)
    if output is not None and output != STDIN and _place(output) in seen:
        raise UsageError(f"-o {output}: is one of the files to compare, and would be lost")
    return [Method.of(name, *(_read(path) for path in paths)) for name, paths in named]


def _place(path: str) -> str:
    return path if path == STDIN else str(Path(path).resolve())


def _read(path: str) -> list[ScoreRow]:
    rows: list[ScoreRow] = []
    scored = Aggregate()
    for row in read_rows([path], kind="json"):
        record = row.record
        try:
            if "score" in record and "parsed" in record:
                scored.add(_sample(record))
            elif "value" in record and "metric" in record:
                rows.append(ScoreRow.from_wire(record))
            else:
                raise DataError("neither a score row nor a record with its score (mmkit eval writes both)")
        except DataError as error:
            raise DataError(f"{row.where}: {error}") from None
    rows += scored.rows()
    if not rows:
        raise DataError(f"{path}: no score rows (mmkit eval writes them)")
    return rows


def _sample(record: Record) -> Sample:
    sample = Sample.from_record(record)
    metric = METRICS.get(sample.metric)
    if metric is None:
        raise DataError(f"metric: unknown metric {sample.metric!r}; known: {', '.join(METRICS)}")
    if metric.pooled is not None and metric.pooled.of_image is None:
        names = metric.pooled.names
        if len(sample.statistics) != len(names):
            raise DataError(f"statistics: expected {len(names)} numbers: {', '.join(names)}")
    return sample
