"""Copy a LLaVA with a projector that has learned nothing, as it is before multimodal pretraining.

    python fresh_projector.py BASE OUT [--seed N]

Weights are drawn with standard deviation fan-in^-½, biases are zero.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path


def main() -> None:
    """Read the command line and write the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    copy(arguments.base, arguments.out, arguments.seed)


def copy(base: Path, out: Path, seed: int) -> None:
    """The directory `out` with all files of the model `base`, and a new projector; config.json comes last."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    from mmkit.models.parts import part_of

    torch.manual_seed(seed)
    out.mkdir(exist_ok=True)
    with safe_open(base / "model.safetensors", "pt") as stored:
        metadata = stored.metadata()
    weights = load_file(base / "model.safetensors")
    for name, weight in weights.items():
        if part_of(name, "llava") == "projector":
            weight.zero_() if weight.dim() == 1 else weight.normal_(0, weight.shape[1] ** -0.5)
    save_file(weights, out / "model.safetensors", metadata)
    for path in sorted(base.iterdir(), key=lambda path: path.name == "config.json"):
        if path.is_file() and path.name not in ("model.safetensors", "run.json", "log.jsonl"):
            shutil.copyfile(path, out / path.name)


if __name__ == "__main__":
    main()
