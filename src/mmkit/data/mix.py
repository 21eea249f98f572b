"""A sample of many data sets within a budget: who is drawn is decided before a row is written.

Source: MLAN, appendix C.1. Deviation: where a data set has fewer rows than its quota, the paper draws with replacement,
each draw by itself; here every row is drawn once before any is drawn twice, so that none is missed.

Draws are a sequence. Its first pass holds all rows of a data set in the order of their keys, each pass after it all of
them again in another order; a quota takes the beginning. A key is a function of (seed, data set, id), so the sample
depends neither on the order of files and rows nor on what else is mixed in, and a smaller one lies inside a larger one.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkit import __version__, console, seeds
from mmkit.data.heldout import HeldOut, Part
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

_NONE = -1
CANDIDATE, HELD_OUT_IMAGE, HELD_OUT_QUESTION, DUPLICATE, NO_STRATUM, UNREADABLE = range(6)
_WHY_DROPPED = (
    "not drawn",
    "its image is held out",
    "its question is held out",
    "an exact duplicate",
    "in no stratum",
    "unreadable when it was read first",
)


class Frame:
    """What is drawn from: of each row its cell, key and id as numbers, 21 bytes in all, and never the row."""

    def __init__(
        self, label: Label, *, seed: int = 0, held_out: HeldOut | None = None, in_tokens: bool = False
    ) -> None:
        """`in_tokens` says that a row counts as many units as its `num_tokens` says, and not one."""
        self.label, self.held_out, self.in_tokens = label, held_out, in_tokens
        self._seed = seed
        self._cells: dict[Cell, int] = {}
        self._cell_of_row = array("i")
        self._keys, self._sizes = array("Q"), array("Q")
        self._ids = array("q")  # as Python hashes them, which is only good within this process, and enough here
        self._fates = bytearray()
        self._contents = array("Q")  # of rows whose data set and id are another's, too; empty where there are none

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
                self._pass_over(UNREADABLE)
        is_twin = self._are_twins()
        if not any(is_twin):
            return
        self._contents = array("Q", bytes(8 * len(is_twin)))
        for row in rows(lambda position: bool(_at(is_twin, position))):
            if _at(is_twin, row.position) and isinstance(row, Row):
                self._contents[row.position] = _content(row)

    def examine(self, row: Row) -> tuple[Cell, int, Part | None]:
        """A row's cell, its size in units, and what of it is held out. Raises what it is refused for."""
        size = _num_tokens(row) if self.in_tokens else 1
        return self.label(row), size, self.held_out.holds(row.record) if self.held_out is not None else None

    def draw(self, strata: Sequence[Stratum], budget: int) -> Sample:
        """The sample of `budget` units (rows or tokens), shared out as the strata say.

        In rows the count is exact. In tokens a data set's quota is full with the row that reaches it, so that each
        data set exceeds its quota by less than the length of one row. Raises DataError where a quota has no row.
        """
        import numpy as np

        pools = quotas(strata, budget)
        pool_of_row = self._pool_of_row(pools)
        fates = np.array(self._fates, np.uint8)
        fates[(fates == CANDIDATE) & (pool_of_row == _NONE)] = NO_STRATUM
        self._mark_duplicates(fates)
        distinct = np.flatnonzero(fates == CANDIDATE)
        names = _Names(np.asarray(self._ids), np.asarray(self._keys), distinct)
        order = distinct[np.lexsort((self._first_keys(distinct, names), pool_of_row[distinct]))]
        ends = np.cumsum(np.bincount(pool_of_row[distinct], minlength=len(pools)))
        counts = np.zeros(len(fates), np.int64)
        sizes = np.asarray(self._sizes).view(np.int64) if self.in_tokens else np.broadcast_to(1, len(fates))
        drawn = []
        for (pool, quota), own in zip(pools.items(), np.split(order, ends[:-1]), strict=True):
            counts[own] = self._draws(own, sizes[own], quota, pool)
            drawn.append(Drawn(pool, len(own), int(counts[own].sum()), int((counts[own] * sizes[own]).sum())))
        return Sample(self, counts, fates, names, drawn)

    def _add(self, row: Row) -> None:
        cell, size, held_out = self.examine(row)
        number = self._cells.setdefault(cell, len(self._cells))
        if held_out is not None:
            self._pass_over(HELD_OUT_IMAGE if held_out == "image" else HELD_OUT_QUESTION)
            return
        own_id = _own_id(row)
        self._fates.append(CANDIDATE)
        self._cell_of_row.append(number)
        self._keys.append(seeds.derive(self._seed, f"{cell.dataset}:{own_id}", "mix"))
        self._ids.append(hash(own_id))
        if self.in_tokens:
            self._sizes.append(size)

    def _pass_over(self, fate: int) -> None:
        self._fates.append(fate)
        self._cell_of_row.append(_NONE)
        self._keys.append(0)
        self._ids.append(0)
        if self.in_tokens:
            self._sizes.append(0)

    def _are_twins(self) -> bytes:
        """Of each row whether it is a candidate that has the data set and id of another one."""
        import numpy as np

        candidates = np.flatnonzero(np.frombuffer(self._fates, np.uint8) == CANDIDATE)
        are_twins = np.zeros(len(self._fates), np.uint8)
        are_twins[candidates[_occurring_twice(np.asarray(self._keys)[candidates])]] = 1
        return are_twins.tobytes()

    def _pool_of_row(self, pools: Iterable[Pool]) -> NDArray[np.int32]:
        """Of each row the number of its pool, or _NONE."""
        import numpy as np

        pool_of_cell = np.full(len(self._cells) + 1, _NONE, np.int32)  # the last one is for rows without a cell
        for number, pool in enumerate(pools):
            pool_of_cell[[self._cells[cell] for cell in pool.cells]] = number
        found: NDArray[np.int32] = pool_of_cell[np.asarray(self._cell_of_row)]
        return found

    def _mark_duplicates(self, fates: NDArray[np.uint8]) -> None:
        """Of candidates that are equal the one that is read first stays."""
        import numpy as np

        if not self._contents:
            return
        keys, contents = np.asarray(self._keys), np.asarray(self._contents)
        twins = np.flatnonzero((fates == CANDIDATE) & (contents > 0))
        order = twins[np.lexsort((contents[twins], keys[twins]))]  # stable
        first, second = order[:-1], order[1:]
        fates[second[(keys[first] == keys[second]) & (contents[first] == contents[second])]] = DUPLICATE

    def _draws(
        self, positions: NDArray[np.int64], sizes: NDArray[np.int64], quota: int, pool: Pool
    ) -> NDArray[np.int64]:
        """How often each row of a pool is drawn; the rows stand in the order of the first pass."""
        import numpy as np

        if not quota:
            return np.zeros(len(positions), np.int64)
        if not len(positions):
            raise DataError(f"{pool.dataset}: every row is held out, or an exact duplicate of another")
        passes, rest = divmod(quota, int(sizes.sum()))
        counts = np.full(len(positions), passes)
        if rest:
            order = self._pass_order(positions, passes)
            counts[order[: np.searchsorted(np.cumsum(sizes[order]), rest) + 1]] += 1
        return counts

    def _first_keys(self, positions: NDArray[np.int64], names: _Names) -> NDArray[np.uint64]:
        """Rows' keys of the first pass: those that share data set and id are told apart by their content."""
        import numpy as np

        keys: NDArray[np.uint64] = np.asarray(self._keys)[positions]
        for place in np.flatnonzero(names.ambiguity[positions] > 1).tolist():
            keys[place] = self._key_of_pass(int(positions[place]), 0)
        return keys

    def _pass_order(self, positions: NDArray[np.int64], number: int) -> NDArray[np.int64]:
        """The places of a pool's rows in pass `number`, from 0."""
        import numpy as np

        if not number:
            return np.arange(len(positions))
        return np.argsort(np.array([self._key_of_pass(p, number) for p in positions], np.uint64), kind="stable")

    def _key_of_pass(self, position: int, number: int) -> int:
        content = self._contents[position] if self._contents else 0
        return seeds.derive(self._seed, f"{self._keys[position]:x}:{content:x}", f"mix.{number}")


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
        frame: Frame,
        counts: NDArray[np.int64],
        fates: NDArray[np.uint8],
        names: _Names,
        drawn: Sequence[Drawn],
    ) -> None:
        self._frame, self._counts, self._fates, self._names, self.drawn = frame, counts, fates, names, drawn
        self._wanted: bytes = ((counts > 0) | (fates == UNREADABLE)).tobytes()

    def wants(self, position: int) -> bool:
        """Whether it takes the row at a position to know what becomes of it. Raises DataError for one that is new."""
        if position >= len(self._wanted):
            raise DataError("the input has grown since it was read first")
        return bool(self._wanted[position])

    def rows_of(self, row: Row) -> Row | Iterable[Row] | Dropped:
        """The row as often as it is drawn. Raises what the row was refused for."""
        position = row.position
        if not self.wants(position):
            return Dropped(row, _WHY_DROPPED[self._fates[position]])
        count = int(self._counts[position])
        if not count:
            self._frame.examine(row)
            return Dropped(row, _WHY_DROPPED[UNREADABLE])
        return self._named(row, 1) if count == 1 else (self._named(row, copy) for copy in range(1, count + 1))

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
        if self._frame.held_out is not None:
            notes.append(f"{images + questions:,} held out ({images:,} by image, {questions:,} by question)")
        renamed = int(((self._counts > 0) & (self._names.ambiguity > 0)).sum())
        counted = ((duplicates, "exact duplicates"), (others, "in no stratum"), (renamed, "ids made unique"))
        return [*notes, *(f"{count:,} {what}" for count, what in counted if count)]

    def _stratum_note(self, name: str) -> str:
        own = [drawn for drawn in self.drawn if drawn.pool.stratum == name]
        tokens = f" ({sum(d.num_units for d in own):,} tokens)" if self._frame.in_tokens else ""
        return f"{name} {sum(d.num_draws for d in own):,} of {sum(d.num_rows for d in own):,}{tokens}"

    def _named(self, row: Row, copy: int) -> Row:
        """The row, or a child with an id of its own where others have its id, and for a copy."""
        own_id = _own_id(row)
        name = self._names.name(row, own_id, self._frame.label(row).dataset, copy)
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

        own = ids[distinct]
        self._taken = np.unique(own)
        self.ambiguity: NDArray[np.uint8] = np.zeros(len(ids), np.uint8)
        """Of each row, whether its id alone (1) or even with its data set (2) is another row's, too."""
        sharing = distinct[_occurring_twice(own)]
        self.ambiguity[sharing] = 1
        self.ambiguity[sharing[_occurring_twice(keys[sharing])]] = 2

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


