"""Load a model, or only its processor and tokenizer, from a directory or a hub id.

Nothing here runs code that comes with a model (`trust_remote_code` stays off), and torchvision is not needed: without
it, processors of families that also take video are loaded without their video half.
"""

from __future__ import annotations

import functools
import json
import os
import re
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkit.errors import DataError, MissingInputError, UnavailableError, missing_extra
from mmkit.models.families import VIDEO_PROCESSORS

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from mmkit.models.encoding import Chat

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
ADAPTER_CONFIG = "adapter_config.json"
MIXLORA = "MMKIT_MIXLORA"
"""What the config of a mixture of LoRA says in the place of peft's type: peft and vLLM, which do not know it, must not
take it for a LoRA."""
# Grids that the video half of a processor shares with its image half.
_SHARED_WITH_VIDEO = ("patch_size", "temporal_patch_size", "merge_size")


def load_chat(model: str) -> Chat:
    """The processor (for a text model, the tokenizer) of `model`: a directory or a hub id. No weights are read.

    A directory that holds an adapter only is read together with the base that it names. Raises DataError where the
    directory is no model, MissingInputError where a path leads nowhere, UnavailableError where the hub does not give
    the model or torch and transformers are not installed.
    """
    require_libraries()
    from mmkit.models.encoding import Chat

    base, adapter = _base_and_adapter(model)
    with quiet(), _explained(model):
        config = _config(base)
        source = adapter if adapter and (Path(adapter) / "tokenizer_config.json").is_file() else base
        processor = _processor(source, config)
        return Chat(model, config, processor, _generation_config(base))


def load_model(
    model: str,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    adapter: str | None = None,
) -> PreTrainedModel:
    """The weights of `model` in evaluation mode: an image-text model where the family is one, else a causal LM.

    `dtype` None keeps what the checkpoint holds. `adapter` is a PEFT directory or hub id, merged into the weights, or
    the directory of a mixture of LoRA, which stays beside them (see `mixlora.conditioned`). Raises as load_chat does,
    and DataError where the checkpoint lacks weights that the model needs.
    """
    require_libraries()
    base, own_adapter = _base_and_adapter(model)
    with quiet(), _explained(model):
        auto = _auto_class(_config(base))
        loaded, report = auto.from_pretrained(base, dtype=dtype or "auto", output_loading_info=True)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise DataError(f"the checkpoint of {model} lacks {len(missing)} of its weights, the first is {missing[0]}")
    for name in (own_adapter, adapter):
        if name is not None:
            loaded = _with_adapter(loaded, name)
    return loaded.to(device).eval() if device is not None else loaded.eval()


def load_skeleton(model: str) -> PreTrainedModel:
    """The model as `load_model` would give it, without weights: its parameters have names and shapes, and no data.

    Raises as load_chat does.
    """
    require_libraries()
    import torch

    base, _ = _base_and_adapter(model)
    with quiet(), _explained(model), torch.device("meta"):
        config = _config(base)
        return _auto_class(config).from_config(config)


@functools.cache
def image_only(processor_class: type, family: str) -> Any:
    """`processor_class` without its video half, to be called with None in the place of the video processor.

    What it saves names the video processor all the same, so that the directory also loads where torchvision is.
    """
    attributes = [name for name in processor_class.get_attributes() if name != "video_processor"]  # type: ignore[attr-defined]

    def to_dict(self: Any) -> dict[str, Any]:
        written: dict[str, Any] = processor_class.to_dict(self)  # type: ignore[attr-defined]
        video = self.video_entry
        if video is None and family in VIDEO_PROCESSORS:
            shared = {name: getattr(self.image_processor, name, None) for name in _SHARED_WITH_VIDEO}
            video = {"video_processor_type": VIDEO_PROCESSORS[family]}
            video |= {name: value for name, value in shared.items() if value is not None}
        return written if video is None else {**written, "video_processor": video}

    body = {
        "__module__": processor_class.__module__,
        "get_attributes": classmethod(lambda _: attributes),
        "to_dict": to_dict,
        "video_entry": None,
        # SmolVLM's processor reads these two before it looks whether there is a video at all.
        "video_processor": types.SimpleNamespace(num_frames=None, fps=None),
    }
    return type(processor_class.__name__, (processor_class,), body)


