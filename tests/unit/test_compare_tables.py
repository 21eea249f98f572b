"""What compare shows a person, as lists of cells."""

from __future__ import annotations

from typing import Any

import visatb_tables

from mmkit.evaluation.compare import compare
from mmkit.evaluation.comparison_tables import Table, tables
from mmkit.evaluation.methods import Method
from mmkit.evaluation.scores import ScoreRow


def method(name: str, *seeds: list[dict[str, Any]]) -> Method:
    return Method.of(name, *([ScoreRow.from_wire(row) for row in rows] for rows in seeds))


def scores(**values: float) -> list[dict[str, Any]]:
    return [{"task": task, "metric": "score", "value": value} for task, value in values.items()]


def lines(table: Table) -> dict[str, list[str]]:
    assert len({len(line) for line in table}) == 1
    return {line[0]: line[1:] for line in table}


def test_several_methods_have_a_column_each_with_the_best_and_the_better_marked() -> None:
    """Table 3 of VisATB, whose bold figures are the best ones; there the baseline's do not take part."""
    table = visatb_tables.TABLE_3
    baseline, *others = (method(name, table.rows(name)) for name in table.scores)
    main, notes = tables(compare(baseline, others))
    found = lines(main)
    assert found["task"] == ["metric", "STL", "EW", "TLA", "RLW", "DWA", "IGBv1", "VisATB"]
    assert found["ShareGPT4V"] == [
        "cider", "0.1285", "0.1411+", "0.1144", "0.1388+", "0.1225", "0.1349+", "0.1437*+",
    ]  # fmt: skip
    assert found["OCRVQA"][1:] == ["68.22*", "67.73", "67.80", "66.73", "67.87", "65.96", "67.48"]
    assert found["ΔI%"] == ["", "0.00", "8.75", "6.65", "4.95", "6.34", "1.17", "11.29*"]
    assert found["ΔE%"] == ["", "0.00", "0.10*", "1.85", "0.54", "0.74", "1.13", "0.15"]
    assert "ΔI_zero%" not in found
    assert notes == [["notes"], ["* best of the line, + better than STL"]]


def test_zero_shot_tasks_are_marked_against_their_own_baseline() -> None:
    stl, ew, tuned = (
        method("stl", scores(vqa=50.0)),
        method("ew", scores(vqa=60.0, mme=1500.0)),
        method("tuned", scores(vqa=70.0, mme=1400.0)),
    )
    main, notes = tables(compare(stl, [ew, tuned], zero_shot=["mme"], zero_baseline="ew"))
    found = lines(main)
    assert found["mme"] == ["score", "", "1500.00*", "1400.00"]
    assert found["ΔI_zero%"] == ["", "", "0.00", "-6.67"]
    assert notes[1] == ["* best of the line, + better than stl, on zero-shot tasks than ew"]


def test_averages_over_different_tasks_are_not_ranked() -> None:
    whole, part = scores(a=10.0, b=10.0, c=0.0), scores(a=20.0)
    main, notes = tables(compare(method("stl", whole), [method("ew", whole), method("tuned", part)]))
    assert lines(main)["ΔI%"] == ["", "0.00", "0.00 (2 tasks)", "100.00 (1 tasks)"]
    assert [line[0] for line in notes][2:] == [
        "not in the averages of stl, ew: c (the baseline is 0)",
        "not in the averages of tuned: b, c (not in tuned)",
    ]


def test_one_method_has_the_details_and_the_averages_below() -> None:
    before = [{"task": "t", "metric": "em", "rule": "strict", "value": 50.0, "ci95": [40, 60]}]
    after = [{"task": "t", "metric": "em", "rule": "strict", "value": 80.0, "ci95": [70, 85]}]
    details, overall = tables(compare(method("a", before), [method("b", after)]))
    header, line = details
    assert dict(zip(header, line, strict=True)) == {
        "task": "t",
        "metric": "em (strict)",
        "a": "50.00",
        "b": "80.00",
        "difference": "+30.00",
        "95 % interval": "+15.86 to +41.18",
        "p": "3.2e-05",
        "relative": "+60.0 %",
        "test": "Newcombe",
    }
    assert overall == [["method", "ΔI%", "ΔE%", "ΔI_zero%"], ["a", "0.00", "0.00", ""], ["b", "60.00", "0.00", ""]]


def test_notes_of_rows_stand_below_and_are_said_once() -> None:
    before, after = scores(a=0.0, b=10.0, c=10.0), scores(a=1.0, b=10.0)
    *_, notes = tables(compare(method("x", before), [method("y", after)]))
    assert [line[0] for line in notes] == [
        "notes",
        "a score: the baseline is 0, so there is no relative change",
        "not in the averages of x, y: a (the baseline is 0)",
        "not in the averages of y: c (not in y)",
    ]


def test_seeds_are_counted_and_their_spread_is_shown() -> None:
    baseline, tuned = method("stl", scores(a=50.0)), method("ew", scores(a=54.0), scores(a=56.0))
    details, overall = tables(compare(baseline, [tuned]))
    assert details[1][2:5] == ["50.00", "55.00 ± 1.41", "+5.00"]
    assert overall[2] == ["ew (2 seeds)", "10.00 ± 2.83", "0.00 ± 0.00", ""]


def test_nothing_is_minus_nought() -> None:
    """Thirds do not add up: the baseline's mean improvement on itself is 0 by definition and -1e-14 in floats."""
    seeds = [scores(a=one) for one in (0.1, 0.2, 0.7)]
    details, overall = tables(compare(method("stl", *seeds), [method("ew", scores(a=1 / 3 - 1e-12))]))
    assert not any(cell.startswith("-0.00") for line in (*details, *overall) for cell in line)


def test_values_have_four_significant_digits_by_the_largest_of_the_line() -> None:
    found = lines(
        tables(compare(method("a", scores(x=0.0)), [method("b", scores(x=0.0)), method("c", scores(x=0))]))[0]
    )
    assert found["x"][1:] == ["0.00", "0.00", "0.00"]
    sides = [method(name, scores(x=value, y=value / 1e9)) for name, value in (("a", 1524.41), ("b", 9.5), ("c", 3.0))]
    found = lines(tables(compare(sides[0], sides[1:]))[0])
    assert found["x"][1:] == ["1524.41*", "9.50", "3.00"] and found["y"][1:] == ["0.000002*", "0.000000", "0.000000"]
