"""What training must not have seen: images and questions of held-out sets."""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from mmkit import images
from mmkit.records import Record, parts_text

_FILES_REMEMBERED = 1 << 16  # several questions show one image
_NO_WORD = re.compile(r"[\W_]+")


class HeldOut:
    """The images and questions of records that are held out, as hashes.

    An image is known by the sha256 of its file, a question by its letters and digits (see `normalised`). Images of
    the rows that are asked about are read only if held-out records have any.
    """

    def __init__(self, records: Iterable[Record], image_root: str | None = None) -> None:
        """Raises MissingInputError where a held-out image is not there."""

        @functools.lru_cache(_FILES_REMEMBERED)
        def of_file(path: str) -> str:
            return images.sha256({"path": path}, image_root)

        self._of_file = of_file
        self._images: set[str] = set()
        self._questions: set[bytes] = set()
        for record in records:
            self._questions.update(_hashed(question) for question in questions(record))
            self._images.update(map(self._digest, record.get("images") or ()))

    def holds(self, record: Record) -> Literal["image", "question"] | None:
        """Which part of the record is held out, if one is. Raises MissingInputError where an image is not there."""
        if self._images and not self._images.isdisjoint([self._digest(image) for image in record.get("images") or ()]):
            return "image"
        if any(_hashed(question) in self._questions for question in questions(record)):
            return "question"
        return None

    def _digest(self, image: Mapping[str, Any]) -> str:
        path = image.get("path")
        in_itself = isinstance(image.get("bytes"), bytes) or not isinstance(path, str) or path.startswith("data:")
        return images.sha256(image) if in_itself else self._of_file(path)


def questions(record: Record) -> Iterator[str]:
    """The record's question, or where it has none what the user says in its messages; normalised, empty ones left out.

    A conversation gives one for each user turn.
    """
    own = record.get("question")
    asked = [own] if own else [parts_text(turn) for turn in record.get("messages") or () if turn["role"] == "user"]
    return filter(None, map(normalised, asked))


def normalised(question: str) -> str:
    """Letters and digits of a question in lower case, compatible characters made one (NFKC), a space for the rest."""
    return _NO_WORD.sub(" ", unicodedata.normalize("NFKC", question).casefold()).strip()


def _hashed(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
