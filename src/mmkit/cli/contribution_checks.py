"""What `measure-contribution` looks at in rows before it trains anything: whether they can be trained on and scored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from mmkit.errors import DataError
from mmkit.records import Record, parts_text

if TYPE_CHECKING:
    from mmkit.balance.plan import Plan
    from mmkit.balance.subsets import Rows
    from mmkit.streams import Row

_ANSWER = "yes"
"""Stands in for a prediction: whatever it says, a row that can be scored gets a score."""


class TrainingCheck:
    """Raises DataError for a row that `finetune` would refuse for what it says."""

    def __init__(self, image_root: str | None) -> None:
        self._image_root = None if image_root is None else Path(image_root)

    def __call__(self, row: Row) -> None:
        from mmkit.training.samples import sample_of

        sample_of(row.record, image_root=self._image_root, where=row.where)


class ValidationCheck:
    """Raises DataError for a row that asks nothing or cannot be scored, and for a task with several metrics.

    Raises UsageError for an unknown metric or rule.
    """

    def __init__(self, metric: str | None, rule: str | None) -> None:
        from mmkit.evaluation.scoring import Scorer
        from mmkit.tasks.metrics import metric_named

        self._metric = None if metric is None else metric_named(metric)
        self._scorer = Scorer(metric, rule)
        self._metric_of: dict[str, str] = {}

    def __call__(self, row: Row) -> None:
        from mmkit.tasks import prompts
        from mmkit.tasks.metrics import metric_for

        metric, task = self._metric or metric_for(row.record), row.record["task"]
        if metric.default_rule == "judge":
            raise DataError(f"{metric.name} needs a judge's grades, and V is measured without one: give --metric")
        if (other := self._metric_of.setdefault(task, metric.name)) != metric.name:
            raise DataError(f"task {task!r} has two metrics, {other} and {metric.name}: give --metric")
        prompts.conversation(row.record)
        self._scorer.score({**row.record, "prediction": _ANSWER})

    def finish(self) -> None:
        """Score what had to wait for all rows."""
        self._scorer.rest()


def seen_in_training(plan: Plan, train: Rows, validation: Rows) -> str:
    """How many validation rows of each task ask what a row of the plan's trainings asks, "vqa 3 of 400, ocr 1 of 20";
    empty where none does.

    What is asked are the words, whatever their case and spacing, with what the images show. Raises as `Rows.seen`.
    """
    trained: set[bytes] = set()
    for task in train.tasks:
        drawn = {(each.num_rows_of.get(task, 0), each.seed) for each in plan.trainings}
        for id in {id for num_rows, seed in drawn for id in train.drawn(task, num_rows, seed)}:
            trained.update(_asked(train, task, id))
    counts = []
    for task in validation.tasks:
        ids = validation.ids(task)
        if num_seen := sum(not trained.isdisjoint(_asked(validation, task, id)) for id in ids):
            counts.append(f"{task} {num_seen:,} of {len(ids):,}")
    return ", ".join(counts)


def _asked(rows: Rows, task: str, id: str) -> Iterator[bytes]:
    """A hash of each thing that a row asks: of each user turn, and of its question as it was before it had turns."""
    (line,) = rows.lines(task, [id])
    seen = rows.seen(task, id)
    for words in _words(orjson.loads(line)):
        asked = " ".join(words.casefold().split())
        if asked or seen:
            yield hashlib.blake2b(b"".join([*seen, asked.encode("utf-8", "surrogatepass")]), digest_size=16).digest()


def _words(record: Record) -> Sequence[str]:
    turns = [parts_text(turn) for turn in record.get("messages") or () if turn["role"] == "user"]
    question = record.get("question")
    return turns if question is None else [*turns, f"{record.get('context') or ''} {question}"]
