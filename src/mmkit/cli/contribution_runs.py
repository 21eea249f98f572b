"""The trainings and evaluations of `measure-contribution`, each in a process of its own, on devices of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import orjson

from mmkit import errors
from mmkit.balance.measuring import EvaluationOrder, Procedure, TrainingOrder, Value
from mmkit.errors import LimitError, MmkitError, UsageError

if TYPE_CHECKING:
    from mmkit.training import TuneConfig

_TAIL_LINES = 20
_INTERRUPTED = 130
# What changes how fast a training goes, or what it leaves beside the model, and never what is learned.
_NOT_IDENTITY = ("workers", "cache_mb", "save_every", "check_rows", "report_to", "merge", "seed")


class Runs:
    """Runs on the devices of `shares`, one run a share at a time. A share names GPUs; an empty one is the CPU.

    `evaluation` are the options of answering and scoring: metric, rule, max_new_tokens, engine.
    """

    def __init__(
        self,
        model: str,
        config: TuneConfig,
        shares: Sequence[Sequence[str]],
        evaluation: Mapping[str, Any],
        image_root: str | None,
    ) -> None:
        self._model, self._config, self._evaluation, self._image_root = model, config, evaluation, image_root
        self._free: SimpleQueue[Sequence[str]] = SimpleQueue()
        for share in shares:
            self._free.put(share)

    def procedure(self) -> Procedure:
        """What `Measuring` takes. The base model is known by its files, or as a hub id by its name."""
        from mmkit.training.job import files_of

        settings = {name: value for name, value in asdict(self._config).items() if name not in _NOT_IDENTITY}
        return Procedure(
            train=self._train,
            evaluate=self._evaluate,
            model={"files": files_of(self._model) or self._model},
            training={**settings, "image_root": self._image_root},
            evaluation={**self._evaluation, "image_root": self._image_root},
        )

    def _train(self, order: TrainingOrder) -> None:
        max_steps = self._config.max_steps if order.max_steps is None else order.max_steps
        config = replace(self._config, seed=order.seed, max_steps=max_steps)
        job = {
            "model": self._model,
            "rows": str(order.rows),
            "out": str(order.out),
            "config": asdict(config),
            "image_root": self._image_root,
        }
        self._run("train", job, order.log)

    def _evaluate(self, order: EvaluationOrder) -> dict[str, Value]:
        from mmkit.training.config import ADAPTED

        is_adapter = order.model is not None and self._config.train in ADAPTED
        values = order.predictions.with_suffix(".values.json")
        job = {
            **self._evaluation,
            "model": self._model if order.model is None or is_adapter else str(order.model),
            "adapter": str(order.model) if is_adapter else None,
            "device": None if self._config.device == "auto" else self._config.device,
            "rows": str(order.rows),
            "predictions": str(order.predictions),
            "values": str(values),
            "image_root": self._image_root,
        }
        self._run("evaluate", job, order.log)
        return {task: Value(**value) for task, value in orjson.loads(values.read_bytes()).items()}

    def _run(self, task: str, job: Mapping[str, Any], log: Path) -> None:
        share = self._free.get()
        try:
            _process(task, {**job, "nproc": len(share) or 1}, share, log)
        finally:
            self._free.put(share)


def device_shares(device: str, jobs: int) -> list[list[str]]:
    """The visible GPUs, dealt out to `jobs` runs at once; as many empty shares where none is, or by `device` "cpu".

    Raises UsageError where there are fewer GPUs than jobs.
    """
    gpus = [] if device == "cpu" else _visible_gpus()
    if gpus and jobs > len(gpus):
        raise UsageError(f"--jobs {jobs}: {len(gpus)} GPUs are visible, and each training needs one (--device cpu?)")
    each = len(gpus) // jobs
    return [gpus[number * each : (number + 1) * each] for number in range(jobs)]


def _visible_gpus() -> list[str]:
    import torch

    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (named or [str(number) for number in range(count)])[:count]


def _process(task: str, job: Mapping[str, Any], gpus: Sequence[str], log: Path) -> None:
    """Do it in a process that ends with this one. Raises the error that ended it, LimitError where it was killed."""
    command = [sys.executable, "-m", "mmkit.cli.contribution_process", task, orjson.dumps(job).decode()]
    environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {})}
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, stderr=file, env=environment)
        process.wait()
        process.stdin.close()  # type: ignore[union-attr]  # not sooner: it takes that for our end
    if process.returncode:
        raise _failure(process.returncode, log)


_ERROR_OF_CODE = {
    kind.exit_code: kind
    for kind in (
        errors.UsageError,
        errors.DataError,
        errors.MissingInputError,
        errors.UnavailableError,
        errors.LimitError,
    )
}


def _failure(code: int, log: Path) -> MmkitError:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    if code < 0:
        return LimitError(f"a process was killed by {signal.Signals(-code).name}; the same command goes on; see {log}")
    if code == _INTERRUPTED:
        return LimitError("interrupted; the same command goes on")
    known = _ERROR_OF_CODE.get(code)
    if known is not None and lines:
        return known(f"{lines[-1]} ({log})")
    return MmkitError("\n".join([f"a process ended with code {code}; the end of {log}:", *lines[-_TAIL_LINES:]]))
