"""mmkit doctor --parity on the real vLLM: two engines that agree, and differences made on purpose, each found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from vllm_kit import ENGINE, QUIET_AND_OFFLINE

from mmkit.engines.parity import Comparison, Parity
from mmkit.engines.parity.readings import Side, examine
from mmkit.errors import UsageError

MMKIT = [sys.executable, "-c", "import sys; sys.argv[0] = 'mmkit'; from mmkit.cli.main import main; main()"]
SMALLER = {"size": {"shortest_edge": 16 * 16, "longest_edge": 32 * 32}}  # for vLLM's image processor; in pixels
TinyModel = Callable[[str], Path]


def settings(**changes: Any) -> list[str]:
    """Engine arguments as --vllm takes them; room for the longest of the built-in prompts."""
    values = {**ENGINE, "max_model_len": 1024, **changes}
    return [f"{name}={json.dumps(value)}" for name, value in values.items() if name != "dtype"]


def parity(
    model: Path, *, dtype: str | None = None, adapters: tuple[Path | None, Path | None] = (None, None), **changes: Any
) -> Parity:
    """The built-in records through both engines, vLLM with `changes`."""
    ours, theirs = (None if adapter is None else str(adapter) for adapter in adapters)
    sides = {"transformers": Side(ours), "vllm": Side(theirs, engine_args=settings(**changes))}
    return examine(str(model), None, dtype=dtype, **sides)


def by_name(found: Parity) -> dict[str, Comparison]:
    return {one.record: one for one in found.comparisons}


@pytest.mark.parametrize(("family", "dtype"), [("qwen2_vl", None), ("llava", "float32"), ("llava", "bfloat16")])
def test_the_engines_agree(tiny_model: TinyModel, family: str, dtype: str | None) -> None:
    found = parity(tiny_model(family), dtype=dtype)
    assert [one.detail for one in found.comparisons] == [""] * 8
    assert found.dtype == dtype or found.dtype == "float32"  # the checkpoint's, and not what vLLM would make of it
    first = [one.first_tokens for one in found.comparisons]
    gaps = [tokens.difference for tokens in first if tokens]
    assert len(gaps) == 8
    # The bounds are wide of what a CPU gives, and what it gives is no copy of the other engine's figures.
    assert 0 < max(gaps) < found.tolerance / 3
    assert len({tokens.best for tokens in first if tokens}) > 2  # the prompts matter
    images = {one.record: one.image_tokens[0] for one in found.comparisons if one.image_tokens}
    assert sum(number > 0 for number in images.values()) == 5
    assert images["two images of odd sizes"] > images["one image"]
    assert "read 8 records alike" in found.conclude()


def test_images_of_another_size_are_found_where_there_are_images(tiny_model: TinyModel) -> None:
    found = by_name(parity(tiny_model("qwen2_vl"), mm_processor_kwargs=SMALLER))
    ours, theirs = found["one image"].image_tokens or (0, 0)
    assert ours > theirs
    prompt, images, *_ = found["one image"].differences
    assert "<|image_pad|> [<|image_pad|>] <|image_pad|>" in prompt
    assert "<|image_pad|> [<|vision_end|>]" in prompt
    assert images == f"{ours} image tokens in transformers, {theirs} in vLLM"
    assert [one.state for one in found.values() if one.image_tokens == (0, 0)] == ["ok"] * 3


@pytest.fixture(scope="module")
def other_angles(tiny_model: TinyModel) -> Parity:
    """vLLM with another base of the rotary angles, and too short a context for one of the prompts."""
    text = {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [4, 6, 6]}}
    return parity(tiny_model("qwen2_vl"), hf_overrides={"text_config": text}, max_model_len=512)


def test_another_model_under_the_same_prompt_is_found_by_its_log_probabilities(other_angles: Parity) -> None:
    found = by_name(other_angles)
    taken = [one for one in found.values() if not any(one.refusals)]
    assert [one.state for one in taken] == ["differs"] * 7
    for one in taken:
        assert one.prompt_tokens is not None
        assert one.prompt_tokens[0] == one.prompt_tokens[1]
        assert one.differences[0].startswith("log-probabilities differ by up to ")


def test_a_prompt_that_only_one_engine_takes_is_a_difference(other_angles: Parity) -> None:
    (said,) = by_name(other_angles)["a longer text"].differences
    assert said.startswith("vLLM refuses what transformers takes: ")
    assert "context of 512" in said


def test_an_adapter_in_one_engine_alone_is_found_and_in_both_they_agree(tiny_model: TinyModel, adapter: Path) -> None:
    model = tiny_model("qwen2_vl")
    one_sided = parity(model, adapters=(adapter, None))
    assert {one.state for one in one_sided.comparisons} == {"differs"}
    assert all(one.prompt_tokens and one.prompt_tokens[0] == one.prompt_tokens[1] for one in one_sided.comparisons)
    assert "read 8 records alike" in parity(model, adapters=(adapter, adapter)).conclude()


def test_an_engine_argument_that_vllm_does_not_have_is_no_difference(tiny_model: TinyModel) -> None:
    with pytest.raises(UsageError, match=r"did you mean max_model_len\?"):
        parity(tiny_model("qwen2_vl"), max_modl_len=512)


# --- the command, with vLLM in processes of its own


def doctor(
    folder: Path, model: Path, *arguments: str, in_process: bool = False, **changes: Any
) -> tuple[int, Any, str]:
    """Exit code, rows and stderr of the command, asked about the first rows of rows.jsonl."""
    words = [word for setting in settings(**changes) for word in ("--vllm", setting)]
    done = subprocess.run(
        [*MMKIT, "doctor", "--parity", "rows.jsonl", "--model", str(model), *words, *arguments],
        cwd=folder,
        env={**os.environ, **QUIET_AND_OFFLINE, "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if in_process else "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A row of words, one with two pictures, and one more, in rows.jsonl."""
    folder = tmp_path_factory.mktemp("doctor")
    for name, size in (("a.png", (96, 64)), ("b.png", (48, 48))):
        Image.new("RGB", size, "teal").save(folder / name)
    rows: list[dict[str, Any]] = [
        {"id": "words", "question": "which colour?", "answer": "blue"},
        {"id": "pictures", "question": "which colour?", "images": [{"path": "a.png"}, {"path": "b.png"}]},
        {"id": "not read", "question": "beyond the limit"},
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_command_says_0_where_the_engines_agree(tiny_model: TinyModel, folder: Path) -> None:
    code, rows, said = doctor(folder, tiny_model("qwen2_vl"), "--limit", "2", in_process=True)
    assert (code, [(row["record"], row["state"]) for row in rows]) == (0, [("words", "ok"), ("pictures", "ok")])
    assert "mmkit doctor: transformers and vLLM read 2 records alike (float32, log-probabilities within " in said


def test_the_command_says_69_where_they_differ_after_all_rows(tiny_model: TinyModel, folder: Path) -> None:
    code, rows, said = doctor(folder, tiny_model("qwen2_vl"), "--limit", "2", mm_processor_kwargs=SMALLER)
    words, pictures = rows  # rows alone: what vLLM and its processes print goes elsewhere
    assert (words["record"], words["state"], words["differences"]) == ("words", "ok", [])
    assert (pictures["record"], pictures["state"]) == ("pictures", "differs")
    assert pictures["image_tokens"]["transformers"] > pictures["image_tokens"]["vllm"]
    assert code == 69
    assert "mmkit doctor: transformers and vLLM differ on 1 of 2 records (float32)" in said
