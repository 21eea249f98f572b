"""Recorded answers: found by id and order, refused with file and line where the recording is malformed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from mmkit.engines import Request, Turn, Usage
from mmkit.engines.replay import ReplayEngine
from mmkit.errors import DataError, MissingInputError


def recorded(tmp_path: Path, *rows: Any, **options: Any) -> ReplayEngine:
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ReplayEngine(path, **options)


def requests(*ids: str) -> list[Request]:
    return [Request(id=each, position=n, prompt="?") for n, each in enumerate(ids)]


def test_answers_are_found_by_id_in_any_order(tmp_path: Path) -> None:
    engine = recorded(tmp_path, {"id": "a", "text": "A", "usage": {"prompt_tokens": 4}}, {"id": "b", "error": "broke"})
    b, a = engine.generate(requests("b", "a"))
    assert (b.id, b.text, b.error) == ("b", "", "broke")
    assert (a.id, a.text, a.error, a.usage) == ("a", "A", None, Usage(4))


def test_turns_and_truncation_come_back(tmp_path: Path) -> None:
    turns = [{"role": "user", "text": "q"}, {"role": "assistant", "text": "a"}]
    engine = recorded(tmp_path, {"id": "a", "turns": turns, "truncated": True})
    (reply,) = engine.generate(requests("a"))
    assert reply.turns == (Turn("user", "q"), Turn("assistant", "a"))
    assert reply.truncated


def test_several_answers_of_one_id_are_given_in_their_order_across_streams(tmp_path: Path) -> None:
    engine = recorded(tmp_path, {"id": "a", "text": "1"}, {"id": "b", "text": "b"}, {"id": "a", "text": "2"})
    assert [reply.text for reply in engine.generate(requests("a", "b"))] == ["1", "b"]
    second, third = engine.generate(requests("a", "a"))
    assert second.text == "2"
    assert third.error is not None
    assert "no recorded answer for id 'a' (request 3 of this id)" in third.error


def test_a_request_without_an_answer_is_an_error_and_the_next_one_goes_on(tmp_path: Path) -> None:
    engine = recorded(tmp_path, {"id": "a", "text": "A"})
    missing, found = engine.generate(requests("x", "a"))
    assert missing.error is not None
    assert missing.error.startswith("no recorded answer for id 'x'")
    assert found.text == "A"


def test_choices_are_recorded_apart_from_texts(tmp_path: Path) -> None:
    engine = recorded(tmp_path, {"id": "a", "text": "A"}, {"id": "a", "log_probs": {"Yes": -0.1, "No": -2, "Open": -3}})
    (choice,) = engine.choose(requests("a"), ["No", "Yes"])
    assert choice.log_probs == {"No": -2.0, "Yes": -0.1}
    assert choice.best == "Yes"
    (reply,) = engine.generate(requests("a"))
    assert reply.text == "A"


def test_a_choice_that_was_not_recorded_is_an_error(tmp_path: Path) -> None:
    engine = recorded(tmp_path, {"id": "a", "log_probs": {"Yes": -0.1}}, {"id": "b", "error": "broke"})
    missing, broken = engine.choose(requests("a", "b"), ["Yes", "No"])
    assert (missing.log_probs, missing.error) == ({}, "no recorded log-probability of choice 'No' for id 'a'")
    assert broken.error == "broke"


def test_delays_are_waited(tmp_path: Path) -> None:
    engine = recorded(tmp_path, {"id": "a", "text": "A", "delay_s": 0.05})
    start = time.monotonic()
    list(engine.generate(requests("a")))
    assert time.monotonic() - start >= 0.05


def test_the_window_can_be_set(tmp_path: Path) -> None:
    assert recorded(tmp_path).window == 1
    assert recorded(tmp_path, window=8).window == 8


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", "invalid JSON"),
        ("[1]", "expected an object"),
        ('{"text": "x"}', 'a string "id"'),
        ('{"id": 5, "text": "x"}', 'a string "id"'),
        ('{"id": "a"}', 'expected one of "text"'),
        ('{"id": "a", "text": 5}', 'expected one of "text"'),
        ('{"id": "a", "text": "x", "delay_s": true}', '"delay_s"'),
        ('{"id": "a", "text": "x", "delay_s": -1}', "negative"),
        ('{"id": "a", "turns": [{"role": "user"}]}', '"turns"'),
        ('{"id": "a", "log_probs": {"Yes": null}}', "'Yes'"),
        ('{"id": "a", "log_probs": {"Yes": NaN}}', "invalid JSON"),
    ],
)
def test_malformed_rows_are_named_by_file_and_line(tmp_path: Path, row: str, words: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"id": "fine", "text": "x"}\n\n' + row + "\n")
    with pytest.raises(DataError) as info:
        ReplayEngine(path)
    assert str(info.value).startswith(f"{path}:3: ")
    assert words in str(info.value)


def test_a_file_that_is_not_there_is_missing_input(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"none\.jsonl"):
        ReplayEngine(tmp_path / "none.jsonl")
