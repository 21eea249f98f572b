"""Methods named on the command line, and what their files may hold."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mmkit.errors import DataError, MissingInputError, UsageError
from mmkit.evaluation.method_files import read_methods

SCORE = {"task": "vqa", "metric": "em", "value": 50.0}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def scored(name: str, score: float, **fields: Any) -> dict[str, Any]:
    return {
        "id": name, "task": "vqa", "question": "?", "answer": "a", "prediction": "a",
        "metric": "em", "rule": "strict", "score": score, "parsed": "a",
    } | fields  # fmt: skip


def test_a_file_names_its_method_unless_a_name_is_given() -> None:
    for name in ("runs/llava-1.5.jsonl", "ew.jsonl", "a=b,c.jsonl", "s0.jsonl", "s1.jsonl"):
        write(name, [SCORE])
    found = read_methods(["runs/llava-1.5.jsonl", "equal=ew.jsonl", "a=b,c.jsonl", "tuned=s0.jsonl,s1.jsonl"])
    assert [(method.name, len(method.seeds)) for method in found] == [
        ("llava-1.5", 1),
        ("equal", 1),
        ("a=b,c", 1),
        ("tuned", 2),
    ]


def test_records_scored_one_by_one_are_made_rows_of() -> None:
    rows = [scored("q1", 100.0), scored("q2", 0.0, parsed=None), scored("q3", 100.0, task="ocr")]
    write("a.jsonl", [*rows, {**SCORE, "task": "typed-in"}])
    (method,) = read_methods(["a.jsonl"])
    row = method.seeds[0]["vqa", "em", "strict"]
    assert (row.value, row.n, row.unparsed) == (50, 2, 1)
    assert row.samples is not None and list(row.samples.ids) == ["q1", "q2"]
    assert [key[0] for key in method.keys] == ["typed-in", "ocr", "vqa"]


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["a.jsonl", "b=./a.jsonl"], "./a.jsonl is given twice"),
        (["-", "x=-"], "- is given twice"),
        (["a.jsonl,b.jsonl"], "a.jsonl,b.jsonl: several files need a name: NAME=a.jsonl,b.jsonl"),
        (["x=a.jsonl,,b.jsonl"], "x=a.jsonl,,b.jsonl: expected FILE or NAME=FILE,FILE"),
        (["=a.jsonl"], "=a.jsonl: expected FILE or NAME=FILE,FILE"),
    ],
)
def test_what_cannot_be_meant_is_refused(specs: list[str], message: str) -> None:
    write("a.jsonl", [SCORE])
    with pytest.raises(UsageError) as caught:
        read_methods(specs)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "1", "prediction": "a"}, "neither a score row nor a record with its score (mmkit eval writes both)"),
        ({**SCORE, "value": "high"}, "value: expected a finite number, got 'high'"),
        (scored("q1", 1.0, metric="words"), "metric: unknown metric 'words'; known: em, "),
        (scored("q1", 1.0, id=None), "id: missing"),
    ],
)
def test_a_file_of_something_else_is_told_with_its_line(row: dict[str, Any], message: str) -> None:
    write("a.jsonl", [SCORE, row])
    with pytest.raises(DataError) as caught:
        read_methods(["a.jsonl"])
    assert str(caught.value).startswith(f"a.jsonl:2: {message}")


def test_an_empty_file_and_one_that_is_not_there() -> None:
    write("a.jsonl", [])
    with pytest.raises(DataError, match=r"a\.jsonl: no score rows"):
        read_methods(["a.jsonl"])
    with pytest.raises(MissingInputError, match=r"gone\.jsonl: no such file"):
        read_methods(["x=gone.jsonl"])
