"""ΔI%, ΔE% and ΔI_zero% (VisATB, eq. 9): the paper's own tables recomputed from their printed scores, and the laws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import visatb_tables
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner
from visatb_tables import PrintedTable

from mmkit.cli.main import app
from mmkit.evaluation.compare import SummaryRow, compare
from mmkit.evaluation.improvement import average, relative_change
from mmkit.evaluation.methods import Method
from mmkit.evaluation.scores import ScoreRow
from mmkit.tasks import benchmarks

ROUNDING = 0.005 + 1e-9  # of two printed decimals


def method(name: str, *seeds: list[dict[str, Any]]) -> Method:
    return Method.of(name, *([ScoreRow.from_wire(row) for row in rows] for rows in seeds))


def recomputed(table: PrintedTable) -> dict[str, SummaryRow]:
    """The paper's averages as `compare` has them, by method."""
    first, *others = (method(name, table.rows(name)) for name in table.scores)
    zero_shot = [task for task, _ in table.tasks] if "delta_i_zero" in table.kinds else []
    return {row.method: row for row in compare(first, others, zero_shot=zero_shot).summaries}


def averages(row: SummaryRow) -> dict[str, float]:
    """The averages that the method has, by name."""
    found = {
        "delta_i": row.fine_tuned.delta_i,
        "delta_e": row.fine_tuned.delta_e,
        "delta_i_zero": row.zero_shot.delta_i,
    }
    return {name: spread.mean for name, spread in found.items() if spread is not None}


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("TABLE_1", 0.05),  # its scores are rounded to three digits, its averages are not of the rounded ones
        *((f"TABLE_{name}", ROUNDING) for name in ("3", "4", "7", "13", "14")),
        *((f"TABLE_{number}_{model}", ROUNDING) for number in (11, 12) for model in ("LLAVA", "QWEN2_VL")),
    ],
)
def test_the_papers_averages_follow_from_its_scores(name: str, tolerance: float) -> None:
    table: PrintedTable = getattr(visatb_tables, name)
    found = recomputed(table)
    checked = 0
    for method_name, printed in table.averages.items():
        for kind, value in zip(table.kinds, printed, strict=False):
            if (name, method_name, kind) == ("TABLE_3", "IGBv1", "delta_i"):
                continue  # a misprint, see below
            assert averages(found[method_name])[kind] == pytest.approx(value, abs=tolerance), (method_name, kind)
            checked += 1
    assert checked >= len(table.scores) - 1


def test_two_figures_of_the_paper_are_misprints() -> None:
    """Table 3 prints 0.17 for IGBv1's ΔI%, and Table 6 -1.32 for VisATB on Qwen2-VL, where Table 11 has -1.23."""
    igb = averages(recomputed(visatb_tables.TABLE_3)["IGBv1"])["delta_i"]
    assert visatb_tables.TABLE_3.averages["IGBv1"][0] == 0.17 and igb == pytest.approx(1.1678, abs=5e-5)
    qwen = averages(recomputed(visatb_tables.TABLE_11_QWEN2_VL)["VisATB"])["delta_i"]
    assert visatb_tables.TABLE_6["Qwen2-VL-2B"]["VisATB"][0] == -1.32 and qwen == pytest.approx(-1.2319, abs=5e-5)


@pytest.mark.parametrize("name", visatb_tables.TABLE_8)
def test_table_8_follows_from_tables_13_and_14_in_one_comparison(name: str) -> None:
    """With STL as the baseline, EW as that of the zero-shot tasks, and both kinds of tasks in one file a method."""
    fine_tuned, zero_shot = visatb_tables.TABLE_13, visatb_tables.TABLE_14
    baseline = method("STL", fine_tuned.rows("STL"))
    equal_weights = method("EW", fine_tuned.rows("EW") + zero_shot.rows("EW"))
    others = [equal_weights]
    if name != "EW":
        others.append(method(name, fine_tuned.rows(name) + zero_shot.rows(name)))
    tasks = [task for task, _ in zero_shot.tasks]
    found = compare(baseline, others, zero_shot=tasks, zero_baseline="EW").summaries[-1]
    assert found.method == name and found.left_out == ()
    assert list(averages(found).values()) == pytest.approx(visatb_tables.TABLE_8[name], abs=ROUNDING)


