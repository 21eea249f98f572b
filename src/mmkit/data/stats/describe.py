"""Rows, lengths, duplicates, answer types and training tokens of sets of records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from mmkit.data.stats.duplicates import Duplicates, content
from mmkit.data.stats.lengths import Lengths
from mmkit.errors import DataError
from mmkit.records import Record, parts_text
from mmkit.tasks.prompts import answer_type

if TYPE_CHECKING:
    from mmkit.models.token_counts import TokenCount

Axis = Literal["modality", "task", "domain"]
AXES: tuple[Axis, ...] = ("modality", "task", "domain")
_TEXTS = ("context", "question", "rationale", "answer", "caption")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a set: all of it (`axis` None), or its rows with one modality, task or domain.

    `value` is "" for the rows that name no task or domain.
    """

    set: str
    axis: Axis | None = None
    value: str = ""


@dataclass(slots=True)
class Tally:
    """What is counted of one part; duplicates of whole sets only."""

    rows: int = 0
    images: Lengths = field(default_factory=Lengths)
    characters: Lengths = field(default_factory=Lengths)
    words: Lengths = field(default_factory=Lengths)
    tokens: Lengths = field(default_factory=Lengths)
    image_tokens: int = 0
    loss_tokens: int = 0
    answer_types: Counter[str] = field(default_factory=Counter)
    contents: Duplicates = field(default_factory=Duplicates)
    ids: Duplicates = field(default_factory=Duplicates)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the tallies take from one record; `tokens` is None where no model counts them."""

    id: str
    content: str
    num_images: int
    num_characters: int
    num_words: int
    answer_type: str | None
    parts: Mapping[Axis, str]
    tokens: TokenCount | None = None

    @classmethod
    def of(cls, record: Record, tokens: TokenCount | None = None) -> Facts:
        """The facts of a canonical record. Raises DataError for a `domain` that is no string and an `answer_type`
        that is none."""
        domain = record.get("domain")
        if domain is not None and not isinstance(domain, str):
            raise DataError("domain: expected a string")
        text = text_of(record)
        return cls(
            id=record["id"],
            content=content(record),
            num_images=len(record.get("images") or ()),
            num_characters=len(text),
            num_words=len(text.split()),
            answer_type=answer_type(record) if _has_answer(record) else None,
            parts={"modality": modality(record), "task": record.get("task") or "", "domain": domain or ""},
            tokens=tokens,
        )


def modality(record: Mapping[str, Any]) -> str:
    """ "vision" for a record with images, "language" for one without."""
    return "vision" if record.get("images") else "language"


def text_of(record: Record) -> str:
    """The words of a record: its messages', else its context, question, choices, rationale, answer and caption."""
    if record.get("messages"):
        return "\n".join(map(parts_text, record["messages"]))
    return "\n".join([*(record[name] for name in _TEXTS if record.get(name)), *(record.get("choices") or ())])


def _has_answer(record: Mapping[str, Any]) -> bool:
    return bool(record.get("answer") or record.get("answers") or record.get("choices"))


class Statistics:
    """Tallies of sets. Neither the order of the rows nor how they are divided into files changes them.

    `sets` are there from the beginning, in this order: one without rows is described, too. Memory is that of the
    tallies, and 16 bytes a row for duplicates.
    """

    def __init__(self, sets: Iterable[str] = ()) -> None:
        self._tallies: dict[Part, Tally] = {Part(name): Tally() for name in sets}

    def add(self, name: str, facts: Facts) -> None:
        """Take one record of the set `name` in."""
        whole = self._tallies.setdefault(Part(name), Tally())
        whole.contents.add(facts.content)
        whole.ids.add(facts.id)
        for tally in (whole, *(self._tally(name, axis, value) for axis, value in facts.parts.items())):
            _count(tally, facts)

    def _tally(self, name: str, axis: Axis, value: str) -> Tally:
        return self._tallies.setdefault(Part(name, axis, value), Tally())

    def tokens_of(self, name: str) -> int:
        """All training tokens of the set `name`."""
        return self._tallies[Part(name)].tokens.total

    def parts(self) -> Iterator[tuple[Part, Tally]]:
        """Each part with its tally: sets as they first came, of each all of it, then modalities, tasks and domains in
        order of their names; tasks and domains only where a row of the set names one."""
        sets = list(dict.fromkeys(part.set for part in self._tallies))
        named = {(part.set, part.axis) for part in self._tallies if part.value}

        def order(part: Part) -> tuple[int, int, str]:
            return sets.index(part.set), AXES.index(part.axis) + 1 if part.axis else 0, part.value

        for part in sorted(self._tallies, key=order):
            if part.axis is None or (part.set, part.axis) in named:
                yield part, self._tallies[part]


