"""mmkit compare"""

from __future__ import annotations

from typing import Annotated

import typer

from mmkit.cli.options import Seed


def command(
    others: Annotated[
        list[str],
        typer.Argument(metavar="[NAME=]FILE[,FILE...]...", help="Methods to compare; files of one are its seeds."),
    ],
    baseline: Annotated[
        str, typer.Option("--baseline", metavar="[NAME=]FILE[,FILE...]", help="The method to compare with.")
    ],
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="TASK", help="Leave a task out of the averages.")
    ] = None,
    zero_shot: Annotated[
        list[str] | None, typer.Option("--zero-shot", metavar="TASK", help="Count a task in ΔI_zero% alone.")
    ] = None,
    zero_baseline: Annotated[
        str | None,
        typer.Option(
            "--zero-baseline", metavar="NAME", help="Compare zero-shot tasks with this method. [default: the baseline]"
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="Write rows here. [default: stdout]")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Compare scores with a baseline's: differences, ΔI%, ΔE%, ΔI_zero%.

    Takes score rows, or records of eval --per-sample. Differences have a 95 % interval and a p-value, paired where
    both sides were scored on the same records. A method is named by its file, or by NAME=. A table on a terminal,
    rows in a pipe.

    Example: mmkit compare --baseline before.jsonl after.jsonl

    Example: mmkit compare --baseline stl.jsonl ew.jsonl visatb=s0.jsonl,s1.jsonl,s2.jsonl
    """
    from mmkit.cli import tables
    from mmkit.evaluation import comparison_tables
    from mmkit.evaluation.compare import compare
    from mmkit.evaluation.method_files import read_methods

    first, *rest = read_methods([baseline, *others], output)
    comparison = compare(
        first,
        rest,
        exclude=exclude or (),
        zero_shot=zero_shot or (),
        zero_baseline=zero_baseline,
        seed=seed,
    )
    if tables.on_terminal(output):
        for i, table in enumerate(comparison_tables.tables(comparison)):
            if i:
                typer.echo()
            tables.show(table)
    else:
        tables.write(comparison.to_wire(), output)
