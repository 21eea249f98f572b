"""mmkit split"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mmkit.cli.options import Seed, Streams
from mmkit.errors import UsageError


def command(
    streams: Streams,
    ratio: Annotated[str, typer.Option("--ratio", metavar="PART=SHARE,…", help="The parts and their shares.")] = (
        "train=.8,val=.1,test=.1"
    ),
    take: Annotated[str | None, typer.Option("--take", metavar="PART", help="Write the rows of this part.")] = None,
    into: Annotated[
        str | None, typer.Option("--into", metavar="DIR", help="Write every part to DIR/PART.jsonl.")
    ] = None,
    by: Annotated[
        Literal["image", "id"], typer.Option("--by", help="What decides, and never lies in two parts.")
    ] = "image",
    seed: Seed = 0,
) -> None:
    """Split records into parts, no image in two of them.

    The part follows from the seed and the image (or id) alone, so that more data never moves a row.

    Example: mmkit split all.jsonl --ratio train=.9,test=.1 --into data
    """
    from mmkit.cli.parts import from_files, path_of, require_room
    from mmkit.data.split import Splitter, parse_ratio

    parts = parse_ratio(ratio)
    if (take is None) == (into is None):
        raise UsageError("give one of --take PART (to stdout or -o) and --into DIR (all parts)")
    if take is not None and take not in parts:
        raise UsageError(f"--take {take}: --ratio names {', '.join(parts)}")
    if into is not None:
        if unfit := [part for part in parts if Path(part).name != part]:
            raise UsageError(f"--ratio: {unfit[0]!r} is no name for a file in {into}")
        require_room("--into", into, list(parts), streams, instead=", or use --take")
    splitter = Splitter(parts, by=by, seed=seed)
    if by == "image" and from_files(streams):
        _link(splitter, streams)
    for part in parts if into is not None else [str(take)]:
        if into is not None:
            streams.output = path_of(into, part, streams)
        streams.run(splitter.take(part))


def _link(splitter: object, streams: Streams) -> None:
    from mmkit.data.split import Splitter
    from mmkit.streams import Rejected, read

    assert isinstance(splitter, Splitter)
    rows = read(streams.inputs or (), fmt=streams.from_format)
    for _ in splitter.link(row.record for row in rows if not isinstance(row, Rejected)):
        pass
