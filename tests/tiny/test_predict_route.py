"""Each record by its group's adapter, as that answers alone: one model is loaded, and no adapter leaves a trace."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmkit.engines import Choice, Reply, Request, Sampling
from mmkit.engines.exchange import ask as ask_engine
from mmkit.engines.transformers import TransformersEngine
from mmkit.errors import DataError, MissingInputError
from mmkit.evaluation.predict import predict
from mmkit.images import load
from mmkit.streams import Kept, Row

pytestmark = pytest.mark.tiny

TASKS = ("digits", "maps", "jokes")
GROUPS = ("redundancy", "uniqueness", "synergy")
CHOICES = ("yes", "no", "a red circle")
LAYERS = r".*language_model.*\.({})"
FORMS = ((4, "q_proj|v_proj|o_proj|down_proj"), (4, "q_proj|v_proj|o_proj|down_proj"), (8, "k_proj|gate_proj|o_proj"))
"""Rank and layers of the three adapters: two alike, one of another rank on other layers."""


@dataclass(frozen=True)
class Tuned:
    """A model and its adapters, one a group."""

    model: str
    adapters: tuple[str, ...]


def make_adapter(model: Path, folder: Path, rank: int, layers: str, seed: int) -> str:
    """A LoRA adapter with weights that change the model's answers, as after training."""
    import torch
    from peft import LoraConfig, get_peft_model

    from mmkit.models.loading import load_model

    config = LoraConfig(r=rank, lora_alpha=8 * rank, target_modules=LAYERS.format(layers))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        net = get_peft_model(load_model(str(model)), config)
        for name, weight in net.named_parameters():
            if "lora_B" in name:  # 0 until it is trained
                weight.normal_(0, 0.2)
    net.peft_config["default"].base_model_name_or_path = str(model)
    net.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tuned(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tuned]:
    made: dict[str, Tuned] = {}

    def of(family: str) -> Tuned:
        if family not in made:
            folder, model = tmp_path_factory.mktemp(family), tiny_model(family)
            names = [
                make_adapter(model, folder / group, rank, layers, seed)
                for seed, (group, (rank, layers)) in enumerate(zip(GROUPS, FORMS, strict=True))
            ]
            made[family] = Tuned(str(model), tuple(names))
        return made[family]

    return of


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(4):
        Image.new("RGB", (32 + 16 * (number % 2), 32), (number * 60, 200 - number * 50, 90)).save(
            folder / f"{number}.png"
        )
    return folder


def ask(number: int, adapter: str, pictures: Path) -> Request:
    """Rows of different length; every third without an image."""
    images = [] if number % 3 == 2 else [load({"path": f"{number % 4}.png"}, str(pictures))]
    text = {"type": "text", "text": "What is in the image? " * (1 + number % 4)}
    messages = [{"role": "user", "content": [{"type": "image"}] * len(images) + [text]}]
    return Request(f"r{number}", number, messages, images, sampling=Sampling(max_new_tokens=8), adapter=adapter)


def mixed(tuned: Tuned, pictures: Path, count: int = 16) -> list[Request]:
    """Requests to all adapters and to the model itself, in turn."""
    names = ("", *tuned.adapters)
    return [ask(number, names[number % len(names)], pictures) for number in range(count)]


def alone(tuned: Tuned, requests: Sequence[Request]) -> list[Reply]:
    """What an engine with one adapter, merged into the model, replies to each of them."""
    found: dict[str, Reply] = {}
    for adapter in dict.fromkeys(request.adapter for request in requests):
        engine = TransformersEngine(tuned.model, adapter=adapter or None)
        own = [replace(request, adapter="") for request in requests if request.adapter == adapter]
        found |= {reply.id: reply for reply in engine.generate(own)}
    return [found[request.id] for request in requests]


