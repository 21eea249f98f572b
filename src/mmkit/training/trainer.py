"""The training loop: one process' part in a run, from the job on disk to the tuned model.

The loop is our own. What stands between a forward pass and an optimizer step decides whether the loss is exact, whether
a run can go on to the bit after a stop, and whether the vision encoder stays where it is on a step without an image; a
general trainer has its own ideas of each (docs/adr/0015).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmkit.errors import DataError, LimitError
from mmkit.models.families import CROSS_ATTENTION
from mmkit.models.loading import load_chat
from mmkit.models.mixlora import conditioned
from mmkit.seeds import derive
from mmkit.training import checkpoints, output, packing, sharding
from mmkit.training.balance import balance_of
from mmkit.training.collate import Batch, Batches, Collator
from mmkit.training.config import StepReport, TuneConfig, TuneReport, Validation
from mmkit.training.flops import Flops
from mmkit.training.job import Fact, Job, read_job
from mmkit.training.log import logged, read_losses
from mmkit.training.loss import check_head, head_of, hidden_states, token_nll, valid_tokens
from mmkit.training.plan import Step, epoch_plan, num_steps
from mmkit.training.prepare import frozen_dead, on_gpu, parameter_groups, prepare_model, runs_in_bfloat16
from mmkit.training.ranks import Ranks, clip_, grad_norm
from mmkit.training.rows import Rows
from mmkit.training.schedule import lr_factor
from mmkit.training.stopping import Stopped

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mmkit.models.encoding import Chat

OnStep = Callable[[StepReport], None]
StopRequested = Callable[[], str | None]

_COUNTS = ("text_tokens", "image_tokens", "loss_tokens")


def run(
    out: Path,
    ranks: Ranks,
    *,
    rows: Rows | None = None,
    on_step: OnStep | None = None,
    stop_requested: StopRequested = lambda: None,
) -> None:
    """Do the job in `out`, from its last checkpoint on, and leave the tuned model and run.json there.

    `rows` are the job's, where they have been encoded already. `on_step` hears, in the main process, of every optimizer
    step. Once `stop_requested` says why, a checkpoint is written and Stopped is raised. Raises DataError for a row
    that cannot be trained on and a checkpoint that is not sound, LimitError where the loss or the gradient stops being
    finite and where the disk is full.
    """
    job = read_job(out)
    with _threads(job.config.threads):
        chat = load_chat(job.model)
        if rows is None:
            rows = rows_of(job.samples(), chat, job.config)
        Tuning(job, chat, rows, ranks, on_step, stop_requested).run()


def rows_of(samples: Any, chat: Chat, config: TuneConfig) -> Rows:
    """The samples, encoded as the settings say."""
    return Rows(
        samples, chat, max_length=config.max_length, overlong=config.overlong, cache_bytes=config.cache_mb * 10**6
    )


class Tuning:
    """A model, its optimizer, and where a run is: `step` optimizer steps are done, `position` of them in `epoch`."""

    def __init__(
        self,
        job: Job,
        chat: Chat,
        rows: Rows,
        ranks: Ranks,
        on_step: OnStep | None = None,
        stop_requested: StopRequested = lambda: None,
    ) -> None:
        config = job.config
        self.job, self.config, self.chat, self.ranks = job, config, chat, ranks
        self._rows, self._on_step, self._stop_requested = rows, on_step, stop_requested
        facts = job.facts()
        self._trained_on = [fact for fact in facts if not fact.held_out]
        self._held_out = [fact for fact in facts if fact.held_out]
        self.tasks = sorted({fact.task for fact in facts}, key=lambda task: (task is not None, task))
        self._collator = Collator(chat, {task: number for number, task in enumerate(self.tasks)})
        self._one_modality = config.modality_batches or chat.family in CROSS_ATTENTION
        self.num_steps = num_steps(self._trained_on, config, **self._plan_options())

        # A model that is to be sharded may not fit the device whole.
        self.net: PreTrainedModel = prepare_model(
            job.model, config, torch.device("cpu") if config.fsdp else ranks.device
        )
        self._check_model()
        if config.fsdp:
            sharding.shard(self.net, ranks, config)
            self.net.to(ranks.device)
        self.parameters = list(checkpoints.trained(self.net).values())
        self.optimizer = _optimizer(self.net, config)
        self.balance = balance_of(config, len(self.tasks))
        self._flops = Flops.of(self.net, config, ranks)

        self.step = self.epoch = self.position = 0
        self.seconds = 0.0
        self.counts = dict.fromkeys(_COUNTS, 0)
        self.validation: Validation | None = None

    def run(self) -> None:
        """Train from the last checkpoint on, and save."""
        self._resume()
        validated = self.validation is not None and self.validation.step == self.step
        with logged(self.job, self.ranks, self.step, validated=validated) as self._log:
            self._train()
            self.save_checkpoint()  # what is left to do may meet a full disk
        self._save()

    # --- the loop

    def _train(self) -> None:
        self.net.train()
        while self.step < self.num_steps:
            plan = self._plan(self._trained_on, self.epoch)
            left = plan[self.position :][: self.num_steps - self.step]
            self._began = time.perf_counter()
            for batches in self._batches(left, self._trained_on):
                self._one_step(batches)
                if self.step % self.config.save_every == 0 and self.step < self.num_steps:
                    self.save_checkpoint()
                self._began = time.perf_counter()
            if self.position == len(plan):
                self.epoch, self.position = self.epoch + 1, 0
            self._validate()

    def _one_step(self, batches: Sequence[Batch]) -> None:
        tokens, weighted, own_weights, counts, stop = self._count(batches)
        if stop:
            self.save_checkpoint()
            raise Stopped(self._stop_requested(), self.step, self.job.out)
        lambdas = torch.tensor(self.balance.task_weights(self.step, weighted.tolist()), dtype=torch.float64)
        denominator = float(tokens.sum() if self.config.weight_norm == "tokens" else lambdas @ own_weights)
        if not math.isfinite(denominator):
            self._give_up("sum of λ", denominator, batches)
        rate = lr_factor(self.step, self.num_steps, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * rate
        torch.manual_seed(derive(self.config.seed, str(self.ranks.rank), f"finetune.step.{self.step}") >> 1)

        shares, nll = self._backward(batches, lambdas / denominator if denominator else torch.zeros_like(lambdas))
        totals = self.ranks.sum(torch.cat([shares.sum()[None], nll]).cpu())
        loss, nll = float(totals[0]), totals[1:]
        if not math.isfinite(loss):
            bad = [batch for batch, share in zip(batches, shares.tolist(), strict=True) if not math.isfinite(share)]
            self._give_up("loss", loss, bad)
        norm = self._move(batches) if denominator else 0.0
        self.optimizer.zero_grad(set_to_none=True)
        self.balance.observe(nll.tolist(), tokens.tolist())

        self.step, self.position = self.step + 1, self.position + 1
        for name, count in counts.items():
            self.counts[name] += count
        seconds = time.perf_counter() - self._began  # the wait for the rows counted
        self.seconds += seconds
        self._report(
            StepReport(
                step=self.step,
                num_steps=self.num_steps,
                loss=loss,
                lr=self.config.lr * rate,
                grad_norm=norm,
                tokens=counts["text_tokens"] + counts["image_tokens"],
                seconds=seconds,
                task_losses=self._by_task(nll, tokens),
                mfu=self._flops.utilisation(batches, seconds),
            )
        )

    def _count(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor, Tensor, dict[str, int], bool]:
        """Over all processes and micro-batches of a step: of each task the valid tokens, those of rows that weigh
        anything, and Σλ; the counts of the report, and whether anybody wants to stop."""
        tokens, weighted, weights = torch.zeros(3, len(self.tasks), dtype=torch.float64)
        for batch in batches:
            valid = valid_tokens(batch["labels"])
            tasks, own = batch["tasks"][:, 1:][valid], batch["weights"][:, 1:][valid]
            tokens.index_add_(0, tasks, torch.ones_like(own))
            weighted.index_add_(0, tasks, (own > 0).double())
            weights.index_add_(0, tasks, own)
        counts = [float(sum(batch[name] for batch in batches)) for name in _COUNTS]
        stop = float(self._stop_requested() is not None)
        others = torch.tensor([*counts, stop], dtype=torch.float64)
        totals = self.ranks.sum(torch.cat([tokens, weighted, weights, others]))
        tokens, weighted, weights, others = torch.split(totals, [*[len(self.tasks)] * 3, len(others)])
        *counted, stopping = others.tolist()
        return tokens, weighted, weights, dict(zip(_COUNTS, map(int, counted), strict=True)), stopping > 0

    def _backward(self, batches: Sequence[Batch], coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Add up the gradients of this process. Gives the share of each micro-batch in the loss, and for each task the
        sum of its tokens' nll. `coefficients` are λ over the denominator, by task."""
        nll = torch.zeros(len(self.tasks), dtype=torch.float64, device=self.ranks.device)
        coefficients = coefficients.to(self.ranks.device)
        shares = []
        for batch in batches:
            with conditioned(self.net, batch["instructions"]):
                of_tokens, tasks, weights = self._forward(batch)
                share = (of_tokens * (weights * coefficients[tasks]).to(of_tokens.dtype)).sum()
                if share.requires_grad:  # a projector learns nothing from text alone
                    torch.autograd.backward(share)
            shares.append(share.detach().double())
            nll.index_add_(0, tasks, of_tokens.detach().double())
        return torch.stack(shares), nll

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The nll, the task and the row's λ of each valid token of a micro-batch."""
        if self.config.pack:
            batch = packing.pack(self.net, batch)
        labels, device = batch["labels"], self.ranks.device
        inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in batch["inputs"].items()}
        bfloat16 = runs_in_bfloat16(self.config)
        with torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext():
            hidden = hidden_states(self.net, inputs)
            nll = token_nll(hidden, head_of(self.net), labels)
        valid = valid_tokens(labels)
        tasks, weights = (batch[name][:, 1:][valid].to(device, non_blocking=True) for name in ("tasks", "weights"))
        return nll, tasks, weights

    def _move(self, batches: Sequence[Batch]) -> float:
        """One optimizer step; gives the gradient's norm before clipping. Nothing moves unless it is finite."""
        self.ranks.sum_gradients(self.parameters)
        norm = grad_norm(self.parameters, self.ranks)
        if not math.isfinite(norm):
            self._give_up("gradient norm", float(norm), batches)
        clip_(self.parameters, norm, self.config.max_grad_norm)
        self.optimizer.step()
        return float(norm)

    def _give_up(self, what: str, value: float, batches: Sequence[Batch]) -> None:
        ids = [
            repr(record_id) for rank in self.ranks.gather([b["ids"] for b in batches]) for b in rank for record_id in b
        ]
        raise LimitError(f"step {self.step + 1}: the {what} is {value}; records of the batch: {', '.join(ids)}")

    # --- what is measured beside it

    def _validate(self) -> None:
        """Measure the held-out rows."""
        if not self._held_out:
            return
        sums = torch.zeros(2, len(self.tasks), dtype=torch.float64)
        self.net.eval()
        for (batch,) in self._batches(self._plan(self._held_out, 0), self._held_out):
            with torch.no_grad(), conditioned(self.net, batch["instructions"]):
                nll, tasks, _ = self._forward(batch)
            sums[0].index_add_(0, tasks.cpu(), nll.cpu().double())
            sums[1].index_add_(0, tasks.cpu(), torch.ones(len(tasks), dtype=torch.float64))
        self.net.train()
        nll, tokens = self.ranks.sum(sums)
        loss = float(nll.sum() / tokens.sum())
        self.validation = Validation(self.step, loss, self._by_task(nll, tokens))
        self._log.add(self.validation)

    def _by_task(self, nll: Tensor, tokens: Tensor) -> dict[str, float]:
        """The mean of a token, for the tasks that have any."""
        return {
            task or "": total / count
            for task, total, count in zip(self.tasks, nll.tolist(), tokens.tolist(), strict=True)
            if count
        }

    def _report(self, step: StepReport) -> None:
        self._log.add(step)
        if self._on_step is not None and self.ranks.is_main:
            self._on_step(step)

    # --- rows

    def _plan_options(self) -> dict[str, Any]:
        return {
            "world": self.ranks.world,
            "one_modality": self._one_modality,
            "task_weights": self.job.task_shares,
        }

    def _plan(self, facts: Sequence[Fact], epoch: int) -> list[Step]:
        config = self.config
        if facts is self._held_out:
            config = replace(config, accumulation=1, task_sampling="proportional")
        return epoch_plan(facts, config, epoch=epoch, **self._plan_options())

    def _batches(self, plan: Sequence[Step], facts: Sequence[Fact]) -> Iterator[list[Batch]]:
        """This process' micro-batches of each step."""
        mine = [micro_step[self.ranks.rank] for step in plan for micro_step in step]
        loader = iter(
            Batches(
                self._rows,
                [fact.index for fact in facts],
                mine,
                self._collator,
                workers=self.config.workers,
                pin_memory=on_gpu(self.config),
            )
        )
        for step in plan:
            yield [next(loader) for _ in step]

    # --- the model and its checkpoints

    def _check_model(self) -> None:
        with conditioned(self.net, [()]):  # it looks at one row
            check_head(self.net)
        if self.config.gradient_checkpointing:
            self.net.gradient_checkpointing_enable({"use_reentrant": False})
        if self.config.pack:
            packing.check_packing(self.net)

    def save_checkpoint(self) -> None:
        """Write what the run needs to go on from here."""
        weights = sharding.full_tensors(checkpoints.trained(self.net))
        optimizer = sharding.full_tensors(checkpoints.optimizer_tensors(self.net, self.optimizer))
        if self.ranks.is_main:
            self._log.flush()
            state = {
                "epoch": self.epoch,
                "position": self.position,
                "seconds": self.seconds,
                "counts": self.counts,
                "balance": self.balance.state(),
                "validation": None if self.validation is None else self.validation.to_wire(),
            }
            tensors: Mapping[str, Mapping[str, Tensor]] = {"weights": weights, "optimizer": optimizer}
            checkpoints.save(self.job.folder, self.step, state, tensors)
        self.ranks.barrier()

    def _resume(self) -> None:
        checkpoint = checkpoints.latest(self.job.folder)
        self._check_that_all_see_the_same(None if checkpoint is None else checkpoint.step)
        if checkpoint is None:
            return
        state = checkpoint.state
        checkpoints.restore_weights(self.net, checkpoint)
        checkpoints.restore_optimizer(self.net, self.optimizer, checkpoint)
        self.step, self.epoch, self.position = checkpoint.step, state["epoch"], state["position"]
        self.seconds, self.counts = state["seconds"], dict(state["counts"])
        self.balance.restore(state["balance"])
        if state["validation"] is not None:
            self.validation = Validation.from_wire(state["validation"])

    def _check_that_all_see_the_same(self, step: int | None) -> None:
        seen = set(self.ranks.gather((step, self.job.data_sha256, self.num_steps)))
        if len(seen) > 1:
            raise DataError(f"the processes do not find the same in {self.job.out}: does every node share that disk?")

    def _save(self) -> None:
        state = sharding.full_tensors(self.net.state_dict()) if self.config.fsdp else None
        if self.ranks.is_main:
            report = TuneReport(
                out=self.job.out,
                rows=len(self._trained_on),
                rejected=self.job.num_rejected,
                steps=self.step,
                trained_parameters=sum(parameter.numel() for parameter in self.parameters),
                frozen=tuple(frozen_dead(self.net, self.config)),
                seconds=self.seconds,
                losses=tuple(read_losses(self.job.folder)),
                validation=self.validation,
                **self.counts,
            )
            output.save(self.job, self.chat, self.net, report, state)
        self.ranks.barrier()


def _optimizer(net: PreTrainedModel, config: TuneConfig) -> torch.optim.AdamW:
    """AdamW over the groups, each of which remembers its peak learning rate."""
    groups = [{**group, "peak_lr": group["lr"]} for group in parameter_groups(net, config)]
    return torch.optim.AdamW(
        groups,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        # On a GPU one kernel for all; a mixture of sharded and whole parameters has none.
        fused=on_gpu(config) and not config.fsdp,
        foreach=False if config.fsdp else None,
    )


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
