"""What is trained: the parts of every family, and that exactly what is marked as trained gets a gradient."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mmkit.errors import UnavailableError, UsageError
from mmkit.models.families import VISION_ENCODERS
from mmkit.models.loading import load_chat, load_model
from mmkit.models.parts import dead_parameters, part_of
from mmkit.testing import tiny_models
from mmkit.training import TuneConfig
from mmkit.training.prepare import device_of, frozen_dead, parameter_groups, prepare_model, save_weights

pytestmark = pytest.mark.tiny

VISION_FAMILIES = [family for family in tiny_models.FAMILIES if family != "causal_lm"]
CPU = TuneConfig(device="cpu", lora_r=2)

# One name of each kind of parameter that lies outside of blocks, and one inside; written down by hand.
CLIP = ["embeddings.class_embedding", "embeddings.patch_embedding.weight", "embeddings.position_embedding.weight"]
QWEN_VISION = ["visual.patch_embed.proj.weight", "visual.blocks.1.attn.qkv.weight"]
NAMES: dict[str, dict[str, list[str]]] = {
    "qwen2_vl": {
        "vision": QWEN_VISION,
        "projector": ["visual.merger.ln_q.weight", "visual.merger.mlp.0.weight", "visual.merger.mlp.2.bias"],
        "llm": ["language_model.embed_tokens.weight", "language_model.layers.1.mlp.up_proj.weight"],
    },
    "qwen2_5_vl": {
        "vision": [*QWEN_VISION, "visual.blocks.0.mlp.gate_proj.weight"],
        "projector": ["visual.merger.ln_q.weight", "visual.merger.mlp.0.weight", "visual.merger.mlp.2.bias"],
        "llm": ["language_model.embed_tokens.weight", "language_model.norm.weight"],
    },
    "qwen3_vl": {
        "vision": [*QWEN_VISION, "visual.pos_embed.weight"],
        "projector": [
            *("visual.merger.norm.weight", "visual.merger.linear_fc1.weight", "visual.merger.linear_fc2.bias"),
            *("visual.deepstack_merger_list.0.norm.bias", "visual.deepstack_merger_list.1.linear_fc2.weight"),
        ],
        "llm": ["language_model.embed_tokens.weight", "language_model.layers.0.self_attn.q_norm.weight"],
    },
    "llava": {
        "vision": [*(f"vision_tower.{name}" for name in CLIP), "vision_tower.encoder.layers.0.mlp.fc1.weight"],
        "projector": ["multi_modal_projector.linear_1.weight", "multi_modal_projector.linear_2.bias"],
        "llm": ["language_model.embed_tokens.weight", "lm_head.weight"],
    },
    "llava_next": {
        "vision": [*(f"vision_tower.{name}" for name in CLIP), "vision_tower.pre_layrnorm.bias"],
        "projector": ["multi_modal_projector.linear_1.bias", "image_newline"],
        "llm": ["language_model.norm.weight", "lm_head.weight"],
    },
    "mllama": {
        "vision": [
            *("vision_model.class_embedding", "vision_model.gated_positional_embedding.tile_embedding.weight"),
            *("vision_model.transformer.layers.0.mlp.fc1.weight", "vision_model.global_transformer.layers.0.gate_ffn"),
        ],
        "projector": ["multi_modal_projector.weight", "multi_modal_projector.bias"],
        "llm": ["language_model.layers.1.cross_attn.k_proj.weight", "language_model.layers.1.cross_attn_attn_gate"],
    },
    "idefics3": {
        "vision": ["vision_model.embeddings.patch_embedding.bias", "vision_model.post_layernorm.weight"],
        "projector": ["connector.modality_projection.proj.weight"],
        "llm": ["text_model.embed_tokens.weight", "text_model.layers.0.mlp.down_proj.weight"],
    },
    "smolvlm": {
        "vision": ["vision_model.encoder.layers.1.self_attn.out_proj.bias", "vision_model.post_layernorm.bias"],
        "projector": ["connector.modality_projection.proj.weight"],
        "llm": ["text_model.embed_tokens.weight", "text_model.norm.weight"],
    },
    "causal_lm": {
        "vision": [],
        "projector": [],
        "llm": ["embed_tokens.weight", "layers.0.self_attn.q_proj.weight", "lm_head.weight"],
    },
}
DEAD_LLAVA = r"model\.vision_tower\.(encoder\.layers\.2\..*|post_layernorm\.(weight|bias))"


@pytest.fixture(scope="module")
def net_of(tiny_model: Callable[[str], Path]) -> Callable[..., Any]:
    """The model of a family, prepared for a run with these settings."""

    def prepared(family: str, **settings: Any) -> Any:
        return prepare_model(str(tiny_model(family)), dataclasses.replace(CPU, **settings))

    return prepared


@pytest.fixture(scope="module")
def batch_of(tiny_model: Callable[[str], Path]) -> Callable[[str], dict[str, torch.Tensor]]:
    """A batch with images of several shapes, and a text-only row where the family takes both together."""

    @cache
    def made(family: str) -> dict[str, torch.Tensor]:
        chat = load_chat(str(tiny_model(family)))
        counts = {"causal_lm": (0,), "mllama": (1, 2)}.get(family, (0, 1, 2))
        rows = []
        for count in counts:
            images = [Image.effect_noise((50 + 45 * i, 30 + 25 * i), 90).convert("RGB") for i in range(count)]
            asked = [{"type": "image"}] * count + [{"type": "text", "text": "What is in the image?"}]
            messages = [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": [{"type": "text", "text": "a red circle"}]},
            ]
            rows.append(chat.encode(messages, images))
        return chat.collate(rows, padding_side="right")

    return made


def with_gradient(net: Any, batch: dict[str, torch.Tensor]) -> set[str]:
    """The names of the parameters that a backward pass reaches."""
    net.train()
    net(**batch, use_cache=False).logits.float().log_softmax(-1)[..., 0].sum().backward()
    return {name for name, parameter in net.named_parameters() if parameter.grad is not None}


def marked(net: Any) -> set[str]:
    return {name for name, parameter in net.named_parameters() if parameter.requires_grad}


def inner(name: str) -> str:
    """The name below the model's own prefix."""
    return name.removeprefix("base_model.model.").removeprefix("model.")


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_every_kind_of_parameter_is_of_its_part(family: str, net_of: Callable[..., Any]) -> None:
    net = net_of(family)
    there = {inner(name): name for name, _ in net.named_parameters()}
    for part, names in NAMES[family].items():
        for name in names:
            assert part_of(there[name], net.config.model_type) == part
            for wrapper in ("module.", "base_model.model.", "_fsdp_wrapped_module._checkpoint_wrapped_module."):
                assert part_of(wrapper + there[name], net.config.model_type) == part


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_the_encoder_is_where_the_family_keeps_it_and_the_rest_is_not(family: str, net_of: Callable[..., Any]) -> None:
    net = net_of(family)
    decoder, head = net.get_decoder(), net.get_output_embeddings()
    language = {id(p) for module in (decoder, head) for p in module.parameters()}
    parts: dict[str, set[int]] = {"vision": set(), "projector": set(), "llm": set()}
    for name, parameter in net.named_parameters():
        parts[part_of(name, family)].add(id(parameter))
    assert parts["llm"] == language
    assert parts["vision"] and parts["projector"]


