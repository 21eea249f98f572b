"""Columns are typed where the value has the type; everything else is kept beside them."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from stream_kit import records

from mmkit.errors import DataError
from mmkit.streams.tables import SCHEMA, TableWriter, from_columns, read_arrow, to_columns


@given(records(inline_bytes=True))
def test_a_record_fits_the_schema_and_comes_back(record: dict[str, Any]) -> None:
    row = to_columns(record)
    assert set(row) <= set(SCHEMA.names)
    file = io.BytesIO()
    writer = TableWriter(file, "arrow", stream=True)
    writer.write(record)
    writer.close()
    assert list(read_arrow(io.BufferedReader(io.BytesIO(file.getvalue())), "x")) == [record]  # type: ignore[arg-type]
    assert from_columns(dict(row)) == record


def test_values_of_the_right_type_are_columns_that_other_tools_can_read() -> None:
    row = to_columns(
        {
            "id": "a",
            "caption": "c",
            "weight": 0.5,
            "choices": ["x"],
            "images": [{"path": "p"}],
            "messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "t"}]}],
        }
    )
    assert row["__extra__"] is None
    assert (row["caption"], row["weight"], row["choices"], row["images"]) == ("c", 0.5, ["x"], [{"path": "p"}])


def test_null_absent_and_odd_values_are_told_apart() -> None:
    record = {"id": "a", "caption": None, "weight": 1, "images": [{"path": "p", "size": 3}], "__extra__": {"x": None}}
    row = to_columns(record)
    assert "caption" not in row
    assert from_columns(row) == record


def test_what_a_table_cannot_hold_is_refused() -> None:
    with pytest.raises(DataError, match="cannot be written as a table row"):
        to_columns({"id": "a", "n": 2**70})
