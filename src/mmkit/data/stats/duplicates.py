"""Rows that say again what another one said."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

_CONTENT = ("question", "context", "choices", "answer", "answers", "messages")


class Duplicates:
    """Counts values that came before, in 8 bytes each.

    A value is known by a 64-bit digest. Two different ones among ten million have the same with a probability of
    3 in a million.
    """

    def __init__(self) -> None:
        self._digests = array("Q")

    def add(self, value: str) -> None:
        """Take one value in."""
        digest = hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self._digests.append(int.from_bytes(digest, "big"))

    def count(self) -> int:
        """How many values there are beyond the different ones."""
        import numpy as np

        return len(self._digests) - len(np.unique(np.frombuffer(self._digests, np.uint64))) if self._digests else 0


def content(record: Mapping[str, Any]) -> str:
    """What makes two records the same: question, context, choices, answer, messages and images, whatever their ids."""
    return repr([*(record.get(name) or None for name in _CONTENT), *map(_image, record.get("images") or ())])


def _image(reference: Mapping[str, Any]) -> str:
    inline = reference.get("bytes")
    if isinstance(inline, bytes):
        return hashlib.sha256(inline).hexdigest()
    return str(PurePath(str(reference["path"])))
