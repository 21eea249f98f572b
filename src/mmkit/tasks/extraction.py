"""Reading an answer out of a reply, by the type of the answer. Nothing here sees the gold answer.

A reply may state its answer ("The answer is B.", "Answer: liver", "So the direct answer is: 3"): a statement holds
"answer is", "answer would be", "answer should be" or "answer:", in any case, and what follows it on its line is the
answer; for choices "the correct option is" does as well. Where a reply states none, the first span that looks like an
answer of that type is taken:

- choice (`Options.parse`): the whole reply ("B", "(B)", "B.", "**B**", "Option B", "B. liver", "liver"), or what it
  opens with, unless further lines name other options: then it lists them;
- yes or no (`parse_yes_no`): the word that opens the reply or stands before a mark or the end; "yes or no" is neither;
- number (`parse_number`): the first number; box (`parse_box`): the first bracketed group of four numbers;
- text (`answer_span`): the whole reply.

Of several statements the last one counts, but for choices, yes and no all that can be read have to agree. Anything
else is not parsed; nothing is ever guessed. The cost is linear in the length of the reply.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Box: TypeAlias = tuple[float, float, float, float]

_STATES = r"[*`]*(?:\s+(?:is|(?:would|should)\s+be)\b\s*:?|\s*:)(?:[*`]+(?=\s))?"
_STATEMENT = re.compile(rf"\banswer{_STATES}", re.IGNORECASE)
_OF_OPTION = re.compile(
    rf"\b(?:answer|(?:correct|right|best)\s(?:option|choice)){_STATES}|答案\s?[是为：:]\s?[：:]?", re.IGNORECASE
)
_EMPHASISED = re.compile(r"(?:([*`]{1,3})([^*`]+)\1|([^*`]+)\*\*)([.,;:!?]?)")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s|(?<=。)")
_REASON = re.compile(r"\s(?:because|since)\b", re.IGNORECASE)
_EMPHASIS = str.maketrans("", "", "*`")
_QUOTED = re.compile(r"[\"'“‘](.+)[\"'”’](\.?)", re.DOTALL)
_LETTER = re.compile(
    r"(?:(?:option|choice)\s|选项\s?)?[(\[]?([a-z])(?:[)\]]?[.:,。．：]|[)\]]|\s[-–—]\s|$)\s*(.*)",
    re.DOTALL | re.IGNORECASE,
)
_LISTED = re.compile(r"(?<!\w)[A-Z][.:)]")
_LABEL = re.compile(r"\s*\(?([A-Z])(?:\)?[.:]|\))\s*")
_YES_NO = re.compile(r"\b(yes|no)\b(?=\s*(?:$|[,.;:!。，！\n]))", re.IGNORECASE)
_OPENING_YES_NO = re.compile(
    # "Yes it is", "No there is none": only "no" can belong to the word after it ("No lesion").
    rf"{_YES_NO.pattern}|yes\b(?![-/])|no\b(?=\s+(?:[-–—(]|(?:there|the|it|this|that|they|he|she)\b))",
    re.IGNORECASE,
)
_BOTH_WORDS = re.compile(r"\b(?:yes(?: ?/ ?| (?:or |and )?)no|no(?: ?/ ?| (?:or |and )?)yes)\b", re.IGNORECASE)
_AROUND_YES_NO = str.maketrans("", "", '*`"“”')
_DECIMAL = r"[-+]?(?:\d++(?:\.\d*+)?|\.\d++)"
_NUMBER = re.compile(
    r"(?<![\w.,/])([-+]?(?:(?:\d{1,3}(?:,\d{3})++(?!\d)|\d++)(?:\.\d++)?|\.\d++)(?:e[-+]?\d++)?)"
    r"(?![.,/]?\d|e[-+]?\d)(\s?%)?",  # "3,5", "1/2" and "1.200,50" are no number that could be told
    re.IGNORECASE,
)
_MINUS = str.maketrans("−", "-")
_BETWEEN = r"(?:\s*+[,;]\s*+|\s++)"
_BOX = re.compile(rf"[\[(]\s*+({_DECIMAL}){_BETWEEN}({_DECIMAL}){_BETWEEN}({_DECIMAL}){_BETWEEN}({_DECIMAL})\s*+[\])]")


def plain(text: str) -> str:
    """The text stripped, lower-cased, white space collapsed, one final "." dropped.

    Source: VisATB's exact match. Deviation: white space is collapsed, and a text that is only "." keeps it, so that
    an empty reply equals nothing.
    """
    collapsed = " ".join(text.lower().split())
    if collapsed.endswith(".") and len(collapsed) > 1:
        return collapsed[:-1].rstrip()
    return collapsed


def answer_span(reply: str) -> str:
    """The line after the last statement of an answer, without emphasis marks around it; else the whole reply."""
    if "answer" not in reply.lower():  # far cheaper than the pattern, and most replies state nothing
        return reply
    end = max((statement.end() for statement in _STATEMENT.finditer(reply)), default=len(reply))
    line = reply[end:].strip().partition("\n")[0].rstrip()
    emphasised = _EMPHASISED.fullmatch(line)
    if emphasised:
        line = (emphasised[2] or emphasised[3]).strip() + emphasised[4]
    return line or reply


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
        if by_text is None and (quoted := _QUOTED.fullmatch(text)):
            text = quoted[1] + quoted[2]
            by_text = self._by_text(text)
        return by_text if by_text is not None else self._by_letter(text)

    def parse(self, reply: str) -> int | None:
        """The index of the option that a reply answers with, by the rule of this module; else None."""
        index = self.find(reply)
        if index is None:
            bare = reply.translate(_EMPHASIS)
            stated = _stated(bare, self.find, _OF_OPTION)
            index = _agreed(stated) if stated else self._opening(bare)
        if index is None and self.closed and (word := parse_yes_no(reply)):
            index = self._plain[word]
        return index

    def same(self, one: int, other: int) -> bool:
        """Whether two indexes stand for the same answer: an option may be given twice."""
        return self._exact[self.texts[one].strip()] == self._exact[self.texts[other].strip()]

    def _opening(self, reply: str) -> int | None:
        if len({found for line in set(reply.split("\n")) if (found := self.find(line)) is not None}) > 1:
            return None  # the options listed once more are no answer
        line, sentence, _ = _spans(reply)
        for part in (line, _REASON.split(line, maxsplit=1)[0]):
            if (found := self.find(part)) is not None:
                return found
        return self._before(sentence, line[len(sentence) :].strip())

    def _before(self, sentence: str, rest: str) -> int | None:
        """The option that the first sentence of a line names, for what the rest of the line says of it."""
        second = _SENTENCE_END.split(rest, maxsplit=1)[0]
        if _LETTER.fullmatch(sentence) and rest:
            if self._by_text(second) is not None:
                return self.find(f"{sentence} {second}")  # "B. heart." contradicts itself where B is the lung
            if rest[0].islower() or _LISTED.search(rest):
                return None  # "E. coli is seen"; "A. liver B. lung C. heart"
        return self.find(sentence)

    def _by_text(self, text: str) -> int | None:
        exact, bare = self._exact.get(text), plain(text)
        if exact is not None:
            return exact
        return self._plain.get(bare if bare in self._plain else bare.removeprefix("the "))

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
    """ "yes" or "no" where the reply states that word, opens with it ("No, ...") or ends a clause with it; else None.

    "No lesion is seen" answers nothing here: the word has to stand for itself, as before a mark or the end, and the
    normal lung has no lesion either. "Yes or no" chooses neither.
    """

    def read(text: str) -> str | None:
        match = _OPENING_YES_NO.match(text)
        return match[0].lower() if match else None

    bare = _BOTH_WORDS.sub("?", reply.translate(_AROUND_YES_NO)).strip()
    stated = _stated(bare, read, _STATEMENT)
    if stated - {None}:
        return _agreed(stated)
    opening = read(bare)
    if opening is not None:
        return opening
    words = {word.lower() for word in _YES_NO.findall(bare)}
    return words.pop() if len(words) == 1 else None


def parse_number(reply: str) -> float | None:
    """The first number of the answer, finite; None where there is none.

    Commas that group thousands are dropped; "35 %" is .35. Digits inside a word ("H2O") are no number, nor is what
    could be several or is written otherwise: "3,5", "1/2", "1.200,50".
    """
    return _as_float(_NUMBER.search(answer_span(reply).translate(_MINUS)))


def whole_number(text: str) -> float | None:
    """The number that the whole of the text is, read as by `parse_number`; None where it is anything else."""
    return _as_float(_NUMBER.fullmatch(text.strip().translate(_MINUS)))


def parse_box(reply: str) -> Box | None:
    """The first bracketed group of four numbers of the answer, "[x1, y1, x2, y2]"; None where there is none."""
    found = _BOX.search(answer_span(reply))
    if not found:
        return None
    x1, y1, x2, y2 = map(float, found.groups())
    return x1, y1, x2, y2


def _as_float(found: re.Match[str] | None) -> float | None:
    if not found:
        return None
    number = float(found[1].replace(",", ""))
    if not math.isfinite(number):
        return None
    return number / 100 if found[2] else number


def _stated(bare: str, read: Callable[[str], T | None], statement: re.Pattern[str]) -> set[T | None]:
    """What `read` makes of the answers that a reply without emphasis marks states, None among them."""
    return {_first_read(tail, read) for tail in statement.split(bare)[1:]}


def _agreed(stated: set[T | None]) -> T | None:
    """The one answer that is stated. What states nothing ("the answer is clear from the scan") contradicts nothing."""
    answers = stated - {None}
    return answers.pop() if len(answers) == 1 else None


def _first_read(tail: str, read: Callable[[str], T | None]) -> T | None:
    return next((found for part in _spans(tail) if (found := read(part)) is not None), None)


def _spans(text: str) -> tuple[str, str, str]:
    """What may be the answer that a text opens with: its line, the first sentence, what stands before "because"."""
    line = text.strip().partition("\n")[0].rstrip()
    sentence = _SENTENCE_END.split(line, maxsplit=1)[0]
    return line, sentence, _REASON.split(sentence, maxsplit=1)[0]


def _unlabelled(choices: Sequence[str]) -> tuple[str, ...]:
    labels = [_LABEL.match(choice) for choice in choices]
    if all(label and ord(label[1]) - ord("A") == index for index, label in enumerate(labels)):
        return tuple(_LABEL.sub("", choice, count=1) for choice in choices)
    return tuple(choices)
