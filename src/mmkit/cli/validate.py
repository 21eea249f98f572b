"""mmkit validate"""

from __future__ import annotations

from typing import Annotated

import typer

from mmkit.cli.options import ImageRoot, Streams
from mmkit.errors import UsageError


def command(
    streams: Streams,
    check_ids: Annotated[
        bool, typer.Option("--check-ids", help="Reject a repeated id (16 bytes of memory a row).")
    ] = False,
    check_images: Annotated[bool, typer.Option("--check-images", help="Decode every image.")] = False,
    image_root: ImageRoot = None,
) -> None:
    """Check every record and pass it on unchanged.

    Schema, roles, image parts against images; on demand ids and the images themselves.

    Example: mmkit validate train.jsonl --check-ids --check-images --rejects bad.jsonl > good.jsonl
    """
    from mmkit.data.validate import validate

    if check_ids and streams.shard is not None:
        raise UsageError("--check-ids looks at all rows together, which --shard does not see")
    # The ids seen before a checkpoint are in no file, so a killed run with --check-ids starts over.
    streams.run(
        validate(check_ids=check_ids, check_images=check_images, image_root=image_root), resumable=not check_ids
    )
