"""A sample of many data sets within a budget: who is drawn is decided before a row is written.

Source: MLAN, section B.2. Deviation: where a data set has fewer rows than its quota, the paper draws with replacement,
each draw by itself; here every row is drawn once before any is drawn twice, so that none is missed.

Draws are a sequence. Its first pass holds all rows of a data set in the order of their keys, each pass after it all of
them again in another order; a quota takes the beginning. A key is a function of (seed, data set, id), so the sample
depends neither on the order of files and rows nor on what else is mixed in, and a smaller one lies inside a larger one.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmkit import __version__, console, seeds
from mmkit.data.heldout import HeldOut
from mmkit.data.strata import Cell, Label, Pool, Stratum, listed, quotas
from mmkit.errors import DataError, MmkitError
from mmkit.records import with_lineage
from mmkit.streams import Dropped, Rejected, Row
from mmkit.streams.rows import Each
from mmkit.streams.sinks import encode_part
from mmkit.streams.sources import Wanted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MADE_ID = re.compile(r"([0-9a-f]{16})-(\d+)")
_NO_CELL = 0xFFFFFFFF

CANDIDATE, HELD_OUT_IMAGE, HELD_OUT_QUESTION, DUPLICATE, NO_STRATUM, UNREADABLE = range(6)
_WHY_DROPPED = (
    "not drawn",
    "its image is held out",
    "its question is held out",
    "an exact duplicate",
    "in no stratum",
    "unreadable",
)


class Frame:
    """What is drawn from: of each row its cell, key and id as numbers, 21 bytes in all, and never the row."""

    def __init__(
        self, label: Label, *, seed: int = 0, held_out: HeldOut | None = None, in_tokens: bool = False
    ) -> None:
        """`in_tokens` says that a row counts as many units as its `num_tokens` says, and not one."""
        self._label, self._seed, self._held_out, self._in_tokens = label, seed, held_out, in_tokens
        self._cells: dict[Cell, int] = {}
        self._cell_of_row = array("I")
        self._keys, self._sizes = array("Q"), array("Q")
        self._ids = array("q")  # as Python hashes them, which is only good within this process, and enough here
        self._fates = bytearray()
        self._refused: dict[int, MmkitError] = {}
        self._contents: dict[int, int] = {}  # of rows whose data set and id are another's, too

    @property
    def cells(self) -> list[Cell]:
        """All cells that have a row. Raises DataError where there is none."""
        if not self._cells:
            raise DataError("there is no row to draw from")
        return list(self._cells)

    def read(self, rows: Callable[[Wanted | None], Iterable[Row | Rejected]], *, strict: bool = True) -> None:
        """Take in all rows of the input. The first bad one is an error, or with `strict` false left out.

        `rows` reads the input, or those of its rows that are wanted. It is called a second time if there are rows that
        share data set and id, for their contents to be compared.
        """
        for row in rows(None):
            try:
                if isinstance(row, Rejected):
                    raise row.error
                self._add(row)
            except MmkitError as error:
                if strict:
                    raise type(error)(f"{row.source}:{row.line}: {console.escape(str(error))}") from error
                self._refused[row.position] = error
                self._pass_over(UNREADABLE)
        is_twin = self._are_twins()
        if any(is_twin):
            for row in rows(lambda position: bool(is_twin[position])):
                if is_twin[row.position] and isinstance(row, Row):
                    self._contents[row.position] = _content(row)

    def draw(self, strata: Sequence[Stratum], budget: int) -> Sample:
        """The sample of `budget` units (rows or tokens), shared out as the strata say.

        In rows the count is exact. In tokens a data set's quota is full with the row that reaches it, so that each
        data set exceeds its quota by less than the length of one row. Raises DataError where a quota has no row.
        """
        import numpy as np

        fates = np.array(self._fates, np.uint8)
        distinct = self._distinct(fates)
        names = _Names(np.array(self._ids), np.array(self._keys), distinct)
        pools = quotas(strata, budget)
        pool_of_cell = np.full(len(self._cells), len(pools), np.int64)
        for number, pool in enumerate(pools):
            pool_of_cell[[self._cells[cell] for cell in pool.cells]] = number
        pool_of_row = pool_of_cell[np.array(self._cell_of_row, np.uint32)[distinct]]
        order = distinct[np.lexsort((self._first_keys(names)[distinct], pool_of_row))]
        ends = np.cumsum(np.bincount(pool_of_row, minlength=len(pools) + 1))
        fates[order[ends[-2] :]] = NO_STRATUM
        counts = np.zeros(len(fates), np.uint32)
        sizes = np.array(self._sizes, np.int64) if self._in_tokens else np.ones(len(fates), np.int64)
        drawn = []
        for (pool, quota), own in zip(pools.items(), np.split(order[: ends[-2]], ends[:-2]), strict=True):
            counts[own] = self._draws(own, sizes[own], quota, pool)
            drawn.append(Drawn(pool, len(own), int(counts[own].sum()), int((counts[own] * sizes[own]).sum())))
        cells = [cell.dataset for cell in self._cells]
        return Sample(counts, fates, names, cells, self._cell_of_row, self._refused, drawn, self._in_tokens)

    def _add(self, row: Row) -> None:
        size = _num_tokens(row) if self._in_tokens else 1
        cell = self._label(row)
        held_out = self._held_out.holds(row.record) if self._held_out is not None else None
        number = self._cells.setdefault(cell, len(self._cells))
        if held_out is not None:
            self._pass_over(HELD_OUT_IMAGE if held_out == "image" else HELD_OUT_QUESTION)
            return
        own_id = _own_id(row)
        self._fates.append(CANDIDATE)
        self._cell_of_row.append(number)
        self._keys.append(seeds.derive(self._seed, f"{cell.dataset}:{own_id}", "mix"))
        self._ids.append(hash(own_id))
        if self._in_tokens:
            self._sizes.append(size)

    def _pass_over(self, fate: int) -> None:
        self._fates.append(fate)
        self._cell_of_row.append(_NO_CELL)
        self._keys.append(0)
        self._ids.append(0)
        if self._in_tokens:
            self._sizes.append(0)

    def _are_twins(self) -> bytes:
        """Of each row whether it is a candidate that has the data set and id of another one."""
        import numpy as np

        candidates = np.flatnonzero(np.array(self._fates, np.uint8) == CANDIDATE)
        are_twins = np.zeros(len(self._fates), np.uint8)
        are_twins[candidates[_occurring_twice(np.array(self._keys)[candidates])]] = 1
        return are_twins.tobytes()

    def _distinct(self, fates: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The positions of all candidates but for exact duplicates, which are marked."""
        import numpy as np

        seen = set()
        for position, content in self._contents.items():  # of equal rows the one that is read first stays
            row = self._keys[position], content
            if row in seen:
                fates[position] = DUPLICATE
            seen.add(row)
        return np.flatnonzero(fates == CANDIDATE)

    def _draws(
        self, positions: NDArray[np.int64], sizes: NDArray[np.int64], quota: int, pool: Pool
    ) -> NDArray[np.uint32]:
        """How often each row of a pool is drawn; the rows stand in the order of the first pass."""
        import numpy as np

        if quota and not len(positions):
            raise DataError(f"{pool.dataset}: every row is held out")
        counts = np.zeros(len(positions), np.uint32)
        if not quota:
            return counts
        passes, rest = divmod(quota, int(sizes.sum()))
        counts += np.uint32(passes)
        if rest:
            order = self._pass_order(positions, passes)
            counts[order[: np.searchsorted(np.cumsum(sizes[order]), rest) + 1]] += np.uint32(1)
        return counts

    def _first_keys(self, names: _Names) -> NDArray[np.uint64]:
        """The keys of the first pass: rows that share data set and id are told apart by their content."""
        import numpy as np

        keys = np.array(self._keys)
        for position in np.flatnonzero(names.ambiguity > 1).tolist():
            keys[position] = self._key_of_pass(position, 0)
        return keys

    def _pass_order(self, positions: NDArray[np.int64], number: int) -> NDArray[np.int64]:
        """The places of a pool's rows in pass `number`, from 0."""
        import numpy as np

        if not number:
            return np.arange(len(positions))
        return np.argsort(np.array([self._key_of_pass(p, number) for p in positions], np.uint64), kind="stable")

    def _key_of_pass(self, position: int, number: int) -> int:
        return seeds.derive(
            self._seed, f"{self._keys[position]:x}:{self._contents.get(position, 0):x}", f"mix.{number}"
        )


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a pool gave: `num_draws` rows, copies among them, out of `num_rows`; `num_units` is in rows or tokens."""

    pool: Pool
    num_rows: int
    num_draws: int
    num_units: int


class Sample:
    """How often each row of the input is written."""

    def __init__(
        self,
        counts: NDArray[np.uint32],
        fates: NDArray[np.uint8],
        names: _Names,
        datasets: Sequence[str],
        cell_of_row: Sequence[int],
        refused: Mapping[int, MmkitError],
        drawn: Sequence[Drawn],
        in_tokens: bool,
    ) -> None:
        self._counts, self._fates, self._names = counts, fates, names
        self._wanted: bytes = ((counts > 0) | (fates == UNREADABLE)).tobytes()
        self._datasets, self._cell_of_row, self._refused = datasets, cell_of_row, refused
        self.drawn, self._in_tokens = drawn, in_tokens

    def wants(self, position: int) -> bool:
        """Whether it takes the row at a position to know what becomes of it. Raises DataError for one that is new."""
        if position >= len(self._wanted):
            raise DataError("the input has grown since it was read first")
        return bool(self._wanted[position])

    def rows_of(self, row: Row) -> Row | list[Row] | Dropped:
        """The row as often as it is drawn. Raises what the row was refused for."""
        position = row.position
        if not self.wants(position):
            return Dropped(row, _WHY_DROPPED[self._fates[position]])
        if position in self._refused:
            raise self._refused[position]
        count = int(self._counts[position])
        first = self._named(row, 1)
        return first if count == 1 else [first, *(self._named(row, copy) for copy in range(2, count + 1))]

    def digest(self) -> str:
        """A hash of the sample: a run that was killed goes on only with the same one."""
        state = hashlib.blake2b(self._counts.tobytes(), digest_size=16)
        state.update(self._fates.tobytes())
        state.update(self._names.ambiguity.tobytes())
        return state.hexdigest()

    def notes(self) -> list[str]:
        """What there is to say beside the counts of rows: by stratum what was drawn, and what was left out and why."""
        strata = dict.fromkeys(drawn.pool.stratum for drawn in self.drawn)
        notes = [listed([self._stratum_note(name) for name in strata])]
        again = [d for d in self.drawn if d.num_draws > d.num_rows]
        if again:
            each_of = [f"{d.pool.dataset} {d.num_draws:,} from {d.num_rows:,}" for d in again]
            notes.append(f"bootstrapped: {listed(each_of)}")
        images, questions, duplicates, others = (
            int((self._fates == fate).sum()) for fate in (HELD_OUT_IMAGE, HELD_OUT_QUESTION, DUPLICATE, NO_STRATUM)
        )
        if images or questions:
            notes.append(f"{images + questions:,} held out ({images:,} by image, {questions:,} by question)")
        renamed = int(((self._counts > 0) & (self._names.ambiguity > 0)).sum())
        counted = ((duplicates, "exact duplicates"), (others, "in no stratum"), (renamed, "ids made unique"))
        return [*notes, *(f"{count:,} {what}" for count, what in counted if count)]

    def _stratum_note(self, name: str) -> str:
        own = [drawn for drawn in self.drawn if drawn.pool.stratum == name]
        tokens = f" ({sum(d.num_units for d in own):,} tokens)" if self._in_tokens else ""
        return f"{name} {sum(d.num_draws for d in own):,} of {sum(d.num_rows for d in own):,}{tokens}"

    def _named(self, row: Row, copy: int) -> Row:
        """The row, or a child with an id of its own where others have its id, and for a copy."""
        own_id = _own_id(row)
        name = self._names.name(row, own_id, self._datasets[self._cell_of_row[row.position]], copy)
        if name == row.record["id"]:
            return row
        record = {**row.record, "id": name}
        if name == own_id:
            return row.replaced(record)
        return row.replaced(with_lineage(record, {"op": "mix", "version": __version__, "parents": [own_id]}))


class _Names:
    """Ids that no two rows of the output share, whatever else is drawn."""

    def __init__(
        self,
        ids: NDArray[np.int64],
        keys: NDArray[np.uint64],
        distinct: NDArray[np.int64],
    ) -> None:
        import numpy as np

        self._taken = np.unique(ids[distinct])
        self.ambiguity: NDArray[np.uint8] = np.zeros(len(ids), np.uint8)
        """Of each row, whether its id alone (1) or even with its data set (2) is another row's, too."""
        shared = _occurring_twice(ids[distinct])
        self.ambiguity[distinct[shared]] = 1
        self.ambiguity[distinct[shared & _occurring_twice(keys[distinct])]] = 2

    def name(self, row: Row, own_id: str, dataset: str, copy: int) -> str:
        """`ID`, `DATASET:ID` where others have the id, with `@CONTENT` where that is not enough; `#2` for a copy."""
        name = own_id
        if ambiguity := self.ambiguity[row.position]:
            name = f"{dataset}:{own_id}"
            if ambiguity > 1 or "#" in own_id:  # an id that looks like a copy's has to differ from the copies of others
                name += _suffix(row)
            name = self._free(name, row)
        return name if copy == 1 else self._free(f"{name}#{copy}", row)

    def _free(self, name: str, row: Row) -> str:
        while self._is_taken(name):
            name += _suffix(row)
        return name

    def _is_taken(self, name: str) -> bool:
        import numpy as np

        wanted = np.int64(hash(name))
        place = int(np.searchsorted(self._taken, wanted))
        return place < len(self._taken) and bool(self._taken[place] == wanted)


