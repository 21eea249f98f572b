"""The language model's layers split over the processes (FSDP2), for models that do not fit one GPU.

Source: Zhao et al. 2023 (PyTorch FSDP); torch's `fully_shard`. Deviation: only the decoder layers are sharded, which
every process runs in every micro-batch. Vision encoder and projector stay whole, since a process that saw no image does
not run them and the others would wait for it; embeddings and head stay whole too. Their gradients are summed by
`Ranks.sum_gradients`, those of the layers in the backward pass of every micro-batch: to sum them once a step, each
process would have to hold them whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mmkit.training.config import TuneConfig
from mmkit.training.prepare import runs_in_bfloat16

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mmkit.training.ranks import Ranks


def shard(net: PreTrainedModel, ranks: Ranks, config: TuneConfig) -> None:
    """Split the decoder layers' parameters over the processes, in place; with one process nothing is done.

    To be called before the optimizer is made, as the parameters become others. In bfloat16 runs the layers are gathered
    in bfloat16 and their gradients are summed in float32.
    """
    if ranks.world == 1:
        return
    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)  # autocast decides what the layers compute in
    if runs_in_bfloat16(config):
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    decoder = net.get_decoder()
    for layer in decoder.layers:
        _sharded(fully_shard(layer, mesh=mesh, mp_policy=policy))
    # The decoder holds no shard of its own. As the root it lets each layer be gathered while the one before computes.
    whole = {parameter for parameter in decoder.parameters() if not isinstance(parameter, DTensor)}
    _sharded(fully_shard(decoder, mesh=mesh, mp_policy=policy, ignored_params=whole))


def _sharded(module: FSDPModule) -> None:
    """Have gradients summed, not averaged: the loss of each process is its share of the global one."""
    module.set_gradient_divide_factor(1.0)
    module.set_force_sum_reduction_for_comms(True)


def is_sharded(parameter: Tensor) -> bool:
    """Whether each process holds a part of it only."""
    return isinstance(parameter, DTensor)


def full_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whole and on the CPU, in the main process; nothing in the others, which have to call it too.

    What is whole already and on the CPU is not copied.
    """
    is_main = not dist.is_initialized() or dist.get_rank() == 0
    full: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        # One at a time, so that a GPU needs room for one.
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if is_main:
            full[name] = whole.detach().cpu()
    return full


def shard_like(full: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor as `parameter` lies: on its device, and this process' part of it where that is sharded."""
    full = full.to(parameter.device)
    if not isinstance(parameter, DTensor):
        return full
    return distribute_tensor(full, parameter.device_mesh, parameter.placements, src_data_rank=None)
