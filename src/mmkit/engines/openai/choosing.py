"""The log-probability of each of a list of choices, from what a server tells: exact, or an error."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from mmkit.engines import Choice, Request, Usage
from mmkit.engines.openai import wire
from mmkit.engines.openai.http import RequestFailed

Post = Callable[[str, dict[str, Any]], Coroutine[Any, Any, dict[str, Any]]]

_SHORT = Request("", 0, [{"role": "user", "content": [{"type": "text", "text": "?"}]}])
"""A chat template begins an answer in the same way whatever stands before it, so one short chat shows it for all."""


class Chooser:
    """Answers the `choose` requests of one stream, which all have the same choices."""

    def __init__(self, model: str, choices: Sequence[str]) -> None:
        self._model = model
        self._choices = choices
        self._endings: Mapping[str, Sequence[wire.PromptToken]] = {}
        self._no_endings = ""  # why the server gives none
        self._lock = asyncio.Lock()

    async def choose(self, post: Post, request: Request) -> Choice:
        """One request's choices. Raises RequestFailed."""
        start = wire.body(self._model, request)
        answer = await post(wire.path(request), start | wire.first_token_options(request))
        tokens = wire.first_tokens(request, answer)
        if request.prompt is None:
            await self._learn_endings(post)
        names = {choice: self._only_token(choice) for choice in self._choices}
        listed = {choice: tokens[name] for choice, name in names.items() if name in tokens}
        missing = [choice for choice in self._choices if choice not in listed]
        if request.prompt is None and missing and self._no_endings:
            shown = ", ".join(repr(token) for token in list(tokens)[:5])
            raise RequestFailed(
                f"choice {missing[0]!r} is not among the {len(tokens)} most probable next tokens ({shown}, …), and "
                f"the server gives no other log-probabilities ({self._no_endings})"
            )
        ask = self._in_chat if request.prompt is None else _in_prompt
        asked = await asyncio.gather(*(ask(post, request, start, choice) for choice in missing))
        found = listed | {choice: log_prob for choice, (log_prob, _) in zip(missing, asked, strict=True)}
        usage = _sum([wire.usage(answer), *(usage for _, usage in asked)])
        return Choice(request.id, {choice: found[choice] for choice in self._choices}, usage)

    def _only_token(self, choice: str) -> str | None:
        """The text of the token that the choice is in this place; None where it is several."""
        ending = self._endings.get(choice)
        if ending is None:
            return choice
        return ending[0].text if len(ending) == 1 else None

    async def _learn_endings(self, post: Post) -> None:
        """Ask, once a stream, what tokens the chat template makes of each choice, with the space it may put before."""
        async with self._lock:
            if self._endings or self._no_endings:
                return
            start = wire.body(self._model, _SHORT)
            path = wire.path(_SHORT)
            try:
                prompt = wire.prompt_tokens(await post(path, start | wire.prompt_options()))
                self._endings = {
                    choice: _ending(
                        prompt,
                        wire.prompt_tokens(
                            await post(path, wire.with_answer(start, choice) | wire.prompt_options(choice))
                        ),
                        choice,
                    )
                    for choice in self._choices
                }
            except RequestFailed as failure:
                if not failure.refused:
                    raise
                self._no_endings = str(failure)

    async def _in_chat(
        self, post: Post, request: Request, start: Mapping[str, Any], choice: str
    ) -> tuple[float, Usage]:
        answer = await post(wire.path(request), wire.with_answer(start, choice) | wire.prompt_options(choice))
        expected = self._endings[choice]
        tokens = wire.prompt_tokens(answer)[-len(expected) :]
        if [token.id for token in tokens] != [token.id for token in expected]:
            cut = "|".join(token.text for token in tokens)
            raise RequestFailed(f"the server's tokens do not line up with choice {choice!r} (found {cut!r})")
        log_probs = [token.log_prob for token in tokens if token.log_prob is not None]
        if len(log_probs) < len(expected):
            raise RequestFailed(f"the server sent no log-probability for a token of choice {choice!r}")
        return sum(log_probs), wire.usage(answer)


async def _in_prompt(post: Post, request: Request, start: Mapping[str, Any], choice: str) -> tuple[float, Usage]:
    body = {**start, "prompt": wire.text_before(request) + choice} | wire.echo_options()
    answer = await post("/completions", body)
    return wire.sum_of_choice(request, answer, choice), wire.usage(answer)


def _ending(
    prompt: Sequence[wire.PromptToken], whole: Sequence[wire.PromptToken], choice: str
) -> Sequence[wire.PromptToken]:
    """The tokens that the choice adds to the prompt. Raises RequestFailed where that is not what `whole` holds."""
    ending = whole[len(prompt) :]
    if [token.id for token in whole[: len(prompt)]] != [token.id for token in prompt]:
        raise RequestFailed("the server's chat template writes an answer otherwise than it asks for one")
    text = "".join(token.text for token in ending)
    if not ending or text.strip() != choice.strip():
        raise RequestFailed(f"the server's chat template makes {text!r} of choice {choice!r}")
    return ending


def _sum(usages: Iterable[Usage]) -> Usage:
    rows = [dataclasses.astuple(usage) for usage in usages]
    return Usage(*(sum(column) for column in zip(*rows, strict=True)))
