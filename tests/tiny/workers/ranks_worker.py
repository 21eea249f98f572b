"""One process of tests/tiny/test_ranks.py: `ranks_worker.py OUT`. Writes what it made of each case to OUT/RANK.pt."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmkit.training import TuneConfig, ranks
from mmkit.training.ranks import Ranks, connected

SHAPES = ((3, 4), (5,), (2, 2), (7, 3), (1,), (0,))
DTYPES = (torch.float32, torch.float64)


def gradient(index: int, rank: int) -> Tensor | None:
    """Gradient `index` of process `rank`. The second is on no process, the third on the first alone, the fourth on the
    second alone; the others are everywhere."""
    if index == 1 or (index == 2 and rank != 0) or (index == 3 and rank != 1):
        return None
    generator = torch.Generator().manual_seed(100 * index + rank)
    return torch.randn(SHAPES[index], generator=generator, dtype=DTYPES[index % 2])


def parameters(rank: int) -> list[nn.Parameter]:
    made = []
    for index, shape in enumerate(SHAPES):
        parameter = nn.Parameter(torch.zeros(shape, dtype=DTYPES[index % 2]))
        parameter.grad = gradient(index, rank)
        made.append(parameter)
    return made


def summed(here: Ranks) -> Any:
    """Gradients summed, their norm, and what is left after clipping to 1."""
    mine = parameters(here.rank)
    here.sum_gradients(mine)
    gradients = [None if p.grad is None else p.grad.clone() for p in mine]
    norm = ranks.grad_norm(mine, here)
    ranks.clip_(mine, norm, 1.0)
    return {"gradients": gradients, "norm": norm, "clipped": ranks.grad_norm(mine, here)}


def small_buckets(here: Ranks) -> Any:
    before, ranks.BUCKET_BYTES = ranks.BUCKET_BYTES, 64
    try:
        return summed(here)
    finally:
        ranks.BUCKET_BYTES = before


def none_at_all(here: Ranks) -> Any:
    mine = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))]
    here.sum_gradients(mine)
    return {"gradients": [p.grad for p in mine], "norm": ranks.grad_norm(mine, here)}


def told(here: Ranks) -> Any:
    """What the other methods say."""
    values = torch.tensor([0.1 * (here.rank + 1), 1e9], dtype=torch.float64)
    here.barrier()
    return {
        "sum": here.sum(values),
        "given": values,
        "gather": here.gather({"rank": here.rank}),
        "main": here.is_main,
        "world": here.world,
    }


CASES = {case.__name__: case for case in (summed, small_buckets, none_at_all, told)}

if __name__ == "__main__":
    torch.set_num_threads(1)
    with connected(TuneConfig(device="cpu")) as here:
        torch.save({name: case(here) for name, case in CASES.items()}, Path(sys.argv[1]) / f"{here.rank}.pt")
