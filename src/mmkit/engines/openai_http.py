"""One POST to an OpenAI-compatible server: retries, deadlines, and words for what went wrong."""

from __future__ import annotations

import asyncio
import random
import re
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import orjson

from mmkit.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    import httpx

LONGEST_PAUSE_S = 600.0
"""A server that asks for a longer pause than this (seconds) gets no further try."""

_LONGEST_BACKOFF_S = 60.0
_SHOWN_CHARACTERS = 300


class RequestFailed(Exception):  # noqa: N818 - an outcome of one row, not an error of the program
    """This request has no usable answer; the message goes into the reply's `error`."""


@dataclass(frozen=True, slots=True)
class _Failure:
    words: str
    retry: bool = True
    pause_s: float | None = None
    connecting: bool = False


@dataclass(slots=True)
class Endpoint:
    """Where requests go and how patiently. `api_key` is in no message; times are seconds."""

    base_url: str
    api_key: str | None = field(repr=False)
    timeout_s: float
    max_retries: int
    backoff_s: float
    reached: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.base_url = self.base_url.strip().rstrip("/")
        if not re.match(r"https?://[^/\s]+", self.base_url):
            raise UsageError(f"base URL {plain(self.base_url)!r}: expected something like http://localhost:8000/v1")
        self.api_key = (self.api_key or "").strip() or None
        if self.api_key and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise UsageError("the API key holds characters that an HTTP header cannot carry")

    @property
    def shown_url(self) -> str:
        """The base URL without a user name, a password or a query."""
        return re.sub(r"(?<=://)[^/@]*@", "", self.base_url).partition("?")[0]

    def headers(self) -> dict[str, str]:
        """What every request carries."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return headers

    async def post(self, client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON object that the server answers with.

        Tries again, with growing pauses or the pause that the server asks for, on 408, 429, 5xx, deadlines and broken
        connections. Raises RequestFailed when there is no usable answer, UnavailableError when the server could not be
        connected to and has never been.
        """
        try:
            payload = orjson.dumps(body)
        except TypeError as error:
            raise RequestFailed(f"the request cannot be written as JSON: {error}") from None
        attempt = 0
        while True:
            outcome = await self._try(client, path, payload)
            if not isinstance(outcome, _Failure):
                return outcome
            if not outcome.retry or attempt >= self.max_retries:
                raise self._given_up(outcome, attempt + 1)
            await asyncio.sleep(self._pause_s(attempt) if outcome.pause_s is None else outcome.pause_s)
            attempt += 1

    def _given_up(self, failure: _Failure, tries: int) -> Exception:
        words = plain(failure.words.replace(self.api_key, "***") if self.api_key else failure.words)
        if failure.connecting and not self.reached:
            return UnavailableError(
                f"cannot connect to {self.shown_url} ({words}): check that the server is running "
                "and that host, port and path of the base URL are right"
            )
        return RequestFailed(words if tries == 1 else f"{words} ({tries} tries)")

    async def _try(self, client: httpx.AsyncClient, path: str, payload: bytes) -> dict[str, Any] | _Failure:
        import httpx

        try:
            async with asyncio.timeout(self.timeout_s):
                response = await client.post(self.base_url + path, content=payload)
        except TimeoutError:
            return _Failure(f"no answer within {self.timeout_s:g} s")
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            return _Failure(str(error) or type(error).__name__, connecting=True)
        except httpx.RequestError as error:
            return _Failure(f"connection broken: {str(error) or type(error).__name__}")
        self.reached = True
        if response.is_success:
            return _object(response.content)
        words = f"HTTP {response.status_code}: {_error_words(response.content)}"
        if response.status_code not in (408, 429) and response.status_code < 500:
            return _Failure(words, retry=False)
        pause = _retry_after(response.headers.get("Retry-After"))
        if pause is not None and pause > LONGEST_PAUSE_S:
            return _Failure(f"{words} (asks to wait {pause:.0f} s)", retry=False)
        return _Failure(words, pause_s=pause)

    def _pause_s(self, attempt: int) -> float:
        longest = min(self.backoff_s * 2.0 ** min(attempt, 16), _LONGEST_BACKOFF_S)
        # Jitter keeps the requests of one window from coming back all at once. It decides no result.
        return longest * random.uniform(0.5, 1.0)


def plain(text: str) -> str:
    """One short line of printable characters, whatever a server sent."""
    shown = text[: _SHOWN_CHARACTERS + 1]
    if len(shown) > _SHOWN_CHARACTERS:
        shown = shown[: _SHOWN_CHARACTERS - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def _object(content: bytes) -> dict[str, Any] | _Failure:
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        return _Failure(f"the server's reply is not JSON: {_text(content)!r}", retry=False)
    if not isinstance(body, dict):
        return _Failure(f"the server's reply is not a JSON object: {_text(content)!r}", retry=False)
    if body.get("error") or body.get("object") == "error":
        return _Failure(f"the server replied with an error: {_error_words(content)}", retry=False)
    return body


def _error_words(content: bytes) -> str:
    """The message within a server's error body: OpenAI's, older vLLM's and FastAPI's shapes, else the body itself."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        return _text(content)
    for key in ("error", "message", "detail"):
        if isinstance(body, dict) and body.get(key):
            body = body[key]
    return body if isinstance(body, str) else _text(orjson.dumps(body))


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
