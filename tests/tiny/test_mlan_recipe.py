"""What the MLAN recipe claims: a run on language leaves encoder and projector as they were, and how it reports that."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch import nn

from mmkit.data.instruct import Form, Instructor
from mmkit.tasks.prompts import load_phrasings
from mmkit.testing.planted import bimodal, write
from mmkit.training import TuneConfig, TuneReport, sample_of
from mmkit.training.finetune import finetune

pytestmark = pytest.mark.tiny

EXAMPLE = Path(__file__).parents[2] / "examples" / "mlan"
# As the paper tunes, but with what would move a weight that has no gradient: weight decay.
CONFIG = TuneConfig(
    train="llm+projector", modality_batches=True, batch_size=4, lr=1e-2, weight_decay=0.1, device="cpu", threads=1
)


@pytest.fixture(scope="module")
def recipe() -> dict[str, ModuleType]:
    """The recipe's own scripts."""
    return {name: loaded(EXAMPLE / f"{name}.py") for name in ("report", "fresh_projector")}


def loaded(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"mlan_{script.stem}", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def modules_run() -> Iterator[list[str]]:
    """The class names of all modules that run in this process."""
    names: list[str] = []
    handle = nn.modules.module.register_module_forward_pre_hook(lambda module, _: names.append(type(module).__name__))
    yield names
    handle.remove()


def tuned(model: Path, out: Path, modalities: Sequence[str]) -> TuneReport:
    """The model tuned on twelve tasks of each of the training sets of these modalities."""
    instructor, samples = Instructor(Form(answer_style="text"), load_phrasings()), []
    (out.parent / "img").mkdir(exist_ok=True)
    for task_set in bimodal.TRAINING:
        if task_set.modality not in modalities:
            continue
        for record, scene in bimodal.tasks(task_set, 12):
            samples.append(sample_of(instructor.of_one(record), image_root=out.parent))
            if scene is not None:
                scene.picture.save(out.parent / scene.image["path"])
    return finetune(samples, model=str(model), out=out, config=CONFIG)


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_tuning_on_language_runs_no_vision_tower_and_moves_neither_encoder_nor_projector(
    family: str,
    recipe: dict[str, ModuleType],
    tiny_model: Callable[[str], Path],
    modules_run: list[str],
    tmp_path: Path,
) -> None:
    before = recipe["report"].digests(tiny_model(family))
    report = tuned(tiny_model(family), tmp_path / "language", ["language"])
    after = recipe["report"].digests(tmp_path / "language")
    assert after["vision"] == before["vision"] and after["projector"] == before["projector"]
    assert after["llm"] != before["llm"]
    assert report.image_tokens == 0
    assert not [name for name in modules_run if "CLIP" in name or "Vision" in name or "Projector" in name]


def test_tuning_on_both_runs_the_vision_tower_and_moves_the_projector_alone(
    recipe: dict[str, ModuleType], tiny_model: Callable[[str], Path], modules_run: list[str], tmp_path: Path
) -> None:
    before = recipe["report"].digests(tiny_model("llava"))
    report = tuned(tiny_model("llava"), tmp_path / "both", ["language", "vision"])
    after = recipe["report"].digests(tmp_path / "both")
    assert after["vision"] == before["vision"]
    assert after["projector"] != before["projector"] and after["llm"] != before["llm"]
    assert report.image_tokens == 24 * 36
    assert {name for name in modules_run if "CLIP" in name and "Model" in name}


@pytest.fixture
def finished(tmp_path: Path, recipe: dict[str, ModuleType], tiny_model: Callable[[str], Path]) -> Path:
    """What a run of the recipe leaves: a pretrained model and two that were tuned, scores and counts of tokens."""
    copies = {"pretrained": 0, "tuned-0": 1, "tuned-100": 0, "tuned-budget-50": 0}
    for name, is_moved in copies.items():
        if is_moved:
            recipe["fresh_projector"].copy(tiny_model("llava"), tmp_path / name, seed=7)
        else:
            shutil.copytree(tiny_model("llava"), tmp_path / name)
        run = {"rows": 8, "seconds": 2.0, "tokens": {"text": 100, "image": 300 * is_moved}}
        (tmp_path / name / "run.json").write_text(json.dumps(run))
    asked = [("race", None, False), ("boolq", "boolq", False), ("gqa", "gqa", True)]
    asked += [("scienceqa-text", "scienceqa", False), ("scienceqa-image", "scienceqa", True)]
    questions = (
        {"id": task, "task": task, "benchmark": benchmark, "images": [{"path": "a.png"}] * has_image}
        for task, benchmark, has_image in asked
    )
    write(questions, tmp_path / "test.jsonl")
    values = {"pretrained": 0.0, "0": 40.0, "100": 50.0, "budget-50": 45.0}
    for name, value in values.items():
        rows = [scored("race", value), scored("boolq", value + 20), scored("gqa", value / 2)]
        rows += [scored("scienceqa-text", value), scored("scienceqa-image", value + 10), scored("scienceqa", value + 5)]
        write(rows, tmp_path / f"scores-{name}.jsonl")
    counts = {"100": (100, 0), "0": (400, 300), "6": (380, 280), "budget-50": (100, 0)}
    write(
        (
            {**dict.fromkeys(("task", "domain", "modality")), **counted(name, tokens, image)}
            for name, (tokens, image) in counts.items()
        ),
        tmp_path / "tokens.jsonl",
    )
    return tmp_path


def scored(task: str, value: float) -> dict[str, Any]:
    return {"task": task, "value": value, "unit": "%", "n": 96, "ci95": [value - 3, value + 4], "unparsed": 24}


def counted(name: str, tokens: int, image: int) -> dict[str, Any]:
    more = 100 * (tokens / 100 - 1)
    return {"set": f"train-{name}", "rows": 8, "tokens": tokens, "image_tokens": image, "relative_percent": more}


def reported(recipe: dict[str, ModuleType], here: Path) -> Any:
    return recipe["report"].Results(here)


def test_averages_are_those_of_the_paper(recipe: dict[str, ModuleType], finished: Path) -> None:
    results = reported(recipe, finished)
    assert results.average("100", "language")[0] == 60  # race 50, boolq 70
    assert results.average("100", "vision")[0] == 25
    assert results.average("100", "overall")[0] == (50 + 70 + 25 + 55) / 4  # ScienceQA is one set, not two
    assert results.average("100", "vision")[1] == 3.5
    assert results.average("100", "language")[1] == pytest.approx((2 * 3.5**2) ** 0.5 / 2)  # of independent errors


def test_mixtures_stand_in_order_and_budgets_only_in_their_figure(
    recipe: dict[str, ModuleType], finished: Path
) -> None:
    results = reported(recipe, finished)
    table = results.scores()
    assert table[1].split() == ["pre", "0", "100"]
    assert next(line.split() for line in table if line.startswith("gqa")) == ["gqa", "0.0", "20.0", "25.0"]
    assert next(line for line in table if line.startswith("no answer")).split()[-1] == "25.0"
    assert [line.split()[0] for line in results.by_budget()[1::2]] == ["pretrained", "50", "100"]
    assert [line.split()[0] for line in results.by_mixture()[1::2]] == ["pretrained", "0", "100"]


def test_tokens_are_those_of_stats_and_have_to_be_those_trained_on(
    recipe: dict[str, ModuleType], finished: Path
) -> None:
    table = [line.split() for line in reported(recipe, finished).tokens()[2:]]
    assert [(row[0], row[2], row[4]) for row in table] == [
        ("100", "100", "+0.00%"),
        ("6", "380", "+280.00%"),
        ("0", "400", "+300.00%"),
        ("budget-50", "100", "+0.00%"),
    ]
    run = json.loads((finished / "tuned-0" / "run.json").read_text())
    run["tokens"]["image"] += 1
    (finished / "tuned-0" / "run.json").write_text(json.dumps(run))
    with pytest.raises(SystemExit, match="trained on 401 tokens, stats counts 400"):
        reported(recipe, finished).tokens()


def test_a_projector_that_moved_is_told_from_one_that_did_not(recipe: dict[str, ModuleType], finished: Path) -> None:
    told = {line.split()[0]: line.split()[1:] for line in reported(recipe, finished).moved()[2:]}
    assert told == {"0": ["same", "changed", "300"], "100": ["same", "same", "0"], "budget-50": ["same", "same", "0"]}


def test_a_fresh_projector_is_all_that_differs(
    recipe: dict[str, ModuleType], tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    digests, copy = recipe["report"].digests, recipe["fresh_projector"].copy
    for out in ("a", "b"):
        copy(tiny_model("llava"), tmp_path / out, seed=3)
    copy(tiny_model("llava"), tmp_path / "c", seed=4)
    before, first, again, other = (digests(path) for path in (tiny_model("llava"), *map(tmp_path.joinpath, "abc")))
    assert first == again
    assert len({before["projector"], first["projector"], other["projector"]}) == 3
    assert all(first[part] == before[part] for part in ("llm", "vision"))
