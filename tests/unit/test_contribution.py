"""Contribution and difficulty from V: by hand, over seeds, in groups, with flat denominators, with missing cells."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkit.balance.cells import Cell
from mmkit.balance.contribution import Contribution, Difficulty, Form, OnFlat, contribution, trainings
from mmkit.balance.weights import visatb
from mmkit.errors import DataError, UsageError

BY_HAND: Mapping[str, Mapping[str, float]] = {
    "mini": {"a": 20, "b": 40, "c": 50},
    "large:a": {"a": 60, "b": 50, "c": 50},
    "large:b": {"a": 30, "b": 60, "c": 45},
    "large:c": {"a": 20, "b": 38, "c": 75},
}
"""a gives b half of what b's own data give, (50 - 40) / (60 - 40), and so on."""


def cells(table: Mapping[str, Mapping[str, float]], seed: int = 0) -> list[Cell]:
    return [
        Cell.from_wire(
            {"trained_on": training, "evaluated_on": task, "metric": "accuracy", "value": value, "seed": seed}
        )
        for training, row in table.items()
        for task, value in row.items()
    ]


def with_values(table: Mapping[str, Mapping[str, float]], **changes: float) -> dict[str, dict[str, float]]:
    """The table with V of one training changed for each "training on task"."""
    changed = {training: dict(row) for training, row in table.items()}
    for name, value in changes.items():
        training, task = name.split("__")
        changed[training.replace("_", ":")][task] = value
    return changed


def pairs(found: Contribution) -> dict[str, tuple[float, ...]]:
    return {f"{pair.giver}{pair.taker}": pair.by_seed for pair in found.pairs}


def measured(found: Contribution) -> dict[str, Any]:
    return {task.task: pytest.approx(tuple(task.measured)) for task in found.tasks}


def test_three_tasks_by_hand() -> None:
    found = contribution(cells(BY_HAND))
    assert pairs(found) == {
        "ab": (0.5,),
        "ac": (0.0,),
        "ba": (0.25,),
        "bc": (-0.2,),
        "ca": (0.0,),
        "cb": (-0.1,),
    }
    assert measured(found) == {
        "a": (0.25, 0.125, 1 - 20 / 60),
        "b": (0.025, 0.2, 1 - 40 / 60),
        "c": (-0.05, -0.1, 1 - 50 / 75),
    }
    assert found.flat == ()


def test_from_v_to_weights_by_hand() -> None:
    """With T = 0.25 / log 2 each 0.25 of a measure is a factor of 2: λ_out is 3 (4, 1, 1) / 6, and so on."""
    table = {
        "mini": {"a": 20, "b": 30, "c": 60},
        "large:a": {"a": 40, "b": 45, "c": 70},
        "large:b": {"a": 20, "b": 60, "c": 60},
        "large:c": {"a": 20, "b": 30, "c": 80},
    }
    found = contribution(cells(table))
    assert measured(found) == {"a": (0.5, 0, 0.5), "b": (0, 0.25, 0.5), "c": (0, 0.25, 0.25)}
    weights = {row.task: row for row in visatb(found.tasks, temperature=0.25 / math.log(2))}
    assert {task: row.parts for task, row in weights.items()} == {
        "a": pytest.approx((2, 1.5, 1.2)),
        "b": pytest.approx((0.5, 0.75, 1.2)),
        "c": pytest.approx((0.5, 0.75, 0.6)),
    }
    assert {task: row.weight for task, row in weights.items()} == pytest.approx({"a": 1.475, "b": 0.9125, "c": 0.6125})


def test_rows_are_what_was_computed() -> None:
    rows = contribution(cells(BY_HAND)).to_wire()
    assert rows[0] == {"from": "a", "to": "b", "C": 0.5}
    rule = {"form": "standard", "difficulty": "paper"}
    assert rows[6] == {"task": "a", "C_out": 0.25, "C_in": 0.125, "D": pytest.approx(2 / 3), **rule}
    assert len(rows) == 6 + 3


def test_rows_of_tasks_say_by_which_rule() -> None:
    *_, last = contribution(cells(CHAT), form="chat", difficulty="precise").to_wire()
    assert (last["form"], last["difficulty"]) == ("chat", "precise")
    rows = {row["task"]: row for row in contribution(cells(FLAT), on_flat="clip").to_wire() if "task" in row}
    assert (rows["c"]["flat"], rows["c"]["on_flat"]) == (["c"], "clip")
    assert "on_flat" not in rows["a"]


