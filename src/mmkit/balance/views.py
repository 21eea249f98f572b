"""What a model is shown of a record in each view: the text alone, the image alone, both.

Source: MINT (arXiv 2506.02308v1), section 3.1, where f1 sees one modality, f2 the other, fm both; how a modality is
taken away is not said. Here `both` is what `predict` asks, `text` the same without its images, `image` the images with
the task's statement in place of the sample's own question and context. Choices stay in every view: they say what can
be answered. Nothing here looks at a gold answer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import orjson

from mmkit import images
from mmkit.balance.draws import task_of
from mmkit.balance.interaction import View
from mmkit.errors import DataError, UsageError
from mmkit.images import LoadedImage
from mmkit.records import Record, message, parts_text
from mmkit.streams import read_rows
from mmkit.tasks import prompts
from mmkit.tasks.benchmarks import definition_of

Absent: TypeAlias = Literal["drop", "blank"]
"""What stands for the images in the view of the text: nothing, or black images of the same sizes."""

DEFAULT_STATEMENTS: Mapping[str, str] = {
    "choice": "A question about this image has one of several answers. Give the most likely one.",
    "yes-no": "A question about this image is answered by yes or no. Give the more likely answer.",
    "number": "A question about this image has a number as its answer. Give the most likely one.",
    "short": "A question about this image has a word or a short phrase as its answer. Give the most likely one.",
    "long": "Describe this image.",
    "box": "A question about this image has a part of it as its answer. Give the most likely part, as a box.",
    "list": "A question about this image has a list of words as its answer. Give the most likely ones.",
}
"""By answer type, for a task of which nothing else is known."""

_CHOICES = "{choices}"
_OWN_TEXTS = ("{question}", "{context}")


@dataclass(frozen=True, slots=True)
class Shown:
    """What a view shows: messages, and references to the images that their image parts take."""

    messages: Sequence[Mapping[str, Any]]
    images: Sequence[Mapping[str, Any]] = ()
    blank: bool = False
    """Black images of the same sizes stand for the images."""

    def digest(self, root: str | None = None) -> bytes:
        """Equal for what a model cannot tell apart: the same messages and the same images, whatever their names.

        Raises as `images.sha256` and `images.size_of` do.
        """
        seen = [images.size_of(one, root) if self.blank else images.sha256(one, root) for one in self.images]
        return hashlib.sha256(orjson.dumps([self.messages, self.blank, seen])).digest()

    def load(self, root: str | None = None) -> list[LoadedImage]:
        """The images. Raises as `images.load` does."""
        if self.blank:
            return [images.blank(images.size_of(one, root)) for one in self.images]
        return [images.load(one, root) for one in self.images]


@dataclass(slots=True)
class Statements:
    """What each task asks, without any sample's own question and context.

    A task's statement is that of the user's file, by task; else that of the benchmark that a record names; else the
    question, where the sampled records of the task, more than one, all ask the same; else the one of
    DEFAULT_STATEMENTS for the answer type. Where the task's prompt lists choices, they follow, unless the statement
    says with {choices} where they stand.
    """

    given: Mapping[str, str] = field(default_factory=dict)
    _shared: dict[str, str] = field(default_factory=dict)

    def learn(self, task: str, records: Iterable[Record]) -> None:
        """Look at the sampled records of a task: do all ask the same?"""
        questions = [record.get("question") for record in records]
        if len(questions) > 1 and len(set(questions)) == 1 and questions[0]:
            self._shared[task] = questions[0]

    def source(self, record: Record) -> str:
        """Where a record's statement comes from: "file", "benchmark", "question" or "default"."""
        definition = definition_of(record)
        if task_of(record) in self.given:
            return "file"
        if definition is not None and definition.statement:
            return "benchmark"
        return "question" if task_of(record) in self._shared else "default"

    def require(self, record: Record) -> None:
        """Raise DataError where no record of this kind can have a statement: its question is among its messages, where
        it cannot be told from the rest."""
        if record.get("messages") and self.source(record) == "default" and not record.get("question"):
            raise DataError(
                "messages: the view of the image needs the task's statement, as there is no question: "
                f'--statements FILE with {{"task": "{task_of(record)}", "statement": "…"}}'
            )

    def text(self, record: Record) -> str:
        """The text of the view of the image."""
        definition = definition_of(record)
        template = (definition and definition.prompt) or prompts.COMMON_PROMPT
        source = self.source(record)
        if source == "question":
            return prompts.fill(template, {**record, "context": None})
        if source == "file":
            statement = self.given[task_of(record)]
        elif definition is not None and definition.statement:
            statement = definition.statement
        else:
            statement = DEFAULT_STATEMENTS[prompts.answer_type(record)]
        if _CHOICES in template and _CHOICES not in statement:
            statement += f"\n{_CHOICES}"
        return prompts.fill(statement, {"choices": record.get("choices")})


def load_statements(path: str | None) -> Statements:
    """The statements of a file of rows {"task", "statement"}; none of the user's own without one.

    Raises UsageError, naming file and line, for a row that is none or a task that comes twice, and what reading it
    raises.
    """
    given: dict[str, str] = {}
    for row in read_rows([path], kind="json") if path is not None else ():
        task, statement = row.record.get("task"), row.record.get("statement")
        if not isinstance(task, str) or not isinstance(statement, str) or not statement.strip():
            raise UsageError(f'{row.where}: expected {{"task": "…", "statement": "…"}}, both texts')
        for slot in _OWN_TEXTS:
            if slot in statement:
                raise UsageError(f"{row.where}: statement: it holds for every sample, so it has no {slot}")
        if task in given:
            raise UsageError(f"{row.where}: a second statement of {task!r}")
        given[task] = statement
    return Statements(given)


def shown(record: Record, view: View, statements: Statements, absent: Absent = "drop") -> Shown:
    """What a view shows of a record. Raises DataError where it has no image, or nothing that asks anything."""
    references = record.get("images") or ()
    if not references:
        raise DataError("images: an interaction needs an image, and the record has none")
    if view == "image":
        statements.require(record)
        text = statements.text(record)
        if not text:
            raise DataError("choices: the task's statement is made of them alone, and the record has none")
        return Shown([message("user", text, len(references))], references)
    messages = prompts.conversation(record)
    if view == "text" and absent == "drop":
        return Shown([_without_images(turn, number) for number, turn in enumerate(messages)])
    return Shown(messages, references, blank=view == "text")


def require_lettered(seen: Shown, letters: Sequence[str]) -> None:
    """Raise DataError where what is shown does not name each of the letters: as replies they would mean nothing."""
    text = "\n".join(parts_text(turn) for turn in seen.messages)
    if missing := [letter for letter in letters if not re.search(rf"\b{letter}\b", text)]:
        raise DataError(f"choices: the prompt names no option {missing[0]}, so letters say nothing: --choice-form text")


def _without_images(turn: Mapping[str, Any], number: int) -> dict[str, Any]:
    texts = [part for part in turn["content"] if part["type"] != "image"]
    if turn["content"] and not texts:
        raise DataError(f"messages[{number}]: holds images alone, so there is nothing to ask without them")
    return {**turn, "content": texts}
