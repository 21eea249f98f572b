"""No image on two sides, and a row's part does not depend on the other rows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkit.data.split import Splitter, parse_ratio
from mmkit.errors import DataError, UsageError

RATIO = {"train": 0.5, "test": 0.5}
image_rows = st.lists(
    st.lists(st.sampled_from(["a", "b", "c", "./a", "d/../b", "e", "f", "g"]), max_size=3), max_size=12
).map(lambda rows: [{"id": str(i), "images": [{"path": p} for p in paths]} for i, paths in enumerate(rows)])


def plain(path: str) -> str:
    return {"./a": "a", "d/../b": "b"}.get(path, path)


@given(image_rows, st.integers(0, 3), st.randoms(use_true_random=False))
def test_no_image_is_on_two_sides_in_any_order(rows: list[dict[str, Any]], seed: int, chance: Any) -> None:
    splitter = Splitter(RATIO, seed=seed)
    assert list(splitter.link(rows)) == rows
    parts = {row["id"]: splitter.part_of(row) for row in rows}
    side: dict[str, str] = {}
    for row in rows:
        for image in row["images"]:
            assert side.setdefault(plain(image["path"]), parts[row["id"]]) == parts[row["id"]]
    shuffled = list(rows)
    chance.shuffle(shuffled)
    again = Splitter(RATIO, seed=seed)
    list(again.link(shuffled))
    assert {row["id"]: again.part_of(row) for row in shuffled} == parts


def test_unlinked_images_in_different_parts_are_an_error_and_not_a_leak() -> None:
    splitter = Splitter(RATIO)
    sides = {splitter.part_of({"id": "x", "images": [{"path": str(i)}]}): i for i in range(20)}
    assert set(sides) == {"train", "test"}
    both = {"id": "x", "images": [{"path": str(i)} for i in sides.values()]}
    with pytest.raises(DataError, match="read from files"):
        splitter.part_of(both)
    list(splitter.link([both]))
    parts = {splitter.part_of({"id": "y", "images": [image]}) for image in both["images"]} | {splitter.part_of(both)}
    assert len(parts) == 1


def test_equal_inline_bytes_are_one_image_and_ids_decide_without_images() -> None:
    splitter = Splitter(RATIO, seed=2)
    assert len({splitter.part_of({"id": str(i), "images": [{"bytes": b"same"}]}) for i in range(30)}) == 1
    by_id = Splitter(RATIO, by="id", seed=2)
    rows = [{"id": str(i), "images": [{"path": "same"}]} for i in range(30)]
    assert len({by_id.part_of(row) for row in rows}) == 2
    assert [by_id.part_of(row) for row in rows] == [splitter.part_of({"id": str(i)}) for i in range(30)]


def test_the_shares_are_met() -> None:
    splitter = Splitter({"train": 0.8, "val": 0.15, "test": 0.05, "none": 0.0}, seed=5)
    parts = [splitter.part_of({"id": str(i)}) for i in range(10_000)]
    for name, share in (("train", 0.8), ("val", 0.15), ("test", 0.05)):
        assert abs(parts.count(name) / 10_000 - share) < 0.02
    assert "none" not in parts


@pytest.mark.parametrize("text", ["", "train", "train=x", "train=.5", "train=.5,train=.5", "=1", "a=2,b=-1", "a=nan"])
def test_impossible_ratios(text: str) -> None:
    with pytest.raises(UsageError, match="--ratio"):
        parse_ratio(text)


def test_ratios() -> None:
    assert parse_ratio("train=.8, val=.1,test=.1") == {"train": 0.8, "val": 0.1, "test": 0.1}
