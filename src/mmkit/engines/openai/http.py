"""One exchange with one OpenAI-compatible server: deadline, bounded size, and words for what went wrong."""

from __future__ import annotations

import asyncio
import random
import re
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import orjson

from mmkit import __version__
from mmkit.errors import UsageError

if TYPE_CHECKING:
    import httpx

LONGEST_PAUSE_S = 600.0
"""A server that asks for a longer pause than this (seconds) gets no further try."""

MAX_ANSWER_BYTES = 8 << 20
"""Largest answer that is read. The log-probabilities of an echoed prompt of 60,000 tokens fit."""

_ANSWERS_WITHIN_S = 10.0
_SHOWN_CHARACTERS = 300
_OWN_ID = re.compile(r"mmkit-[0-9a-f]{32}")


class RequestFailed(Exception):  # noqa: N818 - an outcome of one row, not an error of the program
    """This request has no usable answer; the message goes into the reply's `error`.

    `refused`: the server would say the same to the same request again.
    """

    def __init__(self, words: str, *, refused: bool = False) -> None:
        super().__init__(words)
        self.refused = refused


@dataclass(frozen=True, slots=True)
class Failure:
    """What became of a try that brought no answer.

    `retry`: another try may do better. `pause_s`: how long the server asks to be left alone. `status`: of the HTTP
    answer, where there was one. `unreached`: there was no connection, so the server has seen nothing of the request.
    """

    words: str
    retry: bool = True
    pause_s: float | None = None
    status: int | None = None
    unreached: bool = False

    @property
    def busy(self) -> bool:
        """Whether the server asks for fewer requests."""
        return self.status == 429 or self.pause_s is not None


@dataclass(slots=True)
class Server:
    """Where requests go. `api_key` is in no message. Raises UsageError for a URL or a key that cannot be one."""

    base_url: str
    api_key: str | None = field(repr=False)
    timeout_s: float
    _urls: dict[str, httpx.URL] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        import httpx

        self.base_url = self.base_url.strip().rstrip("/")
        try:
            usable = re.match(r"https?://[^/\s]+", self.base_url) and httpx.URL(self.base_url).host
        except httpx.InvalidURL:
            usable = None
        if not usable:
            raise UsageError(f"base URL {plain(self.shown_url)!r}: expected something like http://localhost:8000/v1")
        self.api_key = (self.api_key or "").strip() or None
        if self.api_key and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise UsageError("the API key holds characters that an HTTP header cannot carry")

    @property
    def shown_url(self) -> str:
        """The base URL without a user name, a password or a query."""
        return re.sub(r"(?<=://)[^/@]*@", "", self.base_url).partition("?")[0]

    def headers(self) -> dict[str, str]:
        """What every request carries. No compression: the size of an answer is to be known before it is unpacked."""
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": f"mmkit/{__version__}",
        }
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return headers

    async def post(self, client: httpx.AsyncClient, path: str, payload: bytes) -> dict[str, Any] | Failure:
        """The JSON object that the server answers with, or what went wrong. One try.

        Every try carries an id of its own in X-Request-Id. Servers that give it back, in that header or within the
        answer's `id` (vLLM: "chatcmpl-" and the id), show an answer that belongs to another request, and it counts as a
        broken one. With servers that give nothing back (OpenAI's own, llama.cpp) such an answer cannot be told.
        """
        own_id = f"mmkit-{random.getrandbits(128):032x}"
        return self._secret(await self._exchange(client, "POST", path, payload, own_id, self.timeout_s))

    async def models(self, client: httpx.AsyncClient) -> list[str] | Failure:
        """The names of the models that the server lists. One try, with a deadline of ten seconds."""
        within_s = min(self.timeout_s, _ANSWERS_WITHIN_S)
        answer = self._secret(await self._exchange(client, "GET", "/models", None, "", within_s))
        if isinstance(answer, Failure):
            return answer
        listed = answer.get("data")
        rows = listed if isinstance(listed, list) else []
        return [row["id"] for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]

    async def _exchange(
        self, client: httpx.AsyncClient, method: str, path: str, payload: bytes | None, own_id: str, within_s: float
    ) -> dict[str, Any] | Failure:
        import httpx

        headers = self.headers() | ({"X-Request-Id": own_id} if own_id else {})
        # Made here and not by the client, which would put its own URL, headers and cookies together for every request.
        request = httpx.Request(method, self._url(path), headers=headers, content=payload)
        try:
            async with asyncio.timeout(within_s):
                response = await client.send(request, stream=True)
                try:
                    content = await _content(response)
                finally:
                    await response.aclose()
        except TimeoutError:
            return Failure(f"no answer within {within_s:g} s")
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            return Failure(str(error) or type(error).__name__, unreached=True)
        except httpx.RequestError as error:
            return Failure(f"connection broken: {str(error) or type(error).__name__}")
        if isinstance(content, Failure):
            return content
        if not response.is_success:
            return _refusal(response, content)
        return _object(content, response.headers.get("X-Request-Id", ""), own_id)

    def _url(self, path: str) -> httpx.URL:
        import httpx

        if path not in self._urls:  # taking a URL apart costs more than many another step of a request
            self._urls[path] = httpx.URL(self.base_url + path)
        return self._urls[path]

    def _secret(self, answer: dict[str, Any] | Failure) -> dict[str, Any] | Failure:
        """The same with the key taken out of the words."""
        if not isinstance(answer, Failure):
            return answer
        words = answer.words.replace(self.api_key, "***") if self.api_key else answer.words
        return Failure(plain(words), answer.retry, answer.pause_s, answer.status, answer.unreached)


