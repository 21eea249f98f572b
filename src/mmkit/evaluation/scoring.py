"""Records to samples, by each record's metric."""

from __future__ import annotations

from mmkit.errors import UsageError
from mmkit.evaluation.scores import Sample
from mmkit.tasks.metrics import METRICS, Metric, Record, Score, metric_for, metric_named
from mmkit.tasks.metrics.fields import golds, prediction

_SCORED_FIELDS = ("id", "prediction", "answer", "answers", "choices")


class Scorer:
    """Scores records by `metric` and `rule`, or by each record's own metric (`metric_for`) and that one's default rule.

    A record without `task` belongs to the task "default". Raises UsageError for an unknown metric or rule.
    """

    def __init__(self, metric: str | None = None, rule: str | None = None) -> None:
        self._metric = None if metric is None else metric_named(metric)
        self._rule = rule
        if rule is not None:
            _require_rule(self._metric, rule)
        self._waiting: dict[tuple[str, str, str, str | None], list[tuple[int, Record, Sample]]] = {}
        self._num_waiting = 0

    def score(self, record: Record) -> Sample | None:
        """The record's sample; None where its metric needs all records first: `rest` gives it then.

        Raises DataError for a record that cannot be scored (no id, no prediction, no gold answer, a gold answer that
        is no option).
        """
        metric = self._metric or metric_for(record)
        rule = self._rule if self._rule is not None else metric.default_rule
        metric.require_rule(rule)
        if rule in metric.corpus_rules:
            self._wait(record, metric, rule)
            return None
        return Sample.of(record, metric, rule, metric.rules[rule](record))

    def rest(self) -> list[Sample]:
        """The samples of the records that had to wait, in the order in which they came."""
        samples: list[tuple[int, Sample]] = []
        for (_, name, rule, _), waiting in self._waiting.items():
            scores = METRICS[name].corpus_rules[rule]([record for _, record, _ in waiting])
            for (place, _, sample), score in zip(waiting, scores, strict=True):
                scored = sample._replace(value=score.value, parsed=score.parsed, statistics=score.statistics)
                samples.append((place, scored))
        self._waiting.clear()
        return [sample for _, sample in sorted(samples, key=lambda pair: pair[0])]

    def _wait(self, record: Record, metric: Metric, rule: str) -> None:
        prediction(record), golds(record)  # a row that cannot be scored is told apart now, while it is at hand
        sample = Sample.of(record, metric, rule, Score(0.0, None))
        texts = {name: record[name] for name in _SCORED_FIELDS if name in record}
        key = (sample.task, metric.name, rule, sample.model)
        self._waiting.setdefault(key, []).append((self._num_waiting, texts, sample))
        self._num_waiting += 1


def _require_rule(metric: Metric | None, rule: str) -> None:
    """Raise UsageError for a rule by which no row could be scored, before one is read or a model is asked."""
    if metric is not None:
        metric.require_rule(rule)
        return
    known = dict.fromkeys(name for each in METRICS.values() for name in (*each.rules, *each.corpus_rules))
    if rule not in known:
        raise UsageError(f"no metric has a rule {rule!r}; there are: {', '.join(known)}")
