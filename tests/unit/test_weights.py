"""Task weights: VisATB's tables 5 and 2, the laws they keep, temperatures, intervals, sizes, groups, reasons."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mmkit.balance import reasons
from mmkit.balance.task_measure import Measured, TaskMeasure
from mmkit.balance.weights import (
    Alphas,
    BySize,
    TaskWeight,
    by_size,
    counted,
    fixed_tasks,
    is_outside,
    lowest_temperature,
    of_each_task,
    visatb,
)
from mmkit.errors import DataError, UsageError

ACADEMIC = ("ShareGPT4V", "Ref-caption", "VQAv2", "GQA", "ChartQA", "OCRVQA", "Ref-bbox")
C_OUT = (0.1637, 0.1903, 0.1952, 0.1433, 0.0768, 0.1316, 0.1582)
C_IN = (0.1634, 0.2179, 0.1326, 0.1775, 0.1674, 0.0783, 0.1219)
REACHED_BY_MINI = (0.7597, 0.5313, 0.8852, 0.7979, 0.5511, 0.8680, 0.1904)
TABLE_5 = {
    "out": (1.0223, 1.0782, 1.0888, 0.9815, 0.8592, 0.9588, 1.0112),
    "inward": (0.9727, 0.8722, 1.0345, 0.9456, 0.9649, 1.1532, 1.0569),
    "difficulty": (0.7195, 1.1361, 0.5598, 0.6666, 1.0920, 0.5794, 2.2466),
    "weight": (0.8585, 1.0557, 0.8107, 0.8151, 1.0020, 0.8177, 1.6403),
}
TABLE_2 = {
    "out": (0.9072, 0.9978, 1.1010, 0.9927, 1.0013),
    "inward": (0.9626, 0.7375, 1.2822, 1.0286, 0.9891),
    "difficulty": (1.1831, 0.9421, 0.9383, 0.9967, 0.9399),
    "weight": (1.0590, 0.9048, 1.0649, 1.0037, 0.9675),
}
MEASURES = [
    TaskMeasure(task, Measured(c_out, c_in, 1 - reached))
    for task, c_out, c_in, reached in zip(ACADEMIC, C_OUT, C_IN, REACHED_BY_MINI, strict=True)
]


def test_table_5_to_four_decimals() -> None:
    found = visatb(MEASURES)
    assert [row.task for row in found] == list(ACADEMIC)
    for name, printed in TABLE_5.items():
        values = [row.weight if name == "weight" else getattr(row.parts, name) for row in found]
        assert [f"{value:.4f}" for value in values] == [f"{value:.4f}" for value in printed], name


def test_table_2s_last_row_from_its_first_three() -> None:
    """λ = N softmax(x / T), so x = T log λ gives λ back: rounded inputs, hence the tolerance."""
    rows = zip(TABLE_2["out"], TABLE_2["inward"], TABLE_2["difficulty"], strict=True)
    measures = [
        TaskMeasure(str(group), Measured(math.log(out), -math.log(inward), math.log(difficulty)))
        for group, (out, inward, difficulty) in enumerate(rows)
    ]
    found = [row.weight for row in visatb(measures, temperature=1.0)]
    assert found == pytest.approx(TABLE_2["weight"], abs=1e-4)


def test_two_tasks_by_hand() -> None:
    log2 = math.log(2)
    measures = [TaskMeasure("a", Measured(log2, 0, 0)), TaskMeasure("b", Measured(0, log2, log2))]
    first, second = visatb(measures, temperature=1.0, alphas=Alphas(0.5, 0.25, 0.25))
    assert first.parts == pytest.approx((4 / 3, 4 / 3, 2 / 3))
    assert (first.weight, second.weight) == pytest.approx((7 / 6, 5 / 6))


values = st.floats(-3, 3)
measured = st.builds(Measured, values, values, values)
many = st.lists(measured, min_size=1, max_size=8).map(
    lambda rows: [TaskMeasure(f"t{number}", row) for number, row in enumerate(rows)]
)
temperatures = st.floats(0.05, 10)
alphas = st.tuples(*[st.floats(0.01, 1)] * 3).map(lambda three: Alphas(*(one / sum(three) for one in three)))


@given(many, temperatures, alphas)
def test_each_part_and_the_whole_sum_to_the_number_of_tasks(
    measures: list[TaskMeasure], temperature: float, alphas: Alphas
) -> None:
    found = visatb(measures, temperature=temperature, alphas=alphas)
    parts = [row.parts or () for row in found]
    for column in [*zip(*parts, strict=True), [row.weight for row in found]]:
        assert math.fsum(column) == pytest.approx(len(measures))


@given(many, temperatures, values, values, values)
def test_a_constant_added_to_all_changes_nothing(
    measures: list[TaskMeasure], temperature: float, out: float, inward: float, hard: float
) -> None:
    moved = [
        TaskMeasure(m.task, Measured(m.measured.c_out + out, m.measured.c_in + inward, m.measured.difficulty + hard))
        for m in measures
    ]
    before, after = (visatb(each, temperature=temperature) for each in (measures, moved))
    assert [row.weight for row in after] == pytest.approx([row.weight for row in before])


@given(many, temperatures, st.data())
def test_permuted_tasks_have_permuted_weights(
    measures: list[TaskMeasure], temperature: float, data: st.DataObject
) -> None:
    found, permuted = (
        {row.task: row.weight for row in visatb(each, temperature=temperature)}
        for each in (measures, data.draw(st.permutations(measures)))
    )
    assert permuted == pytest.approx(found)


@given(many, alphas)
def test_the_lowest_temperature_is_at_its_bound(measures: list[TaskMeasure], alphas: Alphas) -> None:
    columns = zip(*(measure.measured for measure in measures), strict=True)
    assume(max(max(column) - min(column) for column in columns) > 1e-6)

    def is_within(temperature: float) -> bool:
        found = visatb(measures, temperature=temperature, alphas=alphas)
        return not any(is_outside(row.weight) for row in found)

    lowest = lowest_temperature(measures, alphas=alphas)
    assert is_within(lowest)
    assert all(is_within(lowest * factor) for factor in (1 + 1e-6, 1.1, 2, 10, 1e6))
    never_leaves = lowest == 0.5 and all(is_within(0.5 / 1.5**step) for step in range(30))
    assert never_leaves or not is_within(lowest * (1 - 1e-6))


def test_the_lowest_temperature_of_a_part_by_hand() -> None:
    """Two equal tasks and a harder one: its weight is 3 r / (r + 2), which is 2 where r = exp(1 / T) is 4."""
    measures = [TaskMeasure(task, Measured(0, 0, hard)) for task, hard in (("a", 0), ("b", 0), ("c", 1))]
    assert lowest_temperature(measures, alphas=Alphas(0, 0, 1)) == pytest.approx(1 / math.log(4), rel=1e-6)


def test_where_no_temperature_leaves_the_bounds_the_papers_is_taken() -> None:
    """As T falls each of the two tends to twice the shares of the parts that it leads in: 0.5 and 1.5."""
    measures = [TaskMeasure("a", Measured(1, 0.2, 0.1)), TaskMeasure("b", Measured(0, 0.1, 0.9))]
    assert [row.weight for row in visatb(measures, temperature=1e-3)] == pytest.approx([0.5, 1.5])
    assert lowest_temperature(measures) == 0.5


def test_the_papers_temperatures_are_not_below_the_lowest() -> None:
    assert lowest_temperature(MEASURES) == pytest.approx(0.347, abs=5e-4)


@pytest.mark.parametrize("noise", [0.0, 1e-13])
def test_tasks_that_do_not_differ_weigh_the_same(noise: float) -> None:
    measures = [TaskMeasure(task, Measured(0.2 + noise * i, -0.1, 0.3)) for i, task in enumerate("abc")]
    temperature = lowest_temperature(measures)
    assert [row.weight for row in visatb(measures, temperature=temperature)] == pytest.approx([1.0] * 3)


@given(many)
def test_extreme_temperatures_and_values_give_finite_weights(measures: list[TaskMeasure]) -> None:
    far = [*measures, TaskMeasure("far", Measured(1e100, -1e100, 1e100))]
    for each in (measures, far):
        for temperature in (5e-324, 1e-9, lowest_temperature(each), 1e308):
            assert all(0 <= row.weight <= len(each) + 1e-9 for row in visatb(each, temperature=temperature))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_temperatures_that_are_none(temperature: float) -> None:
    with pytest.raises(UsageError, match="--temperature: expected a number above 0"):
        visatb(MEASURES, temperature=temperature)


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (1.5, -0.5, 0.0), (math.nan, 0.5, 0.5)])
def test_shares_that_are_none(shares: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError, match="--alpha: expected three shares that sum to 1"):
        Alphas(*shares)


def test_no_task_and_a_task_twice() -> None:
    with pytest.raises(DataError, match="there is no task to weigh"):
        visatb([])
    with pytest.raises(DataError, match="task 'GQA' a second time"):
        visatb([*MEASURES, MEASURES[3]])


def over_seeds(task: str, *difficulties: float) -> TaskMeasure:
    return TaskMeasure.of_seeds(task, [Measured(0.0, 0.0, difficulty) for difficulty in difficulties])


def test_intervals_by_hand() -> None:
    """λ_D of a is 2 r / (r + 1), r = exp(D): 4/3, 1 and 4/3 over seeds; t = 4.303."""
    log2 = math.log(2)
    first, second = visatb(
        [over_seeds("a", log2, 0, log2), over_seeds("b", 0, 0, 0)], temperature=1.0, alphas=Alphas(0, 0, 1)
    )
    half = 4.303 * math.sqrt(2 / 3 / 9 / 2) / math.sqrt(3)
    centre = 2 / (1 + 2 ** (-2 / 3))
    assert first.weight == pytest.approx(centre)
    assert first.ci95 == pytest.approx((centre - half, centre + half))
    assert second.ci95 == pytest.approx((2 - centre - half, 2 - centre + half))


def test_intervals_end_at_what_weights_can_be() -> None:
    found = visatb([over_seeds("a", 0, 5), over_seeds("b", 5, 0)])
    assert [row.ci95 for row in found] == [(0.0, 2.0)] * 2


def test_one_seed_gives_no_interval_and_many_a_narrow_one() -> None:
    assert visatb([over_seeds("a", 1), over_seeds("b", 0)])[0].ci95 is None
    many = visatb([over_seeds("a", *[0.1, 0.2] * 10), over_seeds("b", *[0.2, 0.1] * 10)])[0].ci95
    assert many is not None
    assert many[1] - many[0] < 0.1


def test_tasks_with_different_numbers_of_seeds_are_refused() -> None:
    with pytest.raises(DataError, match="different numbers of seeds: 2 for 'a', 1 for 'b'"):
        visatb([over_seeds("a", 0, 1), over_seeds("b", 1)])


SIZES = {"a": 100, "b": 400, "c": 1600}


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("equal", (1, 1, 1)),
        ("size", (1 / 7, 4 / 7, 16 / 7)),
        ("sqrt-size", (3 / 7, 6 / 7, 12 / 7)),
        ("tokens", (16 / 7, 4 / 7, 1 / 7)),
    ],
)
def test_weights_by_size(strategy: BySize, expected: tuple[float, ...]) -> None:
    assert [row.weight for row in by_size(SIZES, strategy)] == pytest.approx(expected)


@given(st.dictionaries(st.text(), st.tuples(st.integers(1, 10**9), st.floats(0, 20)), min_size=1, max_size=8))
def test_token_weights_are_what_averaging_task_losses_implies(tasks: dict[str, tuple[int, float]]) -> None:
    """Eq. 2 with these λ is the mean over tasks of each task's mean token loss."""
    weights = {row.task: row.weight for row in by_size({task: tokens for task, (tokens, _) in tasks.items()}, "tokens")}
    learned = sum(weights[task] * tokens * loss for task, (tokens, loss) in tasks.items())
    weighed = sum(weights[task] * tokens for task, (tokens, _) in tasks.items())
    assert learned / weighed == pytest.approx(sum(loss for _, loss in tasks.values()) / len(tasks))


