"""The request cache: nothing is asked twice, order holds, and neither kill -9 nor other writers can harm it."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mmkit import images
from mmkit.engines import Choice, Reply, Request, Sampling, Turn, Usage
from mmkit.engines.cache import LOOK_AHEAD, CachedEngine
from mmkit.engines.meter import Metered
from mmkit.engines.openai import OpenAiEngine
from mmkit.engines.reply_store import FILE_NAME, ReplyStore
from mmkit.errors import DataError, UnavailableError
from mmkit.testing.server import Answer, OpenAiServer, echo, failure


class Recorder:
    """An engine that reads `ahead` requests before it answers, counts, and can fail; the reply names the request."""

    def __init__(self, ahead: int = 1, failing: Sequence[str] = (), model: str = "m") -> None:
        self.window = ahead
        self.model = model
        self.asked: list[str] = []
        self.streams = 0
        self._failing = failing

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        self.streams += 1
        for request in self._read(requests):
            error = "scripted" if request.id in self._failing else None
            turns = (Turn("user", "q"), Turn("assistant", "ä"))
            yield Reply(request.id, f"to {request.prompt}", turns, True, Usage(1, 2, 3), error)

    def choose(self, requests: Iterable[Request], choices: Sequence[str]) -> Iterator[Choice]:
        for request in self._read(requests):
            yield Choice(request.id, {choice: -float(len(choice)) for choice in choices}, Usage(5))

    def close(self) -> None:
        pass

    def _read(self, requests: Iterable[Request]) -> Iterator[Request]:
        batch: list[Request] = []
        for request in requests:
            self.asked.append(request.id)
            batch.append(request)
            if len(batch) == self.window:
                yield from batch
                batch = []
        yield from batch


def rows(numbers: Iterable[int]) -> list[Request]:
    return [Request(id=f"r{n}", position=n, prompt=f"text {n}") for n in numbers]


def expected(numbers: Iterable[int]) -> list[tuple[str, str]]:
    return [(f"r{n}", f"to text {n}") for n in numbers]


def answers(engine: CachedEngine, numbers: Iterable[int]) -> list[tuple[str, str]]:
    return [(reply.id, reply.text) for reply in engine.generate(rows(numbers))]


def test_a_stored_reply_comes_back_whole_under_the_new_id(tmp_path: Path) -> None:
    (new,) = CachedEngine(Recorder(), tmp_path).generate(rows([1]))
    again = dataclasses.replace(rows([1])[0], id="other", position=9)
    inner = Recorder()
    engine = CachedEngine(inner, tmp_path)
    (stored,) = engine.generate([again])
    assert stored == dataclasses.replace(new, id="other")
    assert (inner.asked, engine.hits, engine.misses) == ([], 1, 0)
    engine.close()


@pytest.mark.parametrize("ahead", [1, 3, 64])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_order_holds_while_found_and_missing_interleave(tmp_path: Path, ahead: int, share: float) -> None:
    dice = random.Random(f"{ahead} {share}")
    known = [n for n in range(200) if dice.random() < share]
    answers(CachedEngine(Recorder(), tmp_path), known)
    inner = Recorder(ahead)
    engine = CachedEngine(inner, tmp_path)
    assert answers(engine, range(200)) == expected(range(200))
    assert inner.asked == [f"r{n}" for n in range(200) if n not in known]
    assert inner.streams <= 1
    assert engine.window == ahead


def test_found_answers_behind_a_slow_one_are_bounded(tmp_path: Path) -> None:
    many = 3 * LOOK_AHEAD
    answers(CachedEngine(Recorder(), tmp_path), range(1, many))
    inner = Recorder(ahead=8)
    read = 0

    def source() -> Iterator[Request]:
        nonlocal read
        for request in rows(range(many)):
            read += 1
            yield request

    stream = CachedEngine(inner, tmp_path).generate(source())
    assert next(stream).id == "r0"
    assert read <= LOOK_AHEAD + 1
    assert [reply.id for reply in stream] == [f"r{n}" for n in range(1, many)]


def test_found_answers_start_no_engine(tmp_path: Path) -> None:
    answers(CachedEngine(Recorder(), tmp_path), range(5))
    inner = Recorder()
    assert answers(CachedEngine(inner, tmp_path), range(5)) == expected(range(5))
    assert inner.streams == 0


def test_errors_are_asked_again(tmp_path: Path) -> None:
    replies = list(CachedEngine(Recorder(failing=["r1"]), tmp_path).generate(rows(range(3))))
    assert [reply.error for reply in replies] == [None, "scripted", None]
    inner = Recorder()
    assert answers(CachedEngine(inner, tmp_path), range(3)) == expected(range(3))
    assert inner.asked == ["r1"]


def test_a_row_that_comes_again_later_in_the_run_is_found(tmp_path: Path) -> None:
    inner = Recorder()
    assert answers(CachedEngine(inner, tmp_path), [1, 2, 1]) == expected([1, 2, 1])
    assert inner.asked == ["r1", "r2"]


def test_rows_before_a_broken_input_row_are_answered_and_kept(tmp_path: Path) -> None:
    def source() -> Iterator[Request]:
        yield from rows(range(3))
        raise DataError("in.jsonl:4: invalid JSON")

    stream = CachedEngine(Recorder(ahead=8), tmp_path).generate(source())
    assert [next(stream).id for _ in range(3)] == ["r0", "r1", "r2"]
    with pytest.raises(DataError, match="jsonl:4"):
        next(stream)
    inner = Recorder()
    answers(CachedEngine(inner, tmp_path), range(3))
    assert inner.asked == []


def test_an_engine_that_leaves_rows_out_is_noticed(tmp_path: Path) -> None:
    class Forgetful(Recorder):
        def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
            yield from list(super().generate(requests))[:-1]

    with pytest.raises(RuntimeError, match="1 requests without a reply"):
        list(CachedEngine(Forgetful(), tmp_path).generate(rows(range(3))))


def test_choices_are_kept_by_their_list(tmp_path: Path) -> None:
    def scores(choices: list[str]) -> tuple[dict[str, float], int]:
        inner = Recorder()
        (choice,) = CachedEngine(inner, tmp_path).choose(rows([1]), choices)
        return dict(choice.log_probs), len(inner.asked)

    assert scores(["Yes", "No"]) == ({"Yes": -3.0, "No": -2.0}, 1)
    assert scores(["Yes", "No"]) == ({"Yes": -3.0, "No": -2.0}, 0)
    assert scores(["Yes", "Open"]) == ({"Yes": -3.0, "Open": -4.0}, 1)


BASE = Request(
    id="a",
    position=0,
    messages=[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "x"}]}],
    images=[images.blank((2, 2))],
    sampling=Sampling(temperature=0.0),
)
WARM = dataclasses.replace(BASE, sampling=Sampling(temperature=0.5))


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        (BASE, dataclasses.replace(BASE, id="b", position=7), True),
        (BASE, dataclasses.replace(BASE, images=[images.blank((2, 2))]), True),
        (BASE, dataclasses.replace(BASE, images=[images.blank((2, 3))]), False),
        (BASE, dataclasses.replace(BASE, images=[]), False),
        (BASE, dataclasses.replace(BASE, messages=[{"role": "user", "content": "x"}]), False),
        (BASE, dataclasses.replace(BASE, open_turn="user"), False),
        (BASE, dataclasses.replace(BASE, prompt=""), False),
        (BASE, dataclasses.replace(BASE, shared_prefix="p"), False),
        (BASE, dataclasses.replace(BASE, sampling=Sampling(max_new_tokens=9)), False),
        (BASE, dataclasses.replace(BASE, sampling=Sampling(seed=1)), False),
        (BASE, dataclasses.replace(BASE, sampling=Sampling(top_p=0.5)), False),
        (BASE, WARM, False),
        (WARM, dataclasses.replace(WARM, position=7), True),
        (WARM, dataclasses.replace(WARM, id="b"), False),
    ],
)
def test_the_key_holds_all_that_a_reply_depends_on(
    tmp_path: Path, first: Request, second: Request, found: bool
) -> None:
    list(CachedEngine(Recorder(), tmp_path).generate([first]))
    inner = Recorder()
    list(CachedEngine(inner, tmp_path).generate([second]))
    assert (inner.asked == []) is found


def make_adapter(folder: Path, weights: bytes) -> str:
    """An adapter directory with these weights, of a fixed time."""
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text("{}")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        if name.endswith("safetensors"):
            (folder / name).write_bytes(weights)
        os.utime(folder / name, (10, 10))
    return str(folder)


def test_a_reply_belongs_to_the_adapter_that_gave_it(tmp_path: Path) -> None:
    one, two = make_adapter(tmp_path / "one", b"1"), make_adapter(tmp_path / "two", b"2")
    asked = [dataclasses.replace(rows([1])[0], id=name, adapter=name) for name in ("", one, two)]

    def missing(requests: list[Request], **options: str) -> list[str]:
        inner = Recorder()
        list(CachedEngine(inner, tmp_path / "cache", **options).generate(requests))
        return inner.asked

    assert missing(asked) == ["", one, two]
    assert missing(asked) == []
    assert missing(rows([1]), adapter=two) == [], "merged or switched to, it is the same adapter"
    (tmp_path / "one" / "predictions.jsonl").write_text("not the adapter's")
    assert missing(asked) == []
    make_adapter(tmp_path / "one", b"3")
    assert missing(asked) == [one], "other weights under the same name, of the same size and time"
    assert missing(rows([1]), adapter=one) == []
    make_adapter(tmp_path / "one", b"1")
    assert missing(asked) == []


def test_an_adapter_that_a_server_has_is_known_by_name(tmp_path: Path) -> None:
    asked = [dataclasses.replace(rows([1])[0], id=name, adapter=name) for name in ("red", "uni")]
    for expected_asked in (["red", "uni"], []):
        inner = Recorder()
        list(CachedEngine(inner, tmp_path).generate(asked))
        assert inner.asked == expected_asked


def test_another_model_or_the_same_directory_trained_again_is_asked(tmp_path: Path) -> None:
    model = tmp_path / "tuned"
    model.mkdir()
    weights = model / "model.safetensors"
    weights.write_bytes(b"one")

    def num_asked(name: str) -> int:
        inner = Recorder(model=name)
        answers(CachedEngine(inner, tmp_path / "cache"), [1])
        return len(inner.asked)

    assert [num_asked("m"), num_asked("m"), num_asked("n")] == [1, 0, 1]
    assert [num_asked(str(model)), num_asked(str(model))] == [1, 0]
    weights.write_bytes(b"two")
    os.utime(weights, (1, 1))
    assert num_asked(str(model)) == 1


def test_text_that_json_finds_hard_can_be_asked(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "\ud800", "meta": 2**70}]
    request = Request(id="a", position=0, messages=messages)
    for _ in range(2):
        (reply,) = CachedEngine(Recorder(), tmp_path).generate([request])
        assert reply.error is None


def test_a_file_that_is_no_cache_is_said_so(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"not a database, " * 100)
    with pytest.raises(DataError, match=FILE_NAME):
        answers(CachedEngine(Recorder(), tmp_path), [1])
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UnavailableError, match="cache directory"):
        answers(CachedEngine(Recorder(), tmp_path / "file" / "cache"), [1])


WRITER = """
import sys
from mmkit.engines.reply_store import ReplyStore
name, directory = sys.argv[1], sys.argv[2]
store = ReplyStore(directory)
for number in range(200):
    store.put(f"{name} {number}".encode(), b"x" * 500)
    store.put(f"shared {number}".encode(), name.encode())
