"""How a mixture's budget is shared out: over strata, in a stratum over families, in a family over data sets."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple

from mmkit.errors import UsageError
from mmkit.streams import Row

By = Literal["task", "file"]
LANGUAGE, VISION = "language", "vision"
_KINDS = ("modality", "family", "data set", "file")
_ROUNDING = Fraction(1, 1000)


class Cell(NamedTuple):
    """What rows have in common that a mixture can ask for. `modality` is "vision" for rows with images."""

    dataset: str
    family: str | None
    modality: str
    file: str

    def names(self) -> tuple[str | None, ...]:
        """What a ratio may call it by, the wider before the narrower."""
        return (self.modality, self.family, self.dataset, self.file)


@dataclass(frozen=True, slots=True)
class Stratum:
    """A part of the mixture with a share of its own."""

    name: str
    share: Fraction
    cells: tuple[Cell, ...]


class Pool(NamedTuple):
    """The rows of one data set in one stratum, which are drawn from alike."""

    stratum: str
    dataset: str
    cells: tuple[Cell, ...]


Label = Callable[[Row], Cell]


def label_by(by: By, files: Mapping[str, str], groups: Mapping[str, str] | None = None) -> Label:
    """How a row's cell is found. `files` gives each input's name, `groups` the family of each data set.

    A data set is what has one `task`; rows without one, and with `by` "file" all rows, go by their file. Without
    `groups` the family is the record's `family`, if that is a string.
    """

    def label(row: Row) -> Cell:
        file = files[row.source]
        dataset = (by == "task" and row.record.get("task")) or file
        family = text_or_none(row.record.get("family")) if groups is None else groups.get(dataset)
        return Cell(dataset, family, modality_of(row), file)

    return label


def modality_of(row: Row) -> str:
    """ "vision" for a row with images, else "language"."""
    return VISION if row.record.get("images") else LANGUAGE


def text_or_none(value: object) -> str | None:
    """The value if it is a string that says something."""
    return value if isinstance(value, str) and value else None


def file_names(inputs: Sequence[str]) -> dict[str, str]:
    """A name for each input: the file's name without suffixes, or its path where another input has that name, too.

    Raises UsageError for a file that is named twice.
    """
    seen: dict[Path, str] = {}
    for path in inputs:
        resolved = Path(path).resolve()
        if resolved in seen:
            raise UsageError(f"{path}: the same file as {seen[resolved]}, which is named already")
        seen[resolved] = path
    stems = [Path(path).name.split(".", 1)[0] or Path(path).name for path in inputs]
    return {path: stem if stems.count(stem) == 1 else path for path, stem in zip(inputs, stems, strict=True)}


def parse_ratio(text: str) -> dict[str, Fraction]:
    """ "language=.875,vision=1/8" as exact shares that sum to 1. Raises UsageError.

    A sum that is off by no more than 0.001 is taken for rounding, and the shares are scaled.
    """
    shares: dict[str, Fraction] = {}
    for item in text.split(","):
        name, equals, number = (part.strip() for part in item.rpartition("="))
        try:
            share = Fraction(number)
        except (ValueError, ZeroDivisionError):
            share = Fraction(-1)
        if not name or not equals or share < 0 or name in shares:
            raise UsageError(f'--ratio: expected "language=.875,vision=.125", got {text!r}')
        shares[name] = share
    total = sum(shares.values(), Fraction(0))
    if abs(total - 1) > _ROUNDING:
        raise UsageError(f"--ratio: the shares sum to {float(total):g}, not 1")
    return {name: share / total for name, share in shares.items()}


def by_ratio(cells: Sequence[Cell], ratio: Mapping[str, Fraction]) -> list[Stratum]:
    """A stratum for each key with a share: all cells of the modality, family, data set or file that it names.

    Raises UsageError for a key that has a share and names nothing, and where two keys, of whatever share, name the same
    rows.
    """
    strata, owner = [], dict[Cell, str]()
    for key, share in ratio.items():
        own = _called(cells, key)
        if share and not own:
            raise UsageError(f"--ratio: no row belongs to {key!r}; there are: {_there_are(cells)}")
        for cell in own:
            if cell in owner:
                raise UsageError(f"--ratio: {cell.dataset!r} belongs to both {owner[cell]!r} and {key!r}")
            owner[cell] = key
        if share:
            strata.append(Stratum(key, share, own))
    return strata


def by_weight(cells: Sequence[Cell], weights: Mapping[str, float]) -> list[Stratum]:
    """A stratum for each data set, its share the weight's. Raises UsageError where data or weight are missing."""
    datasets = _grouped(cells, lambda cell: cell.dataset)
    if missing := sorted(datasets.keys() - weights.keys()):
        raise UsageError(f"--weights: no row names the weight of {listed(missing)}")
    if missing := sorted(name for name, weight in weights.items() if weight and name not in datasets):
        raise UsageError(f"--weights: no row belongs to {listed(missing)}; there are: {_there_are(cells)}")
    total = sum(map(Fraction, weights.values()), Fraction(0))
    if not total:
        raise UsageError("--weights: all weights are 0")
    return [
        Stratum(name, Fraction(weights[name]) / total, tuple(own)) for name, own in datasets.items() if weights[name]
    ]


