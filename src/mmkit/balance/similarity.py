"""δ: how alike two predictions are, from 0 to 1, for the pairs of a task and for every pair that chance could make.

    auto        by the record's answer type: choice and yes-no by "choice", number by "number", short by "exact",
                long by "embed", list by "f1", box by "iou"
    exact       1 for equal texts, as the metric em reads them by its rule "strict"
    choice      1 where both name the same option, as the metric mc reads them; of yes and no as closed does
    number      1 for equal numbers
    f1          shared words, as the metric token-f1
    rouge-l     longest common subsequence of words, as the metric rouge-l
    embed       cosine of sentence embeddings, as the metric similarity, cut off below at 0
    iou         overlap of two boxes, as the metric iou
    likelihood  1 - total variation distance between the distributions over the choices
    judge       given from outside

A prediction that cannot be read (names no option, holds no number) is a text of its own: alike only to the same text,
and never to one that could be read. What a model has thought in "<think>…</think>" is no part of its prediction.

Sentence embeddings take "3" and "4", or "there is a …" and "there is no …", for alike. So "embed" compares by "exact"
what they cannot judge: where either text has at most three words, where one of the two is negated and the other is not,
and where both state numbers, and not the same.

Source: MINT, section 3.1, asks for a semantic similarity in [0, 1] and names none. Deviation: these are ours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmkit.balance import pairwise
from mmkit.balance.interaction import SIMILARITIES, VIEWS, Instance, Similarity, Unimodal, View
from mmkit.balance.pairwise import Matrix
from mmkit.errors import DataError
from mmkit.records import Record
from mmkit.tasks.extraction import Options, parse_box, parse_number, parse_yes_no, plain, whole_number
from mmkit.tasks.metrics import fields
from mmkit.tasks.prompts import answer_type

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_OF_TYPE: Mapping[str, Similarity] = {
    "choice": "choice",
    "yes-no": "choice",
    "number": "number",
    "short": "exact",
    "long": "embed",
    "list": "f1",
    "box": "iou",
}
PARSED: tuple[Similarity, ...] = ("choice", "number", "iou")
"""What compares what is read out of the predictions, and not their texts."""
_OF_TEXTS: Mapping[Similarity, Callable[[Sequence[str], Sequence[str]], Matrix]] = {
    "exact": pairwise.same_text,
    "number": pairwise.same_number,
    "f1": pairwise.shared_words,
    "rouge-l": pairwise.common_subsequence,
    "embed": pairwise.meanings,
    "iou": pairwise.overlaps,
}


def similarity_of(record: Record, similarity: Similarity) -> Similarity:
    """By what two predictions of a record are compared: `similarity` itself, or what "auto" comes to; never "auto".

    Raises DataError, with what would fit, where that does not fit the record's answer type.
    """
    kind = answer_type(record)
    found = _OF_TYPE[kind] if similarity == "auto" else similarity
    if not _fits(found, kind, record):
        fitting = [name for name in SIMILARITIES if name != "auto" and _fits(name, kind, record)]
        what = f"{kind} answers" + ("" if record.get("choices") else " without choices")
        hint = '; free text is "answer_type": "long"' if found == "embed" and kind == "short" else ""
        raise DataError(f"answer_type: similarity {found} does not fit {what}; these do: {', '.join(fitting)}{hint}")
    return found


def choices_of(record: Record) -> list[str]:
    """The choices that "likelihood" compares the probabilities of: the record's, each once; yes and no without any."""
    return list(dict.fromkeys(record.get("choices") or ("yes", "no")))


def answer_of(instance: Instance, view: View) -> str:
    """What a view predicted, without its thinking.

    Raises DataError, naming the view, where that is missing or empty.
    """
    given = instance.predictions.get(view)
    if given is None:
        raise DataError(f"predictions.{view}: missing")
    if not isinstance(given, str):
        raise DataError(f"predictions.{view}: expected a string, got {type(given).__name__}")
    answer = fields.prediction({"prediction": given})
    if not answer.strip():
        raise DataError(f"predictions.{view}: {'nothing behind its thinking' if given.strip() else 'empty'}")
    return answer


