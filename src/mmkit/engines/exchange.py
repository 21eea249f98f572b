"""Rows through an engine: requests out of rows, replies back to their rows, in order, one bad row at a time."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from mmkit.engines import Request
from mmkit.errors import MmkitError
from mmkit.streams import Dropped, Outcome, Rejected, Row
from mmkit.streams.rows import outcomes_of

Answer = TypeVar("Answer")


def exchange(
    rows: Iterable[Row],
    requests_of: Callable[[Row], Sequence[Request]],
    ask: Callable[[Iterable[Request]], Iterator[Answer]],
    finish: Callable[[Row, Sequence[Answer]], Row | Iterable[Row] | Dropped],
) -> Iterator[Outcome]:
    """Ask about every row and give each row's outcome, in input order.

    `requests_of` makes a row's requests (one or more), `ask` is the engine's method, `finish` makes the outcome from
    the row's answers. An MmkitError from `requests_of` or `finish` rejects that row alone. The engine sees
    an unbroken stream of requests, which ends early only where a row fails while no answer is under way.
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
