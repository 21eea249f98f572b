"""What holds for every metric and rule: maximum, order, doubling, range, hostile replies, rows that are refused."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkit.errors import DataError, UsageError
from mmkit.tasks import embedding
from mmkit.tasks.metrics import METRICS, Score, metric_for, metric_named

JUDGED = {"mm-vet", "llava-bench"}  # these read a judge's grades and no prediction; see test_judge
ALL_RULES = [
    (name, rule)
    for name, metric in METRICS.items()
    if name not in JUDGED
    for rule in (*metric.rules, *metric.corpus_rules)
]
ROW_RULES = [(name, rule) for name, rule in ALL_RULES if rule in METRICS[name].rules]
ORGANS = ["liver", "lung", "left kidney", "heart"]
CAPTIONS = [
    "a man rides a brown horse along the beach",
    "two dogs play with a red ball in the grass",
    "a plate of pasta with tomato sauce on a table",
    "a bus is parked on the side of the street",
]


def rows(*golds: str, **fields: Any) -> list[dict[str, Any]]:
    return [{"prediction": gold, "answer": gold, **fields} for gold in golds]


PERFECT: dict[str, list[dict[str, Any]]] = {
    **dict.fromkeys(("cider", "rouge-l", "bleu", "chrf", "gleu", "similarity"), rows(*CAPTIONS)),
    **dict.fromkeys(("em", "token-recall", "token-f1", "anls"), rows("left lung", "2", "no")),
    "vqa": [{"prediction": "left lung", "answers": ["left lung"] * 4 + ["lung"] * 6}],
    "relaxed": rows("35.5", "1,200", "12%", "0", "Peru"),
    "iou": rows("[1, 2, 30.5, 40]", "[0, 0, 1, 1]"),
    "iou50": rows("[1, 2, 30.5, 40]", "[0, 0, 1, 1]"),
    "mc": [
        {"prediction": f"({letter})", "answer": organ, "choices": ORGANS}
        for letter, organ in zip("BA", ("lung", "liver"), strict=True)
    ],
    "multilabel-f1": rows("lung, liver", "heart", choices=ORGANS),
    "ingredient-recall": rows("egg tart, rice", "egg"),
    "closed": rows("yes", "no", "yes"),
    "pope": rows("yes", "no", "yes"),
    "mme": [{**row, "image": i // 2} for i, row in enumerate(rows("yes", "no", "no", "yes"))],
}
MIXED = {  # right, wrong, half right and unparsed replies
    **PERFECT,
    **{
        name: [
            {**PERFECT[name][i % len(PERFECT[name])], "prediction": reply, "image": i // 2}
            for i, reply in enumerate(replies)
        ]
        for name, replies in {
            **dict.fromkeys(
                ("cider", "rouge-l", "bleu", "chrf", "gleu", "similarity"),
                ("a man on a beach", "", CAPTIONS[2], "a bus."),
            ),
            **dict.fromkeys(("em", "token-recall", "token-f1", "anls"), ("lung", "2", "yes", "left left lungs", "")),
            "vqa": ("lung", "left lung", "", "The lung."),
            "relaxed": ("35", "", "12%", "nothing", "Peru"),
            **dict.fromkeys(("iou", "iou50"), ("[1, 2, 30, 30]", "none", "[1, 2, 20, 40]")),
            "mc": ("B", "heart", "", "The answer is A."),
            "multilabel-f1": ("lung", "heart and lungs", "", "liver"),
            "ingredient-recall": ("an egg", "", "rice", "egg"),
            **dict.fromkeys(("closed", "pope", "mme"), ("yes", "yes", "no", "no", "perhaps", "no", "yes")),
        }.items()
    },
}


class Encoder:
    """Stands in for the sentence encoder: a text's letters, counted. See tests/tiny for a real one."""

    def encode(self, sentences: list[str], **_: Any) -> Any:
        vectors = np.array(
            [[1.0, *(text.lower().count(letter) for letter in "abcdefghijklmnopqrstuvwxyz")] for text in sentences]
        )
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "encoder", Encoder)


def scores(name: str, rule: str, records: Sequence[dict[str, Any]]) -> list[Score]:
    metric = METRICS[name]
    records = [{"id": str(i), **record} for i, record in enumerate(records)]
    if rule in metric.corpus_rules:
        return metric.corpus_rules[rule](records)
    return [metric.rules[rule](record) for record in records]