@dataclass(frozen=True, slots=True)
class Stratum:
    """Instances of a task, by their places in it, whose predictions could be one another's: the answer type is the
    same, and so are the choices where there are any.

    Records whose choices no other record has are together where they have equally many; `by_position` says that
    options are compared by their places there.
    """

    similarity: Similarity
    members: tuple[int, ...]
    by_position: bool = False


def strata(records: Sequence[Record], similarity: Similarity) -> list[Stratum]:
    """The strata of a task's records, each record in one of them. Raises as `similarity_of` does."""
    alike: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for place, record in enumerate(records):
        kind = answer_type(record)
        names = _Choices.of(record).names if kind == "yes-no" or record.get("choices") else ()
        alike.setdefault((kind, names), []).append(place)
    found: list[Stratum] = []
    lone: dict[tuple[str, int], list[int]] = {}
    for (kind, names), members in alike.items():
        if len(members) == 1 and names:
            lone.setdefault((kind, len(names)), []).extend(members)
        else:
            found.append(Stratum(similarity_of(records[members[0]], similarity), tuple(members)))
    for members in lone.values():
        found.append(Stratum(similarity_of(records[members[0]], similarity), tuple(members), by_position=True))
    return found


def agreements(instances: Sequence[Instance], stratum: Stratum, view: Unimodal) -> Matrix:
    """δ of what `view` predicted for member i and what `both` did for member j, shape (members, members).

    The diagonal holds the agreements of the pairs that belong together. Not for "judge". Raises DataError where
    predictions or log-probabilities are missing.
    """
    members = [instances[place] for place in stratum.members]
    if stratum.similarity == "likelihood":
        return pairwise.common_mass(
            _distributions(members, view, stratum.by_position), _distributions(members, "both", stratum.by_position)
        )
    unimodal, both = ([answer_of(member, name) for member in members] for name in (view, "both"))
    if stratum.similarity == "choice":
        named = [_options_named(members, texts, stratum.by_position) for texts in (unimodal, both)]
        return pairwise.of_distinct(named[0], named[1], pairwise.same)
    return pairwise.of_distinct(unimodal, both, _OF_TEXTS[stratum.similarity])


def is_unparsed(instance: Instance, similarity: Similarity) -> bool:
    """Whether a view's prediction cannot be read as one of `PARSED` reads it. Raises as `answer_of` does."""
    choices = _Choices.of(instance.record)
    read: Callable[[str], object] = {"choice": choices.place, "number": parse_number, "iou": parse_box}[similarity]
    return any(read(answer_of(instance, view)) is None for view in VIEWS)


def choice_probabilities(instance: Instance, view: View, by_position: bool = False) -> NDArray[np.float64]:
    """Softmax of a view's log-probabilities over the distinct choices, in alphabetical order or in the record's own.

    Raises DataError, naming the view, where a choice has none, or they are no numbers.
    """
    given = (instance.log_probs or {}).get(view)
    if given is None:
        raise DataError(f"log_probs.{view}: missing; likelihood needs them")
    try:
        return _Choices.of(instance.record).probabilities(given, by_position)
    except DataError as error:
        raise DataError(f"log_probs.{view}: {error}") from None


def carried_over(record: Record, text: str, other: Record, by_position: bool) -> str:
    """What a prediction for `record` says of `other` in the same stratum: the option of the same name, or at the same
    place, as the one that it names; the text itself where it names none or `record` has no choices."""
    place = _Choices.of(record).place(text) if record.get("choices") else None
    if place is None:
        return text
    theirs = _Choices.of(other)
    return theirs.text(place if by_position else theirs.place_of(_Choices.of(record).named(place)))


