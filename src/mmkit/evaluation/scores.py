"""Scores as values: a record's (`Sample`), those of a score row (`Samples`), and the row itself (`ScoreRow`)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from mmkit.errors import DataError, UsageError
from mmkit.evaluation.intervals import cluster_sums, mean_of
from mmkit.tasks.benchmarks import benchmark
from mmkit.tasks.metrics import METRICS, Metric, Record, Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEFAULT_TASK = "default"
_SMALLEST, _LARGEST = 1e-50, 1e50  # no square, sum or ratio of numbers between them overflows
Value: TypeAlias = "Callable[[NDArray[np.float64]], NDArray[np.float64]]"


class Sample(NamedTuple):
    """One scored record. `image` is a key that rows showing the same images share (None: no image)."""

    id: str
    task: str
    metric: str
    rule: str
    value: float
    parsed: str | None
    model: str | None
    image: str | None
    benchmark: str | None = None
    statistics: tuple[float, ...] = ()

    @classmethod
    def of(cls, record: Record, metric: Metric, rule: str, score: Score) -> Sample:
        """A record's sample.

        Raises DataError where the record has no id, a task that is no text, a benchmark that is not there, or no image
        where the metric is one of images.
        """
        value, parsed, statistics, judge = score
        image = _image_key(record)
        if image is None and metric.pooled is not None and metric.pooled.of_image is not None:
            raise DataError(f"images: missing; {metric.name} counts the images of which all questions are right")
        return cls(
            _typed(record, "id", str),
            _optional(record, "task", str) or DEFAULT_TASK,
            metric.name,
            rule if judge is None else f"{rule}: {judge}",
            value,
            parsed,
            _predictor(record),
            image,
            _benchmark(record),
            statistics,
        )

    def additions(self) -> dict[str, Any]:
        """The fields that `--per-sample` adds to the record; `statistics` only where the metric is a pooled one."""
        added = {"metric": self.metric, "rule": self.rule, "score": self.value, "parsed": self.parsed}
        return {**added, "statistics": list(self.statistics)} if self.statistics else added

    @classmethod
    def from_record(cls, record: Record) -> Sample:
        """Read back a record that `--per-sample` wrote. Raises DataError with the field's name."""
        statistics = record.get("statistics") or ()
        if not isinstance(statistics, list | tuple):
            raise DataError("statistics: expected a list of numbers")
        return cls(
            id=_typed(record, "id", str),
            task=_optional(record, "task", str) or DEFAULT_TASK,
            metric=_typed(record, "metric", str),
            rule=_typed(record, "rule", str),
            value=_finite(record.get("score"), "score"),
            parsed=_optional(record, "parsed", str),
            model=_predictor(record),
            image=_image_key(record),
            benchmark=_benchmark(record),
            statistics=tuple(_finite(number, "statistics") for number in statistics),
        )


@dataclass(frozen=True, slots=True)
class Samples:
    """Per-record scores that travel inside a score row, so that two rows can be compared pair by pair.

    `ids` and `values` (in the row's unit) have one length. `clusters` is there only where rows share images: equal
    numbers mean equal images. `statistics`, one vector an id, is there only for a pooled metric.
    """

    ids: Sequence[str]
    values: Sequence[float]
    clusters: Sequence[int] | None = None
    statistics: Sequence[Sequence[float]] | None = None

    def to_wire(self) -> dict[str, Any]:
        """As a JSON object, without the fields that are not there."""
        wire: dict[str, Any] = {"ids": list(self.ids), "values": list(self.values)}
        if self.clusters is not None:
            wire["clusters"] = list(self.clusters)
        if self.statistics is not None:
            wire["statistics"] = [list(vector) for vector in self.statistics]
        return wire


def cluster_statistics(metric: str, samples: Samples) -> NDArray[np.float64]:
    """What the metric's value is computed from, summed by cluster: shape (clusters, k).

    For the mean of rows (also of a metric that is not ours) k is 2: the sum and the number of the values.
    """
    import numpy as np

    pooled = METRICS[metric].pooled if metric in METRICS else None
    if pooled is None:
        rows = np.column_stack([np.asarray(samples.values, dtype=np.float64), np.ones(len(samples.values))])
        return cluster_sums(rows, samples.clusters)
    if pooled.of_image is None:
        return cluster_sums(np.asarray(samples.statistics, dtype=np.float64), samples.clusters)
    images: dict[int, list[Score]] = {}
    for row, value in enumerate(samples.values):
        image = row if samples.clusters is None else samples.clusters[row]
        images.setdefault(image, []).append(Score(value, None))
    return np.array([pooled.of_image(scores) for scores in images.values()], dtype=np.float64)


