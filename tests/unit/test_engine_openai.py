"""The engine for OpenAI-compatible servers, against a real one on the loopback: streaming, and what is sent."""

from __future__ import annotations

import base64
import random
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from openai_kit import ask, engine, engine_threads, one, plain_environment  # noqa: F401

from mmkit import images
from mmkit.engines import Request, Sampling, Turn, Usage
from mmkit.engines.openai import OpenAiEngine
from mmkit.engines.openai.turn_formats import cut_turns
from mmkit.errors import DataError, UnavailableError, UsageError
from mmkit.testing.server import (
    Answer,
    OpenAiServer,
    Received,
    chat,
    echo,
    failure,
)

pytestmark = [pytest.mark.loopback, pytest.mark.usefixtures("socket_enabled")]


# --- streaming


def test_replies_keep_input_order_under_random_delays() -> None:
    delays = random.Random(5)

    def slow_echo(received: Received) -> Answer:
        return Answer(echo(received).body, delay_s=delays.uniform(0, 0.03))

    with OpenAiServer(slow_echo) as server:
        replies = list(engine(server, max_in_flight=8).generate(ask(n) for n in range(60)))
    assert [reply.text for reply in replies] == [f"row {n}" for n in range(60)]
    assert [reply.id for reply in replies] == [f"r{n}" for n in range(60)]


def test_at_most_so_many_requests_are_open_and_twice_as_many_rows_read() -> None:
    read = 0

    def rows() -> Iterator[Request]:
        nonlocal read
        for number in range(100):
            read += 1
            yield ask(number)

    with OpenAiServer(lambda received: Answer(echo(received).body, delay_s=0.01)) as server:
        ahead = []
        for done, _ in enumerate(engine(server, max_in_flight=4).generate(rows())):
            ahead.append(read - done)
        assert server.peak_in_flight == 4
    assert max(ahead) <= 8


def test_a_slow_first_reply_does_not_stop_the_rows_behind_it() -> None:
    def answer(received: Received) -> Answer:
        return Answer(echo(received).body, delay_s=0.3 if received.text == "row 0" else 0.0)

    with OpenAiServer(answer) as server:
        stream = engine(server, max_in_flight=4).generate(ask(n) for n in range(20))
        assert next(stream).id == "r0"
        assert len(server.received) >= 8
        assert [reply.id for reply in stream] == [f"r{n}" for n in range(1, 20)]


def test_a_ready_reply_does_not_wait_for_input_that_has_not_come() -> None:
    go_on = threading.Event()

    def rows() -> Iterator[Request]:
        yield ask(0)
        yield ask(1)
        time.sleep(0.2)
        yield ask(2)
        assert go_on.wait(10)
        yield ask(3)

    with OpenAiServer() as server:
        stream = engine(server).generate(rows())
        assert next(stream).id == "r0"
        go_on.set()
        assert len(list(stream)) == 3


def test_rows_before_a_broken_input_row_are_answered_first() -> None:
    def rows() -> Iterator[Request]:
        yield ask(0)
        yield ask(1)
        raise DataError("in.jsonl:3: invalid JSON")

    with OpenAiServer() as server:
        stream = engine(server).generate(rows())
        assert [next(stream).id, next(stream).id] == ["r0", "r1"]
        with pytest.raises(DataError, match="jsonl:3"):
            next(stream)
    assert engine_threads() == []


def test_a_consumer_that_stops_early_leaves_nothing_behind() -> None:
    with OpenAiServer(lambda received: Answer(echo(received).body, delay_s=0.05)) as server:
        stream = engine(server, max_in_flight=4).generate(ask(n) for n in range(1000))
        next(stream)
        assert engine_threads() != []
        stream.close()  # type: ignore[attr-defined]
        assert engine_threads() == []
        seen = len(server.received)
        time.sleep(0.15)
        assert len(server.received) == seen


def test_stopping_early_does_not_wait_for_the_answers_under_way() -> None:
    def answer(received: Received) -> Answer:
        return Answer(echo(received).body, delay_s=0.0 if received.text == "row 0" else 3.0)

    with OpenAiServer(answer) as server:
        stream = engine(server).generate(ask(n) for n in range(1000))
        next(stream)
        start = time.monotonic()
        stream.close()  # type: ignore[attr-defined]
        assert time.monotonic() - start < 2


def test_closing_the_engine_ends_a_stream_left_open() -> None:
    with OpenAiServer() as server:
        asked = engine(server)
        stream = asked.generate(ask(n) for n in range(1000))
        next(stream)
        asked.close()
        assert engine_threads() == []
        del stream


# --- what is sent


def test_the_body_carries_messages_images_and_sampling() -> None:
    picture = images.blank((4, 4))
    content = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b <image>"}]
    messages = [{"role": "system", "content": "short"}, {"role": "user", "content": content}]
    sampling = Sampling(max_new_tokens=9, temperature=0.7, top_p=0.9, seed=3)
    with OpenAiServer() as server:
        request = ask(0, messages=messages, images=[picture], sampling=sampling)
        (reply,) = engine(server).generate([request])
        body = server.received[0].body
    assert reply.usage == Usage(7, 0, 3)
    assert server.received[0].path == "/v1/chat/completions"
    assert body["messages"][0] == {"role": "system", "content": "short"}
    sent = body["messages"][1]["content"]
    assert [part["type"] for part in sent] == ["text", "image_url", "text"]
    assert base64.b64decode(sent[1]["image_url"]["url"].partition(",")[2]) == picture.data
    assert (body["model"], body["max_tokens"], body["temperature"], body["top_p"]) == ("tiny", 9, 0.7, 0.9)