"""


def test_processes_that_start_together_write_one_cache(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER]
    writers = [subprocess.Popen([*command, str(n), str(tmp_path)]) for n in range(5)]
    assert [writer.wait(60) for writer in writers] == [0] * 5
    store = ReplyStore(tmp_path)
    assert all(store.get(f"{n} {number}".encode()) for n in range(5) for number in range(200))
    assert all(store.get(f"shared {number}".encode()) for number in range(200))
    store.close()


ASKER = """
import sys
from mmkit.engines import Request
from mmkit.engines.cache import CachedEngine
from mmkit.engines.meter import Metered
from mmkit.engines.openai import OpenAiEngine
engine = CachedEngine(OpenAiEngine("tiny", [sys.argv[1]], max_in_flight=4), sys.argv[2])
for reply in engine.generate(Request(id=f"r{n}", position=n, prompt=f"text {n}") for n in range(120)):
    sys.stdout.write(f"{reply.id} {reply.text}\\n")
    sys.stdout.flush()
"""


@pytest.fixture
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.loopback
@pytest.mark.usefixtures("socket_enabled", "_plain_environment")
def test_killed_runs_go_on_and_ask_nothing_again_that_was_answered_and_stored(tmp_path: Path) -> None:
    whole = [f"r{n} text {n}\n" for n in range(120)]
    with OpenAiServer(lambda received: Answer(echo(received).body, delay_s=0.005)) as server:
        command = [sys.executable, "-c", ASKER, server.base_url, str(tmp_path)]
        stored = 0
        for after in (1, 37, 80):
            seen = len(server.received)
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
                assert run.stdout is not None
                assert [run.stdout.readline() for _ in range(after)] == whole[:after]
                run.send_signal(signal.SIGKILL)
            time.sleep(0.05)
            asked = {received.text for received in server.received[seen:]}
            assert asked.isdisjoint(f"text {n}" for n in range(stored))
            stored = after  # what was printed had been stored before
        # A kill loses at most the rows under way, which are asked for once more.
        for _ in range(2):
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
            assert done.stdout == "".join(whole)
        assert len({received.text for received in server.received}) == 120
        assert len(server.received) <= 120 + 3 * 2 * 4


@pytest.mark.loopback
@pytest.mark.usefixtures("socket_enabled", "_plain_environment")
def test_a_rerun_makes_no_request_and_costs_nothing(tmp_path: Path) -> None:
    def run(engine: Callable[[], OpenAiEngine]) -> tuple[list[Any], int]:
        meter = Metered(engine())
        cached = CachedEngine(meter, tmp_path)
        replies = list(cached.generate(rows(range(50))))
        cached.close()
        return replies, meter.prompt_tokens + meter.completion_tokens

    with OpenAiServer(faults=[failure(400)]) as server:

        def engine() -> OpenAiEngine:
            return OpenAiEngine("tiny", [server.base_url], max_in_flight=1)

        first, tokens = run(engine)
        assert first[0].error is not None
        assert tokens > 0
        second, _ = run(engine)
        assert len(server.received) == 51
        assert second[1:] == first[1:]
        third, tokens = run(engine)
        assert len(server.received) == 51
        assert (third, tokens) == (second, 0)
