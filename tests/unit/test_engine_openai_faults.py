"""What the engine makes of a server that misbehaves: no row lost, none doubled, order kept."""

from __future__ import annotations

import gzip
import random
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate

import pytest
from openai_kit import ask, engine, engine_threads, one, plain_environment  # noqa: F401

from mmkit.engines import Request
from mmkit.engines.openai import OpenAiEngine
from mmkit.errors import UnavailableError
from mmkit.testing.server import Answer, OpenAiServer, Received, chat, echo, failure

pytestmark = [pytest.mark.loopback, pytest.mark.usefixtures("socket_enabled")]


def test_429_waits_as_long_as_the_server_asks() -> None:
    with OpenAiServer(faults=[failure(429, Retry_After="0.4")]) as server:
        assert one(server).error is None
        first, second = server.received
    assert 0.4 <= second.at_s - first.at_s < 2


def test_retry_after_may_be_a_date() -> None:
    with OpenAiServer(faults=[failure(503, Retry_After=formatdate(time.time() + 2, usegmt=True))]) as server:
        assert one(server).error is None
        first, second = server.received
    assert 0.9 <= second.at_s - first.at_s < 4


def test_a_server_that_asks_for_a_day_gets_no_second_try() -> None:
    with OpenAiServer(faults=[failure(429, "quota", Retry_After="86400")]) as server:
        assert one(server).error == "HTTP 429: quota (asks to wait 86400 s)"


def test_500_then_success() -> None:
    with OpenAiServer(faults=[failure(500), failure(502)]) as server:
        assert one(server).text == "row 0"
        assert len(server.received) == 3


def test_failures_that_stay_become_an_error_that_counts_the_tries() -> None:
    with OpenAiServer(lambda _: failure(500, "out of memory")) as server:
        reply = one(server, max_retries=2)
        assert len(server.received) == 3
    assert (reply.text, reply.error) == ("", "HTTP 500: out of memory (3 tries)")


def test_a_deadline_is_retried_then_said() -> None:
    with OpenAiServer(faults=[Answer(chat("late").body, delay_s=0.6)] * 2) as server:
        assert one(server, timeout_s=0.15, max_retries=1).error == "no answer within 0.15 s (2 tries)"
    with OpenAiServer(faults=[Answer(chat("late").body, delay_s=0.6)]) as server:
        assert one(server, timeout_s=0.15).text == "row 0"


@pytest.mark.parametrize("where", ["before", "middle"])
def test_a_reset_connection_is_retried(where: str) -> None:
    with OpenAiServer(faults=[Answer(chat("half").body, breaks_off=where)]) as server:
        assert one(server).text == "row 0"
        assert len(server.received) == 2


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer({"error": {"message": "model is loading"}}), "model is loading"),
        (Answer({"object": "error", "message": "too long"}), "too long"),
        (Answer({"id": "x"}), "no choices"),
        (Answer({"choices": []}), "no choices"),
        (Answer({"choices": ["text"]}), "no choices"),
        (Answer({"choices": [{"message": "text"}]}), "no message"),
        (Answer({"choices": [{"message": {"content": 5}}]}), "content: 5"),
        (chat(None, finish_reason="length"), "finish_reason: 'length'"),
        (Answer({"choices": [{"message": {"content": None, "refusal": "I cannot."}}]}), "refused: I cannot."),
        (failure(400, "bad \x1b[31m\nimage"), "HTTP 400: bad \\x1b[31m\\nimage"),
        (failure(413, "x" * 5000), "HTTP 413: xxx"),
        (Answer(b"<html>moved</html>", status=301, headers={"Location": "http://192.0.2.1/"}), "HTTP 301"),
    ],
)
def test_nonsense_is_an_error_and_not_asked_again(answer: Answer, words: str) -> None:
    with OpenAiServer(lambda _: answer) as server:
        reply = one(server)
        assert len(server.received) == 1
    assert reply.error is not None
    assert words in reply.error
    assert reply.error.isprintable()
    assert len(reply.error) < 400


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(b'{"choices": [{"mess'), "not JSON"),
        (Answer(b""), "(empty body)"),
        (Answer(b"\xff\xfe"), "not JSON"),
        (Answer([1, 2]), "not a JSON object"),
        (Answer({"error": {"code": 502, "message": "the provider hung up"}}), "the provider hung up"),
        (Answer({"object": "error", "code": 429, "message": "slowly"}), "slowly"),
    ],
)
def test_a_broken_answer_is_asked_for_again(answer: Answer, words: str) -> None:
    with OpenAiServer(faults=[answer] * 2) as server:
        assert one(server).text == "row 0"
        assert len(server.received) == 3
    with OpenAiServer(lambda _: answer) as server:
        error = one(server, max_retries=1).error
        assert len(server.received) == 2
    assert error is not None
    assert words in error
    assert error.endswith("(2 tries)")


