"""Prints requirements.txt: what pip would install for requirements.in, each file by its hash. Run by `make lock-vllm`.

Left out: torch, whose CPU build has other files in other places and is pinned by its version in the Makefile; and what
vLLM names but these tests never import: sound, video, and the GPU's kernels and libraries (triton alone is 700 MB).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

LEFT_OUT = re.compile(r"(torch|torchaudio|torchcodec|triton|nvidia-.*|cuda-.*)")
HEADER = "# By `make lock-vllm` from requirements.in, for CPython 3.11 on Linux x86-64. Installed with --no-deps."


def main() -> None:
    requirements = Path(__file__).with_name("requirements.in")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--dry-run",
        "--ignore-installed",
        "--only-binary",
        ":all:",
    ]
    report = json.loads(subprocess.check_output([*pip, "--report", "-", "--requirement", str(requirements)]))
    pins = [HEADER]
    for item in json.loads(report)["install"]:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        if not LEFT_OUT.fullmatch(name):
            digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
            pins.append(f"{name}=={item['metadata']['version']} --hash=sha256:{digest}")
    sys.stdout.write("\n".join([pins[0], *sorted(pins[1:])]) + "\n")


if __name__ == "__main__":
    main()
