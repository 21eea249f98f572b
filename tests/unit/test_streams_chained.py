"""Two stages as one: every row is answered for once, in order, by whichever stage settles it."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from mmkit.errors import DataError
from mmkit.streams import Dropped, Kept, Outcome, Rejected, Result, Row, Used, Withdrawn, each
from mmkit.streams.rows import chained, position_of

FATES = ("keep", "twice", "drop", "reject")


def first(row: Row) -> list[Row] | Row | Dropped:
    fate = row.record["first"]
    if fate == "drop":
        return Dropped(row, "first")
    if fate == "reject":
        raise DataError("first")
    return [row, row] if fate == "twice" else row


def read_ahead(rows: Iterator[Row], window: int) -> Iterator[Outcome]:
    """A stage that, as an engine does, has several rows under way before it answers for one."""
    waiting: list[Row] = []
    for row in rows:
        waiting.append(row)
        if len(waiting) == window:
            yield from answer(waiting)
    yield from answer(waiting)


def test_a_result_comes_after_everything_that_either_stage_settled() -> None:
    def count(rows: Iterator[Row]) -> Iterator[Outcome]:
        kept = list(rows)
        yield from map(Used, kept)
        yield Result(kept[-1].replaced({"n": len(kept)}))

    rows = [Row({"id": str(i), "first": fate}, i, "f", i + 1) for i, fate in enumerate(["keep", "drop", "reject"])]
    outcomes = list(chained(each(first), count)(iter(rows)))
    assert [type(outcome) for outcome in outcomes] == [Used, Dropped, Rejected, Result]


def test_a_row_is_withdrawn_after_everything_that_either_stage_settled() -> None:
    def withdraw_the_first(rows: Iterator[Row]) -> Iterator[Outcome]:
        kept = list(rows)
        yield from map(Used, kept)
        yield Withdrawn(kept[0], DataError("no reply"))

    rows = [Row({"id": str(i), "first": fate}, i, "f", i + 1) for i, fate in enumerate(["keep", "drop", "reject"])]
    outcomes = list(chained(each(first), withdraw_the_first)(iter(rows)))
    assert [type(outcome) for outcome in outcomes] == [Used, Dropped, Rejected, Withdrawn]


def answer(waiting: list[Row]) -> Iterator[Outcome]:
    while waiting:
        row = waiting.pop(0)
        bad = row.record["second"] == "reject"
        yield Rejected.of(row, DataError("second")) if bad else Kept(row)


@given(
    fates=st.lists(st.tuples(st.sampled_from(FATES), st.sampled_from(("keep", "reject"))), max_size=12),
    window=st.integers(1, 4),
)
def test_every_row_comes_out_in_its_place(fates: list[tuple[str, str]], window: int) -> None:
    rows = [Row({"id": str(i), "first": a, "second": b}, i, "f", i + 1) for i, (a, b) in enumerate(fates)]
    outcomes = list(chained(each(first), lambda kept: read_ahead(kept, window))(iter(rows)))
    positions = [position_of(outcome) for outcome in outcomes]
    assert positions == sorted(positions)
    assert set(positions) == set(range(len(rows)))
    for i, (a, b) in enumerate(fates):
        own = [outcome for outcome in outcomes if position_of(outcome) == i]
        if a == "drop":
            assert [type(outcome) for outcome in own] == [Dropped]
        elif a == "reject":
            assert [str(o.error) for o in own if isinstance(o, Rejected)] == ["first"]
        else:
            kind = Rejected if b == "reject" else Kept
            assert [type(outcome) for outcome in own] == [kind] * (2 if a == "twice" else 1)
