"""What --to-batch and --from-batch do to a command: its requests into a file, its answers out of others."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkit.errors import UsageError

if TYPE_CHECKING:
    from mmkit.cli.engine_options import Model
    from mmkit.cli.options import Streams
    from mmkit.engines.batch_files.requests import BatchRequests
    from mmkit.engines.exchange import Inquiry

_STREAM = "-"


def require_sense(model: Model, streams: Streams) -> None:
    """Raise UsageError where options contradict --to-batch or --from-batch, or have nothing to act on beside them."""
    if model.to_batch is not None and model.from_batch:
        raise UsageError("--to-batch writes requests, --from-batch reads what was answered: one run after the other")
    if model.to_batch is not None:
        _require_use(model, {"model", "to_batch"}, "--to-batch asks nobody")
        _require_lines(model.to_batch, streams)
    elif model.from_batch:
        _require_use(
            model, {"model", "from_batch", "price_in", "price_out"}, "with --from-batch the answers are there already"
        )
        _require_kept(model.from_batch, streams)


def write_requests(
    file: str,
    streams: Streams,
    inquiry: Inquiry[Any],
    model: str,
    adapters: Sequence[str],
    identity: Mapping[str, Any] | None,
) -> None:
    """Run the command with the lines of a batch file as its output. `adapters` are those that requests name.

    Raises DataError where one of them is a directory and no LoRA adapter.
    """
    from mmkit.engines.batch_files.requests import BatchRequests

    requests = BatchRequests(inquiry, model)
    serving = _serving(adapters)
    streams.output = file
    streams.run(requests, identity=identity, notes=lambda: _next_step(file, model, serving, requests), resumable=False)


def _next_step(file: str, model: str, serving: Sequence[str], requests: BatchRequests) -> list[str]:
    """What answers the file, for the summary."""
    if file == _STREAM or not requests.num_lines:
        return []
    answers = str(Path(file).with_suffix(".answers.jsonl"))
    words = ["vllm", "run-batch", "-i", file, "-o", answers, "--model", model, *serving]
    trust = ["--trust-request-chat-template"] if requests.has_raw_prompts else []
    return [f"next: {shlex.join([*words, *trust])}, then --from-batch {shlex.quote(answers)}"]


def _serving(adapters: Sequence[str]) -> list[str]:
    """What has vLLM serve the adapters: each is a model of the name that it has here, which may be its directory."""
    if not adapters:
        return []
    from mmkit.engines.vllm import arguments

    there = [name for name in adapters if Path(name).is_dir()]
    rank = ["--max-lora-rank", str(arguments.lora(*there)["max_lora_rank"])] if there else []
    modules = [f"{name}={name if name in there else 'DIR'}" for name in adapters]
    return ["--enable-lora", "--max-loras", str(len(adapters)), *rank, "--lora-modules", *modules]


def _require_use(model: Model, used: Collection[str], why: str) -> None:
    if model.adapter is not None:
        raise UsageError(
            "--adapter: a batch knows models by name; give the adapter one "
            "(vllm run-batch --enable-lora --lora-modules NAME=DIR) and say --model NAME"
        )
    context = model.context
    idle = {each.name for each in fields(model) if each.init} - set(used)
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        # What mmkit.toml says about engines may stay there; what the command line says is meant for this run.
        if parameter.name in idle and source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"{parameter.opts[0]} has nothing to act on: {why}")


def _require_lines(file: str, streams: Streams) -> None:
    from mmkit.streams.sources import format_of

    if streams.output is not None:
        raise UsageError("give --to-batch FILE or -o FILE: the requests are all that this run writes")
    packed = file.endswith((".gz", ".zst"))
    if packed or streams.to_format not in (None, "jsonl") or format_of(file) not in (None, "jsonl"):
        raise UsageError(f"--to-batch {file}: a batch file is plain JSON lines; name it .jsonl")
    if any(_same_file(file, name) for name in streams.inputs or ()):
        raise UsageError(f"--to-batch {file} is an input, too: the requests would take the place of the rows")


def _require_kept(files: Iterable[str], streams: Streams) -> None:
    if _STREAM in files and _STREAM in (streams.inputs or [_STREAM]):
        raise UsageError("--from-batch - and the rows cannot both come from stdin: name a file for one of them")
    for option, output in (("-o", streams.output), ("--rejects", streams.rejects), ("--dropped", streams.dropped)):
        if output is not None and any(_same_file(output, file) for file in files):
            raise UsageError(f"{option} {output} would overwrite the answers of --from-batch")


def _same_file(one: str, other: str) -> bool:
    there = _STREAM not in (one, other) and Path(one).exists() and Path(other).exists()
    return there and Path(one).samefile(other)