def value(name: str, rule: str, records: Sequence[dict[str, Any]]) -> float:
    """The value of the set: the mean of the rows, or what the pooled statistics give."""
    found, pooled = scores(name, rule, records), METRICS[name].pooled
    if pooled is None:
        return float(np.mean([score.value for score in found]))
    vectors = [score.statistics for score in found]
    if pooled.of_image is not None:
        images = [record["image"] for record in records]
        vectors = [
            pooled.of_image([score for score, own in zip(found, images, strict=True) if own == image])
            for image in dict.fromkeys(images)
        ]
    return float(pooled.value(np.sum(vectors, axis=0)))


@pytest.mark.parametrize(("name", "rule"), ALL_RULES)
def test_a_perfect_prediction_gives_the_maximum(name: str, rule: str) -> None:
    assert value(name, rule, PERFECT[name]) == pytest.approx(METRICS[name].range[1])
    assert all(score.parsed is not None for score in scores(name, rule, PERFECT[name]))


@given(answer=st.text(min_size=1).filter(str.strip).filter(lambda text: not re.search("answer|think>", text.lower())))
@pytest.mark.parametrize(
    ("name", "rule"),
    [(name, rule) for name, rule in ROW_RULES if name in ("em", "vqa", "anls", "token-recall", "token-f1")],
)
def test_any_gold_answer_itself_gets_the_maximum(name: str, rule: str, answer: str) -> None:
    assert value(name, rule, rows(answer)) == pytest.approx(100)


@pytest.mark.parametrize(("name", "rule"), ALL_RULES)
def test_the_order_of_rows_never_matters(name: str, rule: str) -> None:
    order = list(range(len(MIXED[name])))
    random.Random(0).shuffle(order)
    shuffled = [MIXED[name][i] for i in order]
    if (name, rule) in (("mc", "adamllm"), ("mc", "mmmu")):  # their guesses go by id
        shuffled = [{"id": str(i), **record} for i, record in zip(order, shuffled, strict=True)]
    assert value(name, rule, shuffled) == pytest.approx(value(name, rule, MIXED[name]))
    by_row = zip(order, scores(name, rule, shuffled), strict=True)
    assert [score.value for _, score in sorted(by_row, key=lambda pair: pair[0])] == pytest.approx(
        [score.value for score in scores(name, rule, MIXED[name])]
    )


@pytest.mark.parametrize(("name", "rule"), ALL_RULES)
def test_a_doubled_set_keeps_the_value(name: str, rule: str) -> None:
    records = [{"id": str(i), **record} for i, record in enumerate(MIXED[name])]
    if name == "cider":  # what no reference has weighs the logarithm of the number of rows
        records = [{**record, "prediction": " ".join(record["answer"].split()[:4])} for record in records]
    copies = [{**record, "image": f"{record['image']} again"} for record in records]
    low, high = METRICS[name].range
    assert low < value(name, rule, records) < high
    assert value(name, rule, records + copies) == pytest.approx(value(name, rule, records))


HOSTILE = {
    "empty": "",
    "blank": " \n\t ",
    "a megabyte": "x" * 1_000_000,
    "a megabyte of blanks": "answer" + " " * 1_000_000 + "?",
    "a megabyte of statements": "the answer is " * 70_000,
    "a megabyte of brackets": "(" * 1_000_000,
    "a megabyte of digits": "[" + "1" * 1_000_000,
    "control characters": "".join(map(chr, range(32))),
    "html": "<b>&nbsp;</b><script>",
    "right to left": "\u202egnul\u202c שלום",
    "lone surrogate": "\ud800",
    "nan": "nan",
    "infinity": "Infinity",
    "beyond the floats": "[1e999, 1e999, 9e999, 9e999]",
    "four zeros": "[0, 0, 0, 0]",
}
GOLDS: dict[str, dict[str, Any]] = {
    **{name: {"answer": "Peru"} for name in PERFECT},
    **{name: {"answer": "yes"} for name in ("closed", "pope", "mme")},
    **{name: {"answer": "[0, 0, 10, 10]"} for name in ("iou", "iou50")},
    "relaxed": {"answer": "35"},
    "mc": {"answer": "lung", "choices": ORGANS},
    "multilabel-f1": {"answers": ["lung"], "choices": ORGANS},
}
A_FEW_SHARED_LETTERS = {"chrf", "similarity"}  # those two credit a letter; the rest has to give nothing at all


