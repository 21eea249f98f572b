"""Per-row metrics: what counts as right, what is not parsed, and that no hostile reply crashes or gets credit."""

from __future__ import annotations

import string
import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkit.errors import DataError, UsageError
from mmkit.tasks.metrics import METRICS, Score, metric_for, metric_named

ALL_RULES = [(name, rule) for name, metric in METRICS.items() for rule in metric.rules]
ORGANS = ["liver", "lung", "left kidney", "heart"]


def score(metric: str, prediction: str, rule: str | None = None, **record: Any) -> Score:
    chosen = METRICS[metric]
    return chosen.rules[rule or chosen.default_rule]({"prediction": prediction, **record})


@pytest.mark.parametrize(
    ("prediction", "answer", "value"),
    [
        ("Left lung", "left lung", 100),
        ("  left \n lung. ", "left lung", 100),
        ("left lung..", "left lung", 0),
        ("the left lung", "left lung", 0),
        ("3.5", "3.5.", 100),
        ("yes .", "Yes", 100),
    ],
)
def test_exact_match_strict(prediction: str, answer: str, value: float) -> None:
    assert score("em", prediction, answer=answer).value == value


def test_an_answer_that_is_only_a_mark_is_not_matched_by_nothing() -> None:
    assert score("em", ".", answer=".").value == 100
    assert score("em", "", answer=".") == Score(0, None)


def test_exact_match_raw_forgives_nothing() -> None:
    assert score("em", "lung", "raw", answer="lung").value == 100
    assert score("em", "Lung", "raw", answer="lung").value == 0
    assert score("em", "lung.", "raw", answer="lung").value == 0


def test_any_of_several_gold_answers_is_right() -> None:
    assert score("em", "two", answers=["2", "two"]).value == 100
    assert score("em", "2", answer="two", answers=["2"]).value == 100
    assert score("em", "three", answer="two", answers=["2"]).value == 0


@pytest.mark.parametrize(
    ("answer", "prediction", "adamllm", "strict"),
    [
        # The first two are the oracle of LLaVA-Med's scorer; it counts how often the *prediction* says a word.
        ("left lung", "The left lung is affected.", 100, 100),
        ("left lung", "left left left", 75, 50),
        ("left lung", "lung lung lung", 75, 50),
        ("left lung", "heart", 0, 0),
        ("the X-ray, two views", "2 views of an x ray", 100, 100),
        ("1,000 cells", "1000", 50, 50),
        ("don't", "dont", 100, 100),
        ("+", "+", 100, 100),
        ("+", "-", 0, 0),
    ],
)
def test_token_recall(answer: str, prediction: str, adamllm: float, strict: float) -> None:
    assert score("token-recall", prediction, "adamllm", answer=answer).value == adamllm
    assert score("token-recall", prediction, "strict", answer=answer).value == strict


@given(gold=st.lists(st.sampled_from("abcdef"), min_size=1), said=st.lists(st.sampled_from("abcdef"), unique=True))
def test_the_rules_of_token_recall_agree_unless_a_word_repeats(gold: list[str], said: list[str]) -> None:
    distinct = {"answer": " ".join(f"w{word}" for word in set(gold))}
    prediction = " ".join(f"w{word}" for word in said)
    one, other = (score("token-recall", prediction, rule, **distinct).value for rule in ("adamllm", "strict"))
    assert one == pytest.approx(other)


REPLIES_FOR_B = [
    "B", "b", "(B)", "B.", "B)", "(B).", "**B**", "B:", "lung", "Lung.", "B. lung", "(B) Lung", "**B. lung**",
    "The answer is B.", "The answer is (B).", "The correct answer is: B", "Answer: B", "**Answer:** B",
    "The lung lies above.\nAnswer: lung", "It is not A. The answer is B because A is too low.",
    "The answer is B. It shows air.", "The answer is **lung**.", "Final answer: B\nThe answer is B.",
]  # fmt: skip


@pytest.mark.parametrize("reply", REPLIES_FOR_B)
@pytest.mark.parametrize("gold", ["B", "lung", "(B)", "B. lung"])
def test_multiple_choice_reads_these_replies(reply: str, gold: str) -> None:
    assert score("mc", reply, answer=gold, choices=ORGANS) == Score(100, "lung")
    assert score("mc", reply, answer="C", choices=ORGANS) == Score(0, "lung")


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "E",
        "B or C",
        "B. heart",
        "I think B",
        "lungs",
        "The answer is not B.",
        "A lung",
        "BB",
        "spleen",
        "?",
        "The answer is A. The answer is B.",
        "The answer is B, C or D",
        "(lung",
    ],
)
def test_multiple_choice_never_guesses(reply: str) -> None:
    for gold in string.ascii_uppercase[: len(ORGANS)]:
        assert score("mc", reply, answer=gold, choices=ORGANS) == Score(0, None)


def test_options_that_differ_in_case_only_are_kept_apart() -> None:
    genotypes = ["FF", "Ff", "ff"]
    assert score("mc", "Ff", answer="Ff", choices=genotypes).value == 100
    assert score("mc", "ff", answer="Ff", choices=genotypes).value == 0
    assert score("mc", "fF", answer="Ff", choices=genotypes).parsed is None


def test_an_options_text_wins_over_a_letter_and_equal_options_are_one_answer() -> None:
    assert score("mc", "A", answer="A", choices=["B", "A"]) == Score(100, "A")
    assert score("mc", "C", answer="x", choices=["x", "y", "x"]).value == 100


