"""A set's own row becomes records by its definition: what each source says, what is dropped and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from mmkit.records import check
from mmkit.tasks import benchmarks
from mmkit.tasks.benchmarks.rows import to_records

SHORT = {"answer_type": "short", "metric": "em"}
CHOICE = {"answer_type": "choice", "metric": "mc"}


def defined(fields: Mapping[str, Any], tasks: Mapping[str, Any] | None = None, **keys: Any) -> benchmarks.Benchmark:
    table = {"title": "A set", "tables": [], "splits": ["test"], "split": "test", "fields": fields, **keys}
    return benchmarks._from_table("set", {**table, "tasks": tasks or {"one": SHORT}})


def size_of(image: Mapping[str, Any]) -> tuple[int, int]:
    return {"wide.png": (200, 100)}[image["path"]]


def records(benchmark: benchmarks.Benchmark, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = to_records(benchmark, row, "made", size_of)
    for record in found:
        check(record)
    return found


def answer(source: Any, row: Mapping[str, Any]) -> Any:
    """What a source makes of a row, seen as the answer of an otherwise plain record."""
    [record] = records(defined({"question": "q", "answer": source}), {"q": "What?", **row})
    return record["answer"]


def test_a_row_becomes_a_record_that_names_its_definition() -> None:
    plain = defined({"id": "qid", "question": "question", "answer": "answer", "images": "img"})
    assert records(plain, {"qid": 7, "question": " What? ", "answer": 3, "img": "a.png", "license": "CC"}) == [
        {
            "id": "set-7",
            "benchmark": "set",
            "task": "one",
            "images": [{"path": "a.png"}],
            "question": "What?",
            "answer": "3",
        }
    ]


def test_a_row_without_an_id_takes_the_one_that_is_made_for_it() -> None:
    plain = defined({"id": "qid", "question": "q", "answer": "a"})
    assert records(plain, {"qid": None, "q": "What?", "a": "This"})[0]["id"] == "set-made"


@pytest.mark.parametrize(
    ("source", "row", "expected"),
    [
        ("a.b", {"a": {"b": "inside"}}, "inside"),
        ("a.b", {"a.b": "a name with a dot", "a": {"b": "inside"}}, "a name with a dot"),
        ("turns[1].value", {"turns": [{"value": "asked"}, {"value": "said"}]}, "said"),
        ("{x} and {y.z}", {"x": 1, "y": {"z": "two"}}, "1 and two"),
        ({"from": "a", "drop": r"^[A-D]: *"}, {"a": "B: lung"}, "lung"),
        ({"from": "a", "map": {"true": "yes"}}, {"a": True}, "yes"),
        ({"from": "a", "map": {"1": "one"}}, {"a": 1}, "one"),
        ({"from": "a", "map": {"1": "one"}}, {"a": "2"}, "2"),
        ({"from": "a", "labels": ["cat", "dog"]}, {"a": 1}, "dog"),
        ({"from": "a", "reshape": "yes-no"}, {"a": False}, "no"),
        ({"from": "a", "reshape": "yes-no"}, {"a": 1}, "yes"),
        ({"from": "a", "reshape": "yes-no"}, {"a": "No"}, "no"),
        ({"value": "always"}, {}, "always"),
        ({"from": "a", "drop": "!$", "map": {"1": "0"}, "reshape": "yes-no"}, {"a": "1!"}, "no"),
    ],
)
def test_a_source_says_where_a_value_is_and_what_to_do_with_it(source: Any, row: dict[str, Any], expected: str) -> None:
    assert answer(source, row) == expected
