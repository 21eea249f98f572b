"""Score rows: values, intervals against hand-computed figures, and the laws of an aggregate."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scoring_kit import collected, score_all

from mmkit.errors import DataError, UsageError
from mmkit.evaluation.intervals import mean_interval, wilson
from mmkit.evaluation.scores import Sample, ScoreRow, table
from mmkit.evaluation.scoring import Scorer

PERCENT = (0.0, 100.0)


def record(number: int, right: bool, **more: Any) -> dict[str, Any]:
    return {"id": f"r{number}", "prediction": "yes" if right else "no", "answer": "yes", **more}


def rows_of(records: list[dict[str, Any]], **options: Any) -> list[ScoreRow]:
    return collected(records, **options).rows()


def score_record(one: dict[str, Any], **options: Any) -> Sample | None:
    return Scorer(**options).score(one)


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    [
        # By hand: centre (p + z²/2n) / (1 + z²/n), half width z sqrt(p(1-p)/n + z²/4n²) / (1 + z²/n), z² = 3.841459.
        (0.5, 10, 0.236593, 0.763407),
        (0.9, 10, 0.595850, 0.982124),
        (0.0, 10, 0.0, 0.277533),  # z² / (n + z²)
        (1.0, 10, 0.722467, 1.0),
        (1.0, 1, 0.206549, 1.0),
        (0.8, 100, 0.711170, 0.866633),
    ],
)
def test_wilson_by_hand(share: float, n: int, low: float, high: float) -> None:
    assert wilson(share, n) == pytest.approx((low, high), abs=1e-6)
    right = round(share * n)
    assert mean_interval([100.0] * right + [0.0] * (n - right), PERCENT) == pytest.approx(
        (100 * low, 100 * high), abs=1e-4
    )


def test_a_score_row_holds_the_whole_story() -> None:
    records = [record(i, i < 8, task="slake") for i in range(9)] + [
        {"id": "r9", "prediction": " ", "answer": "yes", "task": "slake"}
    ]
    (row,) = rows_of(records)
    assert (row.task, row.metric, row.rule, row.unit, row.higher_is_better) == ("slake", "em", "strict", "%", True)
    assert (row.value, row.n, row.unparsed, row.model) == (80.0, 10, 1, None)
    assert row.ci95 == pytest.approx((49.0162, 94.3318), abs=1e-4)
    assert row.samples is not None and row.samples.clusters is None
    assert " ".join(row.to_wire()) == "task metric rule value unit higher_is_better n ci95 unparsed model samples"
    assert ScoreRow.from_wire(json.loads(json.dumps(row.to_wire()))) == row
    assert table([row])[1] == ["slake", "em (strict)", "80.0 %", "49.0 to 94.3", "10", "1", "", ""]


def test_a_table_shows_what_a_small_scale_can_tell() -> None:
    row = ScoreRow.from_wire({"task": "captions", "metric": "cider", "value": 0.1285, "ci95": [0.0911, 0.1702]})
    assert table([row])[1][2:4] == ["0.129 points", "0.091 to 0.170"]


def test_a_row_a_task_metric_rule_and_model() -> None:
    def by(model: str) -> dict[str, Any]:
        return {"lineage": [{"op": "synthesize", "model": "s"}, {"op": "predict", "model": model}]}

    records = [
        record(1, True),
        record(2, True, task="b", metric="token-recall"),
        record(3, True, task="b", choices=["yes", "no"]),
        record(4, False, task="b", choices=["yes", "no"], **by("m1")),
        record(5, True, task="b", choices=["yes", "no"], **by("m2")),
    ]
    found = [(row.task, row.metric, row.model, row.value) for row in rows_of(records)]
    assert found == [
        ("b", "mc", None, 100),
        ("b", "mc", "m1", 0),
        ("b", "mc", "m2", 100),
        ("b", "token-recall", None, 100),
        ("default", "em", None, 100),
    ]


def test_per_sample_additions() -> None:
    assert [sample.additions() for sample in score_all([record(1, True), record(2, False)], rule="raw")] == [
        {"metric": "em", "rule": "raw", "score": 100.0, "parsed": "yes"},
        {"metric": "em", "rule": "raw", "score": 0.0, "parsed": "no"},
    ]


def test_records_and_options_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="id: missing"):
        score_record({"prediction": "x", "answer": "x"})
    with pytest.raises(DataError, match="task: expected str"):
        score_record(record(1, True, task=3))
    with pytest.raises(DataError, match="benchmark: unknown benchmark 'salke'; mmkit eval --list"):
        score_record(record(1, True, benchmark="salke"), rule="raw", metric="em")
    with pytest.raises(DataError, match="images: missing; mme counts"):
        score_record({"id": "1", "metric": "mme", "prediction": "yes", "answer": "yes"})
    with pytest.raises(UsageError, match="no rule"):
        score_record(record(1, True), rule="adamllm")


scores = st.lists(st.sampled_from([0.0, 25.0, 100 / 3, 50.0, 100.0]), min_size=1, max_size=30)


@given(values=scores, clustered=st.booleans(), seed=st.integers(0, 3))
def test_intervals_are_finite_hold_the_mean_and_have_width(values: list[float], clustered: bool, seed: int) -> None:
    clusters = [i // 3 for i in range(len(values))] if clustered else None
    low, high = mean_interval(values, PERCENT, clusters=clusters, seed=seed)
    mean = math.fsum(values) / len(values)
    assert 0 <= low <= mean + 1e-6 and mean - 1e-6 <= high <= 100 and low < high


@given(values=scores, shuffler=st.randoms())
def test_an_interval_does_not_depend_on_the_order_of_its_rows(values: list[float], shuffler: random.Random) -> None:
    rows = [(value, i // 2) for i, value in enumerate(values)]
    first = mean_interval(values, PERCENT, clusters=[cluster for _, cluster in rows])
    shuffler.shuffle(rows)
    assert mean_interval([v for v, _ in rows], PERCENT, clusters=[c for _, c in rows]) == first


recalls = st.lists(
    st.tuples(st.sampled_from(["", "w1", "w1 w2", "w1 w2 w3", "w9"]), st.sampled_from(["a.png", "b.png", None])),
    min_size=1,
    max_size=12,
)


@given(rows=recalls, shuffler=st.randoms(), num_ids=st.integers(1, 12))
def test_order_never_matters(rows: list[tuple[str, str | None]], shuffler: random.Random, num_ids: int) -> None:
    """Not even where ids come again."""
    records = [
        {"id": str(i % num_ids), "prediction": said, "answer": "w1 w2 w3", "images": [{"path": path}] if path else []}
        for i, (said, path) in enumerate(rows)
    ]
    first = rows_of(records, metric="token-recall")
    shuffler.shuffle(records)
    assert rows_of(records, metric="token-recall") == first


@given(rows=recalls)
def test_a_doubled_set_keeps_the_mean(rows: list[tuple[str, str | None]]) -> None:
    records = [{"id": str(i), "prediction": said, "answer": "w1 w2 w3"} for i, (said, _) in enumerate(rows)]
    (one,) = rows_of(records, metric="token-recall")
    (two,) = rows_of(records + [{**r, "id": f"again{r['id']}"} for r in records], metric="token-recall")
    assert two.value == pytest.approx(one.value) and two.n == 2 * len(rows)


def test_rows_of_one_image_count_as_one() -> None:
    """Ten questions on each of 20 images, all answered alike: the interval is that of 20 images, not of 200 rows."""
    records = [record(i, right=i // 10 < 10, images=[{"path": f"{i // 10}.png"}]) for i in range(200)]
    (clustered,) = rows_of(records)
    (plain,) = rows_of([{**r, "images": []} for r in records])
    (unique,) = rows_of([record(i, i < 10, images=[{"path": f"{i}.png"}]) for i in range(20)])
    assert clustered.ci95 is not None and plain.ci95 is not None and unique.ci95 is not None
    assert clustered.ci95[1] - clustered.ci95[0] == pytest.approx(unique.ci95[1] - unique.ci95[0], rel=0.05)
    assert clustered.ci95[1] - clustered.ci95[0] > 2.5 * (plain.ci95[1] - plain.ci95[0])
    assert clustered.samples is not None and clustered.samples.clusters is not None
    assert len(set(clustered.samples.clusters)) == 20
    assert unique.samples is not None and unique.samples.clusters is None


def test_images_are_told_apart_by_path_or_bytes() -> None:
    def clusters(*images: Any) -> Any:
        (row,) = rows_of([record(i, True, images=one) for i, one in enumerate(images)])
        assert row.samples is not None
        return row.samples.clusters

    assert clusters([{"bytes": b"1", "path": "x"}], [{"bytes": b"1", "path": "y"}], [{"bytes": b"2", "path": "x"}]) == (
        [0, 0, 1]
    )
    assert clusters([{"path": "x"}], [{"path": "x"}, {"path": "y"}], []) is None
    assert clusters([], [], [{"path": "x"}], [{"path": "x"}]) == [0, 1, 2, 2]


@pytest.mark.parametrize("images_shared", [1, 4])
@pytest.mark.parametrize("levels", [[0.0, 100.0], [0.0, 25.0, 50.0, 100.0]])
def test_intervals_cover_the_planted_mean(levels: list[float], images_shared: int) -> None:
    """Of 300 samples of 40 images with a known mean, 95 % ± 4 % of the intervals hold it."""
    truth, covered, trials = sum(levels) / len(levels), 0, 300
    random = np.random.default_rng(7)
    for trial in range(trials):
        values = random.choice(levels, size=40).repeat(images_shared).tolist()
        clusters = [i // images_shared for i in range(len(values))] if images_shared > 1 else None
        low, high = mean_interval(values, PERCENT, clusters=clusters, seed=trial)
        covered += low <= truth <= high
    assert 0.91 <= covered / trials <= 0.99


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        ({"metric": None}, "metric: missing"),
        ({"value": "80"}, "value"),
        ({"value": math.nan}, "value"),
        ({"value": True}, "value"),
        ({"value": -1e308}, "value: expected a number between -1e50 and 1e50"),
        ({"samples": {"ids": ["a"], "values": [1e200]}}, "samples.values: expected a number between"),
        ({"ci95": [9, 1]}, "ci95: expected the lower bound first"),
        ({"ci95": [1]}, "ci95"),
        ({"ci95": [1, None]}, r"ci95\[1\]"),
        ({"n": "3"}, "n: expected int"),
        ({"samples": [1]}, "samples"),
        ({"samples": {"ids": ["a"], "values": []}}, "samples.values"),
        ({"samples": {"ids": [1], "values": [1]}}, "samples.ids"),
        ({"samples": {"ids": ["a"], "values": [1], "clusters": [1, 2]}}, "samples.clusters"),
    ],
)
def test_broken_score_rows_name_the_field(broken: dict[str, Any], word: str) -> None:
    with pytest.raises(DataError, match=word):
        ScoreRow.from_wire({"task": "t", "metric": "em", "value": 80, **broken})


def test_a_number_too_small_to_divide_by_is_read_as_0() -> None:
    """CIDEr's penalty for length makes such ones: e^-136 for one word against a hundred."""
    assert [ScoreRow.from_wire({"task": "t", "metric": "cider", "value": v}).value for v in (1e-59, 1e-9)] == [0, 1e-9]


def test_a_row_typed_in_from_a_paper_is_a_score_row() -> None:
    row = ScoreRow.from_wire({"task": "slake", "metric": "em", "value": 80})
    assert (row.unit, row.rule, row.ci95, row.samples, row.higher_is_better) == ("%", "", None, None, True)
