"""Several servers that share the work: one that fails is left out and taken back, and no row notices."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_kit import ask, engine, engine_threads, plain_environment  # noqa: F401

from mmkit.engines import Reply, Request
from mmkit.engines.openai import OpenAiEngine
from mmkit.errors import UnavailableError
from mmkit.testing.server import Answer, OpenAiServer, Received, chat, echo, failure

pytestmark = [pytest.mark.loopback, pytest.mark.usefixtures("socket_enabled")]


def rows(count: int) -> Iterator[Request]:
    return (ask(number) for number in range(count))


def right(replies: list[Reply], count: int) -> bool:
    return [(r.id, r.text, r.error) for r in replies] == [(f"r{n}", f"row {n}", None) for n in range(count)]


def slowly(seconds: float) -> object:
    return lambda received: Answer(echo(received).body, delay_s=seconds)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- sharing


def test_replicas_share_the_work_evenly_and_the_limit() -> None:
    with OpenAiServer(slowly(0.02)) as one, OpenAiServer(slowly(0.02)) as two:
        assert right(list(engine(one, two, max_in_flight=6).generate(rows(60))), 60)
        counts = [len(one.received), len(two.received)]
        peaks = [one.peak_in_flight, two.peak_in_flight]
    assert sum(counts) == 60
    assert min(counts) >= 20
    assert max(peaks) <= 4
    assert sum(peaks) <= 7  # 3 and 3, and one more for a moment where both end at once


def test_a_fast_replica_gets_more_than_a_slow_one() -> None:
    with OpenAiServer(slowly(0.3)) as slow, OpenAiServer(slowly(0.005)) as fast:
        assert right(list(engine(slow, fast, max_in_flight=4).generate(rows(80))), 80)
        assert len(fast.received) > 2 * len(slow.received)


def test_one_request_at_a_time_goes_round() -> None:
    with OpenAiServer() as one, OpenAiServer() as two, OpenAiServer() as three:
        assert right(list(engine(one, two, three, max_in_flight=1).generate(rows(12))), 12)
        assert [len(each.received) for each in (one, two, three)] == [4, 4, 4]


# --- one that fails


def test_a_replica_that_cannot_be_connected_to_costs_no_row_a_try_and_is_said_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    port = free_port()
    with OpenAiServer() as good:
        urls = [f"http://me:secret@127.0.0.1:{port}/v1", good.base_url]
        asked = OpenAiEngine("tiny", urls, max_retries=0, max_in_flight=8)
        assert right(list(asked.generate(rows(50))), 50)
        assert right(list(asked.generate(rows(50))), 50)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"mmkit: http://127.0.0.1:{port}/v1: ")
    assert said.endswith("going on without it until it answers again\n")
    assert engine_threads() == []


def test_when_none_can_be_connected_to_the_run_stops_at_once() -> None:
    urls = [f"http://127.0.0.1:{free_port()}/v1" for _ in range(2)]
    with pytest.raises(UnavailableError, match=rf"cannot connect to {urls[0]}, {urls[1]} .*check that the server"):
        list(OpenAiEngine("tiny", urls, max_retries=2, backoff_s=0.002).generate(rows(1000)))
    assert engine_threads() == []


@pytest.mark.parametrize("fault", [failure(500), failure(502), Answer(b'{"choi'), Answer(breaks_off="before")])
def test_a_replica_that_fails_every_request_is_left_out_though_it_fails_fast(fault: Answer) -> None:
    with OpenAiServer(lambda _: fault) as bad, OpenAiServer(slowly(0.01)) as good:
        replies = list(engine(bad, good, max_in_flight=4, max_retries=3, backoff_s=0.1).generate(rows(60)))
        assert right(replies, 60)
        # Three strikes, those under way meanwhile, and a few trials; each of the 60 rows comes by here otherwise.
        assert len(bad.received) <= 20


def test_a_row_that_one_replica_fails_goes_to_another_though_that_has_more_to_do() -> None:
    def answer(received: Received) -> Answer:
        return failure(500) if int(received.text.split()[1]) % 3 == 2 else echo(received)

    with OpenAiServer(answer) as idle, OpenAiServer(slowly(0.05)) as busy:
        assert right(list(engine(idle, busy, max_in_flight=4, max_retries=1).generate(rows(60))), 60)
        assert sum(int(received.text.split()[1]) % 3 == 2 for received in idle.received) >= 3


def test_a_replica_that_hangs_is_left_out() -> None:
    with OpenAiServer(slowly(3)) as hanging, OpenAiServer() as good:
        asked = engine(hanging, good, max_in_flight=4, timeout_s=0.6, max_retries=2, backoff_s=0.5)
        started = time.monotonic()
        assert right(list(asked.generate(rows(200))), 200)
        assert time.monotonic() - started < 20
        assert len(hanging.received) <= 12


def test_429_pauses_the_replica_that_says_it_and_no_other() -> None:
    # The other is slow enough to have rows left when the pause is over, on the fastest machine.
    with OpenAiServer(faults=[failure(429, Retry_After="0.6")]) as limited, OpenAiServer(slowly(0.04)) as other:
        started = time.monotonic()
        assert right(list(engine(limited, other, max_in_flight=2).generate(rows(100))), 100)
        first, second = limited.received[:2]
        within = [received for received in other.received if received.at_s < first.at_s + 0.6]
    assert second.at_s - first.at_s >= 0.6
    assert len(within) > 4
    assert time.monotonic() - started < 20


def test_429_from_all_replicas_is_waited_for() -> None:
    limit = failure(429, Retry_After="0.3")
    with OpenAiServer(faults=[limit] * 3) as one, OpenAiServer(faults=[limit] * 3) as two:
        # Rows that have not been sent wait too. Three limits a server, and each costs a row half a try at most.
        assert right(list(engine(one, two, max_in_flight=3, max_retries=3).generate(rows(20))), 20)
        arrivals = sorted(received.at_s for received in one.received + two.received)
    assert sum(at_s < arrivals[0] + 0.3 for at_s in arrivals) <= 6


def test_rows_that_have_not_been_sent_wait_while_every_replica_asks_to_be_left_alone() -> None:
    limit = failure(429, Retry_After="1.5")
    slow = slowly(0.05)
    with OpenAiServer(slow, [limit]) as one, OpenAiServer(slow, [None, None, None, None, limit]) as two:
        assert right(list(engine(one, two, max_in_flight=4, max_retries=1).generate(rows(40))), 40)
        begins, ends = two.received[4].at_s, one.received[0].at_s + 1.5
        assert begins < ends - 0.3
        # The other three may just have gone off.
        assert sum(begins < each.at_s < ends for each in one.received + two.received) <= 3


def test_a_replica_out_of_quota_for_a_day_is_left_out() -> None:
    spent = failure(429, "quota", Retry_After="86400")
    with OpenAiServer(lambda _: spent) as poor, OpenAiServer() as good:
        assert right(list(engine(poor, good, max_in_flight=2, backoff_s=0.5).generate(rows(50))), 50)
        assert len(poor.received) <= 10  # two, and a trial for each half second of a slow machine


def test_a_replica_with_another_model_is_left_out_once_the_run_is_under_way(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = threading.Event()

    def answer(received: Received) -> Answer:
        return failure(404, "no such model") if wrong.is_set() else echo(received)

    with OpenAiServer(answer) as changed, OpenAiServer() as good:
        stream = engine(changed, good, max_in_flight=2, backoff_s=0.5).generate(rows(60))
        replies = [next(stream) for _ in range(10)]
        wrong.set()
        assert right([*replies, *stream], 60)
    assert "HTTP 404: no such model: going on without it" in capsys.readouterr().err


def test_a_row_that_breaks_every_replica_is_rejected_and_the_others_are_not() -> None:
    def answer(received: Received) -> Answer:
        return Answer(breaks_off="before") if received.text == "row 3" else echo(received)

    with OpenAiServer(answer) as one, OpenAiServer(answer) as two:
        replies = list(engine(one, two, max_in_flight=4, max_retries=4).generate(rows(30)))
        assert sum(received.text == "row 3" for received in one.received + two.received) == 5
    assert [reply.id for reply in replies if reply.error] == ["r3"]
    assert "(5 tries)" in str(replies[3].error)
    assert [reply.id for reply in replies] == [f"r{n}" for n in range(30)]


def test_when_all_have_gone_rows_are_rejected_after_their_tries() -> None:
    with OpenAiServer() as one, OpenAiServer() as two:
        asked = engine(one, two, max_retries=2)
        assert right(list(asked.generate(rows(4))), 4)
    replies = list(asked.generate(rows(4)))
    assert [reply.id for reply in replies] == ["r0", "r1", "r2", "r3"]
    assert all("(3 tries)" in str(reply.error) for reply in replies)


# --- taken back


class Process:
    """A server in a process of its own, on a port that stays the same."""

    SCRIPT = """
