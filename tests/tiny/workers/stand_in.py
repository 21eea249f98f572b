"""A process of tests/tiny/test_launch.py: mmkit.training's own, with an act in place of the training.

`python -m stand_in OUT --launched`; OUT/act holds the name of the act.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mmkit.errors import DataError
from mmkit.training import job
from mmkit.training.config import StepReport, TuneConfig
from mmkit.training.ranks import Ranks
from mmkit.training.stopping import Stopped

OnStep = Callable[[StepReport], None]
Requested = Callable[[], str | None]


def report(step: int, on_step: OnStep) -> None:
    on_step(StepReport(step=step, num_steps=3, loss=1 / step, lr=0.1, grad_norm=1.0, tokens=step, seconds=1.0))


def three_steps(out: Path, here: Ranks, on_step: OnStep, requested: Requested) -> None:
    for step in (1, 2, 3):
        here.barrier()
        if here.is_main:
            report(step, on_step)


def until_stopped(out: Path, here: Ranks, on_step: OnStep, requested: Requested) -> None:
    (out / f"pid-{here.rank}").write_text(str(os.getpid()))
    here.barrier()
    if here.is_main:
        report(1, on_step)
    while not any(here.gather(requested() is not None)):
        time.sleep(0.01)
    raise Stopped(requested(), 7, out)


def deaf(out: Path, here: Ranks, on_step: OnStep, requested: Requested) -> None:
    (out / f"pid-{here.rank}").write_text(str(os.getpid()))
    here.barrier()
    if here.is_main:
        report(1, on_step)
    while True:
        time.sleep(0.01)


def bad_row(out: Path, here: Ranks, on_step: OnStep, requested: Requested) -> None:
    if here.rank == 1:
        raise DataError("record 'x': no messages")
    here.barrier()


def bug(out: Path, here: Ranks, on_step: OnStep, requested: Requested) -> None:
    if here.rank == 1:
        raise ZeroDivisionError("a planted bug")
    here.barrier()


def killed(out: Path, here: Ranks, on_step: OnStep, requested: Requested) -> None:
    here.barrier()
    if here.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    here.barrier()


ACTS = {act.__name__: act for act in (three_steps, until_stopped, deaf, bad_row, bug, killed)}


def run(out: Path, here: Ranks, *, on_step: OnStep, stop_requested: Requested) -> None:
    sys.stderr.write("a line of the worker\n")
    ACTS[(out / "act").read_text()](out, here, on_step, stop_requested)


if __name__ == "__main__":
    fake: Any = SimpleNamespace(run=run)
    sys.modules["mmkit.training.trainer"] = fake
    job.read_job = lambda out: SimpleNamespace(config=TuneConfig(device="cpu"), world=2)  # type: ignore[assignment]
    from mmkit.training.__main__ import main

    sys.exit(main(sys.argv[1:]))
