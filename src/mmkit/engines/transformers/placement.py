"""Where a model computes and in which numbers."""

from __future__ import annotations

from typing import Any

import torch

from mmkit.errors import UnavailableError, UsageError

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def choose_device(name: str | None) -> torch.device:
    """The device of that name; by default the accelerator if there is one.

    Raises UsageError for a name that is no device's, UnavailableError for a device that this machine has not.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name is None:
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"{name!r} is no device; name one such as cpu, cuda or cuda:1") from None
    if device.type != "cpu" and (accelerator is None or accelerator.type != device.type):
        raise UnavailableError(f"there is no device {name!r} here that torch can use")
    return device


def to_dtype(name: str | None) -> torch.dtype | None:
    """The floating-point type of that name; None for None. Raises UsageError for any other name."""
    if name is not None and name not in DTYPES:
        raise UsageError(f"{name!r} is no floating-point type; it can be {', '.join(DTYPES)}")
    return None if name is None else DTYPES[name]


def move(batch: dict[str, torch.Tensor], model: Any) -> dict[str, Any]:
    """The batch on the model's device; pixels in the model's floating-point type."""
    return {
        name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
        for name, tensor in batch.items()
    }
