"""Reading an answer out of a reply: an option of a multiple-choice question, or yes or no.

The rule is strict. The whole reply is the answer ("B", "(B)", "B.", "**B**", "B. liver", "liver"), or it states the
answer once or more ("The answer is B.", "Answer: liver") and every statement agrees. Anything else is not parsed;
nothing is ever guessed. The cost is linear in the length of the reply.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

_STATEMENT = re.compile(r"\banswer(?:\s+is\b\s*:?|\s*:)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s")
_REASON = re.compile(r"\s(?:because|since)\b", re.IGNORECASE)
_EMPHASIS = str.maketrans("", "", "*`")
_LETTER = re.compile(r"\(?([A-Za-z])(?:\)?[.:]|\)|$)\s*(.*)", re.DOTALL)
_LABEL = re.compile(r"\s*\(?([A-Z])(?:\)?[.:]|\))\s*")
_YES_NO = re.compile(r"(yes|no)\s*(?:$|[,.;:!\n])", re.IGNORECASE)


def plain(text: str) -> str:
    """The text stripped, lower-cased, white space collapsed, one final "." dropped.

    Source: VisATB's exact match. Deviation: white space is collapsed, and a text that is only "." keeps it, so that
    an empty reply equals nothing.
    """
    collapsed = " ".join(text.lower().split())
    if collapsed.endswith(".") and len(collapsed) > 1:
        return collapsed[:-1].rstrip()
    return collapsed


class Options:
    """The options of one question, and how a text names one of them.

    Labels that the options carry themselves ("A: liver", "B: lung") are taken off if every option has its own. Where
    an option's text is also another's letter, the text wins.
    """

    def __init__(self, choices: Sequence[str]) -> None:
        self.texts = _unlabelled(choices)
        self._exact: dict[str, int] = {}
        self._plain: dict[str, int | None] = {}
        for index, text in enumerate(self.texts):
            first = self._exact.setdefault(text.strip(), index)
            # "AA" and "aa" are two options: a text that fits both only after lower-casing names neither.
            if self._plain.setdefault(plain(text), first) != first:
                self._plain[plain(text)] = None
        self.closed = set(self._plain) == {"yes", "no"}

    def find(self, text: str) -> int | None:
        """The index of the option that the whole of `text` names by its text, its letter or both; else None."""
        text = text.strip()
        by_text = self._by_text(text)
        return by_text if by_text is not None else self._by_letter(text)

    def parse(self, reply: str) -> int | None:
        """The index of the option that a reply answers with, by the rule of this module; else None."""
        index = self.find(reply)
        if index is None:
            index = _answer_in(reply, self.find)
        if index is None and self.closed and (word := parse_yes_no(reply)):
            index = self._plain[word]
        return index

    def same(self, one: int, other: int) -> bool:
        """Whether two indexes stand for the same answer: an option may be given twice."""
        return self._exact[self.texts[one].strip()] == self._exact[self.texts[other].strip()]

    def _by_text(self, text: str) -> int | None:
        exact = self._exact.get(text)
        return exact if exact is not None else self._plain.get(plain(text))

    def _by_letter(self, text: str) -> int | None:
        match = _LETTER.fullmatch(text)
        if not match:
            return None
        index = ord(match[1].upper()) - ord("A")
        if index >= len(self.texts):
            return None
        # "B. lung" where B is the liver contradicts itself, and so names nothing.
        named = index if not match[2] else self._by_text(match[2].strip())
        return index if named is not None and self.same(named, index) else None


def parse_yes_no(reply: str) -> str | None:
    """ "yes" or "no" where the reply is, begins with ("No, ...") or states that word; else None.

    "No lesion is seen" answers nothing here: the word has to stand for itself, before a mark or the end.
    """

    def read(text: str) -> str | None:
        match = _YES_NO.match(text.strip())
        return match[1].lower() if match else None

    return read(reply) or _answer_in(reply, read)


def _answer_in(reply: str, read: Callable[[str], T | None]) -> T | None:
    """What `read` makes of the reply without emphasis marks, or of the answers that the reply states, if they agree."""
    bare = reply.translate(_EMPHASIS)
    whole = read(bare)
    if whole is not None:
        return whole
    stated = {_first_read(tail, read) for tail in _STATEMENT.split(bare)[1:]}
    return stated.pop() if len(stated) == 1 else None


def _first_read(tail: str, read: Callable[[str], T | None]) -> T | None:
    return next((found for part in _spans(tail) if (found := read(part)) is not None), None)


def _spans(tail: str) -> Iterator[str]:
    """What may be the answer after "the answer is": the line, its first sentence, what stands before "because"."""
    line = tail.strip().partition("\n")[0]
    yield line
    sentence = _SENTENCE_END.split(line, maxsplit=1)[0]
    yield sentence
    yield _REASON.split(sentence, maxsplit=1)[0]


def _unlabelled(choices: Sequence[str]) -> tuple[str, ...]:
    labels = [_LABEL.match(choice) for choice in choices]
    if all(label and ord(label[1]) - ord("A") == index for index, label in enumerate(labels)):
        return tuple(_LABEL.sub("", choice, count=1) for choice in choices)
    return tuple(choices)
