"""A mixture of LoRA is what its formula says, for each row by itself; with one expert it is LoRA; and what was trained
is what answers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from training_kit import CONFIG, base, one_batch, pictures, samples, turn

from mmkit.engines import Request, Sampling
from mmkit.engines.transformers import TransformersEngine
from mmkit.errors import DataError, UsageError
from mmkit.models import mixlora
from mmkit.models.loading import load_chat, load_model
from mmkit.models.mixlora import GatedFactors, Mixture, conditioned
from mmkit.testing import tiny_models
from mmkit.training import Sample, TuneConfig
from mmkit.training.finetune import finetune
from mmkit.training.flops import Flops
from mmkit.training.prepare import lora_targets, prepare_model
from mmkit.training.ranks import Ranks

pytestmark = pytest.mark.tiny
__all__ = ["base", "pictures", "samples"]  # fixtures

MIXTURE = dataclasses.replace(CONFIG, train="mixlora", experts=3, lora_r=2, lora_alpha=4.0)
QUESTIONS = ("What is in the image?", "Which colour is the square? Answer in a few words: two or three.", "yes?")


def conversations(chat: Any, *, open_turn: str | None = None, answer: str = "a red circle") -> list[Any]:
    """Encoded rows of one family: different questions and lengths, none to two images of different sizes."""
    # In mllama, tokens before an image look at the padding of rows with fewer images.
    counts = (0, 0, 0) if chat.processor is None else (2, 2, 2) if chat.family == "mllama" else (0, 1, 2)
    rows = []
    for question, count in zip(QUESTIONS, counts, strict=True):
        images = [Image.effect_noise((50 + 45 * i, 30 + 25 * i), 90).convert("RGB") for i in range(count)]
        asked = {"role": "user", "content": [{"type": "image"}] * count + [{"type": "text", "text": question}]}
        messages = [asked] if open_turn else [asked, turn("assistant", answer)]
        rows.append(chat.encode(messages, images, open_turn=open_turn))
    return rows


def mixed(base: str, dtype: torch.dtype = torch.float64) -> Any:
    """A model with a mixture whose experts and gates are random."""
    net = load_model(base, dtype=dtype)
    mixture = Mixture(lora_targets(net), experts=3, r=2, lora_alpha=4.0, lora_dropout=0.0)
    mixlora.attach(net, mixture, trained=True)
    torch.manual_seed(1)
    for name, parameter in net.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter, std=2.0 if name.endswith(".gate") else 0.2)
    return net


def gated(net: Any) -> dict[str, GatedFactors]:
    """The gated factors, by the name of their layer."""
    return {
        name.removesuffix(".lora_A.default"): module
        for name, module in net.named_modules()
        if isinstance(module, GatedFactors)
    }


def z_of(net: Any, text_tokens: Sequence[int]) -> torch.Tensor:
    """The instruction embedding as the documentation has it, written out."""
    mean = sum(net.get_input_embeddings().weight[token].double() for token in text_tokens) / len(text_tokens)
    return mean / mean.square().mean().sqrt()


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_each_row_of_a_batch_is_computed_with_weights_of_its_own(
    family: str, padding_side: Any, tiny_model: Callable[[str], Path]
) -> None:
    """W + α/r Σ_e g_e B_e A_e put into the plain model for each row alone, without padding and neighbours."""
    directory = str(tiny_model(family))
    chat, net = load_chat(directory), mixed(directory)
    rows = conversations(chat)
    batch = chat.collate(rows, padding_side=padding_side)
    with torch.no_grad(), conditioned(net, [row.instruction for row in rows]):
        together = net(**batch, use_cache=False).logits
    weights = {name: tensor for name, tensor in net.state_dict().items() if ".lora_" in name}
    for number, row in enumerate(rows):
        opening = row.input_ids[: row.in_loss.index(True)]
        z = z_of(net, [token for token, image in zip(opening, row.is_image, strict=False) if not image])
        alone = load_model(directory, dtype=torch.float64)
        for name, factors in gated(net).items():
            gates = (factors.gate @ z).softmax(0)
            a = weights[f"{name}.lora_A.default.weight"].view(3, 2, -1)
            b = weights[f"{name}.lora_B.default.weight"].view(-1, 3, 2)
            with torch.no_grad():
                alone.get_submodule(name).weight += 4.0 / 2 * sum(gates[e] * b[:, e] @ a[e] for e in range(3))
        with torch.no_grad():
            expected = alone(**chat.collate([row], padding_side="right"), use_cache=False).logits[0]
        there = batch["attention_mask"][number].bool()
        exact = 1e-9 if padding_side == "right" else 1e-4  # transformers has the angles of positions in float32
        torch.testing.assert_close(together[number][there], expected, rtol=0, atol=exact)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_training_and_generation_see_the_same_instruction(family: str, tiny_model: Callable[[str], Path]) -> None:
    """Neither the answer nor an image is in it, and the question is."""
    chat = load_chat(str(tiny_model(family)))
    trained = [row.instruction for row in conversations(chat)]
    assert trained == [row.instruction for row in conversations(chat, open_turn="assistant")]
    assert trained == [row.instruction for row in conversations(chat, answer="two blue squares, no word more")]
    for question, tokens in zip(QUESTIONS, trained, strict=True):
        text = chat.tokenizer.decode(tokens)
        assert question.split()[0] in text and "circle" not in text
        assert len(tokens) < 60  # an image has more


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("family", ["qwen2_vl", "llava"])
def test_one_expert_is_plain_lora_to_the_bit(
    family: str, dtype: str, samples: list[Sample], tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """Start, gradients, losses and result, through dropout, decay, accumulation and held-out rows. Not through
    clipping, as a norm of more figures, be they zeros, is rounded in other places."""
    plain = dataclasses.replace(MIXTURE, train="lora", dtype=dtype, batch_size=2, accumulation=2, epochs=3, lr=1e-2)
    plain = dataclasses.replace(plain, lora_dropout=0.1, weight_decay=0.1, max_grad_norm=0.0, val_size=0.2)
    model = str(tiny_model(family))
    lora = finetune(samples, model=model, out=tmp_path / "lora", config=plain)
    mixture = dataclasses.replace(plain, train="mixlora", experts=1)
    one = finetune(samples, model=model, out=tmp_path / "one", config=mixture)
    assert one.losses == lora.losses and one.validation == lora.validation
    expected = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    found = load_file(tmp_path / "one" / "adapter_model.safetensors")
    for name, weight in expected.items():
        ours = name.removeprefix("base_model.model.").replace(".weight", ".default.weight")
        assert torch.equal(found.pop(ours), weight), name
    assert found and all(name.endswith(".gate") for name in found)
    merged = load_model(str(tmp_path / "lora"), dtype=getattr(torch, dtype))
    net = load_model(str(tmp_path / "one"), dtype=getattr(torch, dtype))
    batch = one_batch(samples, model)
    with torch.no_grad(), conditioned(net, batch["instructions"]):
        logits = net(**batch["inputs"]).logits
        torch.testing.assert_close(logits, merged(**batch["inputs"]).logits, rtol=1e-4, atol=1e-4)
    three = finetune(samples, model=model, out=tmp_path / "three", config=dataclasses.replace(mixture, experts=3))
    assert three.losses[0] == lora.losses[0] and three.losses[-1] != lora.losses[-1]


def test_it_begins_as_the_base_with_experts_that_count_alike(samples: list[Sample], base: str) -> None:
    net = prepare_model(base, MIXTURE).eval()
    batch = one_batch(samples, base)
    with torch.no_grad(), conditioned(net, batch["instructions"]):
        assert all(torch.equal(layer.gates(), torch.full((8, 3), 1 / 3)) for layer in gated(net).values())
        logits = net(**batch["inputs"]).logits
    with torch.no_grad():
        assert torch.equal(logits, load_model(base)(**batch["inputs"]).logits)
    again, other = prepare_model(base, MIXTURE), prepare_model(base, dataclasses.replace(MIXTURE, seed=1))
    for name, layer in gated(net).items():
        assert torch.equal(layer.weight, gated(again)[name].weight)
        assert not torch.equal(layer.weight, gated(other)[name].weight)
        assert not torch.equal(layer.weight[:2], layer.weight[2:4])


def test_what_is_trained_and_what_it_costs(base: str) -> None:
    """Experts of LoRA stacked, and a gate of (experts × width) in each layer, whose work is once a row."""
    net, lora = prepare_model(base, MIXTURE), prepare_model(base, dataclasses.replace(MIXTURE, train="lora", lora_r=6))
    width = net.get_input_embeddings().embedding_dim
    trained, plain = (sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (net, lora))
    assert trained == plain + 14 * 3 * width
    assert Flops.of(net, MIXTURE, Ranks()) == Flops.of(lora, MIXTURE, Ranks())


@pytest.fixture(scope="module")
def two_demands(base: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Sample]]:
    """A model in which no token sees another, since what attention finds is multiplied by zero; and two instructions,
    which end in the same token, with opposite demands."""
    blind = tmp_path_factory.mktemp("blind") / "base"
    net = load_model(base)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "language_model" in name and "o_proj" in name:
                parameter.zero_()
    net.save_pretrained(blind)
    load_chat(base).save(blind)
    demands = {"say please": "red", "what is it ?": "blue"}
    rows = [
        Sample(id=f"{asked} {i}", messages=(turn("user", f"{asked} {i}"), turn("assistant", wanted)))
        for asked, wanted in demands.items()
        for i in range(4)
    ]
    return str(blind), rows


def answers(engine: TransformersEngine, rows: Sequence[Sample], tokens: int = 2) -> list[str | None]:
    sampling = Sampling(max_new_tokens=tokens)
    requests = [
        Request(id=row.id, position=i, messages=row.messages[:1], images=row.load_images(), sampling=sampling)
        for i, row in enumerate(rows)
    ]
    return [reply.text for reply in engine.generate(requests)]


def test_two_instructions_that_demand_opposite_things(two_demands: tuple[str, list[Sample]], tmp_path: Path) -> None:
    """LoRA of the same size cannot tell these rows apart and gives all one answer. The gates can, and no two rows of a
    batch are in each other's way, neither in training nor in answering."""
    model, rows = two_demands
    config = dataclasses.replace(MIXTURE, batch_size=4, accumulation=2, lr=1e-2, max_steps=60, lora_targets="down_proj")
    wanted = [row.messages[1]["content"][0]["text"] for row in rows]
    finetune(rows, model=model, out=tmp_path / "lora", config=dataclasses.replace(config, train="lora", lora_r=6))
    assert len(set(answers(TransformersEngine(str(tmp_path / "lora"), device="cpu"), rows))) == 1
    report = finetune(rows, model=model, out=tmp_path / "mixture", config=config)
    assert report.final_loss < 0.1
    for directories in ({"model": str(tmp_path / "mixture")}, {"model": model, "adapter": str(tmp_path / "mixture")}):
        assert answers(TransformersEngine(device="cpu", **directories), rows) == wanted
    chat, net = load_chat(model), load_model(str(tmp_path / "mixture"))
    told = [chat.encode(row.messages[:1], [], open_turn="assistant") for row in (rows[0], rows[-1])]
    with torch.no_grad(), conditioned(net, [row.instruction for row in told]):
        apart = max(float((one - other).abs().max()) for one, other in (layer.gates() for layer in gated(net).values()))
    assert apart > 0.3


