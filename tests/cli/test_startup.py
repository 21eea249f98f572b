"""Light until it has to be heavy."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from cli_kit import ENVIRONMENT

from mmkit.cli.main import COMMANDS

HEAVY = [
    "torch",
    "transformers",
    "peft",
    "vllm",
    "datasets",
    "pyarrow",
    "numpy",
    "PIL",
    "pydantic",
    "httpx",
    "sklearn",
    "scipy",
]
HEAVY += ["nltk", "sacrebleu", "pycocoevalcap", "rouge_score", "rapidfuzz", "sentence_transformers"]
SHOW = f"""
import json, sys
sys.argv[0] = "mmkit"
from mmkit.cli.main import main
try:
    main()
finally:
    sys.stderr.write(json.dumps([name for name in {HEAVY} if name in sys.modules]))
"""


def imported(*arguments: str, stdin: bytes = b"") -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SHOW, *arguments], input=stdin, capture_output=True, env=ENVIRONMENT, check=True
    )
    return json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)], ids=lambda names: names[0] if names else "")
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert imported(*arguments, "--help") == []


def test_data_stages_on_jsonl_import_nothing_heavy() -> None:
    row = b'{"id":"a","question":"q","answer":"red","rationale":"it is red"}\n'
    for arguments in (
        ["validate", "--check-ids"],
        ["convert"],
        ["split", "--take", "train"],
        ["filter", "--judge", "contains"],
        ["compose", "--stage", "tasks"],
        ["instruct"],
    ):
        assert imported(*arguments, stdin=row) == [], arguments


def test_scoring_right_and_wrong_imports_what_intervals_need_and_no_more() -> None:
    row = b'{"id":"a","answer":"red","prediction":"red"}\n{"id":"b","answer":"red","prediction":"blue"}\n'
    assert imported("eval", stdin=row) == ["numpy"]
