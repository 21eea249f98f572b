"""mmkit measure-contribution"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmkit.cli.finetune import Tuning, configured
from mmkit.cli.options import ImageRoot, OptionGroup
from mmkit.errors import DataError, MissingInputError, MmkitError, UsageError

if TYPE_CHECKING:
    from mmkit.balance.cells import Cell
    from mmkit.balance.contribution import Contribution
    from mmkit.balance.measuring import Done, Measuring
    from mmkit.balance.plan import Plan
    from mmkit.balance.subsets import Rows
    from mmkit.records import Record
    from mmkit.streams import Row
    from mmkit.training import TuneConfig


@dataclass(eq=False, repr=False)  # what nobody calls costs time at start-up
class Trainings(Tuning):
    """The settings of the trainings: those of `mmkit finetune`, whose --train has another name here."""

    train: Annotated[
        Literal["full", "lora", "mixlora", "llm", "projector", "llm+projector"],
        typer.Option("--tune", help="Which weights move: what finetune calls --train."),
    ] = "full"
    preset: Annotated[
        str | None,
        typer.Option("--preset", metavar="NAME", help="A paper's settings; what is given beside it overrides them."),
    ] = None
    global_batch: Annotated[
        int | None, typer.Option("--global-batch", metavar="N", help="Rows of a step over all; sets --accumulation.")
    ] = None

    def settings(self, nproc: int) -> TuneConfig:
        """Those of trainings in `nproc` processes. Raises UsageError where one is impossible or would do nothing."""
        from mmkit.training.config import Placement

        own = Tuning(**{option.name: getattr(self, option.name) for option in fields(Tuning)})
        own.context = self.context
        try:
            config = configured(own, self.preset, self.global_batch, Placement(nproc))
        except UsageError as error:
            raise UsageError(str(error).replace("--train ", "--tune ")) from None
        if config.task_sampling == "weights":
            raise UsageError("--task-sampling weights: the weights are what contributions are measured for")
        return config


@dataclass(eq=False, repr=False)
class Evaluation(OptionGroup):
    """How the validation rows are answered and scored."""

    metric: Annotated[
        str | None,
        typer.Option("--metric", metavar="NAME", help="Of every task. [default: the record's or its benchmark's]"),
    ] = None
    rule: Annotated[
        str | None, typer.Option("--rule", metavar="NAME", help="The metric's variant. [default: its strict one]")
    ] = None
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", metavar="N", min=1, help="Length of a reply.")] = (
        256
    )
    engine: Annotated[Literal["transformers", "vllm"], typer.Option("--engine", help="Who answers.")] = "transformers"


@dataclass(eq=False, repr=False)
class Formulas(OptionGroup):
    """Which of the paper's C and D."""

    form: Annotated[
        Literal["standard", "chat"],
        typer.Option("--form", help="Compare with a model of all mini subsets (eq. 3), or the base model (eq. 10)."),
    ] = "standard"
    difficulty: Annotated[
        Literal["paper", "precise", "matched"],
        typer.Option("--difficulty", help="D from C's models (eq. 6), models of one task (eq. 12), or at equal steps."),
    ] = "paper"
    on_flat: Annotated[
        Literal["error", "clip", "drop"],
        typer.Option("--on-flat", help="A task whose own data add nothing: refuse, bound its C and D, leave it out."),
    ] = "error"
    groups: Annotated[
        str | None, typer.Option("--groups", metavar="FILE", help="Group rows: C and D of groups, not of tasks.")
    ] = None

    def task_groups(self) -> dict[str, str] | None:
        """The group of each task of the file; None without one."""
        from mmkit.cli.groups_file import read_task_groups

        return None if self.groups is None else read_task_groups(self.groups)

    def deliver(self, cells: Sequence[Cell], groups: Mapping[str, str] | None, output: str | None) -> None:
        """Compute C and D, and write them behind the cells."""
        from mmkit.balance.contribution import contribution
        from mmkit.cli import tables

        found = contribution(cells, groups=groups, form=self.form, difficulty=self.difficulty, on_flat=self.on_flat)
        for flat in found.flat:
            _say(f"{flat} (--on-flat {self.on_flat})")
        tables.deliver([*(cell.to_wire() for cell in cells), *found.to_wire()], _table(found), output)


