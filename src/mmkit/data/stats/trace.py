"""The way of one record through the stages, backwards, from its lineage and from the files that hold its parents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmkit.errors import DataError
from mmkit.streams import Row

Entry = Mapping[str, Any]
_MAX_STEPS = 200


@dataclass(slots=True)
class Node:
    """A record (`id`, and `where` it is, nowhere if it is in none of the files) or a step (`entry`) that made one.

    A record that has been told further up in the tree stands there `again`, without what it came from.
    """

    id: str | None = None
    where: list[str] = field(default_factory=list)
    entry: Entry | None = None
    again: bool = False
    children: list[Node] = field(default_factory=list)

    def label(self) -> str:
        """What it is, in one line."""
        if self.entry is None:
            return f"{self.id} ({', '.join(self.where) or 'not in these files'})" + ", as above" * self.again
        entry = self.entry
        model, adapter, params, usage = (entry.get(name) for name in ("model", "adapter", "params", "usage"))
        by = f" by {model}" + (f" with {adapter}" if adapter else "") if model else ""
        parts = [str(entry.get("op")) + by]
        if isinstance(usage, dict):
            parts.append(f"{usage.get('prompt_tokens', 0)} + {usage.get('completion_tokens', 0)} tokens")
        if params:
            parts.append(f"params {params}")
        return ", ".join(parts)

    def flat(self, depth: int = 0) -> Iterator[dict[str, Any]]:
        """The tree as rows, each before what it came from, which is one `depth` further down."""
        step = {} if self.entry is None else dict(self.entry)
        yield {
            "depth": depth,
            "id": self.id,
            "where": self.where,
            "again": self.again,
            **{name: step.get(name) for name in ("op", "model", "adapter", "params", "usage")},
        }
        for child in self.children:
            yield from child.flat(depth + 1)


@dataclass(frozen=True, slots=True)
class _Place:
    """A record as files hold it."""

    where: list[str]
    lineage: Sequence[Entry]


def trace(read: Callable[[], Iterable[Row]], record_id: str) -> list[Node]:
    """The trees of the records of this id: one, or several where the files hold different records under it.

    `read` reads the files anew: once for the record, then until no parent is left to look for. A parent that is in the
    files goes on with its own lineage; of one that is not, the record's own tells what was done to it. Where several
    files hold an id, the parent is the record with the longest lineage that is a part of the child's. Raises DataError
    where no file holds the id.
    """
    places = _load(read, record_id)
    if not places[record_id]:
        raise DataError(f"no record {record_id!r} in these files")
    trees = [_record(record_id, place, places, set()) for place in places[record_id]]
    return [tree for tree in trees if not any(tree.where in _places_below(other) for other in trees)]


def _places_below(node: Node) -> list[list[str]]:
    return [place for child in node.children for place in (child.where, *_places_below(child)) if place]


def _load(read: Callable[[], Iterable[Row]], record_id: str) -> dict[str, list[_Place]]:
    places: dict[str, list[_Place]] = {}
    wanted = {record_id}
    while wanted:
        places |= {name: [] for name in wanted}
        for row in read():
            if row.record["id"] in wanted:
                _add(places[row.record["id"]], row)
        parents = {
            parent for name in wanted for place in places[name] for entry in place.lineage for parent in _parents(entry)
        }
        wanted = parents - places.keys()
    return places


def _add(places: list[_Place], row: Row) -> None:
    """Another place of the same record, or another record."""
    lineage = row.record.get("lineage") or []
    if len(lineage) > _MAX_STEPS:
        raise DataError(f"{row.where}: lineage: {len(lineage):,} steps are more than anybody made")
    for place in places:
        if place.lineage == lineage:
            place.where.append(row.where)
            return
    places.append(_Place([row.where], lineage))


def _record(record_id: str, place: _Place, places: Mapping[str, list[_Place]], above: set[int]) -> Node:
    """The record with what it came from, told once a tree: ways that meet again and again would never end."""
    if place.lineage and id(place) in above:
        return Node(record_id, place.where, again=True)
    above.add(id(place))
    return Node(record_id, place.where, children=_steps(place.lineage, places, above))


def _steps(lineage: Sequence[Entry], places: Mapping[str, list[_Place]], above: set[int]) -> list[Node]:
    """The last step, and below it what it was made from."""
    if not lineage:
        return []
    earlier, last = lineage[:-1], lineage[-1]
    step = Node(entry=last)
    told: list[Entry] = []
    for parent in _parents(last):
        found = _before(places.get(parent, ()), earlier)
        if found is None:
            step.children.append(Node(parent))
        else:
            step.children.append(_record(parent, found, places, above))
            told.extend(found.lineage)
    untold = [entry for entry in earlier if entry not in told]
    if untold:
        # Of one parent alone they are its own; of several nobody knows whose.
        alone = len(step.children) == 1
        below = step.children[0].children if alone else step.children
        below.extend(
            _steps(untold, places, above) if alone or not step.children else [Node(entry=one) for one in untold]
        )
    return [step]


def _before(places: Iterable[_Place], earlier: Sequence[Entry]) -> _Place | None:
    fitting = [place for place in places if _is_part(place.lineage, earlier)]
    return max(fitting, key=lambda place: len(place.lineage), default=None)


def _is_part(lineage: Sequence[Entry], of: Sequence[Entry]) -> bool:
    return len(lineage) <= len(of) and all(entry in of for entry in lineage)


def _parents(entry: Entry) -> list[str]:
    parents = entry.get("parents")
    return (
        list(dict.fromkeys(parent for parent in parents if isinstance(parent, str)))
        if isinstance(parents, list)
        else []
    )
