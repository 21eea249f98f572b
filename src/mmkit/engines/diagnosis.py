"""What this machine can do: packages, devices, engines, and how to get what is missing."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata, util
from typing import Any

from mmkit import __version__

_PACKAGES = {
    "core": ("typer", "rich", "orjson", "pillow", "numpy", "pyarrow"),
    "train": ("torch", "transformers", "peft", "accelerate", "datasets"),
    "openai": ("httpx",),
    "vllm": ("vllm",),
    "eval": ("scikit-learn",),
}
_ENGINES = {"transformers": ("torch", "transformers"), "openai": ("httpx",), "vllm": ("vllm",), "replay": ()}
_EXTRA_OF_ENGINE = {"transformers": "train", "openai": "openai", "vllm": "vllm"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the diagnosis. `state` is "ok" or "missing"; `remedy` is the command that mends it."""

    what: str
    state: str
    detail: str = ""
    remedy: str = ""

    def to_wire(self) -> dict[str, Any]:
        """The JSON row."""
        return asdict(self)


def examine() -> list[Finding]:
    """Look at everything."""
    return [
        Finding("mmkit", "ok", f"{__version__}, Python {platform.python_version()}, {platform.machine()}"),
        *_packages(),
        *_engines(),
        *_devices(),
    ]


def _packages() -> Iterator[Finding]:
    for extra, names in _PACKAGES.items():
        for name in names:
            try:
                yield Finding(f"package {name}", "ok", metadata.version(name))
            except metadata.PackageNotFoundError:
                target = "mmkit" if extra == "core" else f"mmkit[{extra}]"
                yield Finding(f"package {name}", "missing", "", f"pip install '{target}'")


def _engines() -> Iterator[Finding]:
    for name, needs in _ENGINES.items():
        missing = [package for package in needs if util.find_spec(package) is None]
        if missing:
            yield Finding(
                f"engine {name}",
                "missing",
                f"needs {', '.join(missing)}",
                f"pip install 'mmkit[{_EXTRA_OF_ENGINE[name]}]'",
            )
        else:
            yield Finding(f"engine {name}", "ok")


def _devices() -> Iterator[Finding]:
    if util.find_spec("torch") is None:
        return
    import torch

    yield Finding("device cpu", "ok", f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Finding(f"device cuda:{index}", "ok", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
