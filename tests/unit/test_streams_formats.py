"""Any record through any format and back is equal; unchanged rows keep their bytes; broken files say so."""

from __future__ import annotations

import gzip
import io
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_kit import dump, load, put, records, run_stage

from mmkit.data.convert import convert
from mmkit.errors import DataError, MissingInputError, UsageError
from mmkit.streams import Rejected, Row, each, read
from mmkit.streams.sources import format_of

KEEP = each(lambda row: row)
CHANGE = each(lambda row: row.replaced(dict(row.record)))
ALL = ["o.jsonl", "o.jsonl.gz", "o.jsonl.zst", "o.json", "o.arrow", "o.parquet"]


@settings(max_examples=25)
@given(rows=st.lists(records(), max_size=5))
@pytest.mark.parametrize("name", ALL)
def test_any_record_through_any_format_and_back_is_equal(name: str, rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = put(Path(folder, "in.jsonl"), rows)
        for stage in (KEEP, CHANGE):
            run_stage(stage, source, Path(folder, name))
            assert load(Path(folder, name)) == rows
            run_stage(KEEP, Path(folder, name), Path(folder, "back.jsonl"))
            assert load(Path(folder, "back.jsonl")) == rows
        assert sorted(path.name for path in Path(folder).iterdir()) == sorted({"in.jsonl", name, "back.jsonl"})


@settings(max_examples=25)
@given(rows=st.lists(records(inline_bytes=True), max_size=5))
@pytest.mark.parametrize("name", ["o.arrow", "o.parquet"])
def test_inline_image_bytes_live_in_tables(name: str, rows: list[dict[str, Any]]) -> None:
    from mmkit.streams.tables import from_columns, to_columns

    assert [from_columns(to_columns(row)) for row in rows] == rows
    with tempfile.TemporaryDirectory() as folder:
        _write_table(Path(folder, "in.arrow"), rows)
        run_stage(KEEP, Path(folder, "in.arrow"), Path(folder, name))
        assert load(Path(folder, name)) == rows


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    from mmkit.streams.tables import TableWriter

    with path.open("wb") as file:
        writer = TableWriter(file, "arrow", stream=False)
        for row in rows:
            writer.write(row)
        writer.close()


@pytest.mark.parametrize("fmt", ["jsonl", "arrow", "parquet"])
def test_a_pipe_carries_records(fmt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"id": str(i), "x": {"deep": [i, None]}, "images": []} for i in range(3000)]
    out = tmp_path / "piped"
    with out.open("wb") as file:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file))
        from mmkit.streams import StreamOptions, run

        run(KEEP, StreamOptions(inputs=[put(tmp_path / "in.jsonl", rows)], to_format=fmt), command="test")
        sys.stdout.flush()
    reading, writing = os.pipe()
    feeder = threading.Thread(target=_feed, args=(writing, out.read_bytes()))
    feeder.start()
    with os.fdopen(reading) as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        if fmt == "parquet":
            with pytest.raises(UsageError, match="Parquet cannot be read from a pipe"):
                load("-")
        else:
            assert load("-") == rows
    feeder.join()


def _feed(descriptor: int, data: bytes) -> None:
    try:
        with os.fdopen(descriptor, "wb") as pipe:
            pipe.write(data)
    except BrokenPipeError:
        pass


