"""Batch files: requests as lines, answers looked up again, and both together the same as asking a server."""

from __future__ import annotations

import gzip
import json
import math
import random
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkit import images
from mmkit.engines import Choice, Reply, Request, Sampling
from mmkit.engines.batch_files.answers import BatchAnswers
from mmkit.engines.batch_files.requests import LONGEST_CUSTOM_ID, BatchRequests, custom_id
from mmkit.engines.exchange import Inquiry, ask
from mmkit.engines.openai import OpenAiEngine
from mmkit.errors import DataError, MissingInputError, UnavailableError
from mmkit.streams import Kept, Rejected, Row, Used
from mmkit.testing.batch_runner import run_batch
from mmkit.testing.planted_language import PlantedModel
from mmkit.testing.server import Answer, OpenAiServer, Received, chat, completion, failure

VERDICTS = [" Yes", " No", " Open"]


class Judge(PlantedModel):
    """With so little for each word that the probabilities of all cannot sum to more than 1."""

    def log_prob(self, before: str, token: str) -> float:
        return super().log_prob(before, token) - 3.0


JUDGE = Judge([*VERDICTS, *(f" w{n}" for n in range(10))])
"""Fewer than twenty words, so that all are always listed."""

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(data: bytes, name: str = "answers.jsonl") -> str:
        path = tmp_path / name
        path.write_bytes(data)
        return str(path)

    return put


def chat_request(name: str, text: str = "What is it?", **fields: Any) -> Request:
    message = {"role": "user", "content": [{"type": "text", "text": text}]}
    return Request(id=name, position=0, messages=[message], **fields)


def prompt_request(name: str, text: str, prefix: str = "") -> Request:
    return Request(id=name, position=0, prompt=text, shared_prefix=prefix)


def lines_of(requests: Sequence[Request], choices: Sequence[str] | None = None, model: str = "m") -> list[bytes]:
    """The lines that ask these requests, a row each."""
    inquiry = Inquiry(lambda row: [requests[row.position]], lambda row, answers: row, choices)
    rows = (Row({"id": request.id}, n, "in.jsonl", n + 1) for n, request in enumerate(requests))
    outcomes = list(BatchRequests(inquiry, model)(rows))
    assert all(isinstance(outcome, Kept | Used) for outcome in outcomes)
    return [json.dumps(outcome.row.record).encode() for outcome in outcomes if isinstance(outcome, Kept)]


def replies(paths: Sequence[str], requests: Sequence[Request], model: str = "m") -> list[Reply]:
    answers = BatchAnswers(paths, model)
    try:
        return list(answers.generate(requests))
    finally:
        answers.close()


def chosen(paths: Sequence[str], requests: Sequence[Request]) -> list[Choice]:
    answers = BatchAnswers(paths, "m")
    try:
        return list(answers.choose(requests, VERDICTS))
    finally:
        answers.close()


# --- what stands in a line


def test_a_line_is_what_run_batch_and_batch_services_read() -> None:
    request = chat_request("page-1", sampling=Sampling(max_new_tokens=9, temperature=0.5, top_p=0.9, seed=3))
    (line,) = map(json.loads, lines_of([request], model="qwen"))
    assert set(line) == {"custom_id", "method", "url", "body"}
    assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
    body = line["body"]
    assert body["messages"] == request.messages
    assert {name: body[name] for name in ("model", "max_tokens", "temperature", "top_p")} == {
        "model": "qwen",
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
    }


@pytest.mark.loopback
def test_the_body_is_the_one_that_a_server_gets(socket_enabled: None) -> None:
    picture = images.blank((4, 4))
    look = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Look."}]}
    request = Request("r", 0, [look], [picture], open_turn="user", sampling=Sampling(temperature=1.0))
    with OpenAiServer() as server:
        list(OpenAiEngine("m", [server.base_url]).generate([request]))
    assert json.loads(lines_of([request])[0])["body"] == server.received[0].body


@given(st.text(), st.text())
def test_a_raw_prompt_goes_as_a_chat_whose_template_prints_it_unaltered(prefix: str, text: str) -> None:
    (line,) = map(json.loads, lines_of([prompt_request("r", text, prefix)]))
    body = line["body"]
    assert line["url"] == "/v1/chat/completions"
    assert "prompt" not in body
    assert (body["add_generation_prompt"], body["add_special_tokens"]) == (False, True)
    # As transformers and vLLM set jinja up, for servers that hand a template strings and for those that hand it parts.
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(body["chat_template"])
    (message,) = body["messages"]
    assert template.render(messages=[message], add_generation_prompt=False) == prefix + text
    parts = [{"type": "text", "text": message["content"]}]
    assert template.render(messages=[{"role": "user", "content": parts}]) == prefix + text


