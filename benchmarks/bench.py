"""All measurements, as ratios of one run: `python benchmarks/bench.py [NAME]...`, the names below or all.

A ratio is the median of five interleaved pairs. Times of one machine say little about another; ratios say more, as
long as nothing else keeps it busy. Results of past runs are in `results/`.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
NAMES = ("startup", "rows", "mixing", "scoring", "engine_transformers", "engine_openai", "training", "training_rivals")
PACKAGES = ("mmkit", "typer", "orjson", "numpy", "pycocoevalcap", "torch", "transformers", "peft", "trl")


def machine() -> str:
    """Hardware and versions in one line."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES if importlib.util.find_spec(name))
    return (
        f"{_processor()}, {os.cpu_count()} cores, {memory_gib:.0f} GiB, {platform.system()} {platform.release()}, "
        f"load {load:.1f} at the start; Python {platform.python_version()}, {versions}"
    )


def _processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def main() -> int:
    wanted = sys.argv[1:] or [name for name in NAMES if (HERE / f"{name}.py").exists()]
    unknown = set(wanted) - set(NAMES)
    if unknown:
        sys.stderr.write(f"no benchmark {unknown.pop()}; there are: {', '.join(NAMES)}\n")
        return 2
    print(machine(), flush=True)
    failed = [name for name in wanted if subprocess.run([sys.executable, HERE / f"{name}.py"]).returncode]
    if failed:
        sys.stderr.write(f"failed: {', '.join(failed)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
