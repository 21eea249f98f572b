"""Tasks and captions become conversations, each task once, in an order that only seed and id decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stream_kit import load, put, run_stage

from mmkit import images
from mmkit.data import compose
from mmkit.errors import DataError
from mmkit.records import check, parts_text
from mmkit.streams import Row
from mmkit.tasks import prompts


def task(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "question": f"What is {name}?", "answer": f"an {name}", "rationale": "It looks round.", **more}


def made(stage: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    outcomes = stage(iter([Row(row, i, "f", i + 1) for i, row in enumerate(rows)]))
    records = [outcome.row.record for outcome in outcomes]
    for record in records:
        check(record)
    return records


def texts(record: dict[str, Any]) -> list[str]:
    return [parts_text(turn) for turn in record["messages"]]


def test_a_task_becomes_its_question_and_response() -> None:
    (record,) = made(compose.tasks_stage(response="precise"), [task("egg", images=[{"path": "a"}], extra=[1])])
    assert record["extra"] == [1]
    assert [turn["role"] for turn in record["messages"]] == ["user", "assistant"]
    assert record["messages"][0]["content"][0] == {"type": "image"}
    assert texts(record) == ["What is egg?", "an egg"]
    (record,) = made(compose.tasks_stage(response="informative"), [task("egg", choices=["x", "y"], context="c")])
    assert texts(record) == ["c\nWhat is egg?\nA. x\nB. y", "It looks round."]


@pytest.mark.parametrize(
    ("answer", "rationale", "expected"),
    [
        ("four", "Two and two. So it is four.", "Two and two. So it is four."),
        ("The answer is four", "Two and two.", "Two and two. The answer is four"),
    ],
)
def test_chain_of_thought_concludes_once(answer: str, rationale: str, expected: str) -> None:
    assert compose.respond({"id": "a", "answer": answer, "rationale": rationale}, "cot", 0) == expected


def test_braces_in_a_text_stay_what_they_are() -> None:
    for seed in range(60):
        text = compose.respond({"id": "a", "answer": "{reasoning}", "rationale": "It has {braces}"}, "cot", seed)
        assert text.count("It has {braces}") == 1
        assert text.count("{reasoning}") == 1


@given(st.text(min_size=1).filter(str.strip), st.text(min_size=1).filter(str.strip), st.integers(0, 99))
def test_chain_of_thought_holds_rationale_and_answer_whatever_they_say(answer: str, rationale: str, seed: int) -> None:
    text = compose.respond({"id": "a", "answer": answer, "rationale": rationale}, "cot", seed)
    assert rationale.strip() in text
    assert answer in text or compose._CONCLUDES.search(rationale)


def test_templates_vary_with_the_record_and_not_with_its_place() -> None:
    rows = [{"id": str(i), "caption": "A cat."} for i in range(60)]
    requests = [texts(record)[0] for record in made(compose.captions_stage(seed=1), rows)]
    assert len(set(requests)) > 3
    assert [texts(record)[0] for record in made(compose.captions_stage(seed=1), rows[::-1])] == requests[::-1]
    assert [texts(record)[0] for record in made(compose.captions_stage(seed=2), rows)] != requests


def test_the_synthesizer_learns_both_sides_and_never_the_caption() -> None:
    rows = [task(str(i), caption="A cat.", images=[{"path": "a"}]) for i in range(40)]
    orders = set()
    for record in made(compose.synthesizer_stage(seed=1), rows):
        assert texts(record)[:2] == [prompts.CAPTION_HINT, "A cat."]
        assert [turn.get("train") for turn in record["messages"]] == [None, False, True, True, True, True]
        pairs = dict(zip(texts(record)[2::2], texts(record)[3::2], strict=True))
        question = f"What is {record['id']}?"
        assert pairs == {
            f"{prompts.PRECISE_HINT}\n{question}": f"an {record['id']}",
            f"{prompts.INFORMATIVE_HINT}\n{question}": "It looks round.",
        }
        orders.add(texts(record)[2].startswith(prompts.PRECISE_HINT))
    assert orders == {True, False}


def test_single_stage_joins_each_task_once() -> None:
    captions = [{"id": f"c{i}", "caption": f"caption {i}", "images": [{"path": f"{i}.png"}]} for i in range(3)]
    tasks = [
        task("by-parent", images=[{"path": "0.png"}], lineage=[{"op": "synthesize", "parents": ["c0"]}]),
        task("by-image", images=[{"path": "1.png"}]),
        task("second", images=[{"path": "1.png"}]),
        task("alone", images=[{"path": "9.png"}]),
    ]
    index = compose.TaskIndex(tasks)
    records = made(compose.single_stage(index, response="precise"), captions)
    assert [record["id"] for record in records] == ["c0", "c1", "c2", "alone"]
    found = [sorted(text for text in texts(record) if text.startswith("What")) for record in records]
    assert found == [["What is by-parent?"], ["What is by-image?", "What is second?"], [], ["What is alone?"]]
    for i, record in enumerate(records[:3]):
        assert f"caption {i}" in texts(record)
        assert record["messages"][0]["content"][0] == {"type": "image"}
    assert index.left() == [tasks[3]]


def test_the_order_of_caption_and_task_is_a_coin_flip_by_id() -> None:
    captions = [{"id": f"c{i}", "caption": "a caption", "images": [{"path": f"{i}"}]} for i in range(400)]
    tasks = [task(str(i), images=[{"path": f"{i}"}]) for i in range(400)]
    first = [
        texts(record)[1] == "a caption"
        for record in made(compose.single_stage(compose.TaskIndex(tasks), response="precise", seed=4), captions)
    ]
    assert 150 < sum(first) < 250
    again = made(compose.single_stage(compose.TaskIndex(tasks[::-1]), response="precise", seed=4), captions[::-1])
    assert [texts(record)[1] == "a caption" for record in again] == first[::-1]


def test_captions_without_a_task_are_dropped_on_demand(tmp_path: Path) -> None:
    captions = [{"id": "c0", "caption": "x", "images": [{"path": "0"}]}, {"id": "c1", "caption": "y"}]
    source = put(tmp_path / "in.jsonl", captions)
    index = compose.TaskIndex([task("a", images=[{"path": "0"}])])
    summary = run_stage(compose.single_stage(index, caption_only=False), source, tmp_path / "o.jsonl")
    assert (summary.kept, summary.dropped, summary.rejected) == (1, 1, 0)
    assert [row["id"] for row in load(tmp_path / "o.jsonl")] == ["c0"]


def test_tasks_without_any_caption_record_are_an_error() -> None:
    with pytest.raises(DataError, match="1 tasks, but not one caption record"):
        made(compose.single_stage(compose.TaskIndex([task("a")])), [])


def test_a_share_of_the_images_goes_blank(tmp_path: Path) -> None:
    rows = [task(str(i), images=[{"path": "a"}, {"path": "b"}]) for i in range(2000)]
    stage = compose.blank_some(compose.tasks_stage(), rate=0.1, blank_path="blank.png", seed=1)
    blank = [record["images"] == [{"path": "blank.png"}] * 2 for record in made(stage, rows)]
    assert 140 < sum(blank) < 260
    compose.make_blank("sub/blank.png", str(tmp_path))
    assert images.load({"path": "sub/blank.png"}, tmp_path).rgb().getcolors() == [(336 * 336, (0, 0, 0))]


@pytest.mark.parametrize(
    ("stage", "field"),
    [
        (compose.captions_stage(), "caption"),
        (compose.tasks_stage(response="precise"), "answer"),
        (compose.tasks_stage(response="cot"), "rationale"),
        (compose.synthesizer_stage(), "caption"),
    ],
)
def test_a_missing_field_is_named(stage: Any, field: str, tmp_path: Path) -> None:
    record = {name: value for name, value in task("a", caption="c").items() if name != field}
    with pytest.raises(DataError, match=rf"in\.jsonl:1: {field}: this composition needs it"):
        run_stage(stage, put(tmp_path / "in.jsonl", [record]), tmp_path / "o.jsonl")