def test_to_choose_a_line_asks_for_the_twenty_most_probable_tokens() -> None:
    (line,) = map(json.loads, lines_of([prompt_request("r", "Supported:")], VERDICTS))
    options = {name: line["body"][name] for name in ("max_tokens", "temperature", "logprobs", "top_logprobs")}
    assert options == {"max_tokens": 1, "temperature": 1.0, "logprobs": True, "top_logprobs": 20}


def test_an_adapter_is_the_model_that_a_line_names() -> None:
    asked = [chat_request("page-1"), chat_request("page-1", adapter="red"), chat_request("page-1", adapter="uni")]
    found = [json.loads(line) for line in lines_of(asked)]
    assert [line["body"]["model"] for line in found] == ["m", "red", "uni"]
    assert len({line["custom_id"] for line in found}) == 3
    assert found[1]["custom_id"] == custom_id("red", asked[0], None), "as if that model had been asked alone"


# --- ids


def test_answers_that_were_paid_for_are_found_by_later_versions() -> None:
    # Written down, not computed: a change here orphans every batch that is under way.
    assert custom_id("m", chat_request("page-1"), None) == "page-1-64b49fc7f5211062"
    assert custom_id("m", prompt_request("page-1", "b", "a"), VERDICTS) == "page-1-c8b2b4174f9450ac"


def test_nothing_that_changes_the_answer_leaves_the_id_as_it_was() -> None:
    base = chat_request("r", images=[images.blank((4, 4))], sampling=Sampling(temperature=1.0))
    variants = [
        base,
        replace(base, messages=chat_request("r", "What else?").messages),
        replace(base, images=[images.blank((4, 5))]),
        replace(base, images=[]),
        replace(base, open_turn="user"),
        *(replace(base, sampling=replace(base.sampling, **{name: value})) for name, value in _SAMPLINGS),
        prompt_request("r", "What is it?"),
    ]
    keys = [custom_id("m", request, None) for request in variants]
    keys += [custom_id("m2", base, None), custom_id("m", base, VERDICTS), custom_id("m", base, VERDICTS[:2])]
    assert len(set(keys)) == len(keys)
    assert all(key.startswith("r-") for key in keys)


_SAMPLINGS = [("max_new_tokens", 7), ("temperature", 0.5), ("top_p", 0.5), ("seed", 1)]


@given(st.text(max_size=3) | st.text(min_size=40, max_size=60))
def test_an_id_is_never_longer_than_services_take(name: str) -> None:
    key = custom_id("m", chat_request(name), None)
    assert len(key) <= LONGEST_CUSTOM_ID
    assert key.rpartition("-")[0] == name[: len(key) - 17]


def test_long_ids_that_begin_alike_stay_apart_where_draws_do() -> None:
    sampling = Sampling(temperature=1.0)
    one, other = (chat_request("x" * 100 + end, sampling=sampling) for end in "ab")
    assert custom_id("m", one, None) != custom_id("m", other, None)


# --- the rows of --to-batch


def test_rows_that_ask_the_same_share_a_line_and_are_all_accounted_for() -> None:
    names = ["a", "b", "a", "a"]
    inquiry = Inquiry(lambda row: [chat_request(row.record["id"])], lambda row, answers: row)
    requests = BatchRequests(inquiry, "m")
    outcomes = list(requests(Row({"id": name}, n, "f", n + 1) for n, name in enumerate(names)))
    assert [type(outcome) for outcome in outcomes] == [Kept, Kept, Used, Used]
    assert requests.num_lines == 2


def test_every_sample_of_a_row_is_a_line() -> None:
    sampling = Sampling(temperature=1.0)
    inquiry = Inquiry(lambda row: [chat_request(f"r#{n}", sampling=sampling) for n in range(3)], lambda row, _: row)
    outcomes = list(BatchRequests(inquiry, "m")(iter([Row({"id": "r"}, 0, "f", 1)])))
    bodies = [outcome.row.record["body"] for outcome in outcomes if isinstance(outcome, Kept)]
    assert len({body["seed"] for body in bodies}) == 3


