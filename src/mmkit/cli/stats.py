"""mmkit stats"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mmkit.cli.options import ImageRoot, Seed, Streams
from mmkit.errors import UsageError

if TYPE_CHECKING:
    from mmkit.data.stats.stages import Count
    from mmkit.data.stats.trace import Node

SetsBy = Literal["modality", "task", "file"]
_MOST_PAIRS = 1_000_000


def command(
    streams: Streams,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="Count this model's training tokens.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", min=1, help="Tokens of a row, as in finetune. [default: no limit]")
    ] = None,
    overlong: Annotated[
        Literal["reject", "shorten"], typer.Option("--overlong", help="Longer rows, as in finetune.")
    ] = "reject",
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", metavar="[NAME=]FILE[,FILE...]", help="Compare tokens with these records or rows."),
    ] = None,
    per_row: Annotated[bool, typer.Option("--per-row", help="Write the records with their numbers of tokens.")] = False,
    figure: Annotated[str | None, typer.Option("--figure", metavar="FILE", help="Draw a bar chart, as SVG.")] = None,
    diversity: Annotated[
        bool, typer.Option("--diversity", help="How alike questions are, within sets and between.")
    ] = False,
    sets: Annotated[SetsBy, typer.Option("--sets", help="What the sets of --diversity are.")] = "modality",
    pairs: Annotated[
        int, typer.Option("--pairs", metavar="N", min=2, max=_MOST_PAIRS, help="Question pairs of --diversity.")
    ] = 10_000,
    seed: Seed = 0,
    ledger: Annotated[bool, typer.Option("--ledger", help="What the records cost, from their lineage.")] = False,
    price: Annotated[
        list[str] | None,
        typer.Option("--price", metavar="MODEL=IN,OUT", help="A million prompt and completion tokens."),
    ] = None,
    price_per_step: Annotated[
        list[str] | None, typer.Option("--price-per-step", metavar="OP=PRICE", help="One step: a request, an edit.")
    ] = None,
    price_per_row: Annotated[
        list[str] | None, typer.Option("--price-per-row", metavar="OP=PRICE", help="One row that went through it.")
    ] = None,
    trace: Annotated[
        str | None, typer.Option("--trace", metavar="ID", help="A record's way through the stages, from its lineage.")
    ] = None,
    image_root: ImageRoot = None,
) -> None:
    """Count what records hold: rows, lengths, duplicates, training tokens; or cost, origin, diversity.

    Each INPUT is a set, named by its file; NAME=FILE,FILE makes one of several. Tokens are those that the language
    model sees, images included, without running it. A table on a terminal, rows in a pipe.

    Example: mmkit stats mlan.jsonl llava.jsonl --model base --baseline mlan.jsonl

    Example: mmkit stats train.jsonl --ledger --price gpt-4o=2.5,10 --price-per-row review=0.13
    """
    modes = {"--per-row": per_row, "--diversity": diversity, "--ledger": ledger, "--trace": trace is not None}
    mode = _only(modes)
    model = model or None  # --model "" leaves out one that mmkit.toml names
    _refuse_idle(streams, mode, model)
    if mode == "--trace":
        assert trace is not None
        _trace(streams, trace)
    elif mode == "--ledger":
        _ledger(streams, price or (), price_per_step or (), price_per_row or ())
    elif mode == "--diversity":
        _diversity(streams, sets, pairs, seed)
    elif mode == "--per-row":
        _per_row(streams, _counter(model, max_length, overlong, image_root))
    else:
        _describe(streams, model, _counter(model, max_length, overlong, image_root), baseline, figure)


_OF_MODE = {
    "max_length": (None, "--per-row"),
    "overlong": (None, "--per-row"),
    "image_root": (None, "--per-row"),
    "model": (None, "--per-row"),
    "baseline": (None,),
    "figure": (None,),
    "sets": ("--diversity",),
    "pairs": ("--diversity",),
    "seed": ("--diversity",),
    "price": ("--ledger",),
    "price_per_step": ("--ledger",),
    "price_per_row": ("--ledger",),
}
"""Which answers an option has a say in; None is the one without a mode."""


def _only(modes: Mapping[str, bool]) -> str | None:
    chosen = [name for name, wanted in modes.items() if wanted]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)} are different answers: give one of them")
    return chosen[0] if chosen else None


def _refuse_idle(streams: Streams, mode: str | None, model: str | None) -> None:
    """Raise UsageError where the command line gives an option that has nothing to act on."""
    for name, of in _OF_MODE.items():
        source = streams.context.get_parameter_source(name)
        if getattr(source, "name", None) == "COMMANDLINE" and mode not in of:
            where = f"has no say in {mode}" if mode else f"needs {of[0]}"
            raise UsageError(f"--{name.replace('_', '-')} {where}")
    if mode == "--trace" and (idle := sorted(streams.given(in_file=False) - {"inputs", "output", "from_format"})):
        raise UsageError(f"--{idle[0].removesuffix('_format').replace('_', '-')} has no say in --trace")
    needs = [name for name in ("baseline", "max_length") if streams.context.params.get(name) is not None]
    if model is None and mode in (None, "--per-row") and (needs or mode):
        what = mode or f"--{needs[0].replace('_', '-')}"
        raise UsageError(f'{what} counts tokens: give --model, or set it in mmkit.toml:\n\n[stats]\nmodel = "…"')


def _counter(model: str | None, max_length: int | None, overlong: str, image_root: str | None) -> Count | None:
    if model is None:
        return None
    from mmkit.data.stats.stages import token_count
    from mmkit.models.loading import load_chat
    from mmkit.models.token_counts import TokenCounter

    return token_count(TokenCounter(load_chat(model), max_length=max_length, overlong=overlong), image_root)


def _sets_of(streams: Streams) -> dict[str, list[str]]:
    """The sets that each file belongs to; a file may be in several, and is read once."""
    from mmkit.streams import named_files

    streams.require_input()
    sets: dict[str, list[str]] = {}
    names: set[str] = set()
    for spec in streams.inputs or ["-"]:
        name, files = named_files.parse(spec)
        if name in names:
            raise UsageError(f"{spec}: a second set of the name {name!r}: give NAME=FILE")
        names.add(name)
        for file in files:
            if name in sets.setdefault(file, []):
                raise UsageError(f"{spec}: {file} is given twice")
            sets[file].append(name)
    return sets


def _by_source(sets: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {"<stdin>" if file == "-" else file: names for file, names in sets.items()}


def _describe(
    streams: Streams, model: str | None, count: Count | None, baseline: str | None, figure: str | None
) -> None:
    from mmkit.cli import tables
    from mmkit.data.stats import stages
    from mmkit.data.stats.describe import Description, Statistics, describe, table
    from mmkit.data.stats.figure import figure as drawn

    sets = _sets_of(streams)
    if figure is not None:
        _require_writable(figure, streams, sets)
    compared = None if baseline is None or count is None else _baseline(baseline, sets, model, count)
    statistics = Statistics(dict.fromkeys(name for names in sets.values() for name in names))

    def rows() -> list[Description]:
        tokens = statistics.tokens_of(compared) if isinstance(compared, str) else compared
        return describe(statistics, model=model, baseline_tokens=tokens)

    on_terminal = tables.on_terminal(streams.output)
    wire: Callable[[], list[dict[str, Any]]] = list if on_terminal else lambda: [row.to_wire() for row in rows()]
    stage = stages.collect(statistics, _by_source(sets), count, wire)
    streams.run(stage, inputs=list(sets), resumable=False)
    if on_terminal:
        tables.show(table(rows()))
    if figure is not None:
        _write(figure, drawn(rows()))


def _baseline(spec: str, sets: Mapping[str, list[str]], model: str | None, count: Count) -> str | int:
    """The set of this call that is the baseline; else the baseline's tokens, of rows that this command wrote, or of
    records."""
    from mmkit import console
    from mmkit.data.stats.describe import tokens_in
    from mmkit.errors import DataError, MmkitError
    from mmkit.streams import named_files, read_rows

    _, files = named_files.parse(spec)
    if "-" in files:
        raise UsageError("--baseline is read more than once: name its file")
    for name in {name for names in sets.values() for name in names}:
        if {file for file, of in sets.items() if name in of} == set(files):
            return name
    try:
        first = next(iter(read_rows(files[:1], kind="json")), None)
        if first is not None and {"set", "rows", "tokens"} <= first.record.keys():
            if (other := first.record.get("model")) not in (None, model):
                console.say(f"mmkit stats: --baseline {spec}: counted by {other}, not by {model}")
            return tokens_in(row.record for row in read_rows(files, kind="json"))
        tokens = 0
        for row in read_rows(files):
            try:
                tokens += count(row.record).total
            except MmkitError as error:
                raise type(error)(f"{row.where}: {error}") from None
    except DataError as error:
        raise DataError(f"--baseline {spec}: {error}") from None
    return tokens


def _require_writable(figure: str, streams: Streams, inputs: Iterable[str]) -> None:
    """Refuse, before anything is counted, a name that --figure cannot have."""
    from pathlib import Path

    path = Path(figure)
    if figure in ("", "-") or path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"--figure {figure}: cannot be written: name a file in a directory that is there")
    if _is_among(figure, [*inputs, streams.output, streams.rejects, streams.dropped]):
        raise UsageError(f"--figure {figure} is an input or another output, too, and would be overwritten")


def _is_among(path: str, others: Iterable[str | None]) -> bool:
    """Whether a path leads to one of the other files."""
    from pathlib import Path

    return any(other and Path(other).resolve() == Path(path).resolve() for other in others)


def _write(path: str, text: str) -> None:
    from pathlib import Path

    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--figure {path}: cannot be written: {error.strerror}") from None


def _per_row(streams: Streams, count: Count | None) -> None:
    from mmkit.data.stats import stages

    assert count is not None  # _refuse_idle has seen to it
    streams.run(stages.per_row(count))


def _ledger(streams: Streams, per_million: Any, per_step: Any, per_row: Any) -> None:
    from mmkit.cli import tables
    from mmkit.data.stats import stages
    from mmkit.data.stats.ledger import Bill, Ledger, Prices

    prices = Prices.parse(per_million, per_step, per_row)
    ledger = Ledger()

    def bill() -> Bill:
        return Bill(ledger.accounts(), prices)

    def notes() -> list[str]:
        return [
            *([f"{ledger.without_lineage:,} rows without lineage"] if ledger.without_lineage else []),
            *(f"no price for {name}" for name in bill().unpriced()),
            *(f"no work by {name}, which has a price" for name in bill().unmet()),
        ]

    on_terminal = tables.on_terminal(streams.output)
    stage = stages.summed(lambda row: ledger.add(row.record), list if on_terminal else lambda: bill().to_wire())
    streams.run(stage, resumable=False, notes=notes)
    if on_terminal:
        tables.show(bill().table())


def _diversity(streams: Streams, sets_by: SetsBy, num_pairs: int, seed: int) -> None:
    from mmkit.cli import tables
    from mmkit.data.stats import diversity, stages
    from mmkit.data.stats.describe import modality
    from mmkit.records import question_of
    from mmkit.streams import Row
    from mmkit.tasks.embedding import embed

    files = _sets_of(streams)
    sources = _by_source(files)
    questions = diversity.Questions(num_pairs, seed)
    silent = 0

    def names_of(row: Row) -> list[str]:
        if sets_by == "file":
            return sources[row.source]
        return [modality(row.record) if sets_by == "modality" else row.record.get("task") or ""]

    def add(row: Row) -> None:
        nonlocal silent
        question = question_of(row.record)
        if question is None:
            silent += 1
            return
        for name in names_of(row):
            questions.add(name, row.record["id"], question)

    found: list[diversity.Similarity] = []

    def rows() -> list[dict[str, Any]]:
        found.extend(diversity.similarities(questions.sample(), num_pairs, seed, embed))
        return [*(one.to_wire() for one in found), *(one.to_wire() for one in diversity.differences(found))]

    def notes() -> list[str]:
        few = ", ".join(questions.few())
        return [
            *([f"{silent:,} rows without a question"] if silent else []),
            *(
                [f"too few questions for {num_pairs:,} pairs that share none ({few}): p-values are too small"]
                * bool(few)
            ),
        ]

    on_terminal = tables.on_terminal(streams.output)
    streams.run(
        stages.summed(add, (lambda: rows()[:0]) if on_terminal else rows),
        inputs=list(files),
        resumable=False,
        notes=notes,
    )
    if on_terminal:
        for number, one in enumerate(diversity.tables(found)):
            if number:
                typer.echo()
            tables.show(one)


def _trace(streams: Streams, record_id: str) -> None:
    from mmkit import console
    from mmkit.cli import tables
    from mmkit.data.stats.trace import trace
    from mmkit.streams import read_rows

    files = streams.inputs or ["-"]
    if "-" in files:
        raise UsageError("--trace reads its files more than once: name them")
    if streams.output is not None:
        _require_lines(streams.output, files)
    trees = trace(lambda: read_rows(files, fmt=streams.from_format), record_id)
    if tables.on_terminal(streams.output):
        for tree in trees:
            _show(tree)
    else:
        tables.write((row for tree in trees for row in tree.flat()), streams.output)
    console.say(f"mmkit stats: record {record_id!r}, {len(trees):,} {'tree' if len(trees) == 1 else 'trees'}")


def _require_lines(output: str, inputs: Iterable[str]) -> None:
    """Refuse an output of --trace that is an input, and one in whose format it would not be written."""
    from mmkit.streams.sources import format_of

    if _is_among(output, inputs):
        raise UsageError(f"-o {output} is an input, too, and the trace would take its place")
    if format_of(output) not in (None, "jsonl") or output.endswith((".gz", ".zst")):
        raise UsageError(f"-o {output}: a trace is plain JSON lines; name it .jsonl")


def _show(node: Node) -> None:
    """The tree on the terminal."""
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    from mmkit.console import escape

    def drawn(node: Node, into: Tree) -> None:
        for child in node.children:
            drawn(child, into.add(Text(escape(child.label()), "" if child.entry is None else "cyan")))

    root = Tree(Text(escape(node.label()), "bold"))
    drawn(node, root)
    Console().print(root)
