"""Streams of records to interaction scores: the stage of `mmkit score-interaction`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

from mmkit import __version__
from mmkit.balance import given
from mmkit.balance.asking import Asker, Question, Subject
from mmkit.balance.draws import Drawn, Draws, task_of
from mmkit.balance.interaction import UNIMODAL, VIEWS, Instance, InteractionRow, Similarity, View
from mmkit.balance.judging import VERDICTS, asked_of, judge_questions
from mmkit.balance.scoring import require_scorable, score_task
from mmkit.balance.similarity import answer_of, choices_of, similarity_of
from mmkit.balance.views import Absent, Statements, require_lettered, shown
from mmkit.engines import Choice, Engine, Reply, Sampling
from mmkit.errors import DataError, MmkitError, UsageError
from mmkit.records import Record, with_lineage
from mmkit.streams import Outcome, Rejected, Result, Row, Used, Withdrawn
from mmkit.streams.rows import encode
from mmkit.tasks.extraction import Options
from mmkit.tasks.prompts import letters

T = TypeVar("T")

ChoiceForm: TypeAlias = Literal["text", "letter"]
"""What is scored as the reply for a likelihood: a choice's text, or its letter in the prompt's list."""

Asked: TypeAlias = View | Literal["judge"]
"""What a model may be asked for: what a view predicts, or whether two predictions mean the same."""

Taker: TypeAlias = Callable[[Any], None]
Output: TypeAlias = Literal["rows", "samples", "nothing"]
_BESIDE_EACH_OTHER: tuple[View, ...] = ("both", "image", "text")


@dataclass(frozen=True, slots=True)
class Method:
    """How interaction is measured: what the paper leaves open, decided (docs/adr/0023)."""

    draws: int = 10
    size: int = 100
    seed: int = 0
    similarity: Similarity = "auto"
    absent: Absent = "drop"
    statements: Statements = field(default_factory=Statements)
    choice_form: ChoiceForm = "text"
    sampling: Sampling = field(default_factory=Sampling)
    image_root: str | None = None


class Measurement:
    """The stage: rows in, and at the end a row a task, or the sampled records with what their views predicted.

    All rows are read, and those that are drawn are held. What they do not bring along is asked then, in order of task
    and id, so that the rows' order changes nothing. `models` names who is asked for what; a name of None is the
    engine's own, and what nobody can be asked for has to be in the records. `engine_of` gives a model's engine; a model
    is asked all its questions before the next one is. A row about which a model gives no answer is withdrawn, and its
    task's sample is smaller by it.

    `as_lines` says that samples go out as lines of JSON: a row that has no such form is rejected before it is asked
    about, and not when all is paid for.

    Raises UsageError, naming the first such row, where there is nobody to ask.
    """

    def __init__(
        self,
        method: Method,
        models: Mapping[Asked, str | None],
        engine_of: Callable[[str | None], Engine],
        output: Output = "rows",
        *,
        as_lines: bool = False,
    ) -> None:
        self.rows: list[InteractionRow] = []
        self._method = method
        self._models = models
        self._engine_of = engine_of
        self._output = output
        self._as_lines = as_lines and output == "samples"
        self._asker = Asker(method.sampling, method.image_root)
        self._sampled: dict[str, list[Subject]] = {}
        self._asked_in_general: set[str] = set()

    def __call__(self, rows: Iterator[Row]) -> Iterator[Outcome]:
        """The outcomes of all rows, then the results."""
        draws = Draws(self._method.draws, self._method.size, self._method.seed)
        for row in rows:
            try:
                self._require_usable(row)
            except DataError as error:
                yield Rejected.of(row, error)
                continue
            draws.add(row.replaced(row.record))  # without the bytes that it was read from
            yield Used(row)
        for task, drawn in draws.tasks().items():
            self._sampled[task] = [self._subject(one) for one in drawn]
            self._method.statements.learn(task, [one.row.record for one in drawn])
        del draws
        yield from self._ask()
        for task, subjects in self._sampled.items():
            yield from self._results(task, [subject for subject in subjects if not subject.failed])

    def notes(self) -> list[str]:
        """What was sampled and asked, for the summary, and what has to be known of it."""
        sampled = [subject for subjects in self._sampled.values() for subject in subjects]
        num_tasks = len(self._sampled)
        notes = [f"{len(sampled):,} sampled of {num_tasks:,} {'task' if num_tasks == 1 else 'tasks'}"]
        if asked := self._asker.asked:
            notes.append("asked once each: " + ", ".join(f"{count:,} {about}" for about, count in asked.items()))
        if failed := sum(subject.failed for subject in sampled):
            notes.append(f"{failed:,} left the sample")
        for task, subjects in self._sampled.items():
            if all(subject.failed for subject in subjects):
                notes.append(f"no row for {task}, of which nothing is left")
        if self._asked_in_general:
            tasks = ", ".join(sorted(self._asked_in_general))
            notes.append(f"the images of {tasks} were asked about in general (say what the task is: --statements)")
        if unknown := sorted(self._method.statements.given.keys() - self._sampled.keys()):
            notes.append(f"no record of {', '.join(unknown)}, named in --statements")
        return notes

    def _require_usable(self, row: Row) -> None:
        """Raise DataError for a row that cannot be asked about or scored, UsageError where there is nobody to ask."""
        record, method = row.record, self._method
        if self._as_lines:
            encode(record)
        require_scorable(record, method.similarity)
        if method.similarity == "likelihood" and len(set(scored := self._scored(record))) < len(scored):
            raise DataError("choices: two of them are the same, so that their probabilities cannot be told apart")
        found = self._given(record)
        for view in VIEWS:
            if view not in found:
                if view not in self._models:
                    raise self._nobody_for(row, view)
                seen = shown(record, view, method.statements, method.absent)
                if method.similarity == "likelihood" and method.choice_form == "letter":
                    require_lettered(seen, self._scored(record))
        if method.similarity == "judge" and len(given.judged(record)) < len(UNIMODAL):
            if "judge" not in self._models:
                raise UsageError(f"{row.where}: nobody to judge: give --judge-model, or --model")
            asked_of(record)

    def _nobody_for(self, row: Row, view: View) -> MmkitError:
        """What is wrong where a view has no prediction and no model: the row, if it has others, or else the call."""
        likelihood = self._method.similarity == "likelihood"
        name, value = ("choice_log_probs", "{…}") if likelihood else ("predictions", '"…"')
        if row.record.get(name) is not None:
            return DataError(f"{name}.{view}: missing, and there is no --model to ask")
        wanted = ", ".join(f'"{one}": {value}' for one in VIEWS)
        return UsageError(f'{row.where}: nobody to ask: give --model, or in every record "{name}": {{{wanted}}}')

    def _given(self, record: Record) -> Mapping[View, Any]:
        """What a record brings along: log-probabilities where these are compared, else predictions."""
        return given.log_probs(record) if self._method.similarity == "likelihood" else given.predictions(record)

    def _subject(self, drawn: Drawn) -> Subject:
        record = drawn.row.record
        subject = Subject(drawn.row, drawn.draws)
        if self._method.similarity == "likelihood":
            for view, log_probs in given.log_probs(record).items():
                subject.take_log_probs(view, log_probs)
        else:
            subject.predictions = given.predictions(record)
        if self._method.similarity == "judge":
            subject.judged = given.judged(record)
        return subject

    def _ask(self) -> Iterator[Withdrawn]:
        """Ask what the records do not bring along: a model's views together, the judge in the end."""
        views_of: dict[str | None, list[View]] = {}
        for view in _BESIDE_EACH_OTHER:
            if view in self._models:
                views_of.setdefault(self._models[view], []).append(view)
        # The model of `both` comes last: it is often the judge's, too, and need not be loaded twice then.
        for model, views in reversed(views_of.items()):
            if any(view not in subject.predictions for subject in self._subjects() for view in views):
                yield from self._ask_model(self._engine_of(model), views)
        if self._method.similarity == "judge" and "judge" in self._models:
            engine = self._engine_of(self._models["judge"])
            yield from self._asker.ask(
                judge_questions(self._subjects()), engine.model, partial(engine.choose, choices=VERDICTS)
            )

    def _ask_model(self, engine: Engine, views: Sequence[View]) -> Iterator[Withdrawn]:
        if self._method.similarity != "likelihood":
            yield from self._asker.ask(
                self._questions(self._subjects(), views, _taker_of_reply), engine.model, engine.generate
            )
            return
        groups: dict[tuple[str, ...], list[Subject]] = {}
        for subject in self._subjects():
            groups.setdefault(self._scored(subject.row.record), []).append(subject)
        for choices, subjects in groups.items():
            questions = self._questions(subjects, views, _taker_of_choice)
            yield from self._asker.ask(questions, engine.model, partial(engine.choose, choices=choices))

    def _subjects(self) -> Iterator[Subject]:
        return (subject for subjects in self._sampled.values() for subject in subjects if not subject.failed)

    def _questions(
        self,
        subjects: Iterable[Subject],
        views: Sequence[View],
        taker: Callable[[Subject, View], Taker],
    ) -> Iterator[Question[Any]]:
        """A record's views beside each other, those with its images first: what they share is at hand then."""
        statements = self._method.statements
        for subject in subjects:
            for view in views:
                if subject.failed or view in subject.predictions:
                    continue
                record = subject.row.record
                if view == "image" and statements.source(record) == "default":
                    self._asked_in_general.add(task_of(record))
                seen = shown(record, view, statements, self._method.absent)
                yield Question(subject, view, seen, taker(subject, view))

    def _scored(self, record: Record) -> tuple[str, ...]:
        """What is scored as the replies: the choices without the labels that they carry, or their letters."""
        texts = Options(choices_of(record)).texts
        return tuple(letters(len(texts)) if self._method.choice_form == "letter" else texts)

    def _results(self, task: str, subjects: Sequence[Subject]) -> Iterator[Result]:
        if not subjects:
            return
        method = self._method
        scored = score_task(
            task,
            [_instance(subject) for subject in subjects],
            [subject.draws for subject in subjects],
            draws=method.draws,
            size=method.size,
            similarity=method.similarity,
            seed=method.seed,
        )
        self.rows.append(scored.row)
        if self._output == "samples":
            for subject, agreements in zip(subjects, scored.agreements, strict=True):
                yield Result(subject.row.replaced(self._sample(subject, agreements)))
        elif self._output == "rows":
            yield Result(subjects[0].row.replaced(scored.row.to_wire()))

    def _sample(self, subject: Subject, agreements: tuple[float, float]) -> Record:
        """The record with what its views predicted, and what came of it."""
        record = subject.row.record
        additions: dict[str, Any] = {
            "predictions": {**(record.get("predictions") or {}), **_in_order(subject.predictions)},
            "delta": dict(zip(UNIMODAL, agreements, strict=True)),
            "similarity": similarity_of(record, self._method.similarity),
        }
        if subject.log_probs:
            additions["choice_log_probs"] = _in_order(subject.log_probs)
        sample = {**record, **additions}
        for model, usage in subject.used.items():
            entry = {
                "op": "score-interaction",
                "version": __version__,
                "parents": [record["id"]],
                "model": model,
                "params": self._method.sampling.digest(),
                "usage": usage.to_wire(),
            }
            sample = with_lineage(sample, entry)
        return sample


def _instance(subject: Subject) -> Instance:
    return Instance(subject.row.record, subject.predictions, subject.log_probs or None, subject.judged or None)


def _in_order(by_view: Mapping[View, T]) -> dict[View, T]:
    return {view: by_view[view] for view in VIEWS}


def _taker_of_reply(subject: Subject, view: View) -> Callable[[Reply], None]:
    def take(reply: Reply) -> None:
        answer_of(Instance(subject.row.record, {view: reply.text}), view)  # says so where there is nothing in it
        subject.predictions[view] = reply.text

    return take


def _taker_of_choice(subject: Subject, view: View) -> Callable[[Choice], None]:
    def take(choice: Choice) -> None:
        values = choice.log_probs.values()
        if not all(map(math.isfinite, values)):
            raise DataError(f"the model gave a choice no probability ({view})")
        subject.take_log_probs(view, dict(zip(choices_of(subject.row.record), values, strict=True)))

    return take
