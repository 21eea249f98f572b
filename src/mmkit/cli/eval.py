"""mmkit eval"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from mmkit.cli.options import Seed, Streams

if TYPE_CHECKING:
    from mmkit.streams import Outcome, Row


def command(
    streams: Streams,
    metric: Annotated[
        str | None,
        typer.Option("--metric", help="em, accuracy, token-recall. [default: the record's, or by its choices]"),
    ] = None,
    rule: Annotated[str | None, typer.Option("--rule", help="The metric's variant. [default: its strict one]")] = None,
    per_sample: Annotated[
        bool, typer.Option("--per-sample", help="Write the records with score and parsed answer instead.")
    ] = False,
    model_name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="The model's name in the rows. [default: its lineage's]"),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Score predictions: a row a task and metric, with a 95 % interval.

    A table on a terminal, rows in a pipe. The rows carry the single scores, so that compare can pair them.

    Example: mmkit eval predictions.jsonl > scores.jsonl
    """
    from mmkit.cli import tables
    from mmkit.errors import MmkitError
    from mmkit.evaluation import scores
    from mmkit.streams import Kept, Rejected, Used

    collected = scores.Aggregate()
    on_terminal = streams.output is None and sys.stdout.isatty() and not per_sample

    def stage(rows: Iterator[Row]) -> Iterator[Outcome]:
        last: Row | None = None
        for row in rows:
            try:
                sample = scores.score_record(row.record, metric, rule)
            except MmkitError as error:
                yield Rejected.of(row, error)
                continue
            if per_sample:
                yield Kept(row.replaced({**row.record, **sample.additions()}))
                continue
            last = row
            collected.add(sample)
            yield Used(row)
        if last is not None and not on_terminal:
            for score in collected.rows(model=model_name, seed=seed):
                yield Kept(last.replaced(score.to_wire()))

    streams.run(stage, resumable=per_sample)
    if on_terminal:
        tables.show(scores.table(collected.rows(model=model_name, seed=seed)))