def test_several_seeds_give_mean_and_deviation() -> None:
    other = with_values(BY_HAND, large_a__b=54.0, mini__a=24.0)
    found = contribution([*cells(BY_HAND), *cells(other, seed=1)])
    assert pairs(found)["ab"] == (0.5, 0.7)
    rows = {row.get("task") or row["from"] + row["to"]: row for row in found.to_wire()}
    assert rows["ab"] == {"from": "a", "to": "b", "C": pytest.approx(0.6), "deviation": pytest.approx(math.sqrt(0.02))}
    assert rows["a"]["D"] == pytest.approx(1 - 22 / 60)
    assert rows["a"]["by_seed"]["D"] == pytest.approx([1 - 20 / 60, 1 - 24 / 60])
    assert rows["a"]["deviation"]["D"] == pytest.approx(4 / 60 / math.sqrt(2))


def test_every_seed_uses_its_own_cells_whatever_their_order() -> None:
    both = [*cells(BY_HAND), *cells(with_values(BY_HAND, large_a__b=54.0), seed=1)]
    assert pairs(contribution(both[::-1]))["ab"] == (0.5, 0.7)


CHAT = {
    "base": {"a": 10, "b": 20},
    "own-large:a": {"a": 50, "b": 30},
    "own-large:b": {"a": 20, "b": 60},
    "own-mini:a": {"a": 40},
    "own-mini:b": {"b": 15},
}


def test_the_chat_form_starts_from_the_base_model_and_from_one_task_alone() -> None:
    found = contribution(cells(CHAT), form="chat")
    assert pairs(found) == {"ab": (0.25,), "ba": (0.25,)}
    assert measured(found) == {"a": (0.25, 0.25, 1 - 40 / 50), "b": (0.25, 0.25, 1 - 15 / 60)}


@pytest.mark.parametrize(
    ("difficulty", "extra", "expected"),
    [
        ("precise", {"own-mini:a": {"a": 30}, "own-large:a": {"a": 40}}, 1 - 30 / 40),
        ("matched", {"matched": {"a": 45}}, 1 - 45 / 60),
    ],
)
def test_other_difficulties_use_models_of_their_own(
    difficulty: Difficulty, extra: dict[str, dict[str, float]], expected: float
) -> None:
    others = {
        "precise": {f"own-{size}:{task}": {task: 50.0} for size in ("mini", "large") for task in "bc"},
        "matched": {"matched": {"b": 50.0, "c": 50.0}},
    }[difficulty]
    table = {**BY_HAND, **others, **{name: {**others.get(name, {}), **row} for name, row in extra.items()}}
    found = contribution(cells(table), difficulty=difficulty)
    assert found.tasks[0].measured.difficulty == pytest.approx(expected)
    assert pairs(found) == pairs(contribution(cells(BY_HAND)))


def test_matched_steps_need_a_model_of_all_minis() -> None:
    with pytest.raises(UsageError, match="--difficulty matched needs --form standard"):
        contribution(cells(CHAT), form="chat", difficulty="matched")


@pytest.mark.parametrize(
    ("form", "difficulty", "expected"),
    [
        ("standard", "paper", ["mini", "large:a", "large:b"]),
        ("standard", "matched", ["mini", "matched", "large:a", "large:b"]),
        (
            "standard",
            "precise",
            ["mini", "large:a", "large:b", "own-mini:a", "own-mini:b", "own-large:a", "own-large:b"],
        ),
        ("chat", "paper", ["base", "own-large:a", "own-large:b", "own-mini:a", "own-mini:b"]),
    ],
)
def test_the_trainings_of_each_form(form: Form, difficulty: Difficulty, expected: list[str]) -> None:
    found = trainings(["a", "b"], form, difficulty)
    assert [kind if of is None else f"{kind}:{of}" for kind, of in found] == expected


GROUPS = {"a": "x", "b": "x", "c": "y"}
OF_GROUPS = {
    "mini": {"a": 20, "b": 0.2, "c": 50},
    "large:x": {"a": 60, "b": 0.6, "c": 55},
    "large:y": {"a": 30, "b": 0.4, "c": 75},
}


