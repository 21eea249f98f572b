"""mmkit render"""

from __future__ import annotations

from itertools import groupby, islice
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmkit.cli.options import ImageRoot
from mmkit.cli.training_rows import OneGroup, read_samples
from mmkit.errors import UsageError

if TYPE_CHECKING:
    from rich.text import Text

    from mmkit.training.render import Rendering

_STYLES = {"text": "", "control": "bold blue", "image": "cyan"}


def command(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Records with messages; - is stdin.")],
    one_group: OneGroup,
    model: Annotated[str | None, typer.Option("--model", metavar="MODEL", help="A directory or a hub id.")] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="Write rows here. [default: stdout]")
    ] = None,
    num_rows: Annotated[int, typer.Option("-n", "--num-rows", metavar="N", min=1, help="Only the first N rows.")] = 5,
    max_length: Annotated[
        int, typer.Option("--max-length", min=1, help="Tokens of a row, image tokens included.")
    ] = 4096,
    overlong: Annotated[
        Literal["reject", "shorten"], typer.Option("--overlong", help="Longer rows; images are never cut.")
    ] = "reject",
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="FILE", help="Weight rows: the λ of each task in the loss.")
    ] = None,
    default_weight: Annotated[
        float | None, typer.Option("--default-weight", metavar="λ", help="For tasks that --weights does not name.")
    ] = None,
    image_root: ImageRoot = None,
) -> None:
    """Show what finetune would see: tokens, loss mask, weights, and what would be cut.

    Reads the model's tokenizer and processor, not its weights. On a terminal what is learned stands ⟦in brackets⟧ and
    what is cut behind ✂; a pipe gets rows with the token ids. A row that could not be trained on says why.

    Example: mmkit render train.jsonl --model base -n 3
    """
    from mmkit import console
    from mmkit.cli import tables
    from mmkit.cli.weights_file import read_task_weights
    from mmkit.models.loading import load_chat
    from mmkit.training.render import render

    if model is None:
        raise UsageError('no model: give --model, or set it in mmkit.toml:\n\n[render]\nmodel = "…"')
    task_weights = None if weights is None else read_task_weights(weights)
    rows = read_samples(
        inputs,
        image_root=image_root,
        task_weights=task_weights,
        default_weight=default_weight,
        members=one_group.members(),
    )
    first = list(islice(rows, num_rows))
    chat = load_chat(model)
    found = [render(row, chat, max_length=max_length, overlong=overlong) for row in first]
    if tables.on_terminal(output):
        for rendering in found:
            _show(rendering)
    else:
        tables.write((rendering.to_wire() for rendering in found), output)
    refused = sum(rendering.error is not None for rendering in found)
    note = f", {refused:,} of which cannot be trained on" if refused else ""
    console.say(f"mmkit render: {len(found):,} rows{note}")


def _show(rendering: Rendering) -> None:
    """One row on the terminal."""
    from rich.console import Console
    from rich.text import Text

    from mmkit.console import escape

    terminal = Console(highlight=False)
    terminal.print(Text(escape(_headline(rendering)), "bold"))
    if rendering.error is not None:
        terminal.print(Text(f"cannot be trained on: {escape(rendering.error)}", "red"))
    body = _body(rendering)
    terminal.print(body, end="\n" if body.plain.endswith("\n") else "\n\n")


def _headline(rendering: Rendering) -> str:
    """What there is to say about a row in one line."""
    parts = [f"{rendering.id} ({rendering.where})" if rendering.id else rendering.where]
    if rendering.task is not None:
        parts.append(f"task {rendering.task}")
    if rendering.weight is not None:
        parts.append(f"λ {rendering.weight:g}")
    if rendering.segments:
        parts.append(f"{rendering.num_tokens:,} tokens ({rendering.num_image_tokens:,} of images)")
        parts.append(f"{rendering.num_loss_tokens:,} learned")
    if rendering.num_cut_tokens:
        parts.append(f"{rendering.num_cut_tokens:,} more cut")
    return ", ".join(parts)


def _body(rendering: Rendering) -> Text:
    """The tokens as text, with marks that do not depend on colour."""
    from rich.text import Text

    from mmkit.console import escape

    body = Text()
    was_cut = False
    for (in_loss, cut), segments in groupby(rendering.segments, key=lambda segment: (segment.in_loss, segment.cut)):
        if cut and not was_cut:
            body.append("✂", "bold red")
        was_cut = cut
        body.append("⟦" * in_loss, "bold green")
        for segment in segments:
            style = " ".join([_STYLES[segment.kind], "green" * in_loss, "strike" * cut])
            body.append("\n".join(map(escape, segment.text.split("\n"))), style)
        body.append("⟧" * in_loss, "bold green")
    return body
