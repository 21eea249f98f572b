"""A run that was killed goes on from there, and ends with the same bytes as one that was not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_kit import put, run_stage

from mmkit.errors import DataError, UsageError
from mmkit.streams import Dropped, Outcome, Row, each
from mmkit.streams import run as run_module  # the function; its module is reached through sys.modules below
from mmkit.streams.journal import Checkpoint, Journal
from mmkit.streams.rows import Stage


@pytest.fixture(autouse=True)
def checkpoints_at_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(run_module.__globals__, "_CHECKPOINT_EVERY_S", 0.0)


class KilledError(Exception):
    """Stands for the end of the process."""


def act(row: Row) -> Row | list[Row] | Dropped:
    do = row.record.get("do")
    if do == "drop":
        return Dropped(row, "asked to")
    if do == "bad":
        raise DataError("asked to")
    if do == "twice":
        return [row.replaced({**row.record, "n": n}) for n in (1, 2)]
    return row


def dies_after(stage: Stage, count: int) -> Stage:
    def dying(rows: Iterator[Row]) -> Iterator[Outcome]:
        outcomes = stage(rows)
        for _ in range(count):
            outcome = next(outcomes, None)
            if outcome is None:
                return
            yield outcome
        raise KilledError

    return dying


def batched(size: int) -> Stage:
    """Reads a window of rows before it answers for the first of them, as an engine does; the answer tells the batch."""

    def stage(rows: Iterator[Row]) -> Iterator[Outcome]:
        batch: list[Row] = []
        for row in rows:
            if batch and batch[0].position // size != row.position // size:
                yield from answers(batch)
                batch = []
            batch.append(row)
        yield from answers(batch)

    def answers(batch: list[Row]) -> Iterator[Outcome]:
        together = [row.position for row in batch]

        def told(row: Row) -> Row | list[Row] | Dropped:
            result = act(row)
            return result.replaced({**result.record, "batch": together}) if isinstance(result, Row) else result

        yield from each(told)(iter(batch))

    return stage


actions = st.lists(st.sampled_from(["keep", "keep", "drop", "bad", "twice", "torn"]), min_size=1, max_size=14)


@settings(max_examples=80)
@given(
    actions=actions,
    deaths=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    window=st.sampled_from([1, 1, 3]),
    name=st.sampled_from(["out.jsonl", "out.jsonl", "out.arrow", "out.jsonl.gz"]),
    shard=st.sampled_from([None, None, (1, 2)]),
    torn=st.booleans(),
)
def test_a_run_killed_anywhere_gives_the_same_bytes(
    actions: list[str], deaths: list[int], window: int, name: str, shard: tuple[int, int] | None, torn: bool
) -> None:
    stage = each(act) if window == 1 else batched(window)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in.jsonl")
        wire = [b"{" if do == "torn" else b'{"id":"%d","do":"%s"}' % (i, do.encode()) for i, do in enumerate(actions)]
        source.write_bytes(b"\n".join(wire) + b"\n")

        def go(into: str, stage: Stage) -> Any:
            Path(folder, into).mkdir(exist_ok=True)
            sides = {side: f"{folder}/{into}/{side}" for side in ("rejects", "dropped")}
            return run_stage(stage, source, f"{folder}/{into}/{name}", window=window, shard=shard, **sides)

        whole = go("whole", stage)
        for death in deaths:
            try:
                go("broken", dies_after(stage, death))
                break
            except KilledError:
                _tear(Path(folder, "broken"), name, torn)
        summary = go("broken", stage)
        assert _files(Path(folder, "broken")) == _files(Path(folder, "whole"))
        assert summary.counts() == whole.counts()


def test_a_batch_is_never_cut_by_going_on(tmp_path: Path) -> None:
    source = put(tmp_path / "in.jsonl", [{"id": str(i)} for i in range(7)])
    run_stage(batched(3), source, tmp_path / "whole.jsonl", window=3)
    for death in range(7):
        with pytest.raises(KilledError):
            run_stage(dies_after(batched(3), death), source, tmp_path / "o.jsonl", window=3)
        summary = run_stage(batched(3), source, tmp_path / "o.jsonl", window=3)
        assert summary.resumed_at % 3 == 0
        assert (tmp_path / "o.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def _tear(folder: Path, name: str, torn: bool) -> None:
    """What a kill leaves beside the checkpoints: half lines behind them."""
    if torn and (folder / f"{name}.journal").exists():
        for file in folder.iterdir():
            with file.open("ab") as end:
                end.write(b'{"half": ')


def _files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def begun(folder: Path, rows: int = 6, done: int = 4, **options: Any) -> Path:
    """A run over in.jsonl that died after `done` rows."""
    put(folder / "in.jsonl", [{"id": str(i), "do": "drop" if i == 1 else "keep"} for i in range(rows)])
    with pytest.raises(KilledError):
        run_stage(dies_after(each(act), done), folder / "in.jsonl", folder / "out.jsonl", **options)
    assert (folder / "out.jsonl.part").exists()
    return folder / "out.jsonl"


def test_going_on_asks_the_stage_for_the_rest_only(tmp_path: Path) -> None:
    out = begun(tmp_path)
    seen = []
    summary = run_stage(each(lambda row: seen.append(row.position) or act(row)), tmp_path / "in.jsonl", out)
    assert seen == [3, 4, 5], "the last row before the death was not yet called done"
    assert summary.resumed_at == 3
    assert "went on at row 3" in summary.line()
    assert not out.with_name("out.jsonl.part").exists()
    assert not out.with_name("out.jsonl.journal").exists()


def test_another_configuration_is_refused_with_the_difference_and_the_way_out(tmp_path: Path) -> None:
    out = begun(tmp_path, identity={"threshold": 0.5})
    before = _files(tmp_path)
    with pytest.raises(UsageError) as raised:
        run_stage(each(act), tmp_path / "in.jsonl", out, identity={"threshold": 0.7})
    assert "threshold 0.5, now 0.7" in str(raised.value)
    assert f"rm {out}.part {out}.journal" in str(raised.value)
    assert _files(tmp_path) == before
    run_stage(each(act), tmp_path / "in.jsonl", out, identity={"threshold": 0.5})


def test_another_input_is_refused(tmp_path: Path) -> None:
    out = begun(tmp_path)
    before = _files(tmp_path)
    put(tmp_path / "in.jsonl", [{"id": str(i), "do": "keep"} for i in range(6)])
    with pytest.raises(DataError, match=r"the input is not the one that .*rm .*part"):
        run_stage(each(act), tmp_path / "in.jsonl", out)
    put(tmp_path / "in.jsonl", [])
    with pytest.raises(DataError, match="the input is not the one"):
        run_stage(each(act), tmp_path / "in.jsonl", out)
    (tmp_path / "in.jsonl").write_bytes(before["in.jsonl"])
    run_stage(each(act), tmp_path / "in.jsonl", out)


def test_rows_behind_the_last_checkpoint_may_change(tmp_path: Path) -> None:
    """The first bad row ends a run; whoever mends it goes on from there."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b'{"id":"a"}\n{"id":"b"}\n{"id":\n')
    with pytest.raises(DataError, match=r"in\.jsonl:3"):
        run_stage(each(act), source, out)
    source.write_bytes(b'{"id":"a"}\n{"id":"b"}\n{"id":"c"}\n')
    assert run_stage(each(act), source, out).resumed_at > 0
    assert out.read_bytes() == source.read_bytes()


