"""The papers' hyper-parameters, by name. Settings are those of `TuneConfig`; every one of them can be overridden.

A paper's batch is that of one optimizer step over all its devices: `global_batch`. The `batch_size` of a device only
says how it is cut, which changes no step (`mmkit.training.plan`); where a paper names none, it is our choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mmkit.errors import UsageError


@dataclass(frozen=True, slots=True)
class Preset:
    """Hyper-parameters with the place they come from.

    `settings` are by name of TuneConfig's fields. `global_batch` is the number of rows of an optimizer step, from which
    the accumulation follows: global_batch / (batch_size × processes). None where the paper does not give it.
    `notes` say what the figures presume and what in `settings` is ours.
    """

    name: str
    source: str
    settings: Mapping[str, Any]
    global_batch: int | None
    notes: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))


def preset_named(name: str) -> Preset:
    """The preset of that name. Raises UsageError, which lists the names, where there is none."""
    if name not in PRESETS:
        raise UsageError(f"there is no preset {name!r}; presets: {', '.join(PRESETS)}")
    return PRESETS[name]


_LLAVA_1_5 = {
    "train": "llm+projector",
    "lr": 2e-5,
    "epochs": 1,
    "batch_size": 16,
    "schedule": "cosine",
    "warmup_ratio": 0.03,
    "weight_decay": 0.0,
    "max_length": 2048,
    "gradient_checkpointing": True,
}

_ADAMLLM_LLAVA = {
    "train": "full",
    "lr": 2e-5,
    "lr_vision": 2e-6,
    "epochs": 1,
    "batch_size": 4,
    "max_length": 6144,
    "schedule": "cosine",
    "warmup_ratio": 0.03,
    "weight_decay": 0.0,
    "gradient_checkpointing": True,
}

_MINT = {
    "train": "lora",
    "lr": 1e-4,
    "epochs": 3,
    "batch_size": 2,
    "schedule": "cosine",
    "warmup_ratio": 0.1,
    "val_size": 0.1,
}

_ADAMLLM_CUT = "Batch 128 on 8 A100-80GB. Ours: 4 rows a device at a time, and gradient checkpointing to hold them."


def _presets() -> list[Preset]:
    return [
        Preset(
            "mint",
            "MINT, Table 3",
            _MINT,
            None,
            "One A100. The table gives the batch of a device, no accumulation, and neither rank nor alpha of LoRA: "
            "these are mmkit's defaults.",
        ),
        Preset(
            "mint-mixlora",
            "MINT, Table 3 and section 4.1.3",
            {**_MINT, "train": "mixlora", "experts": 16, "lora_r": 4, "lora_alpha": 8.0},
            None,
            "Pool size 16, rank 4, otherwise as MINT itself. Ours: alpha, for the scale that preset mint has.",
        ),
        Preset(
            "visatb",
            "VisATB, section 3.1 (settings of LLaVA-1.5) and its released script",
            _LLAVA_1_5,
            128,
            "Batch 128 as 8 A100 × 16. Steps mix text and images, as in the released script; LLaVA-1.5's do not.",
        ),
        Preset(
            "mlan",
            "MLAN, section 2.2 and Appendix E.1",
            {
                "train": "llm+projector",
                "lr": 2e-5,
                "epochs": 1,
                "batch_size": 8,
                "schedule": "cosine",
                "warmup_ratio": 0.03,
                "weight_decay": 0.0,
                "modality_batches": True,
                "gradient_checkpointing": True,
            },
            64,
            "Batch 64; the paper names no devices. Steps are text-only or image-only, and the projector moves in the "
            "latter only. Ours: 8 rows a device at a time, gradient checkpointing, the maximum length.",
        ),
        Preset(
            "mlan-pretrain",
            "MLAN, section 2.2 (settings of LLaVA-1.5's pretraining) and LLaVA's script",
            {
                "train": "projector",
                "lr": 1e-3,
                "epochs": 1,
                "batch_size": 32,
                "schedule": "cosine",
                "warmup_ratio": 0.03,
                "weight_decay": 0.0,
                "max_length": 2048,
                "gradient_checkpointing": True,
            },
            256,
            "Batch 256 as 8 A100 × 32. Only the projector moves.",
        ),
        Preset(
            "adamllm-synthesizer",
            "AdaMLLM, Table 9",
            {**_ADAMLLM_LLAVA, "epochs": 2},
            128,
            f"For LLaVA-v1.6-8B. {_ADAMLLM_CUT}",
        ),
        Preset(
            "adamllm-qwen2-vl",
            "AdaMLLM, Table 10 (Qwen2-VL)",
            {**_ADAMLLM_LLAVA, "lr": 1e-5, "lr_vision": 1e-5, "warmup_ratio": 0.1, "weight_decay": 0.1},
            128,
            f"For Qwen2-VL-2B. {_ADAMLLM_CUT}",
        ),
        Preset(
            "adamllm-llava",
            "AdaMLLM, Table 10 (LLaVA-v1.6)",
            _ADAMLLM_LLAVA,
            128,
            f"For LLaVA-v1.6-8B. {_ADAMLLM_CUT}",
        ),
        Preset(
            "adamllm-llama32",
            "AdaMLLM, Table 10 (Llama-3.2)",
            {**_ADAMLLM_LLAVA, "lr": 5e-6, "lr_vision": 5e-6, "warmup_ratio": 0.1, "weight_decay": 0.1},
            128,
            f"For Llama-3.2-11B-Vision. The authors' released instructions have learning rate 1e-5. {_ADAMLLM_CUT}",
        ),
        Preset(
            "llava-1.5",
            "LLaVA-1.5, visual instruction tuning (paper and released script)",
            {**_LLAVA_1_5, "modality_batches": True},
            128,
            "Batch 128 as 8 A100 × 16. The vision encoder is frozen.",
        ),
        Preset(
            "two-stage-1",
            "AdaMLLM, Appendix C (first of two stages, LLaVA-v1.6) and Table 10",
            {
                **{name: value for name, value in _ADAMLLM_LLAVA.items() if name != "lr_vision"},
                "train": "projector",
                "lr": 2e-3,
            },
            128,
            "Stage 1 trains on captions; stage 2 on tasks with adamllm-llava. Qwen2-VL and Llama-3.2 train the full "
            f"model in both stages, with their own presets. {_ADAMLLM_CUT}",
        ),
    ]


PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in _presets()})
"""All presets by name."""