def test_unchanged_rows_keep_their_bytes(tmp_path: Path) -> None:
    lines = [
        b'{ "id" : "a",  "x":1.0e2, "y":"\\u00e9\\/" }',
        b'{"y":[1 , 2],"id":"b","n":-0.0,"big":18446744073709551615}',
        '{"id":"c","t":"é\u2028"}'.encode(),
    ]
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"\xef\xbb\xbf" + lines[0] + b"\r\n\r\n  " + lines[1] + b" \n\n" + lines[2])
    run_stage(KEEP, source, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == b"\n".join(lines) + b"\n"


def test_equal_rows_give_equal_compressed_files(tmp_path: Path) -> None:
    source = put(tmp_path / "in.jsonl", [{"id": "a"}])
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        run_stage(KEEP, source, tmp_path / name)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_a_table_of_somebody_else_is_read_by_its_columns(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    table = pa.table({"image": [{"bytes": b"x", "path": None}], "caption": ["c"], "page": [3], "none": [None]})
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    (record,) = load(tmp_path / "t.parquet")
    assert record.pop("id")
    assert record == {"caption": "c", "page": 3, "images": [{"bytes": b"x", "path": None}]}


def test_inline_bytes_for_jsonl_are_refused_with_the_way_out(tmp_path: Path) -> None:
    _write_table(tmp_path / "in.arrow", [{"id": "a", "images": [{"bytes": b"x"}]}])
    for name in ("o.jsonl", "o.jsonl.gz", "o.json"):
        with pytest.raises(DataError, match=r"in\.arrow:1: .*--images-to DIR"):
            run_stage(KEEP, tmp_path / "in.arrow", tmp_path / name)
        assert not (tmp_path / name).exists()


def test_images_to_turns_inline_bytes_into_files(tmp_path: Path) -> None:
    from mmkit.images import blank

    data = blank((4, 4)).data
    _write_table(tmp_path / "in.arrow", [{"id": str(i), "images": [{"bytes": data, "path": "was.png"}]} for i in "ab"])
    run_stage(convert(images_to=str(tmp_path / "img")), tmp_path / "in.arrow", tmp_path / "o.jsonl")
    (file,) = (tmp_path / "img").iterdir()
    assert file.read_bytes() == data
    assert [row["images"] for row in load(tmp_path / "o.jsonl")] == [[{"path": str(file)}]] * 2


@pytest.mark.parametrize("name", ["o.jsonl.gz", "o.jsonl.zst", "o.arrow", "o.parquet", "o.json"])
def test_a_torn_file_is_bad_data(name: str, tmp_path: Path) -> None:
    source = put(tmp_path / "in.jsonl", [{"id": str(i), "x": str(i**3) * 9} for i in range(5000)])
    run_stage(KEEP, source, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for share in (0.3, 0.9, 0.99):
        (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError) as raised:
            load(tmp_path / name)
        assert name in str(raised.value)


@pytest.mark.parametrize("name", ALL)
def test_an_empty_file_has_no_rows(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    run_stage(KEEP, tmp_path / "empty", tmp_path / name)
    assert load(tmp_path / name) == []
    if not name.endswith("parquet"):
        (tmp_path / name).write_bytes(b"")
        assert load(tmp_path / name) == []


def test_a_json_list_is_read_as_strictly_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "l.json"
    for content, message in (
        (b'[{"id":"a","id":"b"}]', r'duplicate key "id"'),
        (b'[{"id":"a","n":18446744073709551616}]', "64 bit"),
        (b'{"id":"a"}', "expected a JSON list"),
        (b'{"id":"a"}\n{"id":"b"}\n', "--from jsonl"),
        (b"[{]", r"l\.json:1: invalid JSON"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            load(path)
    path.write_bytes(b'\xef\xbb\xbf[{"id":"a"},\n {"id" : "b"}]')
    assert load(path) == [{"id": "a"}, {"id": "b"}]
    path.write_bytes(b'[{"id":"a"}, 3]')
    assert isinstance(list(read([str(path)]))[1], Rejected)


def test_bad_rows_come_in_their_places(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"id":"a"}\n[1]\n\n{"id":3.5}\n{"id":"b"}\n{"id":')
    found = list(read([str(path), put(tmp_path / "more.jsonl", [{"id": "z"}])]))
    assert [(type(row), row.position, row.line) for row in found] == [
        (Row, 0, 1),
        (Rejected, 1, 2),
        (Rejected, 2, 4),
        (Row, 3, 5),
        (Rejected, 4, 6),
        (Row, 5, 1),
    ]
    assert "the last line is torn" in str(found[4].error)


def test_missing_inputs_are_known_before_the_first_row(tmp_path: Path) -> None:
    good = put(tmp_path / "a.jsonl", [{"id": "a"}])
    with pytest.raises(MissingInputError, match="no such file"):
        next(read([good, str(tmp_path / "b.jsonl")]))
    with pytest.raises(MissingInputError, match="is a directory"):
        next(read([good, str(tmp_path)]))


def test_compression_and_format_are_told_by_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(gzip.compress(dump([{"id": "a"}])))
    assert load(tmp_path / "plain") == [{"id": "a"}]
    assert [format_of(name) for name in ("a.jsonl.gz", "a.parquet", "a.txt", "a")] == ["jsonl", "parquet", None, None]
