"""`make demo` of the MLAN recipe on three seeds: what holds by construction, and a record of what came out.

Each run is the user's own command line in a copy of examples/mlan, all nine mixtures and three smaller budgets: about
13 CPU-minutes. Whether language helps with pictures is printed (`make science` shows it), and asserted nowhere.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.science, pytest.mark.tiny, pytest.mark.timeout(3 * 3600)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "mlan"
SEEDS = (0, 1, 2)
MIXTURES = ["0", "12.5", "25", "37.5", "50", "62.5", "75", "87.5", "100"]
BUDGETS = ["budget-25", "budget-50", "budget-75"]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("demo") / "mlan"
    shutil.copytree(EXAMPLE, directory, ignore=shutil.ignore_patterns("work"))
    return directory


@pytest.fixture(scope="module")
def demo(copy: Path) -> Callable[[int], Any]:
    """The results of the demo with a seed, run when first asked for."""
    spec = importlib.util.spec_from_file_location("mlan_results", EXAMPLE / "results.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(seed: int) -> Any:
        work = copy / "work" / f"tiny-{seed}"
        if not work.exists():
            line = ["make", "-C", str(copy), f"-j{os.cpu_count()}", "demo", f"SEED={seed}"]
            made = subprocess.run([*line, f"BIN={Path(sys.executable).parent}"], capture_output=True, text=True)
            assert made.returncode == 0, made.stderr[-3000:]
        return module.Results(work)  # refuses a run whose tokens are not those that `stats` counts

    return run


@pytest.mark.parametrize("seed", SEEDS)
def test_every_mixture_and_budget_is_tuned_and_tested_on_eight_sets(demo: Callable[[int], Any], seed: int) -> None:
    results = demo(seed)
    assert results.mixtures == ["pretrained", *MIXTURES] and results.budgets == BUDGETS
    for rows in results.of_run.values():
        assert [rows[task]["n"] for task in results.tasks] == [100] * 8
    for name in (*MIXTURES, *BUDGETS):
        share = float(name.removeprefix("budget-")) / 100
        assert results.counted[name]["rows"] == (4800 if name in MIXTURES else 4800 * share)
        assert results.tuned[name]["tokens"]["image"] == (36 * 4800 * (1 - share) if name in MIXTURES else 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_pretrained_model_has_learned_none_of_the_questions(demo: Callable[[int], Any], seed: int) -> None:
    assert demo(seed).value("pretrained", "overall") < 2


@pytest.mark.parametrize("seed", SEEDS)
def test_language_alone_moves_neither_encoder_nor_projector_and_images_move_the_projector(
    demo: Callable[[int], Any], seed: int
) -> None:
    told = {line.split()[0]: line.split()[1:3] for line in demo(seed).moved()[2:]}
    assert told == {
        name: ["same", "same" if name in ("100", *BUDGETS) else "changed"] for name in (*MIXTURES, *BUDGETS)
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_less_language_is_more_tokens_and_each_modality_is_learned_where_it_is_taught(
    demo: Callable[[int], Any], seed: int
) -> None:
    results = demo(seed)
    tokens = [results.counted[name]["tokens"] for name in MIXTURES]
    assert tokens == sorted(tokens, reverse=True) and len(set(tokens)) == len(tokens)
    # Far beyond what 800 questions leave to chance: half an interval is some 2 points.
    assert results.value("87.5", "overall") > results.value("0", "overall") + 10
    assert results.value("100", "language") > results.value("0", "language") + 10
    assert results.value("0", "vision") > results.value("pretrained", "vision") + 10


def test_what_came_out_over_seeds_is_recorded(demo: Callable[[int], Any]) -> None:
    here = [demo(seed).here for seed in SEEDS]
    report = subprocess.run([sys.executable, EXAMPLE / "report.py", *here], capture_output=True, text=True)
    assert report.returncode == 0, report.stderr
    assert report.stdout.startswith("3 seeds (0, 1, 2)")
    sys.stdout.write(report.stdout)