def test_side_files_must_be_the_ones_that_were_begun(tmp_path: Path) -> None:
    dropped = tmp_path / "dropped.jsonl"
    out = begun(tmp_path, dropped=str(dropped))
    held = dropped.read_bytes()
    for other in (tmp_path / "other.jsonl", dropped):
        dropped.write_bytes(b"")
        with pytest.raises(UsageError, match="does not hold the dropped rows"):
            run_stage(each(act), tmp_path / "in.jsonl", out, dropped=str(other))
    dropped.write_bytes(held)
    run_stage(each(act), tmp_path / "in.jsonl", out, dropped=str(dropped))
    assert [orjson.loads(line)["line"] for line in dropped.read_bytes().splitlines()] == [2]


def test_a_dropped_file_cannot_be_added_after_rows_were_dropped(tmp_path: Path) -> None:
    out = begun(tmp_path)
    with pytest.raises(UsageError, match="does not hold the dropped rows"):
        run_stage(each(act), tmp_path / "in.jsonl", out, dropped=str(tmp_path / "d"))
    run_stage(each(act), tmp_path / "in.jsonl", out, rejects=str(tmp_path / "r"))


def test_a_part_file_shorter_than_the_newest_checkpoint_falls_back(tmp_path: Path) -> None:
    """After a power failure the last rows may be missing from the disk although the journal has them."""
    out = begun(tmp_path, done=5)
    part = out.with_name("out.jsonl.part")
    with part.open("r+b") as file:
        file.truncate(part.stat().st_size - 60)
    run_stage(each(act), tmp_path / "in.jsonl", out)
    assert b"\0" not in out.read_bytes()
    assert [orjson.loads(line)["id"] for line in out.read_bytes().splitlines()] == ["0", "2", "3", "4", "5"]


def test_a_stage_that_cannot_go_on_starts_over(tmp_path: Path) -> None:
    put(tmp_path / "in.jsonl", [{"id": str(i)} for i in range(5)])
    with pytest.raises(KilledError):
        run_stage(dies_after(each(act), 3), tmp_path / "in.jsonl", tmp_path / "o.jsonl", resumable=False)
    summary = run_stage(each(act), tmp_path / "in.jsonl", tmp_path / "o.jsonl", resumable=False)
    assert (summary.resumed_at, summary.written) == (0, 5)


def test_what_is_no_journal_starts_over(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "o.jsonl", {"a": 1})
    journal.part.write_bytes(b"12345")
    for content in (b"", b"\n", b"garbage\n", b'{"run": ', b'{"x": 1}\n', b'[1]\n{"position": 3}\n'):
        journal.path.write_bytes(content)
        assert journal.last_checkpoint() == Checkpoint()


def test_the_newest_whole_checkpoint_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "o.jsonl", {"a": 1})
    journal.part.write_bytes(b"12345")
    points = [Checkpoint(n, 7, {"output": n}, {"read": n}) for n in (2, 4)]
    journal.open(Checkpoint())
    for point in points:
        journal.add(point)
    journal.close()
    assert journal.last_checkpoint() == points[1]
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-9])
    assert journal.last_checkpoint() == points[0]
    journal.open(points[0])
    journal.close()
    assert asdict(journal.last_checkpoint()) == asdict(points[0])
    journal.finish()
    assert list(tmp_path.iterdir()) == []
