"""Rows through an engine: outcomes in input order, one bad row at a time, errors told at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkit.engines import Request
from mmkit.engines.exchange import exchange
from mmkit.errors import DataError, MmkitError
from mmkit.streams import Dropped, Kept, Rejected, Row

Ask = Callable[[Iterable[Request]], Iterator[str]]


def one_by_one(requests: Iterable[Request]) -> Iterator[str]:
    for request in requests:
        yield f"answer to {request.id}"


def in_batches(size: int) -> Ask:
    def ask(requests: Iterable[Request]) -> Iterator[str]:
        batch: list[Request] = []
        for request in requests:
            batch.append(request)
            if len(batch) == size:
                yield from one_by_one(batch)
                batch = []
        yield from one_by_one(batch)

    return ask


def rows(actions: list[str]) -> Iterator[Row]:
    for i, action in enumerate(actions):
        yield Row({"id": str(i), "do": action}, i, "f", i + 1)


def requests_of(row: Row) -> list[Request]:
    if row.record["do"] == "unaskable":
        raise DataError("no question")
    count = 3 if row.record["do"] == "three" else 1
    return [Request(id=f"{row.record['id']}#{k}", position=row.position) for k in range(count)]


def finish(row: Row, answers: Any) -> Any:
    assert [answer.split()[-1] for answer in answers] == [request.id for request in requests_of(row)]
    if row.record["do"] == "failed":
        raise DataError("bad answer")
    if row.record["do"] == "dropped":
        return Dropped(row, "no")
    return [row, row] if row.record["do"] == "two" else row


actions = st.lists(st.sampled_from(["kept", "unaskable", "three", "failed", "dropped", "two"]), max_size=20)


@given(actions, st.sampled_from([1, 2, 3, 100]))
def test_outcomes_are_in_input_order(actions: list[str], size: int) -> None:
    expected: list[tuple[int, type]] = []
    for i, action in enumerate(actions):
        kinds = {"unaskable": [Rejected], "failed": [Rejected], "dropped": [Dropped], "two": [Kept, Kept]}
        expected += [(i, kind) for kind in kinds.get(action, [Kept])]
    found = list(exchange(rows(actions), requests_of, in_batches(size), finish))
    assert [(o.position if isinstance(o, Rejected) else o.row.position, type(o)) for o in found] == expected


def test_a_row_that_cannot_be_asked_is_told_before_more_is_read() -> None:
    taken: list[int] = []

    def watched() -> Iterator[Row]:
        for row in rows(["unaskable"] * 5):
            taken.append(row.position)
            yield row

    outcomes = exchange(watched(), requests_of, in_batches(100), finish)
    assert isinstance(next(outcomes), Rejected)
    assert taken == [0]
    assert len(list(outcomes)) == 4


def test_an_engine_that_leaves_a_row_without_answer_is_a_bug() -> None:
    with pytest.raises(RuntimeError, match="f:2"):
        list(exchange(rows(["kept"] * 2), requests_of, lambda r: iter(list(one_by_one(r))[:1]), finish))


def test_what_is_no_error_of_ours_ends_the_run() -> None:
    def broken(requests: Iterable[Request]) -> Iterator[str]:
        next(iter(requests))
        raise MmkitError("the server is gone")
        yield

    with pytest.raises(MmkitError, match="the server is gone"):
        list(exchange(rows(["kept"]), requests_of, broken, finish))
