"""Comparisons row by row: pairing, tests, intervals that cover planted differences, and what is said where figures
cannot be had. The averages over tasks are in test_improvement.py.

Against independent code: McNemar against scipy.stats.binomtest, the paired bootstrap against scipy.stats.bootstrap.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring_kit import collected

from mmkit.errors import DataError, UsageError
from mmkit.evaluation.compare import ComparisonRow, compare
from mmkit.evaluation.differences import mcnemar
from mmkit.evaluation.methods import Method
from mmkit.evaluation.scores import ScoreRow

# The error of the difference of two 2.5 % quantiles, each of 10,000 draws, in standard errors of what is drawn:
# sqrt(2 × .025 × .975 / 10,000) / φ(1.96).
MONTE_CARLO = 0.038


def row(values: list[float], ids: list[str] | None = None, **fields: Any) -> ScoreRow:
    wire = {
        "task": "t", "metric": "em", "rule": "strict", "unit": "%", "n": len(values),
        "value": sum(values) / len(values),
        "samples": {"ids": ids or [f"r{i}" for i in range(len(values))], "values": values},
    }  # fmt: skip
    return ScoreRow.from_wire({**wire, **fields})


def clustered(values: list[float], clusters: list[int], **fields: Any) -> ScoreRow:
    samples = {"ids": [f"r{i}" for i in range(len(values))], "values": values, "clusters": clusters}
    return row(values, samples=samples, **fields)


def rows_of(baseline: list[ScoreRow], *others: list[ScoreRow]) -> list[ComparisonRow]:
    """The rows of methods a, b, c …, a being the baseline."""
    first, *rest = (Method.of(name, rows) for name, rows in zip("abcd", (baseline, *others), strict=False))
    return list(compare(first, rest).rows)


def one(baseline: ScoreRow, other: ScoreRow) -> ComparisonRow:
    (found,) = rows_of([baseline], [other])
    return found


def of_seeds(before: list[ScoreRow], after: list[ScoreRow]) -> ComparisonRow:
    """The row of two methods with a score row a seed."""
    sides = [Method.of(name, *([seed] for seed in rows)) for name, rows in (("a", before), ("b", after))]
    (found,) = compare(sides[0], sides[1:]).rows
    return found


def means(found: ComparisonRow) -> tuple[float | None, float | None]:
    return found.baseline and found.baseline.mean, found.value and found.value.mean


def test_a_clear_gain_is_seen_pair_by_pair() -> None:
    before, after = [100.0] * 40 + [0.0] * 60, [100.0] * 70 + [0.0] * 30
    found = one(row(before), row(after))
    assert (means(found), found.difference, found.relative) == ((40, 70), 30, 75)
    assert (found.interval, found.test, found.n_paired) == ("paired bootstrap", "McNemar", 100)
    assert (found.reference, found.method, found.better) == ("a", "b", True)
    # 30 of 100 pairs gain: standard error 100 sqrt(.3 × .7 / 100) = 4.58, so 30 ± 8.98.
    assert found.ci95 == pytest.approx((21, 39), abs=1.01)
    assert found.p_value == pytest.approx(2 / 2**30)
    assert found.note is None
    assert json.loads(json.dumps(found.to_wire()))["ci95"] == list(found.ci95 or ())


@given(gained=st.integers(0, 400), lost=st.integers(0, 400))
def test_mcnemar_is_the_binomial_test_of_those_that_changed(gained: int, lost: int) -> None:
    expected = scipy.stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_many_pairs_is_quick_and_never_nought() -> None:
    assert mcnemar(50_000, 50_000) == 1
    assert 0 < mcnemar(100_000, 0) < 1e-300


def test_the_test_depends_on_the_scores_and_is_named() -> None:
    exact = one(row([0.0, 100.0] * 20), row([100.0, 100.0] * 20))
    partial = one(row([0.0, 100.0] * 20), row([100.0, 50.0] * 20))
    own = one(row([0.0, 1.0] * 20, metric="solved", unit=""), row([1.0, 1.0] * 20, metric="solved", unit=""))
    shared = one(clustered([0.0, 100.0] * 20, [i // 4 for i in range(40)]), row([100.0, 100.0] * 20))
    assert [found.test for found in (exact, partial, own, shared)] == [
        "McNemar",
        "paired bootstrap",
        "McNemar",
        "paired bootstrap",
    ]
    assert {found.interval for found in (exact, partial, own, shared)} == {"paired bootstrap"}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_paired_bootstrap_is_scipys(seed: int) -> None:
    random = np.random.default_rng(seed)
    before = random.uniform(0, 100, 60)
    after = np.clip(before + random.normal(8, 25, 60), 0, 100)
    found = one(row(before.tolist()), row(after.tolist()))
    expected = scipy.stats.bootstrap(
        (after - before,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(seed)
    )
    error = float(expected.standard_error) * MONTE_CARLO
    assert found.ci95 == pytest.approx(tuple(expected.confidence_interval), abs=5 * error)
    assert found.p_value is not None
    share = min(np.mean(expected.bootstrap_distribution <= 0), np.mean(expected.bootstrap_distribution >= 0))
    assert found.p_value == pytest.approx(2 * share, abs=0.02)


def replies(random: np.random.Generator, share: float) -> list[dict[str, Any]]:
    """40 images with a question to be answered yes and one to be answered no; some images are harder."""
    hard = np.repeat(np.random.default_rng(0).random(40), 2)
    right = hard + random.normal(0, 0.2, 80) < share
    return [
        {
            "id": f"q{i}",
            "task": "t",
            "images": [{"path": f"{i // 2}.jpg"}],
            "question": "?",
            "answer": "no" if i % 2 else "yes",
            "prediction": ("no" if i % 2 else "yes") if right[i] else ("yes" if i % 2 else "no"),
        }
        for i in range(80)
    ]


def scored(records: list[dict[str, Any]], metric: str) -> ScoreRow:
    (found,) = collected(records, metric).rows()
    return found


def f1(right: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """POPE's F1 of yes, from right replies of shape (..., images, 2)."""
    hits = right[..., 0].sum(-1)
    return 100 * 2 * hits / (hits + (~right[..., 1]).sum(-1) + right.shape[-2])


