"""mmkit finetune"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mmkit.cli.options import ImageRoot, OptionGroup
from mmkit.cli.training_rows import OneGroup, read_samples
from mmkit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmkit.balance.members import Members
    from mmkit.console import Progress
    from mmkit.training import Placement, StepReport, TuneConfig, TuneReport
    from mmkit.training.presets import Preset
    from mmkit.training.samples import Refused


@dataclass(eq=False, repr=False)  # what nobody calls costs time at start-up
class Tuning(OptionGroup):
    """The settings of `mmkit.training.TuneConfig`, as options."""

    train: Annotated[
        Literal["full", "lora", "mixlora", "llm", "projector", "llm+projector"],
        typer.Option("--train", help="Which weights move: all, LoRA adapters, mixed ones, or parts of the model."),
    ] = "full"
    lora_r: Annotated[int, typer.Option("--lora-r", help="LoRA rank.")] = 16
    lora_alpha: Annotated[float, typer.Option("--lora-alpha", help="LoRA scale is alpha / r.")] = 32.0
    lora_dropout: Annotated[float, typer.Option("--lora-dropout", help="Dropout before the adapters.")] = 0.0
    lora_targets: Annotated[
        str | None,
        typer.Option(
            "--lora-targets",
            metavar="NAMES",
            help='Layers of the language model ("q_proj,v_proj"), or "all": every linear layer of the whole model. '
            "[default: all of the language model]",
            show_default=False,
        ),
    ] = None
    experts: Annotated[
        int, typer.Option("--experts", metavar="N", help="LoRA adapters that a mixture weighs by the instruction.")
    ] = 16
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate.")] = 1e-5
    lr_vision: Annotated[
        float | None, typer.Option("--lr-vision", metavar="LR", help="That of the vision encoder, if another.")
    ] = None
    lr_projector: Annotated[
        float | None, typer.Option("--lr-projector", metavar="LR", help="That of the projector, if another.")
    ] = None
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the rows.")] = 1
    max_steps: Annotated[int | None, typer.Option("--max-steps", metavar="N", help="Steps, in place of epochs.")] = None
    batch_size: Annotated[int, typer.Option("--batch-size", help="Rows in a micro-batch of one process.")] = 8
    accumulation: Annotated[int, typer.Option("--accumulation", help="Micro-batches in a step.")] = 1
    group_by_length: Annotated[
        bool,
        typer.Option("--group-by-length/--no-group-by-length", help="With accumulation: like rows in a micro-batch."),
    ] = True
    modality_batches: Annotated[
        bool, typer.Option("--modality-batches", help="Batches of text-only or of image rows, never both (MLAN).")
    ] = False
    task_sampling: Annotated[
        Literal["proportional", "uniform", "sqrt", "weights"],
        typer.Option("--task-sampling", help="How often each task comes; all but the first repeat rows."),
    ] = "proportional"
    pack: Annotated[bool, typer.Option("--pack", help="Join the rows of a micro-batch without padding (Qwen).")] = False
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
    balance: Annotated[
        Literal["ew", "tla", "rlw", "dwa", "igb"],
        typer.Option("--balance", help="Task weights from training losses, the baselines of VisATB."),
    ] = "ew"
    balance_window: Annotated[
        int | None,
        typer.Option("--balance-window", metavar="N", help="Steps of its averages. [default: dwa 25, igb 100]"),
    ] = None
    balance_temperature: Annotated[float, typer.Option("--balance-temperature", help="Temperature of dwa.")] = 2.0
    weight_norm: Annotated[
        Literal["lambda", "tokens"], typer.Option("--weight-norm", help="Divide the loss by Σλ or by the token count.")
    ] = "lambda"
    max_length: Annotated[int, typer.Option("--max-length", help="Tokens of a row, image tokens included.")] = 4096
    overlong: Annotated[
        Literal["reject", "shorten"], typer.Option("--overlong", help="Longer rows; images are never cut.")
    ] = "reject"
    val_size: Annotated[float, typer.Option("--val-size", help="Share of the rows held out and measured.")] = 0.0
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Compute activations twice, to save memory.")
    ] = False
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float64"], typer.Option("--dtype", help="auto: bfloat16 on a GPU.")
    ] = "auto"
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where to train.")] = "auto"
    fsdp: Annotated[bool, typer.Option("--fsdp", help="Shard the language model over the processes.")] = False
    merge: Annotated[bool, typer.Option("--merge", help="LoRA: also write the whole model with the adapter.")] = False
    seed: Annotated[int, typer.Option("--seed", help="Seed of order, dropout and LoRA's start.")] = 0
    threads: Annotated[int | None, typer.Option("--threads", metavar="N", help="CPU threads.")] = None
    workers: Annotated[int, typer.Option("--workers", help="Processes that encode rows ahead.")] = 0
    check_rows: Annotated[
        bool, typer.Option("--check-rows/--no-check-rows", help="Encode every row before the first step.")
    ] = True
    cache_mb: Annotated[int, typer.Option("--cache-mb", help="Memory for encoded rows.")] = 512
    save_every: Annotated[
        int, typer.Option("--save-every", metavar="STEPS", help="Checkpoint so often, and when asked to stop.")
    ] = 500
    report_to: Annotated[
        list[str] | None, typer.Option("--report-to", metavar="NAME", help="tensorboard or wandb; repeat for both.")
    ] = None

    def config(self, preset: Preset | None, accumulation: int | None) -> TuneConfig:
        """The settings: what was given, then the preset's, then the defaults. Raises UsageError where one is
        impossible."""
        from mmkit.training import TuneConfig

        given = self.given()
        settings: dict[str, Any] = {option.name: getattr(self, option.name) for option in fields(self)}
        settings["report_to"] = tuple(self.report_to or ())
        if preset is not None:
            settings |= {name: value for name, value in preset.settings.items() if name not in given}
        if accumulation is not None and "accumulation" not in given:
            settings["accumulation"] = accumulation
        return TuneConfig(**settings)


@dataclass(eq=False, repr=False)
class Processes(OptionGroup):
    """Which processes train."""

    nproc: Annotated[
        int | None,
        typer.Option("--nproc", metavar="N", help="Processes on this machine. [default: one for each visible GPU]"),
    ] = None
    nnodes: Annotated[int, typer.Option("--nnodes", metavar="N", help="Machines; each runs this command.")] = 1
    rdzv_endpoint: Annotated[
        str | None, typer.Option("--rdzv-endpoint", metavar="HOST:PORT", help="Where the machines meet.")
    ] = None

    def placement(self) -> Placement:
        """The same as a value. Raises UsageError where it is impossible."""
        from mmkit.training.config import Placement

        return Placement(self.nproc, self.nnodes, self.rdzv_endpoint)


def command(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Records with messages; - is stdin.")],
    out: Annotated[str, typer.Option("-o", "--output", metavar="DIR", help="Where the tuned model goes.")],
    tuning: Tuning,
    processes: Processes,
    one_group: OneGroup,
    model: Annotated[str | None, typer.Option("--model", metavar="MODEL", help="A directory or a hub id.")] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", metavar="NAME", help="A paper's settings; what is given beside it overrides them."),
    ] = None,
    global_batch: Annotated[
        int | None, typer.Option("--global-batch", metavar="N", help="Rows of a step over all; sets --accumulation.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="FILE", help="Weight rows: the λ of each task in the loss.")
    ] = None,
    default_weight: Annotated[
        float | None, typer.Option("--default-weight", metavar="λ", help="For tasks that --weights does not name.")
    ] = None,
    rejects: Annotated[
        str | None, typer.Option("--rejects", metavar="FILE", help="Write rows that cannot be trained on here.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on from a checkpoint of the same run in the output.")
    ] = True,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Check all and write the job, for: torchrun … -m mmkit.training DIR")
    ] = False,
    image_root: ImageRoot = None,
) -> None:
    """Tune a model on conversations, with a weight for each task's tokens.

    Assistant turns are in the loss, or the turns that a message's "train" names. Writes safetensors with processor,
    chat template and generation config, run.json with what it took, and log.jsonl. Stopped by Ctrl-C or SIGTERM, or
    killed, the same command goes on from the last checkpoint, to the same result.

    Example: mmkit finetune train.jsonl --model base -o tuned --weights weights.jsonl

    Example: mmkit finetune train.jsonl --model base -o synergy --train lora --group synergy --groups groups.jsonl
    """
    from contextlib import ExitStack
    from pathlib import Path

    from mmkit import console
    from mmkit.cli.weights_file import read_task_weights

    if model is None:
        raise UsageError('no model: give --model, or set it in mmkit.toml:\n\n[finetune]\nmodel = "…"')
    members = one_group.members()
    placement = processes.placement()
    config = configured(tuning, preset, global_batch, placement)
    task_weights = None if weights is None else read_task_weights(weights)
    by_sampling = config.task_sampling == "weights"
    if task_weights is not None and config.balance != "ew":
        raise UsageError(f"--balance {config.balance} weighs the tasks by itself; leave --weights out")
    if default_weight is not None and (task_weights is None or by_sampling):
        raise UsageError(
            "--default-weight stands in for a λ that --weights does not name; there is none to stand in for"
        )
    samples = read_samples(
        inputs,
        image_root=image_root,
        task_weights=None if by_sampling else task_weights,
        default_weight=None if by_sampling else default_weight,
        members=members,
    )
    from mmkit.training import finetune as tune

    with ExitStack() as stack:
        arguments: dict[str, Any] = {
            "model": model,
            "out": Path(out),
            "config": config,
            "placement": placement,
            "resume": resume,
            "task_shares": task_weights if by_sampling else None,
            "task_group": None if members is None else {"name": members.group, "tasks": members.tasks},
            "command": _command_line(),
        }
        if rejects is not None:
            arguments["on_refused"] = stack.enter_context(_Rejects(rejects)).add
        if prepare:
            job, _ = tune.prepare(samples, **arguments)
            console.say(f"mmkit finetune: the job is in {out}; on each machine: {_torchrun(job.world, placement, out)}")
            return
        progress = stack.enter_context(console.Progress(f"finetune {model}", unit="steps"))
        report = tune.finetune(samples, on_step=_follower(progress), **arguments)
    console.say(_summary(report, members))


def configured(tuning: Tuning, preset: str | None, global_batch: int | None, placement: Placement) -> TuneConfig:
    """The settings of a run; says what a preset sets. Raises UsageError where one is impossible or would do nothing."""
    from mmkit import console
    from mmkit.training.presets import preset_named

    chosen = None if preset is None else preset_named(preset)
    rows_a_step = global_batch or (None if chosen is None else chosen.global_batch)
    config = tuning.config(chosen, None)
    if rows_a_step is not None and "accumulation" not in tuning.given():
        config = tuning.config(chosen, _accumulation(rows_a_step, config, placement))
    if chosen is not None:
        console.say(_told(chosen, config, tuning.given(), rows_a_step))
    _refuse_idle(tuning, config, global_batch)
    return config


def _refuse_idle(tuning: Tuning, config: TuneConfig, global_batch: int | None) -> None:
    """Raise UsageError for an option that would do nothing beside the others."""
    from mmkit.training.config import ADAPTED

    whole_model = config.train in ("full", "lora")
    no_adapters = config.train not in ADAPTED and "--train lora or mixlora"
    idle = {
        "lora_r": no_adapters,
        "lora_alpha": no_adapters,
        "lora_dropout": no_adapters,
        "lora_targets": no_adapters,
        "experts": config.train != "mixlora" and "--train mixlora",
        "merge": config.train != "lora" and "--train lora",
        "lr_vision": not (config.train == "full" or config.lora_targets == "all")
        and "a vision encoder that is trained",
        "lr_projector": not (whole_model or "projector" in config.train) and "a projector that is trained",
        "balance_temperature": config.balance != "dwa" and "--balance dwa",
        "accumulation": global_batch is not None and "no --global-batch, which sets it",
    }
    for name in sorted(tuning.given() & idle.keys()):
        if idle[name]:
            raise UsageError(f"--{name.replace('_', '-')} needs {idle[name]}")


class _Rejects:
    """The file of rows that cannot be trained on."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> _Rejects:
        from pathlib import Path

        self._file = Path(self._path).open("wb")
        return self

    def add(self, refused: Refused) -> None:
        """Write one."""
        from mmkit.streams.run import account

        source, _, line = refused.where.rpartition(":")
        self._file.write(account("finetune", source, int(line), str(refused.error), refused.record) + b"\n")

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _accumulation(rows_a_step: int, config: TuneConfig, placement: Placement) -> int:
    """Micro-batches that make a step of `rows_a_step` rows over all processes."""
    from mmkit.training.launch import num_processes

    at_once = config.batch_size * num_processes(placement, config) * placement.nnodes
    if rows_a_step % at_once:
        raise UsageError(
            f"a step of {rows_a_step} rows cannot be made of {at_once} at once (--batch-size {config.batch_size} times "
            f"the number of processes); change --batch-size or --global-batch"
        )
    return rows_a_step // at_once


