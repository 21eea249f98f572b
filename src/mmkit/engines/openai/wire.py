"""What goes to an OpenAI-compatible server and what comes back, as plain values: no connection in here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmkit.engines import Reply, Request, Usage
from mmkit.engines.openai.http import RequestFailed, plain
from mmkit.engines.openai.turn_formats import END_OF_TEXT, TURN_FORMATS, cut_turns
from mmkit.seeds import derive

TOP_LOG_PROBS = 20
"""How many of the most probable tokens are asked for; OpenAI's and vLLM's largest."""

_LEAST_LOG_PROB = -9999.0  # vLLM's stand-in for minus infinity
_ROUNDING = 0.01


class PromptToken(NamedTuple):
    """One token of a prompt. The first of a prompt has no log-probability."""

    id: str
    text: str
    log_prob: float | None


def text_before(request: Request) -> str:
    """The raw text that a prompt request continues."""
    return request.shared_prefix + (request.prompt or "")


def path(request: Request) -> str:
    """The endpoint that answers this kind of request."""
    return "/chat/completions" if request.prompt is None else "/completions"


def answerer(model: str, request: Request) -> str:
    """The name that the server knows what is to answer by: an adapter is a model with a name of its own there."""
    return request.adapter or model


def body(model: str, request: Request) -> dict[str, Any]:
    """The request's input, without decoding options. Raises RequestFailed where it cannot be sent."""
    model = answerer(model, request)
    if request.prompt is None:
        fields: dict[str, Any] = {"model": model, "messages": _messages(request)}
    elif request.images:
        raise RequestFailed("a server's /completions takes no images; give messages instead of a prompt")
    else:
        fields = {"model": model, "prompt": text_before(request)}
    if request.open_turn == "user":
        if request.prompt is None:
            fields["add_generation_prompt"] = False
        # The end of a turn is an end for most models; here the conversation goes on until it is over.
        fields |= {"skip_special_tokens": False, "ignore_eos": True, "stop": list(END_OF_TEXT)}
    return fields


def decoding(request: Request) -> dict[str, Any]:
    """The decoding options. Each request has its own seed, so that equal prompts get different draws."""
    sampling = request.sampling
    return {
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": derive(sampling.seed, request.id, "engine.sample") >> 33,
    }


def reply(request: Request, answer: Mapping[str, Any]) -> Reply:
    """The server's answer as a Reply. Raises RequestFailed where it holds none."""
    choice = _first_choice(answer)
    finish = choice.get("finish_reason")
    holder, key = (_mapping(choice, "message"), "content") if request.prompt is None else (choice, "text")
    text = holder.get(key)
    if not isinstance(text, str):
        refusal = holder.get("refusal")
        if isinstance(refusal, str) and refusal:
            raise RequestFailed(f"the model refused: {refusal}")
        raise RequestFailed(f"the server's reply has no text ({key}: {text!r}, finish_reason: {finish!r})")
    if request.open_turn == "user":
        found = cut_turns(text, ended=finish == "stop")
        if found is None:
            known = ", ".join(each.name for each in TURN_FORMATS)
            raise RequestFailed(f"the reply holds no turn marker of a known format ({known}): {text[:80]!r}")
        return Reply(request.id, text, found, finish == "length", usage(answer))
    return Reply(request.id, text.strip(), (), finish == "length", usage(answer))


def usage(answer: Mapping[str, Any]) -> Usage:
    """The tokens that the server counted; 0 where it counted none."""
    counts = answer.get("usage")
    counts = counts if isinstance(counts, dict) else {}
    details = counts.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    return Usage(_count(counts, "prompt_tokens"), _count(details, "image_tokens"), _count(counts, "completion_tokens"))


def first_token_options(request: Request) -> dict[str, Any]:
    """Ask for the most probable next tokens. At temperature 1 a server that scales log-probabilities changes none."""
    options = {"max_tokens": 1, "temperature": 1.0, "top_p": 1.0}
    if request.prompt is None:
        return options | {"logprobs": True, "top_logprobs": TOP_LOG_PROBS}
    return options | {"logprobs": TOP_LOG_PROBS}


def echo_options() -> dict[str, Any]:
    """Ask for the log-probabilities of the prompt's own tokens. Not every server can generate 0 tokens, hence 1."""
    return {"max_tokens": 1, "temperature": 1.0, "top_p": 1.0, "echo": True, "logprobs": 1}


def first_tokens(request: Request, answer: Mapping[str, Any]) -> dict[str, float]:
    """The most probable next tokens with their log-probabilities, in falling order.

    Two tokens of the same text (several tokenizers have them) are left out: which one is meant cannot be told. Raises
    RequestFailed where there are none, or where the numbers are no log-probabilities of the model itself.
    """
    log_probs = _mapping(_first_choice(answer), "logprobs")
    pairs: list[tuple[Any, Any]] = []
    if request.prompt is None:
        content = log_probs.get("content")
        first = content[0] if isinstance(content, list) and content and isinstance(content[0], dict) else {}
        listed = first.get("top_logprobs")
        entries = [first, *(listed if isinstance(listed, list) else [])]
        pairs = [(each.get("token"), each.get("logprob")) for each in entries if isinstance(each, dict)]
    else:
        listed = log_probs.get("top_logprobs")
        first = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], dict) else {}
        pairs = list(first.items())
    found: dict[str, set[float]] = {}
    for token, log_prob in pairs:
        if isinstance(token, str) and isinstance(log_prob, int | float):
            found.setdefault(token, set()).add(float(log_prob))
    if not found:
        raise RequestFailed("the server's reply holds no log-probabilities of the next token")
    _check_log_probs([value for values in found.values() for value in values])
    single = {token: values.pop() for token, values in found.items() if len(values) == 1}
    return dict(sorted(single.items(), key=lambda pair: -pair[1]))


