"""The feed of the vLLM engine: full, in order, and alive, whatever becomes of the engine behind it.

The engine here is a scripted one, so that deaths can be had by the hundred; the real one dies in tests/with_vllm.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mmkit.engines import Reply, Request
from mmkit.engines.vllm.feed import READ_AHEAD, EngineDied, Feed, Refused
from mmkit.errors import DataError, UnavailableError

FATES = ("well", "two jobs", "unencodable", "refused", "given up once", "given up twice", "poison")


@dataclass(frozen=True)
class Done:
    text: str
    failed: bool = False


@dataclass
class Plan:
    jobs: list[str]


class Words:
    """A request's prompt is its fate; its answer is made of its id."""

    def prepare(self, request: Request) -> Plan:
        if request.prompt == "unencodable":
            raise DataError("cannot be encoded")
        count = 2 if request.prompt == "two jobs" else 1
        return Plan([f"{request.prompt}:{request.id}:{number}" for number in range(count)])

    def finish(self, request: Request, plan: Plan, results: Sequence[Done]) -> Reply:
        assert [result.text for result in results] == plan.jobs
        return Reply(request.id, text=f"answer to {request.id}")

    def failed(self, request: Request, why: str) -> Reply:
        return Reply(request.id, error=why)


@dataclass
class Scripted:
    """An engine that finishes its jobs in random order, `at_once` a step, and dies when it works on poison, or at the
    steps named in `dies_at`, counted over all its lives."""

    seed: int = 0
    at_once: int = 3
    dies_at: frozenset[int] = frozenset()
    aboard: dict[str, str] = field(default_factory=dict)
    running: bool = False
    starts: int = 0
    steps: int = 0
    peak: int = 0
    given_up: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)

    def start(self) -> None:
        assert not self.running
        assert not self.aboard
        self.running, self.starts = True, self.starts + 1
        self.random = random.Random(self.seed)

    def add(self, key: str, job: str) -> None:
        assert self.running
        assert key not in self.aboard
        if job.startswith("refused"):
            raise Refused("will not take it")
        self.asked[job] += 1
        self.aboard[key] = job
        self.peak = max(self.peak, len({job.split(":")[1] for job in self.aboard.values()}))

    def step(self) -> list[tuple[str, Done]]:
        assert self.aboard, "a step with nothing aboard would wait for ever"
        self.steps += 1
        if self.steps in self.dies_at or any(job.startswith("poison") for job in self.aboard.values()):
            raise EngineDied("killed")
        keys = self.random.sample(sorted(self.aboard), min(self.at_once, len(self.aboard)))
        return [(key, self._result(self.aboard.pop(key))) for key in keys]

    def abort(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.aboard.pop(key, None)

    def close(self) -> None:
        self.running = False
        self.aboard.clear()

    def _result(self, job: str) -> Done:
        if job.startswith("given up"):
            self.given_up[job] += 1
            return Done(job, failed=self.given_up[job] < (2 if "once" in job else 3))
        return Done(job)


def asks(fates: Sequence[str]) -> list[Request]:
    return [Request(f"r{number}", number, prompt=fate) for number, fate in enumerate(fates)]


def answers(feed: Feed, requests: Any) -> list[Reply]:
    return list(feed.answers(iter(requests), Words))


def what_is_due(fate: str) -> str | None:
    """The words in the error, None for an answer."""
    return {
        "unencodable": "cannot be encoded",
        "refused": "will not take it",
        "given up twice": "gave up on it twice",
        "poison": "engine dies of it: killed",
    }.get(fate)


@settings(deadline=None)
@given(
    fates=st.lists(st.sampled_from(FATES), max_size=30),
    in_flight=st.integers(1, 9),
    at_once=st.integers(1, 9),
    restart_every=st.none() | st.integers(1, 10),
    seed=st.integers(0, 9),
)
def test_every_request_is_answered_once_in_order_and_only_the_bad_ones_fail(
    fates: list[str], in_flight: int, at_once: int, restart_every: int | None, seed: int
) -> None:
    backend = Scripted(seed, at_once)
    feed = Feed(backend, max_in_flight=in_flight, restart_every=restart_every)
    requests = asks(fates)
    assume(fates.count("poison") <= 2)  # many in a row look like an engine that never works
    replies = answers(feed, requests)
    assert [reply.id for reply in replies] == [request.id for request in requests]
    for fate, reply in zip(fates, replies, strict=True):
        if fate == "given up twice" and "poison" in fates:
            continue  # a fresh engine is a fresh chance
        due = what_is_due(fate)
        if due is None:
            assert (reply.text, reply.error) == (f"answer to {reply.id}", None)
        else:
            assert due in (reply.error or "")
    assert backend.peak <= in_flight
    assert not backend.aboard
    feed.close()
    assert not backend.running


@settings(deadline=None)
@given(
    count=st.integers(1, 40),
    in_flight=st.integers(1, 16),
    dies_at=st.frozensets(st.integers(1, 30), max_size=3),
    seed=st.integers(0, 9),
)
def test_deaths_that_no_request_caused_cost_no_request(
    count: int, in_flight: int, dies_at: frozenset[int], seed: int
) -> None:
    backend = Scripted(seed, dies_at=dies_at)
    replies = answers(Feed(backend, max_in_flight=in_flight), asks(["well"] * count))
    # One death is forgiven even to a request that was alone; a second one alone is what poison looks like.
    if in_flight > 1 and count > 1 and len(dies_at) == 1:
        assert all(reply.error is None for reply in replies)
    assert [reply.id for reply in replies] == [f"r{number}" for number in range(count)]
    assert max(backend.asked.values()) <= 1 + len(dies_at)


def test_a_death_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    answers(Feed(Scripted(dies_at=frozenset({2})), max_in_flight=4), asks(["well"] * 8))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mmkit: vLLM's engine died (killed): asking a fresh one again about ")


def test_the_search_for_poison_asks_the_others_few_times_again() -> None:
    fates = ["well"] * 256
    fates[100] = "poison"
    backend = Scripted(at_once=64)
    replies = answers(Feed(backend, max_in_flight=256), asks(fates))
    assert [reply.id for reply in replies if reply.error] == ["r100"]
    assert backend.starts <= 8
    assert sum(backend.asked.values()) <= 256 * 3


def test_an_engine_that_does_nothing_but_die_ends_the_run() -> None:
    backend = Scripted(dies_at=frozenset(range(1, 1000)))
    with pytest.raises(UnavailableError, match="died 12 times without an answer: killed"):
        answers(Feed(backend, max_in_flight=8), asks(["well"] * 50))
    assert backend.starts == 12


def test_it_is_restarted_after_so_many_requests_and_loses_none() -> None:
    backend = Scripted()
    feed = Feed(backend, max_in_flight=4, restart_every=10)
    replies = answers(feed, asks(["well"] * 35))
    assert all(reply.error is None for reply in replies)
    assert (backend.starts, feed.num_starts) == (4, 4)
    assert max(backend.asked.values()) == 1


def test_the_engine_stays_full_behind_a_slow_request() -> None:
    class Slow(Scripted):
        """Finishes the first request last."""

        def step(self) -> list[tuple[str, Done]]:
            self.steps += 1
            rest = [key for key in self.aboard if not key.startswith("0.")]
            return [(key, self._result(self.aboard.pop(key))) for key in (rest or list(self.aboard))[:1]]

    backend = Slow()
    read = 0

    def source() -> Iterator[Request]:
        nonlocal read
        for request in asks(["well"] * 100):
            read += 1
            yield request

    stream = Feed(backend, max_in_flight=4).answers(source(), Words)
    next(stream)
    # As many rows as may wait were answered behind the slow one; then, and not before, the engine ran dry.
    assert read == READ_AHEAD * 4
    assert [reply.id for reply in stream] == [f"r{number}" for number in range(1, 100)]


def test_nothing_is_started_for_an_empty_input_nor_read_ahead_without_bound() -> None:
    backend = Scripted(at_once=1)
    assert answers(Feed(backend, max_in_flight=4), []) == []
    assert backend.starts == 0


def test_rows_before_a_broken_input_row_are_answered_first() -> None:
    def source() -> Iterator[Request]:
        yield from asks(["well", "well"])
        raise DataError("in.jsonl:3: invalid JSON")

    stream = Feed(Scripted(), max_in_flight=8).answers(source(), Words)
    assert [next(stream).id, next(stream).id] == ["r0", "r1"]
    with pytest.raises(DataError, match="jsonl:3"):
        next(stream)


def test_a_consumer_that_stops_early_leaves_nothing_in_the_engine() -> None:
    backend = Scripted(at_once=1)
    stream = Feed(backend, max_in_flight=8).answers(iter(asks(["well"] * 50)), Words)
    next(stream)
    assert backend.aboard
    stream.close()  # type: ignore[attr-defined]
    assert not backend.aboard
