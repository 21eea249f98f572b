"""Conversations of different lengths and images, padded into one batch of model inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from mmkit.errors import DataError
from mmkit.models.families import CROSS_ATTENTION, ROW_WISE_IMAGES

if TYPE_CHECKING:
    from torch import Tensor


def collate(
    rows: Sequence[Sequence[int]],
    images: Sequence[Mapping[str, Tensor]],
    *,
    family: str,
    padding_side: Literal["left", "right"],
    pad_token_id: int,
    image_token_id: int | None,
    with_token_types: bool,
) -> dict[str, Tensor]:
    """Model inputs of a batch: what the family's own processor gives for these rows together.

    `rows` are token ids, `images` each row's image inputs. With `with_token_types` also mm_token_type_ids (rows ×
    longest; 1 where a token stands for an image). Raises DataError where the family cannot mix these rows.
    """
    import torch

    with_images = [bool(inputs) for inputs in images]
    if family in CROSS_ATTENTION and any(with_images) and not all(with_images):
        raise DataError(f"{family} cannot hold text-only rows and rows with images in one batch")
    width = max(len(row) for row in rows)
    input_ids = torch.full((len(rows), width), pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros((len(rows), width), dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if padding_side == "left" else slice(0, len(row))
        input_ids[number, place] = torch.tensor(row, dtype=torch.long)
        attention_mask[number, place] = 1
    batch = {"input_ids": input_ids, "attention_mask": attention_mask}
    if with_token_types and image_token_id is not None:
        batch["mm_token_type_ids"] = torch.eq(input_ids, image_token_id).long()
    if any(with_images):
        batch |= _merge_images(images, row_wise=family in ROW_WISE_IMAGES)
    if family in CROSS_ATTENTION and any(with_images):
        assert image_token_id is not None
        # An image that is only padding shows its first tile, as the family's processor has it; no token looks at it.
        batch["aspect_ratio_mask"][..., 0] = 1
        batch["cross_attention_mask"] = _cross_attention_mask(batch, image_token_id)
    return batch


def _merge_images(images: Sequence[Mapping[str, Tensor]], *, row_wise: bool) -> dict[str, Tensor]:
    """Each input of all rows, one after another along the first dimension, the others padded with zeros.

    Where the first dimension counts rows, a row without images is all padding.
    """
    import torch

    merged: dict[str, Tensor] = {}
    for key, example in next(inputs for inputs in images if inputs).items():
        nothing = example.new_zeros((1, *(0 for _ in example.shape[1:])))
        tensors = [inputs.get(key, nothing) for inputs in images if inputs or row_wise]
        sizes = [max(tensor.shape[dim] for tensor in tensors) for dim in range(1, example.dim())]
        merged[key] = torch.cat([_padded(tensor, sizes) for tensor in tensors])
    return merged


def _padded(tensor: Tensor, sizes: Sequence[int]) -> Tensor:
    """`tensor` with zeros at the end of every dimension but the first, up to `sizes`."""
    if list(tensor.shape[1:]) == list(sizes):
        return tensor
    padded = tensor.new_zeros((tensor.shape[0], *sizes))
    padded[tuple(slice(0, size) for size in tensor.shape)] = tensor
    return padded


def _cross_attention_mask(batch: Mapping[str, Tensor], image_token_id: int) -> Tensor:
    """Which tiles of which image each token sees (rows × tokens × images × tiles): those of images before it."""
    import torch
    from transformers.models.mllama.processing_mllama import (
        convert_sparse_cross_attention_mask_to_dense,
        get_cross_attention_token_mask,
    )

    spans = [get_cross_attention_token_mask(row, image_token_id) for row in batch["input_ids"].tolist()]
    tiles = batch["aspect_ratio_mask"].sum(-1).tolist()
    dense = convert_sparse_cross_attention_mask_to_dense(
        spans,
        num_tiles=tiles,
        max_num_tiles=batch["aspect_ratio_mask"].shape[-1],
        length=batch["input_ids"].shape[1],
    )
    return torch.from_numpy(dense)