@pytest.mark.parametrize(
    ("model", "fine_tuned", "zero_shot"),
    [
        ("LLaVA-v1.5-13B", visatb_tables.TABLE_11_LLAVA, visatb_tables.TABLE_12_LLAVA),
        ("Qwen2-VL-2B", visatb_tables.TABLE_11_QWEN2_VL, visatb_tables.TABLE_12_QWEN2_VL),
    ],
)
def test_table_6_repeats_tables_11_and_12(model: str, fine_tuned: PrintedTable, zero_shot: PrintedTable) -> None:
    for name, (delta_i, *others) in visatb_tables.TABLE_6[model].items():
        assert [*fine_tuned.averages[name][1:], *zero_shot.averages[name]] == others
        if (model, name) != ("Qwen2-VL-2B", "VisATB"):  # the misprint
            assert delta_i == fine_tuned.averages[name][0]


def test_the_command_prints_the_papers_averages(tmp_path: Path) -> None:
    """Tables 3 and 4 in one comparison of files: STL has no zero-shot scores, EW is the baseline of those."""
    fine_tuned, zero_shot = visatb_tables.TABLE_3, visatb_tables.TABLE_4
    for name in fine_tuned.scores:
        rows = fine_tuned.rows(name) + (zero_shot.rows(name) if name in zero_shot.scores else [])
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, *others = (f"{tmp_path / name}.jsonl" for name in fine_tuned.scores)
    tasks = [word for task, _ in zero_shot.tasks for word in ("--zero-shot", task)]
    arguments = ["compare", "--baseline", first, *others, *tasks, "--zero-baseline", "EW"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    found = {row["method"]: row for row in map(json.loads, done.stdout.splitlines()) if row["kind"] == "summary"}
    for name in ("EW", "TLA", "RLW", "DWA", "VisATB"):  # IGBv1's ΔI% is the misprint
        printed = [*fine_tuned.averages[name], *zero_shot.averages[name]]
        kinds = ("delta_i_percent", "delta_e_percent", "delta_i_zero_percent")
        assert [found[name][kind] for kind in kinds] == pytest.approx(printed, abs=ROUNDING)
        assert found[name]["left_out"] == []


def test_several_metrics_of_a_task_are_averaged_first() -> None:
    before = [
        {"task": "boxes", "metric": "iou", "value": 50},
        {"task": "boxes", "metric": "rmse", "value": 4, "higher_is_better": False},
        {"task": "words", "metric": "em", "value": 80},
    ]
    after = [
        {"task": "boxes", "metric": "iou", "value": 55},
        {"task": "boxes", "metric": "rmse", "value": 2, "higher_is_better": False},
        {"task": "words", "metric": "em", "value": 72},
    ]
    (_, found) = compare(method("a", before), [method("b", after)]).summaries
    # By hand: boxes (10 + 50) / 2 = 30, words -10; ΔI (30 - 10) / 2, ΔE (0 + 10) / 2.
    assert averages(found) == {"delta_i": pytest.approx(10), "delta_e": pytest.approx(5)}
    assert (found.fine_tuned.num_tasks, found.zero_shot.num_tasks) == (2, 0)


def test_less_is_better_where_the_row_says_so_and_so_it_is_below_zero() -> None:
    assert relative_change(4, 2, higher_is_better=False) == 50
    assert relative_change(-4, -2, higher_is_better=True) == 50
    with pytest.raises(ZeroDivisionError):
        relative_change(0, 1, higher_is_better=True)


def test_what_does_not_count_is_named() -> None:
    before = [
        {"task": "zero", "metric": "em", "value": 0},
        {"task": "half", "metric": "em", "value": 0},
        {"task": "half", "metric": "cider", "value": 1},
        {"task": "gone", "metric": "em", "value": 5},
        {"task": "ruled", "metric": "em", "rule": "strict", "value": 5},
        {"task": "chat", "metric": "em", "value": 5},
    ]
    after = [
        {"task": "zero", "metric": "em", "value": 10},
        {"task": "half", "metric": "em", "value": 10},
        {"task": "half", "metric": "cider", "value": 1.5},
        {"task": "ruled", "metric": "em", "rule": "raw", "value": 5},
        {"task": "chat", "metric": "em", "value": 50},
        {"task": "new", "metric": "em", "value": 7},
    ]
    (_, found) = compare(method("a", before), [method("b", after)], exclude=["chat"]).summaries
    assert averages(found)["delta_i"] == pytest.approx(50) and found.fine_tuned.num_tasks == 1
    assert {(one.task, one.metric): one.reason for one in found.left_out} == {
        ("zero", None): "the baseline is 0",
        ("half", "em"): "the baseline is 0",
        ("gone", None): "not in b",
        ("ruled", None): "scored by other rules: strict in a, raw in b",
        ("chat", None): "excluded",
        ("new", None): "not in a",
    }


def test_a_benchmarks_overall_score_stands_for_its_parts() -> None:
    whole = "scienceqa"
    part, other_part = benchmarks.benchmark(whole).tasks
    tasks = [whole, part, other_part, "vqa"]

    def scores(*values: float) -> list[dict[str, Any]]:
        return [{"task": task, "metric": "mc", "value": value} for task, value in zip(tasks, values, strict=True)]

    baseline, tuned = method("a", scores(50, 40, 50, 10)), method("b", scores(60, 40, 70, 10))
    found = compare(baseline, [tuned], zero_shot=[whole])
    assert averages(found.summaries[1]) == {"delta_i": 0, "delta_e": 0, "delta_i_zero": pytest.approx(20)}
    assert [(one.task, one.reason) for one in found.summaries[1].left_out] == [
        (part, "part of scienceqa"),
        (other_part, "part of scienceqa"),
    ]
    assert {row.task for row in found.rows if row.zero_shot} == {whole, part, other_part}
    in_parts = compare(baseline, [tuned], zero_shot=[whole], exclude=[whole]).summaries[1]
    assert averages(in_parts)["delta_i_zero"] == pytest.approx((0 + 40) / 2)
    assert [one.task for one in in_parts.left_out] == [whole]


def test_each_seed_is_held_against_the_mean_of_the_baselines() -> None:
    def seed(vqa: float, boxes: float) -> list[dict[str, Any]]:
        return [{"task": "vqa", "metric": "em", "value": vqa}, {"task": "boxes", "metric": "iou", "value": boxes}]

    baseline = method("stl", seed(48, 20), seed(52, 20))
    tuned = method("ew", seed(55, 18), seed(45, 24), seed(50, 24))
    own, found = compare(baseline, [tuned]).summaries
    # By hand: I of vqa is 10, -10, 0, of boxes -10, 20, 20; ΔI 0, 5, 10; ΔE 5, 5, 0.
    assert found.num_seeds == 3
    assert found.fine_tuned.delta_i is not None and found.fine_tuned.delta_e is not None
    assert (found.fine_tuned.delta_i.mean, found.fine_tuned.delta_i.sd) == (pytest.approx(5), pytest.approx(5))
    assert (found.fine_tuned.delta_e.mean, found.fine_tuned.delta_e.sd) == (
        pytest.approx(10 / 3),
        pytest.approx((25 / 3) ** 0.5),
    )
    # The baseline's own seeds: I of vqa -4 and 4, so ΔI -2 and 2, ΔE 2 and 0: the noise to hold the others against.
    assert own.fine_tuned.delta_i is not None and own.fine_tuned.delta_e is not None
    assert (own.fine_tuned.delta_i.mean, own.fine_tuned.delta_i.sd) == (pytest.approx(0), pytest.approx(8**0.5))
    assert own.fine_tuned.delta_e.mean == pytest.approx(1)


def test_a_task_that_not_every_seed_has_does_not_count() -> None:
    rows = [{"task": "vqa", "metric": "em", "value": 50}, {"task": "boxes", "metric": "iou", "value": 20}]
    (_, found) = compare(method("stl", rows), [method("ew", rows, rows[:1])]).summaries
    assert found.fine_tuned.num_tasks == 1
    assert [(one.task, one.reason) for one in found.left_out] == [("boxes", "only in 1 of the 2 seeds of ew")]


scores = st.lists(st.tuples(*[st.floats(0.5, 1000)] * 2), min_size=1, max_size=8)


@given(pairs=scores, shuffler=st.randoms(), scale=st.floats(0.01, 100))
def test_neither_order_nor_unit_matters_and_gain_minus_loss_is_the_average(
    pairs: list[tuple[float, float]], shuffler: Any, scale: float
) -> None:
    def summary(order: list[int], by: float) -> SummaryRow:
        sides = [
            method(name, [{"task": f"t{i}", "metric": "m", "value": pairs[i][side] * by} for i in order])
            for side, name in enumerate("ab")
        ]
        return compare(sides[0], sides[1:]).summaries[1]

    order = list(range(len(pairs)))
    found = averages(summary(order, 1.0))
    shuffler.shuffle(order)
    assert averages(summary(order, scale)) == pytest.approx(found, rel=1e-9, abs=1e-9)
    improvements = [100 * (after - before) / before for before, after in pairs]
    delta_i, delta_e = average(improvements)
    gains = sum(max(0, one) for one in improvements) / len(improvements)
    assert delta_i == pytest.approx(gains - delta_e, abs=1e-9) and delta_e >= 0
    assert found == {"delta_i": pytest.approx(delta_i, abs=1e-9), "delta_e": pytest.approx(delta_e, abs=1e-9)}
