"""Check records, and pass them on as they are."""

from __future__ import annotations

import hashlib
from array import array

from mmkit import images
from mmkit.errors import DataError
from mmkit.streams import Row, each
from mmkit.streams.rows import Stage


def validate(*, check_ids: bool = False, check_images: bool = False, image_root: str | None = None) -> Stage:
    """A stage that keeps rows unchanged and rejects what is wrong with them.

    The schema was checked when the row was read; this adds repeated ids (memory: 16 bytes a row) and decoding
    every image, both on demand.
    """
    ids = IdSet()

    def check(row: Row) -> Row:
        if check_ids and not ids.add(row.record["id"]):
            raise DataError(f'id: "{row.record["id"]}" occurs a second time')
        if check_images:
            for reference in row.record.get("images") or ():
                images.load(reference, image_root)
        return row

    return each(check)


class IdSet:
    """A set of ids that keeps 64-bit hashes only, in one flat table: at most 16 bytes an id.

    Two different ids count as the same with a chance of n² / 2^65 for n ids (3e-8 for a million).
    """

    _FIRST_SLOTS = 1 << 10

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * self._FIRST_SLOTS))
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def add(self, record_id: str) -> bool:
        """Add an id; whether it was new."""
        digest = hashlib.blake2b(record_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        key = int.from_bytes(digest, "big") or 1  # 0 marks an empty slot
        slots = self._slots
        slot = _find(slots, key)
        if slots[slot] == key:
            return False
        slots[slot] = key
        self._used += 1
        if 4 * self._used > 3 * len(slots):
            self._grow()
        return True

    def _grow(self) -> None:
        # Three quarters full, then half again as large: 10.7 to 16 bytes an id.
        bigger = array("Q", bytes(8 * (len(self._slots) * 3 // 2)))
        for key in self._slots:
            if key:
                bigger[_find(bigger, key)] = key
        self._slots = bigger


def _find(slots: array[int], key: int) -> int:
    """The slot of a key, or the empty one where it belongs (linear probing)."""
    slot = key % len(slots)
    while slots[slot] and slots[slot] != key:
        slot = (slot + 1) % len(slots)
    return slot
