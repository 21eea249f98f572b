"""From predictions to score rows: one row a (task, metric, rule, model), with its interval.

`score_record` scores one record, `Aggregate` collects the samples, `score_rows` and `aggregate` do both for a stream.
Memory is one float, one id and, where images are shared, one integer a record.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mmkit import seeds
from mmkit.errors import DataError
from mmkit.evaluation.intervals import mean_interval
from mmkit.tasks.metrics import METRICS, Metric, Record, metric_for, metric_named

DEFAULT_TASK = "default"
Key: TypeAlias = tuple[str, str, str, str | None]


@dataclass(frozen=True, slots=True)
class Sample:
    """One scored record. `image` is a key that rows showing the same images share (None: no image)."""

    id: str
    task: str
    metric: str
    rule: str
    value: float
    parsed: str | None
    model: str | None
    image: str | None

    def additions(self) -> dict[str, Any]:
        """The fields that `--per-sample` adds to the record."""
        return {"metric": self.metric, "rule": self.rule, "score": self.value, "parsed": self.parsed}


@dataclass(frozen=True, slots=True)
class Samples:
    """Per-record scores that travel inside a score row, so that two rows can be compared pair by pair.

    `ids` and `values` (in the row's unit) have one length. `clusters` is there only where rows share images: equal
    numbers mean equal images.
    """

    ids: Sequence[str]
    values: Sequence[float]
    clusters: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One row of the score table. `value` and `ci95` are in `unit`; `unparsed` counts replies that were not read.

    Only `task`, `metric` and `value` are needed: a row typed in from a paper is one too.
    """

    task: str
    metric: str
    value: float
    rule: str = ""
    unit: str = ""
    higher_is_better: bool = True
    n: int | None = None
    ci95: tuple[float, float] | None = None
    unparsed: int | None = None
    model: str | None = None
    samples: Samples | None = None

    def to_wire(self) -> dict[str, Any]:
        """The JSON row: every field by its name, `ci95` and `samples` as lists; without samples no such field."""
        row: dict[str, Any] = {
            "task": self.task,
            "metric": self.metric,
            "rule": self.rule,
            "value": self.value,
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            "n": self.n,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "unparsed": self.unparsed,
            "model": self.model,
        }
        if self.samples is not None:
            row["samples"] = {"ids": list(self.samples.ids), "values": list(self.samples.values)}
            if self.samples.clusters is not None:
                row["samples"]["clusters"] = list(self.samples.clusters)
        return row

    @classmethod
    def from_wire(cls, row: Mapping[str, Any]) -> ScoreRow:
        """Read a row. Unit and direction, where absent, are those of the metric, if it is known.

        Raises DataError with the field's name.
        """
        metric = _typed(row, "metric", str)
        known = METRICS.get(metric)
        better = _optional(row, "higher_is_better", bool)
        ci95 = row.get("ci95")
        if ci95 is not None:
            if not isinstance(ci95, list | tuple) or len(ci95) != 2:
                raise DataError("ci95: expected two numbers or null")
            ci95 = (_finite(ci95[0], "ci95[0]"), _finite(ci95[1], "ci95[1]"))
        return cls(
            task=_typed(row, "task", str),
            metric=metric,
            value=_finite(row.get("value"), "value"),
            rule=_optional(row, "rule", str) or "",
            unit=_optional(row, "unit", str) or (known.unit if known else ""),
            higher_is_better=better if better is not None else known is None or known.higher_is_better,
            n=_optional(row, "n", int),
            ci95=ci95,
            unparsed=_optional(row, "unparsed", int),
            model=_optional(row, "model", str),
            samples=None if row.get("samples") is None else _samples_from_wire(row["samples"]),
        )


def score_record(record: Record, metric: str | None = None, rule: str | None = None) -> Sample:
    """Score one record by `metric` (see `metrics.metric_for` where None) and `rule` (the metric's default where None).

    A record without `task` belongs to the task "default". Raises DataError for a record that cannot be scored (no
    id, no prediction, no gold answer, a gold answer that is no option) and UsageError for an unknown metric or rule.
    """
    chosen = metric_for(record) if metric is None else metric_named(metric)
    chosen_rule = rule if rule is not None else chosen.default_rule
    chosen.require_rule(chosen_rule)
    score = chosen.rules[chosen_rule](record)
    return Sample(
        id=_typed(record, "id", str),
        task=_optional(record, "task", str) or DEFAULT_TASK,
        metric=chosen.name,
        rule=chosen_rule,
        value=score.value,
        parsed=score.parsed,
        model=_predictor(record),
        image=_image_key(record),
    )


def score_rows(
    records: Iterable[Record], metric: str | None = None, rule: str | None = None
) -> Iterator[dict[str, Any]]:
    """The per-sample additions (`metric`, `rule`, `score`, `parsed`) of each record, in order.

    Raises as `score_record`, and ends with the first error; a caller that rejects single rows calls that instead.
    """
    return (score_record(record, metric, rule).additions() for record in records)


def aggregate(samples: Iterable[Sample], *, seed: int = 0) -> list[ScoreRow]:
    """The score rows of a stream of samples; see `Aggregate`."""
    collected = Aggregate()
    for sample in samples:
        collected.add(sample)
    return collected.rows(seed=seed)


@dataclass(slots=True)
class _Group:
    ids: list[str] = field(default_factory=list)
    values: array[float] = field(default_factory=lambda: array("d"))
    images: list[str | None] = field(default_factory=list)
    unparsed: int = 0


class Aggregate:
    """Collects samples one by one and makes the score rows, in order of (task, metric, rule, model).

    Rows by different models are never averaged into one. The result does not depend on the order of the samples.
    """

    def __init__(self) -> None:
        self._groups: dict[Key, _Group] = {}
        self._images: dict[str, str] = {}

    def add(self, sample: Sample) -> None:
        """Take one sample in."""
        key = (sample.task, sample.metric, sample.rule, sample.model)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group()
        group.ids.append(sample.id)
        group.values.append(sample.value)
        group.images.append(None if sample.image is None else self._images.setdefault(sample.image, sample.image))
        group.unparsed += sample.parsed is None

    def rows(self, *, model: str | None = None, samples: bool = True, seed: int = 0) -> list[ScoreRow]:
        """One row a group. `model` names the model where the records do not; `samples` False leaves them out."""
        order = sorted(self._groups, key=lambda key: (*key[:3], key[3] or ""))
        return [self._row(key, self._groups[key], model, samples, seed) for key in order]

    def _row(self, key: Key, group: _Group, model: str | None, keep: bool, seed: int) -> ScoreRow:
        task, name, rule, own_model = key
        metric: Metric = METRICS[name]
        order = sorted(range(len(group.ids)), key=lambda i: (group.ids[i], group.values[i]))
        values = [group.values[i] for i in order]
        clusters = _clusters([group.images[i] for i in order])
        interval_seed = seeds.derive(seed, "\x1f".join((task, name, rule)), "evaluation.interval")
        return ScoreRow(
            task=task,
            metric=name,
            value=math.fsum(values) / len(values),
            rule=rule,
            unit=metric.unit,
            higher_is_better=metric.higher_is_better,
            n=len(values),
            ci95=mean_interval(values, metric.range, clusters=clusters, seed=interval_seed),
            unparsed=group.unparsed,
            model=own_model or model,
            samples=Samples([group.ids[i] for i in order], values, clusters) if keep else None,
        )


def table(rows: Sequence[ScoreRow]) -> list[list[str]]:
    """The rows as text for a terminal, the header first."""
    body = [
        [
            row.task,
            f"{row.metric} ({row.rule})" if row.rule else row.metric,
            f"{row.value:.1f} {row.unit}".rstrip(),
            "" if row.ci95 is None else f"{row.ci95[0]:.1f} to {row.ci95[1]:.1f}",
            "" if row.n is None else str(row.n),
            "" if row.unparsed is None else str(row.unparsed),
            row.model or "",
        ]
        for row in rows
    ]
    return [["task", "metric", "value", "95 % interval", "n", "unparsed", "model"], *body]


def _clusters(images: Sequence[str | None]) -> list[int] | None:
    """A number a row, equal for rows of equal images; None where no two rows share them."""
    if max(Counter(image for image in images if image is not None).values(), default=1) == 1:
        return None
    numbers: dict[object, int] = {}
    return [numbers.setdefault(("row", i) if image is None else image, len(numbers)) for i, image in enumerate(images)]


def _image_key(record: Record) -> str | None:
    """What tells the record's images, all of them in order, from others: their paths, or a hash of their bytes."""
    images = record.get("images")
    if not isinstance(images, list | tuple) or not images:
        return None
    return "\x1f".join(_one_image_key(image) for image in images)


def _one_image_key(image: object) -> str:
    content = image.get("bytes") or image.get("path") if isinstance(image, Mapping) else image
    if isinstance(content, str) and not content.startswith("data:"):
        return content
    held = content if isinstance(content, bytes) else repr(content).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(held, digest_size=16).hexdigest()


def _predictor(record: Record) -> str | None:
    """The model of the last `predict` in the record's lineage."""
    lineage = record.get("lineage")
    if isinstance(lineage, list | tuple):
        for step in reversed(lineage):
            if isinstance(step, Mapping) and step.get("op") == "predict":
                model = step.get("model")
                return model if isinstance(model, str) else None
    return None


def _samples_from_wire(wire: Any) -> Samples:
    if not isinstance(wire, Mapping):
        raise DataError(f"samples: expected an object, got {type(wire).__name__}")
    ids, values, clusters = wire.get("ids"), wire.get("values"), wire.get("clusters")
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise DataError("samples.ids: expected a list of strings")
    if not isinstance(values, list) or len(values) != len(ids):
        raise DataError(f"samples.values: expected a list of {len(ids)} numbers, one an id")
    if clusters is not None and (
        not isinstance(clusters, list) or len(clusters) != len(ids) or not all(type(one) is int for one in clusters)
    ):
        raise DataError(f"samples.clusters: expected a list of {len(ids)} integers, one an id")
    return Samples(ids, [_finite(value, "samples.values") for value in values], clusters)


def _finite(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{name}: expected a finite number, got {value!r}")
    return float(value)


def _typed(row: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    value = row.get(name)
    if value is None:
        raise DataError(f"{name}: missing")
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise DataError(f"{name}: expected {kind.__name__}, got {value!r}")
    return value


def _optional(row: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    return None if row.get(name) is None else _typed(row, name, kind)
