"""Rows of interaction scores: there and back, typed in from a paper, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest

from mmkit.balance.interaction import InteractionRow, table
from mmkit.errors import DataError

WHOLE = InteractionRow(
    task="xor",
    score=1.4,
    score_text=0.7,
    score_image=0.7,
    se=0.02,
    ci95=(1.3, 1.5),
    n=812,
    draws=10,
    size=100,
    similarity="choice",
    unparsed=0,
    chance_text=0.7,
    chance_image=0.7,
    corrected=0.0,
    corrected_text=0.0,
    corrected_image=0.0,
    corrected_ci95=(-0.02, 0.02),
    accuracy=0.55,
    accuracy_chance=0.5,
    accuracy_ci95=(0.48, 0.61),
    marks=("few", "unlearned"),
)


def test_a_row_comes_back_from_a_file() -> None:
    assert InteractionRow.from_wire(orjson.loads(orjson.dumps(WHOLE.to_wire()))) == WHOLE


def test_a_row_typed_in_from_a_paper_needs_task_and_score() -> None:
    row = InteractionRow.from_wire({"task": "slake", "score": 2, "paper": "MINT"})
    assert row == InteractionRow("slake", 2.0)
    assert InteractionRow.from_wire(row.to_wire()) == row


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("task", None, "task: missing"),
        ("task", "", "task: missing"),
        ("task", 3, "task: expected a string"),
        ("score", None, "score: missing"),
        ("score", "1", "score: expected a number from 0 to 2, got '1'"),
        ("score", True, "score: expected a number"),
        ("score", math.nan, "score: expected a number"),
        ("score", 2.1, "score: expected a number from 0 to 2, got 2.1"),
        ("score_text", 1.5, "score_text: expected a number from 0 to 1"),
        ("se", -1, "se: expected"),
        ("ci95", [1.0], "ci95: expected two numbers"),
        ("ci95", [1.5, 1.3], "ci95: expected the lower bound first"),
        ("ci95", [0, 3], r"ci95\[1\]: expected a number from 0 to 2"),
        ("n", 0, "n: expected a whole number from 1"),
        ("unparsed", -1, "unparsed: expected a whole number from 0"),
        ("draws", 1.5, "draws: expected a whole number"),
        ("similarity", 3, "similarity: expected a string"),
        ("corrected", 2.5, "corrected: expected"),
        ("accuracy", 55, "accuracy: expected a number from 0 to 1"),
        ("marks", "few", "marks: expected a list"),
        ("marks", ["odd"], "marks: expected some of few, unlearned, undefined, unparsed, got 'odd'"),
        ("marks", [["few"]], "marks: expected some of"),
    ],
)
def test_what_is_no_row_is_refused_by_the_fields_name(field: str, value: Any, said: str) -> None:
    with pytest.raises(DataError, match=f"^{said}"):
        InteractionRow.from_wire({**WHOLE.to_wire(), field: value})


def test_rounding_takes_no_score_out_of_its_range() -> None:
    assert InteractionRow.from_wire({"task": "t", "score": 2 + 1e-15, "score_text": 1 + 1e-16}).score == 2 + 1e-15


def test_the_table_of_a_terminal() -> None:
    header, whole, typed = table([WHOLE, InteractionRow("slake", 2.0)])
    assert dict(zip(header, whole, strict=True)) == {
        "task": "xor",
        "score": "1.40",
        "95 % interval": "1.30 to 1.50",
        "text": "0.70",
        "image": "0.70",
        "corrected": "0.00",
        "accuracy": "0.55",
        "n": "812",
        "similarity": "choice",
        "marks": "few, unlearned",
    }
    assert typed == ["slake", "2.00", *[""] * 8]
