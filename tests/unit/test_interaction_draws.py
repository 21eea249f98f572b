"""The draws of eq. 1: the same whatever the order of the rows and however they are cut into shards."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mmkit import seeds
from mmkit.balance.draws import Drawn, Draws
from mmkit.streams import Row

DRAWS, SIZE = 3, 4
# Few ids and fewer contents, so that ids come again, with other content and with the same.
RECORDS = st.lists(
    st.fixed_dictionaries(
        {"id": st.sampled_from([str(number) for number in range(12)]), "task": st.sampled_from(["one", "two"])},
        optional={"question": st.sampled_from(["what?", "where?"])},
    ),
    max_size=40,
)
Record = dict[str, Any]


def sample_of(records: Iterable[Record], draws: int = DRAWS, size: int = SIZE, seed: int = 0) -> dict[str, list[Drawn]]:
    sample = Draws(draws, size, seed)
    for position, record in enumerate(records):
        sample.add(Row(record, position, "tasks.jsonl", position + 1))
    return sample.tasks()


def shown(sample: dict[str, list[Drawn]]) -> dict[str, list[tuple[Record, tuple[int, ...]]]]:
    return {task: [(one.row.record, one.draws) for one in drawn] for task, drawn in sample.items()}


def ids(drawn: list[Drawn], number: int) -> list[str]:
    return [one.row.record["id"] for one in drawn if number in one.draws]


@given(RECORDS, st.randoms(use_true_random=False))
def test_row_order_changes_no_draw(records: list[Record], random: Any) -> None:
    mixed = records.copy()
    random.shuffle(mixed)
    assert shown(sample_of(mixed)) == shown(sample_of(records))


@given(RECORDS, st.integers(0, 40), st.integers(0, 40))
def test_the_draws_of_shards_draws_are_those_of_all_rows(records: list[Record], cut: int, other_cut: int) -> None:
    low, high = sorted((cut, other_cut))
    shards = [records[:low], records[low:high], records[high:]]
    kept = [one.row.record for shard in shards for drawn in sample_of(shard).values() for one in drawn]
    assert shown(sample_of(kept)) == shown(sample_of(records))


@given(RECORDS)
def test_a_draw_is_without_replacement_and_whole_where_there_are_too_few(records: list[Record]) -> None:
    sample = sample_of(records)
    assert list(sample) == sorted({record["task"] for record in records})
    for task, drawn in sample.items():
        of_task = [record for record in records if record["task"] == task]
        for number in range(DRAWS):
            inside = [one.row.record for one in drawn if number in one.draws]
            assert len(inside) == min(SIZE, len(of_task))
            left = Counter(map(str, of_task))
            left.subtract(map(str, inside))
            assert min(left.values()) >= 0
        assert all(one.draws for one in drawn)
        assert [one.row.record["id"] for one in drawn] == sorted(one.row.record["id"] for one in drawn)


def test_a_draw_is_the_records_with_the_smallest_keys() -> None:
    records = [{"id": str(number), "task": "t"} for number in range(40)]
    drawn = sample_of(records, seed=7)["t"]
    for number in range(DRAWS):
        by_key = sorted(records, key=lambda record: seeds.derive(7, record["id"], f"interaction.draw.{number}"))
        assert set(ids(drawn, number)) == {record["id"] for record in by_key[:SIZE]}


def test_draws_differ_from_one_another_and_by_seed_and_every_record_has_the_same_chance() -> None:
    records = [{"id": str(number), "task": "t"} for number in range(40)]
    drawn = sample_of(records, draws=400, size=10)["t"]
    assert len({tuple(ids(drawn, number)) for number in range(400)}) == 400
    counts = [len(one.draws) for one in drawn]
    assert len(counts) == 40  # a quarter of 400 each, sd 8.7
    assert min(counts) > 65
    assert max(counts) < 135
    assert ids(sample_of(records, seed=1)["t"], 0) != ids(sample_of(records)["t"], 0)


def test_a_larger_draw_holds_the_smaller_one() -> None:
    records = [{"id": str(number)} for number in range(40)]
    small, large = (sample_of(records, size=size)["default"] for size in (5, 20))
    for number in range(DRAWS):
        assert set(ids(small, number)) < set(ids(large, number))


def test_records_of_one_id_are_all_counted() -> None:
    twice = [{"id": "1", "question": "what?"}, {"id": "1", "question": "where?"}, {"id": "1", "question": "what?"}]
    (drawn,) = sample_of(twice).values()
    assert [one.draws for one in drawn] == [(0, 1, 2)] * 3
    assert Counter(one.row.record["question"] for one in drawn) == {"what?": 2, "where?": 1}


def test_inline_images_tell_records_of_one_id_apart() -> None:
    twice = [{"id": "1", "images": [{"bytes": bytes([number])}]} for number in range(3)]
    assert shown(sample_of(twice, size=2)) == shown(sample_of(twice[::-1], size=2))


def test_only_what_is_drawn_is_held() -> None:
    class Watched(dict[str, Any]):
        __hash__ = object.__hash__  # type: ignore[assignment]

    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    sample = Draws(draws=2, size=5)
    for number in range(500):
        record = Watched(id=str(number))
        alive.add(record)
        sample.add(Row(record, number, "tasks.jsonl", number + 1))
        del record
    gc.collect()
    assert len(alive) <= 10