def test_every_try_carries_an_id_of_its_own() -> None:
    with OpenAiServer(faults=[failure(500)]) as server:
        list(engine(server).generate([ask(0), ask(1)]))
        ids = [received.headers["X-Request-Id"] for received in server.received]
    assert len(set(ids)) == 3


@pytest.mark.parametrize("place", ["the header", "the id"])
def test_an_answer_to_another_request_is_asked_for_again(place: str) -> None:
    """Where the server gives the request's id back, as vLLM does within `id`, or in a header if told to."""
    mixed_up: list[str] = []

    def answer(received: Received) -> Answer:
        good = echo(received)
        own = received.headers["X-Request-Id"]
        if len(mixed_up) < 10:
            mixed_up.append(own)
            own, good = f"mmkit-{0:032x}", chat("somebody else's")
        headers = {"X-Request-Id": own if place == "the header" else "made-by-a-proxy"}
        return Answer(good.body | {"id": f"chatcmpl-{own}" if place == "the id" else "chatcmpl-1"}, headers=headers)

    with OpenAiServer(answer) as server:
        replies = list(engine(server, max_in_flight=4).generate(ask(number) for number in range(20)))
    assert [reply.text for reply in replies] == [f"row {number}" for number in range(20)]
    with OpenAiServer(lambda _: Answer(chat("x").body | {"id": f"chatcmpl-mmkit-{0:032x}"})) as server:
        assert one(server, max_retries=1).error == "the server's reply belongs to another request (2 tries)"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_of_100_mb_is_an_error_and_not_kept_in_memory(chunked: bool, status: int) -> None:
    whole = b'{"choices": [{"message": {"content": "' + b"x" * 100_000_000 + b'"}}]}'

    def answer(received: Received) -> Answer:
        return Answer(whole, status, chunked=chunked) if received.text == "row 1" else echo(received)

    with OpenAiServer(answer) as server:
        asked = engine(server, max_in_flight=1, max_retries=0)
        tracemalloc.start()
        try:
            first, big, last = asked.generate(ask(number) for number in range(3))
            assert tracemalloc.get_traced_memory()[1] < 20_000_000
        finally:
            tracemalloc.stop()
    assert big.error == "the server's reply is longer than 8 MiB"
    assert (first.text, last.text) == ("row 0", "row 2")


def test_an_answer_just_below_the_bound_is_read() -> None:
    with OpenAiServer(lambda _: chat("x" * 8_000_000)) as server:
        assert len(one(server).text) == 8_000_000


def test_a_compressed_answer_is_refused_before_it_is_unpacked() -> None:
    bomb = gzip.compress(b"0" * 50_000_000)
    with OpenAiServer(lambda _: Answer(bomb, headers={"Content-Encoding": "gzip"})) as server:
        assert one(server).error == "the server sends gzip although it was asked not to compress"
        assert server.received[0].headers["Accept-Encoding"] == "identity"


# --- what tells of the run and not of a row


def test_a_model_that_the_server_does_not_have_stops_the_run() -> None:
    denial = failure(404, "The model `tiny` does not exist.")
    with OpenAiServer(lambda _: denial, models=["large", "small"]) as server:
        with pytest.raises(UnavailableError) as info:
            list(engine(server).generate(ask(number) for number in range(1000)))
        assert len(server.received) <= 320  # those under way, and what had time to follow
    assert str(info.value) == (
        f"{server.base_url} has no model 'tiny' (HTTP 404: The model `tiny` does not exist.); it has: 'large', 'small'"
    )