def value_from_sums(metric: str) -> Value:
    """The metric's value as a function of summed statistics: shape (..., k) to (...)."""
    pooled = METRICS[metric].pooled if metric in METRICS else None
    return mean_of if pooled is None else pooled.value


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One row of the score table. `value` and `ci95` are in `unit`; `unparsed` counts replies that were not read.
    `details` are further figures of the metric by name, such as POPE's yes-ratio.

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
    details: Mapping[str, float] | None = None
    samples: Samples | None = None

    def to_wire(self) -> dict[str, Any]:
        """The JSON row: every field by its name; `details` and `samples` only where there are any."""
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
        if self.details is not None:
            row["details"] = dict(self.details)
        if self.samples is not None:
            row["samples"] = self.samples.to_wire()
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
            if ci95[0] > ci95[1]:
                raise DataError(f"ci95: expected the lower bound first, got {row['ci95']!r}")
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
            details=_details(row.get("details")),
            samples=None if row.get("samples") is None else _samples_from_wire(row["samples"]),
        )


def table(rows: Sequence[ScoreRow]) -> list[list[str]]:
    """Rows of metrics of ours as text for a terminal, the header first."""
    body = [
        [
            row.task,
            f"{row.metric} ({row.rule})" if row.rule else row.metric,
            f"{row.value:.{_decimals(row)}f} {row.unit}",
            "" if row.ci95 is None else f"{row.ci95[0]:.{_decimals(row)}f} to {row.ci95[1]:.{_decimals(row)}f}",
            "" if row.n is None else str(row.n),
            "" if row.unparsed is None else str(row.unparsed),
            row.model or "",
            ", ".join(f"{name} {figure:.1f}" for name, figure in (row.details or {}).items()),
        ]
        for row in rows
    ]
    return [["task", "metric", "value", "95 % interval", "n", "unparsed", "model", "details"], *body]


def _decimals(row: ScoreRow) -> int:
    """One where the metric goes to 100 and beyond; CIDEr-D and cosines live in the third."""
    return 1 if METRICS[row.metric].range[1] >= 100 else 3


def _benchmark(record: Record) -> str | None:
    """The benchmark that the record names. Raises DataError where there is none of that name."""
    name: str | None = _optional(record, "benchmark", str)
    if name is not None:
        try:
            benchmark(name)
        except UsageError as error:
            raise DataError(f"benchmark: {error}") from None
    return name


def _image_key(record: Record) -> str | None:
    """What tells the record's images, all of them in order, from others: their paths, or a hash of their bytes."""
    images = record.get("images")
    if not images or not isinstance(images, list):
        return None
    return "\x1f".join([_one_image_key(image) for image in images])


def _one_image_key(image: object) -> str:
    content = image.get("bytes") or image.get("path") if type(image) is dict else image
    if isinstance(content, str) and not content.startswith("data:"):
        return content
    held = content if isinstance(content, bytes) else repr(content).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(held, digest_size=16).hexdigest()


def _predictor(record: Record) -> str | None:
    """The model of the last `predict` in the record's lineage."""
    lineage = record.get("lineage")
    if isinstance(lineage, list):
        for step in reversed(lineage):
            if type(step) is dict and step.get("op") == "predict":
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
    statistics = wire.get("statistics")
    if statistics is not None and (
        not isinstance(statistics, list)
        or len(statistics) != len(ids)
        or not all(isinstance(vector, list) and len(vector) == len(statistics[0]) for vector in statistics)
    ):
        raise DataError(f"samples.statistics: expected a list of {len(ids)} lists of one length, one an id")
    return Samples(
        ids,
        [_finite(value, "samples.values") for value in values],
        clusters,
        statistics and [tuple(_finite(number, "samples.statistics") for number in vector) for vector in statistics],
    )


def _details(wire: Any) -> dict[str, float] | None:
    if wire is None:
        return None
    if not isinstance(wire, Mapping):
        raise DataError(f"details: expected an object, got {type(wire).__name__}")
    return {name: _finite(value, f"details.{name}") for name, value in wire.items()}


def _finite(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{name}: expected a finite number, got {value!r}")
    if abs(value) > _LARGEST:
        raise DataError(f"{name}: expected a number between -1e50 and 1e50, got {value!r}")
    return 0.0 if abs(value) < _SMALLEST else float(value)


def _typed(row: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    value = row.get(name)
    if type(value) is kind:
        return value
    if value is None:
        raise DataError(f"{name}: missing")
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise DataError(f"{name}: expected {kind.__name__}, got {value!r}")
    return value


def _optional(row: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    return None if row.get(name) is None else _typed(row, name, kind)
