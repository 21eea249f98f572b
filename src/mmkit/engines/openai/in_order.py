"""Many coroutines at once behind an ordinary iterator: bounded, in input order, gone when the iterator is."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class LoopThread:
    """An event loop in a thread of its own. `finish` runs in it as the last thing, after every task has ended."""

    def __init__(self, name: str, finish: Callable[[], Awaitable[None]]) -> None:
        self._finish = finish
        self._loop = asyncio.new_event_loop()
        self._submitted: deque[tuple[Coroutine[Any, Any, Any], Future[Any]]] = deque()
        self._told = False
        self._closing = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._beside: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, R]) -> Future[R]:
        """Start a coroutine from any other thread."""
        future: Future[R] = Future()
        self._submitted.append((coroutine, future))
        # Waking the loop is a system call; once is enough for all that is submitted until it looks.
        if not self._told:
            self._told = True
            self._loop.call_soon_threadsafe(self._start)
        return future

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Start a coroutine from within the loop that nobody waits for. It is cancelled at the end."""
        task = self._loop.create_task(coroutine)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    def close(self) -> None:
        """Cancel what still runs and end the thread. Harmless when called again."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._stop)
        # The garbage collector may close a forgotten generator from within the loop's own thread.
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _start(self) -> None:
        self._told = False
        while self._submitted:
            coroutine, future = self._submitted.popleft()
            if self._closing:
                coroutine.close()
                future.cancel()
                continue
            task = self._loop.create_task(coroutine)
            self._tasks.add(task)
            task.add_done_callback(functools.partial(self._settle, future))

    def _settle(self, future: Future[Any], task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            future.cancel()
        elif error := task.exception():
            future.set_exception(error)
        else:
            future.set_result(task.result())

    def _stop(self) -> None:
        self._closing = True
        self._start()
        # Only what was submitted is cancelled; the tasks that it started are its own to end.
        for task in self._tasks:
            task.cancel()
        self._loop.stop()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._wind_up())
        self._loop.close()

    async def _wind_up(self) -> None:
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in self._beside:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._finish()


def map_in_order(
    items: Iterable[T], work: Callable[[T], Coroutine[Any, Any, R]], thread: LoopThread, ahead: int
) -> Iterator[R]:
    """The result of `work` for each item, in the items' order, while up to `ahead` items are under way.

    `items` is read in the caller's own thread, one item at a time, and a result that is ready does not wait until the
    window is full. Where reading raises, the results of the items read before it come out first.
    """
    source = iter(items)
    pending: deque[Future[R]] = deque()
    failure: Exception | None = None
    more = True
    while more or pending:
        if more:
            try:
                pending.append(thread.submit(work(next(source))))
            except StopIteration:
                more = False
            except Exception as error:  # noqa: BLE001 - raised below, once its turn has come
                more, failure = False, error
        if pending and (pending[0].done() or not more or len(pending) == ahead):
            yield pending.popleft().result()
    if failure is not None:
        raise failure
