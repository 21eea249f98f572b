"""The openai engine and mmkit's commands against real servers: `vllm serve`, and `transformers serve` beside it."""

from __future__ import annotations

import io
import json
import string
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from PIL import Image
from vllm_kit import COLOURS, SERVED_AS, Server, lines, mmkit, vllm_serve

from mmkit.engines import Request, Sampling
from mmkit.engines.openai import OpenAiEngine
from mmkit.engines.transformers import TransformersEngine
from mmkit.errors import UnavailableError
from mmkit.images import LoadedImage, load

GREEDY = Sampling(max_new_tokens=12)
CHOICES = ["yes", "no", "a red circle", "a red square"]
TOO_LONG = "word " * 600


def engine(*servers: Server, model: str = "tiny", **options: Any) -> OpenAiEngine:
    return OpenAiEngine(model, [server.base_url for server in servers], **options)


@pytest.fixture(scope="module")
def reference(tiny_model: Callable[[str], Path]) -> TransformersEngine:
    return TransformersEngine(str(tiny_model("qwen2_vl")), dtype="float32")


def picture(number: int) -> LoadedImage:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 48), (number * 37 % 256, number * 91 % 256, number * 13 % 256)).save(buffer, format="PNG")
    return load({"bytes": buffer.getvalue(), "path": f"{number}.png"})


def ask(number: int, text: str = "What is in the image?", **changes: Any) -> Request:
    """A row with an image, every third without."""
    images = [picture(number)] if number % 3 != 2 else []
    parts = [*[{"type": "image"}] * len(images), {"type": "text", "text": text}]
    request = Request(f"r{number}", number, [{"role": "user", "content": parts}], images, sampling=GREEDY)
    return replace(request, **changes)


def raw(number: int, **changes: Any) -> Request:
    text = "the square is blue " * (1 + number % 3) + "and the circle is"
    return replace(Request(f"r{number}", number, prompt=text, sampling=GREEDY), **changes)


def whole(text: str) -> str:
    """A reply without white space around it, and without a last character that was cut in its middle: a server holds
    the bytes of such a one back."""
    return text.strip().rstrip("\ufffd" + string.whitespace)


# --- the same as transformers


@pytest.mark.parametrize("make", [ask, raw], ids=["messages", "prompts"])
def test_replies_are_those_of_transformers(
    make: Callable[[int], Request], vllm_server: Server, reference: TransformersEngine
) -> None:
    requests = [make(number) for number in range(9)]
    replies = list(engine(vllm_server).generate(requests))
    for ours, theirs in zip(replies, reference.generate(requests), strict=True):
        assert (ours.id, ours.error, ours.truncated) == (theirs.id, None, theirs.truncated)
        assert whole(ours.text) == whole(theirs.text)
        assert ours.usage.prompt_tokens == theirs.usage.prompt_tokens
    assert len({reply.text for reply in replies}) > 2


def test_an_adapter_is_asked_by_its_name(
    vllm_server: Server, tiny_model: Callable[[str], Path], adapter: Path, reference: TransformersEngine
) -> None:
    requests = [ask(number) for number in range(6)]
    tuned = TransformersEngine(str(tiny_model("qwen2_vl")), adapter=str(adapter), dtype="float32")
    expected = [whole(reply.text) for reply in tuned.generate(requests)]
    assert [whole(reply.text) for reply in engine(vllm_server, model="tuned").generate(requests)] == expected
    assert [whole(reply.text) for reply in reference.generate(requests)] != expected


@pytest.mark.parametrize("make", [ask, raw], ids=["messages", "prompts"])
@pytest.mark.parametrize("choices", [["yes", "no"], CHOICES, ["12", "1"]])
def test_choices_have_the_log_probabilities_of_transformers(
    make: Callable[[int], Request], choices: list[str], vllm_server: Server, reference: TransformersEngine
) -> None:
    requests = [make(number) for number in range(6)]
    choices = choices if make is ask else [f" {choice}" for choice in choices]
    asked = engine(vllm_server).choose(requests, choices)
    for ours, theirs in zip(asked, reference.choose(requests, choices), strict=True):
        assert ours.error is None
        assert ours.log_probs == pytest.approx(theirs.log_probs, abs=1e-3)


# --- what cannot be answered


def test_a_row_that_is_too_long_is_one_rejected_row(vllm_server: Server) -> None:
    requests = [ask(0), ask(1, TOO_LONG), ask(2), raw(3, prompt=TOO_LONG), raw(4)]
    replies = list(engine(vllm_server).generate(requests))
    assert [reply.id for reply in replies] == ["r0", "r1", "r2", "r3", "r4"]
    assert [bool(reply.error) for reply in replies] == [False, True, False, True, False]
    assert "maximum context length is 512 tokens" in (replies[1].error or "")
    (first, long, last) = engine(vllm_server).choose(requests[:3], ["yes", "no"])
    assert long.error and not long.log_probs
    assert not first.error and not last.error


def test_a_model_that_the_server_does_not_serve_ends_the_run(vllm_server: Server) -> None:
    with pytest.raises(UnavailableError, match="no-such-model"):
        list(engine(vllm_server, model="no-such-model").generate([ask(0), ask(1)]))


# --- commands


