"""A stream of requests through an engine that answers many at once: fed without a pause, put back in order, and
brought back to life when it dies.

Nothing here knows vLLM. A `Backend` takes jobs and hands back what has become of them; a `Work` says which jobs a
request needs and what their results mean.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from mmkit import console
from mmkit.engines import Request
from mmkit.errors import MmkitError, UnavailableError

Answer = TypeVar("Answer")
AnswerOut = TypeVar("AnswerOut", covariant=True)

BAD_REQUEST = (MmkitError, ValueError, TypeError, LookupError, OSError)
"""What goes wrong with one request and no other while it is encoded."""

READ_AHEAD = 4
"""How many times `max_in_flight` rows may wait behind a slow one, most of them answered."""

_MAX_DEATHS_IN_A_ROW = 12


class EngineDied(Exception):  # noqa: N818 - an event that the feed deals with
    """The backend can do no more; what was in it has to be asked again of a fresh one."""


class Refused(Exception):  # noqa: N818 - an outcome of one request
    """The backend will not take this job; the message says why."""


class Result(Protocol):
    """What has become of one job. `failed` where the backend gave up on it, which a second try may mend."""

    @property
    def failed(self) -> bool: ...


class Plan(Protocol):
    """What one request needs: the jobs that answer it, and whatever the work keeps to read their results by."""

    @property
    def jobs(self) -> Sequence[Any]: ...


class Backend(Protocol):
    """An engine process, from its start to its end."""

    def start(self) -> None:
        """Load the model. Raises MmkitError."""
        ...

    def add(self, key: str, job: Any) -> None:
        """Take a job. Raises Refused or EngineDied."""
        ...

    def step(self) -> Sequence[tuple[str, Result]]:
        """Wait until something has happened; the jobs that are done by now, as (key, result). Raises EngineDied."""
        ...

    def abort(self, keys: Sequence[str]) -> None:
        """Forget these jobs."""
        ...

    def close(self) -> None:
        """End it, dead or alive, and free what it held."""
        ...


class Work(Protocol[AnswerOut]):
    """What is done to the requests: writing or scoring."""

    def prepare(self, request: Request) -> Any:
        """The `Plan` of one request. Raises one of BAD_REQUEST where it cannot be asked."""
        ...

    def finish(self, request: Request, plan: Any, results: Sequence[Any]) -> AnswerOut:
        """The answer, from the results of the plan's jobs in their order."""
        ...

    def failed(self, request: Request, why: str) -> AnswerOut:
        """The answer to a request that has none."""
        ...


@dataclass(slots=True, eq=False)
class _Item:
    """A request on its way. `results` has one place a job; `deaths` counts the engines that died with it on board."""

    number: int
    request: Request | None
    plan: Plan | None = None
    results: list[Any] = field(default_factory=list)
    missing: int = 0
    deaths: int = 0
    retried: set[int] = field(default_factory=set)
    answer: Any = None
    done: bool = False


class Feed:
    """One engine and what is in it.

    When the engine dies, a fresh one is started and asked again, in groups that shrink until the request that kills
    it is alone: that one gets an error, all others their answers. Every `restart_every` requests the engine is
    emptied and replaced, so that memory it lost is given back.
    """

    def __init__(self, backend: Backend, *, max_in_flight: int, restart_every: int | None = None) -> None:
        self.backend = backend
        self.max_in_flight = max_in_flight
        self.running = False
        self.num_starts = 0
        self._restart_every = restart_every
        self._num_asked = 0  # of the engine that runs
        self._deaths_in_a_row = 0

    @property
    def is_due(self) -> bool:
        """Whether the engine has done its share and is to be replaced."""
        return self.running and self._restart_every is not None and self._num_asked >= self._restart_every

    def answers(self, requests: Iterable[Request], make_work: Callable[[], Work[Answer]]) -> Iterator[Answer]:
        """One answer a request, in input order, streaming. `make_work` is called once the engine runs."""
        stream = _Stream(self, iter(requests), make_work)
        try:
            yield from stream.answers()
        finally:
            stream.abandon()

    def board(self) -> None:
        """Have an engine for one more request."""
        if not self.running:
            self.backend.start()
            self.running, self._num_asked = True, 0
            self.num_starts += 1
        self._num_asked += 1

    def answered(self) -> None:
        """Take note that the engine works."""
        self._deaths_in_a_row = 0

    def bury(self, died: EngineDied) -> None:
        """End an engine that died. Raises UnavailableError where they do nothing but die."""
        self.close()
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row >= _MAX_DEATHS_IN_A_ROW:
            raise UnavailableError(f"vLLM's engine died {self._deaths_in_a_row} times without an answer: {died}")

    def close(self) -> None:
        """End the engine; a later request starts another."""
        if self.running:
            self.running = False
            self.backend.close()