def test_options_with_labels_of_their_own() -> None:
    choices = [" A: The liver", " B: The lung"]
    for reply in ("B", "The lung", "B: The lung", "B. the lung"):
        assert score("mc", reply, answer="B", choices=choices) == Score(100, "The lung")


@pytest.mark.parametrize(
    ("reply", "parsed"),
    [
        ("Yes", "yes"), ("no.", "no"), ("No, it is clear.", "no"), ("**Yes**", "yes"), ("The answer is no.", "no"),
        ("Yes\nIt is.", "yes"), ("The lungs are normal", None), ("No lesion is seen", None), ("nothing", None),
        ("yesterday", None), ("The answer is yes. The answer is no.", None), ("A", None),
    ],
)  # fmt: skip
def test_closed_questions(reply: str, parsed: str | None) -> None:
    for gold in ("yes", "no"):
        assert score("closed", reply, answer=gold) == Score(100 if parsed == gold else 0, parsed)
    options = ["Yes", "No"]
    if reply != "A":
        read = score("mc", reply, answer="No", choices=options).parsed
        assert (read.lower() if read else None) == parsed


@given(answer=st.text(min_size=1).filter(str.strip))
@pytest.mark.parametrize(("name", "rule"), [(name, rule) for name, rule in ALL_RULES if name not in ("mc", "closed")])
def test_the_gold_answer_itself_gets_the_maximum(name: str, rule: str, answer: str) -> None:
    assert score(name, answer, rule, answer=answer).value == METRICS[name].range[1]


@given(choices=st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=6), data=st.data())
def test_the_gold_option_itself_gets_the_maximum(choices: list[str], data: st.DataObject) -> None:
    answer = data.draw(st.sampled_from(choices))
    try:
        assert score("mc", answer, answer=answer, choices=choices).value == 100
    except DataError as error:  # an option such as "a" beside "A" may be ambiguous, and is then refused, not guessed
        assert "none of the" in str(error)


@given(prediction=st.text(), answer=st.text(min_size=1).filter(str.strip))
@pytest.mark.parametrize(("name", "rule"), ALL_RULES)
def test_any_text_scores_within_the_range(name: str, rule: str, prediction: str, answer: str) -> None:
    gold = {"answer": "yes"} if name == "closed" else {"answer": answer, "choices": [answer, f"not {answer}"]}
    found = score(name, prediction, rule, **gold)
    assert METRICS[name].range[0] <= found.value <= METRICS[name].range[1]
    assert found.parsed is not None or found.value == 0


HOSTILE = {
    "empty": "",
    "blank": " \n\t ",
    "a megabyte": "x" * 1_000_000,
    "a megabyte of blanks": "answer" + " " * 1_000_000 + "?",
    "a megabyte of statements": "the answer is " * 70_000,
    "a megabyte of brackets": "(" * 1_000_000,
    "control characters": "".join(map(chr, range(32))),
    "html": "<b>&nbsp;</b><script>",
    "right to left": "\u202egnul\u202c שלום",
    "lone surrogate": "\ud800",
    "nan": "nan",
    "infinity": "Infinity",
    "four zeros": "[0, 0, 0, 0]",
}


@pytest.mark.parametrize("prediction", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize(("name", "rule"), ALL_RULES)
def test_hostile_predictions_get_no_credit(name: str, rule: str, prediction: str) -> None:
    gold = {"answer": "no"} if name == "closed" else {"answer": "lung", "choices": ORGANS}
    started = time.process_time()
    assert score(name, prediction, rule, **gold).value == 0
    assert time.process_time() - started < 10  # a quadratic parse of a megabyte takes minutes


@pytest.mark.parametrize(
    ("record", "word"),
    [
        ({"answer": "x"}, "prediction"),
        ({"prediction": None, "answer": "x"}, "prediction"),
        ({"prediction": 3, "answer": "x"}, "prediction"),
        ({"prediction": "x"}, "answer"),
        ({"prediction": "", "answer": ""}, "answer"),
        ({"prediction": "x", "answer": " ", "answers": []}, "answer"),
        ({"prediction": "x", "answer": 3}, "answer"),
        ({"prediction": "x", "answers": "x"}, "answers"),
    ],
)
@pytest.mark.parametrize(("name", "rule"), ALL_RULES)
def test_rows_that_cannot_be_scored_are_data_errors(name: str, rule: str, record: dict[str, Any], word: str) -> None:
    with pytest.raises(DataError, match=word):
        METRICS[name].rules[rule](record)


def test_multiple_choice_wants_a_gold_answer_among_the_options() -> None:
    with pytest.raises(DataError, match="none of the 4 choices"):
        score("mc", "lung", answer="spleen", choices=ORGANS)
    with pytest.raises(DataError, match="choices: missing"):
        score("mc", "lung", answer="lung")
    with pytest.raises(DataError, match="expected yes or no"):
        score("closed", "lung", answer="lung")


def test_which_metric_a_row_gets() -> None:
    assert metric_for({"choices": ["a"], "metric": "em"}).name == "em"
    assert metric_for({"choices": ["a"]}).name == "mc"
    assert metric_for({"answer": "yes"}).name == "em"  # never from the gold answer
    with pytest.raises(UsageError, match="perplexity"):
        metric_named("perplexity")
    with pytest.raises(DataError, match="perplexity"):
        metric_for({"metric": "perplexity"})
    with pytest.raises(UsageError, match="adamllm"):
        metric_named("em").require_rule("adamllm")


def test_importing_metrics_and_evaluation_loads_no_numpy() -> None:
    code = "import sys, mmkit.tasks.metrics, mmkit.evaluation.compare; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
