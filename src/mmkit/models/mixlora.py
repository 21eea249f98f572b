"""A mixture of LoRA adapters on one model, weighed for each row by gates on the row's instruction.

A linear layer W with E experts (A_e, B_e) of rank r computes W h + α/r Σ_e g_e B_e A_e h. The gates g = softmax(G z)
are the layer's own, and the same for all tokens of a row: z is the row's instruction embedding (see `conditioned`). A_e
starts as in LoRA, B_e and G at zero: the first forward pass is the base model's, and the experts count alike.

Σ_e g_e B_e A_e is B·diag(g)·A of the stacked factors. So a mixture is peft's LoRA of rank E·r, whose A is followed by
the gates; with one expert, whose gate is 1, it is that LoRA to the bit (docs/adr/0024).

Source: MINT, section 4.1.3 (a pool of adapters, instance-specific weights from the instruction embedding), which names
MixLoRA (Shen et al. 2024, "Multimodal Instruction Tuning with Conditional Mixture of LoRA"). Where MINT says no more,
ours: what z is, a softmax over all experts, gates for each adapted layer, no auxiliary loss. Deviations from Shen et
al.: their routers read the mean of each layer's input, with image tokens and answer, and choose r of E factors of rank
1, first for A, then for B, which count alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from mmkit.errors import DataError, missing_extra
from mmkit.models.loading import ADAPTER_CONFIG, MIXLORA

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ADAPTER = "default"
_WEIGHTS = "adapter_model.safetensors"
_ATTACHED = "mixlora"


@dataclass(frozen=True, slots=True)
class Mixture:
    """`experts` adapters of rank `r` on the linear layers whose names `target_modules`, a regular expression, matches
    as a whole. The scale is `lora_alpha` / `r`; `lora_dropout` (0 to 1) stands before the adapters."""

    target_modules: str
    experts: int
    r: int
    lora_alpha: float
    lora_dropout: float


@dataclass(slots=True)
class Attached:
    """The mixture of a model, and the instruction embeddings of the rows that it is at, (rows, width); None between
    batches. The model and its layers share it."""

    mixture: Mixture
    embeddings: Tensor | None = None


class GatedFactors(nn.Module):
    """Stands for a layer's A: the factors A_e of all experts one below the other, and the gates.

    `weight` is (experts × r, inputs), `gate` (experts, width of the instruction embedding).
    """

    def __init__(self, factors: nn.Linear, width: int, attached: Attached) -> None:
        super().__init__()
        self._attached = attached
        self.weight = factors.weight
        # Never below float32: a softmax of sums over thousands of products.
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        self.gate = nn.Parameter(torch.zeros(attached.mixture.experts, width, dtype=dtype, device=self.weight.device))

    def gates(self) -> Tensor:
        """The weight of each expert for each row, (rows, experts): not negative, summing to 1."""
        embeddings = self._attached.embeddings
        if embeddings is None:
            raise RuntimeError("a mixture of LoRA is run without the instructions of its rows")
        with torch.autocast(embeddings.device.type, enabled=False):
            return F.linear(embeddings, self.gate.to(embeddings.dtype)).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        """g_e A_e x: from (…, inputs) to (…, experts × r). The first dimension is that of the rows, or a multiple of
        it, each row's entries side by side (mllama's images)."""
        projected = F.linear(x, self.weight)
        gates = self.gates()
        rows, experts = gates.shape
        if len(x) % rows:
            raise RuntimeError(f"a mixture of LoRA got {len(x)} rows with {rows} instructions")
        by_expert = projected.reshape(rows, -1, experts, projected.shape[-1] // experts)
        return (by_expert * gates[:, None, :, None].to(projected.dtype)).view_as(projected)


def attach(net: PreTrainedModel, mixture: Mixture, *, trained: bool) -> None:
    """Put a new mixture on `net`, in place; nothing but it is trained then.

    `trained` keeps its weights in float32 where the model's are shorter, as peft does. Random draws are those of a
    plain LoRA of rank experts × r. Raises UnavailableError where peft is not installed, ValueError where no layer
    matches.
    """
    try:
        from peft import LoraConfig, get_peft_model
        from peft.tuners.lora import LoraLayer
    except ModuleNotFoundError:
        raise missing_extra("peft", "train") from None
    stacked = LoraConfig(
        r=mixture.experts * mixture.r,
        lora_alpha=mixture.experts * mixture.lora_alpha,  # the scale of peft is alpha over the rank
        lora_dropout=mixture.lora_dropout,
        target_modules=mixture.target_modules,
    )
    get_peft_model(net, stacked, adapter_name=_ADAPTER, autocast_adapter_dtype=trained)
    attached, width = Attached(mixture), net.get_input_embeddings().embedding_dim
    for layer in net.modules():
        if isinstance(layer, LoraLayer):
            layer.lora_A[_ADAPTER] = GatedFactors(layer.lora_A[_ADAPTER], width, attached)
    setattr(net, _ATTACHED, attached)


def has_mixture(net: nn.Module) -> bool:
    """Whether a model's answers depend on `conditioned`."""
    return hasattr(net, _ATTACHED)


