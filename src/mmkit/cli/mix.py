"""mmkit mix"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mmkit.cli.options import ImageRoot, Seed, Streams
from mmkit.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mmkit.data.heldout import HeldOut
    from mmkit.data.strata import By, Cell, Label, Stratum
    from mmkit.streams import Rejected, Row

_UNITS = {"": 1, "k": 1_000, "K": 1_000, "M": 1_000_000}


def _amount(text: object) -> int:
    match = re.fullmatch(r"(\d{1,3}(?:[,_]\d{3})+|\d+)(\.\d+)?([kKM]?)", str(text))
    amount = Decimal(re.sub("[,_]", "", match[1]) + (match[2] or "")) * _UNITS[match[3]] if match else Decimal(0)
    if amount < 1 or amount % 1:
        raise typer.BadParameter(f"expected a whole number such as 80000, 80k or 1.5M, got {text!r}")
    return int(amount)


def command(
    streams: Streams,
    budget: Annotated[
        Any, typer.Option("--budget", metavar="N", parser=_amount, help="Rows in all, as 80000 or 80k.")
    ] = None,
    budget_tokens: Annotated[
        Any,
        typer.Option("--budget-tokens", metavar="N", parser=_amount, help="Tokens in all, by the rows' num_tokens."),
    ] = None,
    ratio: Annotated[
        str | None,
        typer.Option("--ratio", metavar="KEY=SHARE,…", help="Shares of modalities, families, tasks or files."),
    ] = None,
    mixture: Annotated[
        str | None,
        typer.Option("--mixture", metavar="NAME", help="mlan, mlan-v, mlan-v-vicuna, llava or cambrian: 80k rows."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="FILE", help="Weight rows: the tasks' proportions.")
    ] = None,
    groups: Annotated[
        str | None, typer.Option("--groups", metavar="FILE", help="Group rows: the tasks' families.")
    ] = None,
    by: Annotated[
        Literal["task", "file"],
        typer.Option("--by", help="What makes a data set: its task, or where rows have none its file; or the file."),
    ] = "task",
    heldout: Annotated[
        list[str] | None,
        typer.Option("--heldout", metavar="FILE", help="Drop rows whose image or question is in here. Repeatable."),
    ] = None,
    image_root: ImageRoot = None,
    seed: Seed = 0,
) -> None:
    """Draw a sample of many data sets within a budget, in given proportions.

    Reads its files twice. A data set with fewer rows than its quota is bootstrapped. The sample does not depend on
    the order of files and rows, and lies inside that of a larger budget.

    Example: mmkit mix language/*.jsonl vision/*.jsonl --budget 80k --ratio language=.875,vision=.125 > train.jsonl
    """
    from mmkit.data import mix
    from mmkit.data.strata import file_names, listed

    ratio, mixture, weights = _one_of(streams, ratio=ratio, mixture=mixture, weights=weights)
    groups, mixture, weights = _one_of(streams, groups=groups, mixture=mixture, weights=weights)
    budget, budget_tokens = _one_of(streams, budget=budget, budget_tokens=budget_tokens)
    inputs = _files(streams)
    names = file_names(inputs)
    unchanged = mix.unchanged(inputs)
    proportions = _proportions(by, names, ratio, mixture, weights, groups)
    total = budget_tokens or budget or proportions.budget
    if total is None:
        raise UsageError("give --budget ROWS, --budget-tokens TOKENS, or a --mixture, which has a budget of its own")
    held_out = _held_out(heldout, image_root) if heldout else None
    frame = mix.Frame(proportions.label, seed=seed, held_out=held_out, in_tokens=budget_tokens is not None)
    frame.read(partial(_rows, streams, inputs), strict=streams.rejects is None)
    sample = frame.draw(proportions.strata(frame.cells), total)
    with_rows = {cell.file for cell in frame.cells}
    absent = []
    if missing := proportions.missing(frame.cells):
        absent.append(f"{mixture} has {listed(missing)} besides")
    if without_rows := [path for path, name in names.items() if name not in with_rows]:
        absent.append(f"no rows in {listed(without_rows)}")
    streams.run(
        mix.mix_stage(sample, unchanged),
        inputs=inputs,
        identity={"sample": sample.digest()},
        notes=lambda: [*sample.notes(), *absent],
        wanted=sample.wants,
    )


def _one_of(streams: Streams, **options: Any) -> list[Any]:
    """The values of options of which one is given at most; those of mmkit.toml give way to the command line's.

    Raises UsageError where more than one is given.
    """
    given = {name for name, value in options.items() if value is not None}
    sources = {name: getattr(streams.context.get_parameter_source(name), "name", None) for name in given}
    chosen = {name for name in given if sources[name] == "COMMANDLINE"} or given
    if len(chosen) > 1:
        names = " and ".join("--" + name.replace("_", "-") for name in options if name in chosen)
        raise UsageError(f"{names} contradict each other; give one of them")
    return [value if name in chosen else None for name, value in options.items()]


def _held_out(paths: Sequence[str], image_root: str | None) -> HeldOut:
    """What the files hold out. Raises DataError for one that holds out nothing, since more is meant by it."""
    from mmkit.data.heldout import HeldOut
    from mmkit.streams import read_records

    held_out = HeldOut(image_root=image_root)
    for path in paths:
        if not held_out.add(read_records(path)):
            raise DataError(f"--heldout {path}: no row has an image or a question")
    return held_out


def _files(streams: Streams) -> list[str]:
    """The inputs in an order of their own, so that theirs on the command line does not show in the output."""
    streams.require_input()
    inputs = streams.inputs or ["-"]
    if any(name == "-" or Path(name).is_fifo() for name in inputs):
        raise UsageError("mix reads its input twice, which a pipe cannot do: name the files")
    return sorted(inputs)


def _rows(streams: Streams, inputs: Sequence[str], wanted: Callable[[int], bool] | None) -> Iterator[Row | Rejected]:
    """The input, within --limit."""
    from itertools import islice

    from mmkit.streams import read

    return islice(read(inputs, fmt=streams.from_format, wanted=wanted), streams.limit)


@dataclass(frozen=True)
class _Proportions:
    """How a row's cell is found, how the strata follow from all cells, and what a named mixture brings along."""

    label: Label
    strata: Callable[[Sequence[Cell]], list[Stratum]]
    budget: int | None = None
    missing: Callable[[Sequence[Cell]], list[str]] = lambda cells: []


def _proportions(
    by: By,
    files: Mapping[str, str],
    ratio: str | None,
    mixture: str | None,
    weights: str | None,
    groups: str | None,
) -> _Proportions:
    from mmkit.cli.groups_file import read_task_groups
    from mmkit.cli.weights_file import read_task_weights
    from mmkit.data import mixtures, strata

    if mixture is not None:
        named = mixtures.named(mixture)
        return _Proportions(named.label(by, files), named.strata, named.budget, named.missing)
    if weights is not None:
        by_task = read_task_weights(weights)
        return _Proportions(strata.label_by(by, files), lambda cells: strata.by_weight(cells, by_task))
    families = None if groups is None else read_task_groups(groups)
    shares = None if ratio is None else strata.parse_ratio(ratio)

    def shared_out(cells: Sequence[Cell]) -> list[Stratum]:
        if families is not None:
            strata.require_groups(cells, families)
        return strata.equal(cells) if shares is None else strata.by_ratio(cells, shares)

    return _Proportions(strata.label_by(by, files, families), shared_out)