@pytest.mark.parametrize("train", ["full", "llm", "projector", "llm+projector", "lora"])
@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_exactly_what_is_marked_gets_a_gradient(
    family: str, train: str, net_of: Callable[..., Any], batch_of: Callable[[str], Any]
) -> None:
    net = net_of(family, train=train)
    reached = with_gradient(net, batch_of(family))
    assert reached == marked(net)
    parts = {part_of(name, family) for name in reached}
    assert parts == {"full": {"vision", "projector", "llm"}, "lora": {"llm"}}.get(train, set(train.split("+")))
    of_parts = {name for name, _ in net.named_parameters() if part_of(name, family) in parts}
    if train == "lora":
        assert reached == {name for name in of_parts if ".lora_" in name}
    else:
        dead = set(dead_parameters(net)) if train == "full" else set()
        assert reached == of_parts - dead


def test_a_text_model_is_all_language_model(net_of: Callable[..., Any], batch_of: Callable[[str], Any]) -> None:
    for train in ("full", "llm"):
        net = net_of("causal_lm", train=train)
        assert with_gradient(net, batch_of("causal_lm")) == marked(net) == {n for n, _ in net.named_parameters()}
    for train in ("projector", "llm+projector"):
        with pytest.raises(UsageError, match=re.escape(f"--train {train}: llama is a text model and has no projector")):
            net_of("causal_lm", train=train)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_what_no_loss_reaches_is_frozen_and_named(
    family: str, net_of: Callable[..., Any], batch_of: Callable[[str], Any], tiny_model: Callable[[str], Path]
) -> None:
    """The probe that the rule stands on: with everything trained, these and no others are left without a gradient."""
    net = load_model(str(tiny_model(family)), device="cpu", dtype=torch.float32).requires_grad_(True)
    unreached = marked(net) - with_gradient(net, batch_of(family))
    assert unreached == set(dead_parameters(net))
    assert len(unreached) == (18 if family.startswith("llava") else 0)
    assert all(re.fullmatch(DEAD_LLAVA, name) for name in unreached)
    assert set(frozen_dead(net, CPU)) == unreached
    assert frozen_dead(net, dataclasses.replace(CPU, train="llm+projector")) == []
    assert unreached.isdisjoint(marked(net_of(family)))


