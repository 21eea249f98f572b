"""mmkit convert"""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from mmkit.cli.options import ImageRoot, Streams


def command(
    streams: Streams,
    shape: Annotated[
        Literal["records", "llava"], typer.Option("--shape", help="Write mmkit's records or LLaVA's conversations.")
    ] = "records",
    images_to: Annotated[
        str | None, typer.Option("--images-to", metavar="DIR", help="Write images into DIR, named by their hash.")
    ] = None,
    image_root: ImageRoot = None,
) -> None:
    """Change format and shape: LLaVA to records and back, JSONL to Arrow to Parquet.

    Reads every accepted shape and format; the output's format follows -o's suffix or --to.

    Example: mmkit convert llava_v1_5_mix665k.json -o mix.parquet
    """
    from mmkit.data.convert import convert

    streams.run(convert(shape=shape, images_to=images_to, image_root=image_root))
