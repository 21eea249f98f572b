"""Questions about sampled records: equal ones once, images when their turn comes, one failure at a time."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mmkit.balance.interaction import Unimodal, View
from mmkit.balance.views import Shown
from mmkit.engines import Choice, Reply, Request, Sampling, Usage
from mmkit.errors import MmkitError, UnavailableError
from mmkit.streams import Row, Withdrawn

A = TypeVar("A", Reply, Choice)


@dataclass(slots=True, eq=False)
class Subject:
    """A sampled record: the draws that it is in, and what is known of it so far. One that `failed` is asked no more."""

    row: Row
    draws: tuple[int, ...]
    predictions: dict[View, str] = field(default_factory=dict)
    log_probs: dict[View, dict[str, float]] = field(default_factory=dict)
    judged: dict[Unimodal, float] = field(default_factory=dict)
    used: dict[str, Usage] = field(default_factory=dict)
    """What each model was paid for it, in tokens; nothing for an answer that another subject's question had got."""
    failed: bool = False

    def take_log_probs(self, view: View, log_probs: dict[str, float]) -> None:
        """Keep a view's log-probabilities of the choices, and predict the most probable one."""
        self.log_probs[view] = log_probs
        self.predictions[view] = max(log_probs, key=lambda choice: log_probs[choice])


@dataclass(frozen=True, slots=True)
class Question(Generic[A]):
    """What is asked about a subject. `about` stands behind the record's id in the request's; `take` gets the answer,
    and raises an MmkitError for one that will not do."""

    subject: Subject
    about: str
    shown: Shown
    take: Callable[[A], None]


class Asker:
    """Puts questions to engines. `asked` counts the requests by what they were about."""

    def __init__(self, sampling: Sampling, image_root: str | None = None) -> None:
        self.asked: Counter[str] = Counter()
        self._sampling = sampling
        self._image_root = image_root

    def ask(
        self, questions: Iterable[Question[A]], model: str, answers_to: Callable[[Iterable[Request]], Iterator[A]]
    ) -> Iterator[Withdrawn]:
        """Ask, and hand every answer to those who asked; the rows that failed come out.

        `answers_to` is a method of the model's engine. Equal questions (see `Shown.digest`) are one request. Requests
        are numbered without gaps, so that an engine that batches by position has full batches.
        """
        askers: dict[bytes, list[Question[A]]] = {}
        answers: dict[bytes, A] = {}
        under_way: deque[bytes] = deque()
        failed: list[Withdrawn] = []

        def request_for(question: Question[A]) -> Request | None:
            """The request of a question that nobody asked before."""
            digest = question.shown.digest(self._image_root)
            if digest in answers:
                _take(question, answers[digest], model, Usage())
            elif digest in askers:
                askers[digest].append(question)
            else:
                request = self._request(question, len(askers))
                askers[digest] = [question]
                under_way.append(digest)
                return request
            return None

        def requests() -> Iterator[Request]:
            for question in questions:
                if question.subject.failed:
                    continue
                try:
                    request = request_for(question)
                except MmkitError as error:
                    failed.append(_withdrawn(question, error))
                    continue
                if request is not None:
                    self.asked[question.about] += 1
                    yield request

        for answer in answers_to(requests()):
            digest = under_way.popleft()
            answers[digest] = answer
            usage = answer.usage
            for question in askers[digest]:
                if question.subject.failed:
                    continue
                try:
                    _take(question, answer, model, usage)
                except MmkitError as error:
                    failed.append(_withdrawn(question, error))
                else:
                    usage = Usage()
            yield from failed
            failed.clear()
        if under_way:
            raise RuntimeError(f"the engine left {len(under_way)} questions without an answer")
        yield from failed

    def _request(self, question: Question[A], position: int) -> Request:
        return Request(
            id=f"{question.subject.row.record['id']}/{question.about}",
            position=position,
            messages=question.shown.messages,
            images=question.shown.load(self._image_root),
            sampling=self._sampling,
        )


def _take(question: Question[A], answer: A, model: str, usage: Usage) -> None:
    if answer.error is not None:
        raise UnavailableError(f"the model gave no answer ({question.about}): {answer.error}")
    used = question.subject.used
    used[model] = used.get(model, Usage()) + usage
    question.take(answer)


def _withdrawn(question: Question[A], error: MmkitError) -> Withdrawn:
    question.subject.failed = True
    return Withdrawn(question.subject.row, error)
