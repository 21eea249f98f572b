"""The thread behind the iterator: what it was given is answered or cancelled, and nothing is left waiting."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError, Future

import pytest

from mmkit.engines.openai.in_order import LoopThread, map_in_order


async def nothing() -> None:
    """To do at the end."""


def test_many_at_once_are_each_answered() -> None:
    async def twice(number: int) -> int:
        await asyncio.sleep(0.001 * (number % 7))
        return 2 * number

    thread = LoopThread("mmkit-test", nothing)
    try:
        assert list(map_in_order(range(5000), twice, thread, 500)) == [2 * number for number in range(5000)]
    finally:
        thread.close()


def test_an_error_comes_out_at_its_place() -> None:
    async def fail(number: int) -> int:
        if number == 3:
            raise ZeroDivisionError("here")
        return number

    thread = LoopThread("mmkit-test", nothing)
    results = map_in_order(range(10), fail, thread, 4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError, match="here"):
        next(results)
    thread.close()
    thread.close()


def test_closing_cancels_what_runs_and_what_is_submitted_meanwhile() -> None:
    closing, may_end = threading.Event(), threading.Event()

    async def finish() -> None:
        closing.set()
        while not may_end.is_set():
            await asyncio.sleep(0.001)

    thread = LoopThread("mmkit-test", finish)
    early: Future[None] = thread.submit(asyncio.sleep(60))
    closer = threading.Thread(target=thread.close, daemon=True)
    closer.start()
    assert closing.wait(10)
    late: Future[None] = thread.submit(asyncio.sleep(60))
    try:
        for future in (early, late):
            with pytest.raises(CancelledError):
                future.result(timeout=10)
    finally:
        may_end.set()
    closer.join(10)
    assert not closer.is_alive()
