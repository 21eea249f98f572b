"""The plan of an epoch: every row once, equal ranks, one modality where asked, and steps that no cut changes."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkit.errors import UsageError
from mmkit.training import TuneConfig
from mmkit.training.plan import MicroStep, Place, RowFacts, Step, epoch_plan, num_steps

WEIGHTS = {"a": 3.0, "b": 1.0, "c": 0.5}

facts = st.builds(
    RowFacts,
    id=st.text("abcdefgh", max_size=3),
    task=st.sampled_from(["a", "b", "c"]),
    length=st.integers(1, 50),
    has_image=st.booleans(),
)
data = st.lists(facts, max_size=60)
unique_data = st.lists(facts, max_size=40, unique_by=lambda row: row.id)
configs = st.builds(
    TuneConfig,
    batch_size=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    group_by_length=st.booleans(),
    modality_batches=st.booleans(),
    seed=st.integers(0, 3),
)
samplings = st.sampled_from(["proportional", "uniform", "sqrt", "weights"])
worlds = st.integers(1, 4)
epochs = st.integers(0, 4)


def make(count: int, *, task: str | None = None, images: bool = False, lengths: Sequence[int] = (7,)) -> list[RowFacts]:
    name = f"{task}-{'image' if images else 'text'}"
    return [RowFacts(f"{name}-{i}", task, lengths[i % len(lengths)], images) for i in range(count)]


def places(step: Step) -> list[Place]:
    return [place for micro_step in step for micro_batch in micro_step for place in micro_batch]


def trained(steps: Sequence[Step]) -> list[int]:
    """The indices of all rows that count."""
    return [place.index for step in steps for place in places(step) if not place.padding]


def row_sets(steps: Sequence[Step]) -> list[list[int]]:
    return [sorted(trained([step])) for step in steps]


@given(data, configs, worlds, epochs)
def test_every_row_is_trained_exactly_once_an_epoch(
    rows: list[RowFacts], config: TuneConfig, world: int, epoch: int
) -> None:
    assert sorted(trained(epoch_plan(rows, config, epoch=epoch, world=world))) == list(range(len(rows)))


@given(data, configs, samplings, worlds, epochs)
def test_ranks_run_in_step_and_padding_copies_a_row_beside_it(
    rows: list[RowFacts], config: TuneConfig, sampling: str, world: int, epoch: int
) -> None:
    config = replace(config, task_sampling=sampling)
    for step in epoch_plan(rows, config, epoch=epoch, world=world, task_weights=WEIGHTS):
        assert 1 <= len(step) <= config.accumulation
        for micro_step in step:
            assert len(micro_step) == world
            (size,) = {len(micro_batch) for micro_batch in micro_step}
            assert 1 <= size <= config.batch_size
            padding = {place.index for place in places((micro_step,)) if place.padding}
            real = trained([(micro_step,)])
            assert real
            assert padding <= set(real)
            assert world * size - len(real) < world


@given(data, configs, samplings, worlds)
def test_with_one_modality_a_whole_step_has_only_one(
    rows: list[RowFacts], config: TuneConfig, sampling: str, world: int
) -> None:
    config = replace(config, task_sampling=sampling, modality_batches=False)
    asked = epoch_plan(rows, config, epoch=0, world=world, one_modality=True, task_weights=WEIGHTS)
    assert all(len({rows[place.index].has_image for place in places(step)}) == 1 for step in asked)
    told = replace(config, modality_batches=True)
    assert epoch_plan(rows, told, epoch=0, world=world, task_weights=WEIGHTS) == asked


@given(
    data,
    configs,
    samplings,
    epochs,
    st.sampled_from([(1, 8, 1), (2, 2, 2), (2, 4, 1), (8, 1, 1), (1, 1, 8), (4, 1, 2)]),
)
def test_the_steps_do_not_depend_on_how_a_global_batch_is_cut(
    rows: list[RowFacts], config: TuneConfig, sampling: str, epoch: int, cut: tuple[int, int, int]
) -> None:
    def steps(world: int, batch_size: int, accumulation: int) -> list[list[int]]:
        cut_so = replace(config, batch_size=batch_size, accumulation=accumulation, task_sampling=sampling)
        return row_sets(epoch_plan(rows, cut_so, epoch=epoch, world=world, task_weights=WEIGHTS))

    assert steps(*cut) == steps(2, 2, 2)


@given(unique_data, configs, samplings, worlds, epochs, st.randoms())
def test_the_order_of_the_file_does_not_matter(
    rows: list[RowFacts], config: TuneConfig, sampling: str, world: int, epoch: int, rng: Any
) -> None:
    config = replace(config, task_sampling=sampling)
    mixed = list(rows)
    rng.shuffle(mixed)

    def named(data: list[RowFacts]) -> list[list[list[list[tuple[str, bool]]]]]:
        steps = epoch_plan(data, config, epoch=epoch, world=world, task_weights=WEIGHTS)
        return [[[[(data[p.index].id, p.padding) for p in b] for b in m] for m in step] for step in steps]

    assert named(mixed) == named(rows)


def test_rows_that_share_an_id_keep_their_order() -> None:
    rows = make(5) + make(5)
    (step,) = epoch_plan(rows, TuneConfig(batch_size=10), epoch=0)
    order = trained([step])
    assert order != sorted(order)
    assert all(order.index(i) < order.index(i + 5) for i in range(5))


def test_epochs_and_seeds_differ() -> None:
    rows = make(40, lengths=range(1, 41))
    for grouped in (False, True):
        plans = [
            tuple(
                map(
                    tuple,
                    row_sets(
                        epoch_plan(rows, TuneConfig(batch_size=2, group_by_length=grouped, seed=seed), epoch=epoch)
                    ),
                )
            )
            for seed in range(3)
            for epoch in range(3)
        ]
        assert len(set(plans)) == 9
        assert len({frozenset(plan) for plan in plans}) == 9  # other batches, not only another order of the same


@pytest.mark.parametrize("grouped", [False, True])
def test_seven_rows_on_two_ranks(grouped: bool) -> None:
    rows = make(4, lengths=(5, 3)) + make(3, images=True, lengths=(20, 30, 10))
    config = TuneConfig(batch_size=2, accumulation=2, group_by_length=grouped)

    (step,) = epoch_plan(rows, config, epoch=0, world=2)
    assert sorted(trained([step])) == list(range(7))
    assert [[len(micro_batch) for micro_batch in micro_step] for micro_step in step] == [[2, 2], [2, 2]]
    assert sum(place.padding for place in places(step)) == 1

    text, image = sorted(row_sets(epoch_plan(rows, config, epoch=0, world=2, one_modality=True)))
    assert (text, image) == ([0, 1, 2, 3], [4, 5, 6])
    for step in epoch_plan(rows, config, epoch=0, world=2, one_modality=True):
        assert [[len(micro_batch) for micro_batch in micro_step] for micro_step in step] == [[2, 2]]


def test_the_short_step_is_the_last_and_a_random_draw() -> None:
    rows = make(43, lengths=range(1, 44))
    short = []
    for epoch in range(20):
        plan = epoch_plan(rows, TuneConfig(batch_size=4), epoch=epoch)
        assert [len(places(step)) for step in plan] == [4] * 10 + [3]
        short += trained(plan[-1:])
    assert min(short) < 10
    assert max(short) > 32


def test_a_small_modality_is_not_left_to_the_end() -> None:
    rows = make(4) + make(400, images=True)
    config = TuneConfig(batch_size=8, modality_batches=True)
    plans = [row_sets(epoch_plan(rows, config, epoch=epoch)) for epoch in range(20)]
    at = [plan.index([0, 1, 2, 3]) for plan in plans]
    assert min(at) < 13
    assert max(at) > 37


def spread(rows: list[RowFacts], micro_step: MicroStep) -> int:
    lengths = [rows[place.index].length for place in places((micro_step,))]
    return max(lengths) - min(lengths)


def test_rows_of_similar_length_share_a_micro_step_and_chance_makes_the_step() -> None:
    rows = make(4000, lengths=[(i * 617) % 1000 for i in range(1000)])
    config = TuneConfig(batch_size=2, accumulation=8)
    grouped = epoch_plan(rows, config, epoch=0, world=2)
    mixed = epoch_plan(rows, replace(config, group_by_length=False), epoch=0, world=2)

    def mean_spread(steps: list[Step]) -> float:
        spreads = [spread(rows, micro_step) for step in steps for micro_step in step]
        return sum(spreads) / len(spreads)

    assert mean_spread(grouped) < 120  # 32 rows of 0 to 1000 tokens are sorted together: 4 of them span 94
    assert mean_spread(mixed) > 500
    assert row_sets(grouped) == row_sets(mixed)


def test_ranks_get_as_many_tokens_as_each_other() -> None:
    rows = [RowFacts(str(length), None, length, False) for length in (100, 90, 80, 20, 10, 5)]
    ((micro_step,),) = epoch_plan(rows, TuneConfig(batch_size=3), epoch=0, world=2)
    # 100 | 90, then 80 to the 90, then 20 and 10 to the 100, and 5 where there is room.
    assert [[rows[place.index].length for place in hand] for hand in micro_step] == [[100, 20, 10], [90, 80, 5]]


@given(data, configs, st.integers(2, 4))
def test_ranks_differ_by_less_than_their_longest_row(rows: list[RowFacts], config: TuneConfig, world: int) -> None:
    for step in epoch_plan(rows, config, epoch=0, world=world):
        for micro_step in step:
            tokens = [sum(rows[place.index].length for place in hand) for hand in micro_step]
            assert max(tokens) - min(tokens) <= spread(rows, micro_step)


def test_padding_copies_the_shortest_row() -> None:
    rows = [RowFacts(str(length), None, length, False) for length in (9, 4, 7, 5, 6)]
    ((micro_step,),) = epoch_plan(rows, TuneConfig(batch_size=2), epoch=0, world=4)
    assert [[(p.index, p.padding) for p in hand] for hand in micro_step] == [
        [(0, False), (1, True)],
        [(2, False), (1, True)],
        [(4, False), (1, True)],
        [(3, False), (1, False)],
    ]


# Sampling by task.


def drawn_by_task(rows: list[RowFacts], config: TuneConfig, epoch: int = 0, **options: Any) -> Counter[str | None]:
    return Counter(rows[index].task for index in trained(epoch_plan(rows, config, epoch=epoch, **options)))


def test_quotas_by_hand() -> None:
    rows = make(16, task="a") + make(4, task="b") + make(1)
    # 21 rows. Uniform: 7 each. Square roots 4, 2, 1 of 7: 12, 6, 3.
    assert drawn_by_task(rows, TuneConfig(task_sampling="uniform")) == {"a": 7, "b": 7, None: 7}
    assert drawn_by_task(rows, TuneConfig(task_sampling="sqrt")) == {"a": 12, "b": 6, None: 3}
    # 20 rows at 1 : 2 : 0 are 6.67 and 13.33, so 7 and 13: the larger remainder is rounded up.
    config = TuneConfig(task_sampling="weights")
    weights = {"a": 1.0, "b": 2.0, "none": 9.0}
    assert drawn_by_task(rows[:20], config, task_weights=weights) == {"a": 7, "b": 13}
    assert drawn_by_task(rows[:20], config, task_weights={"a": 0.0, "b": 0.1}) == {"b": 20}
    # Of equal remainders the first task by name wins: 5 rows for 2 tasks.
    assert drawn_by_task(make(1, task="z") + make(4, task="y"), TuneConfig(task_sampling="uniform")) == {"y": 3, "z": 2}


@given(data, configs, st.sampled_from(["uniform", "sqrt", "weights"]))
def test_the_rows_of_a_task_take_turns(rows: list[RowFacts], config: TuneConfig, sampling: str) -> None:
    config = replace(config, task_sampling=sampling)
    so_far: Counter[int] = Counter()
    quotas = []
    for epoch in range(4):
        epochs_own = Counter(trained(epoch_plan(rows, config, epoch=epoch, task_weights=WEIGHTS)))
        so_far += epochs_own
        assert epochs_own.total() == len(rows)
        quotas.append(Counter(rows[index].task for index in epochs_own.elements()))
        for counts in (epochs_own, so_far):
            by_task = defaultdict(list)
            for index, row in enumerate(rows):
                by_task[row.task].append(counts[index])
            assert all(max(times) - min(times) <= 1 for times in by_task.values())
    assert quotas == [quotas[0]] * 4


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (None, "needs the weights of the tasks"),
        ({"a": 1.0}, "no weight for rows without a task, 'b'"),
        ({"a": 1.0, "b": -1.0}, "rows without a task"),
    ],
)
def test_sampling_by_weight_needs_every_weight(weights: dict[str, float] | None, words: str) -> None:
    rows = make(2, task="a") + make(2, task="b") + make(2)
    config = TuneConfig(task_sampling="weights")
    with pytest.raises(UsageError, match=words):
        epoch_plan(rows, config, epoch=0, task_weights=weights)
    with pytest.raises(UsageError, match=words):
        num_steps(rows, config, one_modality=True, task_weights=weights)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), 0.0])
def test_impossible_sampling_weights_are_refused(weight: float) -> None:
    with pytest.raises(UsageError, match="negative or not finite, or all are 0"):
        epoch_plan(make(2, task="a"), TuneConfig(task_sampling="weights"), epoch=0, task_weights={"a": weight})


# How many steps.


@given(data, configs, samplings, worlds, st.integers(1, 4))
def test_the_steps_are_counted_as_they_are_planned(
    rows: list[RowFacts], config: TuneConfig, sampling: str, world: int, epochs: int
) -> None:
    config = replace(config, task_sampling=sampling, epochs=epochs)
    planned = [epoch_plan(rows, config, epoch=e, world=world, task_weights=WEIGHTS) for e in range(epochs)]
    assert num_steps(rows, config, world=world, task_weights=WEIGHTS) == sum(map(len, planned))


def test_epochs_may_differ_in_steps() -> None:
    # Two rows of each task an epoch. Task a walks in a circle of three, so in one of three epochs its image is left out
    # and all rows are text: 2 + 2 + 1 steps.
    rows = [*make(2, task="a"), *make(1, task="a", images=True), *make(1, task="b")]
    config = TuneConfig(batch_size=4, modality_batches=True, task_sampling="uniform", epochs=3)
    assert sorted(len(epoch_plan(rows, config, epoch=epoch)) for epoch in range(3)) == [1, 2, 2]
    assert num_steps(rows, config) == 5


def test_max_steps_overrides_the_epochs() -> None:
    assert num_steps(make(100), TuneConfig(epochs=3, max_steps=5)) == 5


def test_no_rows_are_no_steps() -> None:
    for config in (TuneConfig(modality_batches=True), TuneConfig(task_sampling="uniform")):
        assert epoch_plan([], config, epoch=0) == []
        assert num_steps([], config) == 0


def test_planning_imports_no_torch() -> None:
    modules = "mmkit.training.plan, mmkit.training.balance, mmkit.training.presets"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
