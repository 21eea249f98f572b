"""Whole processes, measured side by side."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PAIRS = 5


@dataclass(frozen=True)
class Cost:
    """What one process took, from its start to its end."""

    wall_s: float
    cpu_s: float
    peak_mib: float


def cost(arguments: Sequence[str]) -> Cost:
    """Run this Python with `arguments`; its output is thrown away. Raises RuntimeError where it fails."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {said.decode()[-500:]}")
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def compare(label: str, ours: Sequence[str], baseline: Sequence[str], limit: float, output: Path | None = None) -> None:
    """Print the median ratio of five interleaved pairs, ours to the baseline's; `output` is removed after each run."""
    pairs = []
    for _ in range(PAIRS):
        pair = []
        for arguments in (baseline, ours):
            pair.append(cost(arguments))
            if output is not None:
                output.unlink()
        pairs.append(pair)
    walls = [mine.wall_s / plain.wall_s for plain, mine in pairs]
    cpus = [mine.cpu_s / plain.cpu_s for plain, mine in pairs]
    wall = statistics.median(walls)
    mine_s, plain_s = (statistics.median(pair[i].wall_s for pair in pairs) for i in (1, 0))
    mine_mib, plain_mib = (max(pair[i].peak_mib for pair in pairs) for i in (1, 0))
    print(
        f"| {label} | {wall:.2f} | {limit:.2f} | {'yes' if wall <= limit else 'NO'} "
        f"| {' '.join(f'{ratio:.2f}' for ratio in walls)} | {statistics.median(cpus):.2f} "
        f"| {mine_s:.3f} / {plain_s:.3f} | {mine_mib:.0f} / {plain_mib:.0f} |",
        flush=True,
    )


HEAD = "| work | wall | at most | reached | pairs | CPU | seconds | peak MiB |\n|---|---|---|---|---|---|---|---|"