@pytest.mark.parametrize("amount", [0, -1, math.nan, math.inf])
def test_sizes_that_are_none(amount: float) -> None:
    with pytest.raises(DataError, match="task 'b': expected a size above 0"):
        by_size({"a": 1, "b": amount}, "size")


MEMBERS = {"captions": ("coco", "textcap"), "gqa": ("gqa",), "vqa": ("vqa", "okvqa")}
"""Two groups, of which one has the name of a task in it, and a task."""


def test_a_group_weighs_each_of_its_tasks_alike_in_the_order_of_the_input() -> None:
    found = of_each_task(by_size({"captions": 1, "gqa": 2, "vqa": 3}, "size"), MEMBERS, {})
    assert [(row.task, row.weight, row.group) for row in found] == [
        ("coco", 0.5, "captions"),
        ("textcap", 0.5, "captions"),
        ("gqa", 1.0, None),
        ("vqa", 1.5, "vqa"),
        ("okvqa", 1.5, "vqa"),
    ]


def test_a_fixed_task_stands_in_place_of_its_weight() -> None:
    found = of_each_task(by_size({"captions": 1, "gqa": 3}, "size"), MEMBERS, {"coco": 2.0, "chat": 1.0})
    assert found == [
        TaskWeight("textcap", 0.5, group="captions"),
        TaskWeight("gqa", 1.5),
        TaskWeight("coco", 2.0, group="captions", fixed=True),
        TaskWeight("chat", 1.0, fixed=True),
    ]
    assert found[-1].to_wire() == {"task": "chat", "weight": 1.0, "fixed": True}