@pytest.mark.parametrize(("layer", "num_dead"), [(-1, 0), (-2, 1), (1, 2), ([1, -3], 2), ([0, -1], 0)])
def test_layers_are_dead_behind_the_one_that_features_come_from(
    layer: int | list[int], num_dead: int, tiny_model: Callable[[str], Path]
) -> None:
    net = load_model(str(tiny_model("llava")))
    net.config.vision_feature_layer = layer
    dead = {name.split(".")[4] for name in dead_parameters(net) if ".layers." in name}
    assert dead == {str(number) for number in range(3 - num_dead, 3)}
    assert "model.vision_tower.post_layernorm.weight" in dead_parameters(net)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_adapters_on_all_linear_layers_reach_every_part_but_no_head_and_nothing_dead(
    family: str, net_of: Callable[..., Any], batch_of: Callable[[str], Any]
) -> None:
    net = net_of(family, train="lora", lora_targets="all")
    reached = with_gradient(net, batch_of(family))
    assert reached == marked(net) and all(".lora_" in name for name in reached)
    adapted = {name.split(".lora_")[0] for name in reached}
    plain = net_of(family)
    dead = {f"base_model.model.{name.rpartition('.')[0]}" for name in dead_parameters(plain)}
    linear = {f"base_model.model.{n}" for n, module in plain.named_modules() if isinstance(module, torch.nn.Linear)}
    assert adapted == linear - dead - {"base_model.model.lm_head"}
    assert frozen_dead(net, dataclasses.replace(CPU, train="lora")) == []
    if family != "causal_lm":
        assert {part_of(name, family) for name in reached} == {"vision", "projector", "llm"}


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_adapters_stand_on_the_named_layers_of_the_language_model(family: str, net_of: Callable[..., Any]) -> None:
    net = net_of(family, train="lora", lora_targets="q_proj, v_proj")
    layers = {inner(name).split(".lora_")[0] for name in marked(net)}
    assert {name.rpartition(".")[2] for name in layers} == {"q_proj", "v_proj"} and len(layers) == 2 * 2
    assert all(part_of(name, family) == "llm" for name in layers)


@pytest.mark.parametrize("targets", ["qkv", "q_proj,qkv", "fc1", ""])
def test_a_target_that_is_not_there_is_a_mistake(targets: str, net_of: Callable[..., Any]) -> None:
    there = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    with pytest.raises(UsageError, match=f"is called '{targets.rpartition(',')[2]}'; there are {there} "):
        net_of("qwen2_vl", train="lora", lora_targets=targets)


def test_each_part_has_its_rate_and_only_matrices_decay(net_of: Callable[..., Any]) -> None:
    settings = {"lr": 1e-5, "lr_vision": 2e-6, "lr_projector": 1e-3, "weight_decay": 0.1}
    net = net_of("llava", **settings)
    groups = parameter_groups(net, dataclasses.replace(CPU, **settings))  # type: ignore[arg-type]
    assert [(group["name"], group["lr"], group["weight_decay"]) for group in groups] == [
        ("llm", 1e-5, 0.1),
        ("llm, not decayed", 1e-5, 0.0),
        ("projector", 1e-3, 0.1),
        ("projector, not decayed", 1e-3, 0.0),
        ("vision", 2e-6, 0.1),
        ("vision, not decayed", 2e-6, 0.0),
    ]
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    listed = [names[id(parameter)] for group in groups for parameter in group["params"]]
    assert len(listed) == len(set(listed)) and set(listed) == marked(net)
    for group in groups:
        assert all((parameter.dim() >= 2) == (group["weight_decay"] > 0) for parameter in group["params"])
    torch.optim.AdamW(groups)


