"""The parts of a model, vision encoder, projector and language model, and which parameters can learn at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from mmkit.models.families import INNER_VISION_FEATURES, PROJECTORS, VISION_ENCODERS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Part = Literal["llm", "projector", "vision"]
PARTS: tuple[Part, ...] = ("llm", "projector", "vision")

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def part_of(name: str, family: str) -> Part:
    """The part that a parameter or module belongs to, by its dotted `name`, under wrappers' prefixes too.

    Head and embeddings belong to the language model, and so does all of a text-only family. Adapters belong where the
    layer that they stand on does.
    """
    path = f".{name}."
    if any(f".{module}." in path for module in PROJECTORS.get(family, ())):
        return "projector"
    encoder = VISION_ENCODERS.get(family)
    return "vision" if encoder is not None and f".{encoder}." in path else "llm"


def knows_parts(net: PreTrainedModel) -> bool:
    """Whether part_of is right for this model: it is of a known family, or has nothing but a language model."""
    config = net.config
    return config.model_type in VISION_ENCODERS or getattr(config, "vision_config", None) is None


def dead_parameters(net: PreTrainedModel) -> list[str]:
    """The names of parameters that no loss reaches, in the model's order.

    A LLaVA takes its image features from an inner layer of the encoder (the last but one, as published): the layers
    behind it and what follows all layers (CLIP's post_layernorm, SigLIP's head) run for nothing. Every parameter of the
    other families can learn.
    """
    family = net.config.model_type
    if family not in INNER_VISION_FEATURES:
        return []
    config = net.config
    used = _num_layers_used(config.vision_feature_layer, config.vision_config.num_hidden_layers)
    return [name for name, _ in net.named_parameters() if part_of(name, family) == "vision" and _is_behind(name, used)]


def _num_layers_used(feature_layers: int | Sequence[int], num_layers: int) -> int:
    """How many encoder layers lie before the features: of the num_layers + 1 hidden states, 0 is the embeddings."""
    chosen = [feature_layers] if isinstance(feature_layers, int) else feature_layers
    return max(layer % (num_layers + 1) for layer in chosen)


def _is_behind(name: str, used: int) -> bool:
    layer = _LAYER.search(name)
    return int(layer[1]) >= used if layer else ".post_layernorm." in name or ".head." in name
