"""mmkit measure-contribution"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from mmkit.cli.contribution_options import Evaluation, Formulas, Subsets, Trainings
from mmkit.cli.options import ImageRoot
from mmkit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmkit.balance.measuring import Done, Measuring
    from mmkit.balance.plan import Plan, Planned


def command(
    trainings: Trainings,
    evaluation: Evaluation,
    formulas: Formulas,
    subsets: Subsets,
    train_files: Annotated[
        list[str] | None, typer.Option("--train", metavar="FILES", help="Conversations; a name or a quoted pattern.")
    ] = None,
    val_files: Annotated[
        list[str] | None, typer.Option("--val", metavar="FILES", help="Rows of the same tasks to measure on.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="What is trained: a directory or a hub id.")
    ] = None,
    scores: Annotated[
        str | None, typer.Option("--scores", metavar="FILE", help="Train nothing: compute from these V rows.")
    ] = None,
    work: Annotated[
        str, typer.Option("--work", metavar="DIR", help="Models and values; what is there is not done again.")
    ] = "contribution",
    jobs: Annotated[
        int, typer.Option("--jobs", metavar="N", min=1, help="Trainings at once; they share the visible GPUs.")
    ] = 1,
    plan: Annotated[
        bool, typer.Option("--plan", help="Train nothing: show the trainings, their rows, steps and estimated time.")
    ] = False,
    makefile: Annotated[
        bool, typer.Option("--makefile", help="Train nothing: write the plan as a Makefile, for make -j.")
    ] = False,
    keep_models: Annotated[
        bool,
        typer.Option("--keep-models/--drop-models", help="Keep the models, or remove each when its values are there."),
    ] = True,
    only: Annotated[
        str | None, typer.Option("--only", metavar="NAME", help="Do this training of the plan alone; no rows.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="Write here. [default: stdout]")
    ] = None,
    image_root: ImageRoot = None,
) -> None:
    """Measure what each task gives the others, and how hard it is, by training small models (VisATB).

    Writes V rows (a training's value on a task), then the C of each pair, then C_out, C_in and D of each task, which
    `weights` reads. What has been trained and measured before is taken from --work.

    Example: mmkit measure-contribution --train 'train/*.jsonl' --val 'val/*.jsonl' --model base > contribution.jsonl

    Example: mmkit measure-contribution --scores V.jsonl | mmkit weights > weights.jsonl
    """
    if sum((scores is not None, plan, makefile, only is not None)) > 1:
        raise UsageError("--scores, --plan, --makefile and --only each do something of their own: give one of them")
    if output is not None and (makefile or only is not None):
        raise UsageError("-o takes the rows of all trainings: --only writes none, and --makefile writes to stdout")
    if makefile:
        _refuse_for_make(jobs, [*(train_files or ()), *(val_files or ())])
    if scores is not None:
        if train_files or val_files:
            raise UsageError("--scores trains nothing: leave --train and --val out")
        from mmkit.cli.contribution_rows import read_cells

        formulas.deliver(read_cells(scores), formulas.task_groups(), output)
        return
    from pathlib import Path

    from mmkit.balance import plan as plans
    from mmkit.balance.measuring import Measuring
    from mmkit.cli.contribution_checks import seen_in_training
    from mmkit.cli.contribution_rows import read_tasks
    from mmkit.cli.contribution_runs import Runs, device_shares, steps_of

    if model is None:
        raise UsageError('no model: give --model, or set it in mmkit.toml:\n\n[measure-contribution]\nmodel = "…"')
    rates = subsets.rates()
    shares = device_shares(trainings.device, jobs)
    config = trainings.settings(len(shares[0]) or 1)
    train, validation = read_tasks(
        train_files, val_files, metric=evaluation.metric, rule=evaluation.rule, image_root=image_root
    )
    runs = Runs(model, config, shares, evaluation.settings(), image_root)
    planned = plans.plan(
        train,
        groups=formulas.task_groups(),
        rates=rates,
        form=formulas.form,
        difficulty=formulas.difficulty,
        seeds=range(config.seed, config.seed + subsets.num_seeds),
        steps_of=steps_of(config, runs.nproc, train, model),
    )
    if formulas.on_flat == "error":
        plans.require_larger_subsets(planned)
    for line in plans.advice(planned, train):
        _say(line)
    measuring = Measuring(Path(work).absolute(), train, validation, runs.procedure(), keeps_models=keep_models)
    if only is not None:
        planned = replace(planned, trainings=(planned.named(only),))
    elif counts := seen_in_training(planned, train, validation):
        _say(f"validation rows that are trained on, too, the same words with the same images: {counts}")
    if makefile:
        arguments = [word for word in sys.argv[1:] if word != "--makefile"]
        typer.echo(plans.makefile(planned, [*arguments, *trainings.fixing_batch(runs.rows_a_step)]), nl=False)
        return
    if plan:
        _show(planned, measuring, jobs, output)
        return
    with runs.stoppable():
        _measure(planned, measuring, jobs)
    if only is None:
        groups = None if formulas.groups is None else planned.groups
        formulas.deliver(measuring.cells(planned), groups, output)


def _refuse_for_make(jobs: int, files: Sequence[str]) -> None:
    """Raise UsageError for what would not do the same in each target of a Makefile."""
    if jobs > 1:
        raise UsageError("--makefile: how many trainings run at once is for make to say (-j): leave --jobs out")
    if "-" in files:
        raise UsageError("--makefile: each target reads the rows again, and standard input is read once: name files")


def _show(plan: Plan, measuring: Measuring, jobs: int, output: str | None) -> None:
    """The plan for a person, or as rows."""
    from mmkit.balance import plan as plans
    from mmkit.cli import tables

    pace = measuring.pace()
    first_of: dict[str, Planned] = {}
    rows = []
    for planned in plan.trainings:
        first = first_of.setdefault(measuring.key(planned), planned)
        same = None if first is planned else first
        is_trained = measuring.is_trained(planned)
        num_steps = 0 if same or is_trained else planned.steps
        rows.append(
            plans.to_wire(
                planned,
                is_trained=is_trained or same is not None,
                same_as=None if same is None else same.name,
                num_cells_left=0 if same else len(measuring.tasks_left(planned)),
                estimated_s=pace.estimate(num_steps, 0 if same else measuring.num_rows_left(planned)),
            )
        )
    tables.deliver(rows, plans.table(rows), output)
    for line in plans.summary(plan, rows, jobs):
        _say(line)


def _measure(plan: Plan, measuring: Measuring, jobs: int) -> None:
    from mmkit import console

    num_trained = num_cells = 0
    with console.Progress("measure-contribution", unit="trainings") as progress:

        def follow(done: Done) -> None:
            nonlocal num_trained, num_cells
            num_trained += done.trained
            num_cells += done.num_cells
            progress.advance(total=len(plan.trainings), note=done.planned.name)

        measuring.check(plan)
        measuring.measure_all(plan, jobs=jobs, on_done=follow)
    there = sum(bool(planned.num_rows_of) for planned in plan.trainings) - num_trained
    all_cells = sum(len(planned.evaluated_on) for planned in plan.trainings)
    _say(f"{num_trained} trained ({there} there), {num_cells} cells measured ({all_cells - num_cells} there)")


def _say(line: str) -> None:
    from mmkit import console

    console.say(f"mmkit measure-contribution: {line}")
