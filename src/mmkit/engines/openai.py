"""Any OpenAI-compatible server: vLLM, SGLang, llama.cpp, hosted services."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mmkit.engines import Choice, Reply, Request, Usage
from mmkit.engines import openai_wire as wire
from mmkit.engines.in_order import LoopThread, map_in_order
from mmkit.engines.openai_http import Endpoint, RequestFailed, plain
from mmkit.errors import UsageError, missing_extra

if TYPE_CHECKING:
    import ssl

    import httpx

R = TypeVar("R")
_Post = Callable[[str, dict[str, Any]], Coroutine[Any, Any, dict[str, Any]]]


class OpenAiEngine:
    """Asks a server, with up to `max_in_flight` requests open and up to twice as many rows read ahead.

    Replies come in input order, and rows behind a slow one go on meanwhile. A request is tried again up to
    `max_retries` times on 408, 429, 5xx, deadlines (`timeout_s` a try) and broken connections, with pauses that double
    from `backoff_s` or that the server's Retry-After gives; what still fails is a reply with `error`. The key is
    `api_key`, else the environment's OPENAI_API_KEY. Prices are per million tokens. Whether text that looks like a
    control token stays text is the server's affair.

    Raises UnavailableError where httpx is missing, UsageError for a base URL or a key that cannot be one; while
    iterating, UnavailableError where the server could not be connected to from the start.
    """

    window = 1

    def __init__(
        self,
        model: str,
        base_urls: Sequence[str],
        *,
        api_key: str | None = None,
        max_in_flight: int = 32,
        timeout_s: float = 120.0,
        max_retries: int = 5,
        backoff_s: float = 0.5,
    ) -> None:
        try:
            import httpx  # noqa: F401 - to say at once that it is missing
        except ModuleNotFoundError:
            raise missing_extra("httpx", "openai") from None
        if max_in_flight < 1 or max_retries < 0 or timeout_s <= 0:
            raise UsageError("max_in_flight and timeout_s must be above 0, max_retries at least 0")
        self.model = model
        key = api_key or os.environ.get("OPENAI_API_KEY")
        self._endpoints = [Endpoint(url, key, timeout_s, max_retries, backoff_s) for url in base_urls]
        if not self._endpoints:
            raise UsageError("no base URL: give at least one, such as http://localhost:8000/v1")
        self._max_in_flight = max_in_flight
        self._streams: set[LoopThread] = set()

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """One reply a request, in input order, streaming.

        Messages go to /chat/completions with their images as data URIs, a prompt goes to /completions. With
        `open_turn` "user" the body carries vLLM's and SGLang's fields `add_generation_prompt`, `skip_special_tokens`
        and `ignore_eos`, and the text is cut into turns by its markers (`turn_formats`); a server that refuses the
        fields or hides the markers makes every reply an error.
        """
        return self._stream(requests, self._generate_one, _failed_reply)

    def choose(self, requests: Iterable[Request], choices: Sequence[str]) -> Iterator[Choice]:
        """The log-probability of each choice, in input order, streaming. Raises ValueError for empty or equal choices.

        First one request asks for the 20 most probable next tokens. Where every choice is one of them as it stands, the
        figures are exact. Else:

        - a prompt: one /completions request a choice, with `echo`. Exact: the sum over all tokens of the choice, as the
          server tokenises prompt and choice together; a token that spans the two is an error. Needs a server that
          returns log-probabilities of the prompt (vLLM, SGLang).
        - messages: no server can echo a choice behind its chat template. A choice of several tokens gets the
          log-probability of its first token, if that token ends a word and begins no other choice: an upper bound of
          the sum. Good for ranking distinct words, not for comparing choices of unequal length.

        A choice that cannot be found is an `error`, never an improbable value.
        """
        if not choices or not all(choices) or len(set(choices)) != len(choices):
            raise ValueError(f"choices must be distinct and none of them empty: {list(choices)!r}")

        async def work(post: _Post, request: Request) -> Choice:
            return await self._choose_one(post, request, choices)

        return self._stream(requests, work, _failed_choice)

    def close(self) -> None:
        """End streams that were left open."""
        for stream in list(self._streams):
            stream.close()

    def _stream(
        self,
        requests: Iterable[Request],
        work: Callable[[_Post, Request], Coroutine[Any, Any, R]],
        failed: Callable[[Request, str], R],
    ) -> Iterator[R]:
        client = self._client()
        slots = asyncio.Semaphore(self._max_in_flight)

        turns = itertools.cycle(self._endpoints)

        async def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
            async with slots:
                return await next(turns).post(client, path, body)

        async def answer_one(request: Request) -> R:
            try:
                return await work(post, request)
            except RequestFailed as failure:
                return failed(request, plain(str(failure)))

        thread = LoopThread("mmkit-openai", client.aclose)
        self._streams.add(thread)
        try:
            yield from map_in_order(requests, answer_one, thread, 2 * self._max_in_flight)
        finally:
            thread.close()
            self._streams.discard(thread)

    def _client(self) -> httpx.AsyncClient:
        import httpx

        # Deadlines are the endpoint's; the pool must not add one of its own.
        return httpx.AsyncClient(
            headers=self._endpoints[0].headers(),
            timeout=None,
            verify=_tls(),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=self._max_in_flight),
        )

    async def _generate_one(self, post: _Post, request: Request) -> Reply:
        body = wire.body(self.model, request) | wire.decoding(request)
        return wire.reply(request, await post(wire.path(request), body))

    async def _choose_one(self, post: _Post, request: Request, choices: Sequence[str]) -> Choice:
        start = wire.body(self.model, request)
        answer = await post(wire.path(request), start | wire.first_token_options(request))
        tokens = wire.first_tokens(request, answer)
        if request.prompt is None:
            return Choice(request.id, wire.by_first_token(tokens, choices), wire.usage(answer))
        exact = wire.whole_tokens(tokens, choices)
        if exact is not None:
            return Choice(request.id, exact, wire.usage(answer))
        prompt = wire.text_before(request)
        bodies = [start | {"prompt": prompt + choice} | wire.echo_options() for choice in choices]
        echoes = await asyncio.gather(*(post("/completions", body) for body in bodies))
        log_probs = {
            choice: wire.sum_of_choice(request, echo, choice) for choice, echo in zip(choices, echoes, strict=True)
        }
        return Choice(request.id, log_probs, _sum([wire.usage(each) for each in (answer, *echoes)]))


@functools.cache
def _tls() -> ssl.SSLContext:
    """Made once: reading the certificates takes longer than many a request."""
    import httpx

    return httpx.create_ssl_context()


def _sum(usages: Iterable[Usage]) -> Usage:
    rows = [dataclasses.astuple(usage) for usage in usages]
    return Usage(*(sum(column) for column in zip(*rows, strict=True)))


def _failed_reply(request: Request, words: str) -> Reply:
    return Reply(request.id, error=words)


def _failed_choice(request: Request, words: str) -> Choice:
    return Choice(request.id, error=words)
