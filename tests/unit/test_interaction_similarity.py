"""δ: what counts as the same prediction, for which answers which similarity may be asked for, and what is refused."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkit.balance.interaction import SIMILARITIES, Instance, Similarity
from mmkit.balance.similarity import agreements, choices_of, similarity_of, strata
from mmkit.errors import DataError
from mmkit.tasks import embedding
from mmkit.tasks.metrics import METRICS

CHOICE = {"choices": ["liver", "lung", "heart"]}
YES_NO = {"choices": ["yes", "no"]}
KINDS: Mapping[str, Mapping[str, Any]] = {
    "choice": CHOICE,
    "numbers to choose from": {"choices": ["3", "4"]},
    "yes-no": YES_NO,
    "yes-no without choices": {"answer_type": "yes-no"},
    "short": {},
    "number": {"answer_type": "number"},
    "long": {"answer_type": "long"},
    "list": {"answer_type": "list"},
    "labels": {"answer_type": "list", "choices": ["3", "4"]},
    "box": {"answer_type": "box"},
}


class Alike:
    """A sentence encoder to which all texts mean the same: what it may not judge has to be kept from it."""

    def encode(self, texts: Sequence[str], **_: Any) -> np.ndarray[Any, Any]:
        return np.ones((len(texts), 1), dtype=np.float32)


@pytest.fixture
def alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "encoder", Alike)


def delta(text: str, both: str, similarity: Similarity = "auto", **record: Any) -> float:
    """δ of one pair."""
    instance = Instance({"id": "r", **record}, {"text": text, "image": text, "both": both})
    (stratum,) = strata([instance.record], similarity)
    return float(agreements([instance], stratum, "text")[0, 0])


@pytest.mark.parametrize(
    ("one", "other", "record", "same"),
    [
        ("B", "The answer is lung.", CHOICE, 1),
        ("B", "A", CHOICE, 0),
        ("(b)", "Lung", CHOICE, 1),
        ("banana", "Banana.", CHOICE, 1),  # equal wrong texts agree
        ("banana", "apple", CHOICE, 0),
        ("banana", "B", CHOICE, 0),
        ("AA", "aa", {"choices": ["AA", "aa", "b"]}, 0),
        ("the lung or the liver", "lung", CHOICE, 0),
        ("Yes, it is.", "yes", YES_NO, 1),
        ("A", "yes", YES_NO, 1),
        ("A", "yes", {"answer_type": "yes-no"}, 0),  # no option had a letter
        ("A", "a", {"answer_type": "yes-no"}, 1),
        ("No.", "no", {"answer_type": "yes-no"}, 1),
        ("<think>yes yes</think> no", "no", YES_NO, 1),
        ("3", "3.0", {"answer_type": "number"}, 1),
        ("35 %", "0.35", {"answer_type": "number"}, 1),
        ("There are 3.", "3", {"answer_type": "number"}, 1),
        ("3", "4", {"answer_type": "number"}, 0),
        ("three", "Three.", {"answer_type": "number"}, 1),
        ("three", "3", {"answer_type": "number"}, 0),
        ("Left Lung.", "left  lung", {}, 1),
        ("left lung", "lung", {}, 0),
        ("So the answer is: left lung", "left lung", {}, 1),
        ("rice, egg", "egg, rice", {"answer_type": "list"}, 1),
        ("rice, egg", "rice, fish", {"answer_type": "list"}, 0.5),
        ("[0, 0, 2, 2]", "[0, 0, 2, 1]", {"answer_type": "box"}, 0.5),
        ("[0, 0, 2, 2]", "[0.0, 0.0, 2.0, 2.0]", {"answer_type": "box"}, 1),
        ("[0, 0, 2, 2]", "[5, 5, 6, 6]", {"answer_type": "box"}, 0),
        ("nowhere", "Nowhere.", {"answer_type": "box"}, 1),
        ("nowhere", "[0, 0, 0, 0]", {"answer_type": "box"}, 0),
    ],
)
def test_auto_compares_by_the_answers_type(one: str, other: str, record: Mapping[str, Any], same: float) -> None:
    assert delta(one, other, **record) == same
    assert delta(other, one, **record) == same


@pytest.mark.usefixtures("alike")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3", "4"),
        ("left lung", "right lung"),
        ("left lung", "the nodule is in the left lung"),
        ("3", "There are four cells in the picture"),
        ("there is a pleural effusion", "there is no pleural effusion"),
        ("the heart isn't enlarged at all", "the heart is enlarged somewhat"),
        ("the scan is negative for a fracture", "the scan shows a new fracture"),
        ("the lungs are free of any nodules", "the lungs are full of nodules"),
        ("there are 3 nodules in the lung", "there are 4 nodules in the lung"),
        ("there are two nodules in the lung", "there are three nodules in the lung"),
    ],
)
def test_embeddings_never_judge_short_numeric_or_negated_answers(one: str, other: str) -> None:
    assert delta(one, other, answer_type="long") == 0
    assert delta(one, one.upper() + ".", answer_type="long") == 1


@pytest.mark.usefixtures("alike")
def test_embeddings_judge_sentences() -> None:
    two = ("a dog runs along the beach", "some animal is in motion")
    assert delta(*two, answer_type="long") == 1
    assert delta(two[0], "two dogs run along a beach", answer_type="long") == 1  # only one of them counts
    assert delta("no dog runs along here", "there is not any animal", answer_type="long") == 1


def test_a_cosine_below_zero_is_no_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    class Opposed:
        def encode(self, texts: Sequence[str], **_: Any) -> np.ndarray[Any, Any]:
            return np.array([[1.0] if "dog" in text else [-1.0] for text in texts], dtype=np.float32)

    monkeypatch.setattr(embedding, "encoder", Opposed)
    assert delta("a dog runs along the beach", "some cat is asleep inside", answer_type="long") == 0


FITTING: Mapping[str, set[str]] = {
    "choice": {"choice", "likelihood"},
    "numbers to choose from": {"choice", "likelihood", "number"},
    "yes-no": {"choice", "likelihood"},
    "yes-no without choices": {"choice", "likelihood"},
    "short": {"number"},
    "number": {"number"},
    "long": {"embed"},
    "list": set(),
    "labels": set(),
    "box": {"iou"},
}


@pytest.mark.parametrize("kind", FITTING)
def test_a_similarity_that_does_not_fit_says_what_does(kind: str) -> None:
    fitting = {"exact", "f1", "rouge-l", "judge"} | FITTING[kind]
    for similarity in SIMILARITIES:
        if similarity == "auto" or similarity in fitting:
            assert similarity_of(KINDS[kind], similarity) in fitting
            continue
        with pytest.raises(DataError, match=f"similarity {similarity} does not fit") as error:
            similarity_of(KINDS[kind], similarity)
        assert set(str(error.value).rpartition("these do: ")[2].partition(";")[0].split(", ")) == fitting


def test_a_choice_without_choices_does_not_fit_auto() -> None:
    with pytest.raises(DataError, match="choice does not fit choice answers without choices"):
        similarity_of({"answer_type": "choice"}, "auto")


@pytest.mark.parametrize(
    ("given", "said"),
    [("", "text: empty"), (" \n", "text: empty"), ("<think>so", "text: nothing behind"), (None, "text: missing")],
)
def test_an_empty_prediction_names_its_view(given: Any, said: str) -> None:
    with pytest.raises(DataError, match=rf"predictions\.{said}"):
        delta(given, "yes", **YES_NO)
    with pytest.raises(DataError, match=r"predictions\.both: empty"):
        delta("yes", "", **YES_NO)


def likelihood(text: Mapping[str, float], both: Mapping[str, float], **record: Any) -> float:
    predictions = {"text": "yes", "image": "yes", "both": "yes"}
    instance = Instance({"id": "r", **record}, predictions, log_probs={"text": text, "image": text, "both": both})
    (stratum,) = strata([instance.record], "likelihood")
    return float(agreements([instance], stratum, "text")[0, 0])


def test_likelihood_is_what_two_distributions_have_in_common() -> None:
    # By hand: (.7, .3) and (.2, .8), whatever they were scaled by: 1 - (|.7 - .2| + |.3 - .8|) / 2 = .5.
    text = {"yes": math.log(0.7) - 4000, "no": math.log(0.3) - 4000}
    both = {"no": math.log(0.08), "yes": math.log(0.02)}
    assert likelihood(text, both, **YES_NO) == pytest.approx(0.5, abs=1e-12)
    assert likelihood(text, text, **YES_NO) == pytest.approx(1, abs=1e-12)
    # (.5, .25, .25) and (0, .5, .5): 1 - (.5 + .25 + .25) / 2 = .5. Letters may stand for the options.
    thirds = {"liver": math.log(0.5), "lung": math.log(0.25), "heart": math.log(0.25)}
    letters = {"A": -math.inf, "B": -1.0, "C": -1.0}
    assert likelihood(thirds, letters, **CHOICE) == pytest.approx(0.5, abs=1e-12)
    assert likelihood({"yes": -1000.0, "no": 0.0}, {"yes": 0.0, "no": -1000.0}, **YES_NO) == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"yes": -1.0}, "expected one of each of 2 choices, got 1"),
        ({"yes": -1.0, "no": math.nan}, "finite"),
        ({"yes": -math.inf, "no": -math.inf}, "finite"),
        ({"yes": -1.0, "no": None}, "numbers"),
    ],
)
def test_log_probabilities_that_are_none_are_refused(given: Any, said: str) -> None:
    with pytest.raises(DataError, match=rf"log_probs\.both: .*{said}"):
        likelihood({"yes": -1.0, "no": -1.0}, given, **YES_NO)
    with pytest.raises(DataError, match=r"log_probs\.text: missing"):
        likelihood(None, given, **YES_NO)  # type: ignore[arg-type]


def test_what_likelihood_asks_about() -> None:
    assert choices_of({"choices": ["a", "b", "a"]}) == ["a", "b"]
    assert choices_of({"answer_type": "yes-no"}) == ["yes", "no"]


WORDS = ["a", "the", "cat", "dog", "two", "2", "on", "mat.", "Été", "3.5"]
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), min_size=1).map(" ".join), min_size=1, max_size=5)


@pytest.mark.parametrize("similarity, metric", [("f1", "token-f1"), ("rouge-l", "rouge-l"), ("exact", "em")])
@given(ones=TEXTS, others=TEXTS)
def test_every_pair_of_texts_agrees_as_the_metric_scores_it(
    similarity: Similarity, metric: str, ones: list[str], others: list[str]
) -> None:
    pytest.importorskip("rouge_score")
    size = min(len(ones), len(others))
    found = matrix(ones[:size], others[:size], similarity)
    for row, one in enumerate(ones[:size]):
        for column, other in enumerate(others[:size]):
            wanted = METRICS[metric].rules["strict"]({"prediction": one, "answer": other}).value / 100
            assert found[row, column] == pytest.approx(wanted, abs=1e-12)


def matrix(ones: Sequence[str], others: Sequence[str], similarity: Similarity) -> np.ndarray[Any, Any]:
    instances = [
        Instance({"id": str(number)}, {"text": one, "image": one, "both": other})
        for number, (one, other) in enumerate(zip(ones, others, strict=True))
    ]
    (stratum,) = strata([instance.record for instance in instances], similarity)
    return agreements(instances, stratum, "text")


def test_equal_texts_agree_whatever_the_measure_makes_of_them() -> None:
    for similarity in ("exact", "f1", "rouge-l"):
        assert matrix(["左 肺", "!"], ["左 肺.", "?"], similarity).tolist() == [[1, 0], [0, 0]]  # type: ignore[arg-type]


def test_long_texts_are_compared_as_the_metrics_do() -> None:
    pytest.importorskip("rouge_score")
    rng = random.Random(0)
    texts = [" ".join(rng.choice(["x", "y", "z"]) + str(rng.randrange(3)) for _ in range(n)) for n in (200, 64, 65, 1)]
    for similarity, metric in (("rouge-l", "rouge-l"), ("f1", "token-f1")):
        found = matrix(texts, texts[::-1], similarity)  # type: ignore[arg-type]
        for row, one in enumerate(texts):
            for column, other in enumerate(texts[::-1]):
                wanted = METRICS[metric].rules["strict"]({"prediction": one, "answer": other}).value / 100
                assert found[row, column] == pytest.approx(wanted, abs=1e-12)


@given(st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=2, max_size=6))
def test_boxes_overlap_as_the_metric_says(boxes: list[list[int]]) -> None:
    texts = [str(box) for box in boxes]
    instances = [
        Instance({"id": str(i), "answer_type": "box"}, {"text": text, "image": text, "both": text})
        for i, text in enumerate(texts)
    ]
    (stratum,) = strata([instance.record for instance in instances], "auto")
    found = agreements(instances, stratum, "image")
    for column, (x1, y1, x2, y2) in enumerate(boxes):
        if x2 > x1 and y2 > y1:
            for row, text in enumerate(texts):
                wanted = METRICS["iou"].rules["strict"]({"prediction": text, "answer": texts[column]}).value / 100
                assert found[row, column] == pytest.approx(wanted, abs=1e-12)


def test_strata_are_equal_choices_and_answer_types() -> None:
    records = [
        {"choices": ["liver", "lung"]},
        {"choices": ["Yes", "No"]},
        {"choices": ["Lung.", "liver"]},
        {"answer_type": "yes-no"},
        {},
        {"choices": ["cat", "dog"]},
        {"choices": ["sun", "moon"]},
        {"choices": ["sun", "moon", "star"]},
        {"answer_type": "number"},
    ]
    found = {stratum.members: stratum.by_position for stratum in strata(records, "auto")}
    assert found == {(0, 2): False, (1, 3): False, (4,): False, (5, 6): True, (7,): True, (8,): False}


def test_in_a_stratum_options_are_the_same_by_text_and_lone_ones_by_place() -> None:
    shuffled = [{"id": "1", "choices": ["cat", "dog"]}, {"id": "2", "choices": ["dog", "cat"]}]
    own = [{"id": "1", "choices": ["cat", "dog"]}, {"id": "2", "choices": ["sun", "moon"]}]
    for records, across in ((shuffled, 0), (own, 1)):
        instances = [Instance(record, {"text": "A", "image": "A", "both": "A"}) for record in records]
        (stratum,) = strata(records, "auto")
        assert agreements(instances, stratum, "text").tolist() == [[1, across], [across, 1]]


def test_what_names_no_option_is_never_the_option_that_it_looks_like() -> None:
    """ "Aa" could be either of two options, and is therefore none; as a text it is "aa"."""
    options = {"choices": ["AA", "aa"]}
    instances = [Instance({"id": str(i), **options}, {"text": "Aa", "image": "Aa", "both": "aa"}) for i in range(2)]
    (stratum,) = strata([one.record for one in instances], "auto")
    assert agreements(instances, stratum, "text").tolist() == [[0, 0], [0, 0]]