def _told(preset: Preset, config: TuneConfig, given: set[str], rows_a_step: int | None) -> str:
    """What a preset sets, and where it comes from."""
    values = [f"{name} {getattr(config, name)}{' (given)' if name in given else ''}" for name in preset.settings]
    rows = [] if rows_a_step is None or "accumulation" in given else [f"{rows_a_step} rows a step"]
    return f"mmkit finetune: preset {preset.name} ({preset.source}): {', '.join([*values, *rows])}"


def _follower(progress: Progress) -> Callable[[StepReport], None]:
    """Shows each step on the bar. A run that goes on begins in the middle."""
    from mmkit import console

    seconds = steps = 0.0

    def follow(step: StepReport) -> None:
        nonlocal seconds, steps
        seconds, steps = seconds + step.seconds, steps + 1
        used = "" if step.mfu is None else f", MFU {step.mfu:.0%}"
        left = console.seconds((step.num_steps - step.step) * seconds / steps)
        speed = step.tokens / max(step.seconds, 1e-9)
        note = f"loss {step.loss:.3f}, lr {step.lr:.2g}, {speed:,.0f} tokens/s{used}, {left} left"
        progress.advance(step.step - progress.done, total=step.num_steps, note=note)

    return follow


def _summary(report: TuneReport, members: Members | None) -> str:
    group = "" if members is None else f" of {members.group}"
    others = 0 if members is None else members.num_others
    left_out = [(others, "of other groups left out"), (report.rejected, "rejected")]
    asides = ", ".join(f"{count:,} {what}" for count, what in left_out if count)
    rows = f"{report.rows:,} rows{group}" + (f" ({asides})" if asides else "")
    frozen = f" ({len(report.frozen)} tensors frozen that no loss reaches)" if report.frozen else ""
    held_out = "" if report.validation is None else f", {report.validation.loss:.3f} on held-out rows"
    return (
        f"mmkit finetune: {rows}, {report.steps:,} steps, loss {report.losses[0]:.3f} to {report.final_loss:.3f}"
        f"{held_out}, {report.text_tokens + report.image_tokens:,} tokens ({report.image_tokens:,} image, "
        f"{report.loss_tokens:,} in the loss), {report.seconds_per_step:.3f} s a step, "
        f"{report.trained_parameters:,} parameters trained{frozen}, in {report.out}"
    )


def _torchrun(world: int, placement: Placement, out: str) -> str:
    import shlex
    from pathlib import Path

    nodes = ["--standalone"]
    if placement.nnodes > 1:
        nodes = ["--nnodes", str(placement.nnodes), "--rdzv-backend", "c10d"]
        nodes += ["--rdzv-endpoint", str(placement.rdzv_endpoint)]
    per_node = str(world // placement.nnodes)
    module = ["-m", "mmkit.training", str(Path(out).absolute())]
    return shlex.join(["torchrun", *nodes, "--nproc-per-node", per_node, *module])


def _command_line() -> tuple[str, ...]:
    import sys

    return ("mmkit", *sys.argv[1:])
