"""Scores of rows: a metric is a name, a unit, a direction and one scorer a rule.

Every value is in the metric's unit. Adding a metric is one entry of `METRICS`; adding a rule is one scorer of its
entry. Scorers read `prediction`, `answer`, `answers` and `choices` of a record (`mc` also `id`, where it guesses by
name; judged metrics `judgement`) and nothing else. The rule "strict" is the sound one; a rule named after a paper, a
benchmark or a script prints the number that it prints, with its defects. By every rule a reply is what stands behind
the thinking of a model that writes "<think>…</think>".
"""

from __future__ import annotations

from collections.abc import Mapping

from mmkit.errors import DataError, UsageError
from mmkit.tasks.benchmarks import definition_of
from mmkit.tasks.metrics import answers, boxes, documents, judged, labels, texts, vqa, words, yes_no
from mmkit.tasks.metrics.metric import PERCENT, CorpusScorer, Metric, Pooled, Record, RowScorer, Score

__all__ = [
    "METRICS",
    "PERCENT",
    "CorpusScorer",
    "Metric",
    "Pooled",
    "Record",
    "RowScorer",
    "Score",
    "metric_for",
    "metric_named",
]


def _percent(name: str, rules: Mapping[str, RowScorer], pooled: Pooled | None = None) -> Metric:
    """A metric of single rows, from 0 to 100 %, whose default rule is "strict"."""
    return Metric(name, "strict", "%", True, PERCENT, rules, pooled=pooled)


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        _percent(
            "em",
            {
                "strict": answers.exact_answer,
                "visatb": lambda record: answers.exact_match(record, str, answers.visatb_form),
                "squad": lambda record: answers.exact_match(record, str, answers.squad_form),
                "raw": lambda record: answers.exact_match(record, str, str),
            },
        ),
        _percent(
            "vqa",
            {
                "strict": lambda record: vqa.soft_accuracy(record, always_normalised=False),
                "normalised": lambda record: vqa.soft_accuracy(record, always_normalised=True),
            },
        ),
        _percent(
            "token-recall",
            {
                "strict": lambda record: words.token_recall(record, words.true_recall),
                "adamllm": lambda record: words.token_recall(record, words.adamllm_recall),
            },
        ),
        _percent(
            "token-f1",
            {
                "strict": lambda record: words.token_f1(record, words.true_f1),
                "adamllm": lambda record: words.token_f1(record, words.adamllm_f1),
            },
        ),
        _percent("closed", {"strict": yes_no.closed, "adamllm": yes_no.closed_adamllm}),
        _percent(
            "mc",
            {
                "strict": answers.multiple_choice,
                "adamllm": lambda record: answers.multiple_choice_mmmu(record, answers.more_than_five_characters),
                "mmmu": lambda record: answers.multiple_choice_mmmu(record, answers.more_than_five_words),
            },
        ),
        Metric(
            "cider",
            "strict",
            "points",
            True,
            (0.0, 10.0),
            {},
            {
                "strict": lambda records: texts.cider(records, texts.words_of),
                "visatb": lambda records: texts.cider(records, str),
            },
        ),
        _percent("rouge-l", {"strict": texts.rouge_l, "adamllm": texts.rouge_l_adamllm}),
        _percent("bleu", {"strict": texts.bleu}, texts.BLEU),
        _percent("chrf", {"strict": texts.chrf}, texts.CHRF),
        _percent("gleu", {"strict": texts.gleu}, texts.GLEU),
        _percent("anls", {"strict": documents.anls}),
        _percent("relaxed", {"strict": documents.relaxed}),
        _percent("iou", {"strict": boxes.iou}),
        _percent("iou50", {"strict": boxes.iou50}),
        _percent(
            "multilabel-f1",
            {
                "strict": lambda record: labels.multilabel_f1(record, labels.named_words),
                "adamllm": lambda record: labels.multilabel_f1(record, labels.named_parts),
            },
        ),
        _percent(
            "ingredient-recall",
            {
                "strict": lambda record: labels.ingredient_recall(record, labels.named_words),
                "adamllm": lambda record: labels.ingredient_recall(record, labels.named_parts),
            },
        ),
        _percent("pope", {"strict": yes_no.pope}, yes_no.POPE),
        Metric("mme", "strict", "points", True, (0.0, 200.0), {"strict": yes_no.mme}, pooled=yes_no.MME),
        Metric("similarity", "strict", "cosine", True, (-1.0, 1.0), {}, {"strict": texts.similarity}),
        Metric("mm-vet", "judge", "%", True, PERCENT, {"judge": judged.mm_vet}),
        Metric(
            "llava-bench",
            "judge",
            "%",
            True,
            (10.0, 1000.0),
            {"judge": judged.llava_bench},
            pooled=Pooled(("candidate", "reference"), judged.relative_grade, {}),
        ),
    )
}


def metric_named(name: str) -> Metric:
    """The metric of that name. Raises UsageError, with the names there are, for an unknown one."""
    if name not in METRICS:
        raise UsageError(f"unknown metric {name!r}; known: {', '.join(METRICS)}")
    return METRICS[name]


def metric_for(record: Record) -> Metric:
    """The metric of a row that nobody named.

    Its `metric`, else that of the benchmark it names, else by its `answer_type` or `choices`: mc for a choice, closed
    for yes-no, iou50 for a box, em for the rest. The gold answer is never looked at. Raises DataError for an unknown
    `metric` or `benchmark`.
    """
    own = record.get("metric")
    if own is None:
        definition = definition_of(record)
        own = _by_answer_type(record) if definition is None else definition.metric
    if not isinstance(own, str) or own not in METRICS:
        raise DataError(f"metric: unknown metric {own!r}; known: {', '.join(METRICS)}")
    return METRICS[own]


def _by_answer_type(record: Record) -> str:
    answer_type = record.get("answer_type") or ("choice" if record.get("choices") else None)
    return {"choice": "mc", "yes-no": "closed", "box": "iou50"}.get(str(answer_type), "em")