def require_libraries() -> None:
    """Raise UnavailableError, with the command that adds them, where torch or transformers is not installed."""
    for package in ("torch", "transformers"):
        try:
            __import__(package)
        except ModuleNotFoundError as error:
            if error.name != package:
                raise
            raise missing_extra(package, "train") from None


def is_mixture(adapter: str) -> bool:
    """Whether a directory holds a mixture of LoRA (see `mmkit.models.mixlora`)."""
    try:
        settings = json.loads((Path(adapter) / ADAPTER_CONFIG).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and settings.get("peft_type") == MIXLORA


def _base_and_adapter(model: str) -> tuple[str, str | None]:
    """What to load: `model` itself, or the base that an adapter directory names, and that adapter."""
    path = Path(model)
    if path.is_file():
        raise DataError(f"{model} is a file, not a model directory")
    if not path.is_dir():
        if not HUB_ID.fullmatch(model):
            raise MissingInputError(f"model directory {model!r} not found")
        return model, None
    if (path / "config.json").is_file():
        return model, None
    adapter = path / ADAPTER_CONFIG
    if not adapter.is_file():
        raise DataError(f"{model} is not a model directory: it has no config.json")
    try:
        base = json.loads(adapter.read_bytes())["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError):
        base = None
    if not isinstance(base, str) or not base:
        raise DataError(f"{adapter} does not name the model that the adapter belongs to")
    return base, model


def _config(model: str) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(model)


def _auto_class(config: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    many_modal = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return AutoModelForImageTextToText if many_modal else AutoModelForCausalLM


def _generation_config(model: str) -> Any:
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(model)
    except OSError:  # many models have none, and that is no fault
        return None


def _processor(model: str, config: Any) -> Any:
    from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
    from transformers.utils import is_torchvision_available

    processor_class = PROCESSOR_MAPPING.get(type(config), None)
    if processor_class is None:
        return AutoTokenizer.from_pretrained(model)
    if "video_processor" not in processor_class.get_attributes() or is_torchvision_available():
        return AutoProcessor.from_pretrained(model)
    reduced = image_only(processor_class, config.model_type)
    options, _ = reduced.get_processor_dict(model)
    parts = [AutoImageProcessor.from_pretrained(model), AutoTokenizer.from_pretrained(model), None]
    processor = reduced.from_args_and_dict(parts, options)
    processor.video_entry = options.get("video_processor")
    return processor


def _with_adapter(model: Any, adapter: str) -> Any:
    try:
        from peft import PeftModel
    except ModuleNotFoundError:
        raise missing_extra("peft", "train") from None
    if Path(adapter).is_dir() and not (Path(adapter) / ADAPTER_CONFIG).is_file():
        raise DataError(f"{adapter} is not an adapter directory: it has no {ADAPTER_CONFIG}")
    from mmkit.models import mixlora

    with quiet(), _explained(adapter):
        if mixlora.has_mixture(model):
            raise DataError(f"{adapter}: the model holds a mixture of LoRA, and no adapter goes on top of it")
        if is_mixture(adapter):
            mixlora.load(model, Path(adapter))
            return model
        return PeftModel.from_pretrained(model, adapter).merge_and_unload()


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and warnings: what matters of them is checked and raised here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _explained(model: str) -> Iterator[None]:
    """Turn what transformers raises into one sentence about `model`."""
    from safetensors import SafetensorError

    try:
        yield
    except ImportError as error:
        raise UnavailableError(f"{model} needs another package: {_first_line(error)}") from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        if Path(model).is_dir():
            raise DataError(f"{model} cannot be loaded as a model: {_first_line(error)}") from error
        if not isinstance(error, OSError):
            raise DataError(f"the hub's {model} cannot be loaded as a model: {_first_line(error)}") from error
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
        why = "HF_HUB_OFFLINE is set and it is not in the local cache" if offline else _first_line(error)
        raise UnavailableError(f"{model} is no directory here, and the hub did not give it: {why}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).strip()