def mme(right: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """MME's accuracy and share of images with both right, of the same shape."""
    return 100 * (right.mean((-1, -2)) + right.all(-1).mean(-1))


@pytest.mark.parametrize(("metric", "value"), [("pope", f1), ("mme", mme)])
def test_a_pooled_metric_is_computed_anew_from_each_draw_of_images(metric: str, value: Any) -> None:
    random = np.random.default_rng(5)
    sides = [replies(random, share) for share in (0.5, 0.7)]
    before, after = (scored(records, metric) for records in sides)
    found = one(before, after)
    assert means(found) == (pytest.approx(before.value), pytest.approx(after.value))
    right = np.array([[one["prediction"] == one["answer"] for one in records] for records in sides])
    images = right.reshape(2, 40, 2)
    assert found.difference == pytest.approx(float(value(images[1]) - value(images[0])))
    drawn = random.integers(40, size=(10_000, 40))
    differences = value(images[1][drawn]) - value(images[0][drawn])
    assert found.ci95 == pytest.approx(np.percentile(differences, (2.5, 97.5)), abs=5 * MONTE_CARLO * differences.std())
    assert (found.interval, found.test, found.n_paired) == ("paired bootstrap", "paired bootstrap", 80)


def test_a_pooled_metric_without_its_counts_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"t pope strict: samples\.statistics: expected 5 numbers an id: tp, fp, fn, tn, yes"
    ):
        one(row([50.0], metric="pope"), row([50.0], metric="pope"))


def test_pairing_is_by_id_not_by_position() -> None:
    before, ids = [100.0, 0.0, 50.0] * 10, [f"r{i}" for i in range(30)]
    found = one(row(before, ids), row(before[::-1], ids[::-1]))
    assert found.difference == 0 and found.p_value == 1 and found.better is None
    assert found.ci95 is not None and found.ci95[0] < 0 < found.ci95[1]  # 30 equal pairs do not prove equality


def test_ids_on_one_side_only_are_left_out_and_stated() -> None:
    found = one(row([0.0, 100.0, 0.0], ["a", "b", "c"]), row([100.0, 100.0, 0.0, 0.0], ["b", "c", "x", "y"]))
    assert (means(found), found.n_paired) == ((50, 100), 2)
    assert found.note == "on the 2 common ids; 1 only in the baseline and 2 not in it were left out"


def test_a_baseline_of_zero_is_named_and_not_divided_by() -> None:
    found = one(row([0.0] * 5), row([100.0] * 5))
    assert found.relative is None and found.difference == 100
    assert found.note == "the baseline is 0, so there is no relative change"


@pytest.mark.parametrize(("n", "least"), [(1, 1.0), (3, 0.25), (6, 0.03)])
@pytest.mark.parametrize("gain", [100.0, 50.0])  # by either test
def test_a_few_pairs_prove_little(n: int, least: float, gain: float) -> None:
    found = one(row([0.0] * n), row([gain] * n))
    assert found.p_value is not None and found.p_value >= least
    assert found.ci95 is not None and found.ci95[0] < gain <= found.ci95[1]