def test_a_row_that_cannot_be_asked_about_is_rejected_alone() -> None:
    def requests(row: Row) -> list[Request]:
        if row.record["id"] == "unaskable":
            raise DataError("no question")
        pictures = [images.blank((4, 4))] if row.record["id"] == "no place for its image" else []
        return [replace(chat_request(row.record["id"]), images=pictures)]

    names = ["fine", "unaskable", "no place for its image", "fine too"]
    rows = (Row({"id": name}, n, "f", n + 1) for n, name in enumerate(names))
    outcomes = list(BatchRequests(Inquiry(requests, lambda row, _: row), "m")(rows))
    assert [type(outcome) for outcome in outcomes] == [Kept, Rejected, Rejected, Kept]
    reasons = [str(outcome.error) for outcome in outcomes if isinstance(outcome, Rejected)]
    assert reasons[0] == "no question"
    assert "cannot be put into a batch: 1 images, more than" in reasons[1]


# --- there and back


TURNS = "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\nred<|im_end|>\n"
ANSWERS: dict[str, Callable[[Received], Answer]] = {
    "echo": lambda received: completion(received.text) if "prompt" in received.body else chat(received.text),
    "turns": lambda received: completion(TURNS) if "prompt" in received.body else chat(TURNS),
    "cut short": lambda received: (
        completion("a", finish_reason="length") if "prompt" in received.body else chat("a", finish_reason="length")
    ),
    "refused": lambda received: failure(400, "the prompt is too long\nby far"),
    "no text": lambda received: Answer({"choices": [{"message": {}}]}),
    "no choices": lambda received: Answer({"choices": []}),
    "200 with an error": lambda received: Answer({"error": {"message": "out of memory"}}),
}


def by_name(received: Received) -> Answer:
    """The answer that the request's own text names."""
    return ANSWERS[received.text.partition(":")[0]](received)


@st.composite
def some_requests(draw: st.DrawFn) -> list[Request]:
    requests = []
    for number in range(draw(st.integers(1, 8))):
        raw = draw(st.booleans())
        # That there is no text is told by the name of the field where it is missing, and that differs.
        names = sorted(ANSWERS.keys() - ({"no text"} if raw else set()))
        text = f"{draw(st.sampled_from(names))}: {draw(st.text(string.printable, max_size=10))}"
        sampling = Sampling(temperature=draw(st.sampled_from([0.0, 1.0])), seed=draw(st.integers(0, 3)))
        if raw:
            requests.append(replace(prompt_request(f"r{number}", text), sampling=sampling))
        else:
            turn = draw(st.sampled_from(["user", "assistant"]))
            requests.append(chat_request(f"r{number}", text, open_turn=turn, sampling=sampling))
    return requests


@pytest.mark.loopback
@given(requests=some_requests(), shape=st.sampled_from(["openai", "vllm"]), order=st.randoms(use_true_random=False))
def test_a_batch_answers_as_a_server_does(
    socket_enabled: None, write: Write, requests: list[Request], shape: Any, order: random.Random
) -> None:
    with OpenAiServer(by_name) as server:
        asked = list(OpenAiEngine("m", [server.base_url]).generate(requests))
    lines = run_batch(lines_of(requests), by_name, shape).splitlines(keepends=True)
    order.shuffle(lines)
    cut = order.randint(0, len(lines))
    paths = [
        write(b"".join(lines[:cut]), "first.jsonl"),
        write(gzip.compress(b"".join(lines[cut:])), "second.jsonl.gz"),
    ]
    assert replies(paths, requests) == asked


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5), st.sampled_from(["openai", "vllm"]))
def test_choices_have_their_true_log_probabilities(write: Write, texts: list[str], shape: Any) -> None:
    requests = [prompt_request(f"r{n}", text, "few shots\n") for n, text in enumerate(texts)]
    found = chosen([write(run_batch(lines_of(requests, VERDICTS), JUDGE.answer, shape))], requests)
    for request, choice in zip(requests, found, strict=True):
        assert choice.error is None
        prompt = request.shared_prefix + (request.prompt or "")
        for verdict in VERDICTS:
            assert math.isclose(choice.log_probs[verdict], JUDGE.total(prompt, verdict))
        assert choice.usage.prompt_tokens == 7


