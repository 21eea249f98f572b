"""Checkpoints: what a run needs to go on as if it had never stopped.

A checkpoint holds what is trained, the optimizer's state, and where the run was. It holds no state of a random
generator: each step seeds its own. It is a directory that gets its name when all of it is on the disk, so that one with
a name is whole.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import torch
from torch import Tensor, nn

from mmkit.errors import DataError
from mmkit.streams.journal import sync
from mmkit.training import sharding
from mmkit.training.job import full_disk_explained

_NAME = re.compile(r"step-(\d{8})")
_STATE = "state.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One that is whole. `state` is what the run said of itself."""

    path: Path
    step: int
    state: Mapping[str, Any]

    def tensors(self, name: str) -> Iterator[tuple[str, Tensor]]:
        """The tensors that were saved under a name, one at a time, on the CPU. Raises DataError where the file is not
        sound."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path / f"{name}.safetensors", framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - the file is no mapping
                    yield key, file.get_tensor(key)
        except SafetensorError as error:
            raise _torn(self.path, f"{name}.safetensors cannot be read: {error}") from None


def save(folder: Path, step: int, state: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write a checkpoint, unless there is one of this step, and remove the ones before it. Raises LimitError where the
    disk is full."""
    from safetensors.torch import save_file

    path = folder / f"step-{step:08d}"
    if path.exists():
        return
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with full_disk_explained(folder):
        partial.mkdir()
        for name, group in tensors.items():
            save_file({key: tensor.contiguous() for key, tensor in group.items()}, partial / f"{name}.safetensors")
        sizes = {file.name: file.stat().st_size for file in partial.iterdir()}
        (partial / _STATE).write_bytes(orjson.dumps({"step": step, "files": sizes, **state}))
        for file in partial.iterdir():
            sync(file)
        partial.rename(path)
        sync(folder)
    for old in _all(folder):
        if old != path:
            shutil.rmtree(old)


def latest(folder: Path) -> Checkpoint | None:
    """The last one; None where there is none. Raises DataError, naming the file, where it is not as it was written."""
    paths = _all(folder)
    if not paths:
        return None
    path = paths[-1]
    try:
        state = orjson.loads((path / _STATE).read_bytes())
        step, sizes = state["step"], state["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise _torn(path, f"{_STATE} cannot be read") from None
    for name, size in sizes.items():
        found = (path / name).stat().st_size if (path / name).is_file() else None
        if found != size:
            what = "is missing" if found is None else f"has {found:,} bytes, not {size:,}"
            raise _torn(path, f"{name} {what}")
    return Checkpoint(path, step, state)


def any_in(folder: Path) -> bool:
    """Whether there is one, sound or not."""
    return bool(_all(folder))


def remove_all(folder: Path) -> None:
    """Remove them all, and what was half written."""
    for path in folder.glob("step-*"):
        shutil.rmtree(path)


def trained(net: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that a run moves, by name."""
    return {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}


def optimizer_tensors(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as "parameter/entry"."""
    return {
        f"{name}/{key}": value
        for name, parameter in trained(net).items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(net: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint) -> None:
    """Give the optimizer the state of `optimizer_tensors`."""
    parameters = trained(net)
    for key, value in checkpoint.tensors("optimizer"):
        name, _, entry = key.rpartition("/")
        parameter = parameters[name]
        if value.dim():
            value = sharding.shard_like(value, parameter)
        elif optimizer.defaults.get("fused"):
            value = value.to(parameter.device)  # a step count, which AdamW otherwise keeps on the CPU
        optimizer.state[parameter][entry] = value


def restore_weights(net: nn.Module, checkpoint: Checkpoint) -> None:
    """Give the model its trained weights. Raises DataError where they are another model's."""
    missing = trained(net)
    with torch.no_grad():
        for name, tensor in checkpoint.tensors("weights"):
            parameter = missing.pop(name, None)
            if parameter is None:
                raise DataError(f"{checkpoint.path} is a checkpoint of another model: this one has no {name}")
            parameter.copy_(sharding.shard_like(tensor, parameter))
    if missing:
        raise DataError(f"{checkpoint.path} is a checkpoint of another model: it lacks {min(missing)}")


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if _NAME.fullmatch(path.name))


def _torn(path: Path, what: str) -> DataError:
    return DataError(f"{path} is damaged: {what}; remove that directory to go on without it")
