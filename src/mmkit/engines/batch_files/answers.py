"""The answers of a batch as an engine: what `vllm run-batch` or a batch service wrote, looked up by request."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import IO, Any, NamedTuple

import orjson

from mmkit.engines import Choice, Reply, Request
from mmkit.engines.batch_files.requests import as_chat, custom_id, request_part
from mmkit.engines.openai import wire
from mmkit.engines.openai.http import RequestFailed, error_words, plain
from mmkit.errors import DataError
from mmkit.streams.sources import open_to_seek


class BatchAnswers:
    """Answers to what `BatchRequests` wrote, from any number of files in any order.

    OpenAI's shape and vLLM's are read; a failed answer gives an error in the words of whoever failed, and so does a
    request without an answer. Where a request has several answers (a second try, a service's separate file of errors) a
    success goes before a failure, and of several the last.

    Of the files only where each answer stands is kept in memory. Raises MissingInputError where a file is not there,
    DataError, with file and line, where a line is no answer.
    """

    window = 1

    def __init__(self, paths: Sequence[str], model: str) -> None:
        self.model = model
        self._index = _Index(paths)

    @property
    def digest(self) -> str:
        """A hash of all files' lines: with it a run knows whether it goes on with the same answers."""
        return self._index.digest

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """The batch's reply to each request, in order."""
        for request in requests:
            try:
                yield wire.reply(as_chat(request), self._answer(request, None))
            except RequestFailed as failure:
                yield Reply(request.id, error=plain(str(failure)))

    def choose(self, requests: Iterable[Request], choices: Sequence[str]) -> Iterator[Choice]:
        """The log-probability of each choice, in order, from the 20 most probable next tokens.

        They are exact where every choice is one of these tokens as it stands. A choice that is not gives an `error`: a
        batch cannot be asked a second time, as a server can.
        """
        for request in requests:
            try:
                answer = self._answer(request, choices)
                tokens = wire.first_tokens(as_chat(request), answer)
                yield Choice(request.id, _listed(tokens, choices), wire.usage(answer))
            except RequestFailed as failure:
                yield Choice(request.id, error=plain(str(failure)))

    def close(self) -> None:
        """Close the files."""
        self._index.close()

    def _answer(self, request: Request, choices: Sequence[str] | None) -> Mapping[str, Any]:
        """What the server answered. Raises RequestFailed where it did not, or not to this request."""
        key = custom_id(self.model, request, choices)
        line = self._index.find(key)
        if line is not None:
            return _body(line)
        words = f"no answer to {key!r} in {self._index.shown}"
        if request_part(request) in self._index.request_parts:
            words += " (one to another prompt, image, model or sampling is there: give what --to-batch was given)"
        raise RequestFailed(words)


class _Place(NamedTuple):
    """Where an answer stands, and whether it is one."""

    file: int
    offset: int
    succeeded: bool


class _Index:
    """Where in the files the answer to each `custom_id` stands."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.shown = paths[0] if len(paths) == 1 else f"{len(paths)} files"
        self._files: list[IO[bytes]] = []
        self._places: dict[str, _Place] = {}
        self._hash = hashlib.sha256()
        with ExitStack() as opened:
            for path in paths:
                self._files.append(opened.enter_context(open_to_seek(path)))
                self._add(path)
            self._opened = opened.pop_all()

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    @cached_property
    def request_parts(self) -> set[str]:
        """The readable parts of all custom ids, for a hint; made when one is wanted."""
        return {key.rpartition("-")[0] for key in self._places}

    def find(self, key: str) -> dict[str, Any] | None:
        place = self._places.get(key)
        if place is None:
            return None
        file = self._files[place.file]
        file.seek(place.offset)
        line: dict[str, Any] = orjson.loads(file.readline())
        return line

    def close(self) -> None:
        self._opened.close()

    def _add(self, path: str) -> None:
        offset = 0
        for number, line in enumerate(self._files[-1], 1):
            if line.strip():
                self._add_line(line, offset, f"{path}:{number}")
            offset += len(line)
            self._hash.update(line)

    def _add_line(self, line: bytes, offset: int, where: str) -> None:
        answer = _parsed(line, where)
        key = answer["custom_id"]
        place = _Place(len(self._files) - 1, offset, _succeeded(answer))
        known = self._places.get(key)
        if known is None or place.succeeded >= known.succeeded:
            self._places[key] = place


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        answer = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        torn = "" if line.endswith(b"\n") else "the last line is torn (no newline at its end): "
        raise DataError(f"{where}: {torn}invalid JSON: {error}") from None
    if not isinstance(answer, dict) or not isinstance(answer.get("custom_id"), str):
        raise DataError(f'{where}: expected an answer, an object with a string "custom_id"')
    if "response" not in answer and "error" not in answer:
        if "body" in answer:
            raise DataError(f"{where}: a request, not an answer; name the file that the batch wrote")
        raise DataError(f'{where}: expected an answer, with "response" or "error"')
    return answer


def _succeeded(answer: Mapping[str, Any]) -> bool:
    try:
        _body(answer)
    except RequestFailed:
        return False
    return True


def _body(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The server's own answer in a line of the batch's. Raises RequestFailed, in its words, where there is none."""
    response, error = answer.get("response"), answer.get("error")
    response = response if isinstance(response, dict) else {}
    status, body = response.get("status_code"), response.get("body")
    refused = isinstance(status, int) and status >= 400
    if isinstance(body, dict) and body and not error and not body.get("error") and not refused:
        return body
    found = next((error_words(orjson.dumps(each)) for each in (error, body) if each), None)
    if found is None:
        raise RequestFailed("the batch's line holds neither an answer nor an error")
    raise RequestFailed(f"HTTP {status}: {found}" if refused else f"the server replied with an error: {found}")


def _listed(tokens: Mapping[str, float], choices: Sequence[str]) -> Mapping[str, float]:
    found = wire.whole_tokens(tokens, choices)
    if found is not None:
        return found
    missing = next(choice for choice in choices if choice not in tokens)
    top = ", ".join(repr(token) for token in list(tokens)[:5])
    raise RequestFailed(
        f"choice {missing!r} is not among the {len(tokens)} most probable next tokens ({top}, …), and a batch says no "
        "more; a running server does (--engine openai)"
    )
