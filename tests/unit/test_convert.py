"""LLaVA's shape and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stream_kit import json_values, words

from mmkit.data.convert import to_llava
from mmkit.errors import DataError
from mmkit.records import check, normalise, parts_text

lines = st.text("ab é\t<>", min_size=1, max_size=8).filter(lambda line: "<image>" not in line)


@st.composite
def llava_rows(draw: st.DrawFn) -> dict[str, Any]:
    """A row as LLaVA's files have them: each marker on a line of its own."""
    images = draw(st.lists(words, max_size=3))
    turns = [{"from": "human", "value": "\n".join(["<image>"] * len(images) + [draw(lines)])}]
    if images and draw(st.booleans()):
        turns[0]["value"] = "\n".join([draw(lines), *["<image>"] * len(images)])
    for name in ("gpt", "human", "gpt")[: draw(st.integers(0, 3))]:
        turns.append({"from": name, "value": draw(lines)})
    image = {} if not images else {"image": images[0] if len(images) == 1 else images}
    extras = draw(st.dictionaries(st.sampled_from(["source", "meta"]), json_values))
    return {"id": draw(words), **image, "conversations": turns, **extras}


@given(llava_rows())
def test_llava_to_records_and_back_is_equal(row: dict[str, Any]) -> None:
    record = normalise(row, "made")
    check(record)
    assert to_llava(record) == row


markers = st.lists(st.sampled_from(["<image>", "a", "\n", " ", "b c"]), max_size=9).map("".join)


@given(markers, markers)
def test_markers_anywhere_give_the_same_record_after_a_round_trip(one: str, other: str) -> None:
    count = one.count("<image>") + other.count("<image>")
    row = {
        "id": "x",
        "image": [str(i) for i in range(count)],
        "conversations": [{"from": "human", "value": one}, {"from": "gpt", "value": other}],
    }
    record = normalise(row, "made")
    check(record)
    again = normalise(to_llava(record), "made")
    if count:
        assert again == record
    else:
        assert [parts_text(turn) for turn in again["messages"]] == [parts_text(turn) for turn in record["messages"]]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"id": "a", "caption": "c"}, "needs a conversation"),
        ({"id": "a", "images": [{"bytes": b"x"}], "messages": []}, "--images-to DIR"),
        (
            {"id": "a", "messages": [{"role": "user", "content": [{"type": "text", "text": "a <image> b"}]}]},
            "a text holds <image> itself",
        ),
    ],
)
def test_what_llava_cannot_say_is_refused(record: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        to_llava(record)
