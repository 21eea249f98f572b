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
    from mmkit.data.split import Splitter, parse_ratio

    parts = parse_ratio(ratio)
    if (take is None) == (into is None):
        raise UsageError("give one of --take PART (to stdout or -o) and --into DIR (all parts)")
    if take is not None and take not in parts:
        raise UsageError(f"--take {take}: --ratio names {', '.join(parts)}")
    from_files = bool(streams.inputs) and not any(_is_pipe(name) for name in streams.inputs or ())
    if into is not None:
        _require_room(into, list(parts), streams, from_files)
    splitter = Splitter(parts, by=by, seed=seed)
    if from_files and by == "image":
        _link(splitter, streams)
    for part in parts if into is not None else [str(take)]:
        if into is not None:
            streams.output = f"{into}/{part}.jsonl"
        streams.run(splitter.take(part))


def _is_pipe(name: str) -> bool:
    """Whether an input can be read only once: stdin, a named pipe, the shell's <(…)."""
    path = Path(name)
    return name == "-" or (path.exists() and not path.is_file())


def _require_room(into: str, parts: list[str], streams: Streams, from_files: bool) -> None:
    """Refuse what --into DIR cannot do."""
    if not from_files:
        raise UsageError("--into reads its input once a part, which a pipe cannot do: name a file, or use --take")
    if streams.output is not None or streams.dropped is not None:
        raise UsageError("--into names the outputs itself and drops nothing; leave out -o and --dropped")
    for part in parts:
        if Path(part).name != part:
            raise UsageError(f"--ratio: {part!r} is no name for a file in {into}")
        target = Path(into, f"{part}.jsonl").resolve()
        if any(Path(name).resolve() == target for name in streams.inputs or ()):
            raise UsageError(f"--into {into}: the part {part!r} would overwrite the input")


def _link(splitter: object, streams: Streams) -> None:
    from mmkit.data.split import Splitter
    from mmkit.streams import Rejected, read

    assert isinstance(splitter, Splitter)
    rows = read(streams.inputs or (), fmt=streams.from_format)
    for _ in splitter.link(row.record for row in rows if not isinstance(row, Rejected)):
        pass
