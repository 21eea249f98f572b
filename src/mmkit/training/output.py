"""What a run leaves behind: a directory that is complete or not there."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkit.errors import UsageError
from mmkit.training.config import TuneConfig, TuneReport

if TYPE_CHECKING:
    from torch import nn

    from mmkit.models.encoding import Chat

RUN_FILE = "run.json"
_CURVE_POINTS = 100


def check_target(out: Path) -> None:
    """Raise UsageError unless `out` is absent, empty, or left by an earlier run, which will be replaced."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out} is a file, not a directory to write a model to")
    if any(out.iterdir()) and not (out / RUN_FILE).is_file():
        raise UsageError(f"{out} holds files that no tuning run left there; choose another directory")


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends well, and is removed when it does not."""
    out = out.absolute()
    folder = out.with_name(f".{out.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        old = out.with_name(f".{out.name}.old")
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
            out.rename(old)
        folder.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def save(folder: Path, *, net: nn.Module, chat: Chat, model: str, config: TuneConfig, report: TuneReport) -> None:
    """Weights (the adapter alone for LoRA) as safetensors, what encodes for them, and RUN_FILE."""
    from mmkit.training.prepare import save_weights

    with _no_bars():
        save_weights(net, folder, model, config)
        chat.save(folder)
    text = json.dumps(run_record(model, config, report), indent=2, ensure_ascii=False)
    (folder / RUN_FILE).write_text(text + "\n", encoding="utf-8")


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


def run_record(model: str, config: TuneConfig, report: TuneReport) -> dict[str, Any]:
    """What RUN_FILE says: versions, arguments, counts, seconds and the loss at up to 100 steps."""
    every = max(1, len(report.losses) // _CURVE_POINTS)
    packages = ("mmkit", "torch", "transformers", "peft", "accelerate")
    return {
        "model": model,
        "arguments": asdict(config),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "rows": report.rows,
        "trained_parameters": report.trained_parameters,
        "tokens": {
            "text": report.text_tokens,
            "image": report.image_tokens,
            "in_loss": report.loss_tokens,
        },
        "steps": report.steps,
        "seconds": round(report.seconds, 3),
        "seconds_per_step": round(report.seconds_per_step, 6),
        "loss": {
            "first": report.losses[0],
            "final": report.final_loss,
            "curve": [[i + 1, report.losses[i]] for i in range(0, len(report.losses), every)],
        },
    }
