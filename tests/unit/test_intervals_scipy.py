"""The bootstrap against scipy's, which draws rows one by one: the same intervals up to the noise of drawing."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from mmkit.evaluation.intervals import bootstrap_sums, cluster_sums, mean_interval, pooled_interval

RESAMPLES = 20_000


def noise(values: np.ndarray) -> float:
    """Two percentiles of 2,000 draws each move by a twentieth of the standard error or so; four times that is asked."""
    return 0.2 * float(values.std() / np.sqrt(len(values)))


@pytest.mark.parametrize("levels", [None, [0.0, 30.0, 60.0, 90.0, 100.0]])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_means(levels: list[float] | None, seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.random(150) ** 2 * 100 if levels is None else random.choice(levels, size=1200)
    theirs = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=RESAMPLES, rng=random)
    ours = mean_interval(values.tolist(), (0.0, 100.0), seed=seed)
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=noise(values))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_means_of_rows_that_share_images(seed: int) -> None:
    """Scipy is given the images' sums and counts; the images have one to six rows."""
    random = np.random.default_rng(seed)
    counts = random.integers(1, 7, size=90)
    clusters = np.repeat(np.arange(90), counts)
    values = np.clip(random.normal(50, 20, 90)[clusters] + random.normal(0, 5, len(clusters)), 0, 100)
    sums = np.bincount(clusters, weights=values)

    def mean(total: np.ndarray, number: np.ndarray, axis: int = -1) -> np.ndarray:
        return total.sum(axis=axis) / number.sum(axis=axis)

    theirs = scipy.stats.bootstrap(
        (sums, counts), mean, paired=True, method="percentile", n_resamples=RESAMPLES, rng=random
    )
    ours = mean_interval(values.tolist(), (0.0, 100.0), clusters=clusters.tolist(), seed=seed)
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=noise(sums / counts))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_ratio_of_sums(seed: int) -> None:
    """F1 from true positives, false positives and false negatives, each row being one of them or none."""
    random = np.random.default_rng(seed)
    rows = np.eye(4)[random.integers(4, size=200)][:, :3]

    def f1(sums: np.ndarray) -> np.ndarray:
        return 200 * sums[..., 0] / (2 * sums[..., 0] + sums[..., 1] + sums[..., 2])

    def of_rows(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, axis: int = -1) -> np.ndarray:
        return f1(np.stack([tp.sum(axis=axis), fp.sum(axis=axis), fn.sum(axis=axis)], axis=-1))

    theirs = scipy.stats.bootstrap(
        tuple(rows.T), of_rows, paired=True, method="percentile", n_resamples=RESAMPLES, rng=random
    )
    assert pooled_interval(rows, f1, (0.0, 100.0), seed=seed) == pytest.approx(
        tuple(theirs.confidence_interval), abs=1.2
    )


@pytest.mark.parametrize("num_kinds", [3, 3000])
def test_both_ways_of_drawing_have_the_right_mean_and_spread(num_kinds: int) -> None:
    """3 kinds among 3,000 are drawn as one multinomial, 3,000 kinds one by one: the sum of n draws has n times the
    mean and n times the variance of one."""
    values = np.random.default_rng(0).permutation(np.arange(3000) % num_kinds / num_kinds)[:, None]
    drawn = bootstrap_sums(values, resamples=4000, seed=1)[:, 0]
    assert drawn.mean() == pytest.approx(values.sum(), abs=4 * values.std() * np.sqrt(3000 / 4000))
    assert drawn.std() == pytest.approx(values.std() * np.sqrt(3000), rel=0.06)


def test_sums_by_cluster_are_exact() -> None:
    rows = np.array([[0.1, 1.0], [0.2, 1.0], [0.3, 1.0], [1e16, 1.0], [1.0, 1.0], [-1e16, 1.0]])
    assert cluster_sums(rows, [7, 7, 7, 2, 2, 2]).tolist() == [[0.6, 3.0], [1.0, 3.0]]