import sys, time
from mmkit.testing.server import Answer, OpenAiServer, echo
with OpenAiServer(lambda received: Answer(echo(received).body, delay_s=0.02), port=int(sys.argv[1])):
    time.sleep(600)
"""

    def __init__(self) -> None:
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}/v1"

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Up and answering; killed, as by kill -9, at the end."""
        process = subprocess.Popen([sys.executable, "-c", self.SCRIPT, str(self.port)])
        try:
            self._wait_until_it_answers()
            yield process
        finally:
            process.kill()
            process.wait()

    def _wait_until_it_answers(self) -> None:
        for _ in range(200):
            try:
                httpx.get(self.base_url + "/models", trust_env=False)
            except httpx.ConnectError:
                time.sleep(0.05)
            else:
                return
        raise RuntimeError("the server does not come up")


def test_a_replica_that_is_killed_costs_no_row_and_is_taken_back(capsys: pytest.CaptureFixture[str]) -> None:
    process = Process()
    with OpenAiServer(slowly(0.02)) as steady:
        asked = OpenAiEngine("tiny", [process.base_url, steady.base_url], max_in_flight=8, max_retries=2, backoff_s=0.1)
        go_on = threading.Event()

        def until_told() -> Iterator[Request]:
            number = 0
            while not go_on.is_set() or number % 100:
                yield ask(number)
                number += 1

        stream = asked.generate(until_told())
        with process.running() as first:
            replies = [next(stream) for _ in range(100)]
            first.kill()  # with requests under way
            replies += [next(stream) for _ in range(100)]
        assert "going on without it" in capsys.readouterr().err
        with process.running():
            said = ""
            for reply in stream:
                replies.append(reply)
                said += capsys.readouterr().err
                if f"{process.base_url} answers again" in said:
                    go_on.set()
        assert right(replies, len(replies))
        assert len(steady.received) < len(replies)