@pytest.mark.parametrize("prediction", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize(("name", "rule"), ALL_RULES)
def test_hostile_predictions_get_no_credit(name: str, rule: str, prediction: str) -> None:
    records = [{"id": "a", "prediction": prediction, **GOLDS[name]}, *({"id": "b", **row} for row in PERFECT[name])]
    score = scores(name, rule, records)[0]
    if name == "mc" and rule != "strict":
        assert score.parsed is None  # a guess, named as one
        return
    assert METRICS[name].range[0] <= score.value <= METRICS[name].range[1]
    assert score.value == 0 or (name in A_FEW_SHARED_LETTERS and prediction.strip())
    assert (score.parsed is not None) or score.value == 0
    if not prediction.strip() and rule != "adamllm":
        assert score.parsed is None


def test_no_hostile_reply_is_near_a_gold_number() -> None:
    for gold in ("35", "0.5", "1e300"):
        for prediction in HOSTILE.values():
            assert value("relaxed", "strict", [{"prediction": prediction, "answer": gold}]) == 0


@settings(max_examples=50)
@given(prediction=st.text(), answer=st.text(min_size=1).filter(str.strip))
@pytest.mark.parametrize(("name", "rule"), ALL_RULES)
def test_any_text_scores_within_the_range(name: str, rule: str, prediction: str, answer: str) -> None:
    record = {"prediction": prediction, **GOLDS[name]}
    if record["answer" if "answer" in record else "answers"] == "Peru":
        record["answer"] = answer
    found = scores(name, rule, [record, {**PERFECT[name][0]}])[0]
    assert METRICS[name].range[0] <= found.value <= METRICS[name].range[1]
    guesses = name == "mc" and rule != "strict"
    assert found.parsed is not None or found.value == 0 or guesses


@pytest.mark.parametrize(
    ("record", "word"),
    [
        ({"answer": "x"}, "prediction"),
        ({"prediction": None, "answer": "x"}, "prediction"),
        ({"prediction": 3, "answer": "x"}, "prediction"),
        ({"prediction": "x"}, "answer"),
        ({"prediction": "", "answer": None}, "answer"),
        ({"prediction": "x", "answer": 3}, "answer"),
        ({"prediction": "", "answer": 3}, "answer"),
        ({"prediction": "x", "answers": "x"}, "answers"),
        ({"prediction": "x", "answers": [3]}, "answer"),
    ],
)
@pytest.mark.parametrize(("name", "rule"), ALL_RULES)
def test_rows_that_cannot_be_scored_are_data_errors(name: str, rule: str, record: dict[str, Any], word: str) -> None:
    with pytest.raises(DataError, match=word):
        scores(name, rule, [{"choices": ["x"], **record}])


@pytest.mark.parametrize(("name", "rule"), ALL_RULES)
def test_a_blank_gold_answer_is_refused_where_it_means_nothing(name: str, rule: str) -> None:
    record = {"prediction": "x", "answer": " ", "answers": [], "choices": ["x"]}
    if name in ("multilabel-f1", "ingredient-recall"):
        assert scores(name, rule, [record])[0].value in (0, 100)  # no label at all is an answer there
        return
    with pytest.raises(DataError, match="answer: missing or blank"):
        scores(name, rule, [record])


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_says_what_it_is(name: str) -> None:
    metric = METRICS[name]
    assert metric.name == name
    assert metric.range[0] < metric.range[1]
    assert metric.unit
    metric.require_rule(metric.default_rule)
    assert not set(metric.rules) & set(metric.corpus_rules)
    if metric.pooled and not metric.pooled.of_image and name not in JUDGED:
        assert all(
            len(score.statistics) == len(metric.pooled.names)
            for score in scores(name, metric.default_rule, MIXED[name])
        )


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.pooled])
def test_pooled_values_take_many_sums_at_once_and_are_never_nan(name: str) -> None:
    pooled = METRICS[name].pooled
    assert pooled is not None
    sums = np.arange(1.0, 2 * 3 * len(pooled.names) + 1).reshape(2, 3, len(pooled.names))
    sums[0, 0] = 0 if name not in JUDGED else 1
    for figure in (pooled.value, *pooled.details.values()):
        found = figure(sums)
        assert found.shape == (2, 3)
        assert np.isfinite(found).all()
        assert found[1, 2] == pytest.approx(float(figure(sums[1, 2])))


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


def test_importing_metrics_and_evaluation_loads_nothing_heavy() -> None:
    heavy = {"numpy", "nltk", "sacrebleu", "rouge_score", "pycocoevalcap", "rapidfuzz", "sklearn", "torch"}
    code = f"import sys, mmkit.tasks.metrics, mmkit.evaluation.compare; sys.exit(bool({heavy} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
