"""What score-interaction shows a model: both as predict asks, the text without images, the images with a statement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmkit.balance.views import DEFAULT_STATEMENTS, Shown, Statements, load_statements, shown
from mmkit.errors import DataError, MissingInputError, UsageError
from mmkit.records import message, parts_text
from mmkit.tasks import benchmarks
from mmkit.tasks.prompts import conversation

FIXTURES = Path(__file__).parents[1] / "benchmarks"
OF_MINT = [
    name
    for name in benchmarks.names()
    if any(table.startswith("MINT") for table in benchmarks.benchmark(name).tables)
    and not benchmarks.benchmark(name).unsupported
]
RECORD = {
    "id": "1",
    "task": "t",
    "images": [{"path": "a.png"}],
    "context": "It is a page of a book.",
    "question": "Which colour has the thing?",
    "choices": ["red", "blue"],
    "answer": "red",
}


def text_of(seen: Shown) -> str:
    return "\n".join(parts_text(turn) for turn in seen.messages)


def num_image_parts(seen: Shown) -> int:
    return sum(part["type"] == "image" for turn in seen.messages for part in turn["content"])


def test_both_is_what_predict_asks_and_text_is_the_same_without_images() -> None:
    both, text = (shown(RECORD, view, Statements()) for view in ("both", "text"))
    assert list(both.messages) == conversation(RECORD)
    assert both.images == RECORD["images"]
    assert text_of(text) == text_of(both) == "It is a page of a book.\nWhich colour has the thing?\nA. red\nB. blue"
    assert (num_image_parts(text), list(text.images)) == (0, [])


def test_the_image_is_seen_with_a_statement_and_the_choices_and_nothing_else_of_the_sample() -> None:
    image = shown(RECORD, "image", Statements())
    assert text_of(image) == f"{DEFAULT_STATEMENTS['choice']}\nA. red\nB. blue"
    assert (num_image_parts(image), image.images) == (1, RECORD["images"])


def test_the_image_parts_come_first_so_that_both_views_of_an_image_begin_alike() -> None:
    several = {**RECORD, "images": [{"path": "a.png"}, {"path": "b.png"}]}
    for view in ("both", "image"):
        kinds = [part["type"] for part in shown(several, view, Statements()).messages[0]["content"]]  # type: ignore[arg-type]
        assert kinds == ["image", "image", "text"]


def test_a_statement_comes_from_the_file_then_the_benchmark_then_the_shared_question_then_the_answer_type() -> None:
    nlvr = {**RECORD, "benchmark": "nlvr", "task": "nlvr", "choices": ["true", "false"], "answer": "true"}
    of_file, none = Statements({"nlvr": "True or false?"}), Statements()
    for statements in (of_file, none):
        statements.learn("nlvr", [nlvr, nlvr])
    assert [of_file.source(nlvr), none.source(nlvr)] == ["file", "benchmark"]
    assert text_of(shown(nlvr, "image", of_file)) == "True or false?", "the set's own prompt lists no choices"
    assert "statement is made" in text_of(shown(nlvr, "image", none))
    assert none.source(RECORD) == "default"
    none.learn("t", [RECORD, {**RECORD, "context": "another"}])
    assert none.source(RECORD) == "question"
    assert text_of(shown(RECORD, "image", none)) == "Which colour has the thing?\nA. red\nB. blue"


def test_one_record_alone_has_no_question_that_could_be_the_tasks() -> None:
    alone, differing = Statements(), Statements()
    alone.learn("t", [RECORD])
    differing.learn("t", [RECORD, {**RECORD, "question": "Where is it?"}])
    assert [alone.source(RECORD), differing.source(RECORD)] == ["default", "default"]


def test_a_statement_says_where_the_choices_stand() -> None:
    seen = shown(RECORD, "image", Statements({"t": "One of these:\n{choices}\nWhich?"}))
    assert text_of(seen) == "One of these:\nA. red\nB. blue\nWhich?"


def test_an_image_is_never_shown_without_a_word() -> None:
    with pytest.raises(DataError, match=r"^choices: the task's statement is made of them alone"):
        shown({**RECORD, "choices": []}, "image", Statements({"t": "{choices}"}))


def test_a_conversation_is_asked_as_predict_asks_it_and_needs_a_statement_for_its_image() -> None:
    turns = [message("user", "What is it?", 1), message("assistant", "A cat."), message("user", "Its colour?")]
    record = {"id": "1", "task": "chat", "images": RECORD["images"], "messages": [*turns, message("assistant", "Red.")]}
    assert list(shown(record, "both", Statements()).messages) == turns
    text = shown(record, "text", Statements())
    assert (text_of(text), num_image_parts(text)) == ("What is it?\nA cat.\nIts colour?", 0)
    with pytest.raises(DataError, match=r'view of the image needs .* --statements FILE with {"task": "chat"'):
        shown(record, "image", Statements())
    assert text_of(shown(record, "image", Statements({"chat": "What colour?"}))) == "What colour?"


def test_a_turn_of_images_alone_leaves_nothing_to_ask() -> None:
    turns = [{"role": "user", "content": [{"type": "image"}]}]
    record = {"id": "1", "images": RECORD["images"], "messages": turns}
    with pytest.raises(DataError, match=r"messages\[0\]: holds images alone"):
        shown(record, "text", Statements())
    assert shown(record, "text", Statements(), "blank").blank


@pytest.mark.parametrize("view", ["text", "image", "both"])
def test_without_an_image_there_is_no_interaction(view: Any) -> None:
    for record in ({**RECORD, "images": []}, {"id": "1", "question": "What?"}):
        with pytest.raises(DataError, match=r"^images: "):
            shown(record, view, Statements())


def test_blank_images_have_the_sizes_of_the_real_ones(tmp_path: Path) -> None:
    for name, size in (("a.png", (20, 10)), ("b.png", (20, 10)), ("c.png", (5, 10))):
        Image.new("RGB", size, "red").save(tmp_path / name)
    root = str(tmp_path)
    seen = {n: shown({**RECORD, "images": [{"path": f"{n}.png"}]}, "text", Statements(), "blank") for n in "abc"}
    (picture,) = seen["a"].load(root)
    assert picture.rgb().size == (20, 10)
    assert picture.rgb().getextrema() == ((0, 0), (0, 0), (0, 0))
    assert seen["a"].digest(root) == seen["b"].digest(root) != seen["c"].digest(root)
    real = shown(RECORD, "both", Statements())
    assert seen["a"].digest(root) != real.digest(root)


def test_questions_are_equal_where_the_contents_of_their_images_are(tmp_path: Path) -> None:
    for name, colour in (("a.png", "red"), ("same.png", "red"), ("other.png", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / name)
    digests = {
        name: shown({**RECORD, "images": [{"path": name}]}, "both", Statements()).digest(str(tmp_path))
        for name in ("a.png", "same.png", "other.png")
    }
    assert digests["a.png"] == digests["same.png"] != digests["other.png"]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    question=texts.filter(str.strip),
    context=st.none() | texts,
    choices=st.none() | st.lists(texts, max_size=4),
    golds=st.lists(st.tuples(texts, st.lists(texts, max_size=2), texts), min_size=2, max_size=2),
    view=st.sampled_from(["text", "image", "both"]),
)
def test_no_view_depends_on_a_gold_answer(
    question: str, context: str | None, choices: list[str] | None, golds: list[Any], view: Any
) -> None:
    seen = []
    for answer, answers, rationale in golds:
        record = {"id": "1", "images": [{"path": "a.png"}], "question": question, "context": context}
        gold = {"choices": choices, "answer": answer, "answers": answers, "rationale": rationale, "prediction": answer}
        seen.append(shown({**record, **gold}, view, Statements()))
    assert seen[0] == seen[1]


@given(question=st.from_regex(r"Q[0-9]{6}\?", fullmatch=True), context=st.from_regex(r"C[0-9]{6}", fullmatch=True))
def test_the_image_is_never_shown_with_the_samples_own_question_or_context(question: str, context: str) -> None:
    sample = {**RECORD, "question": question, "context": context}
    statements = Statements()
    statements.learn("t", [RECORD, {**RECORD, "id": "2"}, sample])
    asked = text_of(shown(sample, "image", statements))
    assert question not in asked
    assert context not in asked


@pytest.mark.parametrize("name", OF_MINT)
def test_every_set_of_mint_can_be_asked_about_its_images_without_the_samples_own_text(name: str) -> None:
    rows = map(json.loads, (FIXTURES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())
    records = [{"benchmark": name, **record} for row in rows for record in row.get("gives", ())]
    records = [record for record in records if record.get("images")]
    assert records
    constant = not benchmarks.benchmark(name).fields["question"].columns
    statements = Statements()
    for task in {record["task"] for record in records}:
        statements.learn(task, [record for record in records if record["task"] == task] * (2 if constant else 1))
    for record in records:
        assert statements.source(record) == ("question" if constant else "benchmark")
        asked = text_of(shown(record, "image", statements))
        assert constant or record["question"] not in asked
        assert not record.get("context") or record["context"] not in asked


def test_a_file_of_statements_is_read_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "statements.jsonl"

    def read(*rows: dict[str, Any]) -> Statements:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return load_statements(str(path))

    assert read({"task": "a", "statement": "What?"}, {"task": "b", "statement": "Where?"}).given == {
        "a": "What?",
        "b": "Where?",
    }
    assert load_statements(None).given == {}
    for rows, said in (
        ([{"task": "a"}], r"statements.jsonl:1: expected \{"),
        ([{"task": "a", "statement": " "}], ":1: expected"),
        ([{"task": "a", "statement": "x"}] * 2, ":2: a second statement of 'a'"),
        ([{"task": "a", "statement": "Is {question}?"}], "it holds for every sample, so it has no {question}"),
    ):
        with pytest.raises(UsageError, match=said):
            read(*rows)
    with pytest.raises(MissingInputError):
        load_statements(str(tmp_path / "none.jsonl"))
