"""The options of every command that asks a model: which model, which engine, and who answers when."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mmkit.cli.options import OptionGroup, Streams
from mmkit.errors import UsageError

if TYPE_CHECKING:
    from mmkit.engines import Engine
    from mmkit.engines.exchange import Inquiry
    from mmkit.engines.meter import Metered
    from mmkit.streams.rows import Stage

EngineName = Literal["transformers", "vllm", "openai", "replay"]


@dataclass(eq=False, repr=False)  # what nobody calls costs time at start-up
class Model(OptionGroup):
    """The model that answers, and the engine that runs it."""

    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="A directory, a hub id, or the server's model name.")
    ] = None
    engine: Annotated[
        EngineName,
        typer.Option(
            "--engine",
            help="transformers, vllm: in this process; openai: any compatible server; replay: recorded.",
        ),
    ] = "transformers"
    adapter: Annotated[
        str | None, typer.Option("--adapter", metavar="DIR", help="A LoRA adapter on the model (transformers, vllm).")
    ] = None
    base_url: Annotated[
        list[str] | None,
        typer.Option(
            "--base-url",
            metavar="URL",
            help="The server, such as http://localhost:8000/v1; several share the work (openai).",
            show_default=False,
        ),
    ] = None
    answers: Annotated[
        str | None, typer.Option("--answers", metavar="FILE", help="Recorded answers, rows of id and text (replay).")
    ] = None
    cache: Annotated[
        str | None, typer.Option("--cache", metavar="DIR", help="Keep replies here; a second run asks nothing twice.")
    ] = None
    to_batch: Annotated[
        str | None,
        typer.Option("--to-batch", metavar="FILE", help="Ask nobody: write the requests, for vllm run-batch and such."),
    ] = None
    from_batch: Annotated[
        list[str] | None,
        typer.Option(
            "--from-batch",
            metavar="FILE",
            help="Answers to what --to-batch wrote; several files together.",
            show_default=False,
        ),
    ] = None
    device: Annotated[
        str | None,
        typer.Option("--device", help="cpu, cuda, cuda:1, … (transformers). [default: a GPU if there is one]"),
    ] = None
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="float32, bfloat16, … (transformers, vllm). [default: the checkpoint's]"),
    ] = None
    batch_tokens: Annotated[
        int, typer.Option("--batch-tokens", metavar="N", min=1, help="Padded tokens in one batch (transformers).")
    ] = 16384
    window: Annotated[
        int, typer.Option("--window", metavar="N", min=1, help="Rows that share a batch plan (transformers).")
    ] = 512
    gpu_memory: Annotated[
        float | None,
        typer.Option(
            "--gpu-memory",
            metavar="SHARE",
            min=0.01,
            max=1.0,
            help="Share of each GPU's memory to take, so that two stages fit (vllm). [default: vLLM's]",
        ),
    ] = None
    tensor_parallel: Annotated[
        int, typer.Option("--tensor-parallel", metavar="N", min=1, help="GPUs that share the model (vllm).")
    ] = 1
    restart_every: Annotated[
        int | None,
        typer.Option("--restart-every", metavar="N", min=1, help="A fresh engine after every N requests (vllm)."),
    ] = None
    vllm: Annotated[
        list[str] | None,
        typer.Option(
            "--vllm",
            metavar="NAME=VALUE",
            help="Any other engine argument of vLLM, such as max_model_len=8192.",
            show_default=False,
        ),
    ] = None
    max_in_flight: Annotated[
        int | None,
        typer.Option(
            "--max-in-flight",
            metavar="N",
            min=1,
            help="Requests open at once. [default: 64 a server (openai), 256 (vllm)]",
            show_default=False,
        ),
    ] = None
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

    _meters: list[Any] = field(default_factory=list, init=False, repr=False)
    _from_batch_digest: str | None = field(default=None, init=False, repr=False)
    _adapters: Sequence[str] = field(default=(), init=False, repr=False)

    def answer(
        self,
        streams: Streams,
        inquiry_of: Callable[[str], Inquiry[Any]],
        *,
        first: Stage | None = None,
        then: Stage | None = None,
        adapters: Sequence[str] = (),
        identity: Mapping[str, Any] | None = None,
        notes: Callable[[], list[str]] = list,
        show: Callable[[], None] | None = None,
        **reading: Any,
    ) -> None:
        """Put an inquiry about every row to the engine, or into a batch file, and write what comes of it.

        `inquiry_of` makes it for a model of that name. `first` is a stage that makes the rows to ask about, `then` one
        for the rows that were answered, `adapters` are those that requests name, `show` prints a table at the end;
        the rest is as in `Streams.run`. Raises UsageError for a batch file where there is a `first` stage.
        """
        from mmkit.cli import batch_options
        from mmkit.engines.exchange import ask
        from mmkit.streams.rows import chained

        self._adapters = adapters
        batch_options.require_sense(self, streams)
        if self.to_batch is not None:
            if first is not None:
                raise UsageError(
                    "--to-batch: make the tasks with mmkit convert --benchmark, then mmkit predict --to-batch"
                )
            model = self._named_model()
            batch_options.write_requests(self.to_batch, streams, inquiry_of(model), model, adapters, identity)
            return
        with self.opened() as engine:
            asked = ask(engine, inquiry_of(engine.model))
            stages = [stage for stage in (first, asked, then) if stage is not None]
            streams.run(
                functools.reduce(chained, stages),
                window=engine.window,
                identity={**(identity or {}), "from_batch_digest": self._from_batch_digest},
                notes=lambda: [*notes(), *self.notes()],
                **reading,
            )
            if show is not None:
                show()  # while stdout is ours: it is closed before the engine is

    @contextmanager
    def opened(self) -> Iterator[Engine]:
        """The engine that the options describe, closed at the end. Its model loads when the first request comes."""
        with self.in_turn() as engine_of:
            yield engine_of(self.model)

    @contextmanager
    def in_turn(self) -> Iterator[Callable[[str | None], Engine]]:
        """A function that gives the engine of a model, by its name: one at a time, as two may not fit in memory. To
        ask for another model closes the last one's engine; the end closes the rest. `adapter` belongs to `model`."""
        from mmkit.streams.sinks import close_stdout

        open_now: dict[str | None, Engine] = {}

        def engine_of(model: str | None) -> Engine:
            if model not in open_now:
                while open_now:
                    open_now.popitem()[1].close()
                open_now[model] = (self if model == self.model else self._with_model(model))._metered(self._meters)
            return open_now[model]

        try:
            yield engine_of
        finally:
            close_stdout()  # the records are out; engines print when they end, and at the very end of the process
            while open_now:
                open_now.popitem()[1].close()

    def notes(self) -> list[str]:
        """What the engine did, for the summary; where there were several, each with its model's name."""
        meters = self._meters
        return [meter.line() if len(meters) == 1 else f"{meter.model}: {meter.line()}" for meter in meters]

    def _with_model(self, model: str | None) -> Model:
        other = replace(self, model=model, adapter=None)
        other.context = self.context
        return other

    def _metered(self, meters: list[Metered]) -> Engine:
        """The engine behind a meter, which goes to the others, and behind the cache."""
        from mmkit.engines.meter import Metered

        meters.append(Metered(self._answerer(), self.price_in or 0.0, self.price_out or 0.0))
        if self.cache is None:
            return meters[-1]
        from mmkit.engines.cache import CachedEngine

        return CachedEngine(meters[-1], self.cache, adapter=self.adapter)

    def _answerer(self) -> Engine:
        if self.from_batch:
            from mmkit.engines.batch_files.answers import BatchAnswers

            answers = BatchAnswers(self.from_batch, self._named_model())
            self._from_batch_digest = answers.digest
            return answers
        from mmkit.engines import catalog

        return catalog.open_engine(self.engine, self._engine_options())

    def _engine_options(self) -> Mapping[str, Any]:
        if self.engine == "replay":
            if self.answers is None:
                raise UsageError("--engine replay needs --answers FILE")
            return {"path": self.answers}
        model = self._named_model()
        if self.engine == "openai":
            if not self.base_url:
                raise UsageError("--engine openai needs --base-url, such as http://localhost:8000/v1")
            return {
                "model": model,
                "base_urls": self.base_url,
                "max_in_flight": self.max_in_flight or 64 * len(self.base_url),
                "timeout_s": self.timeout_s,
                "max_retries": self.max_retries,
            }
        if self.engine == "vllm":
            return {
                "model": model,
                "adapter": self.adapter,
                "adapters": self._adapters,
                "dtype": self.dtype,
                "gpu_memory": self.gpu_memory,
                "tensor_parallel": self.tensor_parallel,
                "restart_every": self.restart_every,
                "max_in_flight": self.max_in_flight or 256,
                "engine_args": self.vllm or (),
            }
        return {
            "model": model,
            "adapter": self.adapter,
            "adapters": self._adapters,
            "device": self.device,
            "dtype": self.dtype,
            "max_batch_tokens": self.batch_tokens,
            "window": self.window,
        }

    def _named_model(self) -> str:
        if self.model is None:
            command = self.context.info_name
            raise UsageError(f'no model: give --model, or set it in mmkit.toml:\n\n[{command}]\nmodel = "…"')
        return self.model