def mix_stage(sample: Sample) -> Each:
    """Each row as often as the sample has it; a row that is written once under its own id keeps its bytes."""
    return Each(sample.rows_of)


def _occurring_twice(values: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Of each value whether another is equal to it."""
    import numpy as np

    ordered = np.sort(values)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    return np.isin(values, repeated)


def _own_id(row: Row) -> str:
    """The row's id; where the reader made it from content and line, the part that does not depend on the line."""
    record_id: str = row.record["id"]
    if row.raw is not None:
        return record_id
    made = _MADE_ID.fullmatch(record_id)
    return made[1] if made is not None and int(made[2]) == row.line else record_id


def _content(row: Row) -> int:
    """A hash of the row."""
    own_id = _own_id(row)
    if own_id != row.record["id"]:
        return int(own_id, 16)
    raw = encode_part(row.record) if row.raw is None else row.raw
    return int.from_bytes(hashlib.sha256(raw).digest()[:8], "big")


def _suffix(row: Row) -> str:
    return f"@{_content(row):016x}"


def _num_tokens(row: Row) -> int:
    value = row.record.get("num_tokens")
    if type(value) is not int or not 0 < value < 1 << 40:
        raise DataError(
            "num_tokens: a budget in tokens needs it as a whole number above 0; mmkit stats --per-row adds it"
        )
    return value
