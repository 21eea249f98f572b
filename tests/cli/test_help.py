"""Help that helps: every command has an example, whose options exist."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest

from mmkit.cli.main import COMMANDS


def test_the_commands_are_listed(mmkit: Any) -> None:
    done = mmkit("--help")
    assert (done.code, done.err) == (0, "")
    for name in COMMANDS:
        assert re.search(rf"^  {name}  +\w", done.out.decode(), re.MULTILINE), name
    assert mmkit("-h").out == done.out
    assert mmkit().code == 2
    assert re.fullmatch(rb"mmkit \d+\.\d+\.\d+\n", mmkit("--version").out)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_could_be_typed(mmkit: Any, name: str) -> None:
    done = mmkit(name, "--help")
    assert (done.code, done.err) == (0, "")
    text = done.out.decode()
    assert f"Usage: mmkit {name}" in text
    example = re.search(r"^  Example:\n((?:    .+\n)+)", text, re.MULTILINE)
    assert example, text
    assert f"mmkit {name}" in example[1]
    for call in re.split(r"[|>&]", example[1].replace("\\\n", " ")):
        words = shlex.split(call)
        if words[:1] == ["mmkit"]:
            own = text if words[1] == name else mmkit(words[1], "--help").out.decode()
            for option in (word for word in words if word.startswith("-")):
                assert re.search(rf"(^|[\s,/]){re.escape(option)}\b", own, re.MULTILINE), (option, name)


def test_mistyped_commands_and_options_are_usage_errors(mmkit: Any) -> None:
    for arguments in (["validat"], ["validate", "--chek-ids"], ["split", "--by", "caption"], ["validate", "--limit"]):
        done = mmkit(*arguments)
        assert done.code == 2
        assert done.out == b""
        assert "Error" in done.err