def _fits(similarity: Similarity, kind: str, record: Record) -> bool:
    if similarity in ("choice", "likelihood"):
        return kind == "yes-no" or (bool(record.get("choices")) and kind not in ("long", "list", "box"))
    if similarity == "number":
        return kind in ("number", "short") or (kind == "choice" and _are_numbers(record.get("choices") or ()))
    return {"embed": kind == "long", "iou": kind == "box"}.get(similarity, True)


def _are_numbers(choices: Sequence[str]) -> bool:
    return bool(choices) and all(whole_number(text) is not None for text in Options(choices).texts)


class _Choices:
    """The distinct options of a record, in their order, and how a text names one. `names` are in alphabetical order."""

    def __init__(self, choices: tuple[str, ...]) -> None:
        self._options = Options(choices or ("yes", "no"))
        self._lettered = bool(choices)
        texts = [text.strip() for text in self._options.texts]
        folded = [plain(text) for text in texts]
        # "AA" and "aa" are two options; else neither case nor a final mark keeps records with the same options apart.
        by_index = folded if len(set(folded)) == len(set(texts)) else texts
        self._in_order = list(dict.fromkeys(by_index))
        self._places = [self._in_order.index(name) for name in by_index]
        self.names = tuple(sorted(self._in_order))

    @staticmethod
    def of(record: Record) -> _Choices:
        """Those of a record; without any, yes and no."""
        return _choices(tuple(record.get("choices") or ()))

    def place(self, text: str) -> int | None:
        """The place, among the distinct options, of the one that a reply answers with."""
        if self._lettered:
            index = self._options.parse(text)
        else:
            word = parse_yes_no(text)
            index = None if word is None else self._options.find(word)
        return None if index is None else self._places[index]

    def named(self, place: int) -> str:
        """The name of the option at a place."""
        return self._in_order[place]

    def place_of(self, name: str) -> int:
        """The place of the option of a name."""
        return self._in_order.index(name)

    def text(self, place: int) -> str:
        """The option at a place as the record has it."""
        return self._options.texts[self._places.index(place)]

    def probabilities(self, log_probs: Mapping[str, float], by_position: bool) -> NDArray[np.float64]:
        """Softmax over the options, in their order or that of `names`. Raises DataError where one has no number."""
        import numpy as np

        by_place: dict[int, float] = {}
        for text, value in log_probs.items():
            if type(value) not in (int, float):
                raise DataError(f"expected numbers, got {value!r}")
            index = self._options.find(text)
            if index is not None:
                by_place[self._places[index]] = value
        if len(by_place) < len(self._in_order):
            raise DataError(f"expected one of each of {len(self._in_order)} choices, got {len(by_place)}")
        order = range(len(self._in_order)) if by_position else map(self.place_of, self.names)
        values = np.array([by_place[place] for place in order], dtype=np.float64)
        if not np.isfinite(values.max()) or np.isnan(values).any():
            raise DataError("expected finite numbers")
        weights: NDArray[np.float64] = np.exp(values - values.max())
        weights /= weights.sum()
        return weights


@functools.lru_cache(maxsize=4096)
def _choices(choices: tuple[str, ...]) -> _Choices:
    return _Choices(choices)


def _options_named(
    members: Sequence[Instance], texts: Sequence[str], by_position: bool
) -> list[tuple[str, str | int | None]]:
    """A label a text: ("", the option's name or place), or (the text, None) where none is named."""
    labels: list[tuple[str, str | int | None]] = []
    for member, text in zip(members, texts, strict=True):
        choices = _Choices.of(member.record)
        place = choices.place(text)
        if place is None:
            labels.append((pairwise.folded(text), None))
        else:
            labels.append(("", place if by_position else choices.named(place)))
    return labels


def _distributions(members: Sequence[Instance], view: View, by_position: bool) -> Matrix:
    """The probabilities of the choices, shape (members, choices)."""
    import numpy as np

    return np.array([choice_probabilities(member, view, by_position) for member in members])
