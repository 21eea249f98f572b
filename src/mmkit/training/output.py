"""What a run leaves behind: weights, what encodes for them, and run.json, which comes last."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmkit.training.config import TuneConfig, TuneReport, Validation
from mmkit.training.job import LOG_FILE, RUN_FILE, Job, full_disk_explained, remove
from mmkit.training.log import read_losses
from mmkit.training.prepare import on_gpu, save_weights

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from mmkit.models.encoding import Chat

_CURVE_POINTS = 100
_LAST = ("adapter_config.json", "config.json", RUN_FILE)
"""What makes loaders and `make` take a directory for a model: it appears when all else is there."""


def save(job: Job, chat: Chat, net: PreTrainedModel, report: TuneReport, state: Mapping[str, Tensor] | None) -> None:
    """Write the tuned model into the job's OUT, in the place of what an earlier run left there, and end the job.

    Safetensors (the adapter alone for LoRA; with `merge` the whole model, and the adapter in its own folder),
    processor, chat template, generation config, and RUN_FILE. `state` are the weights, where the model does not hold
    them whole. Raises LimitError where the disk is full; the job and its last checkpoint are then still there.
    """
    out, staged = job.out, job.folder / "finished"
    shutil.rmtree(staged, ignore_errors=True)
    with full_disk_explained(out), _no_bars():
        staged.mkdir()
        save_weights(net, staged, job.model, job.config, state)
        chat.save(staged)
        shutil.copyfile(job.folder / LOG_FILE, staged / LOG_FILE)
        files = sorted(path.name for path in staged.iterdir())
        record = {**run_record(job, report), "files": [*files, RUN_FILE]}
        text = json.dumps(record, indent=2, ensure_ascii=False)
        (staged / RUN_FILE).write_text(text + "\n", encoding="utf-8")
        for path in staged.rglob("*.safetensors"):
            path.chmod((staged / RUN_FILE).stat().st_mode)  # safetensors writes for the owner alone
        for old in sorted(_left_by_an_earlier_run(out), key=_order, reverse=True):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        for new in sorted(staged.iterdir(), key=_order):
            new.rename(out / new.name)
    remove(out)


def _left_by_an_earlier_run(out: Path) -> list[Path]:
    """What it wrote, as its RUN_FILE says. Other files in OUT are somebody's own."""
    try:
        names = json.loads((out / RUN_FILE).read_bytes())["files"]
    except FileNotFoundError:
        names = []
    return [path for path in out.iterdir() if path.name in names]


def run_record(job: Job, report: TuneReport) -> dict[str, Any]:
    """What RUN_FILE says: what is needed to run it again, and what it took."""
    every = max(1, len(report.losses) // _CURVE_POINTS)
    packages = ("mmkit", "torch", "transformers", "peft", "safetensors")
    return {
        "command": list(job.command),
        "model": job.model,
        "model_files": dict(job.model_files),
        "data_sha256": job.data_sha256,
        "arguments": asdict(job.config),
        "processes": job.world,
        "device": _device(job.config),
        "task_shares": job.task_shares,
        "task_group": job.task_group,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "rows": report.rows,
        "rejected": report.rejected,
        "trained_parameters": report.trained_parameters,
        "frozen": list(report.frozen),
        "tokens": {"text": report.text_tokens, "image": report.image_tokens, "in_loss": report.loss_tokens},
        "steps": report.steps,
        "seconds": round(report.seconds, 3),
        "seconds_per_step": round(report.seconds_per_step, 6),
        "loss": {
            "first": report.losses[0],
            "final": report.final_loss,
            "curve": [[i + 1, report.losses[i]] for i in range(0, len(report.losses), every)],
        },
        "validation": None if report.validation is None else report.validation.to_wire(),
    }


def read_report(out: Path) -> TuneReport:
    """The report of the finished run in OUT."""
    run = json.loads((out / RUN_FILE).read_text(encoding="utf-8"))
    tokens, validation = run["tokens"], run["validation"]
    return TuneReport(
        out=out,
        frozen=tuple(run["frozen"]),
        text_tokens=tokens["text"],
        image_tokens=tokens["image"],
        loss_tokens=tokens["in_loss"],
        losses=tuple(read_losses(out)),
        validation=None if validation is None else Validation.from_wire(validation),
        **{name: run[name] for name in ("rows", "rejected", "steps", "trained_parameters", "seconds")},
    )


def _device(config: TuneConfig) -> str:
    return torch.cuda.get_device_name() if on_gpu(config) else f"cpu, {torch.get_num_threads()} threads"


def _order(path: Path) -> tuple[int, str]:
    return (_LAST.index(path.name) + 1 if path.name in _LAST else 0, path.name)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without transformers' bar on stderr for each file that it writes."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
