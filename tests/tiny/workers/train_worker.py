"""One process of tests/tiny/test_data_parallel.py: `train_worker.py OUT…` does the jobs in these directories, one after
another. The main process writes what it saw to OUT.pt."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from mmkit.models.loading import load_chat
from mmkit.training.job import read_job
from mmkit.training.log import read_losses
from mmkit.training.ranks import Ranks, connected
from mmkit.training.rows import Rows
from mmkit.training.trainer import Tuning, rows_of


def recorded(out: Path, ranks: Ranks, rows: Rows | None = None) -> dict[str, Any]:
    """Do the job: the gradients that the optimizer saw in each step, the trained weights and losses, and which rows
    each of this process' micro-batches held. Both halves of fresh adapters are random, so that both learn."""
    job = read_job(out)
    chat = load_chat(job.model)
    tuning = Tuning(job, chat, rows or rows_of(job.samples(), chat, job.config), ranks)
    torch.manual_seed(1)
    for name, parameter in tuning.net.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    gradients: list[dict[str, Any]] = []
    batches: list[list[tuple[str, ...]]] = []

    def keep(*_: Any) -> None:
        gradients.append({n: p.grad.clone() for n, p in tuning.net.named_parameters() if p.grad is not None})

    count = tuning._count

    def watched(step: Any) -> Any:
        batches.append([tuple(batch["ids"]) for batch in step])
        return count(step)

    tuning._count = watched  # type: ignore[method-assign]
    tuning.optimizer.register_step_pre_hook(keep)
    tuning.run()
    weights = {n: p.detach() for n, p in tuning.net.named_parameters() if p.requires_grad}
    return {"gradients": gradients, "weights": weights, "losses": list(read_losses(out)), "batches": batches}


if __name__ == "__main__":
    torch.set_num_threads(1)
    outs = [Path(argument) for argument in sys.argv[1:]]
    with connected(read_job(outs[0]).config) as here:
        for out in outs:
            seen = recorded(out, here)
            seen["batches"] = here.gather(seen["batches"])
            if here.is_main:
                torch.save(seen, f"{out}.pt")
