"""What the VisATB recipe starts from, and how it reports: tables like the paper's, figures like its Figure 3."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
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
SCRIPTS = ("figures", "results", "over_seeds", "report", "make_data")
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
    yield {name: loaded(EXAMPLE / f"{name}.py") for name in SCRIPTS}
    sys.path.remove(str(EXAMPLE))
    for name in SCRIPTS:  # other recipes have scripts of these names
        sys.modules.pop(name, None)


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
    write_comparison(tmp_path, NAMES.values())
    for name in ("visatb", "visatb-matched"):
        cell = {"trained_on": "mini", "evaluated_on": "page", "metric": "em", "value": 20.0, "seed": 0}
        pairs = [{"from": "caption", "to": "page", "C": 0.9375}, {"from": "table", "to": "page", "C": -1.5}]
        write([cell, *pairs, *MEASURES], tmp_path / f"contribution-{name}.jsonl")
        write(WEIGHTS, tmp_path / f"weights-{name}.jsonl")
    (tmp_path / "tuned" / "stl-page").mkdir(parents=True)
    run = {"rows": 3200, "steps": 200, "tokens": {"text": 1000, "image": 234}, "seconds": 12.4}
    (tmp_path / "tuned" / "stl-page" / "run.json").write_text(json.dumps(run))
    return tmp_path


def write_comparison(directory: Path, names: Iterable[str]) -> None:
    """What `mmkit compare` would write."""
    methods = read_methods([f"{name}={directory}/scores-{name}.jsonl" for name in names], None)
    write(compare(methods[0], methods[1:]).to_wire(), directory / "comparison.jsonl")


def split(lines: list[str]) -> dict[str, list[str]]:
    """A table's cells by the first cell of each line, the title left out."""
    return {cells[0]: cells[1:] for cells in (line.split() for line in lines[1:])}


def test_the_papers_scores_come_out_as_its_table_3(recipe: dict[str, ModuleType], finished: Path) -> None:
    lines = recipe["results"].Results(finished).comparison()
    assert lines[1].split() == [*(task for task, _ in TABLE_3.tasks), "ΔI%", "ΔE%"]
    table = split(lines)
    assert table["EW"] == ["0.1411", "0.5591", "78.27", "62.20*", "19.60", "67.73", "61.63", "8.75", "0.10"]
    assert table["VisATB"][0] == "0.1437*" and table["VisATB"][-2:] == ["11.29", "0.15"]
    assert table["STL"][-2:] == ["-", "-"]
    stars = ["".join(table[label][column][-1] for label in NAMES).count("*") for column in range(7)]
    assert stars == [1] * 7


def test_a_task_that_a_method_was_not_asked_has_no_number(recipe: dict[str, ModuleType], finished: Path) -> None:
    write(scored("TLA")[:-1], finished / "scores-tla.jsonl")
    assert split(recipe["results"].Results(finished).comparison())["TLA"][6] == "-"


def test_tasks_that_do_not_count_in_the_averages_are_named(recipe: dict[str, ModuleType], finished: Path) -> None:
    """STL gets nothing right in one, so that there is no relative change."""
    write(
        [{**row, "value": row["value"] * (row["task"] != "GQA")} for row in scored("STL")],
        finished / "scores-stl.jsonl",
    )
    write_comparison(finished, NAMES.values())
    last = recipe["results"].Results(finished).comparison()[-1]
    assert last == "Not in ΔI% and ΔE% of EW, TLA, RLW, DWA, IGBv1, VisATB: GQA (the baseline is 0)"


def test_long_names_stay_apart_and_hostile_ones_do_nothing_to_a_terminal(recipe: dict[str, ModuleType]) -> None:
    names = ["m3it-image-paragraph-captioning", "m3it-visual-dialog", "a\x1b[31m\nb\u202e", "x" * 3000]
    _, head, line = recipe["results"].table("t", [["", *names], ["EW", "1", "2", "3", "4"]])
    assert head.split()[:2] == names[:2] and head.split()[2] == "a\\x1b[31m\\nb\\u202e"
    assert len(head) < 200 and head.isprintable()
    ends = [head.index(name) + len(name) for name in names[:2]]
    assert [line[end - 1] for end in ends] == ["1", "2"]


