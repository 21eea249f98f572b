"""Which rows every optimizer step trains on, and on which rank: planned an epoch at a time. Pure functions; no torch.

The rows of an epoch are put into random order and cut into global batches of world × batch_size × accumulation rows,
the rows of one optimizer step. Only then is a global batch cut into micro-steps and these are dealt to the ranks. So
the set of rows in each step depends on that product alone: 1 process × 8 rows takes the same steps as 2 ranks × 2
micro-steps × 2 rows. This always holds, with modalities kept apart or not.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mmkit.errors import UsageError
from mmkit.seeds import derive, generator
from mmkit.training.config import TuneConfig


@dataclass(frozen=True, slots=True)
class RowFacts:
    """What planning must know of a row. `length` is its number of tokens, image tokens included, or an estimate."""

    id: str
    task: str | None
    length: int
    has_image: bool


@dataclass(frozen=True, slots=True)
class Place:
    """A row of a micro-batch, by its index in the data. A `padding` place is a copy of a row that counts nothing."""

    index: int
    padding: bool = False


MicroBatch: TypeAlias = tuple[Place, ...]
"""What one rank runs at once."""

MicroStep: TypeAlias = tuple[MicroBatch, ...]
"""One micro-batch for each rank, all with the same number of places."""

Step: TypeAlias = tuple[MicroStep, ...]
"""The micro-steps of one optimizer step: `accumulation` of them, fewer where the rows ran out."""

_Indices: TypeAlias = npt.NDArray[np.int64]


def epoch_plan(
    rows: Sequence[RowFacts],
    config: TuneConfig,
    *,
    epoch: int,
    world: int = 1,
    one_modality: bool = False,
    task_weights: Mapping[str, float] | None = None,
) -> list[Step]:
    """The optimizer steps of epoch `epoch` (from 0) on `world` ranks.

    It is a function of (seed, epoch) and the rows; their order in the file tells only rows apart that share an id.
    In a micro-step every rank has the same number of places, and the longest rows
    are spread so that the ranks' token counts are close. Where the rows do not suffice, copies of the shortest row of
    the same micro-step are filled in as padding, fewer of them than there are ranks.

    Sampling. "proportional": every row exactly once. Otherwise the epoch has as many rows as the data, and each task a
    quota of them by largest remainder: "uniform" the same for each, "sqrt" proportional to the square root of its
    rows, "weights" to `task_weights`. Rows without a task count as one task. A task's rows are walked in a circle, in
    an order drawn once for the run, and every epoch goes on where the one before stopped. So at the end of each epoch
    no row of a task was drawn k + 1 times while another was not drawn k times, in that epoch or since the start.

    Batches. With `group_by_length` the rows of a step are sorted by length before they are cut into micro-steps, so
    that like is padded with like. Which rows make a step is left to chance: steps of like rows would be steps of one
    task, often, and task weights, which weigh the tasks of a step against each other, would lose their force. The last
    step of an epoch may be shorter.
    With `modality_batches`, or `one_modality` for a model that cannot mix them, a whole step is text-only or
    image-only, on any number of ranks and micro-steps. Each modality then has its own shorter step, anywhere in the
    epoch: at its end the learning rate would pass over a modality with few rows.

    Raises UsageError where sampling by weights lacks the weight of a task, or has an impossible one.
    Source: MLAN, Appendix E.1 (mini-batches of one modality in random order). Deviation: none.
    """
    lengths = [row.length for row in rows]
    batches = _global_batches(rows, config, epoch, world, one_modality, task_weights)
    return [_step(batch, lengths, config, world) for batch in batches]


def num_steps(
    rows: Sequence[RowFacts],
    config: TuneConfig,
    *,
    world: int = 1,
    one_modality: bool = False,
    task_weights: Mapping[str, float] | None = None,
) -> int:
    """The optimizer steps of the whole run: `max_steps`, or those of all epochs, counted without planning them.

    Raises UsageError as `epoch_plan` does.
    """
    if config.max_steps is not None:
        return config.max_steps
    size = _global_batch_size(config, world)
    if not (one_modality or config.modality_batches):
        return config.epochs * -(-len(rows) // size)
    sources = _sources(rows, config, task_weights)
    images = sum((_images_by_epoch(source, rows, config) for source in sources), np.zeros(config.epochs, np.int64))
    return int((-(-images // size) + -(-(len(rows) - images) // size)).sum())


def _global_batch_size(config: TuneConfig, world: int) -> int:
    return world * config.batch_size * config.accumulation


# Which rows an epoch has.


@dataclass(frozen=True, slots=True)
class _Source:
    """Rows that share a quota: `quota` of `members` are drawn in every epoch."""

    members: _Indices
    quota: int


def _sources(rows: Sequence[RowFacts], config: TuneConfig, task_weights: Mapping[str, float] | None) -> list[_Source]:
    if not rows:
        return []
    if config.task_sampling == "proportional":
        return [_Source(np.arange(len(rows)), len(rows))]
    members: dict[str | None, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        members[row.task].append(index)
    tasks = sorted(members, key=lambda task: (task is not None, task or ""))
    shares = _shares({task: len(members[task]) for task in tasks}, config, task_weights)
    quotas = _largest_remainder(shares, len(rows))
    return [_Source(np.array(members[task], np.int64), quota) for task, quota in zip(tasks, quotas, strict=True)]


def _shares(
    counts: Mapping[str | None, int], config: TuneConfig, task_weights: Mapping[str, float] | None
) -> list[float]:
    """How much of an epoch each task gets, up to a factor."""
    if config.task_sampling == "uniform":
        return [1.0] * len(counts)
    if config.task_sampling == "sqrt":
        return [math.sqrt(count) for count in counts.values()]
    if task_weights is None:
        raise UsageError("task_sampling weights needs the weights of the tasks (--weights)")
    weights = {task: task_weights.get(task) if task is not None else None for task in counts}
    missing = [
        "rows without a task" if task is None else repr(task) for task, weight in weights.items() if weight is None
    ]
    if missing:
        raise UsageError(f"task_sampling weights: no weight for {', '.join(missing)}")
    shares = [float(weight) for weight in weights.values() if weight is not None]
    if any(not 0 <= share < math.inf for share in shares) or (shares and not any(shares)):
        raise UsageError(f"task_sampling weights: a weight is negative or not finite, or all are 0: {shares}")
    return shares


def _largest_remainder(shares: Sequence[float], total: int) -> list[int]:
    """Whole numbers that add up to `total` and are proportional to `shares`; of equal remainders the first wins."""
    whole = math.fsum(shares)
    exact = [total * share / whole for share in shares]
    quotas = [math.floor(number) for number in exact]
    by_remainder = sorted(range(len(shares)), key=lambda i: quotas[i] - exact[i])
    for i in by_remainder[: total - sum(quotas)]:
        quotas[i] += 1
    return quotas


def _circle(source: _Source, rows: Sequence[RowFacts], config: TuneConfig) -> _Indices:
    """The members in the order in which they are walked. Where an epoch takes whole laps, any order will do."""
    if source.quota % len(source.members) == 0:
        return source.members
    keys = _keys(source.members, rows, config, "finetune.circle")
    return source.members[np.argsort(keys, kind="stable")]


def _keys(indices: _Indices, rows: Sequence[RowFacts], config: TuneConfig, purpose: str) -> npt.NDArray[np.uint64]:
    drawn = (derive(config.seed, rows[index].id, purpose) for index in indices.tolist())
    return np.fromiter(drawn, np.uint64, len(indices))


def _drawn(
    rows: Sequence[RowFacts], config: TuneConfig, epoch: int, task_weights: Mapping[str, float] | None
) -> _Indices:
    """The rows of the epoch in random order."""
    laps: dict[int, list[_Indices]] = defaultdict(list)
    for source in _sources(rows, config, task_weights):
        circle, start = _circle(source, rows, config), epoch * source.quota
        for lap, begin in enumerate(range(0, source.quota, len(circle))):
            end = min(begin + len(circle), source.quota)
            laps[lap].append(circle[np.arange(start + begin, start + end) % len(circle)])
    if not laps:
        return np.zeros(0, np.int64)
    indices = [np.concatenate(parts) for parts in laps.values()]
    keys = [_keys(part, rows, config, f"finetune.order.{epoch}.{lap}") for lap, part in enumerate(indices)]
    order = np.lexsort((np.concatenate(indices), np.concatenate(keys)))
    return np.concatenate(indices)[order]


def _images_by_epoch(source: _Source, rows: Sequence[RowFacts], config: TuneConfig) -> _Indices:
    """How many rows with an image are drawn in each epoch."""
    has_image = np.array([rows[index].has_image for index in source.members.tolist()], np.int64)
    if has_image.any() and not has_image.all():
        has_image = np.array([rows[index].has_image for index in _circle(source, rows, config).tolist()], np.int64)
    before = np.concatenate([[0], np.cumsum(has_image)])
    laps, rest = np.divmod(np.arange(config.epochs + 1) * source.quota, len(has_image))
    return np.diff(laps * before[-1] + before[rest])


# How they are cut.


def _global_batches(
    rows: Sequence[RowFacts],
    config: TuneConfig,
    epoch: int,
    world: int,
    one_modality: bool,
    task_weights: Mapping[str, float] | None,
) -> list[_Indices]:
    order = _drawn(rows, config, epoch, task_weights)
    kinds = [order]
    if one_modality or config.modality_batches:
        has_image = np.array([row.has_image for row in rows], bool)[order]
        kinds = [order[~has_image], order[has_image]]
    size = _global_batch_size(config, world)
    batches = [kind[start : start + size] for kind in kinds for start in range(0, len(kind), size)]
    generator(config.seed, str(epoch), "finetune.steps").shuffle(batches)
    if len(kinds) == 1:
        batches.sort(key=len, reverse=True)  # stable: only the short one moves, to the end
    return batches


def _step(batch: _Indices, lengths: Sequence[int], config: TuneConfig, world: int) -> Step:
    size = world * config.batch_size
    indices: list[int] = batch.tolist()
    if config.group_by_length:
        indices.sort(key=lengths.__getitem__, reverse=True)
    return tuple(_dealt(indices[start : start + size], lengths, world) for start in range(0, len(indices), size))


def _dealt(indices: Sequence[int], lengths: Sequence[int], world: int) -> MicroStep:
    """The rows dealt over the ranks: the longest one left always goes to the rank with the fewest tokens and room."""
    if world == 1:
        return (tuple(map(Place, indices)),)
    longest_first = sorted(indices, key=lengths.__getitem__, reverse=True)
    places = [Place(index) for index in longest_first]
    places += [Place(longest_first[-1], padding=True)] * (-len(places) % world)
    room = len(places) // world
    hands: list[list[Place]] = [[] for _ in range(world)]
    open_ranks = [(0, rank) for rank in range(world)]  # (tokens, rank), a heap
    for place in places:
        tokens, rank = open_ranks[0]
        hands[rank].append(place)
        if len(hands[rank]) == room:
            heapq.heappop(open_ranks)
        else:
            heapq.heapreplace(open_ranks, (tokens + lengths[place.index], rank))
    return tuple(tuple(hand) for hand in hands)
