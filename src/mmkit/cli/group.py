"""mmkit group"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmkit.balance.groups import By
from mmkit.cli.options import OptionGroup, Seed, Streams
from mmkit.errors import DataError, UsageError

if TYPE_CHECKING:
    from mmkit.balance.grouping import TaskScore
    from mmkit.balance.groups import GroupRow
    from mmkit.records import Record
    from mmkit.streams import Outcome, Row
    from mmkit.streams.rows import Check, Stage


def _thresholds(text: object) -> tuple[float, float]:
    try:
        low, high = map(float, str(text).split(","))
    except ValueError:
        raise typer.BadParameter(f"expected two numbers such as .5,1.5, got {text!r}") from None
    return low, high


@dataclass(eq=False, repr=False)  # what nobody calls costs time at start-up
class Method(OptionGroup):
    """How tasks are grouped."""

    by: Annotated[By, typer.Option("--by", help="What makes tasks belong together.")] = "interaction"
    num_groups: Annotated[
        int | None, typer.Option("--num-groups", metavar="N", help="By distance or similarity. [default: 3]")
    ] = None


@dataclass(eq=False, repr=False)
class Scores(OptionGroup):
    """How tasks are grouped by their scores."""

    thresholds: Annotated[
        Any,
        typer.Option(
            "--thresholds", metavar="LOW,HIGH", parser=_thresholds, help="Synergy is below LOW, redundancy above HIGH."
        ),
    ] = ".5,1.5"
    corrected: Annotated[bool, typer.Option("--corrected", help="Group by the chance-corrected score.")] = False
    max_distance: Annotated[
        float | None,
        typer.Option("--max-distance", metavar="D", help="The fewest groups with no two scores farther apart."),
    ] = None
    assign: Annotated[
        str | None, typer.Option("--assign", metavar="FILE", help="Put tasks into the groups of these group rows.")
    ] = None


@dataclass(eq=False, repr=False)
class Similarity(OptionGroup):
    """How tasks are grouped by their instructions."""

    instructions: Annotated[
        int, typer.Option("--instructions", metavar="N", min=1, help="Distinct instructions of a task, at most.")
    ] = 100
    tune_encoder: Annotated[
        bool, typer.Option("--tune-encoder", help="First teach the encoder which instructions are of one task.")
    ] = False
    tune_epochs: Annotated[int, typer.Option("--tune-epochs", metavar="N", min=1, help="Passes over its pairs.")] = 1
    tune_lr: Annotated[float, typer.Option("--tune-lr", metavar="LR", min=0.0, help="Its learning rate.")] = 2e-5
    seed: Seed = 0


def command(
    streams: Streams,
    method: Method,
    scores: Scores,
    similarity: Similarity,
    groups: Annotated[
        str | None, typer.Option("--groups", metavar="FILE", help="Group rows, for --by file and --split-to.")
    ] = None,
    split_to: Annotated[
        str | None,
        typer.Option("--split-to", metavar="DIR", help="Write the records of each of --groups to DIR/GROUP.jsonl."),
    ] = None,
) -> None:
    """Put tasks into groups that are tuned together: by interaction score, by distance, by instructions.

    Takes the rows of score-interaction; for --by similarity records with a question or an instruction; for single, all
    and file anything with a task. Every task is in exactly one group. A table on a terminal, rows in a pipe.

    Example: mmkit group interaction.jsonl > groups.jsonl

    Example: mmkit group train/*.jsonl --groups groups.jsonl --split-to by-group
    """
    by, num_groups = method.by, method.num_groups
    _refuse_idle(streams, "--split-to" if split_to is not None else f"--by {by}", scores, similarity)
    if split_to is not None:
        _split(streams, _required(groups, "--split-to"), split_to)
    elif by in ("interaction", "distance"):
        _by_score(streams, by, scores, num_groups)
    elif by == "similarity":
        _by_similarity(streams, similarity, num_groups)
    else:
        _by_name(streams, by, groups)


_SCORED = ("--by interaction", "--by distance")
_OF_MODE = {
    "thresholds": ("--by interaction",),
    "corrected": _SCORED,
    "assign": _SCORED,
    "max_distance": ("--by distance",),
    "num_groups": ("--by distance", "--by similarity"),
    "groups": ("--by file", "--split-to"),
    **dict.fromkeys((option.name for option in fields(Similarity)), ("--by similarity",)),
    "by": tuple(f"--by {by}" for by in ("interaction", "distance", "similarity", "single", "all", "file")),
}
"""Where an option has a say."""


def _refuse_idle(streams: Streams, mode: str, scores: Scores, similarity: Similarity) -> None:
    """Raise UsageError where the command line gives an option that has nothing to act on."""
    given = {
        name for name in _OF_MODE if getattr(streams.context.get_parameter_source(name), "name", None) == "COMMANDLINE"
    }
    for name in sorted(given):
        if mode not in _OF_MODE[name]:
            raise UsageError(f"--{name.replace('_', '-')} has no say in {mode}")
    if (idle := sorted(given & {"tune_epochs", "tune_lr"})) and not similarity.tune_encoder:
        raise UsageError(f"--{idle[0].replace('_', '-')} needs --tune-encoder")
    if scores.max_distance is not None and "num_groups" in given:
        raise UsageError("--num-groups and --max-distance contradict each other; give one of them")
    if scores.assign is not None and (idle := sorted(given & {"num_groups", "max_distance"})):
        raise UsageError(f"--assign makes no groups: leave --{idle[0].replace('_', '-')} out")


def _required(groups: str | None, what: str) -> str:
    if groups is None:
        raise UsageError(f"{what} needs --groups FILE, which says each task's group")
    return groups


def _by_score(streams: Streams, by: By, options: Scores, num_groups: int | None) -> None:
    from mmkit.balance import grouping
    from mmkit.balance.groups import GroupRow
    from mmkit.balance.interaction import InteractionRow
    from mmkit.cli.groups_file import read_group_rows

    there = [] if options.assign is None else read_group_rows(options.assign)
    groups = [GroupRow.from_wire(row) for row in there]
    scores: list[TaskScore] = []
    marked: dict[str, list[str]] = {}

    def add(row: Row) -> None:
        own = InteractionRow.from_wire(row.record)
        if any(score.task == own.task for score in scores):
            raise DataError(f"task {own.task!r} a second time")
        scores.append(grouping.TaskScore.of(own, corrected=options.corrected))
        for mark in own.marks:
            marked.setdefault(mark, []).append(own.task)

    def grouped() -> list[GroupRow]:
        if options.assign is not None:
            return grouping.assign(scores, groups, by=by, thresholds=options.thresholds)
        if by == "interaction":
            return grouping.by_interaction(scores, options.thresholds)
        wanted = grouping.NUM_GROUPS if num_groups is None else num_groups
        return grouping.by_distance(scores, num_groups=wanted, max_distance=options.max_distance)

    def notes() -> list[str]:
        known = {row.task for row in groups}
        kept = [score.task for score in scores if score.task in known]
        in_one = [f"in a group already: {_listed(kept)}"] if kept else []
        return in_one + [f"{mark} ({_MARKS[mark]}): {_listed(marked[mark])}" for mark in sorted(marked)]

    _deliver(streams, add, grouped, notes, there=there)


_MARKS = {
    "few": "fewer instances than a draw has",
    "unlearned": "not shown to be right more often than by chance; the score may say nothing",
    "undefined": "no chance-corrected score",
    "unparsed": "many predictions could not be read, which looks like synergy",
}


def _by_similarity(streams: Streams, options: Similarity, num_groups: int | None) -> None:
    from functools import partial

    from mmkit.balance.encoder_tuning import tuned
    from mmkit.balance.grouping import NUM_GROUPS
    from mmkit.balance.instructions import Instructions, by_similarity, instruction_of
    from mmkit.tasks import embedding

    found = Instructions(options.instructions, options.seed)

    def add(row: Row) -> None:
        found.add(_task_of(row), instruction_of(row.record))

    def grouped() -> list[GroupRow]:
        instructions = found.by_task()
        embed = embedding.embed
        if options.tune_encoder:
            encoder = tuned(
                embedding.load_encoder(),
                instructions,
                epochs=options.tune_epochs,
                lr=options.tune_lr,
                seed=options.seed,
            )
            embed = partial(embed, model=encoder)
        return by_similarity(instructions, embed, num_groups=NUM_GROUPS if num_groups is None else num_groups)

    _deliver(streams, add, grouped, kind="record")


def _by_name(streams: Streams, by: By, groups: str | None) -> None:
    from mmkit.balance import grouping
    from mmkit.cli.groups_file import read_task_groups

    by_hand = read_task_groups(_required(groups, "--by file")) if by == "file" else {}
    tasks: set[str] = set()

    def add(row: Row) -> None:
        tasks.add(_task_of(row))

    def grouped() -> list[GroupRow]:
        if by == "file":
            return grouping.by_hand(tasks, by_hand)
        return grouping.single(tasks) if by == "single" else grouping.together(tasks)

    def notes() -> list[str]:
        absent = sorted(by_hand.keys() - tasks)
        return [f"{groups} names {_listed(absent)} besides"] if absent else []

    _deliver(streams, add, grouped, notes)


def _task_of(row: Row) -> str:
    task = row.record.get("task")
    if not isinstance(task, str) or not task:
        raise DataError("task: expected a name")
    return task


def _listed(names: Sequence[str]) -> str:
    from mmkit.data.strata import listed

    return listed(names)


def _deliver(
    streams: Streams,
    add: Callable[[Row], None],
    grouped: Callable[[], list[GroupRow]],
    notes: Callable[[], list[str]] = list,
    *,
    there: Sequence[Record] = (),
    kind: Check = "json",
) -> None:
    """Read all rows, and write what `grouped` makes of them behind the rows that are `there` already."""
    from mmkit.balance.groups import GroupRow, table
    from mmkit.cli import tables
    from mmkit.data.stats.stages import summed

    on_terminal = tables.on_terminal(streams.output)
    found: list[GroupRow] = []

    def wire() -> list[Record]:
        found.extend(grouped())
        return [] if on_terminal else [*there, *(row.to_wire() for row in found)]

    def all_notes() -> list[str]:
        sizes = Counter(row.group for row in found)
        unsure = [row.task for row in found if row.unsure]
        said = [_listed([f"{group} {size:,}" for group, size in sizes.items()])] if sizes else []
        return [*said, *([f"unsure: {_listed(unsure)}"] if unsure else []), *notes()]

    streams.run(_of_some(summed(add, wire)), kind=kind, resumable=False, notes=all_notes)
    if on_terminal:
        tables.show(table([*map(GroupRow.from_wire, there), *found]))


def _of_some(stage: Stage) -> Stage:
    """The stage, which is to be given a row at least. Raises DataError where there is none."""

    def checked(rows: Iterator[Row]) -> Iterator[Outcome]:
        first = next(rows, None)
        if first is None:
            raise DataError("there is no task to group")
        yield from stage(chain([first], rows))

    return checked


def _split(streams: Streams, path: str, directory: str) -> None:
    """One pass over the records for each group."""
    from mmkit.balance.members import file_names, take
    from mmkit.cli.groups_file import read_task_groups
    from mmkit.cli.parts import path_of, require_room

    groups = read_task_groups(path)
    names = file_names(set(groups.values()))
    require_room("--split-to", directory, list(names.values()), streams)
    for group, name in names.items():
        streams.output = path_of(directory, name, streams)
        notes = [f"group {group} in {streams.output}"]
        streams.run(take(groups, group, path), identity={"groups": groups}, notes=notes.copy)
