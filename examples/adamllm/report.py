"""Print what the recipe has measured, from the files that it left in the working directory."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

STAGES = ("base", "synthesizer", "tuned")


def rows(name: str) -> list[dict[str, Any]]:
    """The records of a file, none where it is missing."""
    path = Path(name)
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Scores, filter, training: three short tables."""
    scores()
    print()
    kept()
    print()
    training()


def scores() -> None:
    """Before and after on the held-out questions, with 95 % intervals."""
    before, after = ({row["task"]: row for row in rows(f"{name}.jsonl")} for name in ("before", "after"))
    print(f"{'held-out digits, exact match (%)':34}{'n':>5}   {'before':22}{'after':22}")
    for task, row in after.items():
        print(f"{task:34}{row['n']:5}   {interval(before[task]):22}{interval(row):22}")


def interval(row: dict[str, Any]) -> str:
    """A value with its 95 % interval, in percent."""
    scale = 1 if row["unit"] == "%" else 100
    low, high = (scale * bound for bound in row["ci95"])
    return f"{scale * row['value']:.1f} [{low:.1f}, {high:.1f}]"


def kept() -> None:
    """What the filter kept of each kind of question, and how many of the answers are right."""
    tasks, dropped = rows("tasks.jsonl"), [row["record"] for row in rows("inconsistent.jsonl")]
    truth = {row["id"]: row["answers"] for row in rows("truth.jsonl")}
    made, good = Counter(task["question"] for task in tasks), Counter[str]()
    wrong = Counter(row["question"] for row in dropped)
    for task in tasks:
        answers = truth.get(task["lineage"][-1]["parents"][0], {})
        good[task["question"]] += answers.get(task["question"]) == task["answer"]
    print(f"{'synthetic tasks':34}{'made':>6}{'kept':>6}{'share':>8}{'right':>8}")
    for question in sorted(made | wrong, key=lambda name: -made[name]):
        line(question, made[question] + wrong[question], made[question], good[question] if truth else None)
    line("all", len(tasks) + len(dropped), len(tasks), good.total() if truth else None)


def line(name: str, num_made: int, num_kept: int, num_right: int | None) -> None:
    """One row of the tasks' table; `right` is a share of the kept ones, where the truth is known."""
    right = "-" if num_right is None else share(num_right, num_kept)
    print(f"{name:34}{num_made:6}{num_kept:6}{share(num_kept, num_made):>8}{right:>8}")


def share(part: int, whole: int) -> str:
    """In percent, or a dash where there is nothing to be a part of."""
    return f"{part / whole:.1%}" if whole else "-"


def training() -> None:
    """Steps, tokens and seconds of the three trainings."""
    print(f"{'training':34}{'steps':>6}{'tokens a step':>15}{'s a step':>10}{'loss':>8}")
    for stage in STAGES:
        path = Path(stage, "run.json")
        if not path.exists():
            continue
        run = json.loads(path.read_text(encoding="utf-8"))
        tokens = (run["tokens"]["text"] + run["tokens"]["image"]) / run["steps"]
        print(f"{stage:34}{run['steps']:6}{tokens:15,.0f}{run['seconds_per_step']:10.3f}{run['loss']['final']:8.3f}")


if __name__ == "__main__":
    main()