@pytest.mark.parametrize("family", ["qwen2_vl", "llava"])
def test_each_adapter_answers_as_it_does_alone(family: str, tuned: Callable[[str], Tuned], pictures: Path) -> None:
    one = tuned(family)
    requests = mixed(one, pictures)
    replies = list(TransformersEngine(one.model, adapters=one.adapters).generate(requests))
    assert replies == alone(one, requests)
    same = [replace(requests[0], id=name, adapter=name) for name in ("", *one.adapters)]
    texts = [reply.text for reply in TransformersEngine(one.model, adapters=one.adapters).generate(same)]
    assert len(set(texts)) == len(texts), "the adapters answer alike: the test shows nothing"


def test_neither_order_nor_batches_nor_windows_change_a_reply(tuned: Callable[[str], Tuned], pictures: Path) -> None:
    one = tuned("qwen2_vl")
    requests = mixed(one, pictures)
    expected = {reply.id: reply for reply in TransformersEngine(one.model, adapters=one.adapters).generate(requests)}
    backwards = [replace(request, position=place) for place, request in enumerate(reversed(requests))]
    for options, asked in (({"window": 5}, requests), ({"max_batch_tokens": 60}, requests), ({}, backwards)):
        engine = TransformersEngine(one.model, adapters=tuple(reversed(one.adapters)), **options)
        replies = list(engine.generate(asked))
        assert [reply.id for reply in replies] == [request.id for request in asked]
        assert all(reply == expected[reply.id] for reply in replies), options


def test_a_switch_leaves_nothing_behind(tuned: Callable[[str], Tuned], pictures: Path) -> None:
    import torch

    one = tuned("qwen2_vl")
    first, second, third = one.adapters
    engine = TransformersEngine(one.model, adapters=one.adapters)
    model = engine._load().model
    weights = {name: weight.clone() for name, weight in model.named_parameters()}

    def log_probs(adapter: str) -> Choice:
        (choice,) = engine.choose([ask(0, adapter, pictures)], CHOICES)
        return choice

    (plain,) = TransformersEngine(one.model).choose([ask(0, "", pictures)], CHOICES)
    before = {adapter: log_probs(adapter) for adapter in ("", *one.adapters)}
    assert before[""] == plain, "to the bit"
    assert len({choice.best for choice in before.values()} | {str(choice) for choice in before.values()}) > 4
    for adapter in (third, "", first, second, first, "", third, second, ""):
        assert log_probs(adapter) == before[adapter], "to the bit"
    assert all(torch.equal(weight, weights[name]) for name, weight in model.named_parameters())


def test_a_prefix_that_rows_share_is_each_adapters_own(tuned: Callable[[str], Tuned]) -> None:
    one = tuned("qwen2_vl")
    names = ("", *one.adapters)
    prefix = "Which colour is the square? blue. Is it a word? yes.\n" * 2
    requests = [
        Request(f"r{n}", n, prompt="What is in the image? " * (1 + n % 3), shared_prefix=prefix, adapter=names[n % 4])
        for n in range(12)
    ]
    found = list(TransformersEngine(one.model, adapters=one.adapters, window=6).choose(requests, CHOICES))
    for name in names:
        own = [n for n, request in enumerate(requests) if request.adapter == name]
        engine = TransformersEngine(one.model, adapter=name or None)
        expected = engine.choose([replace(requests[n], adapter="") for n in own], CHOICES)
        for n, choice in zip(own, expected, strict=True):
            assert found[n].log_probs == pytest.approx(choice.log_probs, abs=1e-4)


