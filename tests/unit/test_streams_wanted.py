"""Rows that a stage drops unseen need not be parsed; everything else about them stays as it is."""

from __future__ import annotations

from pathlib import Path

import orjson

from mmkit.streams import Dropped, Rejected, Row, StreamOptions, each, read, run

LINES = b'{"id":"a"}\n\n{broken\n{"id":"c"}\n'


def stage(row: Row) -> Row | Dropped:
    return row if row.position == 2 else Dropped(row, "not this one")


def test_unwanted_lines_keep_their_place_and_checksum_and_are_not_parsed(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(LINES)
    every = list(read([str(source)], checksum=True))
    some = list(read([str(source)], checksum=True, wanted=lambda position: position == 2))
    assert [(row.position, row.line, row.crc) for row in some] == [(row.position, row.line, row.crc) for row in every]
    assert isinstance(every[1], Rejected)
    assert [row.record for row in some] == [{}, {}, {"id": "c"}]


def test_a_run_parses_all_rows_where_dropped_ones_are_written(tmp_path: Path) -> None:
    source, dropped = tmp_path / "in.jsonl", tmp_path / "dropped.jsonl"
    source.write_bytes(LINES)
    for options, counts in (({}, (1, 2, 0)), ({"dropped": str(dropped), "rejects": str(tmp_path / "r")}, (1, 1, 1))):
        files = StreamOptions(inputs=[str(source)], output=str(tmp_path / "out.jsonl"), **options)
        summary = run(each(stage), files, command="test", wanted=lambda position: position == 2)
        assert (summary.kept, summary.dropped, summary.rejected) == counts
        assert (tmp_path / "out.jsonl").read_bytes() == b'{"id":"c"}\n'
    assert [orjson.loads(line)["record"] for line in dropped.read_bytes().splitlines()] == [{"id": "a"}]
