"""Requests to one or several servers: who gets the next one, when it is tried again, and when to give up."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any

import orjson

from mmkit import console
from mmkit.engines.openai.clients import Clients
from mmkit.engines.openai.http import Failure, RequestFailed
from mmkit.engines.openai.replicas import Replica, backoff
from mmkit.errors import UnavailableError


class Dispatcher:
    """Sends the requests of one stream. `spawn` runs a coroutine beside them, no longer than the stream lasts."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        clients: Clients,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        *,
        max_retries: int,
        backoff_s: float,
    ) -> None:
        self._replicas = replicas
        self._clients = clients
        self._spawn = spawn
        self._max_retries = max_retries
        self._backoff_s = backoff_s
        self._turn = 0
        self._last_turn: Counter[Replica] = Counter()
        self._num_open: Counter[Replica] = Counter()

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON object that a server answers with.

        A request goes to the replica with the fewest open ones. Where it fails for a reason that may pass (408, 429,
        5xx, a deadline, a broken connection, an answer that is cut short or another request's), a replica that has not
        failed it yet gets it at once; with none left there is a pause, which doubles or is what the server asks for.
        There are up to `max_retries` further tries. A refused connection or a 429 is none while a replica is left.

        Raises RequestFailed where there is no usable answer. Raises UnavailableError where no replica can be connected
        to nor ever could, and where no request has been answered yet and this one is denied (401, 403, 404).
        """
        try:
            payload = orjson.dumps(body)
        except TypeError as error:
            raise RequestFailed(f"the request cannot be written as JSON: {error}") from None
        tries = 0
        failed_on: set[Replica] = set()
        while True:
            replica = self._pick(failed_on)
            if replica is None:
                await asyncio.sleep(self._until_a_pause_ends_s())
                continue
            outcome = await self._send(replica, path, payload)
            if not isinstance(outcome, Failure):
                return outcome
            await self._check_access(replica, outcome, body["model"])
            failed_on.add(replica)
            self._note_failure(replica, outcome)
            elsewhere = bool(self._usable(failed_on))
            if not (elsewhere and (outcome.unreached or outcome.busy)):
                tries += 1  # the request has been worked on, or there is nobody left who might
            again = outcome.retry or (elsewhere and _is_the_servers(outcome))
            if not again or tries > self._max_retries:
                raise self._given_up(outcome, tries)
            if not elsewhere:
                await asyncio.sleep(self._pause_s(outcome, tries - 1))
                failed_on.clear()

    async def _send(self, replica: Replica, path: str, payload: bytes) -> dict[str, Any] | Failure:
        self._turn += 1
        self._last_turn[replica] = self._turn
        self._num_open[replica] += 1
        try:
            with self._clients.lent() as client:
                outcome = await replica.server.post(client, path, payload)
        finally:
            self._num_open[replica] -= 1
        if not isinstance(outcome, Failure):
            replica.reached = replica.proven = True
            self._note_answer(replica)
        elif not outcome.unreached:
            replica.reached = True
        return outcome

    def _pick(self, failed_on: Collection[Replica]) -> Replica | None:
        """The replica for the next try; None where one that has asked for a pause has to be waited for."""
        for replica in self._replicas:
            if replica.probe_due():
                self._spawn(self._probe(replica))
        usable = self._usable(failed_on)
        if usable:
            return min(usable, key=lambda each: (self._num_open[each], self._last_turn[each]))
        if any(replica.paused for replica in self._replicas):
            return None
        # All are out. Waiting for a sign of life could take for ever; a request that fails has its error in the end.
        return min(self._replicas, key=lambda each: (each.out, self._last_turn[each]))

    def _usable(self, failed_on: Collection[Replica]) -> list[Replica]:
        if len(self._replicas) == 1:
            return [replica for replica in self._replicas if replica not in failed_on]
        return [
            replica
            for replica in self._replicas
            if not (replica.out or replica.paused or replica in failed_on)
            and not (replica.on_trial and self._num_open[replica])
        ]

    async def _probe(self, replica: Replica) -> None:
        # Not with a request: a server that hangs would keep its row waiting until the deadline.
        answer = await self._models(replica)
        # A server that lists no models, not to us, or fails in trying (transformers serve), is alive all the same.
        # These codes are a router's, about a server behind it.
        replica.probed(not isinstance(answer, Failure) or answer.status not in (None, 502, 503, 504))

    async def _models(self, replica: Replica) -> list[str] | Failure:
        with self._clients.lent() as client:
            return await replica.server.models(client)

    def _note_answer(self, replica: Replica) -> None:
        if replica.out or replica.on_trial:
            console.say(f"mmkit: {replica.server.shown_url} answers again")
        replica.answered()

    def _note_failure(self, replica: Replica, failure: Failure) -> None:
        if not _is_the_servers(failure):
            self._note_answer(replica)
        elif len(self._replicas) > 1:
            was_out = replica.out or replica.on_trial
            replica.failed(failure)
            if replica.out and not was_out and not all(each.out for each in self._replicas):
                url = replica.server.shown_url
                console.say(f"mmkit: {url}: {failure.words}: going on without it until it answers again")

    async def _check_access(self, replica: Replica, failure: Failure, model: str) -> None:
        """Raise UnavailableError where a denial tells of the run, and not of one request."""
        if failure.status not in (401, 403, 404) or any(each.proven for each in self._replicas):
            return
        url = replica.server.shown_url
        listed = await self._models(replica)
        if failure.status == 404 and not isinstance(listed, Failure) and model not in listed:
            names = ", ".join(repr(name) for name in listed[:10]) or "none"
            raise UnavailableError(f"{url} has no model {model!r} ({failure.words}); it has: {names}")
        if failure.status == 404:
            raise UnavailableError(
                f"{url} answers {failure.words} when asked for model {model!r}: check the model's name "
                "and the path of the base URL, which often ends in /v1"
            )
        if failure.status == 403 and not isinstance(listed, Failure):
            return  # the key is good; services forbid single requests for what is in them
        key = "refuses the key in OPENAI_API_KEY" if replica.server.api_key else "wants a key: set OPENAI_API_KEY"
        raise UnavailableError(f"{url} {key} ({failure.words})")

    def _given_up(self, failure: Failure, tries: int) -> Exception:
        if failure.unreached and not any(replica.reached for replica in self._replicas):
            urls = ", ".join(replica.server.shown_url for replica in self._replicas)
            return UnavailableError(
                f"cannot connect to {urls} ({failure.words}): check that the server is running "
                "and that host, port and path of the base URL are right"
            )
        words = failure.words if tries == 1 else f"{failure.words} ({tries} tries)"
        return RequestFailed(words, refused=not _is_the_servers(failure))

    def _pause_s(self, failure: Failure, times_before: int) -> float:
        if len(self._replicas) == 1:
            return backoff(self._backoff_s, times_before) if failure.pause_s is None else failure.pause_s
        if any(replica.paused for replica in self._replicas):
            return self._until_a_pause_ends_s()
        return backoff(self._backoff_s, times_before)

    def _until_a_pause_ends_s(self) -> float:
        now = time.monotonic()
        return min((each.paused_until - now for each in self._replicas if each.paused_until > now), default=0.0)


def _is_the_servers(failure: Failure) -> bool:
    """Whether the failure tells of the server; else of this one request, which another server would refuse as well."""
    return failure.retry or failure.pause_s is not None or failure.status in (401, 404)