def test_groups_are_averages_over_their_tasks_each_by_its_own_metric() -> None:
    table = [replace(cell, metric="cider") if cell.evaluated_on == "b" else cell for cell in cells(OF_GROUPS)]
    found = contribution(table, groups=GROUPS)
    (to_x,) = pairs(found)["yx"]
    assert to_x == pytest.approx((10 / 40 + 0.2 / 0.4) / 2)
    assert pairs(found)["xy"] == (5 / 25,)
    assert measured(found) == {
        "x": (0.2, to_x, ((1 - 20 / 60) + (1 - 0.2 / 0.6)) / 2),
        "y": (to_x, 0.2, 1 - 50 / 75),
    }
    assert [row["tasks"] for row in found.to_wire() if "task" in row] == [["a", "b"], ["c"]]


FLAT = with_values(BY_HAND, large_c__c=50.0)


def test_a_flat_column_is_named_with_its_figure() -> None:
    with pytest.raises(DataError, match=r"^c: C divides by what its own data add, which is not above 0: 0\n--on-flat"):
        contribution(cells(FLAT))
    with pytest.raises(DataError, match=r"^a: C divides by what its own data add, which is not above 0: -5\n"):
        contribution(cells(with_values(BY_HAND, large_a__a=15.0)))


def test_a_difference_that_is_rounding_is_flat() -> None:
    with pytest.raises(DataError, match=r"^a: C divides by what its own data add, which is within rounding"):
        contribution(cells(with_values(BY_HAND, large_a__a=20 + 1e-12)))


def test_what_a_task_reaches_may_be_flat_too() -> None:
    nothing = with_values(BY_HAND, mini__a=-5.0, large_a__a=0.0)
    with pytest.raises(DataError, match=r"^a: D divides by what it reaches, which is not above 0: 0\n"):
        contribution(cells(nothing))


def test_clipping_bounds_a_flat_column_and_no_other() -> None:
    table = with_values(FLAT, large_b__a=200.0, large_a__c=50.5)
    found = contribution(cells(table), on_flat="clip")
    assert pairs(found) == {"ab": (0.5,), "ac": (1.0,), "ba": (4.5,), "bc": (-1.0,), "ca": (0.0,), "cb": (-0.1,)}
    assert [task.flat for task in found.tasks] == [(), (), ("c",)]
    assert found.tasks[2].measured.difficulty == 0


def test_dropping_leaves_a_flat_column_out_and_its_task_neutral() -> None:
    found = contribution(cells(FLAT), on_flat="drop")
    assert pairs(found) == {"ab": (0.5,), "ba": (0.25,), "ca": (0.0,), "cb": (-0.1,)}
    assert measured(found) == {
        "a": (0.5, 0.125, 1 - 20 / 60),
        "b": (0.25, 0.2, 1 - 40 / 60),
        "c": (-0.05, (0.125 + 0.2) / 2, 0.0),
    }


def test_dropping_a_difficulty_puts_the_mean_of_the_others_in_its_place() -> None:
    found = contribution(cells(with_values(BY_HAND, mini__a=-5.0, large_a__a=0.0)), on_flat="drop")
    assert found.tasks[0].measured.difficulty == pytest.approx(1 / 3)
    assert found.tasks[0].flat == ("a",)


def test_a_group_is_flat_only_where_all_its_tasks_are() -> None:
    table = with_values(OF_GROUPS, large_x__b=0.1)
    found = contribution(cells(table), groups=GROUPS, on_flat="drop")
    assert pairs(found)["yx"] == (10 / 40,)
    assert found.tasks[0].flat == ("b",)


def test_nothing_is_left_where_all_are_flat() -> None:
    flat = {training: dict.fromkeys("abc", 50.0) for training in BY_HAND}
    with pytest.raises(DataError, match="every task is flat: there is no C_out"):
        contribution(cells(flat), on_flat="drop")
    assert {pair for [pair] in pairs(contribution(cells(flat), on_flat="clip")).values()} == {0.0}


def test_a_denominator_inside_the_noise_of_its_seeds_is_flat() -> None:
    seeds = [cells(with_values(BY_HAND, large_a__a=20.0 + gain), seed) for seed, gain in enumerate((1, 2, 15))]
    with pytest.raises(DataError, match=r"^a: C divides by .* within its noise of 9\.018: 1, 2, 15\n"):
        contribution(chain(*seeds))
    steady = [cells(with_values(BY_HAND, large_a__a=20.0 + gain), seed) for seed, gain in enumerate((9, 10, 11))]
    assert contribution(chain(*steady)).flat == ()