@pytest.fixture(scope="module")
def synthesizer_server(synthesizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server of the synthesizer, for `synthesize` and `filter` alike."""
    server = Server(
        vllm_serve(synthesizer / "syn", "--max-model-len", "2048"), tmp_path_factory.mktemp("shared") / "log"
    )
    try:
        yield server.wait()
    finally:
        server.kill()


def test_synthesize_over_a_server_writes_what_it_writes_here(synthesizer_server: Server, synthesizer: Path) -> None:
    server = ("--engine", "openai", "--model", SERVED_AS, "--base-url", synthesizer_server.base_url)
    local = ("--model", "syn", "--dtype", "float32")
    new = ("--max-new-tokens", "60")
    mmkit(synthesizer, "synthesize", "rows.jsonl", *server, *new, "-o", "served.jsonl", "--rejects", "rejects.jsonl")
    mmkit(synthesizer, "synthesize", "pages.jsonl", *local, *new, "-o", "local.jsonl")
    written = [tasks(synthesizer / name) for name in ("served.jsonl", "local.jsonl")]
    assert written[0] == written[1]
    assert [answer for _, _, answer, _ in written[0]] == list(COLOURS)
    (rejected,) = lines(synthesizer / "rejects.jsonl")
    assert rejected["record"]["id"] == "too long"
    assert "maximum context length" in rejected["reason"]


def tasks(path: Path) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in ("id", "question", "answer", "rationale")) for row in lines(path)]


def test_filter_over_a_server_finds_what_it_finds_here(
    vllm_server: Server, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    example = {"question": "which colour?", "informative": "it is red", "precise": "red"}
    shots = {"instruction": "Judge.", "examples": [example | {"verdict": word} for word in ("yes", "no", "open")]}
    (tmp_path / "shots.json").write_text(json.dumps(shots))
    words = ("a red circle", "blue", "two or three", "the square", "a word, not a number", "yes")
    rows = [
        {"id": f"{i}{j}", "question": "what?", "answer": answer, "rationale": f"it is {reason}"}
        for i, answer in enumerate(words)
        for j, reason in enumerate(words)
    ]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = ("--few-shot", "shots.json", "--keep", "no")  # the tiny judge says yes to all, more surely to some
    server = ("--engine", "openai", "--model", SERVED_AS, "--base-url", vllm_server.base_url)
    local = ("--model", str(tiny_model("qwen2_vl")), "--dtype", "float32")
    for name, options in (("served", server), ("local", local)):
        mmkit(tmp_path, "filter", "tasks.jsonl", *judge, *options, "-o", name, "--dropped", f"{name}.dropped")
    assert (tmp_path / "served").read_bytes() == (tmp_path / "local").read_bytes()
    verdicts = [[row["reason"] for row in lines(tmp_path / f"{name}.dropped")] for name in ("served", "local")]
    assert verdicts[0] == verdicts[1]  # with their probabilities, to three digits
    assert len(set(verdicts[0])) > 5


# --- replicas


def test_a_replica_that_is_killed_loses_no_row_and_is_taken_back(
    vllm_server: Server, start_server: Callable[..., Server]
) -> None:
    def row(number: int) -> Request:
        return raw(number, sampling=Sampling(max_new_tokens=40))

    first = start_server("qwen2_vl").wait()
    served: list[int] = []

    def rows_while_it_dies() -> Iterator[Request]:
        yield from (row(number) for number in range(40))
        served.append(num_answered(first))
        first.kill()  # with requests under way
        yield from (row(number) for number in range(40, 80))
        second = start_server("qwen2_vl", port=first.port).wait()
        for number in range(80, 400):
            if num_answered(second):
                served.append(num_answered(second))
                return
            yield row(number)
            time.sleep(0.1)

    replicas = engine(vllm_server, first, max_in_flight=8, backoff_s=0.1)
    replies = list(replicas.generate(rows_while_it_dies()))
    assert len(served) == 2 and all(served)
    expected = [reply.text for reply in engine(vllm_server).generate(row(number) for number in range(3))]
    for number, reply in enumerate(replies):
        assert (reply.id, reply.text, reply.error) == (f"r{number}", expected[number % 3], None)


def num_answered(server: Server) -> int:
    """How many requests the server has answered, by its own count."""
    with urlopen(server.base_url.removesuffix("/v1") + "/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return round(sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:request_success_total")))


# --- transformers serve


@pytest.fixture(scope="module")
def transformers_server(
    tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """`transformers serve` of the tiny llava, which it serves under the name of its directory."""
    model = str(tiny_model("llava"))
    # It decodes pictures with torchvision where there is one, and the one that is here cannot.
    program = "import sys; sys.modules['torchvision'] = None; from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", program, "serve", model, "--device", "cpu", "--dtype", "float32"]
    server = Server(command, tmp_path_factory.mktemp("transformers") / "log", model=model)
    try:
        yield server.wait()
    finally:
        server.kill()


def test_transformers_serve_answers_messages_with_images(
    transformers_server: Server, tiny_model: Callable[[str], Path]
) -> None:
    requests = [ask(0), ask(2)]
    served = engine(transformers_server, model=transformers_server.model, max_in_flight=1)
    expected = TransformersEngine(str(tiny_model("llava")), dtype="float32").generate(requests)
    for ours, theirs in zip(served.generate(requests), expected, strict=True):
        assert (whole(ours.text), ours.error) == (whole(theirs.text), None)


@pytest.mark.parametrize("request_", [ask(0), raw(0)], ids=["messages", "prompt"])
def test_transformers_serve_tells_no_log_probabilities_so_that_a_choice_is_rejected(
    transformers_server: Server, request_: Request
) -> None:
    served = engine(transformers_server, model=transformers_server.model)
    (choice,) = served.choose([request_], ["yes", "no"])
    assert not choice.log_probs
    assert choice.error is not None and "logprobs" in choice.error
