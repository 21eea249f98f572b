"""Groups by distance are the best of all partitions of the tasks, also of those that are no intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkit.balance import grouping
from mmkit.balance.grouping import TaskScore
from mmkit.errors import UsageError

# Few values, so that there are ties; and any with four decimals.
values = st.one_of(st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0, 2.0]), st.integers(0, 20_000).map(lambda n: n / 10_000))
scores = st.lists(values, min_size=1, max_size=9)
Parts = list[list[int]]


def all_partitions(items: Sequence[int]) -> Iterator[Parts]:
    """Every way to put the items into parts, none empty."""
    if not items:
        yield []
        return
    for parts in all_partitions(items[1:]):
        yield [[items[0]], *parts]
        for i, part in enumerate(parts):
            yield [*parts[:i], [items[0], *part], *parts[i + 1 :]]


def exact(value: float | None) -> int:
    """A number of four decimals in ten-thousandths."""
    return int(Fraction(str(value)) * 10_000)


def quality(parts: Parts) -> tuple[int, int]:
    """The largest diameter and the sum of diameters: the less, the better."""
    diameters = [max(part) - min(part) for part in parts]
    return max(diameters), sum(diameters)


def grouped(own: Sequence[float], **options: object) -> Parts:
    """The scores in each group, in ten-thousandths, in the order of the groups' names."""
    rows = grouping.by_distance([TaskScore(f"t{i}", value) for i, value in enumerate(own)], **options)  # type: ignore[arg-type]
    parts: dict[str, list[int]] = {}
    for row in rows:
        parts.setdefault(row.group, []).append(exact(row.score))
    assert list(parts) == [f"group-{i + 1}" for i in range(len(parts))]
    return list(parts.values())


@settings(max_examples=60)
@given(scores, st.data())
def test_k_groups_equal_the_best_of_all_partitions(own: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(own)))
    found = grouped(own, num_groups=k)
    assert len(found) == k
    assert quality(found) == min(quality(parts) for parts in all_partitions([*map(exact, own)]) if len(parts) == k)


@settings(max_examples=40)
@given(scores, values)
def test_no_fewer_groups_keep_within_a_distance_and_none_so_few_is_better(own: list[float], most: float) -> None:
    found = grouped(own, max_distance=most)
    all_found = [(len(parts), quality(parts)) for parts in all_partitions([*map(exact, own)])]
    best = min((number, (largest, total)) for number, (largest, total) in all_found if largest <= exact(most))
    assert (len(found), quality(found)) == best


def test_groups_count_up_by_score() -> None:
    assert grouped([2.0, 0.1, 1.0, 0.0], num_groups=3) == [[0, 1_000], [10_000], [20_000]]


def test_of_equally_good_partitions_the_low_groups_are_the_small_ones() -> None:
    assert grouped([0.0, 1.0, 2.0], num_groups=2) == [[0], [10_000, 20_000]]


def test_tasks_of_one_score_count_by_name() -> None:
    rows = grouping.by_distance([TaskScore(name, 1.0) for name in "cab"], num_groups=2)
    assert [(row.task, row.group) for row in rows] == [("a", "group-1"), ("b", "group-2"), ("c", "group-2")]


@pytest.mark.parametrize("pair", [(0.2, 0.3), (0.7, 0.8), (1.9, 2.0)])
def test_a_distance_is_that_of_the_decimal_numbers(pair: tuple[float, float]) -> None:
    # As floats .3 - .2 is below .1, and .8 - .7 above it.
    assert len(grouped(pair, max_distance=0.1)) == 1
    assert len(grouped(pair, max_distance=0.0999)) == 2


@pytest.mark.parametrize("k", [0, -1, 4])
def test_groups_that_tasks_cannot_make_are_refused(k: int) -> None:
    with pytest.raises(UsageError, match=f"--num-groups {k}: 3 tasks make 1 to 3 groups"):
        grouped([0.0, 1.0, 2.0], num_groups=k)


@pytest.mark.parametrize("most", [-0.1, float("nan"), float("inf")])
def test_a_distance_that_is_none_is_refused(most: float) -> None:
    with pytest.raises(UsageError, match="--max-distance"):
        grouped([0.0, 1.0], max_distance=most)
