"""The model before and after training: precision, what is trained, what is saved."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmkit.errors import UnavailableError, UsageError
from mmkit.models import mixlora
from mmkit.models.families import ONE_PRECISION
from mmkit.models.loading import ADAPTER_CONFIG, is_mixture, load_model, load_skeleton
from mmkit.models.parts import PARTS, Part, dead_parameters, knows_parts, part_of
from mmkit.training.config import ADAPTED, TuneConfig

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_TRAINED_PARTS: dict[str, tuple[Part, ...]] = {
    "full": PARTS,
    "llm": ("llm",),
    "projector": ("projector",),
    "llm+projector": ("llm", "projector"),
}
_LAYER_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def on_gpu(config: TuneConfig) -> bool:
    """Whether the run uses a GPU. Raises UnavailableError where one is asked for and none is there."""
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise UnavailableError("no CUDA device is available; leave the device out to train on the CPU")
    return available and config.device != "cpu"


def device_of(config: TuneConfig) -> torch.device:
    """The device of this process: under torchrun the GPU of its LOCAL_RANK, else the first one, or the CPU.

    Raises UnavailableError as on_gpu does, and UsageError where this node has fewer GPUs than processes.
    """
    if not on_gpu(config):
        return torch.device("cpu")
    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= count:
        raise UsageError(f"{count} GPUs are visible here, too few for process number {number + 1}")
    return torch.device("cuda", number)


def runs_in_bfloat16(config: TuneConfig) -> bool:
    """Whether the arithmetic is autocast to bfloat16."""
    return config.dtype == "bfloat16" or (config.dtype == "auto" and on_gpu(config))


def prepare_model(model: str, config: TuneConfig, device: torch.device | None = None) -> PreTrainedModel:
    """The model on `device` (by default device_of), with what `config.train` names marked as trained.

    That is whole parts ("full", "llm", "projector", "llm+projector") less what can learn nothing (see frozen_dead), or
    new adapters on linear layers ("lora", "mixlora"). Trained parameters are in float32 even where the run is in
    bfloat16, whose eight bits would swallow small updates. A part of which nothing is trained lies in bfloat16 then:
    nothing is lost, as such a run's model is saved in bfloat16.

    Raises UsageError for adapters on an adapter, anything on a mixture of LoRA, LoRA targets that are not there and a
    part that the model lacks, UnavailableError for a family whose parts are not known.
    """
    device = device_of(config) if device is None else device
    adapted = config.train in ADAPTED
    _check_base(model, config)
    if config.dtype == "float64":
        dtype = torch.float64
    else:
        dtype = torch.bfloat16 if adapted and runs_in_bfloat16(config) else torch.float32
    net = load_model(model, dtype=dtype)
    _check_parts(net, config)
    if adapted:
        return _with_adapters(net, config).to(device)
    _choose_parts(net, config)
    return net.to(device)


def check_trainable(model: str, config: TuneConfig) -> None:
    """Raise what prepare_model would of the settings, by the model's shape, without its weights."""
    net = load_skeleton(model)
    _check_base(model, config)
    _check_parts(net, config)
    if config.train in ADAPTED:
        lora_targets(net, config.lora_targets)
    else:
        _choose_parts(net, config)


def frozen_dead(net: PreTrainedModel, config: TuneConfig) -> list[str]:
    """The names of parameters that belong to a trained part and are frozen, since no loss reaches them."""
    trained = _TRAINED_PARTS.get(config.train, ())  # no adapter is put on a dead layer
    family = net.config.model_type
    return [name for name in dead_parameters(net) if part_of(name, family) in trained]


def parameter_groups(net: PreTrainedModel, config: TuneConfig) -> list[dict[str, Any]]:
    """The trained parameters as AdamW's groups: one a part and kind, empty ones left out, in an order of their own.

    Each has a `name`, the part's `lr`, and `weight_decay`, which is 0 for biases, norms and gates (parameters of fewer
    than two dimensions). Adapters count to the part that they stand on.
    """
    family = net.config.model_type
    rates = {"llm": config.lr, "projector": config.lr_projector, "vision": config.lr_vision}
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {(part, flat): [] for part in PARTS for flat in (False, True)}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            groups[part_of(name, family), parameter.dim() < 2].append(parameter)
    return [
        {
            "name": f"{part}, not decayed" if flat else part,
            "params": parameters,
            "lr": config.lr if (rate := rates[part]) is None else rate,
            "weight_decay": 0.0 if flat else config.weight_decay,
        }
        for (part, flat), parameters in groups.items()
        if parameters
    ]


def lora_targets(net: PreTrainedModel, targets: str | None = None) -> str:
    """A pattern of the names of the linear layers that get adapters. See `TuneConfig.lora_targets`.

    The head never does, nor does a layer that no loss reaches. Raises UsageError, listing what there is, where a name
    is no layer's.
    """
    decoder = net.get_decoder()
    prefix = next(name for name, module in net.named_modules() if module is decoder)
    if targets == "all":
        return _pattern(_linear_layers(net))
    layers = [name for name in _linear_layers(net) if name.startswith(f"{prefix}.")]
    if targets is None:
        return _pattern(layers)
    wanted = {name.strip() for name in targets.split(",")}
    there = {_last(name) for name in layers}
    if unknown := sorted(wanted - there):
        raise UsageError(
            f"--lora-targets: no linear layer of the language model is called {unknown[0]!r}; there are "
            f"{', '.join(sorted(there))} (and all, for every linear layer of the whole model)"
        )
    return _pattern([name for name in layers if _last(name) in wanted])