def command(
    trainings: Trainings,
    evaluation: Evaluation,
    formulas: Formulas,
    train_files: Annotated[
        list[str] | None, typer.Option("--train", metavar="FILES", help="Conversations; a name or a quoted pattern.")
    ] = None,
    val_files: Annotated[
        list[str] | None, typer.Option("--val", metavar="FILES", help="Rows of the same tasks to measure on.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="What is trained: a directory or a hub id.")
    ] = None,
    large: Annotated[
        str, typer.Option("--large", metavar="SHARE", help="Of each task's rows, in its large subset.")
    ] = "1/4",
    mini: Annotated[
        str, typer.Option("--mini", metavar="SHARE", help="Of each task's rows, in its mini subset.")
    ] = "1/32",
    num_seeds: Annotated[
        int, typer.Option("--seeds", metavar="N", min=1, help="Measure with so many seeds, from --seed on.")
    ] = 1,
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
    if scores is not None:
        if train_files or val_files:
            raise UsageError("--scores trains nothing: leave --train and --val out")
        formulas.deliver(_read_cells(scores), formulas.task_groups(), output)
        return
    from pathlib import Path

    from mmkit.balance import plan as plans
    from mmkit.balance.measuring import Measuring
    from mmkit.balance.subsets import Rates, require_same_tasks
    from mmkit.cli.contribution_checks import TrainingCheck, ValidationCheck
    from mmkit.cli.contribution_runs import Runs, device_shares

    if model is None:
        raise UsageError('no model: give --model, or set it in mmkit.toml:\n\n[measure-contribution]\nmodel = "…"')
    rates = Rates.parsed(large, mini)
    shares = device_shares(trainings.device, jobs)
    nproc = len(shares[0]) or 1
    config = trainings.settings(nproc)
    scored = ValidationCheck(evaluation.metric, evaluation.rule)
    train = _read("--train", train_files, TrainingCheck(image_root))
    validation = _read("--val", val_files, scored)
    require_same_tasks(train.tasks, validation.tasks)
    scored.finish()
    planned = plans.plan(
        train,
        groups=formulas.task_groups(),
        rates=rates,
        form=formulas.form,
        difficulty=formulas.difficulty,
        seeds=range(config.seed, config.seed + num_seeds),
        steps_of=lambda num_rows: (
            config.max_steps or config.epochs * -(-num_rows // (config.batch_size * config.accumulation * nproc))
        ),
    )
    for line in plans.advice(planned, train):
        _say(line)
    if makefile:
        typer.echo(plans.makefile(planned, [word for word in sys.argv[1:] if word != "--makefile"]), nl=False)
        return
    answering = {"metric": evaluation.metric, "rule": evaluation.rule, "engine": evaluation.engine}
    runs = Runs(model, config, shares, {**answering, "max_new_tokens": evaluation.max_new_tokens}, image_root)
    measuring = Measuring(Path(work), train, validation, runs.procedure())
    if plan:
        _show(planned, measuring, output)
        return
    if only is not None:
        planned = replace(planned, trainings=(planned.named(only),))
    _measure(planned, measuring, jobs)
    if only is None:
        groups = None if formulas.groups is None else planned.groups
        formulas.deliver(measuring.cells(planned), groups, output)


def _read(option: str, patterns: Sequence[str] | None, check: Callable[[Row], None]) -> Rows:
    """The rows of files by name or pattern. The first bad one is an error that names file and line."""
    from mmkit.balance.subsets import Rows
    from mmkit.streams import read_rows

    rows = Rows()
    for row in read_rows(_files(option, patterns)):
        try:
            rows.add(row.record, _line(row.record))
            check(row)
        except MmkitError as error:
            told = str(error)
            raise type(error)(told if told.startswith(row.where) else f"{row.where}: {told}") from None
    return rows


def _line(record: Record) -> bytes:
    """The record as JSON; an image that it holds as bytes becomes a data URI."""
    import orjson

    from mmkit.training.samples import without_bytes

    images = record.get("images")
    return orjson.dumps({**record, "images": list(map(without_bytes, images))} if images else record)


def _files(option: str, patterns: Sequence[str] | None) -> list[str]:
    from glob import glob
    from pathlib import Path

    if not patterns:
        raise UsageError(f"no rows: give {option} FILES")
    files: list[str] = []
    for pattern in patterns:
        found = [pattern] if Path(pattern).exists() else sorted(glob(pattern))  # noqa: PTH207 - of any directory
        if not found:
            raise MissingInputError(f"{option} {pattern}: no such file")
        files += found
    return list(dict.fromkeys(files))


def _read_cells(path: str) -> list[Cell]:
    """The V rows of a file; others, such as what was computed from them before, are passed over."""
    from mmkit.balance.cells import Cell
    from mmkit.streams import read_rows

    cells = []
    for row in read_rows([path], kind="json"):
        if "trained_on" not in row.record:
            continue
        try:
            cells.append(Cell.from_wire(row.record))
        except DataError as error:
            raise DataError(f"{row.where}: {error}") from None
    return cells


def _show(plan: Plan, measuring: Measuring, output: str | None) -> None:
    """The plan for a person, or as rows."""
    from mmkit.balance import plan as plans
    from mmkit.cli import tables

    pace = measuring.seconds_a_step()
    rows = [
        plans.to_wire(
            planned,
            is_trained=measuring.is_trained(planned),
            num_cells_left=len(measuring.tasks_left(planned)),
            seconds_a_step=pace,
        )
        for planned in plan.trainings
    ]
    tables.deliver(rows, plans.table(rows), output)
    for line in plans.summary(plan, rows):
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

        measuring.measure_all(plan, jobs=jobs, on_done=follow)
    there = sum(bool(planned.num_rows_of) for planned in plan.trainings) - num_trained
    all_cells = sum(len(planned.evaluated_on) for planned in plan.trainings)
    _say(f"{num_trained} trained ({there} there), {num_cells} cells measured ({all_cells - num_cells} there)")


def _table(found: Contribution) -> list[list[str]]:
    """C, a row a giving task, with its C_out and D; C_in below."""
    takers = [row.task for row in found.tasks]
    values = {(row["from"], row["to"]): row["C"] for row in (pair.to_wire() for pair in found.pairs)}
    header = ["from", *(f"to {taker}" for taker in takers), "C_out", "D"]
    body = [
        [
            row.task,
            *(_shown(values.get((row.task, taker))) for taker in takers),
            _shown(row.measured.c_out),
            _shown(row.measured.difficulty),
        ]
        for row in found.tasks
    ]
    return [header, *body, ["C_in", *(_shown(row.measured.c_in) for row in found.tasks), "", ""]]


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _say(line: str) -> None:
    from mmkit import console

    console.say(f"mmkit measure-contribution: {line}")
