"""mmkit finetune"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmkit.cli.options import ImageRoot, OptionGroup
from mmkit.errors import UsageError

if TYPE_CHECKING:
    from mmkit.training import TuneConfig


@dataclass(eq=False, repr=False)  # what nobody calls costs time at start-up
class Tuning(OptionGroup):
    """The settings of `mmkit.training.TuneConfig`, as options."""

    train: Annotated[
        Literal["full", "lora"], typer.Option("--train", help="Every parameter, or LoRA on the language model.")
    ] = "full"
    lora_r: Annotated[int, typer.Option("--lora-r", help="LoRA rank.")] = 16
    lora_alpha: Annotated[float, typer.Option("--lora-alpha", help="LoRA scale is alpha / r.")] = 32.0
    lora_dropout: Annotated[float, typer.Option("--lora-dropout", help="Dropout before the adapters.")] = 0.0
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate.")] = 1e-5
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the rows.")] = 1
    max_steps: Annotated[int | None, typer.Option("--max-steps", metavar="N", help="Steps, in place of epochs.")] = None
    batch_size: Annotated[int, typer.Option("--batch-size", help="Rows in a micro-batch.")] = 8
    accumulation: Annotated[int, typer.Option("--accumulation", help="Micro-batches in a step.")] = 1
    warmup_ratio: Annotated[float, typer.Option("--warmup-ratio", help="Share of the steps that warm up.")] = 0.03
    warmup_steps: Annotated[
        int | None, typer.Option("--warmup-steps", metavar="N", help="Warm-up steps, in place of the ratio.")
    ] = None
    schedule: Annotated[
        Literal["cosine", "linear", "constant"], typer.Option("--schedule", help="How the learning rate falls.")
    ] = "cosine"
    min_lr_ratio: Annotated[float, typer.Option("--min-lr-ratio", help="Where it ends, as a share of the peak.")] = 0.0
    weight_decay: Annotated[float, typer.Option("--weight-decay", help="AdamW's weight decay.")] = 0.0
    adam_beta2: Annotated[float, typer.Option("--adam-beta2", help="AdamW's second beta.")] = 0.999
    max_grad_norm: Annotated[float, typer.Option("--max-grad-norm", help="Clip gradients at this norm.")] = 1.0
    max_length: Annotated[int, typer.Option("--max-length", help="A longer row is an error; nothing is cut.")] = 4096
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Compute activations twice, to save memory.")
    ] = False
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float64"], typer.Option("--dtype", help="auto: bfloat16 on a GPU.")
    ] = "auto"
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where to train.")] = "auto"
    seed: Annotated[int, typer.Option("--seed", help="Seed of order, dropout and LoRA's start.")] = 0
    threads: Annotated[int | None, typer.Option("--threads", metavar="N", help="CPU threads.")] = None
    workers: Annotated[int, typer.Option("--workers", help="Processes that encode rows ahead.")] = 0
    check_rows: Annotated[
        bool, typer.Option("--check-rows/--no-check-rows", help="Encode every row before the first step.")
    ] = True
    cache_mb: Annotated[int, typer.Option("--cache-mb", help="Memory for encoded rows.")] = 512

    def config(self) -> TuneConfig:
        """The settings. Raises UsageError where one is impossible."""
        from mmkit.training import TuneConfig

        return TuneConfig(**{option.name: getattr(self, option.name) for option in fields(self)})


def command(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Records with messages; - is stdin.")],
    out: Annotated[str, typer.Option("-o", "--output", metavar="DIR", help="Where the tuned model goes.")],
    tuning: Tuning,
    model: Annotated[str | None, typer.Option("--model", metavar="MODEL", help="A directory or a hub id.")] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="FILE", help="Weight rows: the λ of each task in the loss.")
    ] = None,
    default_weight: Annotated[
        float | None, typer.Option("--default-weight", metavar="λ", help="For tasks that --weights does not name.")
    ] = None,
    image_root: ImageRoot = None,
) -> None:
    """Tune a model on conversations, with a weight for each task's tokens.

    Assistant turns are in the loss, or the turns that a message's "train" names. Writes safetensors with processor,
    chat template and generation config, and run.json with what it took.

    Example: mmkit finetune train.jsonl --model base -o tuned --weights weights.jsonl
    """
    from pathlib import Path

    from mmkit import console
    from mmkit.streams import read_rows
    from mmkit.training import sample_of

    if model is None:
        raise UsageError('no model: give --model, or set it in mmkit.toml:\n\n[finetune]\nmodel = "…"')
    config = tuning.config()
    task_weights = None if weights is None else _task_weights(weights)
    root = None if image_root is None else Path(image_root)
    samples = [
        sample_of(
            row.record, image_root=root, task_weights=task_weights, default_weight=default_weight, where=row.where
        )
        for row in read_rows(inputs)
    ]
    if not samples:
        raise UsageError(f"{', '.join(inputs)}: no rows to train on")
    from mmkit.training.trainer import finetune

    with console.Progress(f"finetune {model}", unit="steps") as progress:
        report = finetune(
            samples,
            model=model,
            out=Path(out),
            config=config,
            on_step=lambda step: progress.advance(
                total=step.num_steps,
                note=f"loss {step.loss:.3f}, {step.tokens / max(step.seconds, 1e-9):,.0f} tokens/s",
            ),
        )
    console.say(
        f"mmkit finetune: {report.rows:,} rows, {report.steps:,} steps, loss {report.losses[0]:.3f} to "
        f"{report.final_loss:.3f}, {report.text_tokens + report.image_tokens:,} tokens ({report.image_tokens:,} image, "
        f"{report.loss_tokens:,} in the loss), {report.seconds_per_step:.3f} s a step, "
        f"{report.trained_parameters:,} parameters trained, in {out}"
    )


def _task_weights(path: str) -> dict[str, float]:
    from mmkit.errors import DataError
    from mmkit.streams import read_records

    weights: dict[str, float] = {}
    for number, row in enumerate(read_records(path, kind="json"), 1):
        task, weight = row.get("task"), row.get("weight")
        if not isinstance(task, str) or isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
            raise DataError(f'{path}: row {number}: expected {{"task": "…", "weight": 1.0}}')
        if task in weights:
            raise DataError(f"{path}: row {number}: task {task!r} a second time")
        weights[task] = float(weight)
    return weights
