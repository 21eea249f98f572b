"""Groups by instructions: which are looked at, what is clustered, what an encoder would be tuned on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mmkit.balance.encoder_tuning import pairs
from mmkit.balance.instructions import Instructions, by_similarity, instruction_of
from mmkit.errors import DataError, UsageError
from mmkit.records import message

TOPICS = ("colour", "count", "name")
INSTRUCTIONS = {
    "b": ["colour 1", "colour 2"],
    "a": ["colour 3"],
    "d": ["count 1", "count 2", "colour 4"],
    "c": ["count 3"],
    "e": ["name 1"],
}

texts = st.text(min_size=1, max_size=6)


def embed(asked: Sequence[str]) -> NDArray[np.float32]:
    """A unit vector near the axis of a text's topic; the number says how far away."""
    vectors = np.zeros((len(asked), len(TOPICS) + 1), dtype=np.float32)
    for vector, text in zip(vectors, asked, strict=True):
        topic, _, number = text.partition(" ")
        vector[TOPICS.index(topic)], vector[-1] = 1, int(number) / 20
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def groups(num_groups: int = 3, **instructions: list[str]) -> list[tuple[str, str]]:
    found = by_similarity(instructions or INSTRUCTIONS, embed, num_groups=num_groups)
    return [(row.group, row.task) for row in found]


def test_tasks_of_like_instructions_are_together() -> None:
    three = [("group-1", "a"), ("group-1", "b"), ("group-2", "c"), ("group-2", "d"), ("group-3", "e")]
    assert groups(3) == three
    assert [group for group, _ in groups(5)] == [f"group-{i}" for i in range(1, 6)]
    assert {group for group, _ in groups(1)} == {"group-1"}


def test_a_task_is_the_mean_of_its_instructions() -> None:
    # By its first instruction "mixed" would be with the colours, by its mean it is with the counts.
    mixed = {"mixed": ["colour 1", "count 1", "count 2"], "colours": ["colour 1"], "counts": ["count 1"]}
    assert groups(2, **mixed) == [("group-1", "colours"), ("group-2", "counts"), ("group-2", "mixed")]


@given(st.permutations(list(INSTRUCTIONS)), st.integers(1, 5))
def test_groups_depend_on_no_order(order: list[str], num_groups: int) -> None:
    assert groups(num_groups, **{task: INSTRUCTIONS[task] for task in order}) == groups(num_groups)


def test_one_task_is_one_group() -> None:
    assert groups(1, a=["colour 1"]) == [("group-1", "a")]


@pytest.mark.parametrize("num_groups", [0, 6])
def test_groups_that_tasks_cannot_make_are_refused(num_groups: int) -> None:
    with pytest.raises(UsageError, match=f"--num-groups {num_groups}: 5 tasks"):
        groups(num_groups)
    with pytest.raises(DataError, match="no task to group"):
        by_similarity({}, embed)


@given(st.lists(st.tuples(st.sampled_from("abc"), texts), min_size=1), st.integers(1, 4), st.randoms())
def test_the_instructions_kept_are_distinct_and_depend_on_no_order(
    asked: list[tuple[str, str]], most: int, random: object
) -> None:
    def kept(order: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
        found = Instructions(most, seed=1)
        for task, text in order:
            found.add(task, text)
        return found.by_task()

    found = kept(asked)
    for task, own in found.items():
        there = {text for name, text in asked if name == task}
        assert len(own) == len(set(own)) == min(most, len(there))
        assert set(own) <= there
    random.shuffle(asked)  # type: ignore[attr-defined]
    assert kept(asked) == found


def test_another_seed_keeps_other_instructions() -> None:
    def kept(seed: int) -> list[str]:
        found = Instructions(5, seed)
        for number in range(100):
            found.add("a", f"colour {number}")
        return found.by_task()["a"]

    assert kept(0) != kept(1)


def test_an_instruction_is_the_field_the_question_or_the_first_turn() -> None:
    turns = [message("user", "Turn?"), message("assistant", "Yes."), message("user", "More?")]
    assert instruction_of({"instruction": "Do.", "question": "What?"}) == "Do."
    assert instruction_of({"instruction": " ", "question": "What?", "messages": turns}) == "What?"
    assert instruction_of({"messages": turns}) == "Turn?"
    for nothing in ({"instruction": 3}, {"question": " "}, {"messages": []}, {}):
        with pytest.raises(DataError, match="no instruction"):
            instruction_of(nothing)


@given(st.dictionaries(st.sampled_from("abcd"), st.lists(texts, min_size=1, max_size=5), min_size=2), st.randoms())
def test_pairs_are_of_one_task_or_of_two_and_depend_on_no_order(
    instructions: dict[str, list[str]], random: object
) -> None:
    tasks_of: dict[str, set[str]] = {}
    for task, own in instructions.items():
        for text in own:
            tasks_of.setdefault(text, set()).add(task)
    alike = any(len(set(own)) > 1 for own in instructions.values())
    apart = len({frozenset(own) for own in instructions.values()}) > 1
    if not (alike and apart):
        with pytest.raises(DataError, match="two tasks at least"):
            pairs(instructions)
        return
    found = pairs(instructions)
    for pair in found:
        together = tasks_of[pair.one] & tasks_of[pair.other]
        assert pair.one != pair.other
        assert together if pair.similarity else not tasks_of[pair.one] <= tasks_of[pair.other]
    shuffled = {task: random.sample(own, len(own)) for task, own in reversed(instructions.items())}  # type: ignore[attr-defined]
    assert pairs(shuffled) == found
