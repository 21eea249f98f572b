"""Metrics against independent libraries, on random input and on the figures that the design's authors printed.

| metric | measured against |
|---|---|
| cider | pycocoevalcap's printed figures; it is computed by that library |
| rouge-l strict | rouge-score's printed figure; the longest common subsequence of rapidfuzz |
| rouge-l adamllm | the package rouge 1.0.1 |
| bleu, chrf | sacrebleu's corpus functions |
| gleu | nltk's corpus_gleu |
| anls | nltk's edit_distance |
| token-f1, token-recall | scikit-learn's f1_score and recall_score, on texts without repeated words |
| multilabel-f1, ingredient-recall, pope | scikit-learn's f1_score, recall_score, precision_score, accuracy_score |
| iou | cells counted on a grid |

em, vqa, closed, mc, relaxed, mme: computed by hand in test_metrics_cases. similarity: tests/tiny.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mmkit.tasks.metrics import METRICS, Score

REFERENCES = [
    ["a man rides a horse on the beach", "a person riding a horse near the ocean"],
    ["two dogs play with a red ball in the grass", "dogs playing in a green field with a ball"],
    ["a plate of pasta with tomato sauce", "pasta topped with red sauce on a white plate"],
    ["a bus parked on the street", "a red bus on a city street"],
]
CANDIDATES = [
    "a man riding a horse on the beach",
    "two dogs playing in the grass",
    "a bowl of soup",
    "a red bus on the street",
]
RECORDS = [{"prediction": said, "answers": wanted} for said, wanted in zip(CANDIDATES, REFERENCES, strict=True)]

TOKENS = ["a", "b", "c", "red", "dog's", "bus,", "x-y", "Dog", "3.5", "the", ".", "é"]
some_words = st.lists(st.sampled_from(TOKENS), max_size=9).map(" ".join)
some_text = some_words.filter(lambda text: re.search(r"\w", text))
corpora = st.lists(st.tuples(some_words, some_text, some_text), min_size=1, max_size=4)


def row(name: str, record: dict[str, Any], rule: str = "strict") -> Score:
    return METRICS[name].rules[rule](record)


def mean(name: str, records: Sequence[dict[str, Any]], rule: str = "strict") -> float:
    return float(np.mean([row(name, record, rule).value for record in records]))


def pooled(name: str, records: Sequence[dict[str, Any]]) -> float:
    metric = METRICS[name].pooled
    assert metric is not None
    return float(metric.value(np.sum([row(name, record).statistics for record in records], axis=0)))


def records_of(corpus: list[tuple[str, str, str]]) -> list[dict[str, Any]]:
    return [{"prediction": said, "answers": wanted} for said, *wanted in corpus]


@pytest.mark.parametrize("rule", ["strict", "visatb"])
def test_cider_prints_the_known_figures(rule: str) -> None:
    found = [score.value for score in METRICS["cider"].corpus_rules[rule](RECORDS)]
    assert found == pytest.approx([4.067971, 2.507140, 0.277960, 4.344220], abs=5e-7)
    assert np.mean(found) == pytest.approx(2.799323, abs=5e-7)
    alone = METRICS["cider"].corpus_rules[rule](RECORDS[:1])
    assert alone[0].value == 0  # the frequencies are those of the references given: one row has none


def test_rouge_bleu_chrf_and_gleu_print_the_known_figures() -> None:
    first = [{"prediction": record["prediction"], "answer": record["answers"][0]} for record in RECORDS]
    assert mean("rouge-l", first) == pytest.approx(67.4242, abs=5e-5)
    assert pooled("bleu", RECORDS) == pytest.approx(44.133398, abs=5e-7)
    assert pooled("chrf", RECORDS) == pytest.approx(50.148288, abs=1e-6)
    assert pooled("gleu", RECORDS) == pytest.approx(37.5, abs=5e-7)


def test_llava_meds_open_recall_prints_the_known_figures() -> None:
    for said, value in (("The left lung is affected.", 100), ("left left left", 75), ("lung lung lung", 75)):
        assert row("token-recall", {"prediction": said, "answer": "left lung"}, "adamllm").value == value


@given(corpus=corpora)
def test_bleu_is_sacrebleus(corpus: list[tuple[str, str, str]]) -> None:
    import sacrebleu

    said, *wanted = map(list, zip(*corpus, strict=True))
    assert pooled("bleu", records_of(corpus)) == pytest.approx(sacrebleu.corpus_bleu(said, wanted, force=True).score)


@given(corpus=corpora)
def test_chrf_is_sacrebleus(corpus: list[tuple[str, str, str]]) -> None:
    import sacrebleu

    said, *wanted = map(list, zip(*corpus, strict=True))
    assert pooled("chrf", records_of(corpus)) == pytest.approx(sacrebleu.corpus_chrf(said, wanted).score)
    one = sacrebleu.sentence_chrf(said[0], [texts[0] for texts in wanted]).score
    assert row("chrf", records_of(corpus)[0]).value == pytest.approx(one)


@given(corpus=corpora)
def test_gleu_is_nltks(corpus: list[tuple[str, str, str]]) -> None:
    from nltk.translate.gleu_score import corpus_gleu

    from mmkit.tasks.metrics.texts import words_of

    split = [[words_of(text).split() for text in texts] for texts in corpus]
    expected = corpus_gleu([wanted for _, *wanted in split], [said for said, *_ in split])
    assert pooled("gleu", records_of(corpus)) == pytest.approx(100 * expected)


@given(said=some_words, wanted=some_text)
def test_rouge_l_is_that_of_the_longest_common_subsequence(said: str, wanted: str) -> None:
    from rapidfuzz.distance import LCSseq

    one, other = (re.findall("[a-z0-9]+", text.lower()) for text in (said, wanted))
    assume(other)
    shared = LCSseq.similarity(one, other)
    expected = 200 * shared / (len(one) + len(other))
    assert row("rouge-l", {"prediction": said, "answer": wanted}).value == pytest.approx(expected)


@given(said=some_words, wanted=some_text)
def test_adamllms_rouge_l_is_that_of_the_package_rouge(said: str, wanted: str) -> None:
    from rouge import Rouge

    try:
        expected = Rouge().get_scores(said, wanted)[0]["rouge-l"]["f"]
    except ValueError:  # it refuses a text without a sentence, which AdaMLLM counts as 0
        expected = 0.0
    found = row("rouge-l", {"prediction": said, "answer": wanted}, "adamllm").value
    assert found == pytest.approx(100 * expected)


def test_adamllms_rouge_l_bears_texts_that_are_too_long_for_the_package() -> None:
    from rouge import Rouge

    long = " ".join(f"w{i}" for i in range(1100))
    with pytest.raises(RecursionError):
        Rouge().get_scores(long, long)
    assert row("rouge-l", {"prediction": long, "answer": long}, "adamllm").value == pytest.approx(100)


@given(said=some_words, wanted=some_text)
def test_anls_is_one_minus_the_edit_distance(said: str, wanted: str) -> None:
    from nltk import edit_distance

    one, other = (" ".join(text.lower().split()) for text in (said, wanted))
    similarity = 1 - edit_distance(one, other) / max(len(one), len(other))
    expected = similarity if similarity >= 0.5 else 0.0
    assert row("anls", {"prediction": said, "answer": wanted}).value == pytest.approx(100 * expected)


a_set = st.lists(st.sampled_from(["liver", "lung", "heart", "kidney", "spine", "rib"]), unique=True)


@settings(max_examples=50)
@given(said=a_set, wanted=a_set)
def test_label_metrics_are_scikit_learns(said: list[str], wanted: list[str]) -> None:
    from sklearn.metrics import f1_score, recall_score

    classes = ["liver", "lung", "heart", "kidney", "spine", "rib"]
    truth, guess = ([int(name in names) for name in classes] for names in (wanted, said))
    record = {"prediction": "I see: " + ", ".join(said), "answers": wanted, "choices": classes}
    for rule in ("strict", "adamllm"):
        f1, recall = (100 * score(truth, guess, zero_division=1) for score in (f1_score, recall_score))
        assert row("multilabel-f1", record, rule).value == pytest.approx(f1)
        assert row("ingredient-recall", record, rule).value == pytest.approx(recall)


@settings(max_examples=50)
@given(said=a_set, wanted=a_set.filter(bool))
def test_token_metrics_are_scikit_learns_where_no_word_repeats(said: list[str], wanted: list[str]) -> None:
    from sklearn.metrics import f1_score, recall_score

    words = sorted({*said, *wanted})
    truth, guess = ([int(name in names) for name in words] for names in (wanted, said))
    record = {"prediction": " ".join(said), "answer": " ".join(wanted)}
    for rule in ("strict", "adamllm"):
        f1, recall = (100 * score(truth, guess, zero_division=0) for score in (f1_score, recall_score))
        assert row("token-f1", record, rule).value == pytest.approx(f1)
        assert row("token-recall", record, rule).value == pytest.approx(recall)


@settings(max_examples=50)
@given(pairs=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_pope_is_scikit_learns(pairs: list[tuple[bool, bool]]) -> None:
    from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

    word = {True: "yes", False: "no"}
    records = [{"prediction": f"{word[said].title()}, it is.", "answer": word[wanted]} for said, wanted in pairs]
    guess, truth = zip(*pairs, strict=True)
    metric = METRICS["pope"].pooled
    assert metric is not None
    sums = np.sum([row("pope", record).statistics for record in records], axis=0)
    assert metric.value(sums) == pytest.approx(100 * f1_score(truth, guess, zero_division=0))
    expected = {
        "accuracy": accuracy_score(truth, guess),
        "precision": precision_score(truth, guess, zero_division=0),
        "recall": recall_score(truth, guess, zero_division=0),
        "yes_ratio": np.mean(guess),
    }
    assert {name: figure(sums) for name, figure in metric.details.items()} == pytest.approx(
        {name: 100 * share for name, share in expected.items()}
    )


side = st.integers(-3, 6)
boxes = st.tuples(side, side, side, side)


@given(said=boxes, wanted=boxes.filter(lambda box: box[0] < box[2] and box[1] < box[3]))
def test_iou_counts_cells(said: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    one, other = ({(x, y) for x in range(x1, x2) for y in range(y1, y2)} for x1, y1, x2, y2 in (said, wanted))
    record = {"prediction": f"It is at {list(said)}.", "answer": str(list(wanted))}
    overlap = len(one & other) / len(one | other)
    assert row("iou", record).value == pytest.approx(100 * overlap)
    assert row("iou50", record).value == (100 if 2 * len(one & other) > len(one | other) else 0)
