"""What the MINT recipe starts from, and how it reports: tables like the paper's, a figure like its Figure 4."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

from mmkit.testing.planted import interaction, write

EXAMPLE = Path(__file__).parents[2] / "examples" / "mint"
SVG = "{http://www.w3.org/2000/svg}"
GROUPS = {"slake": "redundancy", "nlvr": "redundancy", "memes": "synergy", "ucmerced": "uniqueness"}


@pytest.fixture(scope="module")
def recipe() -> Iterator[dict[str, ModuleType]]:
    """The recipe's own scripts."""
    sys.path.insert(0, str(EXAMPLE))
    yield {name: loaded(EXAMPLE / f"{name}.py") for name in ("report", "radar", "make_data")}
    sys.path.remove(str(EXAMPLE))


def loaded(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"mint_{script.stem}", script)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def scored(task: str, value: float) -> dict[str, Any]:
    return {"task": task, "value": value, "unit": "%", "n": 96, "ci95": [value - 3, value + 5]}


def measured(task: str, score: float, corrected: float | None) -> dict[str, Any]:
    row = {"task": task, "score": score, "score_text": score - 0.5, "score_image": 0.5, "accuracy": 0.98}
    parts = dict.fromkeys(("corrected_text", "corrected_image"), corrected and corrected / 2)
    return {**row, "corrected": corrected, **parts, "marks": []}


def grouped(groups: dict[str, str]) -> list[dict[str, str]]:
    return [{"task": task, "group": group} for task, group in groups.items()]


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """What a run of the recipe leaves. The memes are in no training set, so no single task was tuned on them."""
    rows = [measured("slake", 1.9, 1.8), measured("memes", 1.0, 0.02), measured("ucmerced", 1.1, None)]
    write(rows, tmp_path / "interaction.jsonl")
    write(grouped(GROUPS), tmp_path / "routes.jsonl")
    write(grouped(GROUPS | {"memes": "uniqueness"}), tmp_path / "groups-raw.jsonl")
    write(grouped({"slake": "group-1", "nlvr": "group-2"}), tmp_path / "groups-similar.jsonl")
    write(({"id": task, "task": task} for task in GROUPS), tmp_path / "test.jsonl")
    of_method = {"base": 20.0, "mint": 60.0, "all": 50.0, "single": 70.0, "similar-2": 0.0}
    for name, value in of_method.items():
        # "pathvqa" stands for a benchmark's overall score, which eval gives beside those of its tasks
        tasks = [task for task in [*GROUPS, "pathvqa"] if name != "single" or task != "memes"]
        write((scored(task, value + 10 * (task == "slake")) for task in tasks), tmp_path / f"scores-{name}.jsonl")
    (tmp_path / "tuned" / "mint-synergy").mkdir(parents=True)
    run = {"rows": 8, "steps": 3, "tokens": {"text": 1000, "image": 234}, "trained_parameters": 77824, "seconds": 2.4}
    (tmp_path / "tuned" / "mint-synergy" / "run.json").write_text(json.dumps(run))
    return tmp_path


def test_sets_stand_by_group_as_in_table_2_and_the_best_of_a_line_is_starred(
    recipe: dict[str, ModuleType], finished: Path
) -> None:
    table = [line.split() for line in recipe["report"].Results(finished).comparison()]
    assert [row[0] for row in table[2:6]] == ["nlvr", "slake", "memes", "ucmerced"]
    assert table[2] == ["nlvr", "20.0", "70.0*", "60.0", "50.0", "0.0"]
    assert table[4] == ["memes", "20.0", "-", "60.0*", "50.0", "0.0"]
    averages = {row[0]: row for row in table if row[-6] == "average"}
    assert averages["redundancy,"][2:] == ["25.0", "75.0*", "65.0", "55.0", "5.0"]
    assert averages["synergy,"][2:] == ["20.0", "-", "60.0*", "50.0", "0.0"]
    assert averages["all,"][2:] == ["22.5", "-", "62.5*", "52.5", "2.5"]


def test_an_average_has_the_interval_of_independent_sets(recipe: dict[str, ModuleType], finished: Path) -> None:
    results = recipe["report"].Results(finished)
    assert results.average("mint", "redundancy") == (65, pytest.approx(math.sqrt(2 * 4**2) / 2))
    assert results.average("mint", None) == (62.5, pytest.approx(4 / 2))
    assert results.average("single", None) is None


def test_raw_and_corrected_groups_stand_side_by_side_and_what_is_undefined_is_no_number(
    recipe: dict[str, ModuleType], finished: Path
) -> None:
    table = {line.split()[0]: line.split()[1:] for line in recipe["report"].Results(finished).interaction()[2:]}
    assert list(table) == ["slake", "ucmerced", "memes"]
    assert table["memes"] == ["0.98", "1.00", "0.50", "0.50", "uniqueness", "0.02", "0.01", "0.01", "synergy", "-"]
    assert table["ucmerced"][5:] == ["-", "-", "-", "uniqueness", "-"]
    assert table["slake"][-1] == "group-1"


def test_planted_kinds_are_told_where_there_are_any(recipe: dict[str, ModuleType], finished: Path) -> None:
    rows = [{"id": "1", "task": "memes", "truth": {"kind": "synergy"}}]
    write(rows, finished / "test.jsonl")
    table = recipe["report"].Results(finished).interaction()
    assert table[1].split()[-1] == "planted"
    assert next(line for line in table if line.startswith("memes")).split()[-1] == "synergy"


