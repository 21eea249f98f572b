"""A set's own row becomes records by its definition: what each source says, what is dropped and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from mmkit.errors import DataError
from mmkit.records import check
from mmkit.tasks import benchmarks
from mmkit.tasks.benchmarks.rows import to_records, why_dropped

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
        ({"from": "a", "reshape": "joined"}, {"a": ["one", "two"]}, "one\ntwo"),
        ({"from": "a", "reshape": "joined"}, {"a": "one"}, "one"),
        ({"value": "always"}, {}, "always"),
        ({"from": "a", "drop": "!$", "map": {"1": "0"}, "reshape": "yes-no"}, {"a": "1!"}, "no"),
    ],
)
def test_a_source_says_where_a_value_is_and_what_to_do_with_it(source: Any, row: dict[str, Any], expected: str) -> None:
    assert answer(source, row) == expected


@pytest.mark.parametrize(
    ("source", "row"),
    [
        ("a", {}),
        ("a", {"a": None}),
        ("a", {"a": " "}),
        ("a", {"a": float("nan")}),
        ("a.b", {"a": None}),
        ("a.b", {"a": {}}),
        ("a[0].b", {"a": []}),
        ("a[0].b", {"a": [{}]}),
        ("{a}.jpg", {"a": ""}),
        ({"from": "a", "drop": ".*"}, {"a": "all of it"}),
        ({"from": "a", "map": {"nan": ""}}, {"a": "nan"}),
        ({"from": "a", "reshape": "yes-no"}, {"a": None}),
    ],
)
def test_what_is_not_there_is_no_answer(source: Any, row: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"^set: answer: column a.* is missing or empty"):
        answer(source, row)


@pytest.mark.parametrize(
    ("source", "row", "said"),
    [
        ("a", {"a": True}, "column a: expected a text, got a bool"),
        ("a", {"a": {"b": 1}}, "column a: expected a text, got a dict"),
        ("a.b", {"a": "text"}, "column a.b: expected an object with b, got a str"),
        ("a[0].b", {"a": {"b": 1}}, r"column a\[0\].b: expected a list in a, got a dict"),
        ("{a}!", {"a": ["x"]}, "a: expected a text, got a list"),
        ({"from": "a", "labels": ["x"]}, {"a": 1}, "column a: expected a label from 0 to 0, got 1"),
        ({"from": "a", "labels": ["x"]}, {"a": True}, "column a: expected a label from 0 to 0, got True"),
        ({"from": "a", "reshape": "yes-no"}, {"a": "maybe"}, "column a: expected true or false, got 'maybe'"),
        ({"from": "a", "reshape": "yes-no"}, {"a": 2}, "column a: expected true or false, got 2"),
    ],
)
def test_a_column_of_another_shape_is_refused_by_name(source: Any, row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=f"^set: .*{said}"):
        answer(source, row)


LETTERED = defined(
    {"question": "q", "choices": ["A", "B", "C"], "answer": {"from": "gold", "reshape": "letter"}}, {"one": CHOICE}
)


def test_a_letter_means_its_place_though_an_option_before_it_is_empty() -> None:
    [record] = records(LETTERED, {"q": "Which?", "A": None, "B": " ", "C": "third", "gold": "(C)"})
    assert (record["choices"], record["answer"]) == (["third"], "third")


@pytest.mark.parametrize("gold", ["B", "D", "Z", "", "AB", 1, None])
def test_a_letter_that_names_no_option_is_refused(gold: Any) -> None:
    with pytest.raises(DataError, match="set: "):
        records(LETTERED, {"q": "Which?", "A": "x", "B": None, "C": "y", "gold": gold})


@pytest.mark.parametrize(
    ("reshape", "gold", "expected"),
    [
        ("index", 0, "x"),
        ("index", "1", "y"),
        ("index", 1.0, "y"),
        ("number", 1, "x"),
        ("number", "2", "y"),
        ("letter", "b.", "y"),
        ("letter-or-text", "A", "x"),
    ],
)
def test_an_option_is_named_by_its_place(reshape: str, gold: Any, expected: str) -> None:
    options = defined(
        {"question": "q", "choices": "options", "answer": {"from": "gold", "reshape": reshape}}, {"one": CHOICE}
    )
    [record] = records(options, {"q": "Which?", "options": ["x", "y"], "gold": gold})
    assert record["answer"] == expected


@pytest.mark.parametrize(("reshape", "gold"), [("index", 2), ("index", -1), ("index", True), ("number", 0)])
def test_a_place_outside_the_options_is_refused(reshape: str, gold: Any) -> None:
    options = defined(
        {"question": "q", "choices": "options", "answer": {"from": "gold", "reshape": reshape}}, {"one": CHOICE}
    )
    with pytest.raises(DataError, match="set: column gold: "):
        records(options, {"q": "Which?", "options": ["x", "y"], "gold": gold})


@pytest.mark.parametrize(
    ("reshape", "value", "expected"),
    [
        ("list", '["a", "b"]', ["a", "b"]),
        ("list", "['a', \"it's\"]", ["a", "it's"]),
        ("list", ["a", None, " "], ["a"]),
        ("commas", "a, b,,c ", ["a", "b", "c"]),
        ("lines", "a\n\n b\n", ["a", "b"]),
    ],
)
def test_a_text_becomes_a_list(reshape: str, value: Any, expected: list[str]) -> None:
    several = defined({"question": "q", "answers": {"from": "a", "reshape": reshape}})
    assert records(several, {"q": "What?", "a": value})[0]["answers"] == expected


def test_an_empty_place_in_a_list_is_left_out_before_anything_is_done_to_it() -> None:
    several = defined({"question": "q", "answers": {"from": "a", "labels": ["cat", "dog"]}})
    assert records(several, {"q": "What?", "a": [1, None, 0]})[0]["answers"] == ["dog", "cat"]


@pytest.mark.parametrize("value", ["no list", "{'a': 1}", "__import__('os')", "[" * 10_000, 7])
def test_a_text_that_is_no_list_is_refused(value: Any) -> None:
    several = defined({"question": "q", "answers": {"from": "a", "reshape": "list"}})
    with pytest.raises(DataError, match="set: column a: expected a list written as text"):
        records(several, {"q": "What?", "a": value})


@pytest.mark.parametrize(
    ("reshape", "box", "expected"),
    [
        ("box-xywh", [20, 10, 60, 40], "[0.10, 0.10, 0.40, 0.50]"),
        ("box-xyxy", [20.0, 10.0, 80.0, 50.0], "[0.10, 0.10, 0.40, 0.50]"),
        ("box-xyxy", [-5, 0, 201, 100], "[0.00, 0.00, 1.00, 1.00]"),
    ],
)
def test_a_box_is_written_in_parts_of_width_and_height(reshape: str, box: list[float], expected: str) -> None:
    boxed = defined({"question": "q", "images": "img", "answer": {"from": "box", "reshape": reshape}})
    assert records(boxed, {"q": "Where?", "img": "wide.png", "box": box})[0]["answer"] == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a.png", [{"path": "a.png"}]),
        ("data:image/png;base64,AA==", [{"path": "data:image/png;base64,AA=="}]),
        (b"bytes", [{"bytes": b"bytes"}]),
        ({"bytes": b"bytes", "path": None}, [{"bytes": b"bytes"}]),
        ({"bytes": None, "path": "a.png"}, [{"path": "a.png"}]),
        (["a.png", None, {"bytes": b"b", "path": "c.png"}], [{"path": "a.png"}, {"bytes": b"b", "path": "c.png"}]),
    ],
)
def test_an_image_comes_as_path_bytes_both_or_a_list(value: Any, expected: list[Any]) -> None:
    pictured = defined({"question": "q", "answer": "a", "images": "img"})
    assert records(pictured, {"q": "What?", "a": "This", "img": value})[0]["images"] == expected


@pytest.mark.parametrize("value", [7, {"bytes": None, "path": None}, ["a.png", 7], {"url": "a.png"}])
def test_what_is_no_image_is_refused(value: Any) -> None:
    pictured = defined({"question": "q", "answer": "a", "images": "img"})
    with pytest.raises(DataError, match="set: images: "):
        records(pictured, {"q": "What?", "a": "This", "img": value})


TASKS = defined(
    {"question": "q", "answer": "a", "images": "img"},
    {
        "seen": {**SHORT, "where": {"kind": ["open", 1]}, "present": ["img"]},
        "unseen": {**SHORT, "where": {"kind": ["open", 1]}, "absent": ["img"]},
        "why": {**SHORT, "matching": {"q": "^Why"}},
    },
)


@pytest.mark.parametrize(
    ("row", "task"),
    [
        ({"kind": "open", "img": "a.png"}, "seen"),
        ({"kind": 1, "img": None}, "unseen"),
        ({"kind": True, "img": "a.png", "q": "Why so?"}, "why"),
        ({"kind": "OPEN", "img": "a.png"}, None),
        ({"img": "a.png", "q": "But why?"}, None),
    ],
)
def test_a_row_belongs_to_the_first_task_that_fits(row: dict[str, Any], task: str | None) -> None:
    found = records(TASKS, {"q": "What?", "a": "This", **row})
    assert [record["task"] for record in found] == ([task] if task else [])


def test_a_row_of_no_task_is_dropped_with_what_decided() -> None:
    said = why_dropped(TASKS, {"q": "What?", "kind": "closed", "img": "a.png"})
    assert said == "belongs to no task of set (kind: 'closed', img: 'a.png', q: 'What?')"


def test_a_row_of_several_questions_gives_a_record_each() -> None:
    several = defined({"id": "n", "question": "qs.text", "answer": "as", "image_id": "n"}, each=["qs", "as"])
    row = {"n": 5, "qs": [{"text": "One?"}, {"text": "Two?"}], "as": ["1", "2"]}
    assert [(r["id"], r["question"], r["answer"], r["image_id"]) for r in records(several, row)] == [
        ("set-5-0", "One?", "1", 5),
        ("set-5-1", "Two?", "2", 5),
    ]
    with pytest.raises(DataError, match="set: columns of one length are expected, got qs 2, as 1"):
        records(several, {**row, "as": ["1"]})


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"hubs": "x"}, "unknown key 'hubs'"),
        ({"split": "dev"}, "split: 'dev' is none of the splits"),
        ({"overall": "median"}, "overall: expected mean or sum"),
        ({"fields": {"question": "q"}}, "neither answer nor answers"),
        ({"fields": {"answer": "a", "task": "t"}}, "fields.task: is not a set's to fill"),
        ({"fields": {"answer": 3}}, "fields.answer: 3 is no source"),
        ({"fields": {"answer": "a["}}, "fields.answer: 'a\\[' is no column"),
        ({"fields": {"answer": {"form": "a"}}}, "fields.answer: unknown key 'form'"),
        ({"fields": {"answer": {"from": "a", "value": "b"}}}, "either `from` or `value`"),
        ({"fields": {"answer": {"from": "a", "reshape": "upper"}}}, "reshape: unknown 'upper'; known: index,"),
        ({"fields": {"answer": {"from": "a", "drop": "("}}}, "fields.answer: drop: "),
        ({"fields": {"answer": {"from": "a", "map": {"x": 1}}}}, "map: expected a table of texts"),
        ({"fields": {"answer": {"from": "a", "labels": "x"}}}, "labels: expected a list of texts"),
        ({"tasks": {"t": {"metric": "em"}}}, "tasks.t: answer_type is missing"),
        ({"tasks": {"t": {**SHORT, "answer_type": "word"}}}, "tasks.t: answer_type: unknown 'word'"),
        ({"tasks": {"t": {**SHORT, "metric": "accuracy"}}}, "tasks.t: metric: unknown 'accuracy'; known: em,"),
        ({"tasks": {"t": {**SHORT, "prompt": "{query}"}}}, "tasks.t: prompt: unknown {query}"),
        ({"tasks": {"t": {**SHORT, "statement": "{question}"}}}, "tasks.t: statement: unknown {question}"),
        ({"tasks": {"t": {**SHORT, "matching": {"q": "("}}}}, "tasks.t: matching.q: "),
        ({"tasks": {"t": {**SHORT, "when": {}}}}, "tasks.t: unknown key 'when'"),
    ],
)
def test_a_definition_that_cannot_be_meant_is_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^benchmark set: .*{said}"):
        defined(**{"fields": {"answer": "a"}, **keys})


def test_the_listing_names_every_task_and_unsupported_set() -> None:
    header, *rows = benchmarks.listing()
    assert header == ["benchmark", "task", "answer", "metric", "split", "hub", "tables"]
    assert {row[0] for row in rows} == set(benchmarks.names())
    assert all(len(row) == len(header) for row in rows)
    slake = [row for row in rows if row[0] == "slake"]
    assert [row[1:4] for row in slake] == [
        ["slake-open", "short", "token-recall"],
        ["slake-closed", "yes-no", "closed"],
    ]
    assert ["lncoco", "", "", "unsupported", "", "", "MINT Table 2"] in rows


def test_a_definition_goes_through_a_pipe() -> None:
    assert benchmarks.benchmark("pmc-vqa").to_wire() == {
        "name": "pmc-vqa",
        "title": "PMC-VQA",
        "hub": "AdaptLLM/biomed-VQA-benchmark",
        "config": "PMC-VQA",
        "splits": ["test"],
        "split": "test",
        "tables": ["AdaMLLM Table 2"],
        "notes": benchmarks.benchmark("pmc-vqa").notes,
        "tasks": [{"task": "pmc-vqa", "answer_type": "choice", "metric": "mc"}],
    }