@pytest.fixture(scope="module")
def trained(samples: list[Sample], base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture that is far from its start."""
    config = dataclasses.replace(MIXTURE, lr=3e-2, epochs=12, batch_size=4)
    return finetune(samples, model=base, out=tmp_path_factory.mktemp("trained") / "mixture", config=config).out


def test_an_answer_depends_on_its_own_row_only(samples: list[Sample], trained: Path) -> None:
    """Rows with none and one image, one long and many short; in one batch, by two, and alone; generated and chosen."""
    engine = TransformersEngine(str(trained), device="cpu")
    long = dataclasses.replace(
        samples[0], id="long", messages=(turn("user", "say please " * 30), samples[0].messages[1])
    )
    rows = [*samples, long]
    alone = [answers(engine, [row], tokens=8)[0] for row in rows]
    assert len(set(alone)) > 2
    assert answers(engine, rows, tokens=8) == alone
    pairs = TransformersEngine(str(trained), device="cpu", max_batch_rows=2)
    assert answers(pairs, rows, tokens=8) == alone

    def chosen(engine: TransformersEngine, rows: Sequence[Sample]) -> list[Any]:
        requests = [
            Request(id=r.id, position=i, messages=r.messages[:1], images=r.load_images()) for i, r in enumerate(rows)
        ]
        return [choice.log_probs for choice in engine.choose(requests, ["red", "yes yes", "blue"])]

    for one, together in zip((chosen(engine, [row])[0] for row in rows), chosen(engine, rows), strict=True):
        assert together == pytest.approx(one, abs=1e-4)


def test_choices_are_weighed_by_the_prompt_alone(samples: list[Sample], trained: Path) -> None:
    """Against the model's own logits, gated by the instruction of the prompt; raw prompts with a shared prefix too."""
    engine = TransformersEngine(str(trained), device="cpu")
    chat, net = load_chat(str(trained)), load_model(str(trained))
    requests = [
        Request(id=str(i), position=i, prompt=text, shared_prefix="are you sure ? ", messages=(), images=())
        for i, text in enumerate(["say red", "hello 0 1 2 is it"])
    ]
    choices = [" blue", " yes hello 0 1 2 3"]
    for request, choice in zip(requests, engine.choose(requests, choices), strict=True):
        prompt = chat.encode_text(request.shared_prefix + request.prompt)
        for text in choices:
            whole = chat.encode_text(request.shared_prefix + request.prompt + text)
            with torch.no_grad(), conditioned(net, [prompt]):
                logits = net(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
            expected = sum(float(logits[place - 1, whole[place]]) for place in range(len(prompt), len(whole)))
            assert choice.log_probs[text] == pytest.approx(expected, abs=1e-4)


def test_every_step_of_writing_has_the_gates_of_training(
    samples: list[Sample], base: str, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompt and each token that is written behind it, with the cache of keys and values."""
    seen: list[torch.Tensor] = []
    compute = GatedFactors.gates

    def watched(self: GatedFactors) -> torch.Tensor:
        seen.append(compute(self).detach().clone())
        return seen[-1]

    monkeypatch.setattr(GatedFactors, "gates", watched)
    long = turn("user", "hello yes what colour is it please ?", image=True)  # the longer first, as the engine has it
    rows = [dataclasses.replace(samples[1], messages=(long, samples[1].messages[1])), samples[2]]
    net, batch = load_model(str(trained)).train(), one_batch(rows, base)
    with conditioned(net, batch["instructions"]):
        net(**batch["inputs"], use_cache=False)
    in_training = list(seen)
    assert len(in_training) == 14 and not torch.equal(in_training[0][0], in_training[0][1])
    seen.clear()
    answers(TransformersEngine(str(trained), device="cpu"), rows, tokens=5)
    assert len(seen) > 2 * 14 and len(seen) % 14 == 0
    for number, gates in enumerate(seen):
        assert torch.equal(gates, in_training[number % 14])


def test_a_forward_pass_without_instructions_is_no_guess(base: str) -> None:
    net = mixed(base)
    ids = torch.arange(6).view(2, 3)
    with pytest.raises(RuntimeError, match="without the instructions of its rows"):
        net(input_ids=ids)
    with conditioned(net, [[1], [2]]):
        net(input_ids=ids)
    with pytest.raises(RuntimeError, match="without the instructions of its rows"):  # the last batch's are gone
        net(input_ids=ids)
    with conditioned(net, [[1], [2], [3]]), pytest.raises(RuntimeError, match="got 2 rows with 3 instructions"):
        net(input_ids=ids)


def test_a_row_without_an_instruction_has_all_experts_alike(base: str) -> None:
    net = mixed(base, dtype=torch.float32)
    with conditioned(net, [[], [5]]):
        for layer in gated(net).values():
            nothing, something = layer.gates()
            assert torch.equal(nothing, torch.full((3,), 1 / 3)) and not torch.allclose(something, nothing, atol=0.05)


def test_gates_are_of_float32_in_half_precision(trained: Path) -> None:
    """Where training autocasts, and where a model answers in bfloat16."""
    gates = []
    for dtype in (torch.float32, torch.bfloat16):
        net = load_model(str(trained), dtype=dtype)
        net.get_input_embeddings().weight.data = load_model(str(trained)).get_input_embeddings().weight.data.to(dtype)
        with torch.autocast("cpu", torch.bfloat16), conditioned(net, [[5, 6, 7]]):
            gates.append(torch.stack([layer.gates()[0] for layer in gated(net).values()]))
            assert net(input_ids=torch.tensor([[5, 6, 7, 8]])).logits.isfinite().all()
        assert gates[-1].dtype == torch.float32
    torch.testing.assert_close(*gates, rtol=0, atol=0.02)


def test_the_directory_says_what_it_is_and_what_it_stands_on(trained: Path, base: str) -> None:
    from peft import PeftModel

    settings = json.loads((trained / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(Path(base).resolve())
    assert {name: settings[name] for name in ("experts", "r", "lora_alpha")} == {
        "experts": 3,
        "r": 2,
        "lora_alpha": 4.0,
    }
    weights = load_file(trained / "adapter_model.safetensors")
    assert len(weights) == 14 * 3 and {name.rpartition(".lora_")[2] for name in weights} == {
        *("A.default.weight", "A.default.gate", "B.default.weight")
    }
    run = json.loads((trained / "run.json").read_text())
    assert run["trained_parameters"] == sum(weight.numel() for weight in weights.values())
    with pytest.raises((KeyError, ValueError)):  # and not a LoRA whose gates are overlooked
        PeftModel.from_pretrained(load_model(base), str(trained))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "MMKIT_MIXLORA"}'), "does not name"),
        (lambda folder: _set(folder, experts="many"), "does not describe a mixture"),
        (lambda folder: _set(folder, r=3), r"is the adapter of another model: .*lora_.* does not fit"),
        (lambda folder: _set(folder, target_modules="model\\.nothing"), "cannot be loaded"),
        (lambda folder: _without(folder, "gate"), r"is the adapter of another model: .*gate does not fit"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "cannot be loaded"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"torn"), "cannot be loaded"),
    ],
)
def test_a_directory_that_is_not_sound_is_bad_data(
    change: Callable[[Path], object], said: str, trained: Path, tmp_path: Path
) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    load_model(str(tmp_path))
    change(tmp_path)
    with pytest.raises(DataError, match=said):
        load_model(str(tmp_path))


def _set(folder: Path, **settings: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def _without(folder: Path, kind: str) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({name: weight for name, weight in load_file(path).items() if not name.endswith(kind)}, path)


def test_nothing_goes_on_top_of_a_mixture(samples: list[Sample], trained: Path, base: str, tmp_path: Path) -> None:
    for train in ("full", "lora", "mixlora"):
        with pytest.raises(UsageError, match="is a mixture of LoRA, which cannot be merged and tuned further"):
            finetune(
                samples, model=str(trained), out=tmp_path / "out", config=dataclasses.replace(MIXTURE, train=train)
            )
    with pytest.raises(DataError, match="no adapter goes on top of it"):
        load_model(str(trained), adapter=str(trained))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pack": True}, "--train mixlora takes no --pack: it joins rows"),
        ({"merge": True}, "--train mixlora takes no --merge: "),
        ({"lora_targets": "all"}, "--train mixlora takes no --lora-targets all: "),
        ({"experts": 0}, "experts must be at least 1, not 0"),
    ],
)
def test_what_a_mixture_cannot_do_is_said(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TuneConfig(**{"train": "mixlora", **settings})
