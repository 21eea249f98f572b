"""Every mmkit command that the documents show could be typed: the command, its options and their values exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from mmkit.cli.main import COMMANDS, app

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("examples/*/README.md"))]
_FENCE = re.compile(r"^(`{3,})[^\n]*\n(.*?)^\1", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
_BETWEEN_CALLS = frozenset({"|", "||", "&", "&&", ";", "(", ")", "$("})


def blocks(text: str) -> Iterator[str]:
    """Code: what stands between fences, in indented lines and in back quotes."""
    for match in _FENCE.finditer(text):
        yield match[2]
    text = _FENCE.sub("", text)
    for line in text.splitlines():
        if line.startswith("    "):
            yield line
    yield from _SPAN.findall(" ".join(line for line in text.splitlines() if not line.startswith("    ")))


def calls(text: str) -> Iterator[list[str]]:
    """The words behind each `mmkit` in a document, redirections left out."""
    for block in blocks(text.replace("\\\n", " ")):
        for line in block.splitlines():
            line = line.strip().removeprefix("$ ")
            if re.match(r"(\w+=\S+ )*mmkit [a-z]", line) and not re.match(r"mmkit [\w-]+: ", line):
                yield from _calls_in(line)


def _calls_in(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    skip = False
    for word in [*lexer, ";"]:
        if word in _BETWEEN_CALLS:
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words.pop(0)
            if words[:1] == ["mmkit"]:
                yield words[1:]
            words = []
        elif set(word) <= set("<>") or skip:
            skip = not skip
        else:
            words.append(word)


def check(words: list[str]) -> None:
    """Raise typer's error where the words are no call of mmkit; nothing is run. A command's name may stand alone."""
    group = get_command(app)
    context = group.make_context("mmkit", words[:1], resilient_parsing=True)
    command = group.get_command(context, words[0])
    if command is None:
        raise LookupError(f"no such command: {words[0]}")
    if words[1:] not in ([], ["--help"], ["-h"]):
        command.make_context(words[0], words[1:], parent=context)


SHOWN = [(path.relative_to(ROOT), words) for path in DOCUMENTS for words in calls(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("path", "words"), SHOWN, ids=[f"{path.name}: {shlex.join(words)}" for path, words in SHOWN])
def test_a_command_in_a_document_could_be_typed(path: Path, words: list[str]) -> None:
    check(words)


def test_the_documents_show_commands() -> None:
    """Or the test above would be content with documents that it cannot read."""
    of = {
        name: [words[0] for path, words in SHOWN if path.name == name] for name in ("README.md", "cli.md", "engines.md")
    }
    assert set(of["cli.md"]) == set(COMMANDS)
    assert {"synthesize", "filter", "compose", "finetune", "predict", "eval", "compare"} <= set(of["README.md"])
    assert len(of["engines.md"]) >= 15
    assert {"synthesize", "filter", "predict", "doctor"} <= set(of["engines.md"])


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("    mmkit sinthesize a.jsonl", "no such command"),
        ("    A=1 mmkit filter --judge words < a.jsonl", "'words' is not one of"),
        ("```\n$ mmkit eval a | mmkit compare \\\n  --base b c > d\n```", "No such option: --base"),
        ("So `mmkit doctor\n--paritty` says", "No such option: --paritty"),
        ("    mmkit filter --gpu-memory 45", "is not in the range"),
    ],
)
def test_a_command_that_could_not_be_typed_is_found(line: str, wrong: str) -> None:
    with pytest.raises(Exception, match=wrong):
        for words in calls(line):
            check(words)


def test_words_stay_whole() -> None:
    line = "    mmkit predict a.jsonl --base-url http://c:8000/v1 --vllm 'x={\"y\": 1}' > b | tee c"
    assert list(calls(line)) == [["predict", "a.jsonl", "--base-url", "http://c:8000/v1", "--vllm", 'x={"y": 1}']]
