"""95 % intervals of a mean of per-row scores. Never nan, and never of no width for lack of data.

Rows that share an image are not independent, so the unit that is drawn (bootstrap) or counted (Wilson) is then the
image. The order of the rows never matters.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Z95 = 1.959963984540054
RESAMPLES = 2_000
_DRAWS_AT_ONCE = 2_000_000


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
    clusters (Korn and Graubard 1998). Otherwise: percentile bootstrap over clusters. One cluster, or clusters that
    all have one mean: `constant_interval`. `clusters` gives one number a row, equal for rows of one image. Raises
    ValueError for no values.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    mean = math.fsum(values) / len(values)
    sums, counts = cluster_totals(values, clusters)
    low, high = bounds
    if set(values) <= {low, high} and len(sums) > 1 and len(set(values)) > 1:
        lower, upper = wilson((mean - low) / (high - low), len(values) / _design_effect(sums, counts, mean, bounds))
        lower, upper = low + lower * (high - low), low + upper * (high - low)
    else:
        lower, upper = bootstrap_interval(bootstrap_means(sums, counts, resamples=RESAMPLES, seed=seed))
        if math.isclose(lower, upper, rel_tol=1e-9, abs_tol=1e-9):
            lower, upper = constant_interval(mean, len(sums), bounds)
    return round(min(lower, mean), 6), round(max(upper, mean), 6)


def cluster_totals(values: Sequence[float], clusters: Sequence[int] | None) -> tuple[list[float], list[int]]:
    """The sum and the number of the values of each cluster; without clusters each value stands for itself."""
    if clusters is None:
        return list(values), [1] * len(values)
    members: dict[int, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        members.setdefault(cluster, []).append(value)
    return [math.fsum(group) for group in members.values()], [len(group) for group in members.values()]


def bootstrap_means(sums: Sequence[float], counts: Sequence[int], *, resamples: int, seed: int) -> NDArray[np.float64]:
    """The means of `resamples` draws of as many clusters as there are, with replacement: shape (resamples,).

    Equal clusters are drawn together, as one multinomial: the same distribution, and quick where scores repeat.
    """
    import numpy as np

    kinds = sorted(Counter(zip(sums, counts, strict=True)).items())
    share = np.array([frequency for _, frequency in kinds], dtype=np.float64) / len(sums)
    kind_sum = np.array([kind[0] for kind, _ in kinds], dtype=np.float64)
    kind_count = np.array([kind[1] for kind, _ in kinds], dtype=np.float64)
    random = np.random.default_rng(seed)
    size = max(1, _DRAWS_AT_ONCE // len(kinds))
    means = []
    for start in range(0, resamples, size):
        drawn = random.multinomial(len(sums), share, size=min(size, resamples - start)).astype(np.float64)
        means.append((drawn @ kind_sum) / (drawn @ kind_count))
    return np.concatenate(means)


def bootstrap_interval(means: NDArray[np.float64]) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile."""
    import numpy as np

    lower, upper = np.percentile(means, (2.5, 97.5))
    return float(lower), float(upper)


def _design_effect(sums: Sequence[float], counts: Sequence[int], mean: float, bounds: tuple[float, float]) -> float:
    """How many times wider than of independent rows the mean's variance is; never below 1."""
    num_clusters, num_rows = len(sums), sum(counts)
    if num_clusters == num_rows:
        return 1.0
    low, high = bounds
    independent = (mean - low) * (high - mean) / num_rows
    residuals = math.fsum((total - mean * count) ** 2 for total, count in zip(sums, counts, strict=True))
    clustered = num_clusters / (num_clusters - 1) * residuals / num_rows**2
    return max(1.0, clustered / independent)
