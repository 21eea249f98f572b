"""Scores that are no mean of rows: pooled statistics, scores by image, metrics that need all rows, overall scores."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scoring_kit import collected, score_all

from mmkit.errors import UsageError
from mmkit.evaluation.aggregate import Aggregate
from mmkit.evaluation.evaluate import collect, per_sample
from mmkit.evaluation.scores import Sample, ScoreRow
from mmkit.evaluation.scoring import Scorer
from mmkit.streams import Kept, Rejected, Result, Row, Used
from mmkit.tasks import benchmarks
from mmkit.tasks.benchmarks import Benchmark, TaskDefinition


def pope(said: str, gold: str, number: int, image: str | None = None) -> dict[str, Any]:
    images = [{"path": image}] if image else []
    return {"id": f"p{number}", "metric": "pope", "prediction": said, "answer": gold, "images": images}


def test_pope_is_pooled_and_tells_the_yes_ratio_of_the_predictions() -> None:
    """By hand: 3 true positives, 1 false positive, 2 false negatives, 4 true negatives: F1 = 6 / 9."""
    pairs = [("yes", "yes")] * 3 + [("yes", "no")] + [("no", "yes")] * 2 + [("no", "no")] * 4
    (row,) = collected([pope(said, gold, i) for i, (said, gold) in enumerate(pairs)]).rows()
    assert row.value == pytest.approx(100 * 6 / 9)
    assert row.details is not None and row.details["yes_ratio"] == pytest.approx(40)
    assert row.details["accuracy"] == pytest.approx(70)
    assert row.ci95 is not None and row.ci95[0] < row.value < row.ci95[1]
    assert ScoreRow.from_wire(json.loads(json.dumps(row.to_wire()))) == row


def test_a_pooled_interval_counts_images_where_rows_share_them() -> None:
    pairs = [("yes", "yes"), ("no", "yes"), ("yes", "no"), ("no", "no")]
    rows = [pair for pair in pairs for _ in range(20)]
    (alone,) = collected([pope(said, gold, i) for i, (said, gold) in enumerate(rows)]).rows()
    (shared,) = collected([pope(said, gold, i, f"{i // 10}.png") for i, (said, gold) in enumerate(rows)]).rows()
    assert alone.ci95 is not None and shared.ci95 is not None and alone.value == shared.value
    assert shared.ci95[1] - shared.ci95[0] > 1.5 * (alone.ci95[1] - alone.ci95[0])


def mme(right: bool, image: str, number: int, **more: Any) -> dict[str, Any]:
    said = "yes" if right else "no"
    return {
        "id": f"m{number}",
        "metric": "mme",
        "prediction": said,
        "answer": "yes",
        "images": [{"path": image}],
        **more,
    }


def test_mme_adds_the_share_of_images_with_both_questions_right() -> None:
    """By hand: 5 of 6 questions and 2 of 3 images right: 83.33 + 66.67 = 150."""
    records = [mme(right, f"{i // 2}.png", i) for i, right in enumerate([True, True, True, False, True, True])]
    (row,) = collected(records).rows()
    assert row.value == pytest.approx(150) and row.n == 6
    random.Random(1).shuffle(records)
    assert collected(records).rows() == [row]


def test_a_name_for_the_model_that_answered() -> None:
    def by(model: str | None, number: int) -> dict[str, Any]:
        lineage = [{"op": "predict", "model": model}] if model else []
        return {"id": f"r{number}", "prediction": "x", "answer": "x", "lineage": lineage}

    assert [row.model for row in collected([by("m", 1)]).rows()] == ["m"]
    assert [row.model for row in collected([by("m", 1)]).rows(model="after")] == ["after"]
    assert [row.model for row in collected([by(None, 1)]).rows(model="after")] == ["after"]
    with pytest.raises(UsageError, match="one name for 2 models: m, unnamed"):
        collected([by("m", 1), by(None, 2)]).rows(model="after")


TWO_TASKS = Benchmark(
    name="two",
    title="Two",
    tables=[],
    overall="sum",
    tasks={name: TaskDefinition(name=name, answer_type="yes-no", metric="mme") for name in ("two-a", "two-b")},
)


@pytest.fixture
def two_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "_definitions", lambda: {"two": TWO_TASKS})


@pytest.mark.usefixtures("two_tasks")
def test_an_overall_score_comes_with_its_interval_once_all_tasks_are_there() -> None:
    def part(task: str, num_right: int) -> list[dict[str, Any]]:
        return [
            mme(i < num_right, f"{task}{i // 2}.png", i, benchmark="two", task=task, id=f"{task}{i}") for i in range(20)
        ]

    records = part("two-a", 20) + part("two-b", 10)
    rows = {row.task: row for row in collected(records).rows()}
    assert [rows[name].value for name in ("two-a", "two-b", "two")] == pytest.approx([200, 100, 300])
    overall, half = rows["two"], rows["two-b"]
    assert overall.rule.endswith(", sum of 2 tasks") and overall.n == 40
    assert overall.ci95 is not None and half.ci95 is not None
    # All of a's images are right, so that what moves is b alone.
    assert overall.ci95 == pytest.approx((200 + half.ci95[0], 200 + half.ci95[1]), abs=25)
    assert [row.task for row in collected(part("two-a", 20)).rows()] == ["two-a"]


def test_a_pooled_overall_score_is_that_of_all_rows_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "_definitions", lambda: {"two": replace(TWO_TASKS, overall="pooled")})
    pairs = [("yes", "yes")] * 5 + [("no", "yes")] * 3 + [("no", "no")] * 4

    def records(**more: str) -> list[dict[str, Any]]:
        return [pope(*pair, i, f"{i % 5}.png") | {"id": f"{i % 6}"} | more for i, pair in enumerate(pairs)]

    halves = [
        record | {"benchmark": "two", "task": "two-a" if i < 6 else "two-b"} for i, record in enumerate(records())
    ]
    (whole,) = [row for row in collected(halves).rows() if row.task == "two"]
    (one,) = collected([record | {"id": str(i)} for i, record in enumerate(records())]).rows()
    assert whole.rule == "strict, pooled over 2 tasks"
    assert (whole.value, whole.n, whole.details, whole.unparsed) == (one.value, one.n, one.details, one.unparsed)
    assert whole.samples is not None and len(set(whole.samples.ids)) == 12


@pytest.mark.usefixtures("two_tasks")
def test_tasks_on_the_same_images_are_drawn_together() -> None:
    """b is right exactly where a is wrong, image by image: the sum never moves; on images of their own it does."""

    def records(prefix_b: str) -> list[dict[str, Any]]:
        return [
            mme((i < 20) == (task == "two-a"), f"{prefix if task == 'two-b' else ''}{i // 2}.png", i)
            | {"benchmark": "two", "task": task, "id": f"{task}{i}"}
            for prefix in (prefix_b,)
            for task in ("two-a", "two-b")
            for i in range(40)
        ]

    (together,) = [row for row in collected(records("")).rows() if row.task == "two"]
    (apart,) = [row for row in collected(records("b")).rows() if row.task == "two"]
    assert together.value == apart.value == pytest.approx(200)
    assert together.ci95 is not None and apart.ci95 is not None
    assert apart.ci95[1] - apart.ci95[0] > 80
    assert together.ci95[1] - together.ci95[0] < 80


def cider(number: int, said: str, *golds: str) -> dict[str, Any]:
    return {"id": f"c{number}", "metric": "cider", "prediction": said, "answers": list(golds)}


CAPTIONS = [
    cider(0, "a man rides a horse", "a man riding a horse", "a rider on a horse"),
    cider(1, "two dogs play", "two dogs play in the grass", "dogs playing"),
    cider(2, "a red bus", "a red bus on a street", "a bus"),
]


def test_what_needs_all_rows_waits_for_them_and_keeps_its_order() -> None:
    scorer = Scorer()
    assert [scorer.score(record) for record in CAPTIONS] == [None] * 3
    rest = scorer.rest()
    assert [sample.id for sample in rest] == ["c0", "c1", "c2"] and scorer.rest() == []
    (row,) = collected(CAPTIONS).rows()
    assert row.value == pytest.approx(np.mean([sample.value for sample in rest]))
    assert row.ci95 is not None and 0 <= row.ci95[0] <= row.value <= row.ci95[1] <= 10


def rows_of(records: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [Row(dict(record), i, "p.jsonl", i + 1) for i, record in enumerate(records)]


def test_per_sample_keeps_the_order_where_some_have_to_wait() -> None:
    plain = {"id": "e0", "prediction": "x", "answer": "x"}
    bad = {"id": "e1", "prediction": "x"}
    mixed = [plain, CAPTIONS[0], bad, {**plain, "id": "e2"}, CAPTIONS[1], CAPTIONS[2]]
    outcomes = list(per_sample(Scorer())(iter(rows_of(mixed))))
    assert [type(outcome) for outcome in outcomes] == [Kept, Kept, Rejected, Kept, Kept, Kept]
    kept = [outcome.row.record for outcome in outcomes if isinstance(outcome, Kept)]
    assert [record["id"] for record in kept] == ["e0", "c0", "e2", "c1", "c2"]
    assert [record["score"] for record in kept if record["metric"] == "cider"] == [
        sample.value for sample in score_all(CAPTIONS)
    ]


@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_bad_row_anywhere_costs_itself_alone(where: int) -> None:
    records = [{"id": "a", "prediction": "x", "answer": "x"}, {"id": "b", "prediction": "y", "answer": "x"}]
    records.insert(where, {"id": "bad", "answer": "x"})
    found = Aggregate()
    outcomes = list(collect(Scorer(), found, found.rows)(iter(rows_of(records))))
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [Rejected if i == where else Used for i in range(3)] + [Result]
    (row,) = found.rows()
    assert (row.value, row.n) == (50, 2)


def test_a_waiting_row_without_a_gold_answer_is_told_at_once() -> None:
    (outcome, *_) = collect(Scorer("cider"), Aggregate(), list)(iter(rows_of([{"id": "a", "prediction": "x"}])))
    assert isinstance(outcome, Rejected) and "answer" in str(outcome.error)


def test_samples_are_read_back_from_the_records_that_carry_them() -> None:
    records = [pope("yes", "no", 1, "a.png"), pope("no", "no", 2), {**CAPTIONS[0], "benchmark": "slake"}]
    for record, sample in zip(records, score_all(records), strict=True):
        assert Sample.from_record(json.loads(json.dumps({**record, **sample.additions()}))) == sample
