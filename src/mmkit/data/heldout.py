"""What training must not have seen: images and questions of held-out sets."""

from __future__ import annotations

import functools
import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from mmkit import images
from mmkit.records import Record, parts_text

Part = Literal["image", "question"]
_FILES_REMEMBERED = 1 << 16  # several questions show one image


class HeldOut:
    """The images and questions of records that are held out, as hashes.

    An image is known by the sha256 of its file, a question by its letters and digits (see `normalised`). Images of
    the rows that are asked about are read only if held-out records have any.
    """

    def __init__(self, records: Iterable[Record] = (), image_root: str | None = None) -> None:
        @functools.lru_cache(_FILES_REMEMBERED)
        def of_file(path: str) -> str:
            return images.sha256({"path": path}, image_root)

        self._of_file = of_file
        self._images: set[str] = set()
        self._questions: set[bytes] = set()
        self.add(records)

    def add(self, records: Iterable[Record]) -> int:
        """Hold these out, too; how many images and questions that is. Raises MissingInputError for a missing image."""
        count = 0
        for record in records:
            asked = [_hashed(question) for question in questions(record)]
            shown = [self._digest(image) for image in record.get("images") or ()]
            self._questions.update(asked)
            self._images.update(shown)
            count += len(asked) + len(shown)
        return count

    def holds(self, record: Record) -> Part | None:
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


class _WordSigns(dict[int, str]):
    """For `str.translate`: letters, digits and the marks on them as they are, a space for all else."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        self[code] = sign if unicodedata.category(sign)[0] in "LNM" else " "
        return self[code]


_WORD_SIGNS = _WordSigns()


def normalised(question: str) -> str:
    """Letters and digits of a question in lower case, compatible characters made one (NFKC), a space for the rest.

    Marks belong to their letters: without its vowel signs, a question in Hindi or Thai would be another one.
    """
    words = unicodedata.normalize("NFKC", question).casefold().translate(_WORD_SIGNS).split()
    return " ".join(word for word in words if unicodedata.category(word[0]) != "Mn")  # a mark on what is no letter


def _hashed(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
