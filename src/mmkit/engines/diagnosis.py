"""What this machine can do: packages, devices, engines, and how to get what is missing."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata, util
from typing import Any

from mmkit import __version__
from mmkit.errors import UnavailableError

_PACKAGES = {
    "core": (
        *("typer", "rich", "orjson", "pillow", "numpy", "pyarrow"),
        *(("backports.zstd",) if sys.version_info < (3, 14) else ()),  # the standard library has it from then on
    ),
    "train": ("torch", "transformers", "peft", "datasets", "num2words"),
    "openai": ("httpx",),
    "vllm": ("vllm",),
    "eval": ("scikit-learn", "pycocoevalcap", "rouge-score", "sacrebleu", "rapidfuzz"),
    "embed": ("sentence-transformers",),
    "track": ("tensorboard", "wandb"),
}
_ENGINES = {"transformers": ("torch", "transformers"), "openai": ("httpx",), "vllm": ("vllm",), "replay": ()}
_EXTRA_OF_ENGINE = {"transformers": "train", "openai": "openai", "vllm": "vllm"}
_TO_ADD_VLLM = "pip install 'mmkit[vllm]'"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the diagnosis. `state` is "ok", "missing" or "unsupported" (a release that mmkit does not know);
    `remedy` is the command that mends it."""

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
        elif name == "vllm":
            yield _vllm()
        else:
            yield Finding(f"engine {name}", "ok")


def _vllm() -> Finding:
    """Whether the release of vLLM is one whose interfaces were checked. vLLM itself takes seconds to import."""
    from mmkit.engines.vllm.backend import VERSIONS, require_version

    try:
        version = metadata.version("vllm")
        require_version(version)
    except metadata.PackageNotFoundError:
        return Finding("engine vllm", "missing", "a folder named vllm hides that it is not installed", _TO_ADD_VLLM)
    except UnavailableError:
        known = " and ".join(VERSIONS)
        return Finding("engine vllm", "unsupported", f"vLLM {version}; this mmkit knows {known}", _TO_ADD_VLLM)
    return Finding("engine vllm", "ok")


def _devices() -> Iterator[Finding]:
    if util.find_spec("torch") is None:
        return
    import torch

    yield Finding("device cpu", "ok", f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Finding(f"device cuda:{index}", "ok", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
