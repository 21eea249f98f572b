"""What is held out is found by the picture's bytes or the question's words, wherever it stands."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from mmkit.data.heldout import HeldOut, normalised, questions
from mmkit.errors import MissingInputError


def asked(*turns: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    parts = [{"role": roles[i % 2], "content": [{"type": "text", "text": turn}]} for i, turn in enumerate(turns)]
    return {"id": "m", "messages": parts}


def test_case_punctuation_space_and_width_do_not_make_another_question() -> None:
    assert normalised("  What's the\tＣＯＬＯＵＲ of_it?! ") == "what s the colour of it"
    assert normalised("Straße 9") == normalised("STRASSE  ９?")
    assert normalised("Is it 19?") != normalised("Is it 91?")
    assert normalised("¿…?") == ""


def test_marks_on_letters_make_another_question_and_marks_on_signs_none() -> None:
    for one, other in (("यह किताब है?", "यह कीताब है?"), ("ปีนี้", "ปูนี้"), ("résumé", "resume")):
        assert normalised(one) != normalised(other)
    assert normalised("cafe\u0301") == normalised("CAF\u00c9!")
    assert normalised("I \u2764\ufe0f it") == normalised("I \u2764 it") == "i it"


def test_a_question_is_the_records_or_what_the_user_says() -> None:
    assert list(questions({"id": "a", "question": "Why?", **asked("Where?")})) == ["why"]
    assert list(questions(asked("Where?", "here", "When?", "now"))) == ["where", "when"]
    assert list(questions({"id": "a", "question": " ?! "})) == []


def test_a_question_that_occurs_is_held_out_and_an_empty_one_never() -> None:
    held_out = HeldOut([{"id": "1", "question": "Which organ?"}, {"id": "2"}, {"id": "3", "question": "?"}])
    assert held_out.holds({"id": "x", "question": "which ORGAN"}) == "question"
    assert held_out.holds(asked("Hello", "hi", "Which organ?", "lung")) == "question"
    assert held_out.holds({"id": "x", "question": "Which organs?"}) is None
    assert held_out.holds({"id": "x", "question": ""}) is None
    assert held_out.holds({"id": "x", "answer": "which organ"}) is None


def test_an_image_is_known_by_its_bytes_under_any_name(tmp_path: Path) -> None:
    for name, data in (("seen.jpg", b"same"), ("copy.png", b"same"), ("other.jpg", b"other")):
        (tmp_path / name).write_bytes(data)
    held_out = HeldOut([{"id": "1", "images": [{"path": "seen.jpg"}]}], str(tmp_path))
    uri = "data:image/png;base64," + base64.b64encode(b"same").decode()
    for image in ({"path": "copy.png"}, {"path": str(tmp_path / "seen.jpg")}, {"bytes": b"same"}, {"path": uri}):
        assert held_out.holds({"id": "x", "images": [{"path": "other.jpg"}, image]}) == "image", image
    assert held_out.holds({"id": "x", "images": [{"path": "other.jpg"}], "question": "q"}) is None
    with pytest.raises(MissingInputError, match="not found"):
        held_out.holds({"id": "x", "images": [{"path": "missing.jpg"}]})


def test_how_much_is_held_out_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    held_out = HeldOut(image_root=str(tmp_path))
    assert held_out.add([{"id": "1", "question": "?"}, {"id": "2", "answer": "a"}]) == 0
    assert held_out.add([{"id": "1", "images": [{"path": "a.jpg"}], **asked("Why?", "so", "And?")}]) == 3
    assert held_out.holds({"id": "x", "question": "and"}) == "question"


def test_without_held_out_images_no_image_is_read(tmp_path: Path) -> None:
    held_out = HeldOut([{"id": "1", "question": "q"}], str(tmp_path))
    assert held_out.holds({"id": "x", "images": [{"path": "missing.jpg"}]}) is None


def test_a_held_out_image_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"'gone\.jpg' not found"):
        HeldOut([{"id": "1", "images": [{"path": "gone.jpg"}]}], str(tmp_path))
