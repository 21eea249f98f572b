"""Replies kept by what was asked, so that a rerun, or a run that was killed, asks nothing twice."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import orjson

from mmkit.engines import Choice, Engine, Reply, Request, Turn, Usage
from mmkit.engines.fingerprint import fingerprint
from mmkit.engines.reply_store import ReplyStore

A = TypeVar("A", Reply, Choice)

LOOK_AHEAD = 1024
"""How many found answers may wait behind one that is still being computed."""

_ADAPTER_FILES = (".json", ".safetensors", ".bin")


class CachedEngine:
    """Any engine with its replies kept in a directory that several processes may share.

    The key is the request's `fingerprint`. A model given as a local directory is told from an earlier one of that name
    by its files' sizes and times, an adapter by its files' contents; `adapter` is the one that answers requests which
    name none. Errors are not kept. Equal requests that are under way together are each asked.

    Where an engine's `window` is above 1, answers that are found take no part in its batches, so a rerun that finds
    some of them batches the rest differently: texts may then differ where the engine's results depend on the batch
    (floating-point rounding that tips a near-tie), and only for requests that were not stored.
    """

    def __init__(self, engine: Engine, directory: str | os.PathLike[str], *, adapter: str | None = None) -> None:
        self.window = engine.window
        self.model = engine.model
        self.hits = 0
        self.misses = 0
        self._engine = engine
        self._directory = directory
        self._adapter = adapter or ""
        self._answerers: dict[str, list[Any]] = {}

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """One reply a request, in input order, stored or new; usage is that of the request that was made."""
        stream = _Stream(self, lambda request: self._key(request, None), self._engine.generate, _to_reply)
        return stream.answers(requests)

    def choose(self, requests: Iterable[Request], choices: Sequence[str]) -> Iterator[Choice]:
        """The log-probability of each choice, in input order, stored or new."""
        asked = list(choices)
        stream = _Stream(
            self,
            lambda request: self._key(request, asked),
            lambda rest: self._engine.choose(rest, asked),
            _to_choice,
        )
        return stream.answers(requests)

    def close(self) -> None:
        """Close the store and the engine inside."""
        if "store" in self.__dict__:
            self.store.close()
        self._engine.close()

    @cached_property
    def store(self) -> ReplyStore:
        """The replies on disk, opened when the first request comes."""
        return ReplyStore(self._directory)

    def _answerer(self, adapter: str) -> list[Any]:
        """What tells the model with that adapter from all others; looked at once."""
        if adapter not in self._answerers:
            model = [self.model, _files_of(self.model)]
            self._answerers[adapter] = [*model, contents_of(adapter)] if adapter else model
        return self._answerers[adapter]

    def _key(self, request: Request, choices: list[str] | None) -> bytes:
        return fingerprint(self._answerer(request.adapter or self._adapter), request, choices)


@dataclass
class _Stream(Generic[A]):
    """The answers to one stream of requests: found ones from the store, the rest from the engine, in order."""

    cache: CachedEngine
    key: Callable[[Request], bytes]
    ask: Callable[[Iterable[Request]], Iterator[A]]
    restore: Callable[[str, Mapping[str, Any]], A]
    failure: Exception | None = None

    def answers(self, requests: Iterable[Request]) -> Iterator[A]:
        """Found answers at once until one is missing; from there on the engine reads along."""
        source = iter(requests)
        for request in source:
            key, found = self._look_up(request)
            if found is not None:
                yield found
            else:
                yield from self._with_engine(request, key, source)

    def _with_engine(self, first: Request, first_key: bytes, source: Iterator[Request]) -> Iterator[A]:
        """Answers while the engine reads one unbroken stream of missing requests.

        It ends with the input, or when LOOK_AHEAD found answers wait: then the engine finishes what it has, and the
        next missing request starts another stream.
        """
        waiting: deque[bytes | A] = deque([first_key])  # a key where the engine's next answer belongs

        def missing() -> Iterator[Request]:
            yield first
            try:
                for request in source:
                    key, found = self._look_up(request)
                    waiting.append(key if found is None else found)
                    if found is None:
                        yield request
                    elif len(waiting) >= LOOK_AHEAD:
                        return
            except Exception as error:  # noqa: BLE001 - raised after the answers to the requests before it
                self.failure = error

        answers = self.ask(missing())
        try:
            for answer in answers:
                yield from _found_so_far(waiting)
                key = waiting.popleft()
                assert isinstance(key, bytes)
                self._keep(key, answer)
                yield answer
                yield from _found_so_far(waiting)
        finally:
            close = getattr(answers, "close", None)
            if close is not None:
                close()
        yield from _found_so_far(waiting)
        if waiting:
            raise RuntimeError(f"the engine left {len(waiting)} requests without a reply")
        if self.failure is not None:
            raise self.failure

    def _look_up(self, request: Request) -> tuple[bytes, A | None]:
        key = self.key(request)
        stored = self.cache.store.get(key)
        if stored is None:
            self.cache.misses += 1
            return key, None
        self.cache.hits += 1
        return key, self.restore(request.id, orjson.loads(stored))

    def _keep(self, key: bytes, answer: A) -> None:
        if answer.error is None:
            self.cache.store.put(key, orjson.dumps(_wire_form(answer)))


def _found_so_far(waiting: deque[bytes | A]) -> Iterator[A]:
    while waiting and not isinstance(waiting[0], bytes):
        found = waiting.popleft()
        assert not isinstance(found, bytes)
        yield found


def _wire_form(answer: Reply | Choice) -> dict[str, Any]:
    usage = answer.usage.to_wire()
    if isinstance(answer, Choice):
        return {"log_probs": dict(answer.log_probs), "usage": usage}
    turns = [[turn.role, turn.text] for turn in answer.turns]
    return {"text": answer.text, "turns": turns, "truncated": answer.truncated, "usage": usage}


def _to_reply(request_id: str, wire: Mapping[str, Any]) -> Reply:
    turns = tuple(Turn(role, text) for role, text in wire["turns"])
    return Reply(request_id, wire["text"], turns, wire["truncated"], Usage(**wire["usage"]))


def _to_choice(request_id: str, wire: Mapping[str, Any]) -> Choice:
    return Choice(request_id, wire["log_probs"], Usage(**wire["usage"]))


def _files_of(model: str) -> list[tuple[str, int, int]]:
    """Name, size and time of change of each file in a local model directory; empty for a model that is none."""
    directory = Path(model)
    if not directory.is_dir():
        return []
    files = [(path.name, path.stat()) for path in directory.iterdir() if path.is_file()]
    return sorted((name, status.st_size, status.st_mtime_ns) for name, status in files)


def contents_of(adapter: str) -> list[tuple[str, str]] | str:
    """Name and hash of each file of a local adapter that decides its answers; of one that is elsewhere, its name.

    Its weights are few, and those of two adapters of one rank are of one size.
    """
    directory = Path(adapter)
    if not directory.is_dir():
        return adapter
    files = [path for path in directory.iterdir() if path.suffix in _ADAPTER_FILES and path.is_file()]
    return sorted((path.name, _digest(path)) for path in files)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
