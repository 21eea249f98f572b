"""One process of tests/tiny/test_training_resume.py: `resume_worker.py OUT STEP` does the job in OUT, and asks for a
stop when STEP steps are done (0: never)."""

from __future__ import annotations

import sys
from pathlib import Path

from mmkit.training.config import StepReport
from mmkit.training.job import read_job
from mmkit.training.ranks import connected
from mmkit.training.stopping import Stopped
from mmkit.training.trainer import run

if __name__ == "__main__":
    out, stop_at = Path(sys.argv[1]), int(sys.argv[2])
    done = 0

    def count(step: StepReport) -> None:
        global done
        done = step.step

    with connected(read_job(out).config) as here:
        try:
            run(out, here, on_step=count, stop_requested=lambda: "SIGTERM" if stop_at and done == stop_at else None)
        except Stopped:
            assert stop_at
