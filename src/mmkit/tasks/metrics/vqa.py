"""VQA soft accuracy, and the normal form of answers that goes with it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmkit.tasks.extraction import answer_span
from mmkit.tasks.metrics.fields import golds, prediction
from mmkit.tasks.metrics.metric import Record, Score

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_GROUPED_DIGITS = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBER_WORDS)}
ARTICLES = frozenset({"a", "an", "the"})
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
    would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
_MENDED = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTIONS.split()
    for place, letter in enumerate(word)
    if letter == "'"
}
"""Contractions by what is left of them where one apostrophe is missing."""

_ANNOTATORS_WANTED = 3
"""So many annotators besides oneself have to give an answer for it to be fully right."""


def soft_accuracy(record: Record, always_normalised: bool) -> Score:
    """How far the annotators' `answers` agree with the reply: the mean over them of min(agreeing others / 3, 1).

    Range 0 to 100 %; k of 10 agreeing give 0, 30, 60, 90 and then 100. The reply is read by `extraction.answer_span`.
    Rule "strict" brings texts to `vqa_form` only where the answers differ, as the official evaluation does, so that
    "Yes" is wrong where all say "yes"; rule "normalised" always does. Fewer than four answers, or `answer` alone, are
    no such poll: both rules normalise, and agreeing with any is right. Source: VQAv2 (Goyal et al. 2017). Deviation:
    a closer of the reply is read, and a blank reply is wrong.
    """
    reply, answers = prediction(record), _annotations(record)
    if not reply.strip():
        return Score(0.0, None)
    parsed = _one_line(answer_span(reply))
    is_poll = len(answers) > _ANNOTATORS_WANTED
    if always_normalised or not is_poll or len(set(answers)) > 1:
        parsed, answers = vqa_form(parsed), [vqa_form(answer) for answer in answers]
    agreeing = answers.count(parsed)
    return Score(100.0 * (_left_out_mean(agreeing, len(answers)) if is_poll else float(agreeing > 0)), parsed)


def vqa_form(text: str) -> str:
    """Lower case without articles and most marks, number words up to ten as digits, apostrophes put back ("dont").

    A mark next to a blank is dropped, any other becomes a blank; in a text with grouped digits ("1,000") all are
    dropped. Full stops go unless a digit follows. Source: the official VQA evaluation. Deviation: it mends "somebodyd"
    as it does the rest, and takes more than 32 full stops out.
    """
    drop_all = _GROUPED_DIGITS.search(text) is not None
    marks = {
        ord(mark): None if drop_all or f"{mark} " in text or f" {mark}" in text else " "
        for mark in _MARKS
        if mark in text
    }
    words = _FULL_STOP.sub("", text.translate(marks)).lower().split()
    counted = (NUMBERS.get(word, word) for word in words)
    return " ".join(_MENDED.get(word, word) for word in counted if word not in ARTICLES)


def _left_out_mean(agreeing: int, annotators: int) -> float:
    """Each annotator is left out in turn: `agreeing` of them find one fewer that agrees with the reply."""
    with_one_less = agreeing * min((agreeing - 1) / _ANNOTATORS_WANTED, 1)
    rest = (annotators - agreeing) * min(agreeing / _ANNOTATORS_WANTED, 1)
    return (with_one_less + rest) / annotators


def _annotations(record: Record) -> Sequence[str]:
    """The annotators' answers, without `answer` where there are both: that one is nobody's vote."""
    answers = record.get("answers")
    return [_one_line(gold) for gold in golds({"answers": answers} if answers else record)]


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