def _check_base(model: str, config: TuneConfig) -> None:
    """Raise UsageError where `model` is an adapter that the run cannot begin from."""
    if not (Path(model) / ADAPTER_CONFIG).is_file() or (Path(model) / "config.json").is_file():
        return
    if is_mixture(model):
        raise UsageError(f"{model} is a mixture of LoRA, which cannot be merged and tuned further; tune its base")
    if config.train in ADAPTED:
        raise UsageError(f"{model} is an adapter; a new one needs a whole model (--train full merges it and goes on)")


def _check_parts(net: PreTrainedModel, config: TuneConfig) -> None:
    """Raise UnavailableError where the run tells parts apart that are not known of this family."""
    tells_apart = (
        config.train not in ("full", *ADAPTED) or config.lr_vision is not None or config.lr_projector is not None
    )
    if tells_apart and not knows_parts(net):
        raise UnavailableError(
            f"mmkit does not know which parameters of {net.config.model_type} are its vision encoder and projector; "
            "--train full and lora with one learning rate for all need not know"
        )


def _choose_parts(net: PreTrainedModel, config: TuneConfig) -> None:
    family, trained = net.config.model_type, _TRAINED_PARTS[config.train]
    by_part: dict[Part, list[nn.Parameter]] = {part: [] for part in PARTS}
    for name, parameter in net.named_parameters():
        by_part[part_of(name, family)].append(parameter)
    for part in trained:
        if not by_part[part] and config.train != "full":
            raise UsageError(f"--train {config.train}: {family} is a text model and has no {part}")
    may_differ = family not in ONE_PRECISION or "llm" not in trained
    for part, parameters in by_part.items():
        for parameter in parameters:
            parameter.requires_grad_(part in trained)
            if part not in trained and may_differ and runs_in_bfloat16(config):
                parameter.data = parameter.data.to(torch.bfloat16)  # not the buffers, whose rotary angles need more
    for name in dead_parameters(net):
        net.get_parameter(name).requires_grad_(False)


def _with_adapters(net: PreTrainedModel, config: TuneConfig) -> PreTrainedModel:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(config.seed)  # here: loading and looking at rows must not change what the adapters start from
    if config.train == "mixlora":
        mixlora.attach(net, _mixture(net, config), trained=True)
        return net
    adapters = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=lora_targets(net, config.lora_targets),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(net, adapters)


def _mixture(net: PreTrainedModel, config: TuneConfig) -> mixlora.Mixture:
    return mixlora.Mixture(
        target_modules=lora_targets(net, config.lora_targets),
        experts=config.experts,
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
    )


def _linear_layers(net: PreTrainedModel) -> Iterator[str]:
    """The names of the layers that adapters may stand on."""
    dead, head = set(dead_parameters(net)), net.get_output_embeddings()
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear) and module is not head and f"{name}.weight" not in dead:
            yield name


def _pattern(names: Iterable[str]) -> str:
    """A regular expression of exactly these names; those that differ in a layer's number alone share an alternative."""
    numbers: dict[tuple[str, str], list[str]] = {}
    alternatives = []
    for name in names:
        layer = _LAYER_NUMBER.search(name)
        if layer is None:
            alternatives.append(re.escape(name))
        else:
            numbers.setdefault((name[: layer.start()], name[layer.end() :]), []).append(layer[0])
    for (before, after), found in numbers.items():
        alternatives.append(f"{re.escape(before)}({'|'.join(found)}){re.escape(after)}")
    return "|".join(alternatives)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def save_weights(
    net: PreTrainedModel, folder: Path, model: str, config: TuneConfig, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write safetensors, config and generation config; for LoRA and mixtures of it the adapter, which names its base.

    A base that is a directory is named by its absolute path, so that the adapter loads from anywhere. With
    `config.merge` the whole model is written, and the adapter into the folder "adapter" beside it. `state` are the
    weights, where `net` does not hold them whole.
    """
    net.eval()
    name = str(Path(model).resolve()) if Path(model).is_dir() else model
    if config.train == "mixlora":
        mixlora.save(net, folder, name, state)
        net.generation_config.save_pretrained(folder)
        return
    if config.train == "lora":
        place = folder / "adapter" if config.merge else folder
        net.peft_config["default"].base_model_name_or_path = name
        net.save_pretrained(place, save_embedding_layers=False, state_dict=state)
        (place / "README.md").unlink()  # an empty form of peft's
        net.generation_config.save_pretrained(folder)
        if config.merge:
            dtype = torch.float64 if config.dtype == "float64" else None
            load_model(model, adapter=str(place), dtype=dtype).save_pretrained(folder)
        return
    if state is None and runs_in_bfloat16(config):
        net = net.to(torch.bfloat16)
    elif state is not None and runs_in_bfloat16(config):
        state = {key: tensor.to(torch.bfloat16) for key, tensor in state.items()}
    net.save_pretrained(folder, state_dict=state)
