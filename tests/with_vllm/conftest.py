"""Tiny models that vLLM loads and one real server for all tests; `make test-vllm` runs them in an own environment."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vllm_kit import COLOURS, CORPUS, IN_PROCESS, TOO_LONG, Server, lines, mmkit, vllm_serve

if importlib.util.find_spec("vllm") is None:
    raise pytest.UsageError("vLLM is not installed here: these tests are for `make test-vllm`")
os.environ.update(IN_PROCESS)  # before anything imports torch or vllm

StartServer = Callable[..., Server]


def pytest_configure(config: pytest.Config) -> None:
    """What vLLM itself does that warns is not ours to mend; what mmkit does stays an error."""
    config.addinivalue_line("filterwarnings", r"ignore:::vllm\.")
    config.addinivalue_line("filterwarnings", "ignore:max_rollback_tokens is deprecated:DeprecationWarning:xgrammar")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here is about servers on the loopback, or about vLLM in this process, which talks to itself there."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.loopback)
            item.add_marker(pytest.mark.enable_socket)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of the tiny model of a family, for transformers and vLLM alike."""
    import torch

    from mmkit.testing import tiny_models

    torch.set_num_threads(1)
    built: dict[str, Path] = {}

    def of(family: str) -> Path:
        if family not in built:
            built[family] = tmp_path_factory.mktemp("tiny") / family
            tiny_models.build(family, built[family], corpus=CORPUS)
        return built[family]

    return of


@pytest.fixture(scope="session")
def adapter(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter for the language model of the tiny qwen2_vl, with weights that change its answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(tiny_model("qwen2_vl"), dtype=torch.float32)
    config = LoraConfig(r=8, lora_alpha=64, target_modules=r".*language_model.*\.(q_proj|v_proj|o_proj|down_proj)")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        tuned = get_peft_model(model, config)
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:  # 0 until it is trained
                weight.normal_(0, 0.2)
    path = tmp_path_factory.mktemp("adapter")
    tuned.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def start_server(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Starts `vllm serve` of a family's tiny model with further arguments. Call `wait()` before the first request:
    several start side by side. All end with the session."""
    started: list[Server] = []

    def start(family: str, *arguments: str, port: int | None = None) -> Server:
        log = tmp_path_factory.mktemp("server") / "log"
        started.append(Server(vllm_serve(tiny_model(family), *arguments), log, port=port))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="session")
def vllm_server(start_server: StartServer, adapter: Path) -> Server:
    """One `vllm serve` of the tiny qwen2_vl in float32, with the adapter under the name `tuned`."""
    lora = ("--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"tuned={adapter}")
    return start_server("qwen2_vl", *lora).wait()


@pytest.fixture(scope="session")
def synthesizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three pages and a row whose text is too long, in rows.jsonl, and `syn`, a model that has learnt to
    write a task about each page."""
    from PIL import Image

    from mmkit.testing import tiny_models

    folder = tmp_path_factory.mktemp("synthesizer")
    rows = []
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (48, 48), colour).save(folder / f"{colour}.png")
        task = {"question": "what colour?", "answer": colour, "rationale": f"the page is {colour} all over."}
        rows.append({"id": f"p{number}", "image": f"{colour}.png", "caption": f"a {colour} page", **task})
    long = {**rows[1], "id": "too long", "caption": TOO_LONG, "question": TOO_LONG, "rationale": TOO_LONG}
    (folder / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [rows[0], long, *rows[1:]]))
    (folder / "train.jsonl").write_text(mmkit(folder, "compose", "pages.jsonl", "--stage", "synthesizer"))
    turns = [turn for row in lines(folder / "train.jsonl") for turn in row["messages"]]
    corpus = [part["text"] for turn in turns for part in turn["content"] if "text" in part]
    tiny_models.build("qwen2_vl", folder / "init", corpus=corpus, tokenizer="words")
    tuning = ("--max-steps", "60", "--lr", "3e-3", "--batch-size", "3", "--min-lr-ratio", ".1", "--threads", "1")
    mmkit(folder, "finetune", "train.jsonl", "--model", "init", "-o", "syn", *tuning)
    return folder
