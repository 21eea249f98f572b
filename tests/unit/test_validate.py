"""Repeated ids and images that do not decode."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stream_kit import put, run_stage, text

from mmkit.data.validate import IdSet, validate
from mmkit.errors import DataError, MissingInputError
from mmkit.images import blank


@given(st.lists(text))
def test_an_id_set_is_a_set(ids: list[str]) -> None:
    seen: set[str] = set()
    found = IdSet()
    for record_id in ids:
        assert found.add(record_id) == (record_id not in seen)
        seen.add(record_id)
    assert len(found) == len(seen)


def test_an_id_set_keeps_at_most_16_bytes_an_id() -> None:
    ids = IdSet()
    for i in range(20_000):
        assert ids.add(str(i))
        assert i < 2_000 or ids._slots.itemsize * len(ids._slots) / (i + 1) <= 16
    assert not any(ids.add(str(i)) for i in range(20_000))


def test_a_repeated_id_is_rejected_on_demand(tmp_path: Path) -> None:
    source = put(tmp_path / "in.jsonl", [{"id": "a"}, {"id": "a"}])
    assert run_stage(validate(), source, tmp_path / "o.jsonl").kept == 2
    with pytest.raises(DataError, match=r'in\.jsonl:2: id: "a" occurs a second time'):
        run_stage(validate(check_ids=True), source, tmp_path / "o.jsonl")


def test_images_are_decoded_on_demand(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(blank((4, 4)).data)
    rows = [{"id": "a", "images": [{"path": "good.png"}]}, {"id": "b", "images": [{"path": "gone.png"}]}]
    source = put(tmp_path / "in.jsonl", rows)
    assert run_stage(validate(), source, tmp_path / "o.jsonl").kept == 2
    with pytest.raises(MissingInputError, match=r"in\.jsonl:2: image 'gone\.png' not found"):
        run_stage(validate(check_images=True, image_root=str(tmp_path)), source, tmp_path / "o.jsonl")