def test_contributions_stand_by_giving_and_receiving_task(recipe: dict[str, ModuleType], finished: Path) -> None:
    table = split(recipe["results"].Results(finished).contributions("visatb"))
    assert table["caption"] == ["-", "0.94", "-", "0.75", "-0.25", "0.19"]
    assert table["table"] == ["-", "-1.50", "-", "-0.50", "0.25", "-0.25"]


def test_flat_tasks_are_named_below_what_was_made_of_them(recipe: dict[str, ModuleType], finished: Path) -> None:
    assert "flat" not in recipe["results"].Results(finished).contributions("visatb")[-1]
    write([*MEASURES[:2], {**MEASURES[2], "flat": ["table"]}], finished / "contribution-visatb.jsonl")
    assert recipe["results"].Results(finished).contributions("visatb")[-1] == "flat, so read with care: table"


def test_weights_stand_as_in_table_5(recipe: dict[str, ModuleType], finished: Path) -> None:
    lines = recipe["results"].Results(finished).weights("visatb")
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


LONG = ["m3it-image-paragraph-captioning", *(f"m3it-{number}" for number in range(15)), "m3it-visual-dialog"]


@pytest.mark.parametrize("tasks", [LONG, LONG[::-1], ["a", *LONG[::-1]], ["page"], ["画像の説明を書く" * 3, "b"]])
@pytest.mark.parametrize("figure", ["heat_map", "bars"])
def test_no_name_leaves_the_figure(recipe: dict[str, ModuleType], tasks: list[str], figure: str) -> None:
    """In a font of which each character is 0.6 wide, or 1 where it is of East Asia, and a title of its size."""
    values = {(task, task): -0.5 for task in tasks} if figure == "heat_map" else dict.fromkeys(tasks, -0.5)
    title = "Contribution of a line's task to a column's"
    given = (title, tasks, values) if figure == "heat_map" else (title, values)
    drawn = ElementTree.fromstring(getattr(recipe["figures"], figure)(*given))
    width, height = (float(drawn.attrib[name]) for name in ("width", "height"))
    for text in drawn.findall(f"{SVG}text"):
        long = 13 * sum(1 if ord(c) > 0x3000 else 0.61 for c in text.text or "")
        back = {"start": 0, "middle": 0.5, "end": 1}[text.attrib["text-anchor"]] * long
        x, y = float(text.attrib["x"]), float(text.attrib["y"])
        slant = math.sqrt(0.5) if "transform" in text.attrib else 1
        assert x - slant * back >= 0 and x + slant * (long - back) <= width
        if slant != 1:
            assert y - slant * (long - back) >= 0 and y + slant * back <= height
    assert {text.text for text in drawn.findall(f"{SVG}text")} >= set(tasks)


def test_names_that_begin_alike_can_be_told_apart(recipe: dict[str, ModuleType]) -> None:
    tasks = ["m3it-image-paragraph-captioning", "m3it-image-paragraph-questions"]
    drawn = ElementTree.fromstring(recipe["figures"].bars("t", dict.fromkeys(tasks, 0.5)))
    assert {text.text for text in drawn.findall(f"{SVG}text")} >= set(tasks)


def test_nothing_is_not_less_than_nothing(recipe: dict[str, ModuleType]) -> None:
    assert "-0.00" not in recipe["figures"].heat_map("t", ["a", "b"], {("a", "b"): -0.001})
    assert recipe["results"].number(-0.001) == "0.00"


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


GAINS = {"visatb": (4, 5, 6), "tla": (-10, 0, 10), "rlw": (-15, -15, -15)}
"""Points that a method has above EW on each task, seed by seed."""
PLANTED = {"caption": "containing", "page": "contained", "table": "useless"}


@pytest.fixture
def three_seeds(tmp_path: Path) -> list[Path]:
    """STL has 50 points a task and EW 60, so that a point is 2 % of STL's."""
    return [
        seed_of(
            tmp_path / f"tiny-{seed}",
            seed,
            {"stl": 50, "ew": 60} | {name: 60 + points[place] for name, points in GAINS.items()},
        )
        for place, seed in enumerate((1, 2, 5))
    ]