def test_a_choice_that_is_no_whole_token_among_the_listed_is_an_error(write: Write) -> None:
    request = prompt_request("r", "Supported:")
    without_open = Judge([" Yes", " No", " O"])
    (choice,) = chosen([write(run_batch(lines_of([request], VERDICTS), without_open.answer))], [request])
    assert choice.log_probs == {}
    assert choice.error is not None
    assert "choice ' Open' is not among the 3 most probable next tokens" in choice.error
    assert "--engine openai" in choice.error


def test_answers_to_one_kind_of_question_do_not_serve_another(write: Write) -> None:
    request = chat_request("r")
    path = write(run_batch(lines_of([request])))
    (choice,) = chosen([path], [request])
    assert choice.error is not None
    assert "no answer" in choice.error


# --- several answers, and none


def answered(request: Request, answer: Answer) -> bytes:
    return run_batch(lines_of([request]), lambda _: answer)


@given(st.permutations(["old", "new", "failed", "expired"]))
def test_a_success_goes_before_a_failure_and_the_last_before_the_first(write: Write, order: list[str]) -> None:
    request = chat_request("r")
    key = custom_id("m", request, None)
    expired = {"custom_id": key, "response": None, "error": {"code": "batch_expired", "message": "too late"}}
    files = {
        "old": answered(request, chat("old")),
        "new": answered(request, chat("new")),
        "failed": answered(request, failure(500, "broken")),
        "expired": json.dumps(expired).encode() + b"\n",
    }
    paths = [write(files[name], f"{place}.jsonl") for place, name in enumerate(order)]
    (reply,) = replies(paths, [request])
    assert reply.error is None
    assert reply.text == max(("old", "new"), key=order.index)


def test_of_several_failures_the_last_is_told(write: Write) -> None:
    request = chat_request("r")
    path = write(answered(request, failure(500, "first")) + answered(request, failure(429, "second")))
    (reply,) = replies([path], [request])
    assert reply.error == "HTTP 429: second"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"response": None, "error": {"code": "batch_expired", "message": "not in time"}}, "not in time"),
        ({"response": {"status_code": 400, "body": None}, "error": "bad\nurl"}, r"HTTP 400: bad\nurl"),
        (
            {"response": {"status_code": 400, "body": None}, "error": {"error": {"message": "too long", "code": 400}}},
            "HTTP 400: too long",
        ),
        ({"response": {"status_code": 413, "body": {"error": {"message": "too large"}}}}, "HTTP 413: too large"),
        ({"response": {"status_code": 422, "body": {"detail": "no such field"}}}, "HTTP 422: no such field"),
        ({"response": {"status_code": 200, "body": chat("half").body}, "error": {"message": "cancelled"}}, "cancelled"),
        ({"response": {"status_code": 200, "body": {}}, "error": None}, "neither an answer nor an error"),
        ({"response": None, "error": None}, "neither an answer nor an error"),
        ({"response": "yes"}, "neither an answer nor an error"),
    ],
)
def test_a_failed_line_speaks_in_its_own_words(write: Write, fields: dict[str, Any], words: str) -> None:
    request = chat_request("r")
    (reply,) = replies([write(json.dumps({"custom_id": custom_id("m", request, None), **fields}).encode())], [request])
    assert reply.error is not None
    assert words in reply.error
    assert reply.text == ""


def test_a_request_without_an_answer_is_an_error_and_the_others_are_answered(write: Write) -> None:
    requests = [chat_request(name) for name in "abc"]
    path = write(run_batch(lines_of([requests[0], requests[2]])))
    found = replies([path], requests)
    assert [reply.id for reply in found] == ["a", "b", "c"]
    assert [reply.error is None for reply in found] == [True, False, True]
    assert f"no answer to '{custom_id('m', requests[1], None)}' in {path}" in (found[1].error or "")
    assert "another" not in (found[1].error or "")


def test_an_answer_to_another_question_of_that_id_is_pointed_out(write: Write) -> None:
    path = write(run_batch(lines_of([chat_request("r")])))
    (reply,) = replies([path], [chat_request("r", sampling=Sampling(seed=1))])
    assert "one to another prompt, image, model or sampling is there" in (reply.error or "")
    (reply,) = replies([path, *(write(b"", "x" * 200 + str(n)) for n in range(3))], [chat_request("r")], model="other")
    assert "in 4 files" in (reply.error or "")
    assert "one to another prompt, image, model or sampling is there" in (reply.error or "")


