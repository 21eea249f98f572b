"""Split records into parts such that what shares an image stays together."""

from __future__ import annotations

import os.path
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from mmkit import seeds
from mmkit.errors import DataError, UsageError
from mmkit.records import Record
from mmkit.streams import Dropped, Row, each
from mmkit.streams.rows import Stage

By = Literal["image", "id"]


def parse_ratio(text: str) -> dict[str, float]:
    """ "train=.8,val=.1,test=.1" as a mapping whose values sum to 1. Raises UsageError."""
    parts: dict[str, float] = {}
    for item in text.split(","):
        name, equals, share = item.strip().partition("=")
        try:
            value = float(share)
        except ValueError:
            value = -1.0
        if not name or not equals or not 0 <= value <= 1 or name in parts:
            raise UsageError(f'--ratio: expected "train=.8,val=.1,test=.1", got {text!r}')
        parts[name] = value
    if abs(sum(parts.values()) - 1) > 1e-9:
        raise UsageError(f"--ratio: the shares sum to {sum(parts.values()):g}, not 1")
    return parts


class Splitter:
    """Gives each record its part, as a function of (seed, image) or (seed, id) alone.

    Records that share an image, directly or through others, get one part. That needs `link` to have seen every record
    with several images first; memory grows with those images only.
    """

    def __init__(self, ratio: Mapping[str, float], *, by: By = "image", seed: int = 0) -> None:
        self._ratio, self._by, self._seed = dict(ratio), by, seed
        self._leader: dict[str, str] = {}

    def link(self, records: Iterable[Record]) -> Iterator[Record]:
        """Learn which images occur together, passing the records on."""
        for record in records:
            keys = _image_keys(record)
            for other in keys[1:]:
                self._join(keys[0], other)
            yield record

    def part_of(self, record: Record) -> str:
        """The part's name. Raises DataError if its images have different parts since nobody linked them."""
        keys = _image_keys(record) if self._by == "image" else []
        parts = {self._draw(self._find(key), "split.image") for key in keys}
        if len(parts) > 1:
            raise DataError("its images fall into different parts; read from files, so that split can group them")
        return parts.pop() if parts else self._draw(record["id"], "split.id")

    def take(self, part: str) -> Stage:
        """A stage that keeps the rows of one part."""

        def keep(row: Row) -> Row | Dropped:
            own = self.part_of(row.record)
            return row if own == part else Dropped(row, f"part {own}")

        return each(keep)

    def _draw(self, key: str, purpose: str) -> str:
        point = seeds.uniform(self._seed, key, purpose)
        for name, share in self._ratio.items():
            point -= share
            if point < 0:
                return name
        return next(name for name in reversed(self._ratio) if self._ratio[name] > 0)

    def _find(self, key: str) -> str:
        while (parent := self._leader.get(key, key)) != key:
            key = parent
        return key

    def _join(self, one: str, other: str) -> None:
        # The smaller name leads, so that the result does not depend on the order of the rows.
        first, second = sorted((self._find(one), self._find(other)))
        if first != second:
            self._leader[second] = first


def _image_keys(record: Record) -> list[str]:
    return [_key(image) for image in record.get("images") or ()]


def _key(image: Mapping[str, Any]) -> str:
    inline = image.get("bytes")
    if isinstance(inline, bytes):
        import hashlib

        return hashlib.sha256(inline).hexdigest()
    return os.path.normpath(str(image["path"]))