def test_an_adapter_that_the_server_does_not_have_is_the_one_that_is_named() -> None:
    denial = failure(404, "The model `red` does not exist.")
    with OpenAiServer(lambda _: denial, models=["tiny", "uni"]) as server:
        with pytest.raises(UnavailableError, match=r"has no model 'red' .* it has: 'tiny', 'uni'"):
            list(engine(server).generate([replace(ask(0), adapter="red")]))
        assert server.received[0].body["model"] == "red"


def test_a_path_that_the_server_does_not_have_stops_the_run() -> None:
    words = r"HTTP 404: Not Found .* model 'tiny': .* often ends in /v1"
    with OpenAiServer(lambda _: failure(404, "Not Found"), models=failure(404, "Not Found")) as server:
        with pytest.raises(UnavailableError, match=words):
            one(server)
        assert server.num_probes == 1


@pytest.mark.parametrize(("key", "words"), [(None, "wants a key: set OPENAI_API_KEY"), ("sk-1", "refuses the key")])
def test_a_wrong_key_stops_the_run(key: str | None, words: str) -> None:
    with OpenAiServer(lambda _: failure(401, "Unauthorized")) as server:
        with pytest.raises(UnavailableError, match=words):
            list(engine(server, api_key=key).generate(ask(number) for number in range(1000)))
        assert len(server.received) <= 320  # those under way, and what had time to follow


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_denial_later_on_rejects_its_row_alone(status: int) -> None:
    def answer(received: Received) -> Answer:
        return failure(status, "no") if received.text == "row 1" else echo(received)

    with OpenAiServer(answer) as server:
        replies = list(engine(server, max_in_flight=1).generate(ask(number) for number in range(3)))
    assert [reply.error for reply in replies] == [None, f"HTTP {status}: no", None]


def test_a_first_row_that_a_service_forbids_for_what_it_says_is_rejected_alone() -> None:
    def answer(received: Received) -> Answer:
        return failure(403, "flagged") if received.text == "row 0" else echo(received)

    with OpenAiServer(answer) as server:
        replies = list(engine(server, max_in_flight=1).generate([ask(0), ask(1)]))
    assert [reply.error for reply in replies] == ["HTTP 403: flagged", None]
    with (
        OpenAiServer(answer, models=failure(404, "Not Found")) as server,
        pytest.raises(UnavailableError, match="wants a key"),
    ):
        one(server)


def test_an_endpoint_that_is_down_stops_the_run_at_once() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    read = 0

    def rows() -> Iterator[Request]:
        nonlocal read
        for number in range(10_000):
            read += 1
            yield ask(number)

    down = OpenAiEngine("tiny", [f"http://me:secret@127.0.0.1:{port}/v1/"], max_retries=2, backoff_s=0.002)
    with pytest.raises(UnavailableError, match=rf"http://127.0.0.1:{port}/v1 .*check that the server") as info:
        list(down.generate(rows()))
    assert read <= 1000
    assert "secret" not in str(info.value)
    assert engine_threads() == []


def test_a_server_that_goes_away_later_rejects_rows_only() -> None:
    with OpenAiServer() as server:
        asked = engine(server, max_retries=1)
        assert [reply.error for reply in asked.generate([ask(0)])] == [None]
    (reply,) = asked.generate([ask(1)])
    assert reply.error is not None
    assert "2 tries" in reply.error


def test_no_row_is_lost_or_doubled_under_random_faults() -> None:
    dice = random.Random(11)
    lock = threading.Lock()

    def moody(received: Received) -> Answer:
        with lock:
            roll = dice.random()
        good = echo(received)
        if roll < 0.08:
            return failure(429, Retry_After="0.01")
        if roll < 0.16:
            return failure(503)
        if roll < 0.22:
            return Answer(good.body, breaks_off="before")
        if roll < 0.28:
            return Answer(good.body, breaks_off="middle")
        return Answer(good.body, delay_s=0.02 * roll * (roll > 0.8))

    with OpenAiServer(moody) as server:
        replies = list(engine(server, max_in_flight=16, max_retries=12).generate(ask(n) for n in range(300)))
        assert len(server.received) > 330
    assert [(r.id, r.text, r.error) for r in replies] == [(f"r{n}", f"row {n}", None) for n in range(300)]
