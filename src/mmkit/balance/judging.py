"""A model that says whether two answers mean the same."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from importlib import resources

import orjson

from mmkit.balance.asking import Question, Subject
from mmkit.balance.interaction import UNIMODAL, Unimodal
from mmkit.balance.views import Shown
from mmkit.engines import Choice
from mmkit.errors import DataError
from mmkit.records import Record, message, parts_text
from mmkit.tasks import prompts
from mmkit.tasks.extraction import plain
from mmkit.tasks.metrics import fields

VERDICTS = ("yes", "no")
_SLOT = re.compile(r"\{(question|answer_1|answer_2)\}")


def judge_questions(subjects: Iterable[Subject]) -> Iterator[Question[Choice]]:
    """For each subject the judge's questions: does what a unimodal view predicts mean the same as what both do?

    The probability of yes among yes and no is how alike they are. Texts that are equal but for case, white space and a
    full stop are 1 unasked; thinking is no part of them. The unimodal one is shown first, and asked about in this order
    alone. Source: none; MINT's δ is any semantic similarity in [0, 1].
    """
    for subject in subjects:
        for view in UNIMODAL:
            one, other = (_said(subject.predictions[asked]) for asked in (view, "both"))
            if view in subject.judged:
                continue
            if plain(one) == plain(other):
                subject.judged[view] = 1.0
                continue
            text = _filled(question=asked_of(subject.row.record), answer_1=one, answer_2=other)
            yield Question(subject, f"judge-{view}", Shown([message("user", text)]), _taker(subject, view))


def _taker(subject: Subject, view: Unimodal) -> Callable[[Choice], None]:
    def take(choice: Choice) -> None:
        yes, no = (choice.log_probs[verdict] for verdict in VERDICTS)
        if math.isnan(no - yes):
            raise DataError(f"the judge gave neither yes nor no a probability ({view})")
        subject.judged[view] = 1 / (1 + math.exp(min(no - yes, 700.0)))

    return take


def _said(prediction: str) -> str:
    """A prediction without its thinking."""
    return fields.prediction({"prediction": prediction})


def asked_of(record: Record) -> str:
    """The question whose answers a judge compares. Raises DataError where there is none."""
    question = record.get("question")
    return question if question else parts_text(prompts.conversation(record)[-1])


def _filled(**texts: str) -> str:
    """The prompt with each text as a JSON string in its slot: no text can end its own quotes."""
    prompt = resources.files(__package__).joinpath("judge.txt").read_text(encoding="utf-8")
    return _SLOT.sub(lambda slot: orjson.dumps(texts[slot[1]]).decode(), prompt)
