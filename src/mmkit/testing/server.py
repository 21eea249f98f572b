"""A real OpenAI-compatible HTTP server on the loopback interface whose answers and faults are scripted."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Received:
    """One request as the server got it. `at_s` is a monotonic clock."""

    path: str
    body: dict[str, Any]
    headers: Mapping[str, str]
    at_s: float

    @property
    def text(self) -> str:
        """The last message's text parts joined, or the prompt."""
        if "prompt" in self.body:
            return str(self.body["prompt"])
        content = self.body["messages"][-1]["content"]
        if isinstance(content, str):
            return content
        return "".join(part["text"] for part in content if part["type"] == "text")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server does with one request: a body (JSON unless bytes) after `delay_s` seconds.

    `breaks_off` resets the connection: "before" anything is sent or in the "middle" of the body. `chunked` does not say
    beforehand how long the body is.
    """

    body: Any = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    breaks_off: str | None = None
    chunked: bool = False


def completed(choice: dict[str, Any], tokens: tuple[int, int] = (7, 3)) -> dict[str, Any]:
    """The body of an answer with one choice."""
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    return {"id": "cmpl-1", "object": "completion", "choices": [{"index": 0, **choice}], "usage": usage}


def chat(text: str | None, *, finish_reason: str = "stop", tokens: tuple[int, int] = (7, 3)) -> Answer:
    """A chat completion; `tokens` are those of the prompt and of the completion."""
    message = {"role": "assistant", "content": text}
    return Answer(completed({"message": message, "finish_reason": finish_reason}, tokens))


def completion(text: str, *, finish_reason: str = "stop", tokens: tuple[int, int] = (7, 3)) -> Answer:
    """A raw completion."""
    return Answer(completed({"text": text, "finish_reason": finish_reason}, tokens))


def failure(status: int, message: str = "scripted failure", **headers: str) -> Answer:
    """An error in OpenAI's shape. Underscores in header names stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer({"error": {"message": message, "type": "scripted"}}, status, named)


def echo(received: Received) -> Answer:
    """The request's own text, so that a test can tell which reply belongs to which request."""
    return completion(received.text) if "prompt" in received.body else chat(received.text)


class OpenAiServer:
    """Answers with `answer`, after the scripted `faults` are used up, one a request in order of arrival.

    A context manager. `received` lists the requests, `peak_in_flight` is the largest number open at one time. Who asks
    for the models gets `models`, names or a whole answer; `num_probes` counts it.
    """

    def __init__(
        self,
        answer: Callable[[Received], Answer] = echo,
        faults: Iterable[Answer | None] = (),
        *,
        models: Sequence[str] | Answer = ("tiny",),
        port: int = 0,
    ) -> None:
        self.received: list[Received] = []
        self.num_probes = 0
        self.peak_in_flight = 0
        self._models = models
        self._answer = answer
        self._faults = iter(faults)
        self._in_flight = 0
        self._lock = threading.Lock()
        self._server = _Server(self, port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def base_url(self) -> str:
        """Where an engine finds it."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> OpenAiServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()

    def arrive(self, received: Received) -> Answer:
        """Count a request in and decide its answer. Called by the server's own threads."""
        with self._lock:
            self.received.append(received)
            self._in_flight += 1
            self.peak_in_flight = max(self.peak_in_flight, self._in_flight)
            fault = next(self._faults, None)
        return fault or self._answer(received)

    def leave(self) -> None:
        """Count a request out."""
        with self._lock:
            self._in_flight -= 1

    def list_models(self) -> Answer:
        """Answer who asks for the models. Called by the server's own threads."""
        self.num_probes += 1
        if isinstance(self._models, Answer):
            return self._models
        return Answer({"object": "list", "data": [{"id": name, "object": "model"} for name in self._models]})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, owner: OpenAiServer, port: int) -> None:
        self.owner = owner
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is part of the tests, and nothing to write about."""

    def hang_up(self) -> None:
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        self._send(self.server.owner.list_models())

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        received = Received(self.path, orjson.loads(data), dict(self.headers), time.monotonic())
        answer = self.server.owner.arrive(received)
        try:
            time.sleep(answer.delay_s)
        finally:
            self.server.owner.leave()
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        body = answer.body if isinstance(answer.body, bytes) else orjson.dumps(answer.body)
        if answer.breaks_off != "before":
            self.send_response(answer.status)
            for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                self.send_header(name, value)
            if answer.chunked:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for part in (*_parts(body), memoryview(b"")):
                    self.wfile.writelines((b"%x\r\n" % len(part), part, b"\r\n"))
            else:
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if answer.breaks_off else body)
        if answer.breaks_off:
            # With no time to linger, closing resets the connection.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: stderr belongs to the test."""


def _parts(body: bytes) -> Iterator[memoryview]:
    for first in range(0, len(body), 1 << 16):
        yield memoryview(body)[first : first + (1 << 16)]
