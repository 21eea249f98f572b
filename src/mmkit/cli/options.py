"""Options that several commands share, as groups.

A command function names a group in its signature (`streams: Streams`); `expand` puts the group's options in its place
on the command line and hands the function the filled group.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from mmkit.errors import UsageError

if TYPE_CHECKING:
    from mmkit.engines import Engine
    from mmkit.records import Record
    from mmkit.streams import Summary
    from mmkit.streams.rows import Check, Stage

FormatName = Literal["jsonl", "json", "arrow", "parquet"]
Seed = Annotated[int, typer.Option("--seed", help="Seed of every random decision.")]
ImageRoot = Annotated[
    str | None, typer.Option("--image-root", metavar="DIR", help="Where relative image paths start. [default: here]")
]

# Options that change where things go or how fast, never a byte of the output: a killed run may go on with other ones.
_NOT_IDENTITY = frozenset(
    {"output", "rejects", "dropped", "max_reject_rate", "cache"}
    | {"max_in_flight", "timeout_s", "max_retries", "price_in", "price_out"}
)


def _shard(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not slash or not index.isdigit() or not count.isdigit() or not int(index) < int(count):
        raise typer.BadParameter(f"expected I/N with 0 <= I < N, got {text!r}")
    return int(index), int(count)


class OptionGroup:
    """Base of the groups. `context` is the running command's, set when the group is filled."""

    context: typer.Context


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
        inputs: Sequence[str] | None = None,
        identity: Mapping[str, Any] | None = None,
        notes: Callable[[], Sequence[str]] = tuple,
        resumable: bool = True,
    ) -> Summary:
        """Run the stage over the rows and say on stderr what became of them.

        `inputs` are read in place of the command line's; `identity` holds what decides the output beside the options
        (the contents of side inputs); `notes` are asked at the end what else there is to say.
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


EngineName = Literal["transformers", "openai", "replay"]


@dataclass(eq=False, repr=False)  # what nobody calls costs time at start-up
class Model(OptionGroup):
    """The model that answers, and the engine that runs it."""

    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="A directory, a hub id, or the server's model name.")
    ] = None
    engine: Annotated[
        EngineName,
        typer.Option(
            "--engine", help="transformers: in this process; openai: any compatible server; replay: recorded."
        ),
    ] = "transformers"
    adapter: Annotated[
        str | None, typer.Option("--adapter", metavar="DIR", help="A LoRA adapter on the model (transformers).")
    ] = None
    base_url: Annotated[
        str | None,
        typer.Option("--base-url", metavar="URL", help="The server, such as http://localhost:8000/v1 (openai)."),
    ] = None
    answers: Annotated[
        str | None, typer.Option("--answers", metavar="FILE", help="Recorded answers, rows of id and text (replay).")
    ] = None
    cache: Annotated[
        str | None, typer.Option("--cache", metavar="DIR", help="Keep replies here; a second run asks nothing twice.")
    ] = None
    device: Annotated[
        str | None,
        typer.Option("--device", help="cpu, cuda, cuda:1, … (transformers). [default: a GPU if there is one]"),
    ] = None
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float32, bfloat16, … (transformers). [default: the checkpoint's]")
    ] = None
    batch_tokens: Annotated[
        int, typer.Option("--batch-tokens", metavar="N", min=1, help="Padded tokens in one batch (transformers).")
    ] = 16384
    window: Annotated[
        int, typer.Option("--window", metavar="N", min=1, help="Rows that share a batch plan (transformers).")
    ] = 512
    max_in_flight: Annotated[
        int, typer.Option("--max-in-flight", metavar="N", min=1, help="Requests open at once (openai).")
    ] = 32
    timeout_s: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="Patience with one request (openai).")
    ] = 120.0
    max_retries: Annotated[
        int, typer.Option("--retries", metavar="N", min=0, help="Further tries after 429, 5xx, a time-out (openai).")
    ] = 5
    price_in: Annotated[
        float | None,
        typer.Option("--price-in", metavar="PRICE", min=0, help="Per million prompt tokens, for the summary."),
    ] = None
    price_out: Annotated[
        float | None, typer.Option("--price-out", metavar="PRICE", min=0, help="Per million completion tokens.")
    ] = None

    _meter: Any = field(default=None, init=False, repr=False)

    @contextmanager
    def opened(self) -> Iterator[Engine]:
        """The engine that the options describe, closed at the end. Its model loads when the first request comes."""
        from mmkit.engines import catalog
        from mmkit.engines.meter import Metered

        self._meter = Metered(
            catalog.open_engine(self.engine, self._engine_options()), self.price_in or 0.0, self.price_out or 0.0
        )
        engine: Engine = self._meter
        if self.cache is not None:
            from mmkit.engines.cache import CachedEngine

            engine = CachedEngine(engine, self.cache)
        try:
            yield engine
        finally:
            engine.close()

    def notes(self) -> list[str]:
        """What the engine did, for the summary."""
        return [self._meter.line()] if self._meter is not None else []

    def _engine_options(self) -> Mapping[str, Any]:
        if self.engine == "replay":
            if self.answers is None:
                raise UsageError("--engine replay needs --answers FILE")
            return {"path": self.answers}
        if self.model is None:
            command = self.context.info_name
            raise UsageError(f'no model: give --model, or set it in mmkit.toml:\n\n[{command}]\nmodel = "…"')
        if self.engine == "openai":
            if self.base_url is None:
                raise UsageError("--engine openai needs --base-url, such as http://localhost:8000/v1")
            return {
                "model": self.model,
                "base_url": self.base_url,
                "max_in_flight": self.max_in_flight,
                "timeout_s": self.timeout_s,
                "max_retries": self.max_retries,
            }
        return {
            "model": self.model,
            "adapter": self.adapter,
            "device": self.device,
            "dtype": self.dtype,
            "max_batch_tokens": self.batch_tokens,
            "window": self.window,
        }


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
