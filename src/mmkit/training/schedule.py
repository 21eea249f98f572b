"""How fast to learn at each step. Pure functions; no torch."""

from __future__ import annotations

import math

from mmkit.training.config import TuneConfig


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
