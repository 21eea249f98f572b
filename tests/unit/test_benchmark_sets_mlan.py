"""MLAN's sets: that they are the paper's, how RealWorldQA's texts are taken apart, and that no prompt knows its answer.

What becomes of a row of each set stands in tests/benchmarks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from mmkit.tasks import benchmarks
from mmkit.tasks.benchmarks.rows import to_records
from mmkit.tasks.prompts import ask

LETTER_ONLY = "Please answer directly with only the letter of the correct option and nothing else."
ONE_WORD = "Please answer directly with a single word or number."


def in_table(table: str) -> set[str]:
    return {name for name in benchmarks.names() if table in benchmarks.benchmark(name).tables}


def record(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    [found] = to_records(benchmarks.benchmark(name), row, "made", lambda image: (1, 1))
    return found


def test_the_nine_held_out_sets_are_those_of_the_results_table() -> None:
    assert in_table("MLAN Table 1") == {
        *("race", "openbookqa", "boolq", "hellaswag"),
        *("gqa", "realworldqa", "ai2d", "pope"),
        "scienceqa",
    }


def test_the_held_in_sets_are_the_rest_of_the_data_table() -> None:
    held_in = in_table("MLAN Table 3") - in_table("MLAN Table 1")
    arc = {"arc-easy", "arc-challenge"}
    assert held_in == {"squad", "cosmosqa", "strategyqa", "commonsenseqa", *arc, "vqav2", "a-okvqa"}


@pytest.mark.parametrize(
    ("text", "question", "choices"),
    [
        (f"Which sign is nearer?\n\nA. Stop\nB. Yield\n{LETTER_ONLY}", "Which sign is nearer?", ["Stop", "Yield"]),
        (f"Which?\nA. 2 m\nB. 5 m\nC. 9 m\nD. 20 m\n{LETTER_ONLY}\n", "Which?", ["2 m", "5 m", "9 m", "20 m"]),
        ("Which?\nA. the left one, i.e. B. Smith\nB. none", "Which?", ["the left one, i.e. B. Smith", "none"]),
        (f"It is blue.\nWhat is it?\nA. Sea\nB. Sky\n{LETTER_ONLY}", "It is blue.\nWhat is it?", ["Sea", "Sky"]),
    ],
)
def test_real_world_qa_has_its_options_and_instruction_taken_out_of_the_text(
    text: str, question: str, choices: list[str]
) -> None:
    found = record("realworldqa", {"image": "wide.png", "question": text, "answer": "B"})
    assert (found["task"], found["question"], found["choices"]) == ("realworldqa-choice", question, choices)
    assert found["answer"] == choices[1]


@pytest.mark.parametrize(
    ("text", "question"),
    [
        (f"How many cars are there? {ONE_WORD}", "How many cars are there?"),
        (f"Is the road wet?\n{ONE_WORD}", "Is the road wet?"),
        (f"Is plan A. or plan B. shown?\n\n{ONE_WORD}", "Is plan A. or plan B. shown?"),
    ],
)
def test_real_world_qa_without_options_is_a_short_answer(text: str, question: str) -> None:
    found = record("realworldqa", {"image": "wide.png", "question": text, "answer": "A"})
    assert (found["task"], found["question"], found["answer"]) == ("realworldqa-short", question, "A")
    assert "choices" not in found


FOUR = ["sand", "snow", "no", "yes"]
LABELLED = {"text": FOUR, "label": ["1", "2", "3", "4"]}
WITH_EVERY_ANSWER: list[tuple[str, dict[str, Any], str, list[Any]]] = [
    ("race", {"article": "A.", "question": "What?", "options": FOUR}, "answer", ["A", "B", "C", "D"]),
    ("boolq", {"passage": "A.", "question": "is it"}, "answer", [True, False]),
    ("openbookqa", {"id": "1", "question_stem": "What", "choices": LABELLED}, "answerKey", ["A", "B", "C", "D"]),
    ("hellaswag", {"activity_label": "A", "ctx": "B.", "endings": FOUR}, "label", ["0", "1", "2", "3"]),
    ("realworldqa", {"image": "a.png", "question": f"Is it? {ONE_WORD}"}, "answer", ["sand", "snow", "No", "Yes"]),
    ("ai2d", {"image": "a.png", "question": "What?", "options": FOUR}, "answer", ["0", "1", "2", "3"]),
    ("squad", {"id": "1", "context": "A.", "question": "What?"}, "answers", [{"text": [text]} for text in FOUR]),
    ("strategyqa", {"qid": "1", "question": "Is it?"}, "answer", [True, False]),
    ("arc-easy", {"id": "1", "question": "What?", "choices": LABELLED}, "answerKey", ["1", "2", "3", "4", "A", "D"]),
    ("a-okvqa", {"image": "a.png", "question": "What?", "choices": FOUR}, "correct_choice_idx", [0, 1, 2, 3]),
]


@pytest.mark.parametrize(("name", "row", "column", "golds"), WITH_EVERY_ANSWER)
def test_a_question_is_asked_alike_whatever_its_answer(
    name: str, row: Mapping[str, Any], column: str, golds: list[Any]
) -> None:
    found = [record(name, {**row, column: gold}) for gold in golds]
    assert len({ask(each) for each in found}) == 1
    assert len({each["task"] for each in found}) == 1
    assert len({str(each.get("answer") or each["answers"]) for each in found}) >= 2


@pytest.mark.parametrize(("key", "answer"), [("1", "sand"), ("4", "yes"), ("B", "snow"), ("d", "yes")])
def test_arc_answers_are_read_by_number_and_by_letter(key: str, answer: str) -> None:
    row = {"id": "1", "question": "What?", "choices": LABELLED, "answerKey": key}
    assert record("arc-challenge", row)["answer"] == answer
