"""The λ-weighted token loss, from hidden states, in chunks.

Source: VisATB, eq. 2: L = Σ λ·nll / Σ λ over every valid token of the global batch. This module makes the nll of each
token; the trainer weighs them and divides by the denominator of the whole global batch, so that the gradient of many
micro-batches on many devices is that of one big batch. Deviation: none from the equation. The authors' code divides
within each forward pass and takes `loss != 0` for the valid tokens; here a token is valid where its label is not
IGNORED.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmkit.errors import UnavailableError

IGNORED = -100
"""The label of a token that is not in the loss."""

LOGITS_AT_ONCE = 2**25
"""Logits that are held at a time: 128 MiB in float32, 220 tokens of a vocabulary of 152,000."""


def hidden_states(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """What goes into the language-model head: (batch, length, hidden). The head's own work is left out.

    The model's whole forward runs, so that wrappers which hook it keep working; only its head is handed zero
    positions, and the logits that nobody needs are never made.
    """
    taken: list[Tensor] = []

    def take(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        taken.append(args[0])
        return (args[0][:, :0], *args[1:])

    handle = head_of(model).register_forward_pre_hook(take)
    try:
        model(**inputs, use_cache=False)
    finally:
        handle.remove()
    return taken[0]


def valid_tokens(labels: Tensor) -> Tensor:
    """Which targets are in the loss, (batch, length - 1): position t predicts label t + 1."""
    return labels[:, 1:] != IGNORED


def token_nll(hidden: Tensor, head: nn.Module, labels: Tensor, chunk: int | None = None) -> Tensor:
    """The negative log-likelihood, in nats, of each valid token in order: (valid tokens,), float32 (float64 where
    `hidden` is).

    `hidden` is (batch, length, hidden), `labels` (batch, length) with IGNORED where a token is not in the loss; left on
    the CPU, they save a GPU the wait for their number. Valid positions are picked before the head. More than `chunk` of
    them (default: as many as LOGITS_AT_ONCE allow) are done in chunks whose logits are computed again in the backward
    pass.
    """
    valid = valid_tokens(labels)
    places = valid.flatten().nonzero()[:, 0].to(hidden.device, non_blocking=True)
    picked = hidden[:, :-1].flatten(0, 1).index_select(0, places)
    targets = labels[:, 1:][valid].to(hidden.device, non_blocking=True)
    if chunk is None:
        chunk = max(1, LOGITS_AT_ONCE // vocabulary_size(head))
    if len(targets) <= chunk:
        return _nll(picked, head, targets)
    pieces = zip(torch.split(picked, chunk), torch.split(targets, chunk), strict=True)
    return torch.cat([checkpoint(_nll, h, head, t, use_reentrant=False) for h, t in pieces])


def head_of(model: nn.Module) -> nn.Module:
    """The layer that turns hidden states into logits, of a plain or adapted model."""
    return model.get_output_embeddings()  # type: ignore[operator]


def vocabulary_size(head: nn.Module) -> int:
    """How many logits the head makes of a position."""
    weight: Tensor = head.weight  # type: ignore[assignment]
    return len(weight)


def check_head(model: nn.Module) -> None:
    """Raise UnavailableError where a model changes its logits after the head (soft capping, scaling).

    The loss above is computed from the head alone and would be another model's.
    """
    head = head_of(model)
    ids = torch.arange(4, device=head.weight.device)[None]  # type: ignore[arg-type]
    was_training = model.training
    model.eval()
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits
        logits = head(hidden_states(model, {"input_ids": ids}))
    model.train(was_training)
    if not torch.allclose(logits.float(), expected.float(), rtol=1e-3, atol=1e-3, equal_nan=True):
        raise UnavailableError("this model changes its logits after its head; mmkit cannot train it yet")


def _nll(hidden: Tensor, head: nn.Module, targets: Tensor) -> Tensor:
    logits = head(hidden)
    if logits.dtype != torch.float64:
        logits = logits.float()
    return F.cross_entropy(logits, targets, reduction="none")
