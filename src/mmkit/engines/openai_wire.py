"""What goes to an OpenAI-compatible server and what comes back, as plain values: no connection in here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmkit.engines import Reply, Request, Turn, Usage
from mmkit.engines.openai_http import RequestFailed, plain
from mmkit.engines.turn_formats import END_OF_TEXT, TURN_FORMATS, cut_turns
from mmkit.seeds import derive

TOP_LOG_PROBS = 20
"""How many of the most probable tokens are asked for; OpenAI's and vLLM's largest."""

_LEAST_LOG_PROB = -9999.0  # vLLM's stand-in for minus infinity


def text_before(request: Request) -> str:
    """The raw text that a prompt request continues."""
    return request.shared_prefix + (request.prompt or "")


def path(request: Request) -> str:
    """The endpoint that answers this kind of request."""
    return "/chat/completions" if request.prompt is None else "/completions"


def body(model: str, request: Request) -> dict[str, Any]:
    """The request's input, without decoding options. Raises RequestFailed where it cannot be sent."""
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
    turns: tuple[Turn, ...] = ()
    if request.open_turn == "user":
        found = cut_turns(text, ended=finish == "stop")
        if found is None:
            known = ", ".join(each.name for each in TURN_FORMATS)
            raise RequestFailed(f"the reply holds no turn marker of a known format ({known}): {text[:80]!r}")
        turns = found
    return Reply(request.id, text, turns, finish == "length", usage(answer))


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
    """The most probable next tokens with their log-probabilities, in falling order."""
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
    found: dict[str, float] = {}
    for token, log_prob in pairs:
        if isinstance(token, str) and _is_log_prob(log_prob):
            found[token] = max(float(log_prob), found.get(token, -math.inf))
    if not found:
        raise RequestFailed("the server's reply holds no log-probabilities of the next token")
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def whole_tokens(tokens: Mapping[str, float], choices: Sequence[str]) -> dict[str, float] | None:
    """The log-probability of each choice where every one is a single token that the server listed, else None."""
    return {choice: tokens[choice] for choice in choices} if all(c in tokens for c in choices) else None


def by_first_token(tokens: Mapping[str, float], choices: Sequence[str]) -> dict[str, float]:
    """The log-probability of each choice, or of its first token where that token tells it from the others.

    A part of a choice counts only where it ends with a word of the choice: "left" stands for "left lung", "O" never
    for "Open". Raises RequestFailed for a choice that no listed token stands for.
    """
    found = {}
    for choice in choices:
        others = [other for other in choices if other != choice]
        starts = [token for token in tokens if _starts(token, choice, others)]
        if not starts:
            listed = ", ".join(repr(token) for token in list(tokens)[:5])
            raise RequestFailed(
                f"choice {choice!r} is not among the {len(tokens)} most probable first tokens ({listed}, …)"
            )
        found[choice] = tokens[max(starts, key=len)]
    return found


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


def _starts(token: str, choice: str, others: Sequence[str]) -> bool:
    if token == choice:
        return True
    ends_word = bool(token.strip()) and choice.startswith(token) and not choice[len(token)].isalnum()
    return ends_word and not any(other.startswith(token) for other in others)


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