def plain(text: str) -> str:
    """One short line of printable characters, whatever a server sent."""
    shown = text[: _SHOWN_CHARACTERS + 1]
    if len(shown) > _SHOWN_CHARACTERS:
        shown = shown[: _SHOWN_CHARACTERS - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def error_words(content: bytes) -> str:
    """The message within a server's error body: OpenAI's, older vLLM's and FastAPI's shapes, else the body itself."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        return _text(content)
    for key in ("error", "message", "detail"):
        if isinstance(body, dict) and body.get(key):
            body = body[key]
    return body if isinstance(body, str) else _text(orjson.dumps(body))


async def _content(response: httpx.Response) -> bytes | Failure:
    """The body, never more of it in memory than may be read at most."""
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        return Failure(f"the server sends {encoding} although it was asked not to compress", retry=False)
    chunks, size = [], 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            return Failure(f"the server's reply is longer than {MAX_ANSWER_BYTES >> 20} MiB", retry=False)
        chunks.append(chunk)
    return b"".join(chunks)


def _refusal(response: httpx.Response, content: bytes) -> Failure:
    status = response.status_code
    words = f"HTTP {status}: {error_words(content)}"
    if not _may_pass(status):
        return Failure(words, retry=False, status=status)
    pause = _retry_after(response.headers.get("Retry-After"))
    if pause is not None and pause > LONGEST_PAUSE_S:
        return Failure(f"{words} (asks to wait {pause:.0f} s)", False, pause, status)
    return Failure(words, pause_s=pause, status=status)


def _may_pass(status: int) -> bool:
    return status in (408, 429) or status >= 500


def _object(content: bytes, header_id: str, own_id: str) -> dict[str, Any] | Failure:
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        return Failure(f"the server's reply is not JSON: {_text(content)!r}")
    if not isinstance(body, dict):
        return Failure(f"the server's reply is not a JSON object: {_text(content)!r}")
    if body.get("error") or body.get("object") == "error":
        # Routers answer 200 before they know what the model behind them says; its status is then within.
        code = next((holder.get("code") for holder in (body.get("error"), body) if isinstance(holder, dict)), None)
        retry = isinstance(code, int) and _may_pass(code)
        return Failure(f"the server replied with an error: {error_words(content)}", retry)
    if own_id and {*_OWN_ID.findall(header_id), *_OWN_ID.findall(str(body.get("id")))} - {own_id}:
        return Failure("the server's reply belongs to another request")
    return body


def _text(content: bytes) -> str:
    return content[: 4 * _SHOWN_CHARACTERS].decode("utf-8", "replace") or "(empty body)"


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait, from a number of seconds or an HTTP date; None where the header is absent or unreadable."""
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value.strip()):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
