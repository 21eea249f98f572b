"""`mmkit eval` as it is typed: metrics, judges, benchmarks, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_kit import Mmkit, on_terminal

ROWS = [
    {"id": "1", "question": "How many?", "answer": "3", "prediction": "The answer is 3."},
    {"id": "2", "question": "How many?", "answer": "3", "prediction": "four"},
]


@pytest.fixture
def predictions(tmp_path: Path) -> str:
    return write(tmp_path / "p.jsonl", ROWS)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_every_metric_is_named_where_one_is_misspelt(mmkit: Mmkit, predictions: str) -> None:
    done = mmkit("eval", predictions, "--metric", "rogue-l")
    assert done.code == 2 and "rouge-l" in done.err and "Traceback" not in done.err


def test_a_rule_that_the_metric_has_not(mmkit: Mmkit, predictions: str) -> None:
    done = mmkit("eval", predictions, "--metric", "em", "--rule", "adamllm")
    assert done.code == 2 and "metric em has no rule 'adamllm'; it has: strict" in done.err


@pytest.mark.parametrize("options", [[], ["--metric", "em"], ["--judge", "mm-vet", "--model", "gone"]])
def test_a_rule_by_which_no_row_could_be_scored_is_refused_before_any_is(
    mmkit: Mmkit, predictions: str, tmp_path: Path, options: list[str]
) -> None:
    rejects = tmp_path / "r.jsonl"
    done = mmkit("eval", predictions, *options, "--rule", "strikt", "--rejects", str(rejects))
    assert done.code == 2 and "'strikt'; " in done.err and not rejects.exists()


def test_ids_that_come_again_are_told(mmkit: Mmkit, predictions: str, tmp_path: Path) -> None:
    """Two models' files scored as one would be, where nothing says who answered."""
    assert (
        "; 2 ids come more than once, such as '1'\n"
        in mmkit("eval", predictions, write(tmp_path / "again.jsonl", ROWS)).err
    )
    assert "more than once" not in mmkit("eval", predictions).err


def test_per_sample_says_what_was_understood(mmkit: Mmkit, predictions: str) -> None:
    done = mmkit("eval", predictions, "--per-sample")
    assert [(row["parsed"], row["score"]) for row in done.rows()] == [("3", 100.0), ("four", 0.0)]
    assert done.rows()[0]["question"] == "How many?"


def test_a_bad_row_at_the_end_costs_itself_alone(mmkit: Mmkit, tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [*ROWS, {"id": "3", "prediction": "x"}])
    assert mmkit("eval", path).code == 65
    done = mmkit("eval", path, "--rejects", str(tmp_path / "r.jsonl"))
    assert done.code == 0 and done.rows()[0]["n"] == 2
    assert "3 rows in, 2 kept (as 1 rows out), 0 dropped, 1 rejected" in done.err


def test_metrics_may_differ_from_row_to_row(mmkit: Mmkit, tmp_path: Path) -> None:
    caption = {"id": "c", "metric": "cider", "task": "captions", "answers": ["a red bus"], "prediction": "a red bus"}
    path = write(tmp_path / "p.jsonl", [caption, *ROWS, {**caption, "id": "d", "answers": ["two dogs"]}])
    assert [(row["task"], row["metric"], row["n"]) for row in mmkit("eval", path).rows()] == [
        ("captions", "cider", 2),
        ("default", "em", 2),
    ]
    scored = mmkit("eval", path, "--per-sample").rows()
    assert [row["id"] for row in scored] == ["c", "1", "2", "d"]
    assert scored[0]["score"] > 0 and scored[3]["score"] == 0


def test_a_judge_grades_through_an_engine(mmkit: Mmkit, tmp_path: Path, predictions: str) -> None:
    grades = write(tmp_path / "grades.jsonl", [{"id": "1", "text": "1.0"}, {"id": "2", "text": "I give it 0.1"}])
    asked = ["eval", predictions, "--judge", "mm-vet", "--engine", "replay", "--answers", grades]
    strict = mmkit(*asked)
    assert strict.code == 65 and "did not keep to the form: 'I give it 0.1'" in strict.err
    done = mmkit(*asked, "--rejects", str(tmp_path / "r.jsonl"), "--per-sample", "-o", str(tmp_path / "judged.jsonl"))
    assert done.code == 0
    (row,) = mmkit("eval", str(tmp_path / "judged.jsonl"), "--metric", "mm-vet").rows()
    assert row["value"] == 100 and row["rule"].startswith("judge: replay, prompt ")


def test_the_table_of_a_judged_run_is_on_stdout(tmp_path: Path, predictions: str) -> None:
    """Not where the engine's words go: with 2>/dev/null a user would see nothing."""
    grades = write(tmp_path / "grades.jsonl", [{"id": "1", "text": "1.0"}, {"id": "2", "text": "0.0"}])
    asked = ["eval", predictions, "--judge", "mm-vet", "--engine", "replay", "--answers", grades]
    assert "50.0 %" in on_terminal(asked, tmp_path)


@pytest.mark.parametrize("last", ['{"id": "2"', '{"id": "2", "prediction": "x"}', '{"id": "2", "question": "?"}'])
def test_no_figure_comes_out_of_a_strict_run_that_a_last_bad_row_ends(mmkit: Mmkit, tmp_path: Path, last: str) -> None:
    grades = write(tmp_path / "grades.jsonl", [{"id": "1", "text": "1.0"}, {"id": "2", "text": "1.0"}])
    asked = ["eval", str(tmp_path / "bad.jsonl"), "--judge", "mm-vet", "--engine", "replay", "--answers", grades]
    (tmp_path / "bad.jsonl").write_text(json.dumps(ROWS[0]) + "\n" + last + "\n")
    done = mmkit(*asked)
    assert done.code == 65 and "bad.jsonl:2: " in done.err and not done.out
    told = mmkit(*asked, "--rejects", str(tmp_path / "r.jsonl"))
    assert [row["n"] for row in told.rows()] == [1]
    assert "2 rows in, 1 kept, 0 dropped, 1 rejected" in told.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "m"], "no model is asked here"),
        (["--judge", "mm-vet", "--benchmark", "slake"], "ask two models"),
        (["--judge", "mm-vet", "--metric", "em"], "leave --metric out"),
        (["--judge-prompt", "x.txt"], "--judge-prompt needs --judge"),
        (["--split", "test"], "--split needs --benchmark"),
        (["--benchmark", "slake"], "--model"),
        (["--benchmark", "salke", "--model", "m"], "unknown benchmark 'salke'"),
        (["--judge", "mm-vet"], "--model"),
    ],
)
def test_options_that_contradict_each_other(mmkit: Mmkit, predictions: str, options: list[str], words: str) -> None:
    done = mmkit("eval", predictions, *options)
    assert done.code == 2 and words in done.err and not done.out


def test_the_list_needs_no_input(mmkit: Mmkit) -> None:
    rows = mmkit("eval", "--list").rows()
    assert {"slake", "pope", "mme", "vqav2", "race", "vizwiz"} <= {row["name"] for row in rows}
    assert all(row.get("unsupported") or row["tasks"] for row in rows)
