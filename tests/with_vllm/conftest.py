"""Tiny models that vLLM loads and one real server for all tests; `make test-vllm` runs them in an own environment."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vllm_kit import CORPUS, IN_PROCESS, Server, vllm_serve

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
            if family == "llava":
                _name_vision_as_the_hub_does(built[family])
        return built[family]

    return of


def _name_vision_as_the_hub_does(directory: Path) -> None:
    """vLLM reads a LLaVA only under the names of the published ones; transformers writes shorter ones, reads both."""
    from safetensors.torch import load_file, save_file

    path = directory / "model.safetensors"
    weights = load_file(path)
    short, long = "vision_tower.", "vision_tower.vision_model."
    renamed = {name if name.startswith(long) else name.replace(short, long): weights[name] for name in weights}
    save_file(renamed, path, metadata={"format": "pt"})


@pytest.fixture(scope="session")
def adapter(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter for the language model of the tiny qwen2_vl, with weights that change its answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(tiny_model("qwen2_vl"), dtype=torch.float32)
    config = LoraConfig(r=8, lora_alpha=64, target_modules=r".*language_model.*\.(q_proj|v_proj|o_proj|down_proj)")
    tuned = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.2, generator=generator)
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
