"""λ that follow the training losses: values worked out by hand, absent tasks, and a stop in the middle of a window."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkit.errors import DataError, UsageError
from mmkit.training import TuneConfig
from mmkit.training.balance import Balance, balance_of
from mmkit.training.config import BALANCES

TEN = (10.0, 10.0)


def make(name: str, window: int | None = None, num_tasks: int = 2, **settings: Any) -> Balance:
    return balance_of(TuneConfig(balance=name, balance_window=window, **settings), num_tasks)


def feed(balance: Balance, *steps: Sequence[float | None]) -> None:
    """Steps by the mean token loss of each task, over 10 tokens; None is an absent task."""
    for losses in steps:
        present = [loss is not None for loss in losses]
        balance.observe([10 * (loss or 0.0) for loss in losses], [10.0 * here for here in present])


def softmax(*logits: float) -> list[float]:
    powers = [math.exp(logit) for logit in logits]
    return [len(powers) * power / sum(powers) for power in powers]


def test_equal_weights_are_1() -> None:
    assert make("ew", num_tasks=3).task_weights(0, [5, 0, 7]) == [1, 1, 1]


def test_task_level_aggregation_is_the_mean_of_task_means() -> None:
    tokens, nll = [4.0, 0.0, 16.0], [8.0, 0.0, 16.0]
    weights = make("tla", num_tasks=3).task_weights(0, tokens)
    assert weights == [0.25, 0, 0.0625]
    loss = sum(w * loss for w, loss in zip(weights, nll, strict=True)) / sum(
        w * count for w, count in zip(weights, tokens, strict=True)
    )
    assert loss == (8 / 4 + 16 / 16) / 2


def test_random_weights_depend_on_seed_and_step_only() -> None:
    balance, other_rank = make("rlw", seed=3), make("rlw", seed=3)
    drawn = [balance.task_weights(step, TEN) for step in range(5)]
    feed(other_rank, (1, 2), (1, 2))
    assert [other_rank.task_weights(step, (0.0, 1.0)) for step in (4, 3, 2, 1, 0)] == drawn[::-1]
    assert len(set(map(tuple, drawn))) == 5
    assert make("rlw", seed=4).task_weights(0, TEN) != drawn[0]


def test_random_weights_are_the_softmax_of_standard_normals() -> None:
    balance = make("rlw", num_tasks=3)
    drawn = [balance.task_weights(step, (1, 1, 1)) for step in range(4000)]
    assert all(sum(weights) == pytest.approx(3) for weights in drawn)
    # ln λ_a - ln λ_b is the difference of two standard normals: mean 0, variance 2.
    differences = [math.log(weights[0] / weights[1]) for weights in drawn]
    assert statistics.mean(differences) == pytest.approx(0, abs=0.1)
    assert statistics.variance(differences) == pytest.approx(2, abs=0.2)


def test_dwa_by_hand() -> None:
    balance = make("dwa", window=2)
    for losses in ((4, 2), (2, 2), (2, 4), (1, 2)):
        assert balance.task_weights(0, TEN) == [1, 1]
        feed(balance, losses)
    # Windows (4, 2), (2, 1) and (2, 2), (4, 2): ratios 1.5 / 3 and 3 / 2, over T = 2.
    assert balance.task_weights(4, TEN) == pytest.approx(softmax(0.25, 0.75))
    feed(balance, (3, 1))
    # One step on: (2, 2), (1, 3) and (2, 4), (2, 1).
    assert balance.task_weights(5, TEN) == pytest.approx(softmax(0.5, 0.25))
    assert make("dwa").task_weights(0, TEN) == [1, 1]


def test_dwa_has_a_temperature_and_a_window_of_25() -> None:
    balance = make("dwa", balance_temperature=0.5)
    feed(balance, *[(2, 2)] * 25, *[(1, 2)] * 24)
    assert balance.task_weights(49, TEN) == [1, 1]
    feed(balance, (1, 2))
    assert balance.task_weights(50, TEN) == pytest.approx(softmax(1, 2))


def test_dwa_leaves_absent_tasks_out_of_its_means() -> None:
    balance = make("dwa", window=2, num_tasks=4)
    feed(balance, (4, 2, None, 5), (None, 2, None, 5), (2, 1, 7, None), (None, 1, 7, None))
    # 2 / 4, 1 / 2; tasks that a whole window did not see count as neither slow nor fast.
    assert balance.task_weights(4, [1] * 4) == pytest.approx(softmax(0.25, 0.25, 0.5, 0.5))


def test_token_counts_weigh_within_a_step_only() -> None:
    balance = make("dwa", window=1)
    balance.observe([6.0, 30.0], [2.0, 10.0])
    balance.observe([100.0, 1.0], [100.0, 1.0])
    assert balance.task_weights(2, TEN) == pytest.approx([1, 1])


def test_igb_by_hand() -> None:
    balance = make("igb", window=2)
    for losses in ((9, 9), (9, 9), (4, 1), (2, 3)):
        assert balance.task_weights(0, TEN) == [1, 1]
        feed(balance, losses)
    # Bases 3 and 2, latest losses 2 and 3.
    assert balance.task_weights(4, TEN) == pytest.approx(softmax(2 / 3, 3 / 2))
    feed(balance, (1.5, 1))
    assert balance.task_weights(5, TEN) == pytest.approx(softmax(0.5, 0.5))


def test_igb_has_its_base_in_steps_100_to_199() -> None:
    balance = make("igb")
    feed(balance, *[(8, 8)] * 100, *[(4, 2)] * 99)
    assert balance.task_weights(199, TEN) == [1, 1]
    feed(balance, (4, 2))
    assert balance.task_weights(200, TEN) == pytest.approx([1, 1])
    feed(balance, (1, 1))
    assert balance.task_weights(201, TEN) == pytest.approx(softmax(0.25, 0.5))


def test_igb_keeps_the_latest_loss_of_an_absent_task_and_finds_it_a_base_later() -> None:
    balance = make("igb", window=1, num_tasks=3)
    feed(balance, (1, None, 5), (4, None, 2))
    assert balance.task_weights(2, [1] * 3) == pytest.approx(softmax(1, 1, 1))
    feed(balance, (2, None, None))
    assert balance.task_weights(3, [1] * 3) == pytest.approx(softmax(0.5, 1, 1))
    feed(balance, (None, 6, None), (None, 3, 1))
    assert balance.task_weights(5, [1] * 3) == pytest.approx(softmax(0.5, 0.5, 0.5))


losses = st.one_of(st.none(), st.just(0.0), st.floats(1e-300, 1e6))
histories = st.lists(st.tuples(losses, losses, losses), max_size=12)


@given(st.sampled_from(BALANCES), histories, st.integers(1, 3))
def test_weights_are_never_negative_or_undefined(name: str, history: list[Any], window: int) -> None:
    balance = make(name, window=window if name in ("dwa", "igb") else None, num_tasks=3)
    for step, means in enumerate(history):
        weights = balance.task_weights(step, [1.0, 0.0, 3.0])
        assert all(0 <= weight < math.inf for weight in weights)
        assert max(weights) > 0
        feed(balance, means)


@given(st.sampled_from(BALANCES), histories, histories, st.integers(1, 3))
def test_a_restored_balance_goes_on_exactly(name: str, before: list[Any], after: list[Any], window: int) -> None:
    def fresh() -> Balance:
        return make(name, window=window if name in ("dwa", "igb") else None, num_tasks=3)

    whole, resumed = fresh(), fresh()
    feed(whole, *before)
    saved = json.dumps(whole.state())
    resumed.restore(json.loads(saved))
    feed(whole, (1.0, 1.0, 1.0))  # what was saved does not change with the one it came from
    feed(resumed, (1.0, 1.0, 1.0))
    for step, means in enumerate(after):
        assert resumed.task_weights(step, [3.0, 0.0, 7.0]) == whole.task_weights(step, [3.0, 0.0, 7.0])
        feed(whole, means)
        feed(resumed, means)
    assert resumed.state() == whole.state()


def test_a_state_is_not_changed_by_what_comes_after() -> None:
    for name in ("dwa", "igb"):
        balance = make(name, window=2)
        feed(balance, (1, 2), (3, 4), (5, 6))
        state = balance.state()
        kept = json.dumps(state)
        other = make(name, window=2)
        other.restore(state)
        feed(balance, (7, 8))
        feed(other, (9, 9))
        assert json.dumps(state) == kept


@pytest.mark.parametrize("name", ["ew", "dwa", "igb"])
def test_the_state_of_another_balance_or_other_tasks_is_refused(name: str) -> None:
    source = make("dwa" if name != "dwa" else "igb")
    feed(source, (1, 2))
    with pytest.raises(DataError, match="balance that was saved kept"):
        make(name).restore(source.state())
    if name != "ew":
        three = make(name, num_tasks=3)
        feed(three, (1, 2, 3))
        with pytest.raises(DataError, match="had 3 tasks, this one has 2"):
            make(name).restore(three.state())


@pytest.mark.parametrize("name", ["ew", "tla", "rlw"])
def test_a_window_where_there_is_none_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"balance {name} has no window"):
        make(name, window=5)
