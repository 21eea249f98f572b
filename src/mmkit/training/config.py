"""What a tuning run is told and what it reports. No torch here: the command line reads these for its help."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmkit.errors import UsageError

TRAIN_MODES = ("full", "lora", "mixlora", "llm", "projector", "llm+projector")
ADAPTED = ("lora", "mixlora")
"""The modes that train adapters on a model which stays as it is."""
SCHEDULES = ("cosine", "linear", "constant")
DTYPES = ("auto", "float32", "bfloat16", "float64")
DEVICES = ("auto", "cpu", "cuda")
BALANCES = ("ew", "tla", "rlw", "dwa", "igb")
WEIGHT_NORMS = ("lambda", "tokens")
SAMPLINGS = ("proportional", "uniform", "sqrt", "weights")
OVERLONG = ("reject", "shorten")
TRACKERS = ("tensorboard", "wandb")

_ALLOWED = {
    "train": TRAIN_MODES,
    "schedule": SCHEDULES,
    "dtype": DTYPES,
    "device": DEVICES,
    "balance": BALANCES,
    "weight_norm": WEIGHT_NORMS,
    "task_sampling": SAMPLINGS,
    "overlong": OVERLONG,
}


@dataclass(frozen=True, slots=True)
class TuneConfig:
    """The settings of one tuning run. Raises UsageError where one is impossible.

    What is trained: `train` "full" moves every parameter, "lora" adapters on linear layers, "llm", "projector" and
    "llm+projector" those parts alone. "mixlora" trains `experts` adapters in each layer, each of rank `lora_r`, and
    gates that weigh them by the row's instruction (`mmkit.models.mixlora`). `lora_targets` names layers of the language
    model ("q_proj,v_proj"), "all" stands for every linear layer of the whole model; None is every linear layer of the
    language model.
    `lr` is the peak; vision encoder and projector may have their own. It is reached after `warmup_steps`, or else
    `warmup_ratio` of all steps, and then falls along `schedule` to `min_lr_ratio` of itself. `max_steps` overrides
    `epochs`.

    Batches: `batch_size` rows make a micro-batch on each device, and `accumulation` micro-batches an optimizer step.
    `group_by_length` puts rows of like length together; `modality_batches` makes a micro-batch text-only or image-only.
    `task_sampling` other than "proportional" draws rows by task, with repetition. `pack` joins the rows of a
    micro-batch without padding.
    `max_length` counts tokens, image tokens included; a longer row is rejected, or its text shortened (`overlong`).

    Loss: `balance` sets the λ of tasks by their training losses (tla, rlw, dwa, igb; see `mmkit.training.balance`),
    over windows of `balance_window` steps; a sample's own weight multiplies. `weight_norm` "tokens" divides by the
    number of tokens in place of Σλ.

    `dtype`: "auto" is bfloat16 on a GPU and float32 on a CPU. With bfloat16, what is trained stays in float32 and the
    arithmetic is autocast. `fsdp` shards the language model over the devices.
    `val_size` is the share of rows, 0 to 1, that is held out and measured after each epoch.
    `check_rows` encodes every row before the first step, so that a bad row costs no training time; without it a row
    is looked at when its turn comes. Encoded rows are kept up to `cache_mb` (10^6 bytes).
    `workers` are processes that encode rows ahead of the model; 0 encodes between the steps.
    `threads` is torch's CPU thread count; on a CPU the same seed and thread count give the same bytes of weights.
    """

    train: str = "full"
    lora_r: int = 16
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    lora_targets: str | None = None
    experts: int = 16
    lr: float = 1e-5
    lr_vision: float | None = None
    lr_projector: float | None = None
    epochs: int = 1
    max_steps: int | None = None
    batch_size: int = 8
    accumulation: int = 1
    group_by_length: bool = True
    modality_batches: bool = False
    task_sampling: str = "proportional"
    pack: bool = False
    warmup_ratio: float = 0.03
    warmup_steps: int | None = None
    schedule: str = "cosine"
    min_lr_ratio: float = 0.0
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    balance: str = "ew"
    balance_window: int | None = None
    balance_temperature: float = 2.0
    weight_norm: str = "lambda"
    max_length: int | None = 4096
    overlong: str = "reject"
    val_size: float = 0.0
    gradient_checkpointing: bool = False
    dtype: str = "auto"
    device: str = "auto"
    fsdp: bool = False
    merge: bool = False
    seed: int = 0
    threads: int | None = None
    workers: int = 0
    check_rows: bool = True
    cache_mb: int = 512
    save_every: int = 500
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, allowed in _ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        at_least_1 = ("lora_r", "experts", "epochs", "max_steps", "batch_size", "accumulation", "max_length", "threads")
        for name in (*at_least_1, "save_every", "balance_window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}")
        for name in ("lr", "lr_vision", "lr_projector", "lora_alpha", "adam_epsilon", "balance_temperature"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{name} must be above 0, not {value}")
        for name in ("weight_decay", "max_grad_norm", "warmup_steps", "workers", "cache_mb", "seed"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UsageError(f"{name} must not be negative, not {value}")
        if self.seed >= 2**32:
            raise UsageError(f"seed must be below 2**32, not {self.seed}")
        for name in ("warmup_ratio", "min_lr_ratio", "lora_dropout", "adam_beta1", "adam_beta2", "val_size"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        for name in self.report_to:
            if name not in TRACKERS:
                raise UsageError(f"report_to must name {' or '.join(TRACKERS)}, not {name!r}")
        if self.train == "mixlora":
            self._check_mixture()

    def _check_mixture(self) -> None:
        impossible = {
            "--pack": self.pack and "it joins rows, and each row has gates of its own",
            "--merge": self.merge and "what it adds to the weights depends on the instruction",
            "--lora-targets all": self.lora_targets == "all" and "a vision encoder does not know whose image it sees",
        }
        for option, why in impossible.items():
            if why:
                raise UsageError(f"--train mixlora takes no {option}: {why}")


@dataclass(frozen=True, slots=True)
class Placement:
    """Which processes a run has. `nproc` processes on this node (None: one for each visible GPU, one without any),
    `nnodes` nodes that meet at `rdzv_endpoint` ("host:port")."""

    nproc: int | None = None
    nnodes: int = 1
    rdzv_endpoint: str | None = None

    def __post_init__(self) -> None:
        for name in ("nproc", "nnodes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}")
        if (self.nnodes > 1) != (self.rdzv_endpoint is not None):
            raise UsageError("several nodes (--nnodes) and the place where they meet (--rdzv-endpoint) go together")


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimizer step over all devices: the weighted loss of its global batch, the learning rate it used, the
    gradient norm before clipping, the tokens it read (padding not counted), its wall time, and for each task in it the
    mean loss of a token, unweighted. `mfu` is the share of the GPUs' peak that was used, None on a CPU."""

    step: int
    num_steps: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    seconds: float
    task_losses: Mapping[str, float] = field(default_factory=dict)
    mfu: float | None = None

    def to_wire(self) -> dict[str, Any]:
        """A row of log.jsonl."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Validation:
    """The mean loss of a token, unweighted, on the held-out rows after `step` steps: of all, and by task."""

    step: int
    loss: float
    task_losses: Mapping[str, float]

    def to_wire(self) -> dict[str, Any]:
        """A row of log.jsonl."""
        return {"step": self.step, "val_loss": self.loss, "val_task_losses": dict(self.task_losses)}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Validation:
        """The validation of `to_wire`."""
        return cls(wire["step"], wire["val_loss"], wire["val_task_losses"])


@dataclass(frozen=True, slots=True)
class TuneReport:
    """A finished run. Tokens are those of all steps; `loss_tokens` are the ones that stood in the loss.

    `seconds` is the wall time of the steps alone, loading and checking apart; of a run that was stopped and went on,
    of all its steps. `rejected` rows could not be trained on. `frozen` names parameters of trained parts that no loss
    reaches, and that were therefore left out.
    """

    out: Path
    rows: int
    rejected: int
    steps: int
    trained_parameters: int
    frozen: tuple[str, ...]
    text_tokens: int
    image_tokens: int
    loss_tokens: int
    seconds: float
    losses: tuple[float, ...]
    validation: Validation | None = None

    @property
    def seconds_per_step(self) -> float:
        """Mean wall time of a step."""
        return self.seconds / self.steps

    @property
    def final_loss(self) -> float:
        """Mean loss of the last tenth of the steps: single steps are noisy."""
        tail = self.losses[-max(1, len(self.losses) // 10) :]
        return sum(tail) / len(tail)