def test_a_denominator_inside_the_errors_of_its_values_is_flat() -> None:
    def with_errors(error: float) -> list[Cell]:
        return [replace(cell, error=error) for cell in cells(BY_HAND)]

    with pytest.raises(DataError, match=r"^b: C divides by .* within its noise of 20\.51: 20"):
        contribution(with_errors(7.25))
    assert contribution(with_errors(7.0)).flat == ()


def test_what_a_task_reaches_is_flat_inside_its_error() -> None:
    def with_error(error: float) -> list[Cell]:
        return [
            replace(cell, error=error if cell.name.startswith("V of large:a on a") else 0.0) for cell in cells(BY_HAND)
        ]

    found = contribution(with_error(31.0), on_flat="clip").flat
    assert [str(flat) for flat in found if flat.quantity == "D"] == [
        "a: D divides by what it reaches, which is within its noise of 62: 60"
    ]
    assert not [flat for flat in contribution(with_error(29.0), on_flat="clip").flat if flat.quantity == "D"]


def test_clipping_keeps_what_is_within_bounds_of_a_denominator_in_its_noise() -> None:
    noisy = [replace(cell, error=100.0) for cell in cells(with_values(BY_HAND, large_b__a=90.0))]
    found = pairs(contribution(noisy, on_flat="clip"))
    assert found == {"ab": (0.5,), "ac": (0.0,), "ba": (1.0,), "bc": (-0.2,), "ca": (0.0,), "cb": (-0.1,)}


def test_one_seed_with_a_denominator_not_above_zero_is_enough_to_be_flat() -> None:
    gains = (40, 40, 40, 40, -1)
    seeds = [cells(with_values(BY_HAND, large_a__a=20.0 + gain), seed) for seed, gain in enumerate(gains)]
    with pytest.raises(DataError, match=r"^a: C divides by .* which is not above 0: 40, 40, 40, 40, -1\n"):
        contribution(chain(*seeds))


def test_seeds_come_by_number() -> None:
    late, early = cells(BY_HAND, seed=8), cells(with_values(BY_HAND, large_a__b=54.0), seed=0)
    assert pairs(contribution([*late, *early]))["ab"] == (0.7, 0.5)


def test_missing_cells_are_named() -> None:
    there = [
        cell for cell in cells(BY_HAND) if cell.name not in ("V of large:a on b, seed 0", "V of mini on c, seed 0")
    ]
    with pytest.raises(DataError, match=r"^missing: V of mini on c, seed 0; V of large:a on b, seed 0$"):
        contribution(there)


def test_a_seed_that_is_not_complete_is_missing_its_cells() -> None:
    with pytest.raises(DataError, match=r"^missing: V of mini on b, seed 1; .*; and \d+ more$"):
        contribution([*cells(BY_HAND), *cells({"mini": {"a": 1}}, seed=1)])


def test_a_task_that_is_trained_on_and_not_evaluated_is_named() -> None:
    with pytest.raises(DataError, match=r"^d: trained on and not evaluated"):
        contribution([*cells(BY_HAND), *cells({"large:d": {"a": 1, "b": 1, "c": 1}})])


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"a": "x", "b": "x"}, "c: in no group"),
        ({**GROUPS, "d": "y"}, "d: in a group and not evaluated"),
        (dict.fromkeys("abc", "x"), "large:y|y: trained on and not evaluated"),
    ],
)
def test_groups_that_do_not_fit_the_cells(groups: dict[str, str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        contribution(cells(OF_GROUPS), groups=groups)


def test_other_cells_that_cannot_be_right() -> None:
    with pytest.raises(DataError, match="V of mini on a, seed 0: a second time"):
        contribution([*cells(BY_HAND), *cells({"mini": {"a": 20}})])
    with pytest.raises(DataError, match="V of large:a on a, seed 0: by f1, other cells by accuracy"):
        contribution(
            [
                replace(cell, metric="f1") if cell.name == "V of large:a on a, seed 0" else cell
                for cell in cells(BY_HAND)
            ]
        )
    with pytest.raises(DataError, match="there is no V row"):
        contribution([])
    with pytest.raises(DataError, match="a is alone"):
        contribution(cells({"mini": {"a": 1}, "large:a": {"a": 2}}))


ROW = {"trained_on": "large:a", "evaluated_on": "b", "metric": "accuracy", "value": 1.0, "seed": 3}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"value": math.nan}, "V of large:a on b, seed 3: value: expected a finite number, got nan"),
        ({"value": math.inf}, "V of large:a on b, seed 3: value"),
        ({"value": None}, "V of large:a on b, seed 3: value"),
        ({"value": 10**400}, "V of large:a on b, seed 3: value"),
        ({"value": True}, "value: expected a finite number, got True"),
        ({"value": "0.5"}, "value: expected a finite number, got '0.5'"),
        ({"error": -1.0}, "error: expected"),
        ({"error": math.nan}, "error: expected"),
        ({"seed": "3"}, "seed: expected a whole number"),
        ({"seed": True}, "seed: expected a whole number"),
        ({"evaluated_on": ""}, "evaluated_on: expected a name"),
        ({"metric": 3}, "metric: expected a name"),
        ({"trained_on": "large"}, "trained_on: expected one of mini, large:TASK, base"),
        ({"trained_on": "large:"}, "trained_on: expected one of"),
        ({"trained_on": "mini:a"}, "trained_on: expected one of"),
        ({"trained_on": "huge:a"}, "trained_on: expected one of"),
    ],
)
def test_v_rows_that_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as caught:
        Cell.from_wire({**ROW, **change})
    assert said in str(caught.value)


