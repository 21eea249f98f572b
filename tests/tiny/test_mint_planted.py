"""MINT finds what was planted: six tasks, two of each interaction, scored and grouped by the commands that users run.

Each seed is `make planted` in a copy of examples/mint, some 170 CPU-seconds on one thread: a tiny model learns the
tasks with modality dropout, `score-interaction` asks it, `group` makes the groups.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from mmkit.balance.grouping import KINDS
from mmkit.balance.instructions import by_similarity
from mmkit.tasks import embedding
from mmkit.testing.planted import interaction

pytestmark = [pytest.mark.tiny, pytest.mark.timeout(3600)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "mint"
SEEDS = (0, *(pytest.param(seed, marks=pytest.mark.science) for seed in (1, 2)))


@dataclass(frozen=True, slots=True)
class Found:
    """What a run has left: interaction rows by task, and the kind that was planted in each task."""

    directory: Path

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["task"]: row for row in _read(self.directory / "interaction.jsonl")}

    @property
    def planted(self) -> dict[str, str]:
        scored = (self.directory / "scored" / f"{task}.jsonl" for task in interaction.TASKS)
        return {row["task"]: row["truth"]["kind"] for path in scored for row in _read(path)[:1]}

    def groups(self, name: str) -> dict[str, str]:
        return {row["task"]: row["group"] for row in _read(self.directory / f"groups-{name}.jsonl")}

    def by_kind(self, score: str) -> list[list[float]]:
        """The scores of the tasks of each kind: synergy, uniqueness, redundancy."""
        return [[self.rows[task][score] for task, own in self.planted.items() if own == kind] for kind in KINDS]


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Found]:
    """What comes out with a seed, run when first asked for."""
    copy = tmp_path_factory.mktemp("planted") / "mint"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("work"))
    done: dict[int, Found] = {}

    def run(seed: int) -> Found:
        if seed not in done:
            line = ["make", "-C", str(copy), "planted", f"SEED={seed}", f"BIN={Path(sys.executable).parent}"]
            make = subprocess.run(line, capture_output=True, text=True)
            assert make.returncode == 0, make.stderr[-3000:]
            done[seed] = Found(copy / "work" / f"tiny-{seed}")
        return done[seed]

    return run


@pytest.mark.parametrize("seed", SEEDS)
def test_the_model_has_learned_every_task_or_the_rest_would_say_nothing(
    found: Callable[[int], Found], seed: int
) -> None:
    rows = found(seed).rows
    assert set(rows) == set(interaction.TASKS)
    for task, row in rows.items():
        assert row["accuracy"] >= 0.9, task
        assert row["n"] == 144 and row["marks"] == [], task


@pytest.mark.parametrize("seed", SEEDS)
def test_corrected_scores_order_the_tasks_with_wide_gaps(found: Callable[[int], Found], seed: int) -> None:
    synergy, uniqueness, redundancy = found(seed).by_kind("corrected")
    assert len(synergy) == len(uniqueness) == len(redundancy) == 2
    assert min(redundancy) - max(uniqueness) > 0.5
    assert min(uniqueness) - max(synergy) > 0.5
    assert max(map(abs, synergy)) < 0.3


@pytest.mark.parametrize("seed", SEEDS)
def test_corrected_groups_are_the_planted_ones_and_sure(found: Callable[[int], Found], seed: int) -> None:
    assert found(seed).groups("mint") == found(seed).planted
    rows = _read(found(seed).directory / "groups-mint.jsonl")
    assert not any(row["unsure"] for row in rows)


@pytest.mark.parametrize("seed", SEEDS)
def test_raw_scores_order_the_kinds_but_read_synergy_of_yes_and_no_as_uniqueness(
    found: Callable[[int], Found], seed: int
) -> None:
    synergy, uniqueness, redundancy = map(fmean, found(seed).by_kind("score"))
    assert redundancy > uniqueness > synergy
    assert found(seed).groups("raw")["synergy-xor"] == "uniqueness"


@pytest.mark.parametrize("seed", SEEDS)
def test_the_modality_that_tells_is_the_one_that_agrees(found: Callable[[int], Found], seed: int) -> None:
    rows = found(seed).rows
    for told, task in (("text", "unique-text"), ("image", "unique-image")):
        other = "image" if told == "text" else "text"
        assert rows[task][f"corrected_{told}"] > 0.9 > 0.3 > abs(rows[task][f"corrected_{other}"])


@pytest.mark.usefixtures("minilm")
def test_the_clusters_of_the_baseline_are_those_of_the_real_encoder() -> None:
    asked = {task: [next(interaction.scenes(task, 1))[1]["question"]] for task in interaction.TASKS}
    found = {row.task: row.group for row in by_similarity(asked, embedding.embed)}
    assert found == {row["task"]: row["group"] for row in _read(EXAMPLE / "similar.jsonl")}
