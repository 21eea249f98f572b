"""The processes of a run, and what they tell each other.

Gradients are added up locally over all micro-batches of a step, and over the processes once a step, by hand. torch's
DistributedDataParallel hooks the backward pass instead, and hangs or loses gradients when one process saw an image and
another did not.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mmkit.errors import LimitError
from mmkit.training.config import TuneConfig
from mmkit.training.prepare import device_of

_T = TypeVar("_T")

BUCKET_BYTES = 2**26
"""Gradients that travel together, about: enough that the latency of a message does not count."""

_PATIENCE = timedelta(hours=2)
"""How long a process waits for the others. Not to detect a crash, of which torchrun takes care: the main one may be
writing a checkpoint to a slow disk."""


class Ranks:
    """The processes of a run as one of them sees them: this is number `rank` of `world`, and computes on `device`.

    Every method is to be called by all of them, in the same order. With one process none of them does a thing.
    """

    def __init__(self, rank: int = 0, world: int = 1, device: torch.device | str = "cpu") -> None:
        self.rank, self.world, self.device = rank, world, torch.device(device)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and reports."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The elementwise sum over the processes: the same bits on all of them, shape, dtype and device kept."""
        if self.world == 1:
            return values
        total = values.detach().to(self.device, copy=True).contiguous()
        dist.all_reduce(total)
        return total.to(values.device)

    def gather(self, value: _T) -> list[_T]:
        """Every process' value (anything that pickles), by rank, for all of them."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait until all of them are here."""
        if self.world > 1:
            dist.barrier(device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes, the same bits on all of them.

        A process without a gradient counts as zeros. One that no process has stays None, so that the optimizer leaves
        its parameter alone: zeros would still move it, by momentum and weight decay. `parameters` come in the same
        order everywhere. Sharded ones are left as they are: their gradients were summed in the backward pass.
        """
        if self.world == 1:
            return
        replicated = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
        present = self.sum(torch.tensor([parameter.grad is not None for parameter in replicated], dtype=torch.int32))
        gradients = [_gradient(p) for p, count in zip(replicated, present.tolist(), strict=True) if count]
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            for gradient, total in zip(bucket, torch.split(flat, [g.numel() for g in bucket]), strict=True):
                gradient.copy_(total.view_as(gradient))


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in lists of one dtype and device and about BUCKET_BYTES, in an order that depends on theirs alone."""
    alike: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for gradient in gradients:
        alike.setdefault((gradient.dtype, gradient.device), []).append(gradient)
    for tensors in alike.values():
        bucket: list[Tensor] = []
        size = 0
        for tensor in tensors:
            if bucket and size + tensor.nbytes > BUCKET_BYTES:
                yield bucket
                bucket, size = [], 0
            bucket.append(tensor)
            size += tensor.nbytes
        yield bucket


def grad_norm(parameters: Iterable[nn.Parameter], ranks: Ranks) -> Tensor:
    """The L2 norm of all gradients together, a float64 scalar on the run's device, the same on all processes.

    To be called when the gradients have been summed. Of sharded ones every process holds a part, and counts it.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    whole = _sum_of_squares([g for g in gradients if not isinstance(g, DTensor)], ranks.device)
    parts = [g.to_local() for g in gradients if isinstance(g, DTensor)]
    if parts:
        whole = whole + ranks.sum(_sum_of_squares(parts, ranks.device))
    return whole.sqrt()


def _sum_of_squares(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    if not tensors:
        return torch.zeros((), dtype=torch.float64, device=device)
    norms = [torch.linalg.vector_norm(tensor, dtype=_at_least_float32(tensor.dtype)) for tensor in tensors]
    return torch.stack([norm.double() for norm in norms]).square().sum()


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def clip_(parameters: Iterable[nn.Parameter], norm: Tensor, max_norm: float) -> None:
    """Scale the gradients, whose L2 norm is `norm`, so that it is at most `max_norm`; 0 leaves them as they are.

    Source: Pascanu et al. 2013, algorithm 1. Deviation: torch's 1e-6 beside the norm. Gradients below the limit are
    multiplied by exactly 1: asking whether they are would make a GPU wait.
    """
    if max_norm == 0:
        return
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for parameter in parameters:
        if parameter.grad is not None:
            gradient = parameter.grad
            local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
            local.mul_(factor.to(local.dtype))


@contextmanager
def connected(config: TuneConfig) -> Iterator[Ranks]:
    """The processes that torchrun started, by gloo on a CPU and by NCCL on GPUs, one of these for each process.

    Where torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK) is absent the run is one process. Raises
    UnavailableError where a GPU is asked for and none is there, UsageError where a node has more processes than GPUs,
    LimitError where a GPU's memory is full.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    device = device_of(config)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world == 1:
        with _full_memory_explained():
            yield Ranks(device=device)
        return
    gpu = device if device.type == "cuda" else None
    dist.init_process_group("gloo" if gpu is None else "nccl", timeout=_PATIENCE, device_id=gpu)
    with _full_memory_explained():
        yield Ranks(int(os.environ["RANK"]), world, device)
    # A sharded model is a cycle that holds the group; one that lives on until the interpreter ends may abort there.
    gc.collect()
    # Not where an error is under way: the others may be waiting in a collective, and NCCL would wait for them.
    dist.destroy_process_group()


@contextmanager
def _full_memory_explained() -> Iterator[None]:
    """Turn what a full GPU raises into one sentence."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise LimitError(
            "the GPU's memory is full; a smaller batch_size with more accumulation leaves the result as it is, "
            f"gradient checkpointing and fsdp take less too ({error})"
        ) from error
