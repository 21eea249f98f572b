"""vLLM's engine arguments from the command line, and adapters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmkit.engines.vllm import arguments
from mmkit.engines.vllm.backend import require_version
from mmkit.errors import DataError, MissingInputError, UnavailableError, UsageError

KNOWN = ("max_model_len", "limit_mm_per_prompt", "enforce_eager", "quantization", "model", "dtype", "seed")


def test_values_are_json_where_they_can_be() -> None:
    settings = [
        "max_model_len=8192",
        "--enforce-eager=true",
        "seed=None",
        'limit_mm_per_prompt={"image": 4}',
        "quantization=fp8",
    ]
    assert arguments.parse(settings, KNOWN) == {
        "max_model_len": 8192,
        "enforce_eager": True,
        "seed": None,
        "limit_mm_per_prompt": {"image": 4},
        "quantization": "fp8",
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["max_model_len"], "expected NAME=VALUE"),
        (["=3"], "expected NAME=VALUE"),
        (["max_model_length=3"], "no engine argument 'max_model_length'; did you mean max_model_len?"),
        (["zzz=3"], "no engine argument 'zzz'$"),
        (["model=x"], "use --model"),
        (["dtype=half"], "use --dtype"),
        (["data_parallel_size=2"], "use one server a GPU instead, and --engine openai with a --base-url for each"),
        (["logprobs_mode=processed_logprobs"], "mmkit relies on logprobs_mode=raw_logprobs"),
        (["seed=1", "seed=2"], "seed is given twice"),
    ],
)
def test_what_vllm_would_not_understand_is_said(settings: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        arguments.parse(settings, KNOWN)


@pytest.mark.parametrize(
    ("config", "rank"),
    [({"r": 8}, 8), ({"r": 9}, 16), ({"r": 1}, 1), ({"r": 4, "rank_pattern": {"q_proj": 100}}, 128)],
)
def test_the_engine_is_set_up_for_the_adapters_largest_rank(config: object, rank: int, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert arguments.lora(str(tmp_path)) == {"enable_lora": True, "max_lora_rank": rank, "max_loras": 1}


def test_several_adapters_may_be_at_work_at_once(tmp_path: Path) -> None:
    folders = []
    for rank in (8, 20, 4):
        folders.append(tmp_path / str(rank))
        folders[-1].mkdir()
        (folders[-1] / "adapter_config.json").write_text(json.dumps({"r": rank, "peft_type": "LORA"}))
    assert arguments.lora(*map(str, folders)) == {"enable_lora": True, "max_lora_rank": 32, "max_loras": 3}


def test_what_is_no_adapter_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such directory"):
        arguments.lora(str(tmp_path / "gone"))
    with pytest.raises(DataError, match="has no adapter_config"):
        arguments.lora(str(tmp_path))
    for content in ("{", "[]", "{}", '{"r": "many"}'):
        (tmp_path / "adapter_config.json").write_text(content)
        with pytest.raises(DataError, match="not a LoRA configuration"):
            arguments.lora(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text('{"r": 1024}')
    with pytest.raises(DataError, match="rank 1024 is more than vLLM's largest"):
        arguments.lora(str(tmp_path))


def test_an_adapter_that_is_no_plain_lora_is_refused_beside_the_model_and_in_its_place(tmp_path: Path) -> None:
    """A mixture's gates, or a DoRA's magnitudes under another name, would be overlooked."""
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "peft_type": "MMKIT_MIXLORA"}')
    for refuse in (arguments.lora, arguments.require_whole):
        with pytest.raises(DataError, match=r"is no LoRA adapter \(peft_type 'MMKIT_MIXLORA'\).* use transformers"):
            refuse(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "peft_type": "LORA"}')
    with pytest.raises(DataError, match=r"is an adapter; for vLLM, name its base as --model"):
        arguments.require_whole(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    arguments.require_whole(str(tmp_path))  # a whole model that an adapter lies beside
    arguments.require_whole("org/name")


def test_only_releases_that_were_looked_at_are_run() -> None:
    for known in ("0.32.0", "0.33.0", "0.33.1+cu130"):
        require_version(known)
    for other in ("0.31.2", "0.34.0", "0.320.0", "1.0"):
        with pytest.raises(UnavailableError, match=r"this mmkit knows 0\.32 and 0\.33"):
            require_version(other)