def test_tunings_say_what_they_took(recipe: dict[str, ModuleType], finished: Path) -> None:
    table = recipe["report"].Results(finished).trainings()
    assert table[-1].split() == ["mint-synergy", "8", "3", "1,234", "77,824", "2"]


def test_the_figure_shows_shares_of_the_best_and_only_methods_that_were_asked_everything(
    recipe: dict[str, ModuleType], finished: Path
) -> None:
    figure = {method.label: values for method, values in recipe["report"].Results(finished).figure().items()}
    assert list(figure) == ["no tuning", "MINT", "all tasks", "similar 2"]
    # nlvr, slake, memes, ucmerced; the single tasks are the best of three of them
    assert figure["MINT"] == [60 / 70, 70 / 80, 1, 60 / 70]
    assert figure["similar 2"] == [0, 10 / 80, 0, 0]


def test_a_set_that_nobody_gets_right_is_at_the_centre(recipe: dict[str, ModuleType], finished: Path) -> None:
    for path in finished.glob("scores-*.jsonl"):
        write((scored(task, 0.0) for task in GROUPS), path)
    assert {value for values in recipe["report"].Results(finished).figure().values() for value in values} == {0.0}


def test_the_report_prints_its_tables_and_draws_the_figure(
    recipe: dict[str, ModuleType], finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["report.py", str(finished)])
    recipe["report"].main()
    assert [part.split(" (")[0] for part in capsys.readouterr().out.split("\n\n")][1] == "Scores by test set"
    assert len(ElementTree.parse(finished / "radar.svg").findall(f"{SVG}polygon")) == 4


def test_values_stand_on_their_axes_from_the_centre_to_the_rim(recipe: dict[str, ModuleType]) -> None:
    radar, method = recipe["radar"].radar, recipe["radar"].Method
    drawn = ElementTree.fromstring(radar("t", ["a", "b", "c", "d"], {method("m", "#000", ""): [1, 0.5, 0, 0.25]}))
    rings = drawn.findall(f"{SVG}circle")
    x, y, rim = (float(rings[-1].attrib[name]) for name in ("cx", "cy", "r"))
    (polygon,) = drawn.findall(f"{SVG}polygon")
    points = [tuple(map(float, point.split(","))) for point in polygon.attrib["points"].split()]
    wanted = [(x, y - rim), (x + rim / 2, y), (x, y), (x - rim / 4, y)]  # up, right, down, left
    assert points == [pytest.approx(point, abs=0.1) for point in wanted]


def test_names_are_no_markup(recipe: dict[str, ModuleType]) -> None:
    radar, method = recipe["radar"].radar, recipe["radar"].Method
    name = '</text><script>alert("1")</script>&\x1b[31m'
    drawn = ElementTree.fromstring(radar(name, [name], {method(name, "#000", ""): [1.0]}))
    assert {element.tag.removeprefix(SVG) for element in drawn.iter()} <= {
        "svg",
        "rect",
        "text",
        "circle",
        "line",
        "polygon",
    }
    assert any("<script>" in (element.text or "") for element in drawn.iter())
    assert not any("\x1b" in (element.text or "") for element in drawn.iter())


@pytest.fixture(scope="module")
def data(recipe: dict[str, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A third of what the miniature starts from: 48 rows a task to score and to test."""
    here = tmp_path_factory.mktemp("data")
    recipe["make_data"].write_all(here, seed=0, share=1 / 3)
    return here


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_no_row_is_in_two_sets(data: Path) -> None:
    sets = [
        {row["id"] for task in interaction.TASKS for row in rows(data / name / f"{task}.jsonl")}
        for name in ("test", "scored", "train")
    ]
    sets.append({row["id"] for row in rows(data / "any-view.jsonl")})
    assert [len(ids) for ids in sets] == [288, 288, 576, 1296]
    assert not any(one & other for one, other in itertools.combinations(sets, 2))


def test_the_scorer_first_sees_one_modality_of_what_both_tell_and_then_each_view_in_a_third(data: Path) -> None:
    def shown(name: str) -> dict[str, Counter[tuple[bool, bool]]]:
        counts: dict[str, Counter[tuple[bool, bool]]] = {}
        for row in rows(data / f"{name}.jsonl"):
            asked = row["messages"][0]["content"][-1]["text"]
            told = asked.startswith(("note:", "memo:", "key:", "rule:"))
            counts.setdefault(row["task"], Counter())[bool(row["images"]), told] += 1
        return counts

    for task, counts in shown("one-modality").items():
        if task.startswith("redundant"):
            assert set(counts) == {(True, False), (False, True)}
            assert min(counts.values()) > 0.35 * counts.total()
        else:
            assert set(counts) == {(True, True)}
    for counts in shown("any-view").values():
        assert set(counts) == {(True, False), (False, True), (True, True)}
        assert min(counts.values()) > 0.2 * counts.total()


def test_the_base_model_meets_no_question_and_no_note(data: Path) -> None:
    asked = {row["messages"][0]["content"][-1]["text"].split("\n")[0] for row in rows(data / "base.jsonl")}
    assert asked == {"Describe the image.", "Repeat the words."}
