"""A record's way back through the files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mmkit.data.stats.trace import Node, trace
from mmkit.errors import DataError
from mmkit.streams import Row


def step(op: str, *parents: str, **fields: Any) -> dict[str, Any]:
    return {"op": op, "parents": list(parents), **fields}


MADE = step("synthesize", "cap", model="qwen", usage={"prompt_tokens": 7, "completion_tokens": 3})
CAPTION = {"id": "cap", "caption": "a dog"}
TASK = {"id": "cap#0", "lineage": [MADE]}
OTHER = {"id": "cap#1", "lineage": [MADE]}
COMPOSED = {"id": "cap.chat", "lineage": [MADE, MADE, step("compose", "cap#0", "cap#1")]}
ASKED = {"id": "cap.chat", "lineage": [*COMPOSED["lineage"], step("predict", "cap.chat", model="llava", params="12ab")]}


def files(**records: dict[str, Any]) -> Callable[[], list[Row]]:
    return lambda: [Row(record, i, name, 1) for i, (name, record) in enumerate(records.items())]


def lines(node: Node, depth: int = 0) -> list[str]:
    return [". " * depth + node.label(), *(line for child in node.children for line in lines(child, depth + 1))]


def test_the_way_goes_on_with_the_parents_that_the_files_hold() -> None:
    (tree,) = trace(files(captions=CAPTION, tasks=TASK, more=OTHER, chats=COMPOSED, asked=ASKED), "cap.chat")
    assert lines(tree) == [
        "cap.chat (asked:1)",
        ". predict by llava, params 12ab",
        ". . cap.chat (chats:1)",
        ". . . compose",
        ". . . . cap#0 (tasks:1)",
        ". . . . . synthesize by qwen, 7 + 3 tokens",
        ". . . . . . cap (captions:1)",
        ". . . . cap#1 (more:1)",
        ". . . . . synthesize by qwen, 7 + 3 tokens",
        ". . . . . . cap (captions:1)",
    ]
    rows = list(tree.flat())
    assert [row["depth"] for row in rows] == [line.count(". ") for line in lines(tree)]
    assert rows[1]["op"] == "predict" and rows[1]["id"] is None and rows[2]["where"] == ["chats:1"]


def test_of_parents_that_are_in_no_file_the_records_own_lineage_tells() -> None:
    (tree,) = trace(files(asked=ASKED), "cap.chat")
    assert lines(tree) == [
        "cap.chat (asked:1)",
        ". predict by llava, params 12ab",
        ". . cap.chat (not in these files)",
        ". . . compose",
        ". . . . cap#0 (not in these files)",
        ". . . . cap#1 (not in these files)",
        ". . . . synthesize by qwen, 7 + 3 tokens",
        ". . . . synthesize by qwen, 7 + 3 tokens",
    ]


def test_of_several_records_with_an_id_the_parent_is_the_one_that_the_lineage_holds() -> None:
    stranger = {"id": "cap#0", "lineage": [step("mix", "elsewhere")]}
    (tree,) = trace(files(stranger=stranger, tasks=TASK, more=OTHER, chats=COMPOSED), "cap.chat")
    assert ". . cap#0 (tasks:1)" in lines(tree)
    assert [lines(one)[0] for one in trace(files(stranger=stranger, tasks=TASK), "cap#0")] == [
        "cap#0 (stranger:1)",
        "cap#0 (tasks:1)",
    ]


def test_the_same_record_in_two_files_is_one() -> None:
    (tree,) = trace(files(a=TASK, b=TASK), "cap#0")
    assert tree.label() == "cap#0 (a:1, b:1)"


def test_ways_that_meet_again_are_told_once() -> None:
    records, lineage, parents = {}, [], []
    for level in range(60):  # two records a level, each made from both below: 2⁶⁰ ways
        lineage = [*lineage, step(f"merge{level}", *parents)]
        parents = [f"{level}a", f"{level}b"]
        records |= {name: {"id": name, "lineage": lineage} for name in parents}
    (tree,) = trace(files(**records), "59a")
    told = lines(tree)
    assert len(told) == 6 * 58 + 6
    assert told[-3:] == [". . . merge58", ". . . . 57a (57a:1), as above", ". . . . 57b (57b:1), as above"]
    assert sum(row["again"] for row in tree.flat()) == 2 * 58


def test_a_record_without_a_lineage_is_a_tree_of_itself() -> None:
    (tree,) = trace(files(captions=CAPTION), "cap")
    assert lines(tree) == ["cap (captions:1)"]


def test_a_lineage_that_points_at_itself_ends() -> None:
    loop = [step("predict", "a"), step("predict", "a")]
    (tree,) = trace(files(one={"id": "a", "lineage": loop}), "a")
    assert len(lines(tree)) == 5


def test_an_id_that_is_nowhere_is_an_error() -> None:
    with pytest.raises(DataError, match="no record 'x' in these files"):
        trace(files(captions=CAPTION), "x")
    with pytest.raises(DataError, match="one:1: lineage: 300 steps"):
        trace(files(one={"id": "a", "lineage": [step("x")] * 300}), "a")
