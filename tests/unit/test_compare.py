"""Comparisons: pairing, intervals that cover planted differences, and what is said where figures cannot be had."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkit.errors import DataError
from mmkit.evaluation.compare import ComparisonRow, compare, table
from mmkit.evaluation.scores import Samples, ScoreRow


def row(values: list[float], ids: list[str] | None = None, **fields: Any) -> ScoreRow:
    wire = {
        "task": "t", "metric": "em", "rule": "strict", "unit": "%", "n": len(values),
        "value": sum(values) / len(values),
        "samples": {"ids": ids or [f"r{i}" for i in range(len(values))], "values": values},
    }  # fmt: skip
    return ScoreRow.from_wire({**wire, **fields})


def one(baseline: ScoreRow, other: ScoreRow) -> ComparisonRow:
    (found,) = compare([baseline], [other])
    return found


def test_a_clear_gain_is_seen_pair_by_pair() -> None:
    before, after = [100.0] * 40 + [0.0] * 60, [100.0] * 70 + [0.0] * 30
    found = one(row(before), row(after, model="tuned"))
    assert (found.baseline, found.value, found.difference, found.relative) == (40, 70, 30, 75)
    assert (found.method, found.n_paired, found.better, found.model) == ("paired bootstrap", 100, True, "tuned")
    # 30 of 100 pairs gain: standard error 100 sqrt(.3 × .7 / 100) = 4.58, so 30 ± 8.98.
    assert found.ci95 == pytest.approx((21, 39), abs=1.01)
    assert found.p_value == pytest.approx(2 / 10_001)
    assert found.note is None
    assert json.loads(json.dumps(found.to_wire()))["ci95"] == list(found.ci95 or ())


def test_pairing_is_by_id_not_by_position() -> None:
    before, ids = [100.0, 0.0, 50.0] * 10, [f"r{i}" for i in range(30)]
    found = one(row(before, ids), row(before[::-1], ids[::-1]))
    assert found.difference == 0 and found.p_value == 1 and found.better is None
    assert found.ci95 is not None and found.ci95[0] < 0 < found.ci95[1]  # 30 equal pairs do not prove equality


def test_ids_on_one_side_only_are_left_out_and_stated() -> None:
    found = one(row([0.0, 100.0, 0.0], ["a", "b", "c"]), row([100.0, 100.0, 0.0, 0.0], ["b", "c", "x", "y"]))
    assert (found.baseline, found.value, found.n_paired) == (50, 100, 2)
    assert found.note == "on the 2 common ids; 1 only in the baseline and 2 not in it were left out"


def test_a_baseline_of_zero_is_named_and_not_divided_by() -> None:
    found = one(row([0.0] * 5), row([100.0] * 5))
    assert found.relative is None and found.difference == 100
    assert found.note == "the baseline is 0, so there is no relative change"


@pytest.mark.parametrize(("n", "least"), [(1, 1.0), (3, 0.25), (6, 0.03)])
def test_a_few_pairs_prove_little(n: int, least: float) -> None:
    found = one(row([0.0] * n), row([100.0] * n))
    assert found.p_value is not None and found.p_value >= least
    assert found.ci95 is not None and found.ci95[0] < 100 == found.ci95[1]


def test_rows_of_one_image_are_drawn_together() -> None:
    before, after = [0.0] * 100, ([100.0] * 10 + [0.0] * 10) * 5
    apart = one(row(before), row(after))
    shared = row(before)
    assert shared.samples is not None
    samples = Samples(shared.samples.ids, shared.samples.values, [i // 10 for i in range(100)])
    together = one(
        row(before, samples={"ids": samples.ids, "values": samples.values, "clusters": samples.clusters}), row(after)
    )
    assert apart.ci95 is not None and together.ci95 is not None
    ratio = (together.ci95[1] - together.ci95[0]) / (apart.ci95[1] - apart.ci95[0])
    assert ratio == pytest.approx(10**0.5, rel=0.1)


def test_without_samples_the_intervals_are_used() -> None:
    before = row([0.0], samples=None, value=50.0, ci95=[40.0, 60.0])
    found = one(before, row([0.0], samples=None, value=80.0, ci95=[70.0, 85.0]))
    # Newcombe by hand: 30 - sqrt(10² + 10²), 30 + sqrt(5² + 10²).
    assert found.ci95 == pytest.approx((15.857864, 41.180340), abs=1e-6)
    assert (found.method, found.n_paired, found.difference) == ("unpaired intervals", 0, 30)
    assert found.p_value == pytest.approx(3.2e-5, rel=0.02)  # 1.96 × 30 / 14.142 = 4.158 standard errors
    edge = one(before, row([0.0], samples=None, value=64.142136, ci95=[54.142136, 70.0]))
    assert edge.p_value == pytest.approx(0.05, abs=1e-6) and edge.ci95 is not None and abs(edge.ci95[0]) < 1e-5
    disjoint = one(row([0.0, 100.0], ["a", "b"], ci95=[0, 90]), row([100.0, 100.0], ["c", "d"], ci95=[34, 100]))
    assert disjoint.method == "unpaired intervals" and disjoint.note == "no id is on both sides"


def test_without_intervals_there_is_the_difference_alone() -> None:
    found = one(row([0.0], samples=None, value=50), row([0.0], value=60))
    assert (found.difference, found.relative, found.method) == (10, 20, "difference only")
    assert found.ci95 is None and found.p_value is None


def test_less_is_better_where_the_row_says_so() -> None:
    down = {"metric": "rmse", "unit": "", "higher_is_better": False}
    assert one(row([4.0, 6.0], **down), row([1.0, 2.0], **down)).better is True


def test_what_has_no_counterpart_is_shown() -> None:
    found = compare([row([1.0]), row([2.0], task="u")], [row([3.0]), row([4.0], rule="raw")], [row([5.0], task="u")])
    assert [(r.task, r.rule, r.baseline, r.value, r.method) for r in found] == [
        ("t", "strict", 1, 3, "paired bootstrap"),
        ("u", "strict", 2, None, "unmatched"),
        ("t", "raw", None, 4, "unmatched"),
        ("t", "strict", 1, None, "unmatched"),
        ("u", "strict", 2, 5, "paired bootstrap"),
    ]
    assert all(len(line) == len(table(found)[0]) for line in table(found))


def test_what_is_not_clear_is_refused() -> None:
    with pytest.raises(DataError, match="two rows of t em strict"):
        compare([row([1.0]), row([2.0])], [])
    with pytest.raises(DataError, match="'a' occurs more than once"):
        compare([row([1.0, 2.0], ["a", "a"])], [row([1.0], ["a"])])
    with pytest.raises(DataError, match="unit or direction"):
        compare([row([1.0])], [row([1.0], unit="points")])


@settings(max_examples=25)
@given(
    pairs=st.lists(st.tuples(*[st.sampled_from([0.0, 25.0, 100 / 3, 100.0])] * 2), min_size=1, max_size=20),
    shuffler=st.randoms(),
)
def test_order_never_matters_and_swapping_sides_turns_the_sign(pairs: list[Any], shuffler: Any) -> None:
    ids = [f"r{i}" for i in range(len(pairs))]
    before, after = row([a for a, _ in pairs], ids), row([b for _, b in pairs], ids)
    found = one(before, after)
    order = list(range(len(pairs)))
    shuffler.shuffle(order)
    assert one(row([pairs[i][0] for i in order], [ids[i] for i in order]), after).ci95 == found.ci95
    swapped = one(after, before)
    assert swapped.difference == pytest.approx(-(found.difference or 0))
    assert found.p_value is not None and 0 < found.p_value <= 1


def test_the_paired_interval_covers_a_planted_difference_and_the_test_keeps_its_level() -> None:
    """400 experiments of 80 pairs: a planted gain is covered, and no gain is called one, about as often as stated."""
    random = np.random.default_rng(3)

    def experiment(gain: float) -> ComparisonRow:
        hard = random.random(80)  # the same difficulty on both sides: that is what makes pairing pay
        before, after = ((hard + random.normal(0, 0.2, 80) < share) * 100.0 for share in (0.5, 0.5 + gain))
        return one(row(before.tolist()), row(after.tolist()))

    planted = float(np.mean([(experiment(0.15).difference or 0) for _ in range(400)]))  # the truth, near 15
    gains = [experiment(0.15).ci95 or (0, 0) for _ in range(400)]
    covered = sum(low <= planted <= high for low, high in gains) / 400
    assert 0.91 <= covered <= 0.99
    false_alarms = sum((experiment(0).p_value or 0) < 0.05 for _ in range(400)) / 400
    assert false_alarms <= 0.08
