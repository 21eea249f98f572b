"""Which tasks belong together, by how their modalities interact.

Source: MINT (arXiv 2506.02308v1), section 3.3. The paper gives neither thresholds nor a rule for "small pairwise
distances"; both are spelled out here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist

from mmkit.balance.groups import By, GroupRow
from mmkit.balance.interaction import InteractionRow
from mmkit.balance.partition import fewest_parts, partition
from mmkit.errors import DataError, UsageError

KINDS = ("synergy", "uniqueness", "redundancy")
"""The groups by interaction, in the order of their scores."""

THRESHOLDS = (0.5, 1.5)
"""The midpoints between the scores of pure synergy (0), uniqueness (1) and redundancy (2)."""

NUM_GROUPS = 3
"""As many groups as there are kinds of interaction, and as MINT makes of instructions."""

_Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class TaskScore:
    """The number that a task is grouped by, and what is known of its error: `interval` holds it in 95 of 100 cases.

    `corrected` says that chance agreement has been taken out of it.
    """

    task: str
    value: float
    interval: tuple[float, float] | None = None
    corrected: bool = False

    @classmethod
    def of(cls, row: InteractionRow, *, corrected: bool = False) -> TaskScore:
        """A row's `score` with `ci95`, or without that 1.96 `se` to both sides; or `corrected` with `corrected_ci95`.

        Raises DataError where the row has no such score, or one that is not finite.
        """
        value, interval = (row.corrected, row.corrected_ci95) if corrected else (row.score, row.ci95)
        if value is None:
            raise DataError(
                f"task {row.task!r} has no chance-corrected score: {_why_uncorrected(row)}. Group it by its score "
                "(without --corrected), by hand (--by file), or leave it out (--rejects FILE)"
            )
        if interval is None and not corrected and row.se is not None:
            interval = (value - _Z95 * row.se, value + _Z95 * row.se)
        if not all(map(math.isfinite, (value, *(interval or ())))):
            raise DataError(f"task {row.task!r}: its score or the score's interval is not finite")
        return cls(row.task, value, interval, corrected)


def by_interaction(scores: Iterable[TaskScore], thresholds: tuple[float, float] = THRESHOLDS) -> list[GroupRow]:
    """Synergy below the lower threshold, redundancy above the upper one, uniqueness between them and on them.

    Probabilities are those of a distribution that has the score in its middle and the interval's ends as its 2.5 % and
    97.5 % quantiles, and is normal on either side: at 0 and 2 an interval reaches to one side alone. A task is unsure
    where an end of its interval does not lie in its group. Rows come by score.

    Source: MINT, section 3.3, step 1, which says "about 2, 1, 0". Deviation: thresholds halfway between.
    Raises UsageError for thresholds that are not in ascending order, DataError for a task that comes twice and where
    there is none.
    """
    if not thresholds[0] < thresholds[1]:
        raise UsageError(f"--thresholds: {thresholds[0]:g} is not below {thresholds[1]:g}")
    return [_of_kind(score, thresholds) for score in _ascending(scores)]


def by_distance(
    scores: Iterable[TaskScore], *, num_groups: int = NUM_GROUPS, max_distance: float | None = None
) -> list[GroupRow]:
    """`num_groups` groups whose largest distance between two tasks is least; see `partition` for what decides then.

    With `max_distance` the fewest groups in which no two tasks are farther apart, and of these the best as above.
    The groups are group-1, group-2 and so on by ascending score. Scores are compared as the decimal numbers that they
    are written as: .3 and .2 are .1 apart. Tasks of equal scores count by name.

    Source: MINT, eq. 2 and section 3.3, step 2. Deviation: the paper asks for "small" distances without a rule.
    Raises UsageError where there are fewer tasks than groups, DataError as `by_interaction`.
    """
    ordered = _ascending(scores)
    values = [_exact(score.value) for score in ordered]
    if max_distance is not None:
        if not 0 <= max_distance < math.inf:
            raise UsageError(f"--max-distance: expected a number that is not negative, got {max_distance:g}")
        num_groups = fewest_parts(values, _exact(max_distance))
    require_enough(len(ordered), num_groups)
    return [
        GroupRow(score.task, group_name(number), "distance", score.value, score.corrected)
        for number, part in enumerate(partition(values, num_groups))
        for score in ordered[part.start : part.stop]
    ]


def assign(
    scores: Iterable[TaskScore],
    groups: Sequence[GroupRow],
    *,
    by: By = "interaction",
    thresholds: tuple[float, float] = THRESHOLDS,
) -> list[GroupRow]:
    """The groups that are there already for tasks that are in none of them; tasks that are in one are passed over.

    By interaction: the group of its kind. By distance: the group whose mean score is nearest, of two the lower one. A
    new task moves no mean, so each task's group depends on `groups` alone.

    Source: MINT, section 4.1.1, where test sets that are in no training group are given one. Deviation: the paper does
    not say by which rule.
    Raises UsageError where `groups` are not of the kinds, hold other scores (raw, corrected) or none; DataError where
    a task's kind is not among them, and as `by_interaction`.
    """
    known = {row.task for row in groups}
    new = [score for score in _ascending(scores) if score.task not in known]
    for row in groups:
        if new and row.corrected is not None and row.corrected != new[0].corrected:
            kind, option = ("chance-corrected", "give") if row.corrected else ("raw", "leave out")
            raise UsageError(f"--assign: its tasks were grouped by their {kind} scores; {option} --corrected")
    if by == "distance":
        means = _mean_scores(groups)
        return [_nearest(score, means) for score in new]
    names = {row.group for row in groups}
    if others := sorted(names - set(KINDS)):
        raise UsageError(
            f"--assign: {others[0]!r} is no kind of interaction; --by distance takes the group of the nearest score"
        )
    rows = [_of_kind(score, thresholds) for score in new]
    for row in rows:
        if row.group not in names:
            raise DataError(
                f"task {row.task!r} with score {row.score:g} is of the kind {row.group}, of which --assign has no "
                "task; --by distance takes the group of the nearest score"
            )
    return rows


def single(tasks: Iterable[str]) -> list[GroupRow]:
    """Each task alone, in a group of its own name: single-task tuning."""
    return [GroupRow(task, task, "single") for task in _distinct(tasks)]


def together(tasks: Iterable[str]) -> list[GroupRow]:
    """All tasks in the group "all": multi-task tuning without groups."""
    return [GroupRow(task, "all", "all") for task in _distinct(tasks)]


def by_hand(tasks: Iterable[str], groups: Mapping[str, str]) -> list[GroupRow]:
    """Each task in the group that `groups` names for it. Raises DataError for tasks that it does not name."""
    names = _distinct(tasks)
    if missing := [task for task in names if task not in groups]:
        raise DataError(f"no group for {', '.join(map(repr, missing))}: each task needs one")
    return sorted((GroupRow(task, groups[task], "file") for task in names), key=lambda row: (row.group, row.task))


def group_name(number: int) -> str:
    """What the groups of methods that have no names for them are called; `number` counts from 0."""
    return f"group-{number + 1}"


def require_enough(num_tasks: int, num_groups: int) -> None:
    """Raise UsageError where `num_tasks` cannot make `num_groups` groups, none of them empty."""
    if not 1 <= num_groups <= num_tasks:
        raise UsageError(f"--num-groups {num_groups}: {num_tasks} tasks make 1 to {num_tasks} groups")


def _why_uncorrected(row: InteractionRow) -> str:
    if row.similarity == "judge":
        return "a judge compared its predictions"
    if "undefined" in row.marks:
        return "its predictions hardly vary, so chance alone explains their agreement"
    return 'the row gives no "corrected"'


def _ascending(scores: Iterable[TaskScore]) -> list[TaskScore]:
    """By score, then by name. Raises DataError for a task that comes twice, and where there is none."""
    ordered = sorted(scores, key=lambda score: (score.value, score.task))
    _require_some(ordered)
    for task, times in Counter(score.task for score in ordered).items():
        if times > 1:
            raise DataError(f"task {task!r} has {times} scores")
    return ordered


def _distinct(tasks: Iterable[str]) -> list[str]:
    """By name. Raises DataError where there is none."""
    names = sorted(set(tasks))
    _require_some(names)
    return names


def _require_some(tasks: Sequence[object]) -> None:
    if not tasks:
        raise DataError("there is no task to group")


def _of_kind(score: TaskScore, thresholds: tuple[float, float]) -> GroupRow:
    kind = _kind(score.value, thresholds)
    if score.interval is None:
        return GroupRow(score.task, kind, "interaction", score.value, score.corrected)
    probabilities = _probabilities(score.value, score.interval, thresholds)
    return GroupRow(
        score.task,
        kind,
        "interaction",
        score.value,
        score.corrected,
        probability=probabilities[kind],
        probabilities=probabilities,
        unsure=any(_kind(end, thresholds) != kind for end in score.interval),
    )


def _kind(score: float, thresholds: tuple[float, float]) -> str:
    low, high = thresholds
    return KINDS[(score >= low) + (score > high)]


def _probabilities(score: float, interval: tuple[float, float], thresholds: tuple[float, float]) -> dict[str, float]:
    synergy = _probability_below(thresholds[0], score, interval)
    redundancy = _probability_below(-thresholds[1], -score, (-interval[1], -interval[0]))
    return dict(zip(KINDS, (synergy, max(0.0, 1 - synergy - redundancy), redundancy), strict=True))


def _probability_below(threshold: float, score: float, interval: tuple[float, float]) -> float:
    sd = (score - interval[0] if threshold <= score else interval[1] - score) / _Z95
    return NormalDist(score, sd).cdf(threshold) if sd > 0 else float(score < threshold)


def _exact(number: float) -> Fraction:
    """The decimal number that a float is written as."""
    return Fraction(str(number))


def _mean_scores(groups: Sequence[GroupRow]) -> dict[str, Fraction]:
    scores: dict[str, list[Fraction]] = {}
    for row in groups:
        own = scores.setdefault(row.group, [])
        if row.score is not None:
            own.append(_exact(row.score))
    if without := [name for name, own in scores.items() if not own]:
        raise UsageError(f"--assign: no task of the group {without[0]!r} has a score to be near to")
    return {name: sum(own, Fraction(0)) / len(own) for name, own in scores.items()}


def _nearest(score: TaskScore, means: Mapping[str, Fraction]) -> GroupRow:
    value = _exact(score.value)
    group = min(means, key=lambda name: (abs(means[name] - value), means[name], name))
    return GroupRow(score.task, group, "distance", score.value, score.corrected)
