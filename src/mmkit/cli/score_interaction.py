"""mmkit score-interaction"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmkit.balance.interaction import Similarity
from mmkit.cli.engine_options import Model
from mmkit.cli.options import ImageRoot, Seed, Streams
from mmkit.errors import UsageError

if TYPE_CHECKING:
    from mmkit.balance.measure import Asked, Output


def command(
    streams: Streams,
    model: Model,
    text_model: Annotated[
        str | None, typer.Option("--text-model", metavar="MODEL", help="Predicts from the text. [default: --model]")
    ] = None,
    image_model: Annotated[
        str | None, typer.Option("--image-model", metavar="MODEL", help="Predicts from the image. [default: --model]")
    ] = None,
    draws: Annotated[int, typer.Option("--draws", metavar="S", min=1, help="Draws of each task.")] = 10,
    size: Annotated[int, typer.Option("--size", metavar="C", min=1, help="Records in a draw.")] = 100,
    similarity: Annotated[
        Similarity, typer.Option("--similarity", help="Of two predictions; auto: by the answer type.")
    ] = "auto",
    absent: Annotated[
        Literal["drop", "blank"],
        typer.Option("--absent", help="Images in the view of the text: left out, or black ones of the same sizes."),
    ] = "drop",
    statements: Annotated[
        str | None,
        typer.Option("--statements", metavar="FILE", help="Rows of task and statement: what is asked of the image."),
    ] = None,
    choice_form: Annotated[
        Literal["text", "letter"],
        typer.Option("--choice-form", help="What is scored as a reply: a choice's text, its letter (likelihood)."),
    ] = "text",
    judge_model: Annotated[
        str | None,
        typer.Option("--judge-model", metavar="MODEL", help="Compares two predictions (judge). [default: --model]"),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", min=1, help="Length of a prediction.")
    ] = 256,
    per_sample: Annotated[
        bool, typer.Option("--per-sample", help="Write the sampled records with predictions and agreements instead.")
    ] = False,
    seed: Seed = 0,
    image_root: ImageRoot = None,
) -> None:
    """Score how a task's modalities interact: do text alone and image alone predict what both predict?

    A row a task: MINT's score from 0 (synergy) over 1 (uniqueness) to 2 (redundancy), intervals, what chance gives.
    Predictions that a record brings along are taken: "predictions": {"text": "...", "image": "...", "both": "..."}.

    Example: mmkit score-interaction tasks.jsonl --model Qwen/Qwen2-VL-7B-Instruct > interaction.jsonl
    """
    from mmkit.balance.interaction import table
    from mmkit.balance.measure import Measurement, Method
    from mmkit.balance.views import load_statements
    from mmkit.cli import tables
    from mmkit.engines import Sampling

    _refuse_idle(streams, model, similarity)
    method = Method(
        draws=draws,
        size=size,
        seed=seed,
        similarity=similarity,
        absent=absent,
        statements=load_statements(statements),
        choice_form=choice_form,
        sampling=Sampling(max_new_tokens=max_new_tokens, seed=seed),
        image_root=image_root,
    )
    output: Output = "samples" if per_sample else "nothing" if tables.on_terminal(streams.output) else "rows"
    with model.in_turn() as engine_of:
        models = _models(model, text_model, image_model, judge_model)
        stage = Measurement(method, models, engine_of, output, as_lines=_as_lines(streams))
        streams.run(stage, resumable=False, notes=lambda: [*stage.notes(), *model.notes()])
        if output == "nothing":
            tables.show(table(stage.rows))  # while stdout is ours: it is closed before the engine is


def _as_lines(streams: Streams) -> bool:
    """Whether rows go out as JSON, which holds no inline images."""
    from mmkit.streams.sources import format_of

    return (streams.to_format or format_of(streams.output or "")) not in ("arrow", "parquet")


def _models(
    model: Model, text_model: str | None, image_model: str | None, judge_model: str | None
) -> dict[Asked, str | None]:
    """Who is asked for what; recorded answers need no model's name."""
    own = {"text": text_model, "image": image_model, "both": None, "judge": judge_model}
    asked: dict[Asked, str | None] = {
        what: name or model.model  # type: ignore[misc]
        for what, name in own.items()
        if name or model.model or model.engine == "replay"
    }
    return asked


def _refuse_idle(streams: Streams, model: Model, similarity: str) -> None:
    """Raise UsageError for an option that has nothing to act on, and for batch files."""

    def is_given(name: str) -> bool:
        return getattr(streams.context.get_parameter_source(name), "name", None) == "COMMANDLINE"

    if model.to_batch is not None or model.from_batch:
        raise UsageError(
            "no batch files here, as what is asked is sampled first; --cache DIR keeps the answers of a run"
        )
    for name, needs in (("choice_form", "likelihood"), ("judge_model", "judge")):
        if is_given(name) and similarity != needs:
            raise UsageError(f"--{name.replace('_', '-')} has a say in --similarity {needs} alone")
    if is_given("adapter") and model.model is None:
        raise UsageError("--adapter belongs to --model, which is not given")