@pytest.mark.parametrize(
    ("name", "tasks"),
    [("captions", ["coco", "textcap"]), ("vqa", ["vqa"]), ("okvqa", ["okvqa"]), ("chat", ["chat"])],
)
def test_a_name_fixes_a_task_or_else_a_groups_tasks(name: str, tasks: list[str]) -> None:
    assert fixed_tasks([(name, 3.0)], MEMBERS) == dict.fromkeys(tasks, 3.0)


@pytest.mark.parametrize("named", [[("chat", 1.0), ("chat", 2.0)], [("coco", 1.0), ("captions", 1.0)]])
def test_a_task_that_is_fixed_twice_is_refused(named: list[tuple[str, float]]) -> None:
    with pytest.raises(UsageError, match=r"^--fixed: task '(chat|coco)' a second time$"):
        fixed_tasks(named, MEMBERS)


@pytest.mark.parametrize(
    ("fixed", "left"),
    [
        (["coco"], ["captions", "gqa", "vqa"]),
        (["coco", "textcap", "chat"], ["gqa", "vqa"]),
        (["gqa", "vqa"], ["captions", "vqa"]),
    ],
)
def test_a_group_counts_as_long_as_one_of_its_tasks_is_not_fixed(fixed: list[str], left: list[str]) -> None:
    assert counted(MEMBERS, dict.fromkeys(fixed, 1.0)) == left


