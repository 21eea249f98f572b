"""95 % intervals of a score. Never nan, and never of no width for lack of data.

A score is a function of statistics that are summed over rows: (value, 1) and their ratio for a mean, n-gram counts
for BLEU. Rows that share an image are not independent, so the unit that is drawn (bootstrap) or counted (Wilson) is
then the image. The order of the rows never matters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Z95 = 1.959963984540054
RESAMPLES = 2_000
_DRAWN_AT_ONCE = 2_000_000
_FEW = 32  # drawing one kind costs about as much as drawing this many units one by one


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's score interval of a share in [0, 1] seen in `n` trials (`n` may be an effective, fractional number).

    Source: Wilson 1927. Deviation: none.
    """
    centre = share + Z95**2 / (2 * n)
    margin = Z95 * math.sqrt(share * (1 - share) / n + (Z95 / (2 * n)) ** 2)
    scale = 1 + Z95**2 / n
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


def constant_interval(value: float, n: int, bounds: tuple[float, float]) -> tuple[float, float]:
    """The interval where all of `n` units show the same value, of which a bootstrap would say nothing.

    Wilson's upper bound of a share never seen in n units is q = z² / (n + z²); so much of the population may lie at
    either end of the range. For proportions this is Wilson's interval itself.
    """
    unseen = Z95**2 / (n + Z95**2)
    low, high = bounds
    return (1 - unseen) * value + unseen * low, (1 - unseen) * value + unseen * high


def mean_interval(
    values: Sequence[float], bounds: tuple[float, float], *, clusters: Sequence[int] | None = None, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of the mean of `values`, which lie within `bounds` (same unit), rounded to six decimals.

    Values at the two ends of the range only: Wilson, with the number of rows divided by the design effect of the
    clusters (Korn and Graubard 1998). Otherwise: `pooled_interval`. `clusters` gives one number a row, equal for rows
    of one image. Raises ValueError for no values.
    """
    import numpy as np

    if not values:
        raise ValueError("an interval needs at least one value")
    rows = np.column_stack([np.asarray(values, dtype=np.float64), np.ones(len(values))])
    sums = cluster_sums(rows, clusters)
    low, high = bounds
    if set(values) <= {low, high} and len(sums) > 1 and len(set(values)) > 1:
        mean = math.fsum(values) / len(values)
        lower, upper = wilson((mean - low) / (high - low), len(values) / _design_effect(sums, mean, bounds))
        return _rounded(low + lower * (high - low), low + upper * (high - low), mean)
    return pooled_interval(sums, mean_of, bounds, seed=seed)


def pooled_interval(
    sums: NDArray[np.float64],
    value: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    bounds: tuple[float, float],
    *,
    seed: int = 0,
) -> tuple[float, float]:
    """The 95 % interval of `value` of summed statistics, rounded to six decimals: percentile bootstrap over clusters.

    `sums` are the statistics of each cluster, shape (clusters, k); `value` takes (..., k) to (...). Where all draws
    have one value, as with one cluster: `constant_interval`.
    """
    point = float(value(sums.sum(axis=0)))
    lower, upper = bootstrap_interval(value(bootstrap_sums(sums, resamples=RESAMPLES, seed=seed)))
    if math.isclose(lower, upper, rel_tol=1e-9, abs_tol=1e-9):
        lower, upper = constant_interval(point, len(sums), bounds)
    return _rounded(lower, upper, point)


def mean_of(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean from (sum of values, number of values): shape (..., 2) to (...)."""
    mean: NDArray[np.float64] = sums[..., 0] / sums[..., 1]
    return mean


def cluster_sums(statistics: NDArray[np.float64], clusters: Sequence[int] | None) -> NDArray[np.float64]:
    """The statistics of rows, shape (rows, k), summed by cluster: (clusters, k). Without clusters: as they are.

    Sums are exact to the last bit, so that they do not depend on the rows' order.
    """
    import numpy as np

    if clusters is None:
        return statistics
    members: dict[int, list[int]] = {}
    for row, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(row)
    columns = statistics.T.tolist()
    return np.array([[math.fsum(column[row] for row in rows) for column in columns] for rows in members.values()])


def bootstrap_sums(sums: NDArray[np.float64], *, resamples: int, seed: int) -> NDArray[np.float64]:
    """The sums of `resamples` draws, with replacement, of as many clusters as there are: shape (resamples, k).

    How often each cluster is drawn is drawn, and not which. Where few kinds of clusters repeat, equal ones are drawn
    together, as one multinomial: the same distribution, and quick.
    """
    import numpy as np

    kinds, counts = np.unique(sums, axis=0, return_counts=True)
    total = len(sums)
    random = np.random.default_rng(seed)
    by_kind = len(kinds) * _FEW < total
    rows = kinds if by_kind else np.repeat(kinds, counts, axis=0)
    drawn = []
    size = max(1, _DRAWN_AT_ONCE // len(rows))
    for start in range(0, resamples, size):
        num = min(size, resamples - start)
        if by_kind:
            times = random.multinomial(total, counts / total, size=num)
        else:
            places = random.integers(total, size=(num, total)) + np.arange(num)[:, None] * total
            times = np.bincount(places.ravel(), minlength=num * total).reshape(num, total)
        drawn.append(times.astype(np.float64) @ rows)
    return np.concatenate(drawn)


def bootstrap_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile."""
    import numpy as np

    lower, upper = np.percentile(values, (2.5, 97.5))
    return float(lower), float(upper)


def _rounded(lower: float, upper: float, point: float) -> tuple[float, float]:
    return round(min(lower, point), 6), round(max(upper, point), 6)


def _design_effect(sums: NDArray[np.float64], mean: float, bounds: tuple[float, float]) -> float:
    """How many times wider than of independent rows the mean's variance is; never below 1."""
    num_clusters, num_rows = len(sums), float(sums[:, 1].sum())
    if num_clusters == num_rows:
        return 1.0
    low, high = bounds
    independent = (mean - low) * (high - mean) / num_rows
    residuals = math.fsum((sums[:, 0] - mean * sums[:, 1]) ** 2)
    clustered = num_clusters / (num_clusters - 1) * residuals / num_rows**2
    return max(1.0, clustered / independent)
