"""Rows through an engine: requests out of rows, replies back to their rows, in order, one bad row at a time."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from mmkit.engines import Engine, Request
from mmkit.errors import MmkitError
from mmkit.streams import Dropped, Outcome, Rejected, Row
from mmkit.streams.rows import Stage, outcomes_of

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Inquiry(Generic[Answer]):
    """What a command asks a model about each row, and what it makes of the answers.

    `requests` makes a row's requests (one or more), `finish` the row's outcome from their answers. With `choices` the
    model says how probable each of them is (answers are `Choice`s), without, it writes (`Reply`s). An MmkitError from
    either function rejects that row alone. Neither knows who answers, or when: the same inquiry goes to an engine or
    into a batch file.
    """

    requests: Callable[[Row], Sequence[Request]]
    finish: Callable[[Row, Sequence[Answer]], Row | Iterable[Row] | Dropped]
    choices: Sequence[str] | None = None


def ask(engine: Engine, inquiry: Inquiry[Any]) -> Stage:
    """A stage that puts the inquiry to an engine, row by row."""

    def answers(requests: Iterable[Request]) -> Iterator[Any]:
        choices = inquiry.choices
        return engine.generate(requests) if choices is None else engine.choose(requests, choices)

    def stage(rows: Iterator[Row]) -> Iterator[Outcome]:
        return exchange(rows, inquiry.requests, answers, inquiry.finish)

    return stage


def exchange(
    rows: Iterable[Row],
    requests_of: Callable[[Row], Sequence[Request]],
    ask: Callable[[Iterable[Request]], Iterator[Answer]],
    finish: Callable[[Row, Sequence[Answer]], Row | Iterable[Row] | Dropped],
) -> Iterator[Outcome]:
    """Ask about every row and give each row's outcome, in input order.

    The parts of an `Inquiry`, with the engine's method as `ask`. The engine sees an unbroken stream of requests, which
    ends early only where a row fails while no answer is under way.
    """
    source = iter(rows)
    waiting: deque[tuple[Row, int]] = deque()  # rows and how many answers each waits for
    failed: deque[Rejected] = deque()  # rows that could not be asked about, until their turn comes
    more = True

    def requests() -> Iterator[Request]:
        nonlocal more
        for row in source:
            try:
                own = requests_of(row)
            except MmkitError as error:
                failed.append(Rejected.of(row, error))
                if not waiting:
                    return  # or nobody would hear of it before the engine's next answer
                continue
            waiting.append((row, len(own)))
            yield from own
        more = False

    while more:
        answers = ask(requests())
        for first in answers:
            row, count = waiting.popleft()
            while failed and failed[0].position < row.position:
                yield failed.popleft()
            own_answers = [first, *itertools.islice(answers, count - 1)]
            yield from outcomes_of(row, partial(finish, row, own_answers))
        if waiting:
            raise RuntimeError(f"the engine gave no answer for {waiting[0][0].where}")
        yield from failed
        failed.clear()