def test_a_task_of_two_groups_is_refused() -> None:
    weights = by_size({"x": 1, "y": 1}, "size")
    with pytest.raises(DataError, match="task 'a' a second time"):
        of_each_task(weights, {"x": ("a",), "y": ("a",)}, {"a": 1.0})


def explained(measures: list[TaskMeasure], *shares: float) -> list[str]:
    alphas = Alphas(*shares)
    found = visatb(measures, alphas=alphas)
    return [reasons.of_measure(*pair, alphas) for pair in zip(found, measures, strict=True)]


def test_reasons_name_what_moved_the_weight_most_first() -> None:
    said = explained(MEASURES)
    assert said[-1] == (
        "Ref-bbox: 1.6403, raised: it is harder (D 0.8096 makes 2.2466), receives less (C_in 0.1219 makes 1.0569), "
        "gives more (C_out 0.1582 makes 1.0112)"
    )
    assert said[2] == (
        "VQAv2: 0.8107, lowered: it is easier (D 0.1148 makes 0.5598), although it "
        "gives more (C_out 0.1952 makes 1.0888), receives less (C_in 0.1326 makes 1.0345)"
    )
    assert said[0].endswith(
        "receives more (C_in 0.1634 makes 0.9727), although it gives more (C_out 0.1637 makes 1.0223)"
    )
    assert said[4] == (
        "ChartQA: 1.0020, about equal: it is harder (D 0.4489 makes 1.0920), although it gives less "
        "(C_out 0.0768 makes 0.8592), receives more (C_in 0.1674 makes 0.9649)"
    )


def test_reasons_count_parts_by_their_shares() -> None:
    first, _ = explained([TaskMeasure("a", Measured(0.2, 0, 0.15)), TaskMeasure("b", Measured(0, 0, 0))])
    told = "raised: it is harder (D 0.1500 makes 1.1489), gives more (C_out 0.2000 makes 1.1974); "
    assert told in first