def test_a_replica_that_comes_back_broken_is_tried_with_one_request_at_a_time() -> None:
    """It lists its models, as one does whose engine has died behind its web server."""
    with (
        OpenAiServer(lambda _: Answer(failure(500).body, 500, delay_s=0.05)) as bad,
        OpenAiServer(slowly(0.01)) as good,
    ):
        asked = engine(bad, good, max_in_flight=8, max_retries=3, backoff_s=0.02)
        assert right(list(asked.generate(rows(300))), 300)
        starts = [received.at_s for received in bad.received]
    trials = [start for start in starts if start > starts[0] + 0.06]  # those before had not seen a failure
    assert len(trials) >= 2
    assert len(trials) <= bad.num_probes <= len(trials) + 1  # each trial is preceded by a sign of life
    assert all(later - earlier > 0.05 for earlier, later in itertools.pairwise(trials))


@pytest.mark.parametrize(("status", "back"), [(500, True), (404, True), (401, True), (503, False), (502, False)])
def test_what_a_server_says_of_its_models_tells_whether_it_is_alive(status: int, back: bool) -> None:
    broken = [Answer(breaks_off="before")] * 3
    with (
        OpenAiServer(slowly(0.002), broken, models=failure(status)) as one,
        OpenAiServer(slowly(0.01)) as good,
    ):
        assert right(list(engine(one, good, max_in_flight=1, max_retries=5, backoff_s=0.01).generate(rows(60))), 60)
        assert one.num_probes >= 1
        assert (len(one.received) > len(broken)) == back


