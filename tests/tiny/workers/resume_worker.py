"""One process of tests/tiny/test_training_resume.py: `resume_worker.py OUT [OUT STEP…]…` does the jobs in these
directories, one after another, and stops each after these steps and begins again from its checkpoint."""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

from mmkit.training.config import StepReport
from mmkit.training.job import read_job
from mmkit.training.ranks import Ranks, connected
from mmkit.training.stopping import Stopped
from mmkit.training.trainer import run


def stopped(out: Path, here: Ranks, step: int) -> None:
    """Do the job in OUT until `step` steps are done. As by a signal, one process alone is asked to stop."""
    done = 0

    def count(report: StepReport) -> None:
        nonlocal done
        done = report.step

    try:
        run(out, here, on_step=count, stop_requested=lambda: "SIGTERM" if done == step else None)
    except Stopped as asked:
        assert asked.step == step
    else:
        raise AssertionError(f"{out} did not stop after {step} steps")


if __name__ == "__main__":
    words = [list(group) for _, group in groupby(sys.argv[1:], key=str.isdigit)]
    with connected(read_job(Path(sys.argv[1])).config) as here:
        for number, group in enumerate(words):
            if group[0].isdigit():
                continue
            for out in map(Path, group[:-1]):
                run(out, here)
            steps = words[number + 1] if number + 1 < len(words) else []
            for step in map(int, steps):
                stopped(Path(group[-1]), here, step)
            run(Path(group[-1]), here)