def _count(tally: Tally, facts: Facts) -> None:
    tally.rows += 1
    tally.images.add(facts.num_images)
    tally.characters.add(facts.num_characters)
    tally.words.add(facts.num_words)
    if facts.answer_type is not None:
        tally.answer_types[facts.answer_type] += 1
    if facts.tokens is not None:
        tally.tokens.add(facts.tokens.total)
        tally.image_tokens += facts.tokens.image
        tally.loss_tokens += facts.tokens.loss


@dataclass(frozen=True, slots=True)
class Description:
    """One row of the answer. Lengths are those of a record; tokens are None where no model counted them.

    `relative_percent` is how many tokens more (or less) than the baseline's all of it has.
    """

    part: Part
    tally: Tally
    model: str | None = None
    relative_percent: float | None = None

    @property
    def tokens(self) -> int | None:
        """All training tokens."""
        return None if self.model is None else self.tally.tokens.total

    def to_wire(self) -> dict[str, Any]:
        """The row as a JSON object; a task, domain or modality that is null means all of them."""
        part, tally, counted = self.part, self.tally, self.model is not None
        return {
            "set": part.set,
            **{axis: part.value if part.axis == axis else None for axis in ("task", "domain", "modality")},
            "rows": tally.rows,
            "num_images": tally.images.total,
            "images_per_row": tally.images.to_wire(),
            "characters_per_row": tally.characters.to_wire(),
            "words_per_row": tally.words.to_wire(),
            "answer_types": dict(sorted(tally.answer_types.items())),
            "duplicate_rows": tally.contents.count() if part.axis is None else None,
            "duplicate_ids": tally.ids.count() if part.axis is None else None,
            "model": self.model,
            "tokens": self.tokens,
            "image_tokens": tally.image_tokens if counted else None,
            "loss_tokens": tally.loss_tokens if counted else None,
            "tokens_per_row": tally.tokens.to_wire() if counted else None,
            "relative_percent": self.relative_percent,
        }


def describe(
    statistics: Statistics, *, model: str | None = None, baseline_tokens: int | None = None
) -> list[Description]:
    """The rows of the answer. `model` counted the tokens; whole sets are compared with `baseline_tokens`."""
    rows = [Description(part, tally, model) for part, tally in statistics.parts()]
    if baseline_tokens is None:
        return rows
    return [
        row
        if row.part.axis is not None
        else replace(row, relative_percent=relative_percent(row.tally.tokens.total, baseline_tokens))
        for row in rows
    ]


def relative_percent(tokens: int, baseline_tokens: int) -> float:
    """By how many percent `tokens` are more than the baseline's. Source: MLAN, Table 2. Deviation: none.

    Raises DataError where the baseline has no tokens.
    """
    if not baseline_tokens:
        raise DataError("the baseline has no tokens to compare with")
    return 100 * (tokens - baseline_tokens) / baseline_tokens


def tokens_in(rows: Iterable[Mapping[str, Any]]) -> int:
    """The tokens of the one set that rows of an earlier answer describe. Raises DataError where they do not."""
    whole = [row for row in rows if all(row.get(axis) is None for axis in AXES)]
    if len(whole) != 1:
        raise DataError(f"expected the statistics of one set, got {len(whole)} sets")
    tokens = whole[0].get("tokens")
    if not isinstance(tokens, int):
        raise DataError("its tokens were not counted: give --model there, too")
    return tokens


_HEADER = (
    *("set", "modality", "task", "domain", "rows", "images", "words", "words p50", "words max"),
    *("tokens", "of images", "in the loss", "tokens p50", "p99", "max", "to baseline", "answers", "duplicates"),
)


def table(rows: Sequence[Description]) -> list[list[str]]:
    """The rows for a terminal, header first."""
    return [list(_HEADER), *(_cells(row) for row in rows)]


def _cells(row: Description) -> list[str]:
    part, tally = row.part, row.tally
    names = [part.value or "(none)" if part.axis == axis else "" for axis in AXES]
    tokens = {} if row.model is None else tally.tokens.to_wire() or {}
    words = {} if tokens else tally.words.to_wire() or {}
    counted = (tally.tokens.total, tally.image_tokens, tally.loss_tokens)
    return [
        part.set,
        *names,
        f"{tally.rows:,}",
        f"{tally.images.total:,}" if tally.images.total else "",
        f"{tally.words.total:,}" if words else "",
        *(f"{words[name]:,}" if words else "" for name in ("p50", "max")),
        *(f"{number:,}" if tokens else "" for number in counted),
        *(f"{tokens[name]:,}" if tokens else "" for name in ("p50", "p99", "max")),
        "" if row.relative_percent is None else f"{row.relative_percent:+.2f} %",
        ", ".join(f"{count:,} {kind}" for kind, count in sorted(tally.answer_types.items())),
        _duplicates(tally),
    ]


def _duplicates(tally: Tally) -> str:
    counts = ((tally.contents.count(), "rows"), (tally.ids.count(), "ids"))
    return ", ".join(f"{count:,} {what}" for count, what in counts if count)
