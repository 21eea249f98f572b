"""What a record may look like, what becomes of the shapes that users have, and how errors name the fault."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from stream_kit import records

from mmkit.errors import DataError
from mmkit.records import check, is_canonical, made_id, normalise, parts_text, with_lineage


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


IMAGE = {"type": "image"}


@given(records(inline_bytes=True))
def test_a_canonical_record_is_left_as_it_is(record: dict[str, Any]) -> None:
    check(record)
    assert is_canonical(record)
    assert normalise(record, "made") == record


@pytest.mark.parametrize(
    ("given_shape", "canonical"),
    [
        ({"image": "a.png", "caption": "c"}, {"id": "made", "caption": "c", "images": [{"path": "a.png"}]}),
        ({"id": 7, "image": ["a", "b"]}, {"id": "7", "images": [{"path": "a"}, {"path": "b"}]}),
        ({"id": None, "image": None}, {"id": "made", "images": []}),
        ({"id": "", "images": ["a"]}, {"id": "made", "images": [{"path": "a"}]}),
        ({"image": {"bytes": b"x", "path": None}}, {"id": "made", "images": [{"bytes": b"x", "path": None}]}),
        (
            {"id": "x", "messages": [{"role": "user", "content": "hi <image>"}]},
            {"id": "x", "messages": [user(text("hi <image>"))]},
        ),
        (
            {"id": "x", "images": ["a"], "messages": [{"role": "user", "content": "<image>\nhi"}]},
            {"id": "x", "images": [{"path": "a"}], "messages": [user(IMAGE, text("hi"))]},
        ),
        (
            {"id": "x", "images": ["a"], "messages": [user(IMAGE), {"role": "assistant", "content": "<image>"}]},
            {
                "id": "x",
                "images": [{"path": "a"}],
                "messages": [user(IMAGE), {"role": "assistant", "content": [text("<image>")]}],
            },
        ),
        (
            {"id": "x", "image": "a", "conversations": [{"from": "human", "value": "see <image> there", "n": 1}]},
            {
                "id": "x",
                "images": [{"path": "a"}],
                "messages": [{"role": "user", "content": [text("see "), IMAGE, text(" there")], "n": 1}],
            },
        ),
    ],
)
def test_the_shapes_that_users_have_become_records(given_shape: dict[str, Any], canonical: dict[str, Any]) -> None:
    before = repr(given_shape)
    assert not is_canonical(given_shape)
    result = normalise(given_shape, "made")
    check(result)
    assert result == canonical
    assert repr(given_shape) == before, "the argument was changed"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"id": ["a"]}, "id: expected a string, got a list"),
        ({"id": True}, "id: expected a string, got true"),
        ({"caption": 3}, "caption: expected a string, got a number"),
        ({"choices": "yes"}, "choices: expected a list of strings, got a string"),
        ({"answers": ["a", None]}, "answers[1]: expected a string, got nothing"),
        ({"images": "a.png"}, "images: expected a list, got a string"),
        ({"images": [3]}, "images[0]: expected an object with a path, got a number"),
        ({"images": [{"path": ""}]}, "images[0].path: expected a string, got an empty string"),
        ({"image": "a", "images": ["b"]}, 'both "image" and "images" are given'),
        ({"conversations": [], "messages": [user()]}, 'both "conversations" and "messages" are given'),
        ({"conversations": "hi"}, "conversations: expected a list, got a string"),
        ({"conversations": [{"from": "bot", "value": ""}]}, 'conversations[0].from: expected "human" or "gpt"'),
        ({"conversations": [{"from": "human"}]}, "conversations[0].value: expected a string, got nothing"),
        ({"messages": {"role": "user"}}, "messages: expected a list, got an object"),
        ({"messages": ["hi"]}, "messages[0]: expected an object, got a string"),
        ({"messages": [{"role": "usr", "content": []}]}, 'messages[0].role: expected "user" or "assistant", got "usr"'),
        ({"messages": [{"role": ["user"], "content": []}]}, "messages[0].role: expected"),
        ({"messages": [{"role": "user"}]}, "messages[0].content: expected a list of parts, got nothing"),
        ({"messages": [user({"type": "text"})]}, "messages[0].content[0].text: expected a string, got nothing"),
        ({"messages": [user({"type": "video"})]}, 'messages[0].content[0].type: expected "text" or "image"'),
        ({"messages": [user(IMAGE)]}, "messages hold 1 image part, but images has 0 entries"),
        ({"images": ["a"], "messages": [user(text("x"))]}, "messages hold 0 image parts, but images has 1 entry"),
        (
            {"image": "a", "conversations": [{"from": "human", "value": "<image><image>"}]},
            "the text holds 2 <image> markers, but the record has 1 image",
        ),
        ({"weight": -1}, "weight: expected a number that is not negative, got -1"),
        ({"weight": "1"}, "weight: expected a number that is not negative, got a string"),
        ({"weight": True}, "weight: expected a number that is not negative, got true"),
        ({"weight": float("nan")}, "weight: expected a number that is not negative"),
        ({"lineage": {}}, "lineage: expected a list of objects"),
    ],
)
def test_what_is_wrong_is_named(record: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as raised:
        check(normalise(record, "made"))
    assert message in str(raised.value)


def test_a_made_id_depends_on_content_and_line() -> None:
    assert made_id(b"x", 1) == made_id(b"x", 1)
    assert len({made_id(b"x", 1), made_id(b"x", 2), made_id(b"y", 1)}) == 3


def test_lineage_grows_in_a_new_record() -> None:
    record = {"id": "a", "lineage": [{"op": "one"}]}
    assert with_lineage(record, {"op": "two"})["lineage"] == [{"op": "one"}, {"op": "two"}]
    assert record["lineage"] == [{"op": "one"}]
    assert with_lineage({"id": "a", "lineage": None}, {"op": "x"})["lineage"] == [{"op": "x"}]
    assert parts_text(user(text("a"), IMAGE, text("b"))) == "ab"
