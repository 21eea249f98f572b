"""`finetune`: samples and a model in, a tuned model or an adapter out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from mmkit.errors import DataError, LimitError
from mmkit.models.loading import load_chat
from mmkit.training import output
from mmkit.training.collate import Batch, Batches, Collator
from mmkit.training.config import StepReport, TuneConfig, TuneReport
from mmkit.training.loss import check_head, head_of, hidden_states, weight_sum, weighted_nll
from mmkit.training.prepare import on_gpu, prepare_model, runs_in_bfloat16
from mmkit.training.rows import Rows, check
from mmkit.training.samples import Sample
from mmkit.training.schedule import lr_factor

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from mmkit.models.encoding import Chat

OnStep = Callable[[StepReport], None]


def finetune(
    samples: Sequence[Sample],
    *,
    model: str,
    out: Path,
    config: TuneConfig,
    on_step: OnStep | None = None,
) -> TuneReport:
    """Tune `model` (a directory or hub id) on `samples` and leave a directory `out` that from_pretrained loads.

    The loss is Σ λ·nll / Σ λ over the valid tokens of each optimizer step's rows (VisATB, eq. 2; deviation: none).
    `out` holds safetensors, processor, chat template, generation config and `run.json`; it is written beside its
    place and renamed, so it is complete or not there. `on_step` hears of every optimizer step.

    Raises DataError for a row that cannot be trained on (with `config.check_rows` before the first step) and for a
    model directory that is none, MissingInputError for an image that is not there, UsageError where `out` is
    something else's directory, LimitError where the loss or the gradient stops being finite; no `out` is then left.
    """
    if not samples:
        raise DataError("there is no row to train on")
    output.check_target(out)
    with _threads(config.threads):
        chat = load_chat(model)
        rows = Rows(samples, chat, config.max_length, config.cache_mb * 10**6)
        if config.check_rows:
            check(rows, config.workers)
        net = prepare_model(model, config)
        check_head(net)
        with output.staged(out) as folder:
            trainer = WeightedTrainer(net, rows, chat, config, folder, on_step)
            trainer.train()
            report = trainer.report(out)
            output.save(folder, net=net, chat=chat, model=model, config=config, report=report)
    return report


class WeightedTrainer(Trainer):
    """transformers' Trainer with the exact weighted loss.

    The stock one averages the means of micro-batches for models that take no loss arguments, and knows no weights.
    Here `compute_loss` returns a micro-batch's share of the global loss, and the denominator is that of all
    micro-batches of the step.
    """

    loss_is_scaled_for_ga = True  # the shares add up to the loss: nothing is left to divide

    def __init__(
        self,
        net: PreTrainedModel,
        rows: Rows,
        chat: Chat,
        config: TuneConfig,
        folder: Path,
        on_step: OnStep | None = None,
    ) -> None:
        with _unchanged(net.config):
            super().__init__(model=net, args=_arguments(config, folder))
        self.remove_callback(PrinterCallback)  # it prints to stdout
        self._config, self._rows, self._collator, self._on_step = config, rows, Collator(chat), on_step
        self._step_batches: Sequence[Batch] = ()
        self._step_began = 0.0
        self._reports: list[StepReport] = []
        self._counts = dict.fromkeys(("text_tokens", "image_tokens", "loss_tokens"), 0)

    def get_train_dataloader(self) -> Batches:
        """Batches in our own order; not handed to accelerate, which would shard and pad them its own way."""
        return Batches(self._rows, self._collator, self._config, pin_memory=on_gpu(self._config))

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """Warm-up and schedule of `mmkit.training.schedule`."""
        self.lr_scheduler = LambdaLR(
            optimizer or self.optimizer, lambda step: lr_factor(step, num_training_steps, self._config)
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor]:
        """The micro-batches of one optimizer step, and the denominator of its loss."""
        self._step_began = time.perf_counter()
        batches, denominator = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._step_batches = batches
        return batches, denominator

    def _get_num_items_in_batch(self, batch_samples: Sequence[Batch], device: torch.device) -> Tensor:
        """Σ λ over the valid tokens of all micro-batches of the step."""
        shares = [weight_sum(batch["labels"], batch["weights"]) for batch in batch_samples]
        return torch.stack(shares).sum().to(device)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        """A micro-batch's share of the global loss. A step whose weights are all 0 has loss 0."""
        assert num_items_in_batch is not None and not return_outputs
        with self.accelerator.autocast():
            hidden = hidden_states(model, inputs["inputs"])
            total = weighted_nll(hidden, head_of(model), inputs["labels"], inputs["weights"])
        loss = total / num_items_in_batch.to(total.dtype).clamp_min(1e-30)
        self._stop_unless_finite("loss", loss.item(), [inputs])
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | None = None) -> float:
        """The norm before clipping. This is the last moment before the optimizer would spoil the weights."""
        norm = float(super()._get_grad_norm(model, grad_norm=grad_norm))
        self._stop_unless_finite("gradient norm", norm, self._step_batches)
        return norm

    def _stop_unless_finite(self, what: str, value: float, batches: Sequence[Batch]) -> None:
        if math.isfinite(value):
            return
        ids = ", ".join(repr(record_id) for batch in batches for record_id in batch["ids"])
        raise LimitError(f"step {self.state.global_step + 1}: the {what} is {value}; records of the batch: {ids}")

    def floating_point_ops(self, inputs: Batch) -> int:
        """Not counted: the stock estimate walks over all parameters at every step."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Called by Trainer after every step, and once more at the end with a summary that is not a step's."""
        super().log(logs, start_time)
        if "grad_norm" not in logs:
            return
        for name in self._counts:
            self._counts[name] += sum(batch[name] for batch in self._step_batches)
        step = StepReport(
            step=self.state.global_step,
            num_steps=self.state.max_steps,
            loss=logs["loss"],
            lr=logs["learning_rate"],
            grad_norm=logs["grad_norm"],
            tokens=sum(batch["text_tokens"] + batch["image_tokens"] for batch in self._step_batches),
            seconds=time.perf_counter() - self._step_began,
        )
        self._reports.append(step)
        if self._on_step is not None:
            self._on_step(step)

    def report(self, out: Path) -> TuneReport:
        """The totals so far."""
        return TuneReport(
            out=out,
            rows=len(self._rows),
            steps=len(self._reports),
            trained_parameters=sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            seconds=sum(step.seconds for step in self._reports),
            losses=tuple(step.loss for step in self._reports),
            **self._counts,
        )


def _arguments(config: TuneConfig, folder: Path) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation,
        num_train_epochs=config.epochs,
        max_steps=-1 if config.max_steps is None else config.max_steps,
        learning_rate=config.lr,
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        adam_epsilon=config.adam_epsilon,
        max_grad_norm=config.max_grad_norm,
        gradient_checkpointing=config.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
        bf16=runs_in_bfloat16(config),
        use_cpu=not on_gpu(config),
        seed=config.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would hide what we stop at
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        skip_memory_metrics=True,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # never torch's DataParallel, whose replicas break the hooks
    return arguments


@contextmanager
def _unchanged(model_config: PretrainedConfig) -> Iterator[None]:
    """Trainer switches `use_cache` off in the config, which is saved with the model; our forward is told instead."""
    before = dict(vars(model_config))
    yield
    vars(model_config).clear()
    vars(model_config).update(before)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
