"""Rows of a batch joined to one sequence without padding, so that none sees another.

What keeps the rows apart are the position ids: they begin anew with each row, and transformers builds a block-causal
mask from that where it is given no attention mask and no cache. Any other way leaks between rows without a word, so
`check_packing` tries it on the model at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmkit.errors import UnavailableError, UsageError
from mmkit.training.loss import IGNORED, hidden_states

PACKABLE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Families whose position ids are worked out here."""

_PER_TOKEN = ("input_ids", "mm_token_type_ids")


def check_family(family: str) -> None:
    """Raise UsageError for a family whose rows cannot be joined."""
    if family not in PACKABLE:
        raise UsageError(f"--pack knows {', '.join(PACKABLE)}, not {family}; leave it out")


def pack(net: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch with its rows one after another: inputs, labels, weights and tasks are (1, tokens).

    The first token of a row is taken out of the loss: what stands before it belongs to another row.
    """
    inputs = batch["inputs"]
    there = inputs["attention_mask"].bool()
    labels = batch["labels"].clone()
    labels[:, 0] = IGNORED
    packed: dict[str, Any] = {name: inputs[name][there][None] for name in _PER_TOKEN if name in inputs}
    packed |= {name: value for name, value in inputs.items() if name not in (*_PER_TOKEN, "attention_mask")}
    packed["position_ids"] = _position_ids(net, inputs, there)
    per_token = {name: batch[name][there][None] for name in ("weights", "tasks")}
    return {**batch, "inputs": packed, "labels": labels[there][None], **per_token}


def check_packing(net: nn.Module) -> None:
    """Raise UnavailableError where a row sees the one before it in its pack."""
    ids = torch.arange(12, device=next(net.parameters()).device).view(2, 6)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    filler = {"labels": ids, "weights": ids, "tasks": ids}
    was_training = net.training
    net.eval()
    with torch.no_grad():
        apart = hidden_states(net, inputs).flatten(0, 1)
        together = hidden_states(net, pack(net, {"inputs": inputs, **filler})["inputs"])[0]
    net.train(was_training)
    if not torch.allclose(apart.float(), together.float(), rtol=1e-2, atol=1e-2):
        raise UnavailableError("rows that are packed together see each other in this model; leave --pack out")


def _position_ids(net: nn.Module, inputs: Mapping[str, Tensor], there: Tensor) -> Tensor:
    """Rows of (text, time, height, width) positions, (4, 1, tokens)."""
    text = torch.arange(there.shape[1], device=there.device).expand(there.shape)
    if "image_grid_thw" in inputs:
        whole: Any = net
        core = whole.get_base_model() if hasattr(whole, "get_base_model") else whole
        spatial, _ = core.model.get_rope_index(
            inputs["input_ids"],
            mm_token_type_ids=inputs["mm_token_type_ids"],
            image_grid_thw=inputs["image_grid_thw"],
            attention_mask=inputs["attention_mask"],
        )
    else:
        spatial = text.expand(3, *text.shape)
    return torch.stack([axis[there] for axis in (text, *spatial)])[:, None]
