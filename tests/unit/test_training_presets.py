"""The presets hold the figures of the papers' tables, written out here once more, and nothing a run would refuse."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from mmkit.errors import UsageError
from mmkit.training import TuneConfig
from mmkit.training.presets import PRESETS, preset_named

NAMES = [
    "mint",
    "mint-mixlora",
    "visatb",
    "mlan",
    "mlan-pretrain",
    "adamllm-synthesizer",
    "adamllm-qwen2-vl",
    "adamllm-llava",
    "adamllm-llama32",
    "llava-1.5",
    "two-stage-1",
]

OURS = {"batch_size", "gradient_checkpointing", "modality_batches"}
"""How rows are batched and held in memory, which the tables do not say."""


def of_paper(name: str) -> dict[str, Any]:
    return {setting: value for setting, value in preset_named(name).settings.items() if setting not in OURS}


def test_every_preset_of_the_issue_is_there() -> None:
    assert list(PRESETS) == NAMES
    assert [preset.name for preset in PRESETS.values()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_one_of_a_tuning_run(name: str) -> None:
    preset = preset_named(name)
    config = TuneConfig(**preset.settings)
    assert set(preset.settings) <= {field.name for field in fields(TuneConfig)}
    assert all(getattr(config, setting) == value for setting, value in preset.settings.items())
    assert preset.source
    assert preset.notes


@pytest.mark.parametrize("name", NAMES)
def test_the_global_batch_is_reached_on_1_2_4_and_8_devices(name: str) -> None:
    preset = preset_named(name)
    if preset.global_batch is not None:
        assert "accumulation" not in preset.settings
        assert preset.global_batch % (8 * preset.settings["batch_size"]) == 0


def test_mint_table_3() -> None:
    assert preset_named("mint").settings == {
        "train": "lora",
        "batch_size": 2,  # per device
        "lr": 1e-4,
        "schedule": "cosine",
        "epochs": 3,
        "warmup_ratio": 0.1,
        "val_size": 0.1,
    }
    assert preset_named("mint").global_batch is None


def test_mint_section_4_1_3() -> None:
    """The baseline keeps the settings of MixLoRA's pool, and MINT's own for the rest."""
    settings = {**preset_named("mint-mixlora").settings}
    assert (settings.pop("train"), settings.pop("experts"), settings.pop("lora_r")) == ("mixlora", 16, 4)
    mint, config = TuneConfig(**preset_named("mint").settings), TuneConfig(**preset_named("mint-mixlora").settings)
    assert settings.pop("lora_alpha") == 8 and config.lora_alpha / config.lora_r == mint.lora_alpha / mint.lora_r
    assert {"train": "lora", **settings} == preset_named("mint").settings


def test_llava_1_5_and_visatb_which_follows_it() -> None:
    for name in ("llava-1.5", "visatb"):
        assert of_paper(name) == {
            "train": "llm+projector",
            "epochs": 1,
            "lr": 2e-5,
            "schedule": "cosine",
            "warmup_ratio": 0.03,
            "weight_decay": 0,
            "max_length": 2048,
        }
        assert preset_named(name).global_batch == 128
        assert preset_named(name).settings["batch_size"] == 16
    assert "modality_batches" not in preset_named("visatb").settings
    assert preset_named("llava-1.5").settings["modality_batches"] is True


def test_mlan() -> None:
    assert of_paper("mlan") == {
        "train": "llm+projector",
        "epochs": 1,
        "lr": 2e-5,
        "schedule": "cosine",
        "warmup_ratio": 0.03,
        "weight_decay": 0,
    }
    assert preset_named("mlan").global_batch == 64
    assert preset_named("mlan").settings["modality_batches"] is True
    assert of_paper("mlan-pretrain") == {
        "train": "projector",
        "epochs": 1,
        "lr": 1e-3,
        "schedule": "cosine",
        "warmup_ratio": 0.03,
        "weight_decay": 0,
        "max_length": 2048,
    }
    assert preset_named("mlan-pretrain").global_batch == 256


@pytest.mark.parametrize(
    ("name", "epochs", "lr", "lr_vision", "weight_decay", "warmup_ratio"),
    [
        ("adamllm-synthesizer", 2, 2e-5, 2e-6, 0, 0.03),  # Table 9
        ("adamllm-llava", 1, 2e-5, 2e-6, 0, 0.03),  # Table 10
        ("adamllm-qwen2-vl", 1, 1e-5, 1e-5, 0.1, 0.1),
        ("adamllm-llama32", 1, 5e-6, 5e-6, 0.1, 0.1),
    ],
)
def test_adamllm_tables_9_and_10(
    name: str, epochs: int, lr: float, lr_vision: float, weight_decay: float, warmup_ratio: float
) -> None:
    assert of_paper(name) == {
        "train": "full",
        "epochs": epochs,
        "lr": lr,
        "lr_vision": lr_vision,
        "max_length": 6144,
        "schedule": "cosine",
        "weight_decay": weight_decay,
        "warmup_ratio": warmup_ratio,
    }
    assert preset_named(name).global_batch == 128


def test_the_first_of_two_stages_moves_the_projector_at_2e_3() -> None:
    assert of_paper("two-stage-1") == {
        "train": "projector",
        "epochs": 1,
        "lr": 2e-3,
        "max_length": 6144,
        "schedule": "cosine",
        "weight_decay": 0,
        "warmup_ratio": 0.03,
    }
    assert preset_named("two-stage-1").global_batch == 128


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no preset 'llava'; presets: mint, mint-mixlora, visatb, .*two-stage-1"):
        preset_named("llava")


def test_presets_cannot_be_changed_by_who_reads_them() -> None:
    with pytest.raises(TypeError):
        PRESETS["own"] = PRESETS["mint"]  # type: ignore[index]
    with pytest.raises(TypeError):
        preset_named("mint").settings["lr"] = 1.0  # type: ignore[index]
