"""LoRA adapters side by side on one model: looked at before the model loads, and switched between."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmkit.errors import DataError, MissingInputError, missing_extra
from mmkit.models.loading import ADAPTER_CONFIG, HUB_ID, quiet

_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def read_settings(directory: str) -> Mapping[str, Any]:
    """What `adapter_config.json` of an adapter directory holds.

    Raises MissingInputError where there is no such directory, DataError where it holds no adapter.
    """
    if not Path(directory).is_dir():
        raise MissingInputError(f"adapter {directory!r}: no such directory")
    path = Path(directory) / ADAPTER_CONFIG
    try:
        settings = json.loads(path.read_bytes())
    except FileNotFoundError:
        inner = Path(directory) / "adapter"
        hint = f"; {inner} is one" if (inner / path.name).is_file() else ""
        raise DataError(f"{directory} is not an adapter directory: it has no {ADAPTER_CONFIG}{hint}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a LoRA configuration: {error}") from None
    if not isinstance(settings, dict):
        raise DataError(f"{path}: not a LoRA configuration: expected an object")
    return settings


def require_lora(directory: str, model: str) -> None:
    """Raise DataError where a directory holds no LoRA adapter, or one that was trained on another model.

    Whether its weights fit shows when they are put on the model. No library is imported and no weight is read here.
    Raises as `read_settings` does.
    """
    settings = read_settings(directory)
    kind, base, bias = (settings.get(name) for name in ("peft_type", "base_model_name_or_path", "bias"))
    if kind != "LORA":
        raise DataError(f"{directory} is no LoRA adapter (peft_type {kind!r}), and only these can be switched between")
    if bias not in (None, "none"):
        # They would stay in the model's layers, and whoever answers next would answer with them.
        raise DataError(f"{directory} brings biases for the model (bias {bias!r}), which cannot be switched off again")
    if not any((Path(directory) / name).is_file() for name in _WEIGHTS):
        raise DataError(f"{directory} has no weights: there is no {_WEIGHTS[0]}")
    if isinstance(base, str) and _are_different(base, model):
        raise DataError(
            f"{directory} was trained on {base}, not on {model}; if they are the same model, "
            f"put the second name into {Path(directory) / ADAPTER_CONFIG}"
        )


def _are_different(base: str, model: str) -> bool:
    """Whether two names are known to mean two models: a path that leads nowhere, or a local copy, tells nothing."""
    if Path(base).is_dir() and Path(model).is_dir():
        return not Path(base).samefile(model)
    if Path(base).is_dir() or Path(model).is_dir():
        return False
    return HUB_ID.fullmatch(base) is not None and base.casefold() != model.casefold()


class SwitchedAdapters:
    """LoRA adapters on a model, of which one computes, or none.

    Their products are added to those of the model's layers and never merged into its weights, which all of them share:
    what one of them answers does not depend on which of them answered before. They may differ in rank and in the
    layers that they stand on. A half-precision adapter computes in float32, as peft has it.
    """

    def __init__(self, model: Any, directories: Sequence[str]) -> None:
        """Put the adapters on `model`, which answers without any until `use` is called.

        Raises DataError where one does not fit the model, UnavailableError where peft is not installed.
        """
        try:
            from peft import LoraConfig, PeftModel
        except ModuleNotFoundError:
            raise missing_extra("peft", "train") from None
        from mmkit.models.mixlora import has_mixture

        if has_mixture(model):
            raise DataError("the model holds a mixture of LoRA, and no adapter goes on top of it")
        # Equal in length, since peft tells the weights of two adapters apart by finding the name in theirs.
        self._names = {directory: f"adapter-{number:04}" for number, directory in enumerate(directories)}
        device = "cpu" if model.device.type == "meta" else str(model.device)
        peft_model: Any = None
        for directory, name in self._names.items():
            with quiet(), _explained(directory):
                if peft_model is None:
                    config = LoraConfig.from_pretrained(directory, inference_mode=True)
                    peft_model = PeftModel(model, config, name, low_cpu_mem_usage=True)
                loaded = peft_model.load_adapter(directory, name, torch_device=device, low_cpu_mem_usage=True)
            if alone := [*loaded.unexpected_keys, *loaded.missing_keys]:
                more = f" (and {len(alone) - 1} others)" if len(alone) > 1 else ""
                raise DataError(f"{directory} does not fit the model: no counterpart of {alone[0]}{more}")
        model.eval()
        self._layers = peft_model.base_model
        self._layers.disable_adapter_layers()
        self._used = ""

    def use(self, directory: str) -> None:
        """Let the adapter of that directory compute from now on; "" is the model alone."""
        if directory == self._used:
            return
        if directory:
            self._layers.set_adapter(self._names[directory], inference_mode=True)
            self._layers.enable_adapter_layers()
        else:
            self._layers.disable_adapter_layers()
        self._used = directory


@contextmanager
def _explained(directory: str) -> Iterator[None]:
    """Turn what peft and torch raise about an adapter into one sentence."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        # Torch heads its list of sizes that differ with a line that says nothing.
        raise DataError(f"{directory} does not fit the model: {lines[min(1, len(lines) - 1)]}") from error
