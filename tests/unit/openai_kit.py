"""What the tests of the OpenAI engine share."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from mmkit.engines import Reply, Request
from mmkit.engines.openai import OpenAiEngine
from mmkit.testing.server import OpenAiServer


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key and no proxy of whoever runs the tests."""
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def ask(number: int, **fields: Any) -> Request:
    text = {"type": "text", "text": f"row {number}"}
    message = {"role": "user", "content": [text]}
    return Request(id=f"r{number}", position=number, **({"messages": [message]} | fields))


def engine(*servers: OpenAiServer, **options: Any) -> OpenAiEngine:
    return OpenAiEngine("tiny", [server.base_url for server in servers], **({"backoff_s": 0.002} | options))


def one(server: OpenAiServer, **options: Any) -> Reply:
    (reply,) = engine(server, **options).generate([ask(0)])
    return reply


def engine_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("mmkit")]
