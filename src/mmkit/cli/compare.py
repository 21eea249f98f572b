"""mmkit compare"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mmkit.cli.options import Seed

if TYPE_CHECKING:
    from mmkit.evaluation.scores import ScoreRow


def command(
    others: Annotated[list[str], typer.Argument(metavar="SCORES...", help="Score rows to compare; - is stdin.")],
    baseline: Annotated[str, typer.Option("--baseline", metavar="SCORES", help="Score rows to compare with.")],
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="Write rows here. [default: stdout]")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Compare scores with a baseline's: difference, 95 % interval, p-value.

    Paired bootstrap where both sides were scored on the same records. A table on a terminal, rows in a pipe.

    Example: mmkit compare --baseline before.jsonl after.jsonl
    """
    from mmkit.cli import tables
    from mmkit.evaluation import compare

    rows = compare.compare(_read(baseline), *(_read(name) for name in others), seed=seed)
    tables.deliver((row.to_wire() for row in rows), compare.table(rows), output)


def _read(path: str) -> list[ScoreRow]:
    from mmkit.errors import DataError
    from mmkit.evaluation import scores
    from mmkit.streams import read_records

    rows = []
    for number, row in enumerate(read_records(path, kind="json"), 1):
        try:
            rows.append(scores.ScoreRow.from_wire(row))
        except DataError as error:
            raise DataError(f"{path}: row {number}: {error}") from None
    if not rows:
        raise DataError(f"{path}: no score rows (mmkit eval writes them)")
    return rows
