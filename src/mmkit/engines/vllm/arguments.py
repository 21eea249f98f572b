"""From options to vLLM's engine arguments."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from mmkit.errors import DataError, UsageError
from mmkit.models.adapters import read_settings

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The largest ranks that vLLM can be set up for; an adapter of any smaller rank fits."""

FIXED = {"logprobs_mode": "raw_logprobs"}
"""Settings that answers would be wrong without: behind the sampler's masks, a choice's figure is not the model's."""


def parse(settings: Sequence[str], known: Collection[str]) -> dict[str, Any]:
    """`NAME=VALUE` settings as keyword arguments. A value is JSON where it can be read as such, else text.

    Raises UsageError for a name that is not in `known`, one that is given twice, and one that has an option of its own.
    """
    found: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        if not equals or not name:
            raise UsageError(f"--vllm {setting}: expected NAME=VALUE, such as max_model_len=8192")
        if name in _OWN_OPTIONS:
            raise UsageError(f"--vllm {setting}: use {_OWN_OPTIONS[name]}")
        if name in FIXED:
            raise UsageError(f"--vllm {setting}: mmkit relies on {name}={FIXED[name]}")
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UsageError(f"--vllm {setting}: this vLLM has no engine argument {name!r}{hint}")
        if name in found:
            raise UsageError(f"--vllm {name} is given twice")
        found[name] = _value(text.strip())
    return found


def lora(*adapters: str) -> dict[str, Any]:
    """What the engine has to be set up with for LoRA directories, all of which may be at work at once.

    Raises MissingInputError where one is not there, DataError where it is no adapter that vLLM can take.
    """
    rank = max(_rank(adapter) for adapter in adapters)
    size = next(size for size in LORA_RANKS if size >= rank)
    return {"enable_lora": True, "max_lora_rank": size, "max_loras": len(adapters)}


def _rank(adapter: str) -> int:
    settings = read_settings(adapter)
    try:
        rank = max(int(rank) for rank in [settings["r"], *(settings.get("rank_pattern") or {}).values()])
        kind = settings.get("peft_type", "LORA")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{Path(adapter) / 'adapter_config.json'}: not a LoRA configuration: {error!r}") from None
    if kind != "LORA":
        raise DataError(f"{adapter} is no LoRA adapter (peft_type {kind!r}), and vLLM takes no other; use transformers")
    if rank > LORA_RANKS[-1]:
        raise DataError(f"{adapter}: rank {rank} is more than vLLM's largest, {LORA_RANKS[-1]}")
    return rank


def require_whole(model: str) -> None:
    """Raise DataError where a directory is an adapter, which vLLM takes beside its base only."""
    if (Path(model) / "adapter_config.json").is_file() and not (Path(model) / "config.json").is_file():
        lora(model)
        raise DataError(f"{model} is an adapter; for vLLM, name its base as --model, and it as --adapter")


def _value(text: str) -> Any:
    words: Mapping[str, Any] = {"True": True, "False": False, "None": None}
    if text in words:
        return words[text]
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


_OWN_OPTIONS = {
    "model": "--model",
    "dtype": "--dtype",
    "gpu_memory_utilization": "--gpu-memory",
    "tensor_parallel_size": "--tensor-parallel",
    # vLLM would wait for the other processes, which nobody starts.
    "data_parallel_size": "one server a GPU instead, and --engine openai with a --base-url for each",
    "enable_lora": "--adapter",
}
