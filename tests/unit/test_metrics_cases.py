"""Metrics on cases computed by hand, and where exactly the rules of one metric differ."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkit.errors import DataError, UnavailableError
from mmkit.tasks import embedding
from mmkit.tasks.metrics import METRICS, Score
from mmkit.tasks.metrics.vqa import vqa_form

ORGANS = ["liver", "lung", "left kidney", "heart"]
TEN_SAYS = ["dog"] * 2 + ["a dog"] * 1 + ["puppy"] * 3 + ["cat"] * 4


def score(metric: str, prediction: str, rule: str | None = None, **record: Any) -> Score:
    chosen = METRICS[metric]
    return chosen.rules[rule or chosen.default_rule]({"id": "x", "prediction": prediction, **record})


@pytest.mark.parametrize(
    ("prediction", "answer", "right_by"),
    [
        ("left lung", "left lung", "strict visatb squad raw"),
        ("Left lung", "left lung", "strict visatb squad"),
        (" left lung. ", "left lung", "strict visatb squad"),
        ("left \n lung", "left lung", "strict squad"),
        ("The left lung!", "left lung", "squad"),
        ("The answer is left lung.", "left lung", "strict"),
        ("The answer is left lung.", "answer is left lung", "squad"),
        ("left lung..", "left lung", "squad"),
        ("yes .", "Yes", "strict squad"),
        ("3.5", "3.5.", "strict visatb squad"),
        ("3.5", "35", "squad"),
        (".", ".", "strict visatb squad raw"),
        ("", ".", ""),
    ],
)
def test_exact_match(prediction: str, answer: str, right_by: str) -> None:
    right = [rule for rule in METRICS["em"].rules if score("em", prediction, rule, answer=answer).value == 100]
    assert " ".join(right) == right_by


def test_any_of_several_gold_answers_is_right() -> None:
    assert score("em", "two", answers=["2", "two"]).value == 100
    assert score("em", "2", answer="two", answers=["2"]).value == 100
    assert score("em", "three", answer="two", answers=["2"]).value == 0


@pytest.mark.parametrize(("agreeing", "value"), [(0, 0), (1, 30), (2, 60), (3, 90), (4, 100), (10, 100)])
def test_vqa_leaves_each_annotator_out_in_turn(agreeing: int, value: float) -> None:
    answers = ["dog"] * agreeing + [f"cat {i}" for i in range(10 - agreeing)]
    for rule in ("strict", "normalised"):
        assert score("vqa", "dog", rule, answers=answers).value == pytest.approx(value)
        assert score("vqa", "So the answer is: Dog.", rule, answers=[*answers[:-1], "cow"]).value == pytest.approx(
            value if agreeing < 10 else 100
        )


def test_vqa_normalises_officially_only_where_the_answers_differ() -> None:
    assert score("vqa", "a dog", answers=TEN_SAYS).value == pytest.approx(90)  # 3 of 10, "a" dropped
    assert score("vqa", "Yes", answers=["yes"] * 10).value == 0
    assert score("vqa", "Yes", "normalised", answers=["yes"] * 10).value == 100
    assert score("vqa", "Yes", answers=["yes"] * 9 + ["no"]).value == 100


def test_vqa_without_a_poll_takes_any_answer() -> None:
    for rule in ("strict", "normalised"):
        assert score("vqa", "The dog", rule, answer="dog").value == 100
        assert score("vqa", "cat", rule, answers=["dog", "cat", "cow"]).value == 100
        assert score("vqa", "hen", rule, answers=["dog", "cat", "cow"]).value == 0
    # `answer` is nobody's vote where there is a poll.
    assert score("vqa", "hen", answer="hen", answers=TEN_SAYS).value == 0


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("The two Dogs.", "2 dogs"),
        ("none of an apple", "0 of apple"),
        ("dont", "don't"),
        ("Shouldnt've, shouldn'tve", "shouldn't've shouldn't've"),
        ("oclock", "o'clock"),
        ("ill well were hell", "ill well were hell"),
        ("black-and-white", "black and white"),
        ("black - white", "black white"),
        ("red, green", "red green"),
        ("red,green", "red green"),
        ("1,000 (one/two)", "1000 onetwo"),
        ("3.5 m.", "3.5 m"),
        ("U.S.A.", "usa"),
        ("what?", "what"),
        ("$5 & 10%", "$5 & 10%"),
        ("", ""),
    ],
)
def test_the_vqa_form(text: str, form: str) -> None:
    assert vqa_form(text) == form
    assert vqa_form(form) == form


@pytest.mark.parametrize(
    ("answer", "prediction", "recall", "f1"),  # each: adamllm, strict
    [
        ("left lung", "The left lung is affected.", (100, 100), (200 / 3, 200 / 3)),
        ("left lung", "left left left", (75, 50), (600 / 7, 40)),
        ("left lung", "lung lung lung", (75, 50), (600 / 7, 40)),
        ("left lung", "heart", (0, 0), (0, 0)),
        ("the X-ray, two views", "2 views of an x ray", (100, 100), (800 / 9, 800 / 9)),
        ("1,000 cells", "1000", (50, 50), (200 / 3, 200 / 3)),
        ("don't", "dont", (100, 100), (100, 100)),
        ("+", "+", (100, 100), (100, 100)),
        ("+", "-", (0, 0), (0, 0)),
        ("left lung", "It is air. The answer is: left lung", (100, 100), (400 / 9, 100)),
    ],
)
def test_token_recall_and_f1(
    answer: str, prediction: str, recall: tuple[float, float], f1: tuple[float, float]
) -> None:
    for metric, values in (("token-recall", recall), ("token-f1", f1)):
        for rule, value in zip(("adamllm", "strict"), values, strict=True):
            assert score(metric, prediction, rule, answer=answer).value == pytest.approx(value)


@given(gold=st.lists(st.sampled_from("abcdef"), min_size=1), said=st.lists(st.sampled_from("abcdef"), unique=True))
@pytest.mark.parametrize("metric", ["token-recall", "token-f1"])
def test_the_rules_of_token_metrics_agree_unless_a_word_repeats(metric: str, gold: list[str], said: list[str]) -> None:
    distinct = {"answer": " ".join(f"w{word}" for word in set(gold))}
    prediction = " ".join(f"w{word}" for word in said)
    one, other = (score(metric, prediction, rule, **distinct).value for rule in ("adamllm", "strict"))
    assert one == pytest.approx(other)


@pytest.mark.parametrize(
    ("prediction", "strict", "adamllm"),  # what each takes the reply for
    [
        ("Yes", "yes", "yes"),
        ("No.", "no", "no"),
        ("No, the lungs are clear.", "no", "no"),
        ("The lungs are normal", None, "no"),  # "normal" holds "no"
        ("No lesion is seen", None, "no"),
        ("Yes, the lungs are normal.", "yes", "yes and no"),
        ("None", None, None),  # the word is a 0 to LLaVA-Med
        ("It is there.", None, None),
        ("yesterday", None, "yes"),
        ("", None, None),
    ],
)
def test_closed_questions(prediction: str, strict: str | None, adamllm: str | None) -> None:
    for gold in ("yes", "No."):
        word = gold.lower().strip(".")
        assert score("closed", prediction, answer=gold) == Score(100 if strict == word else 0, strict)
        right = adamllm is not None and word in adamllm
        assert score("closed", prediction, "adamllm", answer=gold) == Score(100 if right else 0, adamllm)


def test_a_closed_question_may_have_an_answer_of_another_kind() -> None:
    assert score("closed", "Left.", answer="left") == Score(100, "left")
    assert score("closed", "It is seen. The answer is: left", answer="left") == Score(100, "left")
    assert score("closed", "left lung", answer="left") == Score(0, "left lung")
    assert score("closed", " ", answer="left") == Score(0, None)
    assert score("closed", "The answer is yes. The answer is no.", answer="no") == Score(0, None)


@pytest.mark.parametrize("metric", ["em", "vqa", "closed", "token-recall", "relaxed", "anls"])
def test_thinking_is_no_part_of_a_reply(metric: str) -> None:
    for rule in METRICS[metric].rules:
        assert score(metric, "<think>Is it so? The answer is: no</think>\n\nyes", rule, answer="yes").value == 100
        assert score(metric, "<think>yes</think>No", rule, answer="yes").value == 0
        assert score(metric, "<think>So the answer is: yes", rule, answer="yes") == Score(0, None)


def test_pope_and_mme_want_yes_or_no_as_the_answer() -> None:
    for metric in ("pope", "mme"):
        for gold in ({"answer": "lung"}, {"answers": ["yes", "no"]}):
            with pytest.raises(DataError, match="expected yes or no"):
                score(metric, "yes", **gold)


@pytest.mark.parametrize("gold", ["B", "lung", "(B)", "B. lung"])
def test_multiple_choice(gold: str) -> None:
    for reply in ("B", "(B)", "B.", "**B**", "The answer is B.", "lung"):
        assert score("mc", reply, answer=gold, choices=ORGANS) == Score(100, "lung")
        assert score("mc", reply, answer="C", choices=ORGANS) == Score(0, "lung")
    assert score("mc", "B or C", answer=gold, choices=ORGANS) == Score(0, None)


def test_multiple_choice_wants_a_gold_answer_among_the_options() -> None:
    for rule in METRICS["mc"].rules:
        with pytest.raises(DataError, match="none of the 4 choices"):
            score("mc", "lung", rule, answer="spleen", choices=ORGANS)
        with pytest.raises(DataError, match="choices: missing"):
            score("mc", "lung", rule, answer="lung")
    assert score("mc", "C", answer="x", choices=["x", "y", "x"]).value == 100  # an option given twice


@pytest.mark.parametrize(
    ("prediction", "strict", "adamllm", "mmmu"),
    [
        ("(B)", "lung", "lung", "lung"),
        ("B.", "lung", "lung", "lung"),
        ("The answer is B.", "lung", "lung", "lung"),
        ("Not (A), so (B) or (C): C", None, "left kidney", "left kidney"),  # the last one in brackets
        ("I think B or A it is", None, "liver", "liver"),  # the last one between blanks
        ("(B) or (A)? Rather (B), I think", None, "lung", "lung"),  # where it stands last
        ("A lung is shown", None, "liver", "liver"),  # the article is an option to them
        ("lung", "lung", "lung", None),  # too short for MMMU: it asks for more than five words
        ("no organ but the lung is shown", None, "lung", "lung"),
        ("not the lung, the heart is what we see", None, "heart", "heart"),
        ("spleen", None, None, None),
        ("", None, None, None),
    ],
)
def test_the_letter_parsers(prediction: str, strict: str | None, adamllm: str | None, mmmu: str | None) -> None:
    for rule, parsed in (("strict", strict), ("adamllm", adamllm), ("mmmu", mmmu)):
        found = score("mc", prediction, rule, answer="lung", choices=ORGANS)
        assert found.parsed == parsed
        if parsed is not None or rule == "strict":
            assert found.value == (100 if parsed == "lung" else 0)


def test_only_the_named_rules_guess_and_a_guess_is_unparsed_and_goes_by_the_id() -> None:
    for rule in ("adamllm", "mmmu"):
        found = [score("mc", "?", rule, id=f"q{i}", answer="lung", choices=ORGANS) for i in range(400)]
        assert {one.parsed for one in found} == {None}
        assert 60 < sum(one.value == 100 for one in found) < 140  # a quarter of 400
        assert found == [score("mc", "?", rule, id=f"q{i}", answer="lung", choices=ORGANS) for i in range(400)]
        with pytest.raises(DataError, match="id: missing"):
            score("mc", "?", rule, id=None, answer="lung", choices=ORGANS)


def test_beyond_26_options_the_parsers_know_them_by_number() -> None:
    dishes = [f"dish {chr(97 + i // 10)}{i % 10}" for i in range(101)]
    assert score("mc", "It is (27).", "adamllm", answer=dishes[27], choices=dishes).value == 100
    assert score("mc", "This looks like dish c7 to me", "adamllm", answer=dishes[27], choices=dishes).value == 100


@pytest.mark.parametrize(
    ("prediction", "answer", "value"),
    [
        ("35", "35", 100),
        ("36.75", "35", 100),  # exactly 5 %
        ("36.76", "35", 0),
        ("33.25", "35", 100),
        ("-35", "35", 0),
        ("about 35 people", "35", 100),
        ("In 2010 it grew. The answer is: 35", "35", 100),
        ("1,210", "1200", 100),
        ("1210", "1,200", 100),
        ("35%", "35%", 100),
        ("0.35", "35%", 100),
        ("35%", "35", 0),
        ("0", "0", 100),
        ("0.0", "0", 100),
        ("0.0001", "0", 0),
        ("0", "35", 0),
        ("Peru", "peru.", 100),
        ("Perú", "Peru", 0),
        ("2010", "in 2010", 0),
        ("thirty-five", "35", 0),
    ],
)
def test_relaxed_accuracy(prediction: str, answer: str, value: float) -> None:
    assert score("relaxed", prediction, answer=answer).value == value


@pytest.mark.parametrize(
    ("prediction", "answer", "value"),
    [("abcd", "abcd", 100), ("ABxx", "abcd", 50), ("axxx", "abcd", 0), ("Ab  cd", "ab cd", 100), ("", "ab", 0)],
)
def test_anls_counts_exactly_half(prediction: str, answer: str, value: float) -> None:
    assert score("anls", prediction, answer=answer).value == value
    assert score("anls", f"The answer is: {prediction}" if prediction else "", answers=["zzzz", answer]).value == value


@pytest.mark.parametrize(
    ("prediction", "answer", "value"),
    [
        ("[0, 0, 10, 10]", "[0, 0, 10, 10]", 100),
        ("[0, 0, 10, 5]", "[0, 0, 10, 10]", 50),
        ("[5, 5, 15, 15]", "[0, 0, 10, 10]", 100 * 25 / 175),
        ("[0, 0, 0, 0]", "[0, 0, 10, 10]", 0),
        ("[10, 10, 0, 0]", "[0, 0, 10, 10]", 0),
        ("[0, 0, 1e9, 10]", "[0, 0, 10, 10]", 0),
        ("0, 0, 10, 10", "[0, 0, 10, 10]", 0),
        ("[" + "9" * 400 + ", 0, 10, 10]", "[0, 0, 10, 10]", 0),
        ("[0, 0, " + "9" * 400 + ", 10]", "[0, 0, 10, 10]", 0),
    ],
)
def test_boxes(prediction: str, answer: str, value: float) -> None:
    assert score("iou", prediction, answer=answer).value == pytest.approx(value)
    assert score("iou50", prediction, answer=answer).value == (100 if value > 50 else 0)  # exactly .5 is not above


def test_a_gold_box_needs_an_area() -> None:
    for gold in ("[0, 0, 0, 0]", "lung", "[1, 1, 0, 0]"):
        with pytest.raises(DataError, match="expected a box"):
            score("iou", "[0, 0, 1, 1]", answer=gold)


FOODS = ["egg", "egg tart", "rice", "ice cream", "ice", "tart", "tea"]


@pytest.mark.parametrize(
    ("prediction", "gold", "strict", "adamllm"),
    [
        ("An egg tart and rice.", ["egg tart", "rice"], 100, 100),  # the longer name is not also "egg" and "tart"
        ("An egg tart and an egg.", ["egg tart", "egg"], 100, 100),
        ("steak", ["rice"], 0, 0),  # "tea" is inside the word
        ("steak", ["tea"], 0, 100),
        ("rice", ["rice", "tea"], 200 / 3, 200 / 3),
        ("price", ["rice"], 0, 100),
        ("RICE", ["Rice"], 100, 100),
        ("nothing", [], 100, 100),
        ("", [], 0, 100),  # strict: a blank reply is unparsed; adamllm: empty on both sides
        ("rice", [], 0, 0),
    ],
)
def test_multilabel_f1(prediction: str, gold: list[str], strict: float, adamllm: float) -> None:
    for rule, value in (("strict", strict), ("adamllm", adamllm)):
        assert score("multilabel-f1", prediction, rule, answers=gold, choices=FOODS).value == pytest.approx(value)
        assert score("multilabel-f1", prediction, rule, answer=", ".join(gold), choices=FOODS).value == pytest.approx(
            value
        )


def test_multilabel_f1_wants_a_label_set_that_holds_the_gold() -> None:
    with pytest.raises(DataError, match="choices: missing"):
        score("multilabel-f1", "rice", answers=["rice"])
    with pytest.raises(DataError, match="'soup' is none of the 7 choices"):
        score("multilabel-f1", "rice", answers=["rice", "soup"], choices=FOODS)


def test_ingredient_recall() -> None:
    for gold in ({"answers": ["egg", "Rice"]}, {"answer": "egg, rice"}):
        for rule, values in (("strict", (50, 0, 50)), ("adamllm", (50, 50, 100))):
            found = [score("ingredient-recall", said, rule, **gold).value for said in ("an egg", "price", "egg, price")]
            assert found == list(values)
    assert score("ingredient-recall", "egg tart", answers=["egg"]).value == 100
    assert score("ingredient-recall", "egg tart", answers=["egg"], choices=FOODS).value == 0


def sums(metric: str, replies: list[tuple[str, str]]) -> Any:
    return np.sum([score(metric, said, answer=gold).statistics for said, gold in replies], axis=0)


def test_pope_counts_the_yes_of_the_replies_and_no_unparsed_one_as_right() -> None:
    pope = METRICS["pope"].pooled
    assert pope is not None
    found = sums("pope", [("yes", "yes"), ("yes", "no"), ("no", "no"), ("no", "yes"), ("?", "yes"), ("?", "no")])
    assert dict(zip(pope.names, found, strict=True)) == {"tp": 1, "fp": 2, "fn": 2, "tn": 1, "yes": 2}
    assert pope.value(found) == pytest.approx(100 / 3)
    assert {name: float(figure(found)) for name, figure in pope.details.items()} == pytest.approx(
        {"accuracy": 100 / 3, "precision": 100 / 3, "recall": 100 / 3, "yes_ratio": 100 / 3}
    )
    assert pope.value(sums("pope", [("no", "no")])) == 0  # nothing to find and nothing found: 0 by definition


def test_mme_adds_the_share_of_images_that_are_right_throughout() -> None:
    mme = METRICS["mme"].pooled
    assert mme is not None
    assert mme.of_image is not None
    images = [[("yes", "yes"), ("no", "no")], [("yes", "yes"), ("yes", "no")], [("?", "yes"), ("no", "no")]]
    found = np.sum(
        [mme.of_image([score("mme", said, answer=gold) for said, gold in image]) for image in images], axis=0
    )
    assert mme.details["accuracy"](found) == pytest.approx(400 / 6)
    assert mme.details["accuracy_plus"](found) == pytest.approx(100 / 3)
    assert mme.value(found) == pytest.approx(100)


def test_ciders_rules_differ_in_case_and_marks_only() -> None:
    records = [
        {"prediction": said, "answers": [wanted]}
        for said, wanted in (
            ("A man on a beach.", "a man on a beach"),
            ("two dogs in the grass", "two dogs in the grass"),
        )
    ]
    strict, visatb = ([s.value for s in METRICS["cider"].corpus_rules[rule](records)] for rule in ("strict", "visatb"))
    assert strict == pytest.approx([10, 10])
    assert visatb[0] < 5
    assert visatb[1] == pytest.approx(10)


def test_cider_bears_references_without_a_word() -> None:
    for prediction in ("a dog", "?", ""):
        assert METRICS["cider"].corpus_rules["strict"]([{"prediction": prediction, "answer": "?"}])[0].value == 0


class Encoder:
    """Every text gets the vector that stands here."""

    vectors: dict[str, list[float]] = {"dog": [1, 0], "puppy": [0.8, 0.6], "no dog": [-1, 0], "?": [0, 1], "": [1, 0]}  # noqa: RUF012

    def encode(self, sentences: list[str], **options: Any) -> Any:
        assert options["normalize_embeddings"]
        return np.array([self.vectors[text] for text in sentences], dtype=np.float32)


def test_similarity_is_the_cosine_with_the_nearest_gold_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "encoder", Encoder)
    records = [
        {"prediction": "dog", "answer": "dog"},
        {"prediction": "puppy", "answers": ["no dog", "dog"]},
        {"prediction": "no dog", "answer": "dog"},
        {"prediction": "\ud800", "answer": "?"},  # tokenisers refuse a lone surrogate
        {"prediction": "", "answer": "dog"},
    ]
    found = METRICS["similarity"].corpus_rules["strict"](records)
    assert [one.value for one in found] == pytest.approx([1, 0.8, -1, 1, 0])
    assert found[-1] == Score(0, None)


def test_a_missing_encoder_names_the_command_that_fetches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        def __init__(self, name: str) -> None:
            raise OSError(f"{name} is not in the cache\nand more")

    library = SimpleNamespace(SentenceTransformer=Missing)
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    embedding.encoder.cache_clear()
    with pytest.raises(UnavailableError, match="hf download sentence-transformers/all-MiniLM-L6-v2"):
        METRICS["similarity"].corpus_rules["strict"]([{"prediction": "a", "answer": "b"}])
