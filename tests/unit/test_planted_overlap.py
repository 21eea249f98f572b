"""Planted contribution and difficulty: answers are true, the caption holds what two tasks ask, the table nothing."""

from __future__ import annotations

import re
from collections import Counter
from statistics import fmean
from typing import Any

import pytest

from mmkit.records import check
from mmkit.testing.planted import SIDE, Scene, overlap
from mmkit.testing.planted.interaction import THINGS as COLOURS

Pair = tuple[Scene, dict[str, Any]]


def pairs(task: str, count: int = 120, seed: int = 0) -> list[Pair]:
    return list(overlap.scenes(task, count, seed))


def words(task: str) -> set[str]:
    """What the answers of a task say beyond their common frame."""
    told = [set(re.findall(r"\w+", record["answer"])) for _, record in pairs(task)]
    return set.union(*told) - set.intersection(*told)


@pytest.mark.parametrize("task", ["caption", "page", "band", "colour"])
def test_what_an_answer_names_is_in_the_picture(task: str) -> None:
    where = {"page": overlap.PAGES, "band": overlap.BANDS, "colour": COLOURS}
    facts = ("page", "band") if task == "caption" else (task,)
    for scene, record in pairs(task):
        check(record)
        pixels = Counter(scene.picture.getpixel((x, y)) for x in range(SIDE) for y in range(SIDE))
        for fact in facts:
            (named,) = (name for name in where[fact] if name in re.findall(r"\w+", record["answer"]))
            assert named == record["truth"][fact]
            assert pixels[where[fact][named]] > 50
        foot = {scene.picture.getpixel((x, SIDE - 1)) for x in range(SIDE)}
        assert foot == {overlap.BANDS[record["truth"]["band"]]}


def test_the_caption_says_all_that_page_and_band_ask_and_nothing_that_others_do() -> None:
    assert words("caption") == words("page") | words("band") == {*overlap.PAGES, *overlap.BANDS}
    assert words("colour") == set(COLOURS)
    assert not words("caption") & (words("colour") | words("table"))


def test_the_caption_is_about_three_times_as_long_as_an_answer() -> None:
    length = {task: fmean(len(record["answer"].split()) for _, record in pairs(task)) for task in overlap.TASKS}
    assert length["caption"] >= 3 * max(length[task] for task in overlap.TASKS if task != "caption")


def test_the_table_is_a_function_of_the_word_and_not_of_the_picture() -> None:
    found: dict[str, set[str]] = {}
    for scene, record in pairs("table"):
        found.setdefault(record["question"], set()).add(record["answer"])
        assert len(set(scene.picture.tobytes())) > 200
    assert len(found) == len(overlap.TABLE) and all(len(answers) == 1 for answers in found.values())
    assert set(Counter(overlap.TABLE.values()).values()) == {2}
    assert set(overlap.TABLE.values()) == set(overlap.WAYS)


@pytest.mark.parametrize("task", overlap.TASKS)
def test_no_answer_is_much_more_frequent_than_others(task: str) -> None:
    answers = Counter(record["answer"] for _, record in pairs(task, 480))
    assert answers.most_common(1)[0][1] < 2 * 480 / len(answers)


def test_a_row_depends_on_seed_task_and_index_only() -> None:
    few, many, other = pairs("page", 5, seed=1), pairs("page", 9, seed=1), pairs("page", 5, seed=2)
    assert [record for _, record in few] == [record for _, record in many[:5]]
    assert [scene.picture.tobytes() for scene, _ in few] == [scene.picture.tobytes() for scene, _ in many[:5]]
    assert [scene.picture.tobytes() for scene, _ in few] != [scene.picture.tobytes() for scene, _ in other]
    assert [scene.truth for scene, _ in pairs("page", 20)] != [scene.truth for scene, _ in pairs("band", 20)]


def test_a_lesson_is_grey_and_teaches_none_of_the_tasks() -> None:
    taught = {*overlap.PAGES, *overlap.BANDS, *COLOURS, *overlap.WAYS}
    asked = {record["question"] for task in overlap.TASKS for _, record in pairs(task)}
    for scene, record in overlap.lessons(120):
        check(record)
        request, answer = (turn["content"][-1]["text"] for turn in record["messages"])
        assert request not in asked and not taught & set(re.findall(r"\w+", answer))
        saturation = scene.picture.convert("HSV").getextrema()[1]
        assert saturation == (0, 0)