@pytest.mark.parametrize("of", ["a", "a:b", "mini", " "])
@pytest.mark.parametrize("error", [None, 0.5])
def test_a_v_row_comes_back_as_it_went(of: str, error: float | None) -> None:
    cell = Cell("own-mini", of, "b", "accuracy", 0.25, 7, error)
    assert Cell.from_wire(orjson.loads(orjson.dumps(cell.to_wire()))) == cell


VALUES = st.floats(-1e3, 1e3)


@st.composite
def tables(draw: st.DrawFn) -> dict[str, dict[str, float]]:
    names = [f"t{number}" for number in range(draw(st.integers(2, 5)))]
    return {
        training: {name: draw(VALUES) for name in names} for training in ("mini", *(f"large:{name}" for name in names))
    }


@st.composite
def learning_tables(draw: st.DrawFn) -> dict[str, dict[str, float]]:
    """Tables in which every task's own data teach it something."""
    table = draw(tables())
    for name in table["mini"]:
        table["mini"][name] = abs(table["mini"][name])
        table[f"large:{name}"][name] = table["mini"][name] + draw(st.floats(1, 100))
    return table


@given(learning_tables())
def test_what_is_given_in_all_is_what_is_received_in_all(table: dict[str, dict[str, float]]) -> None:
    found = contribution(cells(table))
    given_away = math.fsum(task.measured.c_out for task in found.tasks)
    assert given_away == pytest.approx(math.fsum(task.measured.c_in for task in found.tasks), abs=1e-6)


@given(learning_tables(), st.data())
def test_the_order_of_tasks_and_rows_changes_nothing_but_the_order(
    table: dict[str, dict[str, float]], data: st.DataObject
) -> None:
    def rows(found: Contribution) -> dict[str, tuple[float, ...]]:
        return {task.task: tuple(task.measured) for task in found.tasks} | pairs(found)

    expected = rows(contribution(cells(table)))
    found = rows(contribution(data.draw(st.permutations(cells(table)))))
    assert found == {name: pytest.approx(values) for name, values in expected.items()}


@given(tables(), tables(), st.sampled_from(["error", "clip", "drop"]), st.sampled_from([1, 1e-300, 1e97]))
def test_no_row_ever_holds_what_is_not_finite(
    table: dict[str, dict[str, float]], other: dict[str, dict[str, float]], on_flat: OnFlat, unit: float
) -> None:
    seeds = [table, other] if table.keys() == other.keys() else [table]
    by_seed = [
        replace(cell, value=cell.value * unit) for number, each in enumerate(seeds) for cell in cells(each, number)
    ]
    try:
        found = contribution(by_seed, on_flat=on_flat)
    except DataError as error:
        assert ("every task is flat" if on_flat == "drop" else "--on-flat clip bounds") in str(error)
        assert on_flat != "clip"
        return
    assert b"null" not in orjson.dumps(found.to_wire())  # what orjson writes for nan and inf
    flat = {one.task for one in found.flat if one.quantity == "C"}
    assert not (flat and on_flat == "error")
    assert all(-1 <= value <= 1 for pair in found.pairs if pair.taker in flat for value in pair.by_seed)
