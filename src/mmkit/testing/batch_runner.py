"""A batch service in miniature: the lines of a batch file answered as `OpenAiServer` would answer their bodies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import orjson

from mmkit.testing.server import Answer, Received, echo

Shape = Literal["openai", "vllm"]


def run_batch(lines: Iterable[bytes], answer: Callable[[Received], Answer] = echo, shape: Shape = "openai") -> bytes:
    """The file that the service writes for these lines, in their order.

    The shapes differ in where a failed request's error stands: in the response's body (OpenAI), or beside a response
    without a body (vLLM). A body with a chat template of its own is rendered with it (jinja2 is needed), and `answer`
    gets what comes of it as a raw prompt.
    """
    return b"".join(orjson.dumps(_answered(orjson.loads(line), answer, shape)) + b"\n" for line in lines)


def _answered(line: Mapping[str, Any], answer: Callable[[Received], Answer], shape: Shape) -> dict[str, Any]:
    given = _given(line["url"], line["body"], answer)
    body, error = given.body, None
    if shape == "vllm" and given.status >= 400:
        body, error = None, given.body
    response = {"status_code": given.status, "request_id": "req-1", "body": body}
    return {"id": "batch-req-1", "custom_id": line["custom_id"], "response": response, "error": error}


def _given(url: str, body: dict[str, Any], answer: Callable[[Received], Answer]) -> Answer:
    if "chat_template" not in body:
        return answer(Received(url, body, {}, 0.0))
    raw = {name: value for name, value in body.items() if name != "messages"} | {"prompt": _rendered(body)}
    given = answer(Received("/v1/completions", raw, {}, 0.0))
    if given.status >= 400 or "choices" not in given.body:
        return given
    choices = [_as_chat(choice) for choice in given.body["choices"]]
    return Answer(given.body | {"choices": choices}, given.status)


def _rendered(body: Mapping[str, Any]) -> str:
    """The prompt that the body's own template makes of its messages, with jinja set up as transformers does."""
    import jinja2

    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(body["chat_template"])
    return template.render(messages=body["messages"], add_generation_prompt=body.get("add_generation_prompt", True))


def _as_chat(choice: Mapping[str, Any]) -> dict[str, Any]:
    """A completion's choice in the shape of a chat completion's."""
    rest = {name: value for name, value in choice.items() if name not in ("text", "logprobs")}
    chat = {**rest, "message": {"role": "assistant", "content": choice.get("text")}}
    if choice.get("logprobs"):
        (top,) = choice["logprobs"]["top_logprobs"]
        listed = [{"token": token, "logprob": value} for token, value in top.items()]
        chat["logprobs"] = {"content": [{**listed[0], "top_logprobs": listed}]}
    return chat
