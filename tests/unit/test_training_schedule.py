"""The order of rows and the learning rate are pure functions with known answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkit.training import TuneConfig
from mmkit.training.schedule import cut, epoch_order, lr_factor


@given(st.lists(st.text(max_size=4), max_size=40), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_holds_every_row_exactly_once(ids: list[str], seed: int, epoch: int) -> None:
    assert sorted(epoch_order(ids, seed, epoch)) == list(range(len(ids)))


@given(st.lists(st.text(max_size=4), max_size=30, unique=True), st.randoms())
def test_the_order_of_ids_does_not_depend_on_the_order_of_the_input(ids: list[str], rng) -> None:  # type: ignore[no-untyped-def]
    mixed = list(ids)
    rng.shuffle(mixed)
    assert [ids[i] for i in epoch_order(ids, 0, 1)] == [mixed[i] for i in epoch_order(mixed, 0, 1)]


def test_epochs_and_seeds_differ() -> None:
    ids = [str(i) for i in range(20)]
    orders = {tuple(epoch_order(ids, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert tuple(range(20)) not in orders


def test_the_last_short_batch_is_kept() -> None:
    assert cut([4, 0, 3, 1, 2], 2) == [[4, 0], [3, 1], [2]]
    assert cut([], 2) == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "linear", "warmup_steps": 2}, [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ({"schedule": "linear", "warmup_steps": 0, "min_lr_ratio": 0.4}, [1, 0.9, 0.8, 0.7, 0.6, 0.5]),
        ({"schedule": "constant", "warmup_steps": 3}, [1 / 3, 2 / 3, 1, 1, 1, 1]),
        ({"schedule": "cosine", "warmup_ratio": 0.3}, [0.5, 1, 1, 0.8535534, 0.5, 0.1464466]),
        ({"schedule": "cosine", "warmup_steps": 0, "min_lr_ratio": 1.0}, [1] * 6),
    ],
)
def test_the_learning_rate_follows_the_schedule(settings: dict[str, object], expected: list[float]) -> None:
    config = TuneConfig(**settings)  # type: ignore[arg-type]
    assert [lr_factor(step, 6, config) for step in range(6)] == pytest.approx(expected)


def test_a_warm_up_longer_than_the_run_only_rises() -> None:
    factors = [lr_factor(step, 3, TuneConfig(warmup_steps=10)) for step in range(3)]
    assert factors == pytest.approx([0.1, 0.2, 0.3])
