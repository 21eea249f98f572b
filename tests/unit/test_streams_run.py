"""Every row is accounted for, in its place, with its file and line."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_kit import dump, load, put, records, run_stage

from mmkit.data import compose
from mmkit.data.split import Splitter
from mmkit.data.validate import validate
from mmkit.errors import DataError, LimitError, UsageError
from mmkit.streams import Dropped, Kept, Outcome, Result, Row, Used, Withdrawn, each
from mmkit.streams.rows import Rejected, Stage
from mmkit.synthesis.consistency import judge_by_words


def by_answer(row: Row) -> Row | list[Row] | Dropped:
    """The row's own `do` says what becomes of it."""
    do = row.record.get("do")
    if do == "drop":
        return Dropped(row, "asked to")
    if do == "bad":
        raise DataError("asked to")
    if do == "twice":
        return [row.replaced({**row.record, "n": n}) for n in (1, 2)]
    return row


lines = st.sampled_from(["keep", "drop", "bad", "twice", "torn", "list"])


def written(actions: list[str]) -> bytes:
    wire = {"torn": b'{"id":', "list": b"[1]"}
    return b"".join(wire.get(do, b'{"id":"%d","do":"%s"}' % (i, do.encode())) + b"\n" for i, do in enumerate(actions))


@settings(max_examples=60)
@given(st.lists(lines, max_size=12))
def test_every_row_is_accounted_for_in_its_place(actions: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, out, rejects, dropped = (Path(folder, name) for name in ("in.jsonl", "out.jsonl", "r.jsonl", "d.jsonl"))
        source.write_bytes(written(actions))
        summary = run_stage(each(by_answer), source, out, rejects=str(rejects), dropped=str(dropped))
        assert summary.read == len(actions) == summary.kept + summary.dropped + summary.rejected
        kept = [str(i) for i, do in enumerate(actions) for _ in range({"keep": 1, "twice": 2}.get(do, 0))]
        assert [row["id"] for row in load(out)] == kept
        assert summary.written == len(kept)
        for path, wanted, count in (
            (rejects, ("bad", "torn", "list"), summary.rejected),
            (dropped, ("drop",), summary.dropped),
        ):
            accounts = [orjson.loads(line) for line in path.read_bytes().splitlines()]
            assert [account["line"] for account in accounts] == [i + 1 for i, do in enumerate(actions) if do in wanted]
            assert len(accounts) == count
            assert all(account["source"] == str(source) and account["reason"] for account in accounts)


def test_an_output_row_that_cannot_be_written_is_rejected_even_beside_one_that_can(tmp_path: Path) -> None:
    def two(row: Row) -> list[Row]:
        return [row, row.replaced({**row.record, "images": [{"bytes": b"inline"}]})]

    source, out, rejects = (tmp_path / name for name in ("in.jsonl", "out.jsonl", "r.jsonl"))
    source.write_bytes(written(["keep"]))
    summary = run_stage(each(two), source, out, rejects=str(rejects))
    assert (summary.written, summary.rejected) == (1, 1)
    assert "inline bytes" in rejects.read_text()


def test_the_first_bad_row_stops_a_run_without_rejects(tmp_path: Path) -> None:
    seen: list[int] = []

    def note(row: Row) -> Row:
        seen.append(row.position)
        return row

    source = tmp_path / "in.jsonl"
    source.write_bytes(written(["keep", "keep", "torn", "keep"]))
    with pytest.raises(DataError, match=r"in\.jsonl:3: invalid JSON"):
        run_stage(each(note), source, tmp_path / "out.jsonl")
    assert seen == [0, 1], "rows after the bad one were read on"
    assert list(tmp_path.iterdir()) == [source]


def test_a_row_text_cannot_forge_lines_or_colours(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(b'{"\\n\\u001b[31m":1,"\\n\\u001b[31m":2}\n')
    with pytest.raises(DataError) as raised:
        run_stage(validate(), source, tmp_path / "o.jsonl")
    assert str(raised.value) == f'{source}:1: duplicate key "\\n\\x1b[31m"'


def test_too_many_rejects_stop_the_run(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    options: dict[str, Any] = {"rejects": str(tmp_path / "r.jsonl"), "max_reject_rate": 0.5}
    source.write_bytes(written(["keep", "bad"] * 300))
    assert run_stage(each(by_answer), source, tmp_path / "o.jsonl", **options).rejected == 300
    source.write_bytes(written(["bad", "bad", "keep"] * 300))  # said after a hundred rows, not at the end
    with pytest.raises(LimitError, match=r"more than --max-reject-rate 0\.5 allows"):
        run_stage(each(by_answer), source, tmp_path / "o.jsonl", **options)
    assert len((tmp_path / "r.jsonl").read_bytes().splitlines()) < 100
    source.write_bytes(written(["bad", "bad"]))
    with pytest.raises(LimitError, match="2 of 2 rows"):
        run_stage(each(by_answer), source, tmp_path / "o.jsonl", **options)


def test_a_stage_that_loses_or_swaps_rows_is_a_bug(tmp_path: Path) -> None:
    source = put(tmp_path / "in.jsonl", [{"id": str(i)} for i in range(3)])

    def loses(rows: Iterator[Row]) -> Iterator[Outcome]:
        yield from (Kept(row) for row in rows if row.position != 1)

    def swaps(rows: Iterator[Row]) -> Iterator[Outcome]:
        yield from (Kept(row) for row in reversed(list(rows)))

    def stops(rows: Iterator[Row]) -> Iterator[Outcome]:
        first, _, _ = rows
        yield Kept(first)

    for stage in (loses, swaps, stops):
        with pytest.raises(RuntimeError):
            run_stage(stage, source, tmp_path / "o.jsonl")


def test_a_result_at_the_end_uses_all_rows(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(written(["keep", "keep", "torn"]))

    def count(rows: Iterator[Row]) -> Iterator[Outcome]:
        last = None
        for last in rows:
            yield Used(last)
        assert last is not None
        yield Kept(last.replaced({"id": "sum", "n": last.position + 1}))

    summary = run_stage(count, source, tmp_path / "o.jsonl", rejects=str(tmp_path / "r"), resumable=False)
    assert (summary.read, summary.kept, summary.written, summary.rejected) == (3, 2, 1, 1)
    assert load(tmp_path / "o.jsonl") == [{"id": "sum", "n": 2}]


def used_up(rows: Iterator[Row]) -> Iterator[Outcome]:
    """Uses what says "keep" or "fail", withdraws the latter in the end, last ones first, and gives the rest."""
    used: list[Row] = []
    for row in rows:
        outcomes = {"drop": Dropped(row, "asked to"), "bad": Rejected.of(row, DataError("asked to"))}
        outcome = outcomes.get(row.record["do"])
        if outcome is None:
            used.append(row)
        yield outcome or Used(row)
    for row in reversed(used):
        if row.record["do"] == "fail":
            yield Withdrawn(row, DataError("no reply"))
    rest = [row.record["id"] for row in used if row.record["do"] == "keep"]
    yield Result(Row({"id": "sum", "rest": rest}, 0, "", 0))


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["keep", "fail", "drop", "bad", "torn"]), max_size=12))
def test_a_row_that_is_withdrawn_counts_as_rejected_and_nowhere_else(actions: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, out, rejects, dropped = (Path(folder, name) for name in ("in.jsonl", "out.jsonl", "r.jsonl", "d.jsonl"))
        source.write_bytes(written(actions))
        sides = {"rejects": str(rejects), "dropped": str(dropped)}
        summary = run_stage(used_up, source, out, **sides, resumable=False)
        assert summary.read == len(actions) == summary.kept + summary.dropped + summary.rejected
        assert (summary.kept, summary.dropped) == (actions.count("keep"), actions.count("drop"))
        assert load(out) == [{"id": "sum", "rest": [str(i) for i, do in enumerate(actions) if do == "keep"]}]
        accounts = [orjson.loads(line) for line in rejects.read_bytes().splitlines()]
        lost = [i + 1 for i, do in enumerate(actions) if do in ("fail", "bad", "torn")]
        assert sorted(account["line"] for account in accounts) == lost
        assert {a["reason"] for a in accounts if actions[a["line"] - 1] == "fail"} <= {"no reply"}


def test_a_row_that_is_withdrawn_ends_a_strict_run_at_its_line(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(written(["keep", "fail", "keep"]))
    with pytest.raises(DataError, match=r"in\.jsonl:2: no reply"):
        run_stage(used_up, source, tmp_path / "out.jsonl", resumable=False)
    assert list(tmp_path.iterdir()) == [source]


def test_a_row_may_not_be_withdrawn_before_all_were_answered_for(tmp_path: Path) -> None:
    def hasty(rows: Iterator[Row]) -> Iterator[Outcome]:
        first, second = rows
        yield Used(first)
        yield Withdrawn(first, DataError("no reply"))
        yield Used(second)

    source = put(tmp_path / "in.jsonl", [{"id": "a"}, {"id": "b"}])
    with pytest.raises(RuntimeError):
        run_stage(hasty, source, tmp_path / "o.jsonl", rejects=str(tmp_path / "r"), resumable=False)


def test_limit_and_shard(tmp_path: Path) -> None:
    source = put(tmp_path / "in.jsonl", [{"id": str(i)} for i in range(10)])

    def ids(**options: Any) -> str:
        run_stage(validate(), source, tmp_path / "o.jsonl", **options)
        return "".join(row["id"] for row in load(tmp_path / "o.jsonl"))

    assert ids(limit=3) == "012"
    assert ids(limit=0) == ""
    assert ids(limit=99) == "0123456789"
    assert ids(shard=(1, 3)) == "147"
    assert ids(shard=(1, 3), limit=5) == "14"


STAGES: dict[str, Stage] = {
    "validate": validate(),
    "filter": judge_by_words(),
    "compose": compose.tasks_stage(response="cot", seed=3),
    "split": Splitter({"train": 0.5, "test": 0.5}, seed=1).take("train"),
}
task_rows = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.text("ab1", min_size=1, max_size=3),
            "question": st.sampled_from(["what?", "", "why?"]),
            "answer": st.sampled_from(["red", "two"]),
            "rationale": st.sampled_from(["it is red.", "there are two, so two", "blue"]),
        },
        optional={"images": st.lists(st.builds(lambda p: {"path": p}, st.sampled_from("abc")), max_size=1)},
    )
    | records(),
    max_size=8,
)


