"""Tasks become conversations: each question in a varied wording, each answer stated such that `eval` reads it back.

Source: MLAN, sections 3.1 and C.2 (wordings by answer type, the direct answer at the end); VisATB, appendix A
(questions on one image merged). How a question is put depends on (seed, record id) and on what the model may know:
never on the answer.
"""

from __future__ import annotations

import hashlib
import os.path
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal, TypeAlias

from mmkit import __version__, seeds
from mmkit.errors import DataError
from mmkit.records import Record, message
from mmkit.streams import Kept, Outcome, Rejected, Row, Used, each
from mmkit.streams.rows import Stage
from mmkit.tasks import prompts
from mmkit.tasks.benchmarks import definition_of
from mmkit.tasks.extraction import Options, plain
from mmkit.tasks.metrics.fields import choices, golds

Messages: TypeAlias = list[dict[str, Any]]
_Key: TypeAlias = tuple[Hashable, ...]

MAX_TURNS = 9
"""Questions in one conversation, at most: "fewer than 10 turns" (VisATB), a turn being a question and its answer."""

_OF_QUESTION = frozenset(
    {"question", "choices", "context", "answer", "answers", "answer_type", "rationale", "prediction"}
)
_OF_CONVERSATION = frozenset({"id", "images"})
_AS_IT_STANDS = "{question}\n{choices}"


