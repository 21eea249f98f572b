"""Any OpenAI-compatible server, or several: vLLM, SGLang, llama.cpp, hosted services.

`wire` makes bodies and reads answers, `http` is one exchange with one server, `dispatch` decides who gets a request and
when to give up, `replicas` knows each server's health; `choosing` scores choices, `turn_formats` cuts conversations,
`in_order` runs all of it behind an ordinary iterator. httpx is imported when an engine is made.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mmkit.engines import Choice, Reply, Request
from mmkit.engines.openai import wire
from mmkit.engines.openai.choosing import Chooser, Post
from mmkit.engines.openai.clients import Clients
from mmkit.engines.openai.dispatch import Dispatcher
from mmkit.engines.openai.http import RequestFailed, Server, plain
from mmkit.engines.openai.in_order import LoopThread, map_in_order
from mmkit.engines.openai.replicas import Replica
from mmkit.errors import UsageError, missing_extra

if TYPE_CHECKING:
    import httpx

R = TypeVar("R")


class OpenAiEngine:
    """Asks one or several servers, with up to `max_in_flight` requests open in all and twice as many rows read ahead.

    Replies come in input order, and rows behind a slow one go on meanwhile. A request is tried again up to
    `max_retries` times on 408, 429, 5xx, deadlines (`timeout_s` a try) and broken connections or answers, with pauses
    that double from `backoff_s` or that the server's Retry-After gives; what still fails is a reply with `error`.

    An adapter that a request names is a model of that name to the server (vLLM's --lora-modules).

    Several servers (`base_urls`, which serve the same model) share the work; one that fails is left out until it
    answers again, and its requests go to the others (`dispatch`). The key, for all of them, is `api_key`, else
    the environment's OPENAI_API_KEY. Whether text that looks like a control token stays text is the server's affair.

    Raises UnavailableError where httpx is missing, UsageError for a base URL or a key that cannot be one and for a URL
    given twice; while iterating, UnavailableError where no server could be connected to from the start, or where the
    run's first answer denies access or knows no such model.
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
        self._replicas = [Replica(server, backoff_s) for server in _servers(base_urls, key, timeout_s)]
        self._max_in_flight = max_in_flight
        self._max_retries = max_retries
        self._backoff_s = backoff_s
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

        Every figure is the sum over all tokens of the choice, as the server itself cuts it, or else there is an error:

        - One request asks for the 20 most probable next tokens. A choice that is one of them has its figure.
        - Of a prompt, each other choice takes a /completions request with `echo`, which has the server tell the
          log-probabilities of its prompt (vLLM, SGLang). A token that spans prompt and choice is an error.
        - Of messages, each other choice takes a request whose last turn is that choice, with vLLM's fields
          `continue_final_message` and `prompt_logprobs`. What the chat template makes of the choices is asked once a
          stream, with a chat of one "?", and counted in no reply's usage. With a server that knows no such fields the
          other choices are an error, and it is taken for granted that its template puts no space before an answer.

        A choice forced by a grammar (`structured_outputs`) would not do: vLLM reports the log-probabilities behind the
        grammar's mask, and cuts the choice as the mask allows. That a server reports figures from behind the sampler's
        other masks, or logits, is an error where it shows: impossible tokens in the list, or a sum above 1.
        """
        if not choices or not all(choices) or len(set(choices)) != len(choices):
            raise ValueError(f"choices must be distinct and none of them empty: {list(choices)!r}")
        return self._stream(requests, Chooser(self.model, choices).choose, _failed_choice)

    def close(self) -> None:
        """End streams that were left open."""
        for stream in list(self._streams):
            stream.close()

    def _stream(
        self,
        requests: Iterable[Request],
        work: Callable[[Post, Request], Coroutine[Any, Any, R]],
        failed: Callable[[Request, str], R],
    ) -> Iterator[R]:
        clients = Clients()
        thread = LoopThread("mmkit-openai", clients.close)
        dispatcher = Dispatcher(
            self._replicas,
            clients,
            thread.spawn,
            max_retries=self._max_retries,
            backoff_s=self._backoff_s,
        )
        slots = asyncio.Semaphore(self._max_in_flight)

        async def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
            async with slots:
                return await dispatcher.post(path, body)

        async def answer_one(request: Request) -> R:
            try:
                return await work(post, request)
            except RequestFailed as failure:
                return failed(request, plain(str(failure)))

        self._streams.add(thread)
        try:
            yield from map_in_order(requests, answer_one, thread, 2 * self._max_in_flight)
        finally:
            thread.close()
            self._streams.discard(thread)

    async def _generate_one(self, post: Post, request: Request) -> Reply:
        body = wire.body(self.model, request) | wire.decoding(request)
        return wire.reply(request, await post(wire.path(request), body))


def _servers(base_urls: Sequence[str], api_key: str | None, timeout_s: float) -> list[Server]:
    import httpx

    if isinstance(base_urls, str) or not base_urls:
        raise UsageError("base_urls: expected a list of one or more, such as ['http://localhost:8000/v1']")
    servers: dict[httpx.URL, Server] = {}
    for base_url in base_urls:
        server = Server(base_url, api_key, timeout_s)
        if httpx.URL(server.base_url) in servers:
            raise UsageError(f"base URL {server.shown_url} is given twice")
        servers[httpx.URL(server.base_url)] = server
    return list(servers.values())


def _failed_reply(request: Request, words: str) -> Reply:
    return Reply(request.id, error=words)


def _failed_choice(request: Request, words: str) -> Choice:
    return Choice(request.id, error=words)
