"""Commands that ask one or several servers, from the command line and from mmkit.toml."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from cli_kit import ENVIRONMENT, Mmkit

from mmkit.testing.server import OpenAiServer, failure

pytestmark = [pytest.mark.loopback, pytest.mark.usefixtures("socket_enabled")]

ROWS = [{"id": f"r{number}", "question": f"What is {number}?"} for number in range(40)]
OPENAI = ["--engine", "openai", "--model", "tiny"]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delitem(ENVIRONMENT, name, raising=False)


def predicted(out: bytes) -> list[tuple[str, bool]]:
    rows = [json.loads(line) for line in out.splitlines()]
    return [(row["id"], row["question"] in row["prediction"]) for row in rows]


def test_servers_from_the_command_line_share_the_work(mmkit: Mmkit, write: Any) -> None:
    write("in.jsonl", ROWS)
    with OpenAiServer() as one, OpenAiServer() as two:
        done = mmkit("predict", "in.jsonl", *OPENAI, "--base-url", one.base_url, "--base-url", two.base_url)
        counts = [len(one.received), len(two.received)]
    assert done.code == 0, done.err
    assert predicted(done.out) == [(row["id"], True) for row in ROWS]
    assert sum(counts) == len(ROWS)
    assert min(counts) > 0


@pytest.mark.parametrize("as_list", [False, True])
def test_mmkit_toml_names_one_server_or_several(mmkit: Mmkit, write: Any, tmp_path: Path, as_list: bool) -> None:
    write("in.jsonl", ROWS)
    with OpenAiServer() as one, OpenAiServer() as two:
        value = json.dumps([one.base_url, two.base_url] if as_list else one.base_url)
        (tmp_path / "mmkit.toml").write_text(f'engine = "openai"\nmodel = "tiny"\nbase_url = {value}\n')
        done = mmkit("predict", "in.jsonl")
        assert bool(two.received) == as_list
    assert done.code == 0, done.err
    assert predicted(done.out) == [(row["id"], True) for row in ROWS]


def test_a_server_that_is_down_is_told_once_and_costs_no_row(mmkit: Mmkit, write: Any) -> None:
    write("in.jsonl", ROWS)
    with socket.socket() as taken, OpenAiServer() as good:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        down = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        done = mmkit("predict", "in.jsonl", *OPENAI, "--base-url", down, "--base-url", good.base_url, "--retries", "0")
    assert done.code == 0, done.err
    assert predicted(done.out) == [(row["id"], True) for row in ROWS]
    assert done.err.count(down) == 1
    assert "going on without it until it answers again" in done.err


@pytest.mark.parametrize(
    ("status", "words"), [(401, "wants a key: set OPENAI_API_KEY"), (404, "has no model 'tiny'"), (403, "wants a key")]
)
def test_a_denial_of_the_first_request_stops_the_run(mmkit: Mmkit, write: Any, status: int, words: str) -> None:
    write("in.jsonl", ROWS)
    models = None if status == 403 else ["another"]
    with OpenAiServer(lambda _: failure(status, "no"), models=models) as server:
        done = mmkit("predict", "in.jsonl", *OPENAI, "--base-url", server.base_url, "--rejects", "bad.jsonl")
    assert done.code == 69, done.err
    assert done.out == b""
    assert done.err.startswith("mmkit predict: ")
    assert words in done.err
    assert done.err.count("\n") == 1


def test_one_server_given_twice_is_a_mistake(mmkit: Mmkit, write: Any) -> None:
    write("in.jsonl", ROWS)
    urls = ["--base-url", "http://127.0.0.1:9/v1", "--base-url", "http://127.0.0.1:9/v1/"]
    done = mmkit("predict", "in.jsonl", *OPENAI, *urls)
    assert done.code == 2
    assert "base URL http://127.0.0.1:9/v1 is given twice" in done.err
