"""The engine for OpenAI-compatible servers, against a real server on the loopback that misbehaves by script."""

from __future__ import annotations

import base64
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest

from mmkit import images
from mmkit.engines import Reply, Request, Sampling, Turn, Usage
from mmkit.engines.openai import OpenAiEngine
from mmkit.engines.turn_formats import cut_turns
from mmkit.errors import DataError, UnavailableError, UsageError
from mmkit.testing.server import (
    Answer,
    OpenAiServer,
    PlantedModel,
    Received,
    chat,
    completion,
    echo,
    failure,
)

pytestmark = [pytest.mark.loopback, pytest.mark.usefixtures("socket_enabled")]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def ask(number: int, **fields: Any) -> Request:
    text = {"type": "text", "text": f"row {number}"}
    message = {"role": "user", "content": [text]}
    return Request(id=f"r{number}", position=number, **({"messages": [message]} | fields))


def engine(server: OpenAiServer, **options: Any) -> OpenAiEngine:
    return OpenAiEngine("tiny", [server.base_url], **({"backoff_s": 0.002} | options))


def one(server: OpenAiServer, **options: Any) -> Reply:
    (reply,) = engine(server, **options).generate([ask(0)])
    return reply


def engine_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("mmkit")]


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


# --- faults


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
        (Answer(b'{"choices": [{"mess'), "not JSON"),
        (Answer(b""), "(empty body)"),
        (Answer(b"\xff\xfe"), "not JSON"),
        (Answer([1, 2]), "not a JSON object"),
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
        (failure(404, "x" * 5000), "HTTP 404: xxx"),
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
    assert read <= 64
    assert "secret" not in str(info.value)
    assert engine_threads() == []


def test_a_server_that_goes_away_later_rejects_rows_only() -> None:
    with OpenAiServer() as server:
        asked = engine(server, max_retries=1)
        assert [reply.error for reply in asked.generate([ask(0)])] == [None]
    (reply,) = asked.generate([ask(1)])
    assert reply.error is not None
    assert "2 tries" in reply.error


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
        assert one(server).error == "HTTP 401: bad key Bearer ***"
        assert one(server, api_key="sk-given").error == "HTTP 401: bad key Bearer ***"
        sent = [received.headers["Authorization"] for received in server.received]
        assert "sk-" not in repr(vars(engine(server)))
    assert sent == ["Bearer sk-from-environment", "Bearer sk-given"]
    assert "sk-" not in caplog.text
    with pytest.raises(UsageError) as info:
        engine(server, api_key="sk-\u00e9vil")
    assert "vil" not in str(info.value)


def test_a_base_url_that_is_none_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="http://localhost:8000/v1"):
        OpenAiEngine("tiny", ["localhost:8000"])


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


# --- choices

PROMPT = "Is it there?\nAnswer:"


def test_single_token_choices_of_a_prompt_take_one_request_and_are_exact() -> None:
    planted = PlantedModel([" yes", " no", " open", " blue"])
    with OpenAiServer(planted.answer) as server:
        (choice,) = engine(server).choose([ask(0, messages=(), prompt=PROMPT)], [" yes", " no"])
        assert len(server.received) == 1
    assert choice.log_probs == {c: pytest.approx(planted.total(PROMPT, c)) for c in (" yes", " no")}
    assert list(choice.log_probs) == [" yes", " no"]


@pytest.mark.parametrize("begin", ["", "<s>"])
def test_choices_of_unequal_length_are_summed_over_all_their_tokens(begin: str) -> None:
    choices = [" yes", " left lung", " the right lower lobe", " yes, somewhat"]
    planted = PlantedModel([" yes"], begin=begin)
    requests = [ask(n, messages=(), shared_prefix="Examples.\n", prompt=f"Case {n}. {PROMPT}") for n in range(4)]
    with OpenAiServer(planted.answer) as server:
        found = list(engine(server, max_in_flight=3).choose(requests, choices))
        assert server.peak_in_flight <= 3
    for request, choice in zip(requests, found, strict=True):
        truth = {c: pytest.approx(planted.total(f"Examples.\n{request.prompt}", c)) for c in choices}
        assert (choice.id, choice.error, choice.log_probs) == (request.id, None, truth)
        assert choice.usage.prompt_tokens == 7 * 5


def test_a_token_over_the_end_of_the_prompt_is_an_error() -> None:
    planted = PlantedModel([" yes"])
    with OpenAiServer(planted.answer) as server:
        (choice,) = engine(server).choose([ask(0, messages=(), prompt="Answer: ")], ["yes", "no"])
    assert choice.error is not None
    assert "do not line up with choice 'yes'" in choice.error
    assert choice.log_probs == {}


def test_chat_choices_are_read_from_the_first_token() -> None:
    planted = PlantedModel(["Yes", "No", "left", "right", "O"])
    with OpenAiServer(planted.answer) as server:
        (short,) = engine(server).choose([ask(0)], ["Yes", "No"])
        (long,) = engine(server).choose([ask(0)], ["left lung", "right lung"])
        (absent,) = engine(server).choose([ask(0)], ["Yes", "Open"])
        (shared,) = engine(server).choose([ask(0)], ["left lung", "left hip"])
    assert short.log_probs == {c: pytest.approx(planted.total("row 0", c)) for c in ("Yes", "No")}
    assert long.log_probs["left lung"] == pytest.approx(planted.log_prob("row 0", "left"))
    assert absent.error is not None
    assert "choice 'Open' is not among the 5 most probable first tokens" in absent.error
    assert shared.error is not None
    assert "'left lung'" in shared.error


@pytest.mark.parametrize(
    "log_probs",
    [
        None,
        {},
        {"tokens": [" yes"], "token_logprobs": [-1.0]},
        {"tokens": ["Q", " left", " lung"], "token_logprobs": [None, -9999.0, -1.0], "text_offset": [0, 1, 6]},
        {"tokens": ["Q", " left", " lung"], "token_logprobs": [None, None, -1.0], "text_offset": [0, 1, 6]},
        {"tokens": ["Q", " left", " lung"], "token_logprobs": [None, -1.0, -1.0], "text_offset": [0, 2, 7]},
    ],
)
def test_echoed_nonsense_is_an_error_and_never_a_number(log_probs: Any) -> None:
    def answer(received: Received) -> Answer:
        top = {"top_logprobs": [{" yes": -0.1}]}
        body = completion("x").body
        body["choices"][0]["logprobs"] = log_probs if received.body.get("echo") else top
        return Answer(body)

    with OpenAiServer(answer) as server:
        (choice,) = engine(server).choose([ask(0, messages=(), prompt="Q")], [" left lung"])
    assert choice.error
    assert choice.log_probs == {}


def test_a_server_without_log_probabilities_is_said_so() -> None:
    with OpenAiServer() as server:
        (choice,) = engine(server).choose([ask(0)], ["Yes", "No"])
    assert choice.error == "the server's reply holds no logprobs"


@pytest.mark.parametrize("choices", [[], ["a", "a"], ["a", ""]])
def test_choices_that_cannot_be_told_apart_are_refused(choices: list[str]) -> None:
    with OpenAiServer() as server, pytest.raises(ValueError, match="distinct"):
        engine(server).choose([ask(0)], choices)
