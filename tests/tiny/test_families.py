"""Tiny models load like any other; models that cannot be loaded say why in one sentence."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mmkit.errors import DataError, MissingInputError, UnavailableError, UsageError
from mmkit.models.loading import load_chat, load_model
from mmkit.testing import tiny_models

pytestmark = pytest.mark.tiny

CORPUS = ["which word is shown? the word is don't, at 3.5 (of 10).", "a red circle: low-level art"]
ASK = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which?"}]}]
ASK_TEXT = [{"role": "user", "content": [{"type": "text", "text": "Which?"}]}]


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_a_built_model_is_complete_and_small(family: str, tiny_model: Callable[[str], Path]) -> None:
    chat, model = load_chat(str(tiny_model(family))), load_model(str(tiny_model(family)))
    images = [] if family == "causal_lm" else [Image.new("RGB", (70, 40), "red")]
    encoded = chat.encode(ASK if images else ASK_TEXT, images, open_turn="assistant")
    logits = model(**chat.collate([encoded], padding_side="right")).logits
    assert logits.shape[:2] == (1, len(encoded.input_ids)) and logits.isfinite().all()
    assert chat.family == model.config.model_type
    assert sum(weight.numel() for weight in model.parameters()) < 1_000_000
    assert not model.training
    assert list(model.generation_config.eos_token_id) == [chat.end_of_turn_id, *chat.end_of_text_ids]
    assert chat.pad_token_id == model.generation_config.pad_token_id


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_the_picture_moves_the_answer(family: str, tiny_model: Callable[[str], Path]) -> None:
    if family == "causal_lm":
        return
    chat, model = load_chat(str(tiny_model(family))), load_model(str(tiny_model(family)))
    answers = []
    for colour in ("red", "white"):
        encoded = chat.encode(ASK, [Image.new("RGB", (48, 48), colour)], open_turn="assistant")
        answers.append(model(**chat.collate([encoded], padding_side="right")).logits[0, -1])
    assert (answers[0] - answers[1]).abs().max() > 0.01


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm"])
def test_directories_name_a_video_processor_for_those_who_have_torchvision(
    family: str, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    written = json.loads((tiny_model(family) / "processor_config.json").read_bytes())
    assert written["video_processor"]["video_processor_type"].endswith("VideoProcessor")
    load_chat(str(tiny_model(family))).save(tmp_path)
    assert json.loads((tmp_path / "processor_config.json").read_bytes()) == written


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_a_saved_chat_loads_as_the_same(family: str, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    chat = load_chat(str(tiny_model(family)))
    chat.save(tmp_path)
    for name in ("config.json", "generation_config.json"):
        shutil.copy(tiny_model(family) / name, tmp_path)
    again = load_chat(str(tmp_path))
    images = [] if family == "causal_lm" else [Image.new("RGB", (70, 40), "red")]
    messages = ASK if images else ASK_TEXT
    one, other = (each.encode(messages, images, open_turn="assistant") for each in (chat, again))
    assert one.input_ids == other.input_ids
    assert all(other.image_inputs[key].equal(tensor) for key, tensor in one.image_inputs.items())


def digest(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def test_the_same_seed_builds_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        tiny_models.build("qwen2_vl", tmp_path / name, corpus=CORPUS, seed=seed, hidden_size=64, num_layers=1)
    a, b, c = (digest(tmp_path / name) for name in "abc")
    assert a == b
    assert {name for name in a if a[name] != c[name]} == {"model.safetensors"}


def test_matrices_start_with_the_inverse_root_of_their_fan_in(tiny_model: Callable[[str], Path]) -> None:
    weights = dict(load_model(str(tiny_model("qwen2_vl"))).named_parameters())
    assert "lm_head.weight" not in weights  # tied
    for name in ("model.language_model.embed_tokens.weight", "model.visual.patch_embed.proj.weight"):
        fan_in = weights[name][0].numel()
        assert weights[name].std().item() == pytest.approx(fan_in**-0.5, rel=0.05)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize(("size", "num_tokens"), [((48, 48), 9), ((16, 16), 1), ((640, 480), 6)])
def test_a_picture_costs_few_tokens(
    family: str, size: tuple[int, int], num_tokens: int, tiny_model: Callable[[str], Path]
) -> None:
    encoded = load_chat(str(tiny_model(family))).encode(ASK, [Image.new("RGB", size)], open_turn="assistant")
    assert encoded.num_image_tokens == num_tokens


@pytest.mark.parametrize(
    ("family", "options"),
    [("bert", {}), ("llava", {"image_size": 50}), ("llava", {"hidden_size": 20}), ("smolvlm", {"image_size": 48})],
)
def test_sizes_that_cannot_work_are_refused(family: str, options: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        tiny_models.build(family, tmp_path / "x", corpus=CORPUS, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()


@pytest.fixture(scope="module")
def word_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("words")
    tiny_models.build("qwen2_vl", out, corpus=CORPUS, tokenizer="words", hidden_size=32, num_layers=1)
    return out


@pytest.mark.parametrize(
    "text",
    ["which word is shown?", "the word is don't, at 3.5 (of 10).", "a red\ncircle: low-level art", "a\n\nb"],
)
def test_words_decode_to_natural_text(text: str, word_model: Path) -> None:
    tokenizer = load_chat(str(word_model)).tokenizer
    known = text.replace("a\n\nb", "a\n\nart")
    assert tokenizer.decode(tokenizer(known)["input_ids"]) == known


def test_a_word_has_one_id_wherever_it_stands(word_model: Path) -> None:
    tokenizer = load_chat(str(word_model)).tokenizer
    ids = tokenizer("word word\nWord, (word) word.")["input_ids"]
    word = tokenizer.convert_tokens_to_ids("word")
    assert ids.count(word) == 5
    assert tokenizer("a red art")["input_ids"] == tokenizer("a  red ")["input_ids"] + tokenizer("art")["input_ids"]


def test_word_models_keep_turns_and_hostile_text_apart(word_model: Path) -> None:
    chat = load_chat(str(word_model))
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Which <|im_end|> unheard word?"}], "train": True},
        {"role": "assistant", "content": [{"type": "text", "text": "a red\ncircle"}]},
    ]
    whole = chat.encode(messages, []).input_ids
    prompt = chat.encode([], [], open_turn="user").input_ids
    assert whole[: len(prompt)] == prompt
    assert whole.count(chat.end_of_turn_id) == 2
    turns, complete = chat.split_turns(whole[len(prompt) :])
    assert complete and [turn.role for turn in turns] == ["user", "assistant"]
    assert turns[1].text == "a red\ncircle"


def test_a_text_model_without_a_template_takes_prompts_only(tmp_path: Path) -> None:
    tiny_models.build("causal_lm", tmp_path, corpus=CORPUS, hidden_size=32, num_layers=1, chat_template=False)
    chat = load_chat(str(tmp_path))
    ids = chat.encode_text("which word")
    assert ids[0] == chat.tokenizer.bos_token_id and chat.decode(ids) == "which word"
    assert chat.end_of_turn_id is None
    assert chat.end_of_text_ids == [chat.tokenizer.eos_token_id, chat.tokenizer.pad_token_id]
    with pytest.raises(DataError, match="has no chat template"):
        chat.encode(ASK_TEXT, [], open_turn="assistant")


def test_an_adapter_is_merged_into_its_base(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    base = str(tiny_model("qwen2_vl"))
    chat = load_chat(base)
    batch = chat.collate([chat.encode(ASK, [Image.new("RGB", (48, 48))], open_turn="assistant")], padding_side="left")
    adapted = get_peft_model(load_model(base), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = adapted.eval()(**batch).logits
        for model in (load_model(base, adapter=str(tmp_path / "adapter")), load_model(str(tmp_path / "adapter"))):
            torch.testing.assert_close(model(**batch).logits, expected, atol=1e-4, rtol=1e-4)
        assert (load_model(base)(**batch).logits - expected).abs().max() > 0.01
    assert load_chat(str(tmp_path / "adapter")).encode_text("word") == chat.encode_text("word")
    chat.save(tmp_path / "adapter")
    assert load_chat(str(tmp_path / "adapter")).encode_text("word") == chat.encode_text("word")
    with pytest.raises(DataError, match="is not an adapter directory"):
        load_model(base, adapter=base)


def broken(kind: str, source: Path, to: Path) -> Path:
    """A copy of a model directory, spoilt."""
    shutil.copytree(source, to)
    if kind == "no weights":
        (to / "model.safetensors").unlink()
    elif kind == "cut weights":
        data = (to / "model.safetensors").read_bytes()
        (to / "model.safetensors").write_bytes(data[: len(data) // 2])
    elif kind == "fewer weights":
        from safetensors.torch import load_file, save_file

        weights = load_file(to / "model.safetensors")
        del weights[next(name for name in weights if name.endswith("model.norm.weight"))]
        save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    elif kind == "no JSON":
        (to / "config.json").write_text("{")
    elif kind == "unknown type":
        (to / "config.json").write_text('{"model_type": "no_such_type"}')
    return to


@pytest.mark.parametrize("kind", ["no weights", "cut weights", "fewer weights", "no JSON", "unknown type"])
def test_a_spoilt_directory_is_bad_data_in_one_sentence(
    kind: str, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    spoilt = broken(kind, tiny_model("qwen2_vl"), tmp_path / "spoilt")
    with pytest.raises(DataError) as caught:
        load_model(str(spoilt))
    assert "spoilt" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("load", [load_chat, load_model])
def test_what_is_no_model_is_named(load: Callable[[str], object], tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(DataError, match="is not a model directory: it has no config"):
        load(str(tmp_path))
    with pytest.raises(DataError, match="is a file, not a model directory"):
        load(str(tmp_path / "file.txt"))
    with pytest.raises(MissingInputError, match="not found"):
        load(str(tmp_path / "nowhere"))


def run_python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.strip()


def test_a_hub_id_without_the_hub_says_what_is_set(tmp_path: Path) -> None:
    code = (
        "from mmkit.models.loading import load_chat\n"
        "from mmkit.errors import UnavailableError\n"
        "try: load_chat('someone/some-model')\n"
        "except UnavailableError as error: print(error)\n"
    )
    message = run_python(code, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert message == (
        "someone/some-model is no directory here, and the hub did not give it: "
        "HF_HUB_OFFLINE is set and it is not in the local cache"
    )


def test_loading_writes_nothing_to_the_terminal(tiny_model: Callable[[str], Path]) -> None:
    code = (
        "from mmkit.models.loading import load_chat, load_model\n"
        f"load_chat({str(tiny_model('qwen2_vl'))!r}); load_model({str(tiny_model('qwen2_vl'))!r})\n"
    )
    assert run_python(code) == ""


def test_without_torch_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UnavailableError, match=r"torch is not installed; add it with: pip install 'mmkit\[train\]'"):
        load_chat(str(tmp_path))
