"""mmkit doctor: what is said of a vLLM that is missing or unknown, and of options that make no sense."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_kit import ENVIRONMENT, MMKIT, Done

PARITY = ("doctor", "--parity", "--model", "anything")


@pytest.fixture
def with_vllm(tmp_path: Path) -> Callable[..., Done]:
    """Runs a command where a vLLM of that version is installed, as far as pip knows."""

    def run(version: str, *arguments: str) -> Done:
        site = tmp_path / "site"
        (site / "vllm").mkdir(parents=True)
        (site / "vllm" / "__init__.py").write_text("raise ImportError('nobody is to import this')\n")
        about = site / f"vllm-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
        path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [*MMKIT, *arguments],
            capture_output=True,
            cwd=tmp_path,
            env={**ENVIRONMENT, "PYTHONPATH": path},
            timeout=120,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr.decode())

    return run


def states(done: Done) -> dict[str, dict[str, Any]]:
    return {row["what"]: row for row in done.rows()}


@pytest.mark.parametrize(("version", "state"), [("0.32.0+cpu", "ok"), ("0.33.1", "ok"), ("0.31.2", "unsupported")])
def test_a_release_of_vllm_that_the_engine_does_not_know_is_named(
    with_vllm: Callable[..., Done], version: str, state: str
) -> None:
    done = with_vllm(version, "doctor")
    engine = states(done)["engine vllm"]
    assert (done.code, engine["state"]) == (0, state)
    assert states(done)["package vllm"]["detail"] == version
    if state != "ok":
        assert engine["detail"] == "vLLM 0.31.2; this mmkit knows 0.32 and 0.33"
        assert engine["remedy"] == "pip install 'mmkit[vllm]'"


def test_every_package_of_the_extras_is_looked_at(mmkit: Any) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needs = [*project["dependencies"], *(need for name, of in extras.items() if name != "dev" for need in of)]
    if sys.version_info >= (3, 14):
        needs = [need for need in needs if "python_version < '3.14'" not in need]
    names = {re.split(r"[\[<>=; ]", need)[0] for need in needs} - {"mmkit"}
    looked_at = {what.removeprefix("package ") for what in states(mmkit("doctor")) if what.startswith("package ")}
    assert looked_at == names


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_parity_without_vllm_says_what_adds_it(mmkit: Any) -> None:
    done = mmkit(*PARITY)
    assert (done.code, done.out) == (69, b"")
    assert done.err == "mmkit doctor: vllm is not installed; add it with: pip install 'mmkit[vllm]'\n"


def test_parity_with_an_unknown_vllm_ends_before_any_model_is_loaded(with_vllm: Callable[..., Done]) -> None:
    done = with_vllm("0.31.2", *PARITY)
    assert (done.code, done.out) == (69, b"")
    assert "vLLM 0.31.2 is installed; this mmkit knows 0.32 and 0.33" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["doctor", "--parity"], "no model: give --model"),
        (["doctor", "rows.jsonl"], "INPUT has nothing to act on without --parity"),
        (["doctor", "--dtype", "float32"], "--dtype has nothing to act on without --parity"),
    ],
)
def test_options_that_make_no_sense(mmkit: Any, arguments: list[str], said: str) -> None:
    done = mmkit(*arguments)
    assert (done.code, done.out) == (2, b"")
    assert said in done.err


def test_a_model_that_mmkit_toml_names_for_every_command_does_not_ask_for_parity(mmkit: Any, write: Any) -> None:
    write("mmkit.toml", b'model = "base"\nimage_root = "img"\n')
    assert mmkit("doctor").code == 0


@pytest.mark.parametrize(
    ("rows", "code", "said"),
    [
        ([{"id": "a", "question": "?", "image": "gone.png"}], 66, "rows.jsonl:1: image 'gone.png' not found"),
        ([{"id": "a", "question": "?"}, {"id": "b"}], 65, "rows.jsonl:2: "),
        ([], 65, "rows.jsonl: no records"),
    ],
)
def test_records_that_cannot_be_asked_about_are_errors_with_file_and_line(
    mmkit: Any, write: Any, rows: list[Any], code: int, said: str
) -> None:
    done = mmkit(*PARITY, write("rows.jsonl", rows))
    assert (done.code, done.out) == (code, b"")
    assert said in done.err
