"""The mixtures that have a name; what they are is in `mixtures.toml`.

Source: MLAN, appendices A (80,000 rows, half of them question answering, half commonsense reasoning, in a family every
data set alike), B (the shares of language) and C.1 (the data sets). Deviation: for the mixtures, appendices B and E.1
say no more of the vision rows than that they are drawn at random; here they are made up as the language rows are.
By the token counts of Table 2 either modality is made up alike in all mixtures, as it is here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib import resources
from typing import Any

from mmkit.data.strata import By, Cell, Label, Stratum, by_ratio, label_by, parse_ratio, text_or_none
from mmkit.errors import UsageError
from mmkit.streams import Row


@dataclass(frozen=True)
class Mixture:
    """A ratio of modalities, in each of which every family has the same."""

    name: str
    budget: int
    ratio: dict[str, Fraction]
    families: tuple[str, ...]
    datasets: dict[str, Cell]
    """Data set, family and modality by the name of a task, a benchmark or a file."""

    def label(self, by: By, files: Mapping[str, str]) -> Label:
        """How a row's cell is found: by the mixture's own data sets first, else by what the record says."""
        other = label_by(by, files)

        def label(row: Row) -> Cell:
            cell = other(row)
            for name in (cell.dataset, text_or_none(row.record.get("benchmark")), cell.file):
                if name is not None and (own := self.datasets.get(name.lower())) is not None:
                    return cell._replace(dataset=own.dataset, family=own.family)
            return cell

        return label

    def strata(self, cells: Sequence[Cell]) -> list[Stratum]:
        """A stratum for each modality that has a share.

        Raises UsageError where one of them lacks a family, or holds a data set that is of none.
        """
        strata = by_ratio(cells, self.ratio)
        for stratum in strata:
            of_none = sorted({cell.dataset for cell in stratum.cells if cell.family not in self.families})
            if of_none:
                raise UsageError(
                    f"--mixture {self.name}: {', '.join(of_none)}: neither {' nor '.join(self.families)}; "
                    'leave it out, or say in its rows what it is ("family")'
                )
            for family in self.families:
                if all(cell.family != family for cell in stratum.cells):
                    raise UsageError(f"--mixture {self.name}: no {stratum.name} row is of the family {family}")
        return strata

    def missing(self, cells: Sequence[Cell]) -> list[str]:
        """The data sets that belong to the mixture and have no row."""
        there = {cell.dataset for cell in cells}
        wanted = [cell.dataset for cell in self.datasets.values() if self.ratio[cell.modality]]
        return [dataset for dataset in dict.fromkeys(wanted) if dataset not in there]


def names() -> tuple[str, ...]:
    """All named mixtures."""
    return tuple(_table()["ratios"])


def named(name: str) -> Mixture:
    """The mixture of that name. Raises UsageError."""
    table = _table()
    if name not in table["ratios"]:
        raise UsageError(f"--mixture {name}: there are {', '.join(names())}")
    cells = {
        alias: Cell(dataset, family, modality, file="")
        for modality, families in table["datasets"].items()
        for family, members in families.items()
        for dataset, aliases in members.items()
        for alias in aliases
    }
    families = tuple(dict.fromkeys(str(cell.family) for cell in cells.values()))
    return Mixture(name, table["budget"], parse_ratio(table["ratios"][name]), families, cells)


@functools.cache
def _table() -> dict[str, Any]:
    import tomllib

    return tomllib.loads(resources.files(__package__).joinpath("mixtures.toml").read_text(encoding="utf-8"))
