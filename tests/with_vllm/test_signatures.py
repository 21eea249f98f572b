"""The releases of vLLM that mmkit names have what it uses: 0.32 as it is installed here, 0.33 from its wheel."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from signatures import USED, differences

from mmkit.engines.vllm.backend import VERSIONS

SOURCES = sorted((Path(__file__).parents[2] / "src" / "mmkit").rglob("*.py"))
WORDS = {word for uses in USED.values() for use in uses for word in re.findall(r"\w+", use)}
WHEELS = Path(sys.prefix) / "wheels"


def place_of(version: str) -> Path:
    """Where the sources of a release are: installed, or in the wheel that `make test-vllm` has fetched."""
    spec = find_spec("vllm")
    assert spec is not None and spec.origin is not None
    if version == "0.32":
        return Path(spec.origin).parents[1]
    (wheel,) = WHEELS.glob(f"vllm-{version}.*.whl")
    return wheel


@pytest.mark.parametrize("version", VERSIONS)
def test_a_release_that_mmkit_names_has_what_it_uses(version: str) -> None:
    assert differences(place_of(version)) == []


def test_the_table_knows_all_that_mmkit_imports_from_vllm() -> None:
    imported = {(name, path.name) for path in SOURCES for name in imports_from_vllm(path)}
    assert imported
    assert {(name, path) for name, path in imported if name not in WORDS} == set()


def test_the_table_knows_all_parameters_that_mmkit_gives() -> None:
    given = {word for path in SOURCES for word in keywords(path, {"SamplingParams", "EngineArgs", "add_request"})}
    assert {"max_tokens", "model", "lora_request"} <= given
    assert given - WORDS == set()


def test_vllm_knows_the_environment_variables_that_mmkit_sets() -> None:
    constants = {
        node.value
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch("VLLM_[A-Z0-9_]+", node.value)
    }
    assert constants
    assert constants - WORDS == set()


def imports_from_vllm(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm" and not node.level:
            yield from (each.name for each in node.names)


def keywords(path: Path, functions: set[str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in functions:
            yield from (each.arg for each in node.keywords if each.arg is not None)


# --- the checker itself


def changed(tmp_path: Path, module: str, old: str, new: str) -> list[str]:
    """What is said about 0.32 where one of its modules is changed."""
    for name in USED:
        source = place_of("0.32") / name.replace(".", "/")
        source = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
        copy = tmp_path / source.relative_to(place_of("0.32"))
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text()
        if name == module:
            assert old in text
            text = text.replace(old, new)
        copy.write_text(text)
    return differences(tmp_path)


@pytest.mark.parametrize(
    ("module", "old", "new", "problem"),
    [
        ("vllm.outputs", "    token_ids: ", "    tokens: ", "CompletionOutput.token_ids is missing"),
        ("vllm.sampling_params", "    top_p: float", "    nucleus: float", "SamplingParams has no top_p"),
        (
            "vllm.v1.engine.llm_engine",
            "        request_id: str,\n        prompt:",
            "        key: int,\n        request_id: str,\n        prompt:",
            "LLMEngine.add_request begins with ['key', 'request_id', 'prompt'], not ['request_id', 'prompt', 'params']",
        ),
        (
            "vllm.lora.request",
            '    lora_path: str = ""\n',
            '    lora_path: str = ""\n    rank: int\n',
            "LoRARequest must be given rank",
        ),
        ("vllm.v1.engine.llm_engine", "def step(", "def advance(", "LLMEngine.step is missing"),
        ("vllm.envs", "VLLM_LOGGING_LEVEL", "VLLM_LEVEL", "VLLM_LOGGING_LEVEL is missing"),
    ],
)
def test_a_change_is_named(tmp_path: Path, module: str, old: str, new: str, problem: str) -> None:
    assert f"{module}: {problem}" in changed(tmp_path, module, old, new)