def test_a_stream_that_ends_does_not_wait_for_a_sign_of_life() -> None:
    def hang() -> None:
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", port))
            deaf.listen()
            done.wait(20)

    port, done = free_port(), threading.Event()
    with OpenAiServer(slowly(0.01)) as good:
        asked = OpenAiEngine("tiny", [f"http://127.0.0.1:{port}/v1", good.base_url], backoff_s=0.01, max_in_flight=2)
        stream = asked.generate(rows(300))
        next(stream)
        deaf = threading.Thread(target=hang)
        deaf.start()
        for _ in range(100):
            next(stream)
        started = time.monotonic()
        stream.close()  # type: ignore[attr-defined]
        assert time.monotonic() - started < 2
        done.set()
        deaf.join()
    assert engine_threads() == []


# --- whatever happens

_OTHERS = Answer(chat("somebody else's").body | {"id": f"chatcmpl-mmkit-{0:032x}"})
PASSING = [
    None,
    failure(429),
    failure(429, Retry_After="0.02"),
    failure(500),
    failure(502),
    failure(503, Retry_After="0.01"),
    Answer(chat("half").body, breaks_off="before"),
    Answer(chat("half").body, breaks_off="middle"),
    Answer(b'{"choices": [{"message": {"con'),
    Answer({"error": {"code": 503, "message": "the model is loading"}}),
    _OTHERS,
    Answer(chat("late").body, delay_s=0.4),
]
LASTING = [
    failure(400, "a bad image"),
    failure(429, "quota", Retry_After="86400"),
    Answer({"error": {"message": "overlong"}}),
    Answer(b"x" * 10_000_000),
    chat(None),
]


def answered(scripts: list[list[Answer | None]], num_rows: int, max_in_flight: int, max_retries: int) -> list[Reply]:
    with ExitStack() as stack:
        servers = [stack.enter_context(OpenAiServer(faults=script)) for script in scripts]
        options = {"max_in_flight": max_in_flight, "max_retries": max_retries, "timeout_s": 0.25, "backoff_s": 0.0005}
        return list(engine(*servers, **options).generate(rows(num_rows)))


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.sampled_from([*PASSING, *LASTING]), max_size=12), min_size=1, max_size=3),
    st.integers(1, 25),
    st.integers(1, 8),
    st.integers(0, 4),
)
def test_every_request_has_one_reply_in_order_which_is_its_own_or_an_error(
    scripts: list[list[Answer | None]], num_rows: int, max_in_flight: int, max_retries: int
) -> None:
    replies = answered(scripts, num_rows, max_in_flight, max_retries)
    assert [reply.id for reply in replies] == [f"r{number}" for number in range(num_rows)]
    for number, reply in enumerate(replies):
        assert (reply.text == f"row {number}") != bool(reply.error)


@settings(max_examples=15)
@given(
    st.lists(st.lists(st.sampled_from(PASSING), max_size=4), min_size=1, max_size=3),
    st.integers(1, 25),
    st.integers(1, 8),
)
def test_faults_that_pass_cost_no_row(scripts: list[list[Answer | None]], num_rows: int, max_in_flight: int) -> None:
    assert right(answered(scripts, num_rows, max_in_flight, max_retries=30), num_rows)