def whole_tokens(tokens: Mapping[str, float], choices: Sequence[str]) -> dict[str, float] | None:
    """The log-probability of each choice where every one is a single token that the server listed, else None."""
    return {choice: tokens[choice] for choice in choices} if all(c in tokens for c in choices) else None


def prompt_options(choice: str | None = None) -> dict[str, Any]:
    """Ask for the log-probabilities of the chat prompt's own tokens (vLLM's fields), one token a place.

    The prompt ends where the assistant is to speak, or with `choice`, for which `with_answer` has put it into the
    messages. Not every server can generate 0 tokens, hence 1.
    """
    options = {"max_tokens": 1, "temperature": 1.0, "top_p": 1.0, "prompt_logprobs": 0}
    return options if choice is None else options | {"add_generation_prompt": False, "continue_final_message": True}


def with_answer(fields: Mapping[str, Any], choice: str) -> dict[str, Any]:
    """The body of a chat request with an assistant's turn at its end, which `prompt_options` leaves open."""
    return {**fields, "messages": [*fields["messages"], {"role": "assistant", "content": choice}]}


def prompt_tokens(answer: Mapping[str, Any]) -> list[PromptToken]:
    """The tokens of a chat prompt. Raises RequestFailed, as a refusal, where the server sends none."""
    places = answer.get("prompt_logprobs")
    if not isinstance(places, list) or not places:
        raise RequestFailed("the server's reply holds no log-probabilities of the prompt", refused=True)
    return [_prompt_token(place) for place in places]


def sum_of_choice(request: Request, answer: Mapping[str, Any], choice: str) -> float:
    """The summed log-probability of the choice's tokens in an echoed prompt that ends with it.

    Tokens are found by `text_offset`, and their joined text must be the choice: a token that reaches over the end of
    the prompt, or offsets that do not fit, raise RequestFailed.
    """
    log_probs = _mapping(_first_choice(answer), "logprobs")
    columns = [log_probs.get(key) for key in ("tokens", "token_logprobs", "text_offset")]
    lists = [column for column in columns if isinstance(column, list)]
    if len(lists) < 3 or len({len(column) for column in lists}) != 1:
        raise RequestFailed("the server's reply holds no log-probabilities of the echoed prompt")
    prompt = text_before(request)
    rows = [row for row in zip(*lists, strict=True) if isinstance(row[0], str) and isinstance(row[2], int)]
    # A begin-of-text token that the server put in front shifts every offset.
    shift = next((offset for token, _, offset in rows if token and prompt.startswith(token)), 0)
    begin = shift + len(prompt)
    mine = [row for row in rows if begin <= row[2] < begin + len(choice)]
    if not mine or mine[0][2] != begin or "".join(row[0] for row in mine) != choice:
        cut = "|".join(row[0] for row in mine)
        raise RequestFailed(f"the server's tokens do not line up with choice {choice!r} (found {cut!r})")
    if not all(_is_log_prob(log_prob) for _, log_prob, _ in mine):
        raise RequestFailed(f"the server sent no log-probability for a token of choice {choice!r}")
    return float(sum(log_prob for _, log_prob, _ in mine))


def _messages(request: Request) -> list[dict[str, Any]]:
    images = iter(request.images)
    messages = [{**message, "content": _content(message.get("content"), images)} for message in request.messages]
    if any(True for _ in images):
        raise RequestFailed(f"{len(request.images)} images, more than the messages have places for")
    return messages


def _content(content: Any, images: Any) -> Any:
    if not isinstance(content, list | tuple):
        return content
    parts: list[Any] = []
    for part in content:
        if isinstance(part, Mapping) and part.get("type") == "image":
            image = next(images, None)
            if image is None:
                raise RequestFailed("the messages have a place for more images than there are")
            parts.append({"type": "image_url", "image_url": {"url": image.data_uri()}})
        else:
            parts.append(dict(part) if isinstance(part, Mapping) else part)
    return parts


def _prompt_token(place: Any) -> PromptToken:
    if place is None:
        return PromptToken("", "", None)
    entries = list(place.items()) if isinstance(place, dict) else []
    if len(entries) != 1 or not isinstance(entries[0][1], dict):
        raise RequestFailed(f"the server's log-probabilities of the prompt are not one a token: {plain(repr(place))}")
    token_id, entry = entries[0]
    text, log_prob = entry.get("decoded_token"), entry.get("logprob")
    return PromptToken(
        token_id, text if isinstance(text, str) else "", float(log_prob) if _is_log_prob(log_prob) else None
    )


def _check_log_probs(values: Sequence[float]) -> None:
    """Servers can be told to report logits, or figures from behind the sampler's masks (vLLM: --logprobs-mode)."""
    if not all(math.isfinite(value) and value > _LEAST_LOG_PROB for value in values):
        raise RequestFailed("the server lists impossible tokens: its log-probabilities are not the model's own")
    total = sum(math.exp(min(value, 1.0)) for value in set(values))
    if max(values) > _ROUNDING or total > 1.0 + _ROUNDING:
        raise RequestFailed(f"the server's figures are no log-probabilities: they sum to {total:.3g}")


def _first_choice(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise RequestFailed(f"the server's reply holds no choices: {plain(repr(dict(answer)))}")
    return choices[0]


def _mapping(holder: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = holder.get(key)
    if not isinstance(value, dict):
        raise RequestFailed(f"the server's reply holds no {key}")
    return value


def _count(counts: Mapping[str, Any], key: str) -> int:
    value = counts.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _is_log_prob(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value > _LEAST_LOG_PROB
