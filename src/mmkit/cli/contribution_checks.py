"""What `measure-contribution` looks at in rows before it trains anything: whether they can be trained on and scored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmkit.errors import DataError

if TYPE_CHECKING:
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