def test_a_task_that_harms_the_others_least_gives_more_and_not_much() -> None:
    harmful = [TaskMeasure("a", Measured(-0.1, 0, 0)), TaskMeasure("b", Measured(-0.9, 0, 0))]
    assert [sentence.partition("; ")[0] for sentence in explained(harmful)] == [
        "a: 1.1660, raised: it gives more (C_out -0.1000 makes 1.6640)",
        "b: 0.8340, lowered: it gives less (C_out -0.9000 makes 0.3360)",
    ]


def test_what_did_not_move_a_weight_is_no_reason_for_it() -> None:
    hard, easy = explained([TaskMeasure("a", Measured(0.1, 0.2, 0.9)), TaskMeasure("b", Measured(0.1, 0.2, 0.3))])
    assert hard == (
        "a: 1.2685, raised: it is harder (D 0.9000 makes 1.5370); "
        "it receives as much (C_in 0.2000 makes 1.0000), gives as much (C_out 0.1000 makes 1.0000)"
    )
    assert easy.partition("; ")[0] == "b: 0.7315, lowered: it is easier (D 0.3000 makes 0.4630)"


def test_reasons_leave_out_what_had_no_say_and_tell_the_tasks_of_a_group_and_what_was_flat() -> None:
    measures = [
        TaskMeasure("a", Measured(0.1, 0.2, 0.3), tasks=("coco", "textcap"), flat=("coco",)),
        TaskMeasure("b", Measured(0.1, 0.2, 0.3)),
    ]
    assert explained(measures, 1, 0, 0) == [
        "a (coco, textcap): 1.0000, about equal: it gives as much (C_out 0.1000 makes 1.0000)"
        "; flat, so read with care: coco",
        "b: 1.0000, about equal: it gives as much (C_out 0.1000 makes 1.0000)",
    ]


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ("equal", "b: 1.0000, as every task that is not fixed"),
        ("size", "b: 0.5714, for 400 of 2,100 rows"),
        ("sqrt-size", "b: 0.8571, for 400 of 2,100 rows, by their square root"),
        ("tokens", "b: 0.5714, for 400 of 2,100 loss tokens: the fewer, the greater"),
    ],
)
def test_reasons_by_size(strategy: BySize, said: str) -> None:
    assert reasons.of_size(by_size(SIZES, strategy)[1], SIZES, strategy) == said


ROW = {"task": "a", "C_out": 0.1, "C_in": 0, "D": -0.5}


def test_a_row_typed_in_from_a_paper_will_do() -> None:
    assert TaskMeasure.from_wire(ROW) == TaskMeasure("a", Measured(0.1, 0.0, -0.5))


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_measure_comes_back_as_it_went(seeds: int) -> None:
    by_seed = [Measured(0.1, 0.2, number / 7) for number in range(seeds)]
    measure = TaskMeasure.of_seeds("a", by_seed, ["coco", "textcap"], ["coco"])
    assert TaskMeasure.from_wire(measure.to_wire()) == measure


def test_a_row_with_a_list_of_one_seed_is_as_one_without() -> None:
    by_seed = {"C_out": [0.1], "C_in": [0.0], "D": [-0.5]}
    assert TaskMeasure.from_wire({**ROW, "by_seed": by_seed}) == TaskMeasure.from_wire(ROW)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": ""}, "task: expected a name"),
        ({"task": None}, "task: expected a name"),
        ({"D": None}, "D: expected a finite number, got None"),
        ({"C_in": math.nan}, "C_in: expected a finite number, got nan"),
        ({"C_out": "1"}, "C_out: expected a finite number, got '1'"),
        ({"C_out": True}, "C_out: expected"),
        ({"C_out": 10**400}, "C_out: expected"),
        ({"by_seed": []}, "by_seed: expected lists C_out, C_in and D"),
        ({"by_seed": {"C_out": [1, 2], "C_in": [1, 2]}}, "by_seed: expected lists"),
        ({"by_seed": {"C_out": [1, 2], "C_in": [1, 2], "D": [1]}}, "by_seed: expected lists"),
        ({"by_seed": {"C_out": [1, 2], "C_in": [1, 2], "D": [1, None]}}, "by_seed.D: expected a finite number"),
        ({"tasks": "coco"}, "tasks: expected names"),
        ({"flat": [1]}, "flat: expected names"),
    ],
)
def test_rows_that_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as caught:
        TaskMeasure.from_wire({**ROW, **change})
    assert said in str(caught.value)
