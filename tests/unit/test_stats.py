"""What `stats` counts of records: exactly, and whatever the order."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkit.data.stats.describe import Facts, Statistics, describe, relative_percent, table, text_of, tokens_in
from mmkit.data.stats.figure import Bar, chart, figure, histogram
from mmkit.data.stats.lengths import Lengths
from mmkit.errors import DataError
from mmkit.models.token_counts import TokenCount
from mmkit.records import message

TABLE_2 = {14_939_955: 47.76, 29_443_833: 191.22, 39_093_356: 286.65, 46_360_439: 358.53}
"""MLAN, Table 2: tokens against the 10,110,681 of the language-only set, and the percentages that follow. The table
prints 191.30 for the second, which its own counts do not give; the other three are as printed."""


def described(records: list[dict[str, Any]], name: str = "a") -> list[dict[str, Any]]:
    statistics = Statistics()
    for record in records:
        statistics.add(name, Facts.of(record))
    return [row.to_wire() for row in describe(statistics)]


def row(rows: list[dict[str, Any]], **wanted: str) -> dict[str, Any]:
    axes = ("task", "domain", "modality")
    (found,) = [one for one in rows if all(one[axis] == wanted.get(axis) for axis in axes)]
    return found


@pytest.mark.parametrize(("tokens", "percent"), TABLE_2.items())
def test_the_percentages_of_mlans_table_2_follow_from_its_counts(tokens: int, percent: float) -> None:
    assert round(relative_percent(tokens, 10_110_681), 2) == percent


def test_a_baseline_without_tokens_is_no_baseline() -> None:
    with pytest.raises(DataError, match="no tokens"):
        relative_percent(5, 0)


def test_rows_are_counted_by_modality_task_and_domain() -> None:
    rows = described(
        [
            {"id": "1", "task": "qa", "domain": "maps", "question": "Where is it?", "answer": "here"},
            {"id": "2", "task": "qa", "images": [{"path": "a.png"}, {"path": "b.png"}], "question": "What?"},
            {"id": "3", "images": [{"path": "a.png"}], "caption": "a red dog"},
        ]
    )
    assert [(one["modality"], one["task"], one["domain"], one["rows"]) for one in rows] == [
        (None, None, None, 3),
        ("language", None, None, 1),
        ("vision", None, None, 2),
        (None, "", None, 1),
        (None, "qa", None, 2),
        (None, None, "", 2),
        (None, None, "maps", 1),
    ]
    whole = rows[0]
    assert whole["num_images"] == 3 and whole["images_per_row"]["max"] == 2
    assert whole["words_per_row"] == {"mean": 8 / 3, "min": 1, "p50": 3, "p90": 4, "p99": 4, "max": 4}
    assert row(rows, task="qa")["num_images"] == 2 and row(rows, modality="language")["num_images"] == 0
    assert whole["answer_types"] == {"short": 1} and whole["tokens"] is None


def test_a_set_without_rows_is_described_in_its_place() -> None:
    statistics = Statistics(["none", "a"])
    statistics.add("a", Facts.of({"id": "1"}))
    rows = [one.to_wire() for one in describe(statistics, model="m") if one.part.axis is None]
    assert [(one["set"], one["rows"], one["tokens"], one["words_per_row"] is None) for one in rows] == [
        ("none", 0, 0, True),
        ("a", 1, 0, False),
    ]
    assert len(table(describe(statistics))) == 4  # with the header and the language of "a"


def test_tasks_and_domains_are_left_out_where_no_row_names_one() -> None:
    assert [one["modality"] for one in described([{"id": "1"}, {"id": "2"}])] == [None, "language"]


def test_the_answer_type_is_that_of_the_task_and_never_of_the_answer() -> None:
    records = [
        {"id": "1", "question": "Is it?", "choices": ["no", "yes"], "answer": "no"},
        {"id": "2", "question": "Which?", "choices": ["red", "blue"], "answer": "red"},
        {"id": "3", "question": "What falls?", "answer": "snow"},
        {"id": "4", "caption": "no answer here"},
        {"id": "5", "question": "?", "answer": "x", "answer_type": "yes-no"},
    ]
    assert described(records)[0]["answer_types"] == {"choice": 1, "short": 1, "yes-no": 2}
    with pytest.raises(DataError, match="answer_type"):
        described([{"id": "1", "answer": "x", "answer_type": "essay"}])
    with pytest.raises(DataError, match="domain"):
        described([{"id": "1", "domain": 3}])


def test_the_text_of_a_conversation_is_its_messages_and_of_a_task_its_fields() -> None:
    task = {"id": "1", "question": "Which?", "choices": ["red", "blue"], "answer": "red", "context": "A page."}
    assert text_of(task).split() == ["A", "page.", "Which?", "red", "red", "blue"]
    assert text_of({**task, "messages": [message("user", "Hi", 1), message("assistant", "Yes?")]}) == "Hi\nYes?"


def test_duplicates_are_the_same_question_images_and_answer() -> None:
    same = {"question": "Q", "answer": "A", "images": [{"path": "x/./a.png"}]}
    records = [
        {"id": "1", **same},
        {"id": "2", **same, "images": [{"path": "x/a.png"}], "task": "other"},
        {"id": "3", **same, "images": [{"path": "b.png"}]},
        {"id": "4", **same, "answer": "B"},
        {"id": "5", **same, "context": "C"},
        {"id": "1", **same, "images": [{"bytes": b"1", "path": "a"}]},
        {"id": "1", **same, "images": [{"bytes": b"1", "path": "b"}]},
        {"id": "8", **same, "images": [{"bytes": b"2"}]},
    ]
    whole = described(records)[0]
    assert (whole["duplicate_rows"], whole["duplicate_ids"]) == (2, 2)


@given(st.lists(st.integers(0, 10_000), min_size=1), st.floats(0, 1))
def test_a_quantile_is_the_least_length_that_covers_its_share(lengths: list[int], share: float) -> None:
    counted = Lengths()
    for length in lengths:
        counted.add(length)
    found = counted.quantile(share)
    assert found in lengths and sum(length <= found for length in lengths) >= share * len(lengths)
    shorter = [length for length in lengths if length < found]
    assert not shorter or len(shorter) < share * len(lengths)
    assert counted.total == sum(lengths)
    bars = histogram(counted)
    assert sum(bar.value for bar in bars) == len(lengths) and len(bars) <= 20


RECORDS = st.lists(
    st.builds(
        lambda i, task, images, words: {
            "id": str(i),
            "task": task,
            "images": [{"path": f"{n}.png"} for n in range(images)],
            "question": " ".join(["word"] * words),
            "answer": "a",
        },
        st.integers(0, 9),
        st.sampled_from([None, "x", "y"]),
        st.integers(0, 2),
        st.integers(0, 5),
    ),
    max_size=30,
)


@given(RECORDS, st.randoms(use_true_random=False))
def test_neither_order_nor_shards_change_a_count(records: list[dict[str, Any]], draw: random.Random) -> None:
    shuffled = draw.sample(records, len(records))
    assert described(shuffled) == described(records)
    cut = draw.randint(0, len(records))
    halves = [described(part) for part in (records[:cut], records[cut:]) if part]
    for field in ("rows", "num_images"):
        together = sum(half[0][field] for half in halves)
        assert together == (described(records)[0][field] if records else 0)
    tasks = Counter(record["task"] or "" for record in records)
    counted = {one["task"]: one["rows"] for one in described(records) if one["task"] is not None}
    assert counted == (dict(tasks) if set(tasks) - {""} else {})


def with_tokens() -> Statistics:
    statistics = Statistics()
    for name, counts in {"language": [10, 20], "vision": [600]}.items():
        for number, tokens in enumerate(counts):
            images = [{"path": "a.png"}] if name == "vision" else []
            image = 576 if images else 0
            statistics.add(name, Facts.of({"id": str(number), "images": images}, TokenCount(tokens, image, 4)))
    return statistics


def test_tokens_are_summed_and_compared_with_the_baseline() -> None:
    rows = [one.to_wire() for one in describe(with_tokens(), model="m", baseline_tokens=30)]
    found = [(one["set"], one["modality"], one["tokens"], one["image_tokens"], one["loss_tokens"]) for one in rows]
    assert found == [
        ("language", None, 30, 0, 8),
        ("language", "language", 30, 0, 8),
        ("vision", None, 600, 576, 4),
        ("vision", "vision", 600, 576, 4),
    ]
    assert [one["relative_percent"] for one in rows] == [0.0, None, 1900.0, None]
    assert tokens_in(rows[:2]) == 30
    for refused in (rows, rows[1:2]):
        with pytest.raises(DataError, match="statistics of one set"):
            tokens_in(refused)
    with pytest.raises(DataError, match="tokens were not counted"):
        tokens_in([{**rows[0], "tokens": None}])


def test_the_table_says_what_the_rows_say() -> None:
    header, *body = table(describe(with_tokens(), model="m", baseline_tokens=30))
    vision = dict(zip(header, body[2], strict=True))
    assert (vision["set"], vision["tokens"], vision["of images"], vision["to baseline"]) == (
        *("vision", "600", "576", "+1900.00 %"),
    )
    assert all(len(one) == len(header) for one in body)


def test_the_figure_is_svg_with_bars_in_proportion_and_text_escaped() -> None:
    drawn = ElementTree.fromstring(figure(describe(with_tokens(), model="m", baseline_tokens=30)))
    bars = [float(one.attrib["width"]) for one in drawn.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert bars[0] / bars[1] == pytest.approx(30 / 600, abs=1e-3)
    hostile = ElementTree.fromstring(chart("<a&b>", [Bar('"</svg><script>\x00\ud800', 1, "n"), Bar("zero", 0, "")]))
    texts = [one.text for one in hostile.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[:2] == ["<a&b>", '"</svg><script>??']
    assert not list(hostile.iter("script"))


def test_the_figure_of_one_set_shows_how_long_its_rows_are() -> None:
    statistics = Statistics()
    for number in range(100):
        statistics.add("a", Facts.of({"id": str(number), "question": "w " * number}))
    drawn = ElementTree.fromstring(figure(describe(statistics)))
    texts = [one.text for one in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[:3] == ["Words of a row: a", "0–4", "5"] and len(texts) == 1 + 2 * 20
