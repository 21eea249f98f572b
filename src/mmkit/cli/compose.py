"""mmkit compose"""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from mmkit.cli.options import ImageRoot, Seed, Streams
from mmkit.errors import UsageError


def command(
    streams: Streams,
    stage: Annotated[
        Literal["single", "captions", "tasks", "synthesizer"],
        typer.Option("--stage", help="single: captions and tasks together; synthesizer: seed tasks that tune one."),
    ] = "single",
    captions: Annotated[
        str | None, typer.Option("--captions", metavar="FILE", help="The image-caption records of the tasks (single).")
    ] = None,
    response: Annotated[
        Literal["cot", "precise", "informative"],
        typer.Option("--response", help="cot: the informative answer, concluded by the precise one."),
    ] = "cot",
    caption_only: Annotated[
        bool, typer.Option("--caption-only/--no-caption-only", help="Keep captions that have no task (single).")
    ] = True,
    blank_rate: Annotated[
        float, typer.Option("--blank-rate", metavar="RATE", min=0.0, max=1.0, help="Share of rows with a blank image.")
    ] = 0.0,
    blank_image: Annotated[
        str, typer.Option("--blank-image", metavar="FILE", help="The blank image; made if it is missing.")
    ] = "blank.png",
    seed: Seed = 0,
    image_root: ImageRoot = None,
) -> None:
    """Turn tasks and captions into the conversations that finetune trains on.

    Example: mmkit compose tasks.jsonl --captions pmc.jsonl --stage single > train.jsonl
    """
    from mmkit.data import compose

    if (captions is not None) != (stage == "single"):
        raise UsageError("--captions FILE goes with --stage single, and with no other")
    if captions is not None and (streams.limit is not None or streams.shard is not None):
        raise UsageError("--stage single joins whole files: leave out --limit and --shard")
    inputs, identity, notes = None, {}, []
    if captions is not None:
        tasks = compose.TaskIndex(streams.records())
        inputs, identity = [captions], {"tasks": tasks.digest()}
        notes = [f"{len(tasks):,} tasks joined in"]
        chosen = compose.single_stage(tasks, response=response, caption_only=caption_only, seed=seed)
    elif stage == "captions":
        chosen = compose.captions_stage(seed=seed)
    elif stage == "tasks":
        chosen = compose.tasks_stage(response=response, seed=seed)
    else:
        chosen = compose.synthesizer_stage(seed=seed)
    if blank_rate:
        compose.make_blank(blank_image, image_root)
        chosen = compose.blank_some(chosen, rate=blank_rate, blank_path=blank_image, seed=seed)
    # Which tasks were taken before a checkpoint is in no file, so a killed run that joins starts over.
    streams.run(chosen, inputs=inputs, identity=identity, notes=lambda: notes, resumable=captions is None)
