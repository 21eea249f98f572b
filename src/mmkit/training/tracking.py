"""A run's figures in TensorBoard and Weights & Biases. Neither is imported until it is asked for."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from mmkit.errors import missing_extra
from mmkit.training.config import StepReport, Validation


class Tracker(Protocol):
    """Takes the scalars of a step."""

    def add(self, step: int, scalars: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class Trackers:
    """The trackers that were asked for. Raises UnavailableError where one is not installed."""

    def __init__(self, names: Sequence[str], out: Path) -> None:
        check_installed(names)
        self._trackers = [_TRACKERS[name](out) for name in names]

    def add(self, report: StepReport | Validation) -> None:
        """Hand on a report's figures."""
        figures = scalars(report)
        for tracker in self._trackers:
            tracker.add(report.step, figures)

    def close(self) -> None:
        """Write what is left."""
        for tracker in self._trackers:
            tracker.close()


def check_installed(names: Sequence[str]) -> None:
    """Raise UnavailableError, which says how to get it, for a tracker whose package is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise missing_extra(name, "track")


def scalars(report: StepReport | Validation) -> dict[str, float]:
    """A report's figures by name: loss, lr, grad_norm, tokens_per_s, mfu, loss/TASK; val/loss, val/loss/TASK."""
    by_task = {f"loss/{task or 'no task'}": loss for task, loss in report.task_losses.items()}
    if isinstance(report, Validation):
        return {f"val/{name}": value for name, value in {"loss": report.loss, **by_task}.items()}
    figures = {"loss": report.loss, "lr": report.lr, "grad_norm": report.grad_norm, **by_task}
    if report.seconds > 0:
        figures["tokens_per_s"] = report.tokens / report.seconds
    if report.mfu is not None:
        figures["mfu"] = report.mfu
    return figures


class TensorBoard:
    """Event files in OUT/tensorboard."""

    def __init__(self, out: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(log_dir=str(out / "tensorboard"))

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write a step's scalars."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases, named like OUT and kept there. Its own environment variables (WANDB_PROJECT,
    WANDB_MODE, …) hold; the project is "mmkit" where they name none. A run that goes on is a new one there."""

    def __init__(self, out: Path) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "mmkit"),
            name=out.resolve().name,
            dir=str(out),
            settings=wandb.Settings(console="off"),  # our standard streams are none of its business
        )

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Log a step's scalars."""
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


_TRACKERS: dict[str, Callable[[Path], Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB}
