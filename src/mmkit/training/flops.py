"""Model FLOPs of a step, and the share of a GPU's peak that they are (MFU).

Source: Chowdhery et al. 2022 (PaLM), appendix B: 6 FLOPs a token and parameter (2 forward, 2 backward through the
activations, 2 for the weights' gradients), and attention. What gradient checkpointing computes again is not counted.
Deviations, each of which makes the share smaller where it matters: weights that are not trained have no gradient (4 a
token under adapters); attention is causal, so half; the head counts where there is a label, as it runs nowhere else;
padding counts nothing, and neither does attention inside the vision encoder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmkit.models.families import CROSS_ATTENTION
from mmkit.models.mixlora import GatedFactors
from mmkit.models.parts import knows_parts, part_of
from mmkit.training.config import TuneConfig
from mmkit.training.loss import head_of
from mmkit.training.prepare import runs_in_bfloat16

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mmkit.training.collate import Batch
    from mmkit.training.ranks import Ranks

_PEAKS = (
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("H200 NVL", 835e12),
    ("H200", 989e12),
    ("GH200", 989e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("A6000", 154.8e12),
    ("RTX 4090", 165.2e12),
)
"""Dense bfloat16 FLOP/s by a part of the GPU's name, from NVIDIA's data sheets (half of what these give for sparse
matrices). The first that fits counts."""


def peak_flops(gpu: str) -> float | None:
    """Dense bfloat16 FLOP/s of the GPU that torch calls so; None for one that is not known here."""
    return next((peak for name, peak in _PEAKS if re.search(rf"\b{re.escape(name)}\b", gpu)), None)


@dataclass(frozen=True, slots=True)
class Weights:
    """How many parameters a part of the model has that are multiplied with each token, and how many are trained."""

    total: int = 0
    trained: int = 0

    def flops(self, tokens: int, *, through: bool) -> int:
        """Forward and backward for `tokens`; `through`: gradients have to pass through to what lies before."""
        return 2 * tokens * (self.total + (self.total if through else 0) + self.trained)


@dataclass(frozen=True, slots=True)
class Flops:
    """What a model costs. `attention_width` is layers × heads × size of a head in the language model, `patch_size` the
    side in pixels of what the vision encoder takes for a token, `peak` what one GPU can do in a second."""

    llm: Weights
    head: Weights
    projector: Weights
    vision: Weights
    attention_width: int
    patch_size: int | None
    peak: float | None

    @classmethod
    def of(cls, net: PreTrainedModel, config: TuneConfig, ranks: Ranks) -> Flops:
        """Those of a model whose trained parameters are marked.

        There is no peak, and so no share, for runs that are not in bfloat16 on a GPU that is known, and for families
        that the formula does not fit: cross-attention reads each image in some layers only.
        """
        text, vision = net.config.get_text_config(), getattr(net.config, "vision_config", None)
        fits = knows_parts(net) and net.config.model_type not in CROSS_ATTENTION
        known = fits and ranks.device.type == "cuda" and runs_in_bfloat16(config)
        head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return cls(
            **_weights(net),
            attention_width=text.num_hidden_layers * text.num_attention_heads * head_size,
            patch_size=getattr(vision, "patch_size", None),
            peak=peak_flops(torch.cuda.get_device_name(ranks.device)) if known else None,
        )

    def of_batch(self, batch: Batch) -> int:
        """Model FLOPs of a micro-batch, forward and backward."""
        tokens = batch["text_tokens"] + batch["image_tokens"]
        before_llm = self.projector.trained + self.vision.trained > 0
        flops = self.head.flops(batch["loss_tokens"], through=True)
        flops += self.llm.flops(tokens, through=before_llm or self.llm.trained > 0)
        lengths = batch["inputs"]["attention_mask"].sum(1)
        flops += 6 * self.attention_width * int((lengths * lengths).sum())
        flops += self.projector.flops(batch["image_tokens"], through=self.vision.trained > 0)
        patches = num_patches(batch["inputs"], self.patch_size)
        return flops + self.vision.flops(patches, through=self.vision.trained > 0)

    def utilisation(self, batches: Iterable[Batch], seconds: float) -> float | None:
        """The share of its GPU's peak that this process' micro-batches took; None where that is not known.

        The other processes' are about the same: all of them have equal numbers of rows, of like length.
        """
        if self.peak is None or seconds <= 0:
            return None
        return sum(map(self.of_batch, batches)) / (seconds * self.peak)


def num_patches(inputs: Mapping[str, Tensor], patch_size: int | None) -> int:
    """How many patches the vision encoder is given, without images that only fill up a row of the batch.

    `pixel_values` are (patches, values) in the qwen families and (…, channels, height, width) elsewhere.
    """
    pixels = inputs.get("pixel_values")
    if pixels is None or patch_size is None:
        return 0
    if pixels.dim() == 2:
        return pixels.shape[0]
    height, width = pixels.shape[-2:]
    mask = inputs.get("pixel_attention_mask")
    images = pixels.shape[:-3].numel() if mask is None else int(mask.flatten(-2).any(-1).sum())
    return images * (height // patch_size) * (width // patch_size)


def _weights(net: PreTrainedModel) -> dict[str, Any]:
    """The Weights of each part. Embedding tables are looked up, not multiplied; a head that shares one is. The gates of
    a mixture of LoRA work once a row, which is next to nothing."""
    head = head_of(net).weight
    not_per_token = {id(module.weight) for module in net.modules() if isinstance(module, nn.Embedding)}
    not_per_token |= {id(module.gate) for module in net.modules() if isinstance(module, GatedFactors)}
    total, trained = (dict.fromkeys(("llm", "head", "projector", "vision"), 0) for _ in range(2))
    for name, parameter in net.named_parameters():
        if parameter is not head and id(parameter) in not_per_token:
            continue
        part = "head" if parameter is head else part_of(name, net.config.model_type)
        total[part] += parameter.numel()
        trained[part] += parameter.numel() * parameter.requires_grad
    return {part: Weights(total[part], trained[part]) for part in total}
