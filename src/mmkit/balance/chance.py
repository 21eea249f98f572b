"""What agreement chance alone would give, the score that is left without it, and how sure a mean is.

d is the mean of δ(u_i, m_i), e the mean of δ(u_j, m_i) over the others j ≠ i of i's stratum, κ = (d - e) / (1 - e). For
exact matches this is Cohen's kappa (1960), but that its expected agreement is taken over pairs that do not belong
together, so that a unimodal view that always says the same in a stratum gets 0. Strata are pooled in d and e, and not
as κs: some are small. An instance that is alone in its stratum is in neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from mmkit.balance.pairwise import Matrix
from mmkit.balance.similarity import Stratum

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESAMPLES = 1_000
_LEAST_LEFT = 0.05
_LEAST_DEFINED = 0.75
_ROUNDING = 1e-9
_Z95 = 1.959963984540054
Values: TypeAlias = "NDArray[np.float64]"
"""One number a weighting of the instances; nan where it is not defined."""
Block: TypeAlias = tuple[Stratum, Matrix]


class Agreement(NamedTuple):
    """Of one unimodal view with `both`: what was `observed` among instances with a partner, and what is `expected`."""

    observed: Values
    expected: Values

    @property
    def corrected(self) -> Values:
        """κ; nan where less than .05 is left beyond chance."""
        return kappa(self.observed, self.expected)

    def shifted(self, share: float, end: float) -> Values:
        """κ if a share of the instances, none of them seen, all had the agreement `end`."""
        return kappa((1 - share) * self.observed + share * end, self.expected)


def kappa(observed: Values, expected: Values) -> Values:
    """(observed - expected) / (1 - expected), rounded to twelve decimals; nan where 1 - expected is below .05."""
    import numpy as np

    left = 1 - expected
    found = np.divide(observed - expected, left, out=np.full(left.shape, np.nan), where=left >= _LEAST_LEFT)
    rounded: Values = np.round(found, 12) + 0.0  # no -0.0
    return rounded


def agreement(blocks: Sequence[Block], weights: Matrix) -> Agreement:
    """Observed and expected agreement. `blocks` hold the agreements of each stratum, as `similarity.agreements` does.

    `weights` has shape (weightings, instances): how often each instance is there, whole numbers for an exact result. An
    instance meets the others by their weights, and never itself, however often it is there.
    """
    import numpy as np

    observed, expected, partnered = (np.zeros(len(weights)) for _ in range(3))
    for stratum, matrix in blocks:
        own = weights[:, stratum.members]
        others = own.sum(axis=1, keepdims=True) - own
        met = own @ matrix - own * matrix.diagonal()
        has_partner = others > _ROUNDING
        counted = np.where(has_partner, own, 0.0)
        observed += counted @ matrix.diagonal()
        expected += (counted * np.divide(met, others, out=np.zeros_like(met), where=has_partner)).sum(axis=1)
        partnered += counted.sum(axis=1)
    nothing = np.full_like(observed, np.nan)
    return Agreement(
        np.divide(observed, partnered, out=nothing.copy(), where=partnered > 0),
        np.divide(expected, partnered, out=nothing, where=partnered > 0).clip(0.0, 1.0),
    )


def resampled(weights: Values, seed: int) -> Matrix:
    """`weights` in bootstrap resamples of the instances, with replacement: shape (resamples, instances)."""
    import numpy as np

    num = len(weights)
    times = np.random.default_rng(seed).multinomial(num, np.full(num, 1 / num), size=RESAMPLES)
    found: Matrix = times * weights
    return found


def mean(values: Values, weights: Matrix) -> Values:
    """The mean of the instances' values by each weighting; nan where no instance with a value has weight."""
    import numpy as np

    known = ~np.isnan(values)
    total = weights[:, known].sum(axis=1)
    found: Values = np.divide(
        weights[:, known] @ values[known], total, out=np.full(total.shape, np.nan), where=total > 0
    )
    return found


def interval(resamples: Values, num: int, unseen: Callable[[float], tuple[float, float]]) -> tuple[float, float] | None:
    """A 95 % interval from resamples of `num` instances, rounded to six decimals: the percentile interval, and no
    narrower than what was not seen allows.

    `num` instances do not show that there are no others: by Wilson's upper bound for a share never seen, q = z² / (n +
    z²) of the population may be different. `unseen` gives the lowest and the highest value that such a share can make.
    Without it an interval is of no width where all instances agree, and of two values holds the mean half of the time.

    None for fewer than two instances, and where fewer than three quarters of the resamples have a value.
    """
    import numpy as np

    defined = resamples[~np.isnan(resamples)]
    if num < 2 or len(defined) < _LEAST_DEFINED * len(resamples):
        return None
    low, high = (float(end) for end in np.percentile(defined, (2.5, 97.5)))
    least, most = unseen(_Z95**2 / (num + _Z95**2))
    return round(min(low, least), 6), round(max(high, most), 6)


def mean_interval(
    values: Values, weights: Values, resamples: Matrix, bounds: tuple[float, float]
) -> tuple[float, float] | None:
    """`interval` of the weighted mean of values whose mean is within `bounds`; nan is no value. None for fewer than
    two."""
    import numpy as np

    num = int((~np.isnan(values)).sum())
    if num == 0:
        return None
    point = float(mean(values, weights[None])[0])
    low, high = bounds

    def unseen(share: float) -> tuple[float, float]:
        return (1 - share) * point + share * low, (1 - share) * point + share * high

    return interval(mean(values, resamples), num, unseen)
