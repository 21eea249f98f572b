"""mmkit convert"""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from mmkit.cli.options import ImageRoot, Streams
from mmkit.errors import UsageError


def command(
    streams: Streams,
    shape: Annotated[
        Literal["records", "llava"], typer.Option("--shape", help="Write mmkit's records or LLaVA's conversations.")
    ] = "records",
    images_to: Annotated[
        str | None, typer.Option("--images-to", metavar="DIR", help="Write images into DIR, named by their hash.")
    ] = None,
    image_root: ImageRoot = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            "--benchmark",
            metavar="NAME",
            help="Make tasks of this set's rows: from the hub, or INPUT, its files or a directory with a copy of it.",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="Of the benchmark. [default: the evaluated one]")
    ] = None,
) -> None:
    """Change format and shape: LLaVA to records and back, JSONL to Arrow to Parquet, benchmarks to tasks.

    Reads every accepted shape and format; the output's format follows -o's suffix or --to.

    Example: mmkit convert llava_v1_5_mix665k.json -o mix.parquet

    Example: mmkit convert --benchmark slake --images-to images -o slake.jsonl
    """
    from mmkit.data.convert import convert

    stage = convert(shape=shape, images_to=images_to, image_root=image_root)
    if benchmark is None:
        if split is not None:
            raise UsageError("--split needs --benchmark")
        streams.run(stage)
        return
    from mmkit.data import benchmark_sets
    from mmkit.streams.rows import chained
    from mmkit.tasks import benchmarks

    definition = benchmarks.benchmark(benchmark)
    tasks = benchmark_sets.tasks_of(definition, image_root)
    inputs = benchmark_sets.inputs_of(definition, streams.inputs or (), split)
    streams.run(chained(tasks, stage), kind="json", inputs=inputs)
