"""What the VisATB recipe starts from, and how it reports: tables like the paper's, figures like its Figure 3."""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
import visatb_tables

from mmkit.evaluation.compare import compare
from mmkit.evaluation.method_files import read_methods
from mmkit.testing.planted import overlap, write

EXAMPLE = Path(__file__).parents[2] / "examples" / "visatb"
SVG = "{http://www.w3.org/2000/svg}"
TABLE_3 = visatb_tables.TABLE_3
NAMES = {"STL": "stl", "EW": "ew", "TLA": "tla", "RLW": "rlw", "DWA": "dwa", "IGBv1": "igb", "VisATB": "visatb"}
MEASURES = [
    {"task": "caption", "C_out": 0.75, "C_in": -0.25, "D": 0.1875},
    {"task": "page", "C_out": 0.25, "C_in": 0.5, "D": 0.0625},
    {"task": "table", "C_out": -0.5, "C_in": 0.25, "D": -0.25},
]
WEIGHTS = [
    {"task": "caption", "weight": 1.2, "out": 1.9, "in": 1.5, "difficulty": 0.7},
    {"task": "page", "weight": 0.9, "out": 0.9, "in": 0.4, "difficulty": 1.15},
    {"task": "table", "weight": 0.9, "out": 0.2, "in": 1.1, "difficulty": 1.15},
]


@pytest.fixture(scope="module")
def recipe() -> Iterator[dict[str, ModuleType]]:
    """The recipe's own scripts."""
    sys.path.insert(0, str(EXAMPLE))
    yield {name: loaded(EXAMPLE / f"{name}.py") for name in ("report", "figures", "make_data")}
    sys.path.remove(str(EXAMPLE))


def loaded(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"visatb_{script.stem}", script)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scored(method: str) -> list[dict[str, Any]]:
    """The paper's Table 3 as score rows."""
    units = {"cider": None, "em": "%", "iou50": "%"}
    return [
        {**row, "rule": "visatb", "unit": units[row["metric"]], "higher_is_better": True}
        for row in TABLE_3.rows(method)
    ]


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """What a run of the recipe leaves: the paper's scores, and contributions and weights of three tasks."""
    for label, name in NAMES.items():
        write(scored(label), tmp_path / f"scores-{name}.jsonl")
    methods = read_methods([f"{name}={tmp_path}/scores-{name}.jsonl" for name in NAMES.values()], None)
    write(compare(methods[0], methods[1:]).to_wire(), tmp_path / "comparison.jsonl")
    for name in ("visatb", "visatb-matched"):
        cell = {"trained_on": "mini", "evaluated_on": "page", "metric": "em", "value": 20.0, "seed": 0}
        pairs = [{"from": "caption", "to": "page", "C": 0.9375}, {"from": "table", "to": "page", "C": -1.5}]
        write([cell, *pairs, *MEASURES], tmp_path / f"contribution-{name}.jsonl")
        write(WEIGHTS, tmp_path / f"weights-{name}.jsonl")
    (tmp_path / "tuned" / "stl-page").mkdir(parents=True)
    run = {"rows": 3200, "steps": 200, "tokens": {"text": 1000, "image": 234}, "seconds": 12.4}
    (tmp_path / "tuned" / "stl-page" / "run.json").write_text(json.dumps(run))
    return tmp_path


def split(lines: list[str]) -> dict[str, list[str]]:
    """A table's cells by the first cell of each line, the title left out."""
    return {cells[0]: cells[1:] for cells in (line.split() for line in lines[1:])}


def test_the_papers_scores_come_out_as_its_table_3(recipe: dict[str, ModuleType], finished: Path) -> None:
    lines = recipe["report"].Results(finished).comparison()
    assert lines[1].split() == [*(task for task, _ in TABLE_3.tasks), "ΔI%", "ΔE%"]
    table = split(lines)
    assert table["EW"] == ["0.1411", "0.5591", "78.27", "62.20*", "19.60", "67.73", "61.63", "8.75", "0.10"]
    assert table["VisATB"][0] == "0.1437*" and table["VisATB"][-2:] == ["11.29", "0.15"]
    assert table["STL"][-2:] == ["-", "-"]
    stars = ["".join(table[label][column][-1] for label in NAMES).count("*") for column in range(7)]
    assert stars == [1] * 7


def test_a_task_that_a_method_was_not_asked_has_no_number(recipe: dict[str, ModuleType], finished: Path) -> None:
    write(scored("TLA")[:-1], finished / "scores-tla.jsonl")
    assert split(recipe["report"].Results(finished).comparison())["TLA"][6] == "-"


def test_contributions_stand_by_giving_and_receiving_task(recipe: dict[str, ModuleType], finished: Path) -> None:
    table = split(recipe["report"].Results(finished).contributions("visatb"))
    assert table["caption"] == ["-", "0.94", "-", "0.75", "-0.25", "0.19"]
    assert table["table"] == ["-", "-1.50", "-", "-0.50", "0.25", "-0.25"]


