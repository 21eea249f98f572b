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
