"""Options of `measure-contribution`: how it trains, how it evaluates, and by which formulas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mmkit.cli.finetune import Tuning, configured
from mmkit.cli.options import OptionGroup
from mmkit.errors import UsageError

if TYPE_CHECKING:
    from mmkit.balance.cells import Cell
    from mmkit.balance.contribution import Contribution
    from mmkit.balance.subsets import Rates
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
        if config.val_size:
            raise UsageError(f"--val-size {config.val_size} holds rows back, and those of --val are measured: give 0")
        return config

    def fixing_batch(self, rows_a_step: int) -> list[str]:
        """What to add to the options, so that a step has as many rows on any devices. Raises UsageError where nothing
        would do it."""
        from mmkit.training.presets import preset_named

        if self.device == "cpu":
            return []
        if "accumulation" in self.given():
            raise UsageError("--accumulation: more GPUs would make larger steps; give --global-batch in its place")
        preset = None if self.preset is None else preset_named(self.preset).global_batch
        return [] if (self.global_batch or preset) is not None else ["--global-batch", str(rows_a_step)]


@dataclass(eq=False, repr=False)
class Subsets(OptionGroup):
    """What is trained on."""

    large: Annotated[
        str, typer.Option("--large", metavar="SHARE", help="Of each task's rows, in its large subset.")
    ] = "1/4"
    mini: Annotated[str, typer.Option("--mini", metavar="SHARE", help="Of each task's rows, in its mini subset.")] = (
        "1/32"
    )
    num_seeds: Annotated[
        int, typer.Option("--seeds", metavar="N", min=1, help="Measure with so many seeds, from --seed on.")
    ] = 1

    def rates(self) -> Rates:
        """Raises UsageError for what are no shares."""
        from mmkit.balance.subsets import Rates

        return Rates.parsed(self.large, self.mini)


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

    def settings(self) -> dict[str, Any]:
        """All of them by name."""
        return {option.name: getattr(self, option.name) for option in fields(self)}


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
        from mmkit import console
        from mmkit.balance.contribution import contribution
        from mmkit.cli import tables

        found = contribution(cells, groups=groups, form=self.form, difficulty=self.difficulty, on_flat=self.on_flat)
        for flat in found.flat:
            console.say(f"mmkit measure-contribution: {flat} (--on-flat {self.on_flat})")
        tables.deliver([*(cell.to_wire() for cell in cells), *found.to_wire()], _table(found), output)


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