def test_rows_of_one_image_are_drawn_together() -> None:
    before, after = [0.0] * 100, ([100.0] * 10 + [0.0] * 10) * 5
    apart = one(row(before), row(after))
    images = [i // 10 for i in range(100)]
    for sides in ((clustered(before, images), row(after)), (row(before), clustered(after, images))):
        together = one(*sides)
        assert apart.ci95 is not None and together.ci95 is not None
        ratio = (together.ci95[1] - together.ci95[0]) / (apart.ci95[1] - apart.ci95[0])
        assert ratio == pytest.approx(10**0.5, rel=0.1)


def test_without_samples_the_intervals_are_used() -> None:
    before = row([0.0], samples=None, value=50.0, ci95=[40.0, 60.0])
    found = one(before, row([0.0], samples=None, value=80.0, ci95=[70.0, 85.0]))
    # Newcombe by hand: 30 - sqrt(10² + 10²), 30 + sqrt(5² + 10²).
    assert found.ci95 == pytest.approx((15.857864, 41.180340), abs=1e-6)
    assert (found.interval, found.test, found.n_paired, found.difference) == ("Newcombe", "Newcombe", 0, 30)
    assert found.p_value == pytest.approx(3.2e-5, rel=0.02)  # 1.96 × 30 / 14.142 = 4.158 standard errors
    edge = one(before, row([0.0], samples=None, value=64.142136, ci95=[54.142136, 70.0]))
    assert edge.p_value == pytest.approx(0.05, abs=1e-6) and edge.ci95 is not None and abs(edge.ci95[0]) < 1e-5
    disjoint = one(row([0.0, 100.0], ["a", "b"], ci95=[0, 90]), row([100.0, 100.0], ["c", "d"], ci95=[34, 100]))
    assert disjoint.interval == "Newcombe" and disjoint.note == "no id is on both sides"


def test_without_intervals_there_is_the_difference_alone() -> None:
    found = one(row([0.0], samples=None, value=50), row([0.0], value=60))
    assert (found.difference, found.relative) == (10, 20)
    assert (found.ci95, found.interval, found.p_value, found.test) == (None, None, None, None)


def test_less_is_better_where_the_row_says_so() -> None:
    down = {"metric": "rmse", "unit": "", "higher_is_better": False}
    assert one(row([4.0, 6.0], **down), row([1.0, 2.0], **down)).better is True


def test_seeds_are_averaged_and_drawn_together() -> None:
    """The figures are those of each record's mean over the seeds, which is the mean of the seeds' scores."""
    random = np.random.default_rng(2)
    before, after = (random.integers(0, 2, (3, 50)) * 100.0 for _ in range(2))
    found = of_seeds([row(seed.tolist()) for seed in before], [row(seed.tolist()) for seed in after[:2]])
    assert found.baseline is not None and found.value is not None
    assert found.baseline.mean == pytest.approx(before.mean())
    assert found.baseline.sd == pytest.approx(before.mean(axis=1).std(ddof=1))
    assert found.value.sd == pytest.approx(after[:2].mean(axis=1).std(ddof=1))
    expected = scipy.stats.bootstrap(
        (after[:2].mean(axis=0) - before.mean(axis=0),), np.mean, n_resamples=10_000, method="percentile", rng=random
    )
    error = float(expected.standard_error) * MONTE_CARLO
    assert found.ci95 == pytest.approx(tuple(expected.confidence_interval), abs=5 * error)
    assert found.test == "paired bootstrap" and found.note is not None and "not what other seeds would" in found.note
    wire = found.to_wire()
    assert (wire["baseline"], wire["baseline_sd"]) == (found.baseline.mean, found.baseline.sd)


def test_the_order_of_seeds_never_matters() -> None:
    random = np.random.default_rng(4)
    before, *after = (row((random.integers(0, 3, 30) * 50.0).tolist()) for _ in range(4))
    found = [of_seeds([before], list(order)) for order in itertools.permutations(after)]
    assert all(one == found[0] for one in found)


def test_seeds_without_samples_have_a_mean_and_no_interval() -> None:
    typed_in = [row([0.0], samples=None, value=value, ci95=[0, 100]) for value in (50.0, 54.0)]
    found = of_seeds(typed_in, typed_in[1:])
    assert (means(found), found.difference, found.ci95) == ((52, 54), 2, None)


def test_what_has_no_counterpart_is_shown() -> None:
    found = rows_of([row([1.0]), row([2.0], task="u")], [row([3.0]), row([4.0], task="v")], [row([5.0], task="u")])
    assert [(r.method, r.task, *means(r), r.difference, r.note) for r in found] == [
        ("b", "t", 1, 3, 2, None),
        ("b", "u", 2, None, None, "not in b"),
        ("b", "v", None, 4, None, "not in a"),
        ("c", "t", 1, None, None, "not in c"),
        ("c", "u", 2, 5, 3, None),
    ]


def test_rows_by_different_rules_are_one_line_that_says_so() -> None:
    (found,) = rows_of([row([1.0])], [row([2.0], rule="raw")])
    assert (means(found), found.difference, found.ci95) == ((1, 2), None, None)
    assert found.note == "scored by other rules: strict in a, raw in b"
    both = [row([1.0]), row([2.0], rule="raw")]
    assert [r.difference for r in rows_of(both, both[::-1])] == [0, 0]


def test_zero_shot_tasks_are_compared_with_their_own_baseline() -> None:
    stl = Method.of("stl", [row([50.0])])
    ew = Method.of("ew", [row([60.0]), row([20.0], task="mme")])
    tuned = Method.of("tuned", [row([70.0]), row([30.0], task="mme")])
    found = compare(stl, [ew, tuned], zero_shot=["mme"], zero_baseline="ew").rows
    assert [(r.method, r.task, r.reference, r.zero_shot, r.difference) for r in found] == [
        ("ew", "t", "stl", False, 10),
        ("tuned", "t", "stl", False, 20),
        ("tuned", "mme", "ew", True, 10),
    ]


def test_what_is_not_clear_is_refused() -> None:
    with pytest.raises(DataError, match=r"a: two rows of t em strict \(by x and y\)"):
        rows_of([row([1.0], model="x"), row([2.0], model="y")], [])
    with pytest.raises(DataError, match="'a' occurs more than once"):
        rows_of([row([1.0, 2.0], ["a", "a"])], [row([1.0], ["a"])])
    with pytest.raises(DataError, match="unit or direction: %, more is better and points, more is better"):
        rows_of([row([1.0])], [row([1.0], unit="points")])
    with pytest.raises(DataError, match=r"b has no task and metric in common with a\nb: u em strict\na: t em strict$"):
        rows_of([row([1.0])], [row([1.0], task="u")])


def test_names_that_are_not_there_are_told_with_those_that_are() -> None:
    sides = [Method.of(name, [row([1.0])]) for name in ("a", "b")]
    for options in ({"exclude": ["u"]}, {"zero_shot": ["u"]}):
        with pytest.raises(UsageError, match="u: no such task in the scores; there are: t"):
            compare(sides[0], sides[1:], **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--zero-baseline c: no method of that name; there are: a, b"):
        compare(sides[0], sides[1:], zero_baseline="c")
    with pytest.raises(UsageError, match="two methods are named a"):
        compare(sides[0], [sides[0]])


values = st.sampled_from([0.0, 25.0, 100 / 3, 100.0])


@settings(max_examples=25)
@given(pairs=st.lists(st.tuples(values, values), min_size=1, max_size=20), shuffler=st.randoms())
def test_order_never_matters_and_swapping_sides_turns_the_sign(pairs: list[Any], shuffler: Any) -> None:
    ids = [f"r{i}" for i in range(len(pairs))]
    before, after = row([a for a, _ in pairs], ids), row([b for _, b in pairs], ids)
    found = one(before, after)
    order = list(range(len(pairs)))
    shuffler.shuffle(order)
    shuffled = one(row([pairs[i][0] for i in order], [ids[i] for i in order]), after)
    assert (shuffled.ci95, shuffled.p_value) == (found.ci95, found.p_value)
    swapped = one(after, before)
    assert swapped.difference == pytest.approx(-(found.difference or 0))
    assert found.ci95 is not None
    assert swapped.ci95 == pytest.approx((-found.ci95[1], -found.ci95[0]), abs=2e-6)
    assert swapped.p_value == found.p_value
    assert found.p_value is not None and 0 < found.p_value <= 1
    tie = one(before, before)
    assert (tie.difference, tie.p_value, tie.better) == (0, 1, None)


def test_the_paired_interval_covers_a_planted_difference_and_the_tests_keep_their_level() -> None:
    """400 experiments of 80 pairs: a planted gain is covered, and no gain is called one, about as often as stated."""
    random = np.random.default_rng(3)

    def experiment(gain: float, partly: float = 1.0) -> ComparisonRow:
        hard = random.random(80)  # the same difficulty on both sides: that is what makes pairing pay
        before, after = ((hard + random.normal(0, 0.2, 80) < share) * 100.0 for share in (0.5, 0.5 + gain))
        before[:20] *= partly
        after[:20] *= partly
        return one(row(before.tolist()), row(after.tolist()))

    gains = [experiment(0.15) for _ in range(400)]
    planted = float(np.mean([found.difference or 0 for found in gains]))  # the truth, near 15
    intervals = [found.ci95 or (0, 0) for found in gains]
    covered = sum(low <= planted <= high for low, high in intervals) / 400
    assert 0.91 <= covered <= 0.99
    for partly, test in ((1.0, "McNemar"), (0.5, "paired bootstrap")):
        nothing = [experiment(0, partly) for _ in range(400)]
        assert {found.test for found in nothing} == {test}
        assert sum((found.p_value or 0) < 0.05 for found in nothing) / 400 <= 0.08