@dataclass(frozen=True, slots=True)
class Form:
    """How conversations are to look; the fields are the command's options."""

    prompt: Literal["benchmark", "phrasing"] = "benchmark"
    option_style: prompts.OptionStyle = "dot"
    context: Literal["before", "after", "none"] = "before"
    answer_style: Literal["letter", "text", "both"] = "letter"
    closer: bool = True
    rationale: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A task's answer type, its user turn's template, how options are listed in it, and whose wording it is."""

    kind: str
    template: str
    option_style: prompts.OptionStyle
    source: Literal["benchmark", "pool", "question"]


class Instructor:
    """Makes the turns of tasks, in one form and out of one set of phrasings; keeps count of what the user should know.

    `params` is a short hash of form and phrasings, for lineage.
    """

    def __init__(self, form: Form, phrasings: prompts.Phrasings) -> None:
        self.form = form
        self._phrasings = phrasings
        self.params = hashlib.sha256(repr((astuple(form), phrasings.digest())).encode()).hexdigest()[:16]
        self.num_by_benchmark = self.num_without_rationale = 0

    def turns(self, record: Record) -> Messages:
        """The user turn, without image parts, and the assistant turn of a task.

        Raises DataError without question or answer, for an unknown benchmark or answer type, for more than 26
        choices, and where the answer is none of the choices, or neither yes nor no though a wording asks for that.
        """
        prompt = self._prompt(record)
        question = prompts.fill(prompt.template, record, prompt.option_style)
        answer = _target(record, prompt, self.form.answer_style)
        self.num_by_benchmark += prompt.source == "benchmark"
        if prompt.source == "pool" and self.form.closer:
            answer = self._stated(record, answer)
        return [message("user", question), message("assistant", answer)]

    def of_one(self, record: Record) -> Record:
        """The task as a conversation of one question, its images before it. Raises DataError as `turns` does."""
        return _conversation(record, self.turns(record), [record], self.params)

    def _prompt(self, record: Record) -> _Prompt:
        kind, definition = prompts.answer_type(record), definition_of(record)
        phrasing = self._phrasings.phrasing(kind, self.form.seed, record["id"])
        own = definition.prompt if definition is not None else None
        if own is not None and (phrasing is None or self.form.prompt == "benchmark"):
            return _Prompt(kind, own, "dot", "benchmark")  # to the letter what `predict` asks
        template = _AS_IT_STANDS if phrasing is None else phrasing
        if self.form.context == "before":
            template = f"{{context}}\n{template}"
        elif self.form.context == "after":
            template = f"{template}\n{{context}}"
        return _Prompt(kind, template, self.form.option_style, "question" if phrasing is None else "pool")

    def _stated(self, record: Record, answer: str) -> str:
        """The answer behind a closer, and behind the reasoning if that is wanted and there is any."""
        closer = self._phrasings.closer(self.form.seed, record["id"])
        direct = closer.replace("{answer}", " ".join(answer.split()))  # `eval` reads the closer's line and no further
        if not self.form.rationale:
            return direct
        rationale = (record.get("rationale") or "").strip()
        self.num_without_rationale += not rationale
        return f"{rationale}\n{direct}" if rationale else direct


def instruct_stage(instructor: Instructor) -> Stage:
    """Each task becomes a conversation of one question and its answer; whatever else the record holds stays."""
    return each(lambda row: row.replaced(instructor.of_one(row.record)))


class Merger:
    """The stage that makes one conversation of all questions on one image, of at most MAX_TURNS questions.

    Source: VisATB, appendix A, where RefCOCO's conversations are divided like that. Questions belong together if their
    records show the same images and agree in `task`, `benchmark` and `weight`, so that a conversation counts to one
    task. Their order is by (seed, id), not by that of the rows; what is beyond MAX_TURNS goes on in further
    conversations of the same image, so that no question is lost. A row without images is a conversation by itself.

    A conversation of several questions has the id of its first, and what all of its records agree in; questions,
    answers and the like are in its messages only. Conversations of images come after all rows, in the order in which
    their images came first. Memory: the rows that have images.
    """

    def __init__(self, instructor: Instructor) -> None:
        self._instructor = instructor
        self.num_questions = self.num_images = self.num_conversations = 0

    def __call__(self, rows: Iterator[Row]) -> Iterator[Outcome]:
        """The outcomes of all rows, in order, then the conversations."""
        questions: dict[_Key, list[tuple[Record, Messages]]] = {}
        last: Row | None = None
        for row in rows:
            last = row
            try:
                turns = self._instructor.turns(row.record)
            except DataError as error:
                yield Rejected.of(row, error)
                continue
            if not row.record.get("images"):
                yield Kept(row.replaced(_conversation(row.record, turns, [row.record], self._instructor.params)))
                continue
            questions.setdefault(_key(row.record), []).append((row.record, turns))
            self.num_questions += 1
            yield Used(row)
        self.num_images = len(questions)
        for group in questions.values():
            group.sort(key=lambda question: self._place(question[0]["id"]))
            for start in range(0, len(group), MAX_TURNS):
                assert last is not None
                yield Kept(last.replaced(self._merged(group[start : start + MAX_TURNS])))
                self.num_conversations += 1

    def _place(self, record_id: str) -> tuple[int, str]:
        return seeds.derive(self._instructor.form.seed, record_id, "instruct.merge-order"), record_id

    def _merged(self, group: Sequence[tuple[Record, Messages]]) -> Record:
        first, *others = records = [record for record, _ in group]
        if others:
            first = {
                name: value
                for name, value in first.items()
                if name in _OF_CONVERSATION
                or (name not in _OF_QUESTION and all(name in other and other[name] == value for other in others))
            }
        return _conversation(first, [turn for _, turns in group for turn in turns], records, self._instructor.params)


def _target(record: Record, prompt: _Prompt, style: Literal["letter", "text", "both"]) -> str:
    """The answer as the assistant is to give it."""
    gold_answers, given = golds(record), choices(record)
    options = Options(given)
    index = next((found for gold in gold_answers if (found := options.find(gold)) is not None), None)
    if prompt.kind == "choice":
        if not given:
            raise DataError("choices: missing, and the answer type is choice")
        if index is None:
            raise DataError(f"answer: {gold_answers[0][:80]!r} is none of the {len(given)} choices")
        if "{choices}" in prompt.template:
            return _named(index, options, prompt.option_style, style)
    answer = gold_answers[0].strip() if index is None else options.texts[index].strip()
    # Closed questions of medical sets have other answers too; asked in the set's own words, they may.
    if prompt.kind == "yes-no" and prompt.source == "pool" and plain(answer) not in ("yes", "no"):
        raise DataError(f"answer: expected yes or no, which is the answer type, got {answer[:80]!r}")
    return answer


def _named(
    index: int, options: Options, option_style: prompts.OptionStyle, style: Literal["letter", "text", "both"]
) -> str:
    """An option by its letter, its text or as it is listed.

    By its text, too, where the name would be read as another option's: of the options "B" and "A" the first is not "A".
    """
    letter, text = prompts.letters(len(options.texts))[index], options.texts[index].strip()
    name = {"letter": letter, "text": text, "both": prompts.label(letter, option_style) + text}[style]
    understood = options.find(name)
    return name if understood is not None and options.same(understood, index) else text


def _conversation(record: Record, turns: Messages, parents: Sequence[Record], params: str) -> Record:
    """The record with these turns as its messages, its images before the first; the lineage is that of all parents."""
    first = turns[0]
    placeholders = [{"type": "image"} for _ in record.get("images") or ()]
    messages = [{**first, "content": [*placeholders, *first["content"]]}, *turns[1:]]
    history = [entry for parent in parents for entry in parent.get("lineage") or ()]
    made = {"op": "instruct", "version": __version__, "parents": [parent["id"] for parent in parents], "params": params}
    return {**record, "messages": messages, "lineage": [*history, made]}


def _key(record: Record) -> _Key:
    images = tuple(_image(reference) for reference in record["images"])
    return (record.get("task"), record.get("benchmark"), record.get("weight"), images)


def _image(reference: Mapping[str, Any]) -> str:
    inline = reference.get("bytes")
    if isinstance(inline, bytes):
        return hashlib.sha256(inline).hexdigest()
    return os.path.normpath(str(reference["path"]))
