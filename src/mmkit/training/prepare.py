"""The model before and after training: precision, what is trained, what is saved."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from mmkit.errors import UnavailableError, UsageError
from mmkit.models.loading import load_model
from mmkit.training.config import TuneConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def on_gpu(config: TuneConfig) -> bool:
    """Whether the run uses a GPU. Raises UnavailableError where one is asked for and none is there."""
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise UnavailableError("no CUDA device is available; leave the device out to train on the CPU")
    return available and config.device != "cpu"


def runs_in_bfloat16(config: TuneConfig) -> bool:
    """Whether the arithmetic is autocast to bfloat16."""
    return config.dtype == "bfloat16" or (config.dtype == "auto" and on_gpu(config))


def prepare_model(model: str, config: TuneConfig) -> PreTrainedModel:
    """The model with what shall be trained marked so: all of it, or new adapters on its language model.

    Trained parameters are in float32 even where the run is in bfloat16, whose eight bits would swallow small updates;
    a base model under adapters is not trained and lies in bfloat16 then. Raises UsageError for adapters on an adapter.
    """
    lora = config.train == "lora"
    if lora and (Path(model) / "adapter_config.json").is_file():
        raise UsageError(f"{model} is an adapter; a new one needs a whole model (--train full merges it and goes on)")
    if config.dtype == "float64":
        dtype = torch.float64
    else:
        dtype = torch.bfloat16 if lora and runs_in_bfloat16(config) else torch.float32
    net = load_model(model, device="cuda" if on_gpu(config) else "cpu", dtype=dtype)
    if not lora:
        return net.requires_grad_(True)
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(config.seed)  # here: loading and looking at rows must not change what the adapters start from
    adapters = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=lora_targets(net),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(net, adapters)


def lora_targets(net: PreTrainedModel) -> str:
    """A pattern of the names of every linear layer in the language model; the head, the vision encoder and the
    projector are not in it."""
    decoder = net.get_decoder()
    prefix = next(name for name, module in net.named_modules() if module is decoder)
    layers = {name.rpartition(".")[2] for name, module in decoder.named_modules() if isinstance(module, nn.Linear)}
    return rf"{re.escape(prefix)}\..*\.({'|'.join(sorted(layers))})"


def save_weights(net: PreTrainedModel, folder: Path, model: str, config: TuneConfig) -> None:
    """Write safetensors, config and generation config; for LoRA the adapter, which names its base.

    A base that is a directory is named by its absolute path, so that the adapter loads from anywhere.
    """
    net.eval()
    if config.train == "lora":
        name = str(Path(model).resolve()) if Path(model).is_dir() else model
        net.peft_config["default"].base_model_name_or_path = name
        net.generation_config.save_pretrained(folder)
        net.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink()  # an empty form of peft's
        return
    if runs_in_bfloat16(config):
        net = net.to(torch.bfloat16)
    net.save_pretrained(folder)
