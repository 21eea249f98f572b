"""Facts of the model families that no config states."""

from __future__ import annotations

CROSS_ATTENTION = frozenset({"mllama"})
"""Families whose language model looks at images by cross-attention: one token stands for an image of any size."""

ROW_WISE_IMAGES = frozenset({"mllama", "idefics3", "smolvlm"})
"""Families whose image tensors have one entry a row of the batch, padded to the row with most images or tiles."""

VIDEO_PROCESSORS = {
    "qwen2_vl": "Qwen2VLVideoProcessor",
    "qwen2_5_vl": "Qwen2VLVideoProcessor",
    "qwen3_vl": "Qwen3VLVideoProcessor",
    "smolvlm": "SmolVLMVideoProcessor",
}
"""What a saved processor names as its video half. transformers knows it only where torchvision is installed."""

VISION_ENCODERS = {
    "qwen2_vl": "visual",
    "qwen2_5_vl": "visual",
    "qwen3_vl": "visual",
    "llava": "vision_tower",
    "llava_next": "vision_tower",
    "mllama": "vision_model",
    "idefics3": "vision_model",
    "smolvlm": "vision_model",
}
"""The module of the model that holds the vision encoder. In the qwen families the projector lies within it."""

PROJECTORS = {
    "qwen2_vl": ("visual.merger",),
    "qwen2_5_vl": ("visual.merger",),
    "qwen3_vl": ("visual.merger", "visual.deepstack_merger_list"),
    "llava": ("multi_modal_projector",),
    "llava_next": ("multi_modal_projector", "image_newline"),
    "mllama": ("multi_modal_projector",),
    "idefics3": ("connector",),
    "smolvlm": ("connector",),
}
"""Modules and parameters of the model that bring what the encoder sees into the language model's space."""

INNER_VISION_FEATURES = frozenset({"llava", "llava_next"})
"""Families that take the output of an inner layer of the encoder (`vision_feature_layer`): nothing behind it counts."""

ONE_PRECISION = frozenset({"smolvlm"})
"""Families whose image features are put among the text's as they are, so encoder and language model share a dtype."""
