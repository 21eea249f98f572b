"""`python -m mmkit.training OUT`: one process of a run, which does the job that lies in OUT.

torchrun starts as many of these as there are GPUs: mmkit's own, or on several nodes that of whoever runs them, as in

    mmkit finetune train.jsonl --model M -o OUT --nproc 8 --nnodes 2 --rdzv-endpoint HOST:29500 --prepare
    torchrun --nproc-per-node 8 --nnodes 2 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m mmkit.training OUT
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mmkit import console
from mmkit.errors import MmkitError, UsageError
from mmkit.training.config import StepReport
from mmkit.training.job import FOLDER, read_job
from mmkit.training.launch import FAILURE_FILE, LAUNCHED, Launcher, failure_written
from mmkit.training.ranks import connected
from mmkit.training.stopping import STOP_FILE, StopSignal
from mmkit.training.trainer import run

_TELL_EVERY_S = 10.0


def main(arguments: Sequence[str]) -> int:
    """Do the job as the process that the environment says this is; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m mmkit.training", description="One process of a tuning run.")
    parser.add_argument("out", metavar="OUT", type=Path, help="The directory that `mmkit finetune` prepared.")
    parser.add_argument(LAUNCHED, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        if options.launched:
            launcher = Launcher()
            _work(options.out, lambda step: launcher.report(step.to_wire()))
        else:
            _forget_last_run(options.out)
            _work(options.out, _teller())
    except MmkitError as error:
        console.say(f"mmkit.training: {error}")
        return error.exit_code
    return 0


def _work(out: Path, on_step: Callable[[StepReport], None]) -> None:
    job = read_job(out)
    with StopSignal(out) as stop, failure_written(out), connected(job.config) as ranks:
        if ranks.world != job.world:
            raise UsageError(f"the job in {out} is one for {job.world} processes, and these are {ranks.world}")
        run(out, ranks, on_step=on_step, stop_requested=stop.requested)


def _forget_last_run(out: Path) -> None:
    """Take away what told an earlier run to stop, and what ended it. The others wait until the main process is here."""
    if os.environ.get("RANK", "0") == "0":
        for name in (STOP_FILE, FAILURE_FILE):
            (out / FOLDER / name).unlink(missing_ok=True)


def _teller() -> Callable[[StepReport], None]:
    """Says on stderr where the run is, from time to time."""
    next_time = 0.0

    def tell(step: StepReport) -> None:
        nonlocal next_time
        now = time.monotonic()
        if now < next_time and step.step < step.num_steps:
            return
        next_time = now + _TELL_EVERY_S
        console.say(
            f"mmkit.training: step {step.step:,} of {step.num_steps:,}, loss {step.loss:.4f}, lr {step.lr:.3g}, "
            f"{step.tokens / max(step.seconds, 1e-9):,.0f} tokens/s"
        )

    return tell


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
