"""The options of `mmkit doctor --parity`: which model, which records, how both engines are set up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from mmkit.cli.options import ImageRoot, OptionGroup
from mmkit.errors import UsageError

if TYPE_CHECKING:
    from mmkit.engines import Request


@dataclass(eq=False, repr=False)  # what nobody calls costs time at start-up
class Parity(OptionGroup):
    """Two engines, the same records."""

    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[INPUT]...",
            help="Records to compare on, asked as predict asks; none: built-in ones.",
            show_default=False,
        ),
    ] = None
    parity: Annotated[
        bool, typer.Option("--parity", help="Compare what transformers and vLLM make of the same records.")
    ] = False
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="A directory or a hub id (--parity).")
    ] = None
    adapter: Annotated[
        str | None, typer.Option("--adapter", metavar="DIR", help="A LoRA adapter, in both engines.")
    ] = None
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="float32, bfloat16 or float16, in both engines. [default: the checkpoint's]"),
    ] = None
    device: Annotated[
        str | None, typer.Option("--device", help="Where transformers computes. [default: a GPU if there is one]")
    ] = None
    gpu_memory: Annotated[
        float | None,
        typer.Option(
            "--gpu-memory", metavar="SHARE", min=0.01, max=1.0, help="Of each GPU, for vLLM. [default: vLLM's]"
        ),
    ] = None
    tensor_parallel: Annotated[
        int, typer.Option("--tensor-parallel", metavar="N", min=1, help="GPUs that share the model in vLLM.")
    ] = 1
    vllm: Annotated[
        list[str] | None,
        typer.Option("--vllm", metavar="NAME=VALUE", help="Any other engine argument of vLLM.", show_default=False),
    ] = None
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            metavar="NATS",
            min=0.0,
            help="Allowed between log-probabilities. [default: .001, .03, .25 in float32, float16, bfloat16]",
        ),
    ] = None
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Compare on the first N records.")] = 100
    image_root: ImageRoot = None

    def run(self, output: str | None) -> None:
        """Compare, write a row a record and say what it comes to. Raises UnavailableError where the engines differ."""
        from mmkit import console
        from mmkit.cli import tables
        from mmkit.engines import parity
        from mmkit.engines.parity.readings import Side, examine
        from mmkit.streams.sinks import stdout_on_stderr

        if self.model is None:
            raise UsageError('no model: give --model, or set it in mmkit.toml:\n\n[doctor]\nmodel = "…"')
        requests = self._requests(self.model)
        with stdout_on_stderr():
            found = examine(
                self.model,
                requests,
                transformers=Side(self.adapter, device=self.device),
                vllm=Side(
                    self.adapter,
                    gpu_memory=self.gpu_memory,
                    tensor_parallel=self.tensor_parallel,
                    engine_args=self.vllm or (),
                ),
                dtype=self.dtype,
                tolerance=self.tolerance,
            )
        tables.deliver((one.to_wire() for one in found.comparisons), parity.table(found.comparisons), output)
        console.say(f"mmkit doctor: {found.conclude()}")

    def require_unused(self) -> None:
        """Raise UsageError where the command line says something that needs --parity, and does not say that."""
        for parameter in self.context.command.params:
            source = self.context.get_parameter_source(parameter.name or "")
            own = parameter.name in type(self).__dataclass_fields__
            if own and source is not None and source.name == "COMMANDLINE":
                shown = "INPUT" if parameter.name == "inputs" else parameter.opts[0]
                raise UsageError(f"{shown} has nothing to act on without --parity")

    def _requests(self, model: str) -> list[Request] | None:
        """The records of the input as requests; None where there is no input. Raises the first bad row's error."""
        from itertools import islice

        from mmkit.engines import Sampling
        from mmkit.errors import DataError, MmkitError
        from mmkit.evaluation.predict import predict
        from mmkit.streams import read_rows

        if not self.inputs:
            return None
        inquiry = predict(model, sampling=Sampling(max_new_tokens=1), image_root=self.image_root)
        requests: list[Request] = []
        for row in islice(read_rows(self.inputs), self.limit):
            try:
                requests += inquiry.requests(row)
            except MmkitError as error:
                raise type(error)(f"{row.where}: {error}") from None
        if not requests:
            raise DataError(f"{', '.join(self.inputs)}: no records")
        return requests
