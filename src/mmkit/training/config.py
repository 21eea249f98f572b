"""What a tuning run is told and what it reports. No torch here: the command line reads these for its help."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from mmkit.errors import UsageError

TRAIN_MODES = ("full", "lora")
SCHEDULES = ("cosine", "linear", "constant")
DTYPES = ("auto", "float32", "bfloat16", "float64")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True)
class TuneConfig:
    """The settings of one tuning run. Raises UsageError where one is impossible.

    `train`: "full" moves every parameter, "lora" adapters on the language model's linear layers only.
    `lr` is the peak; it is reached after `warmup_steps`, or else `warmup_ratio` of all steps, and then falls along
    `schedule` to `lr * min_lr_ratio`. `max_steps` overrides `epochs`.
    `batch_size` rows make a micro-batch, and `accumulation` micro-batches one optimizer step.
    `max_length` counts tokens, image tokens included; a longer row is an error, nothing is cut.
    `dtype`: "auto" is bfloat16 on a GPU and float32 on a CPU. With bfloat16, what is trained stays in float32 and the
    arithmetic is autocast.
    `check_rows` encodes every row before the first step, so that a bad row costs no training time; without it a row
    is looked at when its turn comes. Encoded rows are kept up to `cache_mb` (10^6 bytes).
    `workers` are processes that encode rows ahead of the model; 0 encodes between the steps.
    `threads` is torch's CPU thread count; on a CPU the same seed and thread count give the same bytes of weights.
    """

    train: str = "full"
    lora_r: int = 16
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    lr: float = 1e-5
    epochs: int = 1
    max_steps: int | None = None
    batch_size: int = 8
    accumulation: int = 1
    warmup_ratio: float = 0.03
    warmup_steps: int | None = None
    schedule: str = "cosine"
    min_lr_ratio: float = 0.0
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    max_length: int | None = 4096
    gradient_checkpointing: bool = False
    dtype: str = "auto"
    device: str = "auto"
    seed: int = 0
    threads: int | None = None
    workers: int = 0
    check_rows: bool = True
    cache_mb: int = 512

    def __post_init__(self) -> None:
        for name, allowed in (("train", TRAIN_MODES), ("schedule", SCHEDULES), ("dtype", DTYPES), ("device", DEVICES)):
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        for name in ("lora_r", "epochs", "max_steps", "batch_size", "accumulation", "max_length", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}")
        for name in ("lr", "lora_alpha", "adam_epsilon"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("weight_decay", "max_grad_norm", "warmup_steps", "workers", "cache_mb", "seed"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UsageError(f"{name} must not be negative, not {value}")
        if self.seed >= 2**32:
            raise UsageError(f"seed must be below 2**32, not {self.seed}")
        for name in ("warmup_ratio", "min_lr_ratio", "lora_dropout", "adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimizer step: the weighted loss of its global batch, the learning rate it used, the gradient norm before
    clipping, the tokens it read (padding not counted) and its wall time."""

    step: int
    num_steps: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class TuneReport:
    """A finished run. Tokens are those of all steps; `loss_tokens` are the ones that stood in the loss.

    `seconds` is the wall time of the steps alone, loading and checking apart.
    """

    out: Path
    rows: int
    steps: int
    trained_parameters: int
    text_tokens: int
    image_tokens: int
    loss_tokens: int
    seconds: float
    losses: tuple[float, ...]

    @property
    def seconds_per_step(self) -> float:
        """Mean wall time of a step."""
        return self.seconds / self.steps

    @property
    def final_loss(self) -> float:
        """Mean loss of the last tenth of the steps: single steps are noisy."""
        tail = self.losses[-max(1, len(self.losses) // 10) :]
        return sum(tail) / len(tail)