def test_weights_stand_as_in_table_5(recipe: dict[str, ModuleType], finished: Path) -> None:
    lines = recipe["report"].Results(finished).weights("visatb")
    assert [line.split() for line in lines[1:]] == [
        ["caption", "page", "table"],
        ["λ_out", "1.9000", "0.9000", "0.2000"],
        ["λ_in", "1.5000", "0.4000", "1.1000"],
        ["λ_D", "0.7000", "1.1500", "1.1500"],
        ["λ", "1.2000", "0.9000", "0.9000"],
    ]


def test_the_report_prints_its_tables_and_draws_the_figures(
    recipe: dict[str, ModuleType], finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["report.py", str(finished)])
    recipe["report"].main()
    out = capsys.readouterr().out
    assert len(out.split("\n\n")) == 6
    assert out.splitlines()[-1].split() == ["stl-page", "3,200", "200", "1,234", "12"]
    drawn = {path.stem for path in finished.glob("*.svg")}
    assert drawn == {"contribution", "difficulty-visatb", "difficulty-visatb-matched"}
    for path in finished.glob("*.svg"):
        ElementTree.parse(path)


def test_a_cell_of_the_heat_map_is_at_its_line_and_column_and_as_deep_as_its_value(
    recipe: dict[str, ModuleType],
) -> None:
    values = {("a", "b"): 1.0, ("b", "a"): -3.0, ("a", "a"): 0.0}
    drawn = ElementTree.fromstring(recipe["figures"].heat_map("t", ["a", "b"], values))
    cells = [rect.attrib for rect in drawn.findall(f"{SVG}rect")[1:]]
    places = [(float(cell["x"]), float(cell["y"])) for cell in cells]
    assert places[1][0] - places[0][0] == places[2][1] - places[0][1] == float(cells[0]["width"])
    white, blue, red, empty = (cell["fill"] for cell in cells)
    assert white == "rgb(255, 255, 255)" and empty == "#eee"
    assert blue != red and blue == recipe["figures"]._shade(2.0)
    assert {"1.00", "-3.00", "0.00"} <= {text.text for text in drawn.findall(f"{SVG}text")}


def test_a_bar_goes_up_from_zero_or_down(recipe: dict[str, ModuleType]) -> None:
    drawn = ElementTree.fromstring(recipe["figures"].bars("t", {"easy": 0.25, "odd": -0.5, "hard": 0.5}))
    easy, odd, hard = (rect.attrib for rect in drawn.findall(f"{SVG}rect")[1:])
    (axis,) = drawn.findall(f"{SVG}line")
    zero = float(axis.attrib["y1"])
    assert float(hard["height"]) == pytest.approx(2 * float(easy["height"]), abs=0.2)
    assert float(hard["y"]) + float(hard["height"]) == pytest.approx(zero, abs=0.2)
    assert float(odd["y"]) == pytest.approx(zero, abs=0.2)
    assert float(odd["height"]) == pytest.approx(float(hard["height"]), abs=0.2)


def test_names_are_no_markup(recipe: dict[str, ModuleType]) -> None:
    name = '</text><script>alert("1")</script>&\x1b[31m'
    for drawn in (
        recipe["figures"].heat_map(name, [name], {(name, name): 0.5}),
        recipe["figures"].bars(name, {name: 0.5}),
    ):
        elements = list(ElementTree.fromstring(drawn).iter())
        assert {element.tag.removeprefix(SVG) for element in elements} <= {"svg", "rect", "text", "line"}
        assert any("<script>" in (element.text or "") for element in elements)
        assert not any("\x1b" in (element.text or "") for element in elements)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_no_row_is_in_two_sets_and_more_training_rows_change_no_other_set(
    recipe: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe["make_data"].write_all(tmp_path / "few", seed=0, share=0.02)
    monkeypatch.setitem(recipe["make_data"].ROWS, "train", 6400)
    recipe["make_data"].write_all(tmp_path / "many", seed=0, share=0.02)
    few, many = (
        {
            part: [row for task in overlap.TASKS for row in rows(here / "tasks" / part / f"{task}.jsonl")]
            for part in recipe["make_data"].ROWS
        }
        for here in (tmp_path / "few", tmp_path / "many")
    )
    assert {part: len(found) for part, found in few.items()} == {"test": 30, "val": 30, "train": 320}
    assert len(many["train"]) == 640 and (few["test"], few["val"]) == (many["test"], many["val"])
    ids = [{row["id"] for row in found} for found in few.values()]
    assert not any(one & other for one, other in itertools.combinations(ids, 2))
    shown = [row["images"][0]["path"] for found in few.values() for row in found] + [
        row["images"][0]["path"] for row in rows(tmp_path / "few" / "lessons.jsonl")
    ]
    assert all((tmp_path / "few" / path).is_file() for path in shown)
