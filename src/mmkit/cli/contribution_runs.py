"""The trainings and evaluations of `measure-contribution`, each in a process of its own, on devices of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING, Any

import orjson

from mmkit import errors
from mmkit.balance.measuring import CheckOrder, EvaluationOrder, Procedure, TrainingOrder, Value
from mmkit.errors import LimitError, MmkitError, UsageError

if TYPE_CHECKING:
    from mmkit.balance.plan import StepsOf
    from mmkit.balance.subsets import Rows
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
        self.nproc = len(shares[0]) or 1
        """The processes of a training."""
        self._free: SimpleQueue[Sequence[str]] = SimpleQueue()
        for share in shares:
            self._free.put(share)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped_by: signal.Signals | None = None

    @property
    def rows_a_step(self) -> int:
        """The rows of an optimizer step over all processes."""
        return self._config.batch_size * self._config.accumulation * self.nproc

    def procedure(self) -> Procedure:
        """What `Measuring` takes. The base model is known by its files, or as a hub id by its name."""
        from mmkit.training.job import files_of

        return Procedure(
            train=self._train,
            evaluate=self._evaluate,
            check=self._check if self._config.check_rows else None,
            model={"files": files_of(self._model) or self._model},
            training=self._identity(),
            evaluation=self._evaluation,
        )

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """While it is entered, SIGTERM and Ctrl-C have trainings under way stop at a checkpoint, and begin no more; a
        second one ends them at once. Signals that the process ignores stay ignored.

        Raises LimitError after SIGTERM, KeyboardInterrupt after Ctrl-C.
        """
        heard = [each for each in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(each) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._stop) for number in heard}
        try:
            yield
        except MmkitError:
            if self._stopped_by is None:
                raise
            if self._stopped_by == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise LimitError(f"stopped by {self._stopped_by.name}; the same command goes on") from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        again, self._stopped_by = self._stopped_by is not None, signal.Signals(number)
        for process in list(self._running):
            process.kill() if again else process.terminate()

    def _identity(self) -> dict[str, Any]:
        """The settings that decide what is learned. Of the batch that is the rows of a step, on whatever devices."""
        settings = {name: value for name, value in asdict(self._config).items() if name not in _NOT_IDENTITY}
        return {**settings, "accumulation": None, "rows_a_step": self.rows_a_step}

    def _check(self, order: CheckOrder) -> None:
        job = {**self._training_job(order.rows, self._config), "folder": str(order.folder)}
        self._run("check", job, order.log)

    def _train(self, order: TrainingOrder) -> None:
        max_steps = self._config.max_steps if order.max_steps is None else order.max_steps
        config = replace(self._config, seed=order.seed, max_steps=max_steps)
        self._run("train", {**self._training_job(order.rows, config), "out": str(order.out)}, order.log)

    def _training_job(self, rows: Path, config: TuneConfig) -> dict[str, Any]:
        return {
            "model": self._model,
            "rows": str(rows),
            "config": asdict(config),
            "image_root": self._image_root,
            "nproc": self.nproc,
        }

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
        """Do it in a process on devices of its own. Raises the error that ended it, LimitError where it was killed."""
        share = self._free.get()
        try:
            code = self._process(task, job, share, log)
        finally:
            self._free.put(share)
        if code:
            raise _failure(code, log)

    def _process(self, task: str, job: Mapping[str, Any], gpus: Sequence[str], log: Path) -> int:
        # -P: modules are those that are installed, not files of the working directory.
        command = [sys.executable, "-P", "-m", "mmkit.cli.contribution_process", task, orjson.dumps(job).decode()]
        environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {})}
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                env=environment,
                start_new_session=True,  # a Ctrl-C is for us alone: it hears of it as a request to stop
            )
            self._running.add(process)
            if self._stopped_by is not None:
                process.terminate()
            try:
                return process.wait()
            finally:
                self._running.discard(process)
                process.stdin.close()  # type: ignore[union-attr]  # not sooner: it takes that for our end


def steps_of(config: TuneConfig, nproc: int, rows: Rows, model: str) -> StepsOf:
    """How many optimizer steps `finetune` takes on rows of `rows`. Of a hub id it is not known whether the model can
    mix rows with and without images in a step; it is taken for granted."""
    from mmkit.models.families import CROSS_ATTENTION
    from mmkit.training.plan import RowFacts, num_steps

    one_modality = _family(model) in CROSS_ATTENTION
    look = one_modality or config.modality_batches

    def count(ids: Mapping[str, Sequence[str]], seed: int) -> int:
        facts = [
            RowFacts(id=id, task=task, length=1, has_image=look and bool(rows.references(task, id)))
            for task, drawn in ids.items()
            for id in drawn
        ]
        return num_steps(facts, replace(config, seed=seed), world=nproc, one_modality=one_modality)

    return count


def _family(model: str) -> str | None:
    try:
        return str(orjson.loads((Path(model) / "config.json").read_bytes())["model_type"])
    except (OSError, ValueError, KeyError):
        return None


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