def test_the_model_is_loaded_once(
    tuned: Callable[[str], Tuned], pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = count_loads(monkeypatch)
    one = tuned("qwen2_vl")
    engine = TransformersEngine(one.model, adapters=one.adapters, window=4)
    list(engine.generate(mixed(one, pictures, 8)))
    list(engine.choose(mixed(one, pictures, 8), CHOICES))
    assert loads == [one.model]


def count_loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that gets the name of each model whose weights are read from now on."""
    from transformers import AutoModelForImageTextToText

    loads: list[str] = []
    read = AutoModelForImageTextToText.from_pretrained

    def from_pretrained(name: str, *arguments: Any, **options: Any) -> Any:
        loads.append(name)
        return read(name, *arguments, **options)

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", from_pretrained)
    return loads


# --- adapters that cannot be switched to


def edited(adapter: str, folder: Path, **settings: Any) -> str:
    """A copy of an adapter with other settings."""
    import shutil

    shutil.copytree(adapter, folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return str(folder)


def test_what_is_no_lora_of_the_model_is_said_when_the_engine_is_made(
    tuned: Callable[[str], Tuned], tmp_path: Path
) -> None:
    one, other = tuned("qwen2_vl"), tuned("llava")

    def refused(adapter: str) -> str:
        with pytest.raises((DataError, MissingInputError)) as error:
            TransformersEngine(one.model, adapters=[one.adapters[0], adapter])
        return str(error.value)

    assert refused(str(tmp_path / "gone")).endswith("gone': no such directory")
    assert "it has no adapter_config.json" in refused(one.model)
    assert f"was trained on {other.model}, not on {one.model}" in refused(other.adapters[0])
    mixture = edited(one.adapters[0], tmp_path / "mixture", peft_type="MMKIT_MIXLORA")
    assert "is no LoRA adapter (peft_type 'MMKIT_MIXLORA')" in refused(mixture)
    biased = edited(one.adapters[0], tmp_path / "biased", bias="lora_only")
    assert "brings biases for the model (bias 'lora_only'), which cannot be switched off" in refused(biased)
    (tmp_path / "mixture" / "adapter_model.safetensors").unlink()
    assert "has no weights" in refused(edited(mixture, tmp_path / "empty", peft_type="LORA"))
    # A base that is not here any more tells nothing: the run may be on another machine.
    moved = edited(one.adapters[0], tmp_path / "moved", base_model_name_or_path="/somewhere/else/base")
    TransformersEngine(one.model, adapters=[moved])


def test_an_adapter_that_does_not_fit_is_said_before_the_model_is_read(
    tuned: Callable[[str], Tuned], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmkit.testing import tiny_models

    one = tuned("qwen2_vl")
    tiny_models.build("qwen2_vl", tmp_path / "narrow", corpus=["a red circle"] * 9, hidden_size=32)
    tiny_models.build("qwen2_vl", tmp_path / "shallow", corpus=["a red circle"] * 9, hidden_size=64, num_layers=1)
    loads = count_loads(monkeypatch)
    for model, why in (("narrow", "size mismatch for .*q_proj"), ("shallow", "no counterpart of .*layers.1.*others")):
        own = edited(one.adapters[1], tmp_path / f"{model}-own", base_model_name_or_path=str(tmp_path / model))
        engine = TransformersEngine(str(tmp_path / model), adapters=[own])
        with pytest.raises(DataError, match=f"{model}-own does not fit the model: {why}"):
            list(engine.generate([ask(0, own, pictures)]))
    assert loads == []


def test_nothing_goes_on_top_of_a_mixture_of_lora(tuned: Callable[[str], Tuned]) -> None:
    from mmkit.models.adapters import SwitchedAdapters
    from mmkit.models.loading import load_model
    from mmkit.models.mixlora import Mixture, attach

    one = tuned("qwen2_vl")
    model = load_model(one.model)
    attach(model, Mixture(LAYERS.format("q_proj"), experts=2, r=2, lora_alpha=4, lora_dropout=0.0), trained=False)
    with pytest.raises(DataError, match="no adapter goes on top of it"):
        SwitchedAdapters(model, one.adapters)


def test_an_adapter_that_the_engine_was_not_opened_with_is_that_rows_error(
    tuned: Callable[[str], Tuned], pictures: Path
) -> None:
    one = tuned("qwen2_vl")
    first, second, _ = one.adapters
    asked = [ask(0, first, pictures), ask(1, second, pictures)]
    good, bad = TransformersEngine(one.model, adapters=[first]).generate(asked)
    assert good.error is None and "was opened without the adapter" in str(bad.error)
    (bad,) = TransformersEngine(one.model, adapter=first).generate([ask(1, second, pictures)])
    assert "it has: none" in str(bad.error)


# --- the command

MMKIT = "import sys; sys.argv[0] = 'mmkit'; from mmkit.cli.main import main; main()"
DYING = """
import os, signal
from mmkit.models.adapters import SwitchedAdapters
from mmkit.streams import run
run._CHECKPOINT_EVERY_S = 0.0
use, switches = SwitchedAdapters.use, []
def dying(self, name):
    switches.append(name)
    if len(switches) == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    use(self, name)
SwitchedAdapters.use = dying
"""


@pytest.fixture
def job(
    tuned: Callable[[str], Tuned], pictures: Path, tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `mmkit predict` on rows.jsonl, 18 rows of three tasks in turn, in a folder of its own."""
    rows = [
        {"id": f"r{n}", "task": TASKS[n % 3], "question": "What is in the image? " * (1 + n % 4)}
        | ({"images": [{"path": str(pictures / f"{n % 4}.png")}]} if n % 5 else {})
        for n in range(18)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    groups = zip(TASKS, GROUPS, strict=True)
    (tmp_path / "groups.jsonl").write_text("".join(json.dumps({"task": t, "group": g}) + "\n" for t, g in groups))
    model = tuned("qwen2_vl").model

    def run(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", before + MMKIT, "predict", *arguments, "--model", model]
        return subprocess.run(
            [*command, "--device", "cpu", "--max-new-tokens", "8"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def test_routed_rows_are_those_of_a_run_for_each_group(
    job: Callable[..., subprocess.CompletedProcess[str]], tuned: Callable[[str], Tuned], tmp_path: Path
) -> None:
    one = tuned("qwen2_vl")
    given = ",".join(f"{group}={name}" for group, name in zip(GROUPS, one.adapters, strict=True))
    done = job("rows.jsonl", "--route", "groups.jsonl", "--adapters", given)
    assert done.returncode == 0, done.stderr
    routed = [json.loads(line) for line in done.stdout.splitlines()]
    single: dict[str, str] = {}
    inquiry = predict(one.model, sampling=Sampling(max_new_tokens=8))
    for task, adapter in zip(TASKS, one.adapters, strict=True):
        records = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
        rows = [Row(record, n, "rows.jsonl", n + 1) for n, record in enumerate(records) if record["task"] == task]
        for outcome in ask_engine(TransformersEngine(one.model, adapter=adapter), inquiry)(iter(rows)):
            assert isinstance(outcome, Kept)
            single[outcome.row.record["id"]] = outcome.row.record["prediction"]
    assert {row["id"]: row["prediction"] for row in routed} == single
    assert [row["id"] for row in routed] == [f"r{n}" for n in range(18)]
    assert [row["lineage"][-1]["adapter"] for row in routed] == [one.adapters[n % 3] for n in range(18)]


def test_a_routed_run_that_was_killed_goes_on_to_the_same_bytes(
    job: Callable[..., subprocess.CompletedProcess[str]], tuned: Callable[[str], Tuned], tmp_path: Path
) -> None:
    first, second, _ = tuned("qwen2_vl").adapters
    words = ("rows.jsonl", "--route", "groups.jsonl", "--window", "4")
    given = ("--adapters", f"redundancy={first},uniqueness={second}", "--adapters", "other=base")
    assert job(*words, *given, "-o", "whole.jsonl").returncode == 0
    killed = job(*words, *given, "-o", "killed.jsonl", before=DYING)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    journal = [json.loads(line) for line in (tmp_path / "killed.jsonl.journal").read_text().splitlines()]
    assert 0 < journal[-1]["position"] < 18, "the kill came too early, or too late, to show anything"
    groups = (tmp_path / "groups.jsonl").read_text()
    (tmp_path / "groups.jsonl").write_text(groups.replace("uniqueness", "redundancy"))
    other = job(*words, "--adapters", f"redundancy={first},other=base", "-o", "killed.jsonl")
    assert other.returncode == 2 and "belongs to an unfinished run with" in other.stderr
    (tmp_path / "groups.jsonl").write_text(groups)
    assert job(*words, *given, "-o", "killed.jsonl").returncode == 0
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
