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

from mmkit.training.config import TuneReport, Validation
from mmkit.training.job import RUN_FILE, Job, full_disk_explained
from mmkit.training.log import read_losses

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from mmkit.models.encoding import Chat

_CURVE_POINTS = 100
_LAST = ("adapter_config.json", "config.json", RUN_FILE)
"""What makes loaders and `make` take a directory for a model: it appears when all else is there."""
_STALE = (*_LAST, "*.safetensors", "*.safetensors.index.json", "adapter")
"""What an earlier run's model would be taken from. Other files in OUT are somebody's own."""


def save(job: Job, chat: Chat, net: PreTrainedModel, report: TuneReport, state: Mapping[str, Tensor] | None) -> None:
    """Write the tuned model into the job's OUT, in the place of what an earlier run left there, and end the job.

    Safetensors (the adapter alone for LoRA; with `merge` the whole model, and the adapter in its own folder),
    processor, chat template, generation config, and RUN_FILE. `state` are the weights, where the model does not hold
    them whole. Raises LimitError where the disk is full; the job and its last checkpoint are then still there.
    """
    from mmkit.training.prepare import save_weights

    out, staged = job.out, job.folder / "finished"
    shutil.rmtree(staged, ignore_errors=True)
    with full_disk_explained(out), _no_bars():
        staged.mkdir()
        save_weights(net, staged, job.model, job.config, state)
        chat.save(staged)
        text = json.dumps(run_record(job, report), indent=2, ensure_ascii=False)
        (staged / RUN_FILE).write_text(text + "\n", encoding="utf-8")
        for old in sorted({path for pattern in _STALE for path in out.glob(pattern)}, key=_order, reverse=True):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        for new in sorted(staged.iterdir(), key=_order):
            new.rename(out / new.name)
    shutil.rmtree(job.folder)


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
        "task_shares": job.task_shares,
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
