"""The fields of a record that scorers read, each checked."""

from __future__ import annotations

from mmkit.errors import DataError
from mmkit.tasks.metrics.metric import Record


def prediction(record: Record) -> str:
    """The model's reply, without its thinking: what stands behind the last "</think>".

    Nothing where the reply opens with "<think>" and never ends it: an answer that came up on the way is not given.
    Raises DataError where the field is missing or no text.
    """
    reply = record.get("prediction")
    if reply is None:
        raise DataError("prediction: missing")
    if not isinstance(reply, str):
        raise DataError(f"prediction: expected a string, got {type(reply).__name__}")
    _, ended, answer = reply.rpartition("</think>")
    if ended:
        return answer.lstrip()
    return "" if reply.lstrip().startswith("<think>") else reply


def golds(record: Record) -> list[str]:
    """The gold answers, `answer` first; blank ones do not count, so that an empty reply can never be right.

    Raises DataError where there is none, or one is no text.
    """
    answer, answers = record.get("answer"), record.get("answers")
    if answers is not None and not isinstance(answers, list | tuple):
        raise DataError(f"answers: expected a list, got {type(answers).__name__}")
    given = [*([] if answer is None else [answer]), *(answers or ())]
    for gold in given:
        if not isinstance(gold, str):
            raise DataError(f"answer: expected a string, got {type(gold).__name__}")
    found = [gold for gold in given if gold.strip()]
    if not found:
        raise DataError("answer: missing or blank, and there are no answers")
    return found


def choices(record: Record) -> list[str]:
    """The options of a multiple-choice question, or none. Raises DataError where one is no text."""
    found = record.get("choices") or []
    if not isinstance(found, list | tuple) or not all(isinstance(choice, str) for choice in found):
        raise DataError("choices: expected a list of strings")
    return list(found)