class _Stream:
    """The requests of one call, through the feed's engine."""

    def __init__(self, feed: Feed, source: Iterator[Request], make_work: Callable[[], Work[Any]]) -> None:
        self._feed, self._source, self._make_work = feed, source, make_work
        self._work: Work[Any] | None = None
        self._waiting: deque[_Item] = deque()  # every request that is not answered yet, in input order
        self._again: deque[_Item] = deque()  # those that an engine died with
        self._open: dict[str, tuple[_Item, int]] = {}  # the jobs in the engine
        self._on_board: dict[int, _Item] = {}  # the requests with jobs in the engine, by number
        self._group = feed.max_in_flight  # how many suspects may be on board at once
        self._more = True
        self._failure: Exception | None = None
        self._number = 0

    def answers(self) -> Iterator[Any]:
        while True:
            while self._waiting and self._waiting[0].done:
                yield self._waiting.popleft().answer
            if self._may_ask_again():
                self._add(self._again.popleft())
            elif self._may_read():
                self._read()
            elif self._open:
                self._step()
            elif self._more and self._feed.is_due:
                self._feed.close()
            else:
                break
        if self._failure is not None:
            raise self._failure

    def abandon(self) -> None:
        """Take what is still in the engine out of it."""
        if self._open and self._feed.running:
            self._feed.backend.abort(list(self._open))
        self._open.clear()
        self._on_board.clear()

    def _may_ask_again(self) -> bool:
        return bool(self._again) and len(self._on_board) < self._group

    def _may_read(self) -> bool:
        """Whether another request may come on board: not beside suspects, nor into an engine that is to be replaced."""
        feed = self._feed
        return (
            self._more
            and len(self._on_board) < feed.max_in_flight
            and len(self._waiting) < READ_AHEAD * feed.max_in_flight
            and not self._again
            and not feed.is_due
            and not any(item.deaths for item in self._on_board.values())
        )

    def _read(self) -> None:
        try:
            request = next(self._source)
        except StopIteration:
            self._more = False
            return
        except Exception as error:  # noqa: BLE001 - raised after the answers to the requests before it
            self._more, self._failure = False, error
            return
        item = _Item(self._number, request)
        self._number += 1
        self._waiting.append(item)
        self._add(item)

    def _add(self, item: _Item) -> None:
        """Hand all jobs of a request to the engine."""
        request = item.request
        assert request is not None
        self._feed.board()
        if self._work is None:
            self._work = self._make_work()
        try:
            plan: Plan = self._work.prepare(request)
        except BAD_REQUEST as error:
            self._settle(item, self._work.failed(request, str(error) or type(error).__name__))
            return
        item.plan, item.results, item.missing, item.retried = plan, [None] * len(plan.jobs), len(plan.jobs), set()
        self._on_board[item.number] = item
        for place in range(len(plan.jobs)):
            if not self._submit(item, place):
                return

    def _submit(self, item: _Item, place: int) -> bool:
        """Hand one job to the engine; False where its request is over, or the engine, with that."""
        assert item.plan is not None
        key = f"{item.number}.{place}.{item.deaths}.{len(item.retried)}"
        try:
            self._feed.backend.add(key, item.plan.jobs[place])
        except Refused as refused:
            self._fail(item, str(refused))
            return False
        except EngineDied as died:
            self._recover(died)
            return False
        self._open[key] = (item, place)
        return True

    def _step(self) -> None:
        try:
            finished = self._feed.backend.step()
        except EngineDied as died:
            self._recover(died)
            return
        for key, result in finished:
            item, place = self._open.pop(key, (None, 0))
            if item is not None:
                self._take(item, place, result)

    def _take(self, item: _Item, place: int, result: Any) -> None:
        assert self._work is not None and item.request is not None
        if result.failed:
            if place in item.retried:
                self._fail(item, "vLLM gave up on it twice (its log has the reason)")
                return
            item.retried.add(place)
            self._submit(item, place)
            return
        item.results[place] = result
        item.missing -= 1
        if item.missing == 0:
            self._feed.answered()
            self._settle(item, self._work.finish(item.request, item.plan, item.results))

    def _fail(self, item: _Item, why: str) -> None:
        """Give up on a request, and take what it has in the engine out of it."""
        assert self._work is not None and item.request is not None
        keys = [key for key, (other, _) in self._open.items() if other is item]
        for key in keys:
            del self._open[key]
        if keys:
            self._feed.backend.abort(keys)
        self._settle(item, self._work.failed(item.request, why))

    def _settle(self, item: _Item, answer: Any) -> None:
        item.answer, item.done = answer, True
        item.request, item.plan, item.results = None, None, []  # its images are not needed any more
        self._on_board.pop(item.number, None)

    def _recover(self, died: EngineDied) -> None:
        """Put what was in the dead engine in line for the next one; condemn what has killed two of them alone."""
        self._feed.bury(died)
        suspects = sorted(self._on_board.values(), key=lambda item: item.number)
        self._open.clear()
        self._on_board.clear()
        for item in suspects:
            item.deaths += 1
        if len(suspects) == 1 and suspects[0].deaths > 1:
            assert self._work is not None and suspects[0].request is not None
            self._settle(suspects[0], self._work.failed(suspects[0].request, f"vLLM's engine dies of it: {died}"))
            self._group = self._feed.max_in_flight
        else:
            console.say(f"mmkit: vLLM's engine died ({died}): asking a fresh one again about {len(suspects)} requests")
            self._again.extendleft(reversed(suspects))
            self._group = max(1, len(suspects) // 4)
