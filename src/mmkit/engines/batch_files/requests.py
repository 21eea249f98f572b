"""Requests as lines of a batch file, for `vllm run-batch` and for services that take OpenAI's format."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from mmkit.engines import Request
from mmkit.engines.exchange import Inquiry
from mmkit.engines.fingerprint import fingerprint
from mmkit.engines.openai import wire
from mmkit.engines.openai.http import RequestFailed
from mmkit.errors import DataError, MmkitError
from mmkit.streams import Kept, Outcome, Rejected, Row, Used

LONGEST_CUSTOM_ID = 64
"""Characters; no service is known that takes fewer."""

_DIGEST_CHARACTERS = 16
_URL = "/v1/chat/completions"
_TEXT_ALONE = (
    "{%- for message in messages -%}"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- for part in message.content -%}{{ part.text }}{%- endfor -%}{%- endif -%}{%- endfor -%}"
)
"""A chat template that prints the messages' text and nothing else, whether a server hands it strings or parts."""


class BatchRequests:
    """A stage that turns each row into the lines of a batch file that ask about it; nobody is asked.

    `BatchAnswers` finds the answer by `custom_id`: the request's id, cut where it is long, and a digest of all that
    decides the answer. A request that was written before is not written again, since services refuse a batch where a
    `custom_id` occurs twice; both rows get the one answer. So the stage remembers what it wrote, and a run with it
    cannot go on in the middle.

    All lines go to /v1/chat/completions, the only generative address that vLLM's run-batch knows. A raw prompt goes as
    one user message with a `chat_template` that prints just its text; vLLM takes that from a request only with
    --trust-request-chat-template.
    """

    def __init__(self, inquiry: Inquiry[Any], model: str) -> None:
        self._inquiry, self._model = inquiry, model
        self._written: set[str] = set()
        self.has_raw_prompts = False
        """Whether a raw prompt was among the requests."""

    @property
    def num_lines(self) -> int:
        """How many lines there are so far."""
        return len(self._written)

    def __call__(self, rows: Iterator[Row]) -> Iterator[Outcome]:
        """The lines of all rows, in order; a row that cannot be asked about is rejected alone."""
        for row in rows:
            try:
                lines = self._new_lines(self._inquiry.requests(row))
            except MmkitError as error:
                yield Rejected.of(row, error)
                continue
            if not lines:
                yield Used(row)
            for line in lines:
                yield Kept(row.replaced(line))

    def _new_lines(self, requests: Sequence[Request]) -> list[dict[str, Any]]:
        lines = {}
        for request in requests:
            key = custom_id(self._model, request, self._inquiry.choices)
            if key not in self._written:
                body = _body(self._model, request, self._inquiry.choices)
                lines[key] = {"custom_id": key, "method": "POST", "url": _URL, "body": body}
            self.has_raw_prompts |= request.prompt is not None
        self._written.update(lines)
        return list(lines.values())


def custom_id(model: str, request: Request, choices: Sequence[str] | None) -> str:
    """What an answer to this request is found by: no other prompt, image, model or sampling has the same."""
    digest = fingerprint(wire.answerer(model, request), request, choices).hex()[:_DIGEST_CHARACTERS]
    return f"{request_part(request)}-{digest}"


def request_part(request: Request) -> str:
    """The part of a `custom_id` that tells a person which record it belongs to."""
    return request.id[: LONGEST_CUSTOM_ID - _DIGEST_CHARACTERS - 1]


def as_chat(request: Request) -> Request:
    """The request as a batch asks it: a raw prompt becomes the only message."""
    if request.prompt is None:
        return request
    messages = [{"role": "user", "content": wire.text_before(request)}]
    return dataclasses.replace(request, messages=messages, prompt=None, shared_prefix="")


def _body(model: str, request: Request, choices: Sequence[str] | None) -> dict[str, Any]:
    chat = as_chat(request)
    options = wire.decoding(chat) if choices is None else wire.first_token_options(chat)
    try:
        body = wire.body(model, chat) | options
    except RequestFailed as failure:
        raise DataError(f"the request cannot be put into a batch: {failure}") from None
    if request.prompt is not None:
        # What /completions does by default: the text as it stands, behind the begin-of-text token if there is one.
        body |= {"chat_template": _TEXT_ALONE, "add_generation_prompt": False, "add_special_tokens": True}
    return body
