"""The consistency filter: does the precise answer follow from the informative one?

Source: AdaMLLM, section 3.1.2 and its Figures 6 and 7. The judge is a language model with few-shot examples, or, with
no model at all, the test whether the answer's words occur in the texts that should support it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import orjson

from mmkit.engines import Choice, Request
from mmkit.engines.exchange import Inquiry
from mmkit.errors import DataError, MissingInputError, UnavailableError, UsageError
from mmkit.records import Record
from mmkit.streams import Dropped, Row, each
from mmkit.streams.rows import Stage

VERDICTS = ("yes", "no", "open")
_FIELDS = ("question", "informative", "precise", "verdict")


@dataclass(frozen=True, slots=True)
class FewShot:
    """The text before the task to judge: what to do, and examples of every verdict."""

    instruction: str
    examples: Sequence[dict[str, str]]

    def prefix(self) -> str:
        """The part that all prompts share."""
        solved = [
            f"{_task_text(e['question'], e['informative'], e['precise'])} {_word(e['verdict'])}" for e in self.examples
        ]
        return "\n\n".join([self.instruction, *solved]) + "\n\n"


def load_few_shot(path: str | None) -> FewShot:
    """The project's own examples, or those of a JSON file {"instruction", "examples"}. Raises UsageError."""
    try:
        data = (
            Path(path).read_bytes()
            if path
            else resources.files("mmkit.synthesis").joinpath("consistency.json").read_bytes()
        )
    except OSError as error:
        raise MissingInputError(f"{path}: {error.strerror}") from None
    try:
        content = orjson.loads(data)
        examples = [{name: str(example[name]) for name in _FIELDS} for example in content["examples"]]
        instruction = str(content["instruction"])
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise UsageError(
            f'{path}: expected {{"instruction": …, "examples": [{", ".join(_FIELDS)}]}}: {error}'
        ) from None
    if {example["verdict"] for example in examples} != set(VERDICTS):
        raise UsageError(f"{path}: the examples must show each of the verdicts {', '.join(VERDICTS)}, and no other")
    return FewShot(instruction, examples)


def judge_by_model(
    few_shot: FewShot,
    *,
    keep: Collection[str] = ("yes",),
    threshold: float = 0.0,
    tally: Counter[str] | None = None,
) -> Inquiry[Choice]:
    """The inquiry that keeps tasks by the judge's verdict.

    The verdict is the most probable of Yes, No and Open as the continuation of the few-shot prompt; the task is kept
    if the verdict is in `keep` and its probability among the three is at least `threshold`. Deviation from the paper,
    which generates the word: log-probabilities give a verdict in every case, and a confidence.
    """
    prefix = few_shot.prefix()
    words = [f" {_word(verdict)}" for verdict in VERDICTS]

    def request(row: Row) -> list[Request]:
        question, rationale, answer = _triplet(row.record)
        prompt = _task_text(question, rationale, answer)
        return [Request(id=row.record["id"], position=row.position, prompt=prompt, shared_prefix=prefix)]

    def finish(row: Row, choices: Sequence[Choice]) -> Row | Dropped:
        (choice,) = choices
        if choice.error is not None:
            raise UnavailableError(f"the judge gave no verdict: {choice.error}")
        verdict = choice.best.strip().lower()
        confidence = _probability(choice)
        if tally is not None:
            tally[verdict] += 1
        if verdict in keep and confidence >= threshold:
            return row
        return Dropped(row, f"verdict {verdict}, probability {confidence:.3f}")

    return Inquiry(request, finish, choices=words)


def judge_by_words(*, within: Sequence[str] = ("rationale",)) -> Stage:
    """A stage that keeps tasks whose answer occurs, as whole words, in each of the fields `within`.

    No model is asked. Case and white space are ignored, and one full stop at the end of the answer. It is strict: an
    answer in other words than the text's ("yes" to a question about it) is dropped.
    """

    def judge(row: Row) -> Row | Dropped:
        record = row.record
        _triplet(record)
        answer = folded(record["answer"]).removesuffix(".")
        for name in within:
            text = record.get(name)
            if not isinstance(text, str):
                raise DataError(f"{name}: the filter looks for the answer there, and the record has none")
            if not occurs(answer, folded(text)):
                return Dropped(row, f"the answer does not occur in {name}")
        return row

    return each(judge)


def _triplet(record: Record) -> tuple[str, str, str]:
    values = []
    for name in ("question", "rationale", "answer"):
        value = record.get(name)
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{name}: the filter needs it, and the record has none")
        values.append(value)
    return values[0], values[1], values[2]


def _task_text(question: str, informative: str, precise: str) -> str:
    return f"Question: {question}\nDetailed answer: {informative}\nShort answer: {precise}\nSupported:"


def _word(verdict: str) -> str:
    return verdict.capitalize()


def _probability(choice: Choice) -> float:
    """The best choice's probability among all choices."""
    best = choice.log_probs[choice.best]
    return 1 / sum(math.exp(value - best) for value in choice.log_probs.values())


def folded(text: str) -> str:
    """The text without differences of case and white space."""
    return " ".join(text.casefold().split())


def occurs(words: str, text: str) -> bool:
    """Whether `words` stand in `text` with no further letter, digit or underscore on either side.

    What a regular expression would say; but one would have to be compiled for every row, which costs more than all
    else that is done to the row.
    """
    start = text.find(words)
    while start >= 0:
        end = start + len(words)
        if not _in_word(text[start - 1 : start]) and not _in_word(text[end : end + 1]):
            return True
        start = text.find(words, start + 1)
    return False


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"