@settings(max_examples=25)
@given(rows=task_rows, count=st.integers(1, 4))
@pytest.mark.parametrize("name", STAGES)
def test_the_union_of_all_shards_is_the_unsharded_run(name: str, rows: list[dict[str, Any]], count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = put(Path(folder, "in.jsonl"), rows)

        def lines_of(shard: tuple[int, int] | None) -> list[bytes]:
            options = {"rejects": f"{folder}/r", "dropped": f"{folder}/d", "shard": shard}
            run_stage(STAGES[name], source, f"{folder}/o.jsonl", **options)
            names = ("o.jsonl", "r", "d")
            return [name.encode() + line for name in names for line in Path(folder, name).read_bytes().splitlines()]

        union = [line for index in range(count) for line in lines_of((index, count))]
        assert sorted(union) == sorted(lines_of(None))


@settings(max_examples=25)
@given(one=task_rows, other=task_rows)
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_over_two_inputs_is_both_runs_joined(
    name: str, one: list[dict[str, Any]], other: list[dict[str, Any]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:

        def output(rows: list[dict[str, Any]]) -> bytes:
            source = put(Path(folder, "in.jsonl"), rows)
            run_stage(STAGES[name], source, f"{folder}/o.jsonl", rejects=f"{folder}/r")
            return Path(folder, "o.jsonl").read_bytes()

        assert output(one + other) == output(one) + output(other)


def test_no_output_may_overwrite_an_input_or_another_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": "a"}]
    put(tmp_path / "in.jsonl", rows)
    for options in (
        {"rejects": "in.jsonl"},
        {"dropped": "./in.jsonl"},
        {"rejects": "r", "dropped": "r"},
        {"rejects": "out.jsonl"},
    ):
        with pytest.raises(UsageError):
            run_stage(validate(), "in.jsonl", "out.jsonl", **options)
    run_stage(validate(), "in.jsonl", "/dev/null", rejects="/dev/null", dropped="/dev/null")
    with pytest.raises(UsageError, match="is a directory"):
        run_stage(validate(), "in.jsonl", tmp_path)
    run_stage(each(lambda row: row.replaced({**row.record, "n": 1})), "in.jsonl", "in.jsonl")
    assert load("in.jsonl") == [{"id": "a", "n": 1}], "an output may take its own input's place"
    run_stage(validate(), "in.jsonl", "new/deep/out.jsonl")
    assert dump(load("new/deep/out.jsonl")) == Path("in.jsonl").read_bytes()


def test_what_a_library_prints_never_stands_among_the_records(tmp_path: Path) -> None:
    program = """
import os, subprocess, sys
from mmkit.streams import Kept, StreamOptions, run

def stage(rows):
    for row in rows:
        print("a library prints")
        os.write(1, b"and so does its C code\\n")
        subprocess.run(["echo", "and its processes"], check=True)
        yield Kept(row)

run(stage, StreamOptions(inputs=sys.argv[1:], output=None), command="test")
print("stdout is itself again")
"""
    source = put(tmp_path / "in.jsonl", [{"id": "a"}, {"id": "b"}])
    done = subprocess.run([sys.executable, "-c", program, source], capture_output=True, check=True)
    assert done.stdout == b'{"id":"a"}\n{"id":"b"}\nstdout is itself again\n'
    assert [done.stderr.count(words) for words in (b"library prints", b"C code", b"its processes")] == [2, 2, 2]