def test_a_missing_answer_rejects_its_row_in_the_command_s_words(write: Write) -> None:
    def finish(row: Row, found: Sequence[Reply]) -> Row:
        if found[0].error is not None:
            raise UnavailableError(f"no reply: {found[0].error}")
        return row

    answers = BatchAnswers([write(b"")], "m")
    stage = ask(answers, Inquiry(lambda row: [chat_request(row.record["id"])], finish))
    (outcome,) = stage(iter([Row({"id": "a"}, 0, "f", 1)]))
    answers.close()
    assert isinstance(outcome, Rejected)
    assert "no answer to 'a-" in str(outcome.error)


# --- files


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{oops}", "invalid JSON"),
        (b'{"custom_id": "r-1", "respon', "the last line is torn"),
        (b"[]", 'expected an answer, an object with a string "custom_id"'),
        (b'{"response": {}}', 'expected an answer, an object with a string "custom_id"'),
        (b'{"custom_id": 7, "response": {}}', 'expected an answer, an object with a string "custom_id"'),
        (b'{"custom_id": "r-1"}', 'expected an answer, with "response" or "error"'),
    ],
)
def test_a_line_that_is_no_answer_is_told_with_its_place(write: Write, line: bytes, words: str) -> None:
    good = run_batch(lines_of([chat_request("a")]))
    path = write(good + b"\n" + line)
    with pytest.raises(DataError) as told:
        BatchAnswers([path], "m")
    assert str(told.value).startswith(f"{path}:3: ")
    assert words in str(told.value)


def test_blank_lines_and_the_line_ends_of_windows_are_put_up_with(write: Write) -> None:
    requests = [chat_request(name) for name in "abc"]
    lines = run_batch(lines_of(requests)).splitlines()
    path = write(b"\r\n\n  ".join([b"", *lines, b""]))
    assert [reply.error for reply in replies([path], requests)] == [None] * 3


def test_the_file_of_requests_is_not_taken_for_that_of_answers(write: Write) -> None:
    path = write(b"\n".join(lines_of([chat_request("a")])))
    with pytest.raises(DataError, match="a request, not an answer; name the file that the batch wrote"):
        BatchAnswers([path], "m")


def test_files_that_cannot_be_read_are_named(write: Write, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"nowhere\.jsonl"):
        BatchAnswers([str(tmp_path / "nowhere.jsonl")], "m")
    with pytest.raises(MissingInputError, match="directory"):
        BatchAnswers([str(tmp_path)], "m")
    torn = gzip.compress(random.Random(1).randbytes(5000))[:3000]
    with pytest.raises(DataError, match=r"torn\.gz: the compressed stream is broken or torn"):
        BatchAnswers([write(torn, "torn.gz")], "m")


def test_what_a_run_goes_on_with_is_known_by_its_digest(write: Write) -> None:
    def digest(*paths: str) -> str:
        answers = BatchAnswers(paths, "m")
        answers.close()
        return answers.digest

    one = run_batch(lines_of([chat_request("a")]))
    assert digest(write(one, "1")) == digest(write(gzip.compress(one), "2.gz"))
    assert digest(write(one, "1")) != digest(write(one + answered(chat_request("a"), chat("new")), "3"))


def test_answers_are_read_when_they_are_asked_for(write: Write, tmp_path: Path) -> None:
    import tracemalloc

    requests = [chat_request(f"r{n}") for n in range(200)]
    path = write(run_batch(lines_of(requests), lambda received: chat("x" * 100_000)))
    tracemalloc.start()
    answers = BatchAnswers([path], "m")
    held, _ = tracemalloc.get_traced_memory()
    lengths = {len(reply.text) for reply in answers.generate(requests)}
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    answers.close()
    assert lengths == {100_000}
    assert (tmp_path / "answers.jsonl").stat().st_size > 20_000_000
    assert max(held, peak) < 5_000_000


def test_requests_are_looked_up_one_by_one_as_they_come(write: Write) -> None:
    requests = [chat_request(name) for name in "ab"]
    answers = BatchAnswers([write(run_batch(lines_of(requests)))], "m")

    def one_and_no_more() -> Iterator[Request]:
        yield requests[0]
        raise AssertionError("read ahead")

    assert next(answers.generate(one_and_no_more())).text == "What is it?"
    answers.close()
