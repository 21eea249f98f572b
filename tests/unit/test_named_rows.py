"""Rows that come from no file are read like those of one: checked, numbered, cut, and gone on with."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmkit.errors import DataError
from mmkit.streams import NamedRows, Row, StreamOptions, each, read, run


def numbered(count: int) -> NamedRows:
    return NamedRows("owner/set", ({"n": n} for n in range(count)))


def test_rows_are_numbered_under_their_name() -> None:
    rows = [row for row in read([numbered(3)], kind="json") if isinstance(row, Row)]
    assert [(row.where, row.record) for row in rows] == [(f"owner/set:{n + 1}", {"n": n}) for n in range(3)]


def test_files_and_named_rows_follow_each_other(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"n": "file"}\n')
    rows = read([str(file), numbered(2)], kind="json")
    assert [(row.position, row.record["n"]) for row in rows if isinstance(row, Row)] == [(0, "file"), (1, 0), (2, 1)]


def test_a_limit_asks_for_no_more_than_it_needs(tmp_path: Path) -> None:
    asked = []

    def rows() -> Iterator[dict[str, Any]]:
        for n in range(1_000_000):
            asked.append(n)
            yield {"n": n}

    out = tmp_path / "out.jsonl"
    options = StreamOptions(inputs=[NamedRows("owner/set", rows())], output=str(out), limit=3)
    assert run(each(lambda row: row), options, command="test", kind="json").kept == 3
    assert len(asked) == 3


def test_a_run_that_broke_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["mmkit.streams.run"], "_CHECKPOINT_EVERY_S", 0.0)
    seen: list[int] = []

    def stage(breaks_at: int) -> Any:
        def change(row: Row) -> Row:
            seen.append(row.record["n"])
            if row.record["n"] == breaks_at:
                raise DataError("broken")
            return row.replaced({**row.record, "done": True})

        return each(change)

    out = tmp_path / "out.jsonl"
    with pytest.raises(DataError, match="owner/set:8: broken"):
        run(stage(7), StreamOptions(inputs=[numbered(10)], output=str(out)), command="test", kind="json")
    seen.clear()
    run(stage(-1), StreamOptions(inputs=[numbered(10)], output=str(out)), command="test", kind="json")
    assert [json.loads(line)["n"] for line in out.read_text().splitlines()] == list(range(10))
    assert 7 in seen
    assert 0 not in seen
