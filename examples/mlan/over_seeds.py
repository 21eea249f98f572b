"""The recipe's scores over several seeds: means, and differences of runs that are paired by their seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean, stdev

from results import ALONE, PRETRAINED, VISION_ALONE, Results, line


class Seeds:
    """Working directories of the same recipe, each of another seed.

    Raises SystemExit where two have the same seed, or other held-out sets than the first.
    """

    def __init__(self, results: Sequence[Results]) -> None:
        first, seeds = results[0], [one.seed for one in results]
        for one, seed in zip(results, seeds, strict=True):
            if seeds.count(seed) > 1:
                raise SystemExit(f"{one.here}: seed {seed} is given twice")
            if one.modality != first.modality:
                raise SystemExit(f"{one.here}: other held-out sets than in {first.here}")
        self.results, self.seeds = results, seeds
        self.mixtures = [name for name in first.mixtures if self._is_in_all(name)]
        self.budgets = [name for name in first.budgets if self._is_in_all(name)]

    def _is_in_all(self, name: str) -> bool:
        return all(name in one.of_run for one in self.results)

    def tables(self) -> list[list[str]]:
        """Means by mixture and by budget, how they differ from those of a run, and tokens."""
        alone = [PRETRAINED, *self.budgets, *(name for name in self.mixtures if name == ALONE)]
        by_mixture = (self.scores("percent of language", self.mixtures, base) for base in (None, *self._bases()))
        by_budget = (self.scores("percent of the budget, language alone", alone, base) for base in (None, PRETRAINED))
        return [self.what(), *by_mixture, *(by_budget if self.budgets else ()), self.tokens()]

    def _bases(self) -> Iterator[str]:
        return (base for base in (PRETRAINED, VISION_ALONE, ALONE) if base in self.mixtures)

    def what(self) -> list[str]:
        """What the numbers are, and which runs are left out as not all directories have them."""
        number = len(self.seeds)
        runs = {name for one in self.results for name in one.of_run} - {*self.mixtures, *self.budgets}
        return [
            f"{number} seeds ({', '.join(map(str, self.seeds))}): means, and ± half a 95 % interval over seeds "
            f"(Student's t, {number - 1} degrees of freedom)",
            *([f"Not in all directories, and left out: {', '.join(sorted(runs))}"] if runs else []),
        ]

    def scores(self, by: str, names: Sequence[str], base: str | None = None) -> list[str]:
        """A line each held-out set and average, a column each run; less the run `base`, seed by seed."""
        first = self.results[0]
        less = "" if base is None else f", less those of {base if base == PRETRAINED else f'{base} %'}"
        names = [name for name in names if name != base]
        heads = [name.removesuffix("trained").removeprefix("budget-") for name in names]
        lines = [f"Scores by {by}{less}, in percent", line("", heads)]
        for what in (*first.tasks, *first.parts):
            found = [interval(self._values(name, what, base)) for name in names]
            label = f"{what}, average" if what in first.parts else what
            lines.append(line(label, [f"{mean:.1f}" if base is None else f"{mean:+.1f}" for mean, _ in found]))
            lines.append(line("±", [f"{half:.1f}" for _, half in found]))
        return lines

    def _values(self, name: str, what: str, base: str | None) -> list[float]:
        return [one.value(name, what) - (0 if base is None else one.value(base, what)) for one in self.results]

    def tokens(self) -> list[str]:
        """Training tokens, and how many more they are than those of language alone."""
        lines = ["Training tokens, images included", line("language", ["tokens", "±", "more", "±"], 11)]
        for name in (*self.mixtures[1:], *self.budgets):
            rows = [one.counted[name] for one in self.results]
            tokens, more = (interval([row[of] for row in rows]) for of in ("tokens", "relative_percent"))
            cells = [f"{tokens[0]:,.0f}", f"{tokens[1]:,.0f}", f"{more[0]:+.2f}%", f"{more[1]:.2f}%"]
            lines.append(line(name, cells, 11))
        return lines


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean of two values or more, and half its 95 % interval by Student's t with n - 1 degrees of freedom."""
    from scipy.special import stdtrit

    return fmean(values), float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / math.sqrt(len(values))