def mix_stage(sample: Sample, finish: Callable[[], None] = lambda: None) -> Each:
    """Each row as often as the sample has it; a row that is written once under its own id keeps its bytes.

    `finish` is called behind the last row (see `unchanged`).
    """
    return Each(sample.rows_of, finish)


def unchanged(paths: Iterable[str]) -> Callable[[], None]:
    """What raises DataError if one of the files has been replaced or written to since this was called."""
    states = {path: _state(path) for path in paths}

    def require() -> None:
        for path, state in states.items():
            if _state(path) != state:
                raise DataError(f"{path} has changed since it was read first; the sample is not of what it holds now")

    return require


def _state(path: str) -> tuple[int, ...] | None:
    """What changes with a file's content; None where there is no file."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _at(flags: bytes, position: int) -> int:
    """The flag of a row; 0 for one that was not there when the input was read first."""
    return flags[position] if position < len(flags) else 0


def _occurring_twice(values: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Of each value whether another is equal to it."""
    import numpy as np

    ordered = np.sort(values)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    return np.isin(values, repeated)


def _own_id(row: Row) -> str:
    """The row's id; where the reader made it from content and line, the part that does not depend on the line."""
    record_id: str = row.record["id"]
    return record_id.rpartition("-")[0] if row.has_made_id else record_id


def _content(row: Row) -> int:
    """A hash of what the row says, in whatever format and spacing."""
    if row.has_made_id:
        return int(_own_id(row), 16)
    return int.from_bytes(hashlib.sha256(encode_part(row.record)).digest()[:8], "big")


def _suffix(row: Row) -> str:
    return f"@{_content(row):016x}"


def _num_tokens(row: Row) -> int:
    value = row.record.get("num_tokens")
    if type(value) is not int or not 0 < value < 1 << 40:
        raise DataError(
            "num_tokens: a budget in tokens needs it as a whole number above 0; mmkit stats --per-row adds it"
        )
    return value
