"""Which row comes when, and how fast to learn at each step. Pure functions; no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mmkit.seeds import derive
from mmkit.training.config import TuneConfig


def epoch_order(ids: Sequence[str], seed: int, epoch: int) -> list[int]:
    """A permutation of the rows' indices for one epoch, every row exactly once.

    A row's place depends on (seed, epoch, id) alone, so the order of the input file does not matter; rows that share
    an id keep their order.
    """
    return sorted(range(len(ids)), key=lambda i: (derive(seed, ids[i], f"finetune.order.{epoch}"), i))


def cut(order: Sequence[int], size: int) -> list[list[int]]:
    """Consecutive batches of `size`; the last one may be shorter and is kept."""
    return [list(order[start : start + size]) for start in range(0, len(order), size)]


def num_warmup_steps(total: int, config: TuneConfig) -> int:
    """Steps over which the learning rate rises."""
    if config.warmup_steps is not None:
        return config.warmup_steps
    return math.ceil(config.warmup_ratio * total)


def lr_factor(step: int, total: int, config: TuneConfig) -> float:
    """The learning rate of step `step` (counted from 0) as a share of its peak.

    Linear warm-up whose first step is not 0 (a step at rate 0 would be wasted) and whose last one is the peak, then
    the schedule, which reaches `min_lr_ratio` after the last of `total` steps.
    """
    warmup = num_warmup_steps(total, config)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    left = 1 - progress if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.min_lr_ratio + (1 - config.min_lr_ratio) * left