@contextmanager
def conditioned(net: nn.Module, instructions: Sequence[Sequence[int] | Tensor]) -> Iterator[None]:
    """Run `net` inside on rows with these instructions, as token ids: `Encoded.instruction` of each row.

    z is the mean of their input embeddings, scaled to a root mean square of 1, so that gates learn alike in models with
    embeddings of any size; 0 for an empty instruction, whose experts count alike. It stays for all that happens inside:
    the steps of decoding, the backward pass with layers computed again. A model without a mixture is left alone.
    """
    attached: Attached | None = getattr(net, _ATTACHED, None)
    if attached is None:
        yield
        return
    attached.embeddings = _embed(net, instructions)
    try:
        yield
    finally:
        attached.embeddings = None


def _embed(net: Any, instructions: Sequence[Sequence[int] | Tensor]) -> Tensor:
    """The z of `conditioned`: (rows, width), float32, or float64 where the model is."""
    table: Tensor = net.get_input_embeddings().weight
    dtype = torch.promote_types(table.dtype, torch.float32)
    means = table.new_zeros((len(instructions), table.shape[1]), dtype=dtype)
    with torch.no_grad():  # each row by itself: sums over a padded batch would depend on its width
        for row, ids in enumerate(instructions):
            if len(ids):
                means[row] = table[torch.as_tensor(ids, device=table.device)].to(dtype).mean(0)
        return F.rms_norm(means, means.shape[1:], eps=torch.finfo(dtype).tiny)


def save(net: nn.Module, folder: Path, base: str, state: Mapping[str, Tensor] | None = None) -> None:
    """Write the model's mixture into `folder`, as `load` reads it: weights as safetensors, and its settings with the
    `base` that it stands on. `state` are the weights, where `net` does not hold them whole."""
    from safetensors.torch import save_file

    weights = {name: tensor.contiguous() for name, tensor in (state or net.state_dict()).items() if _is_own(name)}
    save_file(weights, folder / _WEIGHTS, metadata={"format": "pt"})
    settings = {"peft_type": MIXLORA, "base_model_name_or_path": base, **asdict(getattr(net, _ATTACHED).mixture)}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def load(net: PreTrainedModel, folder: Path) -> None:
    """Put the mixture that `save` wrote on `net`, in place, in the model's own precision.

    Raises DataError where it is not sound or belongs to another model.
    """
    from safetensors.torch import load_file

    attach(net, _read(folder), trained=False)
    weights = load_file(folder / _WEIGHTS)
    there = {name: tensor.shape for name, tensor in net.state_dict().items() if _is_own(name)}
    found = {name: tensor.shape for name, tensor in weights.items()}
    if there != found:
        name = min(name for name in there | found if there.get(name) != found.get(name))
        raise DataError(f"{folder} is the adapter of another model: {name} does not fit")
    net.load_state_dict(weights, strict=False)


def _read(folder: Path) -> Mixture:
    try:
        settings = json.loads((folder / ADAPTER_CONFIG).read_bytes())
        return Mixture(
            target_modules=str(settings["target_modules"]),
            experts=int(settings["experts"]),
            r=int(settings["r"]),
            lora_alpha=float(settings["lora_alpha"]),
            lora_dropout=float(settings["lora_dropout"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / ADAPTER_CONFIG} does not describe a mixture of LoRA: {error!r}") from None


def _is_own(name: str) -> bool:
    return ".lora_" in name