def require_groups(cells: Iterable[Cell], groups: Mapping[str, str]) -> None:
    """Raise UsageError where there is a data set that `groups` does not name."""
    if missing := sorted({cell.dataset for cell in cells} - groups.keys()):
        raise UsageError(f"--groups: no row names the group of {listed(missing)}")


def equal(cells: Iterable[Cell]) -> list[Stratum]:
    """A stratum for each family, all of one share."""
    families = _grouped(cells, _family)
    return [Stratum(name, Fraction(1, len(families)), tuple(own)) for name, own in families.items()]


def quotas(strata: Iterable[Stratum], budget: int) -> dict[Pool, int]:
    """How much each data set gives: the budget by the strata's shares, then equally over families, then over data sets.

    A data set without a family is a family by itself. Every number grows with the budget, or stays.
    """
    given: dict[Pool, int] = {}
    strata = list(strata)
    for_stratum = apportion(budget, {stratum.name: stratum.share for stratum in strata})
    for stratum in strata:
        families = _grouped(stratum.cells, _family)
        for_family = _equally(for_stratum[stratum.name], families)
        for family, cells in families.items():
            datasets = _grouped(cells, lambda cell: cell.dataset)
            for_dataset = _equally(for_family[family], datasets)
            for dataset, own in datasets.items():
                given[Pool(stratum.name, dataset, tuple(own))] = for_dataset[dataset]
    return given


def apportion(total: int, shares: Mapping[str, Fraction]) -> dict[str, int]:
    """`total` in whole numbers as near to the shares as can be, in sum exact. The shares sum to 1.

    Webster's method (Sainte-Laguë): one after the other goes to who has most share for each 2n + 1, n being what it has
    got already; of equal ones the first by name. Not largest remainders, where more in all can mean less for one
    (Alabama's paradox), so that samples would not nest. Equal shares differ by 1 at most; shares whose product with
    the total is whole get just that.
    """
    # All that goes without saying at once: rounded shares of a total that cannot come to more than this one.
    settled = max(Fraction(total) - Fraction(len(shares), 2), Fraction(0))
    given = {name: max(math.ceil(share * settled - Fraction(1, 2)), 0) for name, share in shares.items()}
    queue = [(-share / (2 * given[name] + 1), name) for name, share in shares.items()]
    heapq.heapify(queue)
    for _ in range(total - sum(given.values())):
        _, name = queue[0]
        given[name] += 1
        heapq.heapreplace(queue, (-shares[name] / (2 * given[name] + 1), name))
    return given


def listed(names: Sequence[str], most: int = 12) -> str:
    """The names for a message, in their order; beyond `most` their number."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _called(cells: Sequence[Cell], name: str) -> tuple[Cell, ...]:
    """The cells of that name: of the widest kind that has it, since a family may lie in a file of the same name.

    The name of a modality is nothing else's: a file language.jsonl may hold images.
    """
    kinds = 1 if name in (LANGUAGE, VISION) else len(_KINDS)
    found = (tuple(cell for cell in cells if cell.names()[kind] == name) for kind in range(kinds))
    return next(filter(None, found), ())


def _equally(total: int, names: Iterable[str]) -> dict[str, int]:
    names = list(names)
    return apportion(total, dict.fromkeys(names, Fraction(1, len(names))))


def _family(cell: Cell) -> str:
    return cell.family or cell.dataset


def _grouped(cells: Iterable[Cell], key: Callable[[Cell], str]) -> dict[str, list[Cell]]:
    """The cells by their key, in the order of the keys: nothing may depend on which row came first."""
    groups: dict[str, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: (key(cell), [name or "" for name in cell])):
        groups.setdefault(key(cell), []).append(cell)
    return groups


def _there_are(cells: Sequence[Cell]) -> str:
    columns = zip(_KINDS, zip(*(cell.names() for cell in cells), strict=True), strict=True)
    return "; ".join(f"{kind} {listed(sorted(found))}" for kind, names in columns if (found := {*names} - {None, ""}))
