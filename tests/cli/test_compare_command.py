"""mmkit compare as a user calls it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_kit import Mmkit

from mmkit.streams import read_records

Write = Callable[..., str]


def scores(**values: float) -> list[dict[str, Any]]:
    return [{"task": task, "metric": "score", "value": value} for task, value in values.items()]


@pytest.fixture(autouse=True)
def files(write: Write) -> None:
    write("stl.jsonl", scores(vqa=50, ocr=40, chat=1))
    write("ew.jsonl", scores(vqa=55, ocr=38, chat=2, mme=1000))
    write("s0.jsonl", scores(vqa=60, ocr=40, chat=2, mme=1100))
    write("s1.jsonl", scores(vqa=70, ocr=40, chat=2, mme=1300))


def test_the_averages_of_several_methods_and_seeds(mmkit: Mmkit) -> None:
    done = mmkit(
        *("compare", "--baseline", "stl.jsonl", "ew.jsonl", "tuned=s0.jsonl,s1.jsonl"),
        *("--exclude", "chat", "--zero-shot", "mme", "--zero-baseline", "ew"),
    )
    assert done.code == 0, done.err
    summaries = {row["method"]: row for row in done.rows() if row["kind"] == "summary"}
    figures = {
        name: [row[field] for field in ("num_seeds", "num_tasks", "num_zero_shot")]
        + [row[field] and round(row[field], 6) for field in FIGURES]
        for name, row in summaries.items()
    }
    # By hand: ew (10 - 5) / 2 and 5 / 2; tuned (20 + 0) / 2 and (40 + 0) / 2, on mme 10 and 30.
    assert figures == {
        "stl": [1, 2, 0, 0, None, 0, None, None, None],
        "ew": [1, 2, 1, 2.5, None, 2.5, None, 0, None],
        "tuned": [2, 2, 1, 15, round(50**0.5, 6), 0, 0, 20, round(200**0.5, 6)],
    }
    assert {"task": "chat", "metric": None, "rule": None, "reason": "excluded"} in summaries["tuned"]["left_out"]
    tasks = [(row["method"], row["task"], row["reference"]) for row in done.rows() if row["kind"] == "task"]
    assert ("tuned", "mme", "ew") in tasks and ("ew", "mme", "ew") not in tasks and len(tasks) == 7


FIGURES = (
    "delta_i_percent",
    "delta_i_percent_sd",
    "delta_e_percent",
    "delta_e_percent_sd",
    "delta_i_zero_percent",
    "delta_i_zero_percent_sd",
)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ew.jsonl", "ew.jsonl"], 2, "ew.jsonl is given twice"),
        (["stl=ew.jsonl"], 2, "two methods are named stl; name them apart: NAME=FILE"),
        (["ew.jsonl", "--exclude", "vqq"], 2, "--exclude vqq: no such task in the scores; there are: vqa, ocr, chat"),
        (["ew.jsonl", "--zero-baseline", "xl"], 2, "--zero-baseline xl: no method of that name; there are: stl, ew"),
        (["text.jsonl"], 65, "text.jsonl:1: neither a score row nor a record with its score"),
        (["other.jsonl"], 65, "other has no task and metric in common with stl\nother: speech score\nstl: vqa score, "),
        (["huge.jsonl"], 65, "huge.jsonl:1: value: expected a number between -1e50 and 1e50"),
        (["ew.jsonl", "-o", "./stl.jsonl"], 2, "-o ./stl.jsonl: is one of the files to compare, and would be lost"),
        (["gone.jsonl"], 66, "gone.jsonl: no such file"),
    ],
)
def test_mistakes_are_told(mmkit: Mmkit, write: Write, arguments: list[str], code: int, message: str) -> None:
    write("text.jsonl", [{"id": "1", "prediction": "a"}])
    write("other.jsonl", scores(speech=1))
    write("huge.jsonl", scores(vqa=1e308))
    done = mmkit("compare", "--baseline", "stl.jsonl", *arguments)
    assert (done.code, done.out) == (code, b"")
    assert done.err.startswith(f"mmkit compare: {message}")


def test_records_scored_one_by_one_are_compared_like_score_rows(mmkit: Mmkit, write: Write) -> None:
    """And an id that both have is paired, whatever the order of the files."""
    for name, replies in (("before", "xbxx"), ("after", "abcx")):
        records = [
            {"id": f"q{i}", "question": "?", "answer": answer, "prediction": reply}
            for i, (answer, reply) in enumerate(zip("abcd", replies, strict=True))
        ]
        write(f"{name}.jsonl", records[:: 1 if name == "before" else -1])
        assert mmkit("eval", f"{name}.jsonl", "-o", f"{name}.rows.jsonl").code == 0
        assert mmkit("eval", "--per-sample", f"{name}.jsonl", "-o", f"{name}.samples.jsonl").code == 0
    found = [
        mmkit("compare", "--baseline", f"a=before.{kind}.jsonl", f"b=after.{kind}.jsonl")
        for kind in ("rows", "samples")
    ]
    assert found[0].out == found[1].out and found[0].code == 0
    row = found[0].rows()[0]
    assert (row["baseline"], row["value"], row["n_paired"], row["test"], row["p_value"]) == (25, 75, 4, "McNemar", 0.5)


def test_one_side_may_come_from_a_pipe(mmkit: Mmkit) -> None:
    done = mmkit("compare", "--baseline", "stl.jsonl", "-", stdin=b'{"task":"vqa","metric":"score","value":60}\n')
    assert done.code == 0, done.err
    assert [row["method"] for row in done.rows() if row["kind"] == "summary"] == ["stl", "stdin"]


def test_a_named_pipe_takes_the_rows_and_stays_one(mmkit: Mmkit, tmp_path: Path) -> None:
    """And so does /dev/null, which root must not find replaced by a file."""
    pipe = tmp_path / "rows"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert mmkit("compare", "--baseline", "stl.jsonl", "ew.jsonl", "-o", str(pipe)).code == 0
        assert pipe.is_fifo() and b'"kind":"summary"' in os.read(reader, 1 << 16)
    finally:
        os.close(reader)


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.json", "rows.arrow", "rows.parquet"])
def test_a_file_has_the_format_of_its_name(mmkit: Mmkit, tmp_path: Path, name: str) -> None:
    command = ["compare", "--baseline", "stl.jsonl", "tuned=s0.jsonl,s1.jsonl", "--zero-shot", "mme"]
    assert mmkit(*command, "-o", name).code == 0
    rows = [{key: value for key, value in row.items() if key != "id"} for row in read_records(str(tmp_path / name))]
    assert rows == mmkit(*command).rows()
    assert not (tmp_path / f"{name}.part").exists()
