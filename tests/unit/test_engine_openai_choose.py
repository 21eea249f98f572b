"""Log-probabilities of choices from a server: exact, or an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from openai_kit import ask, engine, plain_environment  # noqa: F401

from mmkit.testing.planted_language import PlantedModel
from mmkit.testing.server import Answer, OpenAiServer, Received, completed, completion

pytestmark = [pytest.mark.loopback, pytest.mark.usefixtures("socket_enabled")]


PROMPT = "Is it there?\nAnswer:"


def test_single_token_choices_of_a_prompt_take_one_request_and_are_exact() -> None:
    planted = PlantedModel([" yes", " no", " open", " blue"])
    with OpenAiServer(planted.answer) as server:
        (choice,) = engine(server).choose([ask(0, messages=(), prompt=PROMPT)], [" yes", " no"])
        assert len(server.received) == 1
    assert choice.log_probs == {c: pytest.approx(planted.total(PROMPT, c)) for c in (" yes", " no")}
    assert list(choice.log_probs) == [" yes", " no"]


@pytest.mark.parametrize("begin", ["", "<s>"])
def test_choices_of_unequal_length_are_summed_over_all_their_tokens(begin: str) -> None:
    choices = [" yes", " left lung", " the right lower lobe", " yes, somewhat"]
    planted = PlantedModel([" yes"], begin=begin)
    requests = [ask(n, messages=(), shared_prefix="Examples.\n", prompt=f"Case {n}. {PROMPT}") for n in range(4)]
    with OpenAiServer(planted.answer) as server:
        found = list(engine(server, max_in_flight=3).choose(requests, choices))
        assert server.peak_in_flight <= 3
    for request, choice in zip(requests, found, strict=True):
        truth = {c: pytest.approx(planted.total(f"Examples.\n{request.prompt}", c)) for c in choices}
        assert (choice.id, choice.error, choice.log_probs) == (request.id, None, truth)
        assert choice.usage.prompt_tokens == 7 * 4  # " yes" was listed


def test_a_token_over_the_end_of_the_prompt_is_an_error() -> None:
    planted = PlantedModel([" yes"])
    with OpenAiServer(planted.answer) as server:
        (choice,) = engine(server).choose([ask(0, messages=(), prompt="Answer: ")], ["yes", "no"])
    assert choice.error is not None
    assert "do not line up with choice 'yes'" in choice.error
    assert choice.log_probs == {}


CHOICES = ["Yes", "No", "left lung", "the right lower lobe"]


@pytest.mark.parametrize("gap", ["", " "])
def test_choices_of_a_chat_are_summed_over_all_their_tokens(gap: str) -> None:
    planted = PlantedModel([f"{gap}Yes", f"{gap}No", f"{gap}left", "O"], gap=gap)
    requests = [ask(number) for number in range(4)]
    with OpenAiServer(planted.answer) as server:
        found = list(engine(server, max_in_flight=3).choose(requests, CHOICES))
        assert server.peak_in_flight <= 3
        # Once: what the template makes of "?" and of each choice. A row: the next tokens, and two choices of several.
        assert len(server.received) == (1 + 4) + 4 * (1 + 2)
    for request, choice in zip(requests, found, strict=True):
        truth = {each: pytest.approx(planted.total_in_chat(request.messages, each)) for each in CHOICES}
        assert (choice.id, choice.error, choice.log_probs) == (request.id, None, truth)
        assert list(choice.log_probs) == CHOICES
        assert choice.usage.prompt_tokens == 7 * 3


def test_a_token_that_looks_like_the_choice_is_not_taken_for_the_one_behind_the_templates_space() -> None:
    # "assistant:" and "Yes" are "assistant: Yes" in this template; the listed "Yes" would be "assistant:Yes".
    planted = PlantedModel(["Yes", " Yes", "No"], gap=" ")
    with OpenAiServer(planted.answer) as server:
        (choice,) = engine(server).choose([ask(0)], ["Yes", "No"])
    assert choice.log_probs == {
        each: pytest.approx(planted.total_in_chat(ask(0).messages, each)) for each in ("Yes", "No")
    }


@pytest.mark.parametrize(("tells_prompts", "why"), [(False, "HTTP 400: Unrecognized"), (None, "of the prompt")])
def test_a_server_that_tells_no_prompts_gives_listed_choices_or_an_error(tells_prompts: bool | None, why: str) -> None:
    planted = PlantedModel(["Yes", "No", "left", "right", "O"], tells_prompts=tells_prompts)
    with OpenAiServer(planted.answer) as server:
        (short, again) = engine(server, max_in_flight=1).choose([ask(0), ask(1)], ["Yes", "No"])
        assert len(server.received) == 3  # that it tells none has to be found out once
        (long,) = engine(server).choose([ask(0)], ["Yes", "left lung"])
        (part,) = engine(server).choose([ask(0)], ["Yes", "Open"])
    assert short.log_probs == {c: pytest.approx(planted.total_in_chat(ask(0).messages, c)) for c in ("Yes", "No")}
    assert again.log_probs == {c: pytest.approx(planted.total_in_chat(ask(1).messages, c)) for c in ("Yes", "No")}
    for choice, name in ((long, "left lung"), (part, "Open")):
        assert choice.log_probs == {}
        assert choice.error is not None
        assert f"choice {name!r} is not among the 5 most probable next tokens" in choice.error
        assert why in choice.error


class Shouting(PlantedModel):
    """Its template changes what the assistant says."""

    def _rendered(self, messages: Sequence[Mapping[str, Any]], *, asks: bool) -> str:
        text = super()._rendered(messages, asks=asks)
        return text if asks else text.upper()


class Polite(PlantedModel):
    """Its template changes an answer that is there, and asks for one without that."""

    def _rendered(self, messages: Sequence[Mapping[str, Any]], *, asks: bool) -> str:
        text = super()._rendered(messages, asks=asks)
        return text if asks else text.replace("assistant:", "assistant:thinking\n")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (Shouting, "writes an answer otherwise than it asks for one"),
        (Polite, "makes 'thinking\\nYes' of choice"),
    ],
)
def test_a_template_that_alters_an_answer_is_an_error(template: type[PlantedModel], words: str) -> None:
    planted = template(["Yes", "No"])
    with OpenAiServer(planted.answer) as server:
        (choice,) = engine(server).choose([ask(0)], ["Yes", "No"])
    assert choice.log_probs == {}
    assert choice.error is not None
    assert words in choice.error


def test_other_tokens_or_none_at_a_choices_place_are_an_error() -> None:
    planted = PlantedModel(["Yes", "No"])

    def answer(received: Received) -> Answer:
        told = planted.answer(received)
        if "row 0" in str(received.body):
            told.body.get("prompt_logprobs", [None])[-1:] = [{"999": {"logprob": -1.0, "decoded_token": "lung"}}]
        if "row 1" in str(received.body):
            told.body.get("prompt_logprobs", [None])[-1:] = [{**told.body.get("prompt_logprobs", [{}])[-1]}]
            for place in told.body["prompt_logprobs"][-1:] if "continue_final_message" in received.body else []:
                next(iter(place.values()))["logprob"] = -9999.0
        return told

    with OpenAiServer(answer) as server:
        other, none, good = engine(server).choose([ask(number) for number in range(3)], ["left lung", "No"])
    assert other.error is not None
    assert "do not line up with choice 'left lung'" in other.error
    assert none.error == "the server sent no log-probability for a token of choice 'left lung'"
    assert good.log_probs["left lung"] == pytest.approx(planted.total_in_chat(ask(2).messages, "left lung"))


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ([("Yes", 12.5), ("No", 3.0)], "no log-probabilities: they sum to"),
        ([("Yes", -0.1), ("No", -0.2)], "no log-probabilities: they sum to 1.7"),
        ([("Yes", 0.0), ("No", -9999.0)], "not the model's own"),
        ([("Yes", 0.0), ("No", -1e30)], "not the model's own"),
    ],
)
def test_logits_and_figures_behind_a_mask_are_no_log_probabilities(listed: list[tuple[str, float]], words: str) -> None:
    def answer(_: Received) -> Answer:
        top = [{"token": token, "logprob": value} for token, value in listed]
        return Answer(completed({"message": {"content": "Yes"}, "logprobs": {"content": [{"top_logprobs": top}]}}))

    with OpenAiServer(answer) as server:
        (choice,) = engine(server).choose([ask(0)], ["Yes", "No"])
    assert choice.log_probs == {}
    assert choice.error is not None
    assert words in choice.error


def test_two_tokens_of_one_text_are_told_apart_by_the_prompt() -> None:
    planted = PlantedModel(["Yes", "No"])

    def answer(received: Received) -> Answer:
        told = planted.answer(received)
        told.body["choices"][0]["logprobs"]["content"][0]["top_logprobs"].append({"token": "Yes", "logprob": -7.5})
        return told

    with OpenAiServer(answer) as server:
        (choice,) = engine(server).choose([ask(0)], ["Yes", "No"])
    assert choice.log_probs["Yes"] == pytest.approx(planted.total_in_chat(ask(0).messages, "Yes"))


@pytest.mark.parametrize(
    "log_probs",
    [
        None,
        {},
        {"tokens": [" yes"], "token_logprobs": [-1.0]},
        {"tokens": ["Q", " left", " lung"], "token_logprobs": [None, -9999.0, -1.0], "text_offset": [0, 1, 6]},
        {"tokens": ["Q", " left", " lung"], "token_logprobs": [None, None, -1.0], "text_offset": [0, 1, 6]},
        {"tokens": ["Q", " left", " lung"], "token_logprobs": [None, -1.0, -1.0], "text_offset": [0, 2, 7]},
    ],
)
def test_echoed_nonsense_is_an_error_and_never_a_number(log_probs: Any) -> None:
    def answer(received: Received) -> Answer:
        top = {"top_logprobs": [{" yes": -0.1}]}
        body = completion("x").body
        body["choices"][0]["logprobs"] = log_probs if received.body.get("echo") else top
        return Answer(body)

    with OpenAiServer(answer) as server:
        (choice,) = engine(server).choose([ask(0, messages=(), prompt="Q")], [" left lung"])
    assert choice.error
    assert choice.log_probs == {}


def test_a_server_without_log_probabilities_is_said_so() -> None:
    with OpenAiServer() as server:
        (choice,) = engine(server).choose([ask(0)], ["Yes", "No"])
    assert choice.error == "the server's reply holds no logprobs"


@pytest.mark.parametrize("choices", [[], ["a", "a"], ["a", ""]])
def test_choices_that_cannot_be_told_apart_are_refused(choices: list[str]) -> None:
    with OpenAiServer() as server, pytest.raises(ValueError, match="distinct"):
        engine(server).choose([ask(0)], choices)
