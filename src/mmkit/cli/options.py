"""Options that several commands share, as groups.

A command function names a group in its signature (`streams: Streams`); `expand` puts the group's options in its place
on the command line and hands the function the filled group.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from mmkit.errors import UsageError

if TYPE_CHECKING:
    from mmkit.records import Record
    from mmkit.streams import NamedRows, Summary
    from mmkit.streams.rows import Check, Stage

FormatName = Literal["jsonl", "json", "arrow", "parquet"]
Seed = Annotated[int, typer.Option("--seed", help="Seed of every random decision.")]
ImageRoot = Annotated[
    str | None, typer.Option("--image-root", metavar="DIR", help="Where relative image paths start. [default: here]")
]

# Options that change where things go or how fast, never a byte of the output: a killed run may go on with other ones.
_NOT_IDENTITY = frozenset(
    {"output", "rejects", "dropped", "max_reject_rate", "cache"}
    | {"max_in_flight", "timeout_s", "max_retries", "price_in", "price_out", "base_url"}
    | {"gpu_memory", "tensor_parallel", "restart_every"}
)


def _shard(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not slash or not index.isdigit() or not count.isdigit() or not int(index) < int(count):
        raise typer.BadParameter(f"expected I/N with 0 <= I < N, got {text!r}")
    return int(index), int(count)


class OptionGroup:
    """Base of the groups. `context` is the running command's, set when the group is filled."""

    context: typer.Context

    def given(self, *, in_file: bool = True) -> set[str]:
        """The options of the group that the command line sets, or, with `in_file`, it or mmkit.toml."""
        sources = {"COMMANDLINE", "DEFAULT_MAP"} if in_file else {"COMMANDLINE"}
        names = (option.name for option in fields(self) if option.init)  # type: ignore[arg-type]
        return {name for name in names if getattr(self.context.get_parameter_source(name), "name", None) in sources}


@dataclass(eq=False, repr=False)  # what nobody calls costs time at start-up
class Streams(OptionGroup):
    """Input, output, and what happens to rows that do not make it."""

    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[INPUT]...", help="Files to read; none or - is stdin.", show_default=False),
    ] = None
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write here, in one step, resumable. [default: stdout]"),
    ] = None
    from_format: Annotated[
        FormatName | None, typer.Option("--from", help="Input format. [default: by suffix]", show_default=False)
    ] = None
    to_format: Annotated[
        FormatName | None, typer.Option("--to", help="Output format. [default: by suffix]", show_default=False)
    ] = None
    rejects: Annotated[
        str | None,
        typer.Option("--rejects", metavar="FILE", help="Write rows that cannot be processed here, and go on."),
    ] = None
    dropped: Annotated[
        str | None, typer.Option("--dropped", metavar="FILE", help="Write rows that the command decides against here.")
    ] = None
    max_reject_rate: Annotated[
        float | None, typer.Option("--max-reject-rate", metavar="RATE", min=0.0, max=1.0, help="Stop above this share.")
    ] = None
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=0, help="Read the first N rows only.")] = None
    shard: Annotated[
        Any, typer.Option("--shard", metavar="I/N", parser=_shard, help="Every Nth row, from row I (from 0).")
    ] = None

    def run(
        self,
        stage: Stage,
        *,
        window: int = 1,
        kind: Check = "record",
        inputs: Sequence[str | NamedRows] | None = None,
        identity: Mapping[str, Any] | None = None,
        notes: Callable[[], Sequence[str]] = tuple,
        resumable: bool = True,
        wanted: Callable[[int], bool] | None = None,
    ) -> Summary:
        """Run the stage over the rows and say on stderr what became of them.

        `inputs` are read in place of the command line's; `identity` holds what decides the output beside the options
        (the contents of side inputs); `notes` are asked at the end what else there is to say; `wanted` says which
        rows the stage looks at, by position.
        """
        from mmkit import console
        from mmkit.streams import StreamOptions, run

        if inputs is None:
            self.require_input()
        if self.max_reject_rate is not None and self.rejects is None:
            raise UsageError("--max-reject-rate needs --rejects FILE, where the rejected rows go")
        options = StreamOptions(
            inputs=(self.inputs or ()) if inputs is None else inputs,
            output=self.output,
            from_format=self.from_format,
            to_format=self.to_format,
            rejects=self.rejects,
            dropped=self.dropped,
            max_reject_rate=self.max_reject_rate,
            limit=self.limit,
            shard=self.shard,
        )
        arguments = {name: value for name, value in self.context.params.items() if name not in _NOT_IDENTITY}
        command = self.context.info_name or "mmkit"
        summary = run(
            stage,
            options,
            command=command,
            identity={**arguments, **(identity or {})},
            window=window,
            kind=kind,
            resumable=resumable,
            wanted=wanted,
        )
        summary.notes.extend(notes())
        console.say(f"mmkit {command}: {summary.line()}")
        return summary

    def records(self, kind: Check = "record") -> Iterator[Record]:
        """All records of the input, for commands that need them together. The first bad row is an error."""
        from mmkit.streams import read_records

        self.require_input()
        for name in self.inputs or ["-"]:
            yield from read_records(name, kind=kind, fmt=self.from_format)

    def require_input(self) -> None:
        """Raise UsageError where the command would wait for somebody to type records."""
        if not self.inputs and (sys.stdin is None or sys.stdin.isatty()):
            raise UsageError(f"no input: name a file, or pipe records in\n{self.context.get_usage()}")


def expand(function: Callable[..., None]) -> Callable[..., None]:
    """The function as typer should see it: the options of its groups in place of the groups."""
    hints = get_type_hints(function, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and issubclass(hint, OptionGroup)}
    parameters = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    members: dict[str, list[str]] = {}
    for parameter in inspect.signature(function).parameters.values():
        group = groups.get(parameter.name)
        if group is None:
            parameters.append(parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        group_hints = get_type_hints(group, include_extras=True)
        options = [f for f in fields(group) if f.init]  # type: ignore[arg-type]
        members[parameter.name] = [f.name for f in options]
        for option in options:
            default = option.default if option.default is not MISSING else inspect.Parameter.empty
            parameters.append(
                inspect.Parameter(
                    option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=group_hints[option.name]
                )
            )

    @functools.wraps(function)
    def command(*, context: typer.Context, **values: Any) -> None:
        arguments: dict[str, Any] = {}
        for name, options in members.items():
            group = groups[name](**{option: values.pop(option) for option in options})
            group.context = context
            arguments[name] = group
        function(**arguments, **values)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command