def test_equal_prompts_of_two_rows_have_two_seeds_that_stay() -> None:
    def seeds() -> list[int]:
        with OpenAiServer() as server:
            list(engine(server, max_in_flight=1).generate([ask(1), ask(2)]))
            return [received.body["seed"] for received in server.received]

    first = seeds()
    assert len(set(first)) == 2
    assert first == seeds()


def test_a_prompt_goes_to_completions_behind_its_prefix() -> None:
    with OpenAiServer() as server:
        (reply,) = engine(server).generate([ask(0, messages=(), prompt="Q: b", shared_prefix="Q: a\n")])
        assert server.received[0].path == "/v1/completions"
    assert reply.text == "Q: a\nQ: b"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"images": [images.blank((2, 2))]}, "1 images, more than"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "more images than there are"),
        ({"messages": (), "prompt": "x", "images": [images.blank((2, 2))]}, "takes no images"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "cannot be written as JSON"),
    ],
)
def test_a_request_that_cannot_be_sent_is_an_error_of_its_row(fields: dict[str, Any], words: str) -> None:
    with OpenAiServer() as server:
        bad, good = engine(server).generate([ask(0, **fields), ask(1)])
        assert len(server.received) == 1
    assert bad.error is not None
    assert words in bad.error
    assert good.text == "row 1"


def test_the_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-environment\n")
    with OpenAiServer(lambda r: failure(401, "bad key " + r.headers["Authorization"])) as server:
        for key in (None, "sk-given"):
            with pytest.raises(UnavailableError, match=r"\(HTTP 401: bad key Bearer \*\*\*\)"):
                one(server, api_key=key)
        sent = [received.headers["Authorization"] for received in server.received]
        assert "sk-" not in repr(vars(engine(server)))
    assert sent == ["Bearer sk-from-environment", "Bearer sk-given"]
    assert "sk-" not in caplog.text
    with pytest.raises(UsageError) as info:
        engine(server, api_key="sk-\u00e9vil")
    assert "vil" not in str(info.value)


@pytest.mark.parametrize("base_url", ["localhost:8000", "http://", "http://localhost:nowhere/v1", "ftp://localhost/v1"])
def test_a_base_url_that_is_none_is_a_usage_error(base_url: str) -> None:
    with pytest.raises(UsageError, match="http://localhost:8000/v1"):
        OpenAiEngine("tiny", [base_url])


@pytest.mark.parametrize("base_urls", [[], "http://localhost:8000/v1"])
def test_base_urls_are_a_list_of_one_or_more(base_urls: Any) -> None:
    with pytest.raises(UsageError, match="list of one or more"):
        OpenAiEngine("tiny", base_urls)


def test_one_server_given_twice_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="http://LOCALHOST/v1 is given twice"):
        OpenAiEngine("tiny", ["http://localhost:80/v1/", "http://me:secret@other/v1", "http://LOCALHOST/v1"])


def test_a_missing_client_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(UnavailableError, match=r"pip install 'mmkit\[openai\]'"):
        OpenAiEngine("tiny", ["http://localhost:8000/v1"])


# --- conversations that the model writes itself

WRITTEN = {
    "chatml": "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\nA cat.<|im_end|>\n",
    "llama3": "<|start_header_id|>user<|end_header_id|>\n\nWhat?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nA cat.<|eot_id|>",
    "gemma": "<start_of_turn>user\nWhat?<end_of_turn>\n<start_of_turn>model\nA cat.<end_of_turn>\n",
    "phi3": "<|user|>\nWhat?<|end|>\n<|assistant|>\nA cat.<|end|>\n",
    "idefics3": "User: What?<end_of_utterance>\nAssistant: A cat.<end_of_utterance>\n",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_turns_are_cut_by_the_format_that_occurs(name: str) -> None:
    turns = (Turn("user", "What?"), Turn("assistant", "A cat."))
    assert cut_turns(WRITTEN[name], ended=False) == turns
    assert cut_turns(WRITTEN[name] + "<|endoftext|>" + WRITTEN[name], ended=False) == turns


@pytest.mark.parametrize(
    ("text", "ended", "expected"),
    [
        ("no marker at all", True, None),
        ("<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\nA c", False, ["What?"]),
        ("<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\nA c", True, ["What?", "A c"]),
        ("<|im_start|>user\n \n<|im_end|>\n<|im_start|>assistant\nto nothing<|im_end|>", True, []),
        ("<|im_start|>tool\nx<|im_end|>" + WRITTEN["chatml"], True, ["What?", "A cat."]),
        ("<|im_start|>user\na<|image_pad|>b<|im_end|><|im_start|>assistant\nc<|im_end|>", True, []),
        (
            "<|im_start|>user\nopen<|im_start|>assistant\norphan<|im_end|>" + WRITTEN["chatml"],
            True,
            ["What?", "A cat."],
        ),
    ],
)
def test_unfinished_and_hostile_turns_are_dropped(text: str, ended: bool, expected: list[str] | None) -> None:
    turns = cut_turns(text, ended=ended)
    assert (turns if turns is None else [turn.text for turn in turns]) == expected


def test_an_open_user_turn_comes_back_as_turns() -> None:
    answers = [chat(WRITTEN["chatml"]), chat(WRITTEN["llama3"][:-20], finish_reason="length"), chat("plain text")]
    with OpenAiServer(faults=answers) as server:
        requests = [ask(n, open_turn="user") for n in range(3)]
        whole, cut, plain = engine(server, max_in_flight=1).generate(requests)
        body = server.received[0].body
    assert (body["add_generation_prompt"], body["skip_special_tokens"], body["ignore_eos"]) == (False, False, True)
    assert whole.turns == (Turn("user", "What?"), Turn("assistant", "A cat."))
    assert not whole.truncated
    assert cut.turns == (Turn("user", "What?"),)
    assert cut.truncated
    assert plain.error is not None
    assert "chatml, llama3" in plain.error
