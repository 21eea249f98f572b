"""What vLLM itself does and mmkit's engines reckon with. One that fails after an upgrade points at code to look at."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from vllm.exceptions import VLLMValidationError
from vllm_kit import ENGINE, IN_PROCESS, Server, post, shut_down

RED = Image.new("RGB", (48, 48), (200, 30, 60))
PICTURE = {"type": "image_pil", "image_pil": RED}


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture, beside it another one."""
    folder = tmp_path_factory.mktemp("media") / "inside"
    folder.mkdir()
    RED.save(folder / "red.png")
    RED.save(folder.parent / "outside.png")
    return folder


@pytest.fixture(scope="module")
def llm(tiny_model: Callable[[str], Path], media: Path) -> Iterator[Any]:
    """vLLM in this process, which may read pictures from the folder."""
    from vllm import LLM

    llm = LLM(str(tiny_model("qwen2_vl")), allowed_local_media_path=str(media), **ENGINE)
    yield llm
    shut_down(llm.llm_engine)


def says(*parts: dict[str, Any] | str) -> list[dict[str, Any]]:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return [{"role": "user", "content": content}]


def ask(llm: Any, chats: Any, **sampling: Any) -> Any:
    from vllm import SamplingParams

    options = {"temperature": 0, "max_tokens": 4, "ignore_eos": True} | sampling
    return llm.chat(chats, SamplingParams(**options), use_tqdm=False)


def file_url(path: Path) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"file://{path}"}}


# --- one bad request and the others


def test_one_prompt_that_is_too_long_fails_the_whole_call(llm: Any) -> None:
    good, long = says("hello"), says("word " * 600)
    with pytest.raises(VLLMValidationError, match="maximum context length is 512 tokens"):
        ask(llm, [good, long, good])
    assert not llm.llm_engine.has_unfinished_requests()
    assert len(ask(llm, [good])[0].outputs[0].token_ids) == 4


def test_a_prompt_of_the_full_length_fails_too_as_no_token_could_follow(llm: Any) -> None:
    engine = llm.llm_engine
    with pytest.raises(VLLMValidationError, match="longer than the maximum model length"):
        llm.generate([{"prompt_token_ids": [5] * engine.model_config.max_model_len}], use_tqdm=False)


def test_too_many_images_are_an_error_of_the_call(llm: Any) -> None:
    with pytest.raises(VLLMValidationError, match=r"At most 2 image\(s\) may be provided"):
        ask(llm, says(PICTURE, PICTURE, PICTURE, "x"))


# --- images


def test_an_image_is_a_part_image_pil_or_image_url(llm: Any, media: Path) -> None:
    pil, url = (ask(llm, says(part, "x"))[0] for part in (PICTURE, file_url(media / "red.png")))
    assert pil.prompt_token_ids == url.prompt_token_ids
    assert pil.outputs[0].token_ids == url.outputs[0].token_ids


@pytest.mark.parametrize("part", [{"type": "image"}, {"type": "image", "image": RED}])
def test_the_part_that_chat_templates_know_is_refused(llm: Any, part: dict[str, Any]) -> None:
    with pytest.raises(VLLMValidationError, match="Unsupported chat content part type: 'image'"):
        ask(llm, says(part, "x"))


def test_a_local_file_must_lie_in_the_folder_that_was_allowed(llm: Any, media: Path) -> None:
    with pytest.raises(ValueError, match="must be a subpath of `--allowed-local-media-path"):
        ask(llm, says(file_url(media.parent / "outside.png"), "x"))


def test_without_an_allowed_folder_a_server_reads_no_local_file(vllm_server: Server, media: Path) -> None:
    status, answer = post(vllm_server, "/chat/completions", messages=says(file_url(media / "red.png"), "x"))
    assert status == 500  # although it is the request that is at fault
    assert "allowed-local-media-path" in answer["error"]["message"]


# --- structured output


def test_json_by_xgrammar_may_hold_raw_control_characters(llm: Any) -> None:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    text = {"type": "string", "maxLength": 8}
    schema = {"type": "object", "properties": {"q": text}, "required": ["q"], "additionalProperties": False}
    form = StructuredOutputsParams(json=schema, disable_any_whitespace=True)
    draws = [SamplingParams(temperature=1, seed=n, max_tokens=64, structured_outputs=form) for n in range(64)]
    outputs = [each.outputs[0] for each in llm.chat([says("hello")] * 64, draws, use_tqdm=False)]
    complete = [each.text for each in outputs if each.finish_reason == "stop"]
    assert complete
    assert any(not_strict(text) for text in complete)
    assert all(set(json.loads(text, strict=False)) == {"q"} for text in complete)


def not_strict(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return True
    return False


def test_guided_choice_is_ignored_and_structured_outputs_is_not(vllm_server: Server) -> None:
    def answer(**fields: Any) -> str:
        status, body = post(vllm_server, "/chat/completions", messages=says("hello"), temperature=0, **fields)
        assert status == 200
        return str(body["choices"][0]["message"]["content"])

    assert answer(guided_choice=["yes", "no"], max_tokens=8) == answer(max_tokens=8)
    assert answer(structured_outputs={"choice": ["yes", "no"]}, max_tokens=8) in ("yes", "no")


# --- batches and stdout


@pytest.fixture(scope="module")
def two_threads(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    """Log-probabilities of questions asked alone and together, on two threads, and what went to stdout meanwhile."""
    out = tmp_path_factory.mktemp("threads") / "log_probs.json"
    program = Path(__file__).with_name("alone_and_together.py")
    environment = {**os.environ, **IN_PROCESS, "OMP_NUM_THREADS": "2", "VLLM_LOGGING_LEVEL": "INFO"}
    done = subprocess.run(
        [sys.executable, str(program), str(tiny_model("qwen2_vl")), str(out)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(out.read_text()), done.stdout


def test_greedy_answers_depend_on_what_else_is_in_the_batch(two_threads: tuple[Any, str]) -> None:
    log_probs, _ = two_threads
    pairs = list(zip(log_probs["alone"], log_probs["together"], strict=True))
    assert any(alone != together for alone, together in pairs)
    assert all(alone[0] == pytest.approx(together[0], abs=0.05) for alone, together in pairs)


def test_vllm_logs_to_stdout(two_threads: tuple[Any, str]) -> None:
    _, stdout = two_threads
    assert "INFO" in stdout


# --- LLaVA. Last, as a model that does not load leaves the engine before it unusable.


@pytest.mark.usefixtures("llm")
def test_a_llava_that_was_never_a_published_one_does_not_load(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    from transformers import AutoConfig, AutoModelForImageTextToText
    from vllm import LLM

    shutil.copytree(tiny_model("llava"), tmp_path, dirs_exist_ok=True)
    AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(tmp_path)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no module or parameter named 'vision_tower\.embeddings'"):
        LLM(str(tmp_path), **ENGINE)


def test_a_llava_that_was_loaded_under_the_published_names_is_saved_under_them(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    import torch
    from safetensors import safe_open
    from transformers import AutoModelForImageTextToText

    def names(directory: Path) -> set[str]:
        with safe_open(directory / "model.safetensors", "pt") as weights:
            return set(weights.keys())

    model = AutoModelForImageTextToText.from_pretrained(tiny_model("llava"), dtype=torch.float32)
    model.save_pretrained(tmp_path)
    assert names(tmp_path) == names(tiny_model("llava"))