def seed_of(directory: Path, seed: int, values: dict[str, float]) -> Path:
    """What a run with this seed leaves, as far as the report over seeds reads it. The caption gives more with each
    seed, and nothing with the first."""
    (directory / "test").mkdir(parents=True)
    (directory / "mmkit.toml").write_text(f"# settings\nseed = {seed}\n")
    for task, kind in PLANTED.items():
        write([{"id": "1", "task": task, "truth": {"kind": kind}}], directory / "test" / f"{task}.jsonl")
    for name, value in values.items():
        write((of_task(task, value) for task in PLANTED), directory / f"scores-{name}.jsonl")
    write_comparison(directory, values)
    difficulty = {"visatb": (0.8, 0.4, 0.2), "visatb-matched": (0.1, 0.3, 0.1 * seed)}
    for name, of_tasks in difficulty.items() if "visatb" in values else ():
        measured = zip(PLANTED, (0.3 * (seed - 1), 0.1, 0.2), of_tasks, strict=True)
        rows = [{"task": task, "C_out": c_out, "C_in": 0.0, "D": value} for task, c_out, value in measured]
        write(rows, directory / f"contribution-{name}.jsonl")
        write(WEIGHTS, directory / f"weights-{name}.jsonl")
    return directory


def of_task(task: str, value: float) -> dict[str, Any]:
    return {
        "task": task,
        "metric": "em",
        "rule": "strict",
        "value": float(value),
        "unit": "%",
        "higher_is_better": True,
    }


def over_seeds(*directories: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, EXAMPLE / "report.py", *directories], capture_output=True, text=True)


def parts_of(done: subprocess.CompletedProcess[str]) -> dict[str, list[str]]:
    """The printed tables by title."""
    assert done.returncode == 0, done.stderr
    return {title: lines for title, *lines in (part.splitlines() for part in done.stdout.strip().split("\n\n"))}


def cells(lines: list[str]) -> dict[str, list[str]]:
    return {line[:18].split("  ")[0]: line.split()[1:] for line in lines}


def test_methods_are_compared_with_ew_seed_by_seed(three_seeds: list[Path]) -> None:
    parts = parts_of(over_seeds(*three_seeds))
    assert next(iter(parts)).startswith("3 seeds (1, 2, 5): ") and "2 degrees of freedom" in next(iter(parts))
    assert cells(parts["ΔI% against STL"])["EW"] == ["20.00", "20.00", "20.00", "20.00", "0.00"]
    # Of 28, 30, 32 the standard deviation is 2; t is 4.303, so the half is 4.303 × 2 / √3.
    assert cells(parts["ΔI% against STL"])["VisATB"] == ["28.00", "30.00", "32.00", "30.00", "4.97"]
    less = cells(parts["ΔI% less that of EW, seed by seed"])
    assert less["VisATB"] == ["+8.00", "+10.00", "+12.00", "+10.00", "4.97", "better"]
    assert less["TLA"] == ["-20.00", "+0.00", "+20.00", "+0.00", "49.68", "no", "difference", "shown"]
    assert less["RLW"] == ["-30.00", "-30.00", "-30.00", "-30.00", "0.00", "worse"]
    assert set(less) == {"", "TLA", "RLW", "VisATB"}


def test_more_error_is_worse(three_seeds: list[Path]) -> None:
    less = cells(parts_of(over_seeds(*three_seeds))["ΔE% less that of EW, seed by seed"])
    assert less["RLW"] == ["+10.00", "+10.00", "+10.00", "+10.00", "0.00", "worse"]
    assert less["VisATB"][-3:] == ["no", "difference", "shown"]


def test_scores_by_task_have_means_and_intervals(three_seeds: list[Path]) -> None:
    parts = parts_of(over_seeds(*three_seeds))
    lines = [line.split() for line in parts["Scores by task less those of EW, seed by seed"]]
    assert lines[0] == list(PLANTED)
    assert lines[-2:] == [["VisATB", "+5.00", "+5.00", "+5.00"], ["±", "2.48", "2.48", "2.48"]]
    assert [line.split() for line in parts["Scores by task"]][1] == ["STL", "50.00", "50.00", "50.00"]


def test_what_was_measured_is_beside_what_was_planted(three_seeds: list[Path]) -> None:
    parts = parts_of(over_seeds(*three_seeds))
    *given, highest, shared = parts["C_out, VisATB; * is the highest of its seed"]
    assert (
        cells(given)["caption"][:4] == ["0.00", "0.30*", "1.20*", "0.50"]
        and cells(given)["caption"][-1] == "containing"
    )
    assert highest == "highest: caption in 2 of 3 seeds, table in 1 of 3 seeds"
    assert shared == "caption above table: in 2 of 3 seeds"
    papers, matched = (
        parts[f"D, {method}; * is the highest of its seed"] for method in ("VisATB", "VisATB, matched D")
    )
    assert papers[-1] == "highest: caption in 3 of 3 seeds"
    assert matched[-1] == "highest: page in 2 of 3 seeds, table in 1 of 3 seeds"


