"""mmkit instruct"""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from mmkit.cli.options import Seed, Streams
from mmkit.errors import UsageError


def command(
    streams: Streams,
    templates: Annotated[
        str | None, typer.Option("--templates", metavar="FILE", help="Wordings in place of the built-in ones, as JSON.")
    ] = None,
    prompt: Annotated[
        Literal["benchmark", "phrasing"],
        typer.Option("--prompt", help="benchmark: where a record's benchmark has a prompt of its own, that one."),
    ] = "benchmark",
    option_style: Annotated[
        Literal["dot", "paren", "parens", "inline"],
        typer.Option("--option-style", help="A. x, A) x or (A) x, one a line; inline: A. x B. y on one line."),
    ] = "dot",
    context_place: Annotated[
        Literal["before", "after", "none"], typer.Option("--context", help="Where a task's context stands.")
    ] = "before",
    answer_style: Annotated[
        Literal["letter", "text", "both"], typer.Option("--answer-style", help="How an option is named as the answer.")
    ] = "letter",
    closer: Annotated[
        bool, typer.Option("--closer/--no-closer", help='State the answer: "So the answer is B", or "B" alone.')
    ] = True,
    rationale: Annotated[
        bool, typer.Option("--rationale", help="Give the task's rationale before the answer.")
    ] = False,
    merge_image: Annotated[
        bool, typer.Option("--merge-image", help="Questions on one image become conversations of up to nine.")
    ] = False,
    seed: Seed = 0,
) -> None:
    """Turn tasks into conversations: each question in a varied wording, by the type of its answer.

    The answer type is the benchmark's, the record's answer_type, or follows from its choices; never from the answer.

    Example: mmkit instruct tasks.jsonl --rationale > train.jsonl
    """
    from mmkit.data import instruct
    from mmkit.tasks.prompts import load_phrasings

    if rationale and not closer:
        raise UsageError("--rationale goes with a closer: without one nothing tells the answer from the reasoning")
    if merge_image and streams.shard is not None:
        raise UsageError("--merge-image needs all questions on an image: leave out --shard")
    phrasings = load_phrasings(templates)
    form = instruct.Form(prompt, option_style, context_place, answer_style, closer, rationale, seed)
    instructor = instruct.Instructor(form, phrasings)
    merger = instruct.Merger(instructor)

    def notes() -> list[str]:
        counts = [
            (instructor.num_by_benchmark, "asked by their benchmark's own prompt"),
            (instructor.num_without_rationale, "without a rationale"),
        ]
        merged = f"{merger.num_questions:,} questions on {merger.num_images:,} images in "
        conversations = [f"{merged}{merger.num_conversations:,} conversations"] if merge_image else []
        return [*conversations, *(f"{count:,} {what}" for count, what in counts if count)]

    streams.run(
        merger if merge_image else instruct.instruct_stage(instructor),
        identity={"templates_text": phrasings.digest()},
        notes=notes,
        # What was said about an image before a checkpoint is in no file, so a killed run that merges starts over.
        resumable=not merge_image,
    )