def test_parts_without_a_rate_of_their_own_take_the_common_one_and_empty_groups_are_left_out(
    net_of: Callable[..., Any],
) -> None:
    config = dataclasses.replace(CPU, train="projector", weight_decay=0.1)
    groups = parameter_groups(net_of("mllama", train="projector"), config)
    assert [(group["name"], group["lr"]) for group in groups] == [("projector", 1e-5), ("projector, not decayed", 1e-5)]


def test_adapters_on_the_encoder_count_as_vision(net_of: Callable[..., Any]) -> None:
    settings: dict[str, Any] = {"train": "lora", "lora_targets": "all", "lr_vision": 1e-6}
    groups = parameter_groups(net_of("qwen3_vl", **settings), dataclasses.replace(CPU, **settings))
    assert [(group["name"], group["lr"]) for group in groups] == [("llm", 1e-5), ("projector", 1e-5), ("vision", 1e-6)]


@pytest.mark.parametrize("train", ["full", "llm", "projector", "llm+projector", "lora"])
@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_in_bfloat16_the_trained_parts_stay_in_float32_and_the_model_runs(
    family: str, train: str, net_of: Callable[..., Any], batch_of: Callable[[str], Any]
) -> None:
    net = net_of(family, train=train, dtype="bfloat16")
    trained = {part_of(name, family) for name in marked(net)}
    if family == "smolvlm" and "llm" in trained and train != "lora":
        trained = {"vision", "projector", "llm"}  # its image features must have the language model's dtype
    for name, parameter in net.named_parameters():
        kept = parameter.requires_grad if train == "lora" else part_of(name, family) in trained
        assert parameter.dtype == (torch.float32 if kept else torch.bfloat16), name
    angles = [buffer for name, buffer in net.named_buffers() if "inv_freq" in name]
    assert all(buffer.dtype == torch.float32 for buffer in angles)
    with torch.autocast("cpu", torch.bfloat16):
        assert with_gradient(net, batch_of(family)) == marked(net)


def test_a_frozen_part_is_saved_as_it_was(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """From a checkpoint in bfloat16, as published ones are, a run in bfloat16 gives back what it did not train."""
    config = dataclasses.replace(CPU, train="projector", dtype="bfloat16")
    base = tmp_path / "base"
    load_model(str(tiny_model("llava")), dtype=torch.bfloat16).save_pretrained(base)
    net = prepare_model(str(base), config)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.5 * parameter.requires_grad)
    save_weights(net, tmp_path / "tuned", str(base), config)
    before, after = (load_model(str(folder)).state_dict() for folder in (base, tmp_path / "tuned"))
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert moved == {name for name in before if "multi_modal_projector" in name}


def test_a_family_whose_parts_are_unknown_is_trained_as_one(
    tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(tiny_model("idefics3"))
    monkeypatch.delitem(VISION_ENCODERS, "idefics3")
    net = prepare_model(model, CPU)
    assert marked(net) == {name for name, _ in net.named_parameters()}
    for settings in ({"train": "llm"}, {"lr_vision": 1e-6}, {"lr_projector": 1e-6}):
        with pytest.raises(UnavailableError, match="does not know which parameters of idefics3"):
            prepare_model(model, dataclasses.replace(CPU, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(("rank", "expected"), [(None, "cuda:0"), ("1", "cuda:1")])
def test_each_process_of_a_node_has_its_own_gpu(
    rank: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert str(device_of(TuneConfig())) == expected
    assert str(device_of(CPU)) == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match="2 GPUs are visible here, too few for process number 3"):
        device_of(TuneConfig())


def test_without_a_gpu_a_run_is_on_the_cpu_unless_one_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(TuneConfig()) == torch.device("cpu")
    with pytest.raises(UnavailableError, match="no CUDA device"):
        device_of(TuneConfig(device="cuda"))
