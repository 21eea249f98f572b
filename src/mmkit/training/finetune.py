"""`finetune`: samples and a model in, a tuned model or an adapter out."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmkit.errors import UsageError
from mmkit.models.loading import load_chat
from mmkit.training import checkpoints, packing
from mmkit.training.balance import balance_of
from mmkit.training.config import Placement, StepReport, TuneConfig, TuneReport
from mmkit.training.job import (
    FOLDER,
    Job,
    OnRefused,
    StoredSamples,
    check_target,
    claimed,
    files_of,
    read_job,
    refuse_again,
    refuse_none,
    remove,
    write_facts,
    write_samples,
)
from mmkit.training.launch import num_processes, run_under_torchrun
from mmkit.training.output import read_report
from mmkit.training.prepare import check_trainable
from mmkit.training.ranks import connected
from mmkit.training.rows import Rows
from mmkit.training.samples import Refused, Sample
from mmkit.training.stopping import StopSignal
from mmkit.training.tracking import check_installed
from mmkit.training.trainer import rows_of, run

OnStep = Callable[[StepReport], None]

ONE_PROCESS = Placement(nproc=1)


def finetune(
    samples: Iterable[Sample | Refused],
    *,
    model: str,
    out: Path,
    config: TuneConfig,
    placement: Placement = ONE_PROCESS,
    resume: bool = True,
    on_step: OnStep | None = None,
    on_refused: OnRefused = refuse_none,
    task_shares: Mapping[str, float] | None = None,
    task_group: Mapping[str, Any] | None = None,
    command: tuple[str, ...] = (),
) -> TuneReport:
    """Tune `model` (a directory or hub id) on `samples` and leave a directory `out` that from_pretrained loads.

    The loss is Σ λ·nll / Σ λ over the valid tokens of each optimizer step's rows, of all processes (VisATB, eq. 2;
    deviation: none). A run that was stopped goes on from its last checkpoint, where `out` holds one of the same
    samples, model and settings; without `resume` it begins anew. `on_step` hears of every optimizer step, `on_refused`
    of every row that cannot be trained on; without it such a row is an error. `task_group`, the `name` and the
    `tasks` of the group whose rows the samples are, is recorded.

    Raises DataError for a row that cannot be trained on (with `config.check_rows` before the first step) and for a
    model directory that is none, MissingInputError for an image that is not there, UsageError where `out` is something
    else's directory or holds another run's checkpoint, Stopped (a LimitError) after a signal, and LimitError where the
    loss or the gradient stops being finite.
    """
    with _place(out, placement):
        job, rows = _prepare(
            samples,
            model=model,
            out=out,
            config=config,
            placement=placement,
            resume=resume,
            on_refused=on_refused,
            task_shares=task_shares,
            task_group=task_group,
            command=command,
        )
        if job.world > 1:
            run_under_torchrun(out, placement, job.world // placement.nnodes, _steps_to(on_step))
        else:
            with connected(config) as ranks, StopSignal(out) as stop:
                run(out, ranks, rows=rows, on_step=on_step, stop_requested=stop.requested)
    return read_report(out)


def prepare(
    samples: Iterable[Sample | Refused],
    *,
    model: str,
    out: Path,
    config: TuneConfig,
    placement: Placement = ONE_PROCESS,
    resume: bool = True,
    on_refused: OnRefused = refuse_none,
    task_shares: Mapping[str, float] | None = None,
    task_group: Mapping[str, Any] | None = None,
    command: tuple[str, ...] = (),
) -> tuple[Job, Rows | None]:
    """Write the job of `finetune` into `out` without doing it. Gives it, and its rows where they have been encoded.

    Arguments and errors are those of `finetune`, without the ones of training.
    """
    with _place(out, placement):
        return _prepare(
            samples,
            model=model,
            out=out,
            config=config,
            placement=placement,
            resume=resume,
            on_refused=on_refused,
            task_shares=task_shares,
            task_group=task_group,
            command=command,
        )


@contextmanager
def _place(out: Path, placement: Placement) -> Iterator[None]:
    """Have `out` for a run. Where it fails and has nothing to go on from, nothing of it is left."""
    check_target(out)
    was_there = (out / FOLDER / "job.json").exists()
    with claimed(out, shared=placement.nnodes > 1):
        try:
            yield
        except BaseException:
            if not was_there and not checkpoints.any_in(out / FOLDER):
                remove(out)
            raise


def _prepare(
    samples: Iterable[Sample | Refused],
    *,
    model: str,
    out: Path,
    config: TuneConfig,
    placement: Placement,
    resume: bool,
    on_refused: OnRefused,
    task_shares: Mapping[str, float] | None,
    task_group: Mapping[str, Any] | None,
    command: tuple[str, ...],
) -> tuple[Job, Rows | None]:
    world = num_processes(placement, config) * placement.nnodes
    _check_settings(config, world, task_shares)
    chat = load_chat(model)
    if config.pack:
        packing.check_family(chat.family)
    check_trainable(model, config)
    folder = out / FOLDER
    staging = Path(tempfile.mkdtemp(prefix="new-", dir=folder))
    try:
        data_sha256, num_refused = write_samples(staging, samples, on_refused)
        job = Job(
            out=out,
            model=model,
            config=config,
            world=world,
            model_files=files_of(model),
            task_shares=task_shares,
            task_group=task_group,
            data_sha256=data_sha256,
            num_rejected=num_refused,
            command=command,
        )
        checkpoint = checkpoints.latest(folder) if resume else None
        if checkpoint is not None:
            _check_same(job, checkpoint.step)
            again = refuse_again(folder, job.samples(), on_refused)
            job = replace(job, num_rejected=num_refused + again)
            job.write()
            return job, None
        rows = rows_of(StoredSamples(staging / "samples.jsonl"), chat, config)
        job = replace(job, num_rejected=num_refused + write_facts(staging, rows, config, on_refused))
        checkpoints.remove_all(folder)
        job.replace_files(staging)
        return job, rows
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_settings(config: TuneConfig, world: int, task_shares: Mapping[str, float] | None) -> None:
    """Raise what is wrong with the settings, before a row is read."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "finetune starts torchrun by itself; under an outer one, write the job with --prepare and run: "
            "torchrun … -m mmkit.training OUT"
        )
    balance_of(config, num_tasks=1)
    check_installed(config.report_to)
    if config.task_sampling == "weights" and task_shares is None:
        raise UsageError("task_sampling weights needs the weights of the tasks (--weights)")
    if config.fsdp and world == 1:
        raise UsageError("--fsdp shards the model over several processes, and there is one (--nproc)")
    if config.fsdp and config.train == "projector":
        raise UsageError("--fsdp shards the language model, of which --train projector trains nothing")


def _check_same(job: Job, step: int) -> None:
    """Raise UsageError unless the job that stopped after `step` steps is this one."""
    differences = job.differences(read_job(job.out))
    if differences:
        raise UsageError(
            f"{job.out} holds a checkpoint after step {step:,} of another run; go on with the same, choose another "
            f"directory, or begin anew with --no-resume\n" + "\n".join(differences)
        )


def _steps_to(on_step: OnStep | None) -> Callable[[Mapping[str, Any]], None]:
    """What hears the wire form of a step and tells `on_step`."""

    def hear(wire: Mapping[str, Any]) -> None:
        if on_step is not None:
            on_step(StepReport(**wire))

    return hear
