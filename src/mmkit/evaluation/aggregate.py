"""Samples to score rows: one row a (task, metric, rule, model), with its interval.

Memory is one float, one id and, where images are shared, one integer a record, and the statistics of a pooled metric.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from mmkit import seeds
from mmkit.errors import UsageError
from mmkit.evaluation.intervals import mean_interval, pooled_interval
from mmkit.evaluation.scores import Sample, Samples, ScoreRow, cluster_statistics, value_from_sums
from mmkit.tasks.benchmarks import Benchmark, benchmark
from mmkit.tasks.metrics import METRICS, Metric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Key: TypeAlias = tuple[str, str, str, str | None]


@dataclass(slots=True)
class _Group:
    ids: list[str] = field(default_factory=list)
    values: array[float] = field(default_factory=lambda: array("d"))
    images: list[str | None] = field(default_factory=list)
    statistics: list[tuple[float, ...]] = field(default_factory=list)
    unparsed: int = 0

    def samples(self) -> Samples:
        """In order of ids; those that come again, of their scores and images."""
        order = sorted(
            range(len(self.ids)),
            key=lambda i: (self.ids[i], self.values[i], self.images[i] or "", self.statistics[i : i + 1]),
        )
        return Samples(
            [self.ids[i] for i in order],
            [self.values[i] for i in order],
            _clusters([self.images[i] for i in order]),
            [self.statistics[i] for i in order] if self.statistics else None,
        )


class Aggregate:
    """Collects samples one by one and makes the score rows, in order of (task, metric, rule, model).

    Rows by different models are never averaged into one. The result does not depend on the order of the samples.
    """

    def __init__(self) -> None:
        self._groups: dict[Key, _Group] = {}
        self._images: dict[str, str] = {}
        self._benchmarks: dict[str, str] = {}  # of the tasks

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
        if sample.statistics:
            group.statistics.append(sample.statistics)
        if sample.benchmark is not None:
            self._benchmarks[sample.task] = sample.benchmark

    def rows(self, *, model: str | None = None, seed: int = 0) -> list[ScoreRow]:
        """One row a group, and one a benchmark that has an overall score, after its tasks.

        `model` is the model's name in place of the records' own. Raises UsageError for a name where several models
        have answered.
        """
        order = sorted(self._groups, key=lambda key: (*key[:3], key[3] or ""))
        models = {key[3] or "unnamed" for key in order}
        if model is not None and len(models) > 1:
            raise UsageError(f"one name for {len(models)} models: {', '.join(sorted(models))}")
        rows = [*(self._row(key, seed) for key in order), *self._overall_rows(order, seed)]
        return [replace(row, model=model or row.model) for row in rows]

    def notes(self) -> list[str]:
        """What is to be said of the rows as a whole: ids that come again, which `compare` could not pair."""
        repeated = [id for group in self._groups.values() for id, count in Counter(group.ids).items() if count > 1]
        return [f"{len(repeated)} ids come more than once, such as {min(repeated)!r}"] if repeated else []

    def _row(self, key: Key, seed: int) -> ScoreRow:
        task, name, rule, model = key
        return _score_row(task, METRICS[name], rule, model, self._groups[key], seed)

    def _overall_rows(self, keys: Sequence[Key], seed: int) -> Iterator[ScoreRow]:
        """The overall scores of benchmarks of which every task is there."""
        parts: dict[Key, dict[str, _Group]] = {}
        for key in keys:
            task, metric, rule, model = key
            name = self._benchmarks.get(task)
            if name is not None and benchmark(name).overall is not None:
                parts.setdefault((name, metric, rule, model), {})[task] = self._groups[key]
        for (name, metric, rule, model), groups in parts.items():
            definition = benchmark(name)
            if groups.keys() != definition.tasks.keys():
                continue
            if definition.overall == "pooled":
                rule = f"{rule}, pooled over {len(groups)} tasks"
                yield _score_row(name, METRICS[metric], rule, model, _merged(groups), seed)
            else:
                yield _overall_row(definition, METRICS[metric], rule, model, list(groups.values()), seed)


def _score_row(task: str, metric: Metric, rule: str, model: str | None, group: _Group, seed: int) -> ScoreRow:
    samples = group.samples()
    interval_seed = _interval_seed(seed, task, metric.name, rule)
    details = None
    if metric.pooled is None:
        value = math.fsum(samples.values) / len(samples.values)
        ci95 = mean_interval(samples.values, metric.range, clusters=samples.clusters, seed=interval_seed)
    else:
        sums = cluster_statistics(metric.name, samples)
        total = sums.sum(axis=0)
        value = float(metric.pooled.value(total))
        ci95 = pooled_interval(sums, metric.pooled.value, metric.range, seed=interval_seed)
        details = {each: float(figure(total)) for each, figure in metric.pooled.details.items()} or None
    return ScoreRow(
        task=task,
        metric=metric.name,
        value=value,
        rule=rule,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        n=len(samples.ids),
        ci95=ci95,
        unparsed=group.unparsed,
        model=model,
        details=details,
        samples=samples,
    )


def _overall_row(
    definition: Benchmark, metric: Metric, rule: str, model: str | None, groups: Sequence[_Group], seed: int
) -> ScoreRow:
    """The sum or the mean of the tasks' values, `definition.overall`.

    Tasks may share images, so the bootstrap draws images and takes the rows of all tasks along.
    """
    import numpy as np

    scale = len(groups) if definition.overall == "mean" else 1
    sums, widths = _joined([_by_image(metric.name, group) for group in groups])
    cuts, value_of = np.cumsum(widths)[:-1], value_from_sums(metric.name)
    points = [value_of(part) for part in np.split(sums.sum(axis=0), cuts)]

    def value(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):  # 0 / 0: a draw of images that leaves out a whole task
            drawn = [value_of(part) for part in np.split(sums, cuts, axis=-1)]
        parts = [np.where(np.isnan(part), point, part) for part, point in zip(drawn, points, strict=True)]
        combined: NDArray[np.float64] = np.sum(parts, axis=0) / scale
        return combined

    bounds = (metric.range[0] * len(groups) / scale, metric.range[1] * len(groups) / scale)
    return ScoreRow(
        task=definition.name,
        metric=metric.name,
        value=float(value(sums.sum(axis=0))),
        rule=f"{rule}, {definition.overall} of {len(groups)} tasks",
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        n=sum(len(group.ids) for group in groups),
        ci95=pooled_interval(sums, value, bounds, seed=_interval_seed(seed, definition.name, metric.name, rule)),
        unparsed=sum(group.unparsed for group in groups),
        model=model,
    )


def _merged(groups: Mapping[str, _Group]) -> _Group:
    """All rows of several tasks as those of one; ids are told apart by the task."""
    merged = _Group()
    for task, group in groups.items():
        merged.ids += [f"{task}/{id}" for id in group.ids]
        merged.values += group.values
        merged.images += group.images
        merged.statistics += group.statistics
        merged.unparsed += group.unparsed
    return merged


def _by_image(metric: str, group: _Group) -> dict[str, NDArray[np.float64]]:
    """The statistics of each image of a task; a row without an image stands for itself."""
    keys = [f"row {id}" if image is None else image for id, image in zip(group.ids, group.images, strict=True)]
    numbers: dict[str, int] = {}
    clusters = [numbers.setdefault(key, len(numbers)) for key in keys]
    samples = Samples(group.ids, group.values, clusters, group.statistics or None)
    return dict(zip(numbers, cluster_statistics(metric, samples), strict=True))


def _joined(parts: Sequence[Mapping[str, NDArray[np.float64]]]) -> tuple[NDArray[np.float64], list[int]]:
    """A row an image with the statistics of all parts side by side, 0 where a part has none; and the parts' widths."""
    import numpy as np

    widths = [len(next(iter(part.values()))) for part in parts]
    images = sorted(set().union(*parts))
    rows = [
        np.concatenate([part.get(image, np.zeros(width)) for part, width in zip(parts, widths, strict=True)])
        for image in images
    ]
    return np.array(rows), widths


def _interval_seed(seed: int, *key: str) -> int:
    return seeds.derive(seed, "\x1f".join(key), "evaluation.interval")


def _clusters(images: Sequence[str | None]) -> list[int] | None:
    """A number a row, equal for rows of equal images; None where no two rows share them."""
    if max(Counter(image for image in images if image is not None).values(), default=1) == 1:
        return None
    numbers: dict[object, int] = {}
    return [numbers.setdefault(("row", i) if image is None else image, len(numbers)) for i, image in enumerate(images)]
