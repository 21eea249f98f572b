"""Facts of the model families that no config states."""

from __future__ import annotations

CROSS_ATTENTION = frozenset({"mllama"})
"""Families whose language model looks at images by cross-attention: one token stands for an image of any size."""

ROW_WISE_IMAGES = frozenset({"mllama", "idefics3", "smolvlm"})
"""Families whose image tensors have one entry a row of the batch, padded to the row with most images or tiles."""