def test_a_seed_in_which_a_task_is_flat_is_named(three_seeds: list[Path]) -> None:
    path = three_seeds[1] / "contribution-visatb-matched.jsonl"
    write(({**row, "flat": [row["task"]]} if row["task"] == "table" else row for row in rows(path)), path)
    parts = parts_of(over_seeds(*three_seeds))
    told = {title: [line for line in lines if "flat" in line] for title, lines in parts.items()}
    assert {title: lines for title, lines in told.items() if lines} == {
        "D, VisATB, matched D; * is the highest of its seed": ["seed 2: flat, so read with care: table"]
    }


def test_averages_over_other_tasks_are_not_compared(three_seeds: list[Path]) -> None:
    """Where a method was not asked about a task."""
    write([of_task(task, 65) for task in ("caption", "page")], three_seeds[1] / "scores-visatb.jsonl")
    write_comparison(three_seeds[1], ["stl", "ew", *GAINS])
    parts = parts_of(over_seeds(*three_seeds))
    assert next(iter(parts.values())) == ["Seed 2: not in ΔI% and ΔE% of VisATB: table (not in visatb)"]
    less = cells(parts["ΔI% less that of EW, seed by seed"])
    assert less["VisATB"] == ["+8.00", "-", "+12.00", "-", "-", "unknown"]
    assert [line.split() for line in parts["Scores by task"]][-2:] == [
        ["VisATB", "65.00", "65.00", "-"],
        ["±", "2.48", "2.48", "-"],
    ]


def test_a_method_that_one_seed_lacks_is_left_out_and_named(three_seeds: list[Path]) -> None:
    (three_seeds[2] / "scores-rlw.jsonl").unlink()
    done = over_seeds(*three_seeds)
    assert "Not in all directories, and left out: RLW" in done.stdout
    assert set(cells(parts_of(done)["ΔI% against STL"])) == {"", "EW", "TLA", "VisATB"}


def test_seeds_without_a_weighed_method_have_no_measures(tmp_path: Path) -> None:
    done = over_seeds(*(seed_of(tmp_path / str(seed), seed, {"stl": 50, "ew": 60, "dwa": 61}) for seed in (1, 2)))
    assert [title.partition(" ")[0] for title in parts_of(done)][1:] == ["ΔI%", "ΔI%", "ΔE%", "ΔE%", "Scores", "Scores"]


def test_make_seeds_reports_on_finished_demos(three_seeds: list[Path]) -> None:
    copy = shutil.copytree(EXAMPLE, three_seeds[0].parent / "visatb", ignore=shutil.ignore_patterns("work"))
    for directory in three_seeds:
        shutil.copytree(directory, copy / "work" / directory.name)

    def make_seeds(seeds: str) -> subprocess.CompletedProcess[str]:
        line = ["make", "-s", "-C", copy, "--no-print-directory", "seeds", f"SEEDS={seeds}"]
        return subprocess.run([*line, f"BIN={Path(sys.executable).parent}"], capture_output=True, text=True)

    assert make_seeds("1 2 5").stdout == over_seeds(*three_seeds).stdout
    alone = make_seeds("1")
    assert alone.returncode == 2 and 'make seeds needs SEEDS="N N …"' in alone.stderr


@pytest.mark.parametrize(
    ("break_it", "wrong"),
    [
        (lambda here: (here / "mmkit.toml").write_text("seed = 1"), "seed 1 is given twice"),
        (lambda here: write([of_task("page", 50)], here / "scores-stl.jsonl"), "other tasks than in"),
        (lambda here: (here / "scores-ew.jsonl").unlink(), "no scores of EW"),
        (lambda here: (here / "comparison.jsonl").unlink(), "tiny-5: not finished"),
    ],
)
def test_what_is_no_further_seed_is_refused(
    three_seeds: list[Path], break_it: Callable[[Path], object], wrong: str
) -> None:
    break_it(three_seeds[2])
    done = over_seeds(*three_seeds)
    assert done.returncode == 1 and wrong in done.stderr and not done.stdout
