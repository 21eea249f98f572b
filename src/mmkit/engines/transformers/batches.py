"""From a stream of requests to batches and back: windows, length order, token budgets, out of memory.

Nothing here knows torch. Batches depend only on the requests of one window, so that a run which was stopped at a
window's edge and goes on from there makes the batches that it would have made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import TYPE_CHECKING, Protocol, TypeVar

from mmkit.engines import Request
from mmkit.errors import MmkitError

if TYPE_CHECKING:
    from mmkit.models.encoding import Encoded

Answer = TypeVar("Answer")

MAX_HELD_IMAGE_BYTES = 1 << 30
"""Encoded images that a window keeps until their batch comes; those beyond are encoded a second time then."""

_BAD_REQUEST = (MmkitError, ValueError, TypeError, LookupError, OSError)
_MEMORY_WORDS = ("out of memory", "not enough memory", "can't allocate memory")


@dataclass(slots=True)
class Job:
    """One encoded request: `rows` sequences, the longest of `tokens` tokens, which share a batch with others of the
    same `key` only. `encoded` is None where its images were too large to be kept."""

    request: Request
    key: Hashable
    rows: int
    tokens: int
    encoded: Encoded | None


class Work(Protocol[Answer]):
    """What is done to the requests: generating or scoring."""

    def prepare(self, request: Request) -> Job:
        """Encode one request. What it raises is that request's failure and nobody else's."""
        ...

    def run(self, jobs: Sequence[Job]) -> list[Answer]:
        """Answer the jobs of one batch, in their order."""
        ...

    def failed(self, request: Request, why: str) -> Answer:
        """The answer to a request that has none."""
        ...


def answer(
    requests: Iterable[Request],
    make_work: Callable[[], Work[Answer]],
    *,
    window: int,
    max_tokens: int,
    max_rows: int,
    free_memory: Callable[[], None],
) -> Iterator[Answer]:
    """One answer a request, in input order; holds one window at a time. `make_work` is called with the first one."""
    work: Work[Answer] | None = None
    for _, group in groupby(requests, key=lambda request: request.position // window):
        if work is None:
            work = make_work()
        # In a generator of its own, so that nothing of this window is held while the next one is read.
        yield from _answer_window(work, group, max_tokens, max_rows, free_memory)


def _answer_window(
    work: Work[Answer], requests: Iterable[Request], max_tokens: int, max_rows: int, free_memory: Callable[[], None]
) -> Iterator[Answer]:
    failures, jobs = _prepare(work, requests)
    done = _run(work, deque(_longest_first(jobs)), max_tokens, max_rows, free_memory)
    del jobs  # each goes with its batch
    yield from _in_order(chain(failures, done))


def _prepare(work: Work[Answer], requests: Iterable[Request]) -> tuple[list[tuple[int, Answer]], list[tuple[int, Job]]]:
    failures: list[tuple[int, Answer]] = []
    jobs: list[tuple[int, Job]] = []
    held = 0
    for place, request in enumerate(requests):
        try:
            job = work.prepare(request)
        except _BAD_REQUEST as error:
            failures.append((place, work.failed(request, str(error) or type(error).__name__)))
            continue
        if job.encoded is not None:
            held += sum(tensor.nbytes for tensor in job.encoded.image_inputs.values())
        if held > MAX_HELD_IMAGE_BYTES:
            job.encoded = None
        jobs.append((place, job))
    return failures, jobs


def _run(
    work: Work[Answer],
    waiting: deque[tuple[int, Job]],
    max_tokens: int,
    max_rows: int,
    free_memory: Callable[[], None],
) -> Iterator[tuple[int, Answer]]:
    """Run the jobs of one window. When memory does not suffice, the rest of the window runs in smaller batches; the
    next window tries the full size again, or it would depend on what came before it."""
    while waiting:
        batch = _take(waiting, max_tokens, max_rows)
        answers = _try(work, [job for _, job in batch])
        if answers is not None:
            yield from ((place, one) for (place, _), one in zip(batch, answers, strict=True))
            continue
        free_memory()
        place, longest = batch[0]
        if len(batch) == 1:
            why = f"does not fit in memory: {longest.rows} × {longest.tokens} tokens"
            yield place, work.failed(longest.request, why)
        else:
            waiting.extendleft(reversed(batch))
            max_tokens = longest.tokens * sum(job.rows for _, job in batch) // 2


def _try(work: Work[Answer], jobs: list[Job]) -> list[Answer] | None:
    """The answers, or None when memory ran out. The exception is gone on return: its frames hold the tensors."""
    try:
        return work.run(jobs)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or any(words in str(error).lower() for words in _MEMORY_WORDS):
            return None
        raise


def _longest_first(jobs: list[tuple[int, Job]]) -> list[tuple[int, Job]]:
    """Jobs of one key side by side, in order of the key's first appearance; the longest first, so that memory runs
    out early if it does, and a batch's first job gives its width."""
    rank: dict[Hashable, int] = {}
    for _, job in jobs:
        rank.setdefault(job.key, len(rank))
    return sorted(jobs, key=lambda item: (rank[item[1].key], -item[1].tokens, item[0]))


def _take(waiting: deque[tuple[int, Job]], max_tokens: int, max_rows: int) -> list[tuple[int, Job]]:
    """Remove the next batch from the front: one job at least, and more while they fit."""
    first = waiting[0][1]
    batch = [waiting.popleft()]
    rows = first.rows
    while waiting and waiting[0][1].key == first.key:
        rows += waiting[0][1].rows
        if rows > max_rows or rows * first.tokens > max_tokens:
            break
        batch.append(waiting.popleft())
    return batch


def _in_order(answers: Iterable[tuple[int, Answer]]) -> Iterator[Answer]:
    """The answers by place, each as soon as all before it are there."""
    early: dict[int, Answer] = {}
    due = 0
    for place, one in answers:
        early[place] = one
        while due in early:
            yield early.pop(due)
            due += 1
