"""Print what the recipe has measured, shaped like the paper's Tables 1 and 2, and draw its Figure 4 as radar.svg.

python report.py [DIRECTORY]
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from radar import Method, radar

OURS = "mint"
STYLES = {
    "base": Method("no tuning", "#e8902c", "6 4"),
    "single": Method("single task", "#555555", "8 3"),
    OURS: Method("MINT", "#1f4e9c", ""),
    "all": Method("all tasks", "#2f9e44", "6 4"),
    "mixlora": Method("MixLoRA", "#d62728", "6 4"),
    "similar-1": Method("similar 1", "#e377c2", "2 3"),
    "similar-2": Method("similar 2", "#17becf", "2 3"),
    "similar-3": Method("similar 3", "#9467bd", "2 3"),
}
"""The methods in the order of the table, with their line in the figure: colour and dashes."""
GROUPS = ("redundancy", "synergy", "uniqueness")
"""As the paper orders them; other groups follow by name."""


def main() -> None:
    """The tables and the figure of one working directory."""
    results = Results(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    print("\n\n".join("\n".join(part) for part in results.tables()))
    drawn = radar("Score by test set; the rim is the best of each set", results.sets, results.figure())
    (results.here / "radar.svg").write_text(drawn, encoding="utf-8")


class Results:
    """What the recipe has left in a working directory. Scores are in percent."""

    def __init__(self, here: Path) -> None:
        self.here = here
        self.interactions = _rows(here / "interaction.jsonl")
        self.group = _groups(here / "routes.jsonl")
        found = {name: here / f"scores-{name}.jsonl" for name in STYLES}
        self.scores = {name: {row["task"]: row for row in _rows(path)} for name, path in found.items() if path.exists()}
        # A benchmark's overall score has no group: its tasks have.
        tasks = self.scores[OURS].keys() & self.group.keys()
        self.sets = sorted(tasks, key=lambda task: (_place(self.group[task]), task))

    def tables(self) -> list[list[str]]:
        """Table 1 with the scores behind it, Table 2, and what the tunings took."""
        return [self.interaction(), self.comparison(), self.trainings()]

    def interaction(self) -> list[str]:
        """Table 1: each task's score, as in the paper and without the agreement due to chance, and its groups."""
        raw, similar = _groups(self.here / "groups-raw.jsonl"), {}
        if (self.here / "groups-similar.jsonl").exists():  # not where the recipe runs without clusters
            similar = _groups(self.here / "groups-similar.jsonl")
        planted = {row["task"]: row["truth"]["kind"] for row in _rows(self.here / "test.jsonl") if "truth" in row}
        lines = [
            "Interaction of the training sets (Table 1): eq. 1 with its two parts, and without what is due to chance",
            line("", ["both right", "eq. 1", "text", "image", "group", "corrected", "text", "image", "group"])
            + f"  {'alike':10}{'planted' if planted else ''}".rstrip(),
        ]
        for row in sorted(self.interactions, key=lambda row: (-row["score"], row["task"])):
            task = row["task"]
            cells = [_number(row["accuracy"])]
            cells += [*map(_number, (row["score"], row["score_text"], row["score_image"])), raw.get(task, "-")]
            cells += map(_number, (row["corrected"], row["corrected_text"], row["corrected_image"]))
            lines.append(
                line(task, [*cells, self.group.get(task, "-")])
                + f"  {similar.get(task, '-'):10}{planted.get(task, '')}".rstrip()
            )
        return lines

    def comparison(self) -> list[str]:
        """Table 2: a line each test set, a column each method; averages over each group's sets, and over all."""
        names = list(self.scores)
        lines = [
            "Scores by test set (Table 2), in percent; * is the best of its line",
            line("", [STYLES[name].label for name in names]),
        ]
        for task in self.sets:
            lines.append(line(task, _starred([self.value(name, task) for name in names])))
        for group in [*sorted({self.group[task] for task in self.sets}, key=_place), None]:
            averages = [self.average(name, group) for name in names]
            lines.append(line(f"{group or 'all'}, average", _starred([average and average[0] for average in averages])))
            lines.append(line("± (95 %)", [_percent(average and average[1]) for average in averages]))
        return lines

    def value(self, method: str, task: str) -> float | None:
        """A method's score on a test set; None where it was not asked, as single tasks of unseen ones."""
        row = self.scores[method].get(task)
        return None if row is None else _scaled(row, row["value"])

    def average(self, method: str, group: str | None) -> tuple[float, float] | None:
        """The mean over a group's sets (None: over all) and half its 95 % interval, the sets' errors taken as
        independent; None where the method lacks one of them."""
        tasks = [task for task in self.sets if group in (None, self.group[task])]
        rows = [self.scores[method].get(task) for task in tasks]
        if None in rows:
            return None
        halves = [_scaled(row, row["ci95"][1] - row["ci95"][0]) / 2 for row in rows]
        return fmean(_scaled(row, row["value"]) for row in rows), math.hypot(*halves) / len(rows)

    def figure(self) -> dict[Method, list[float]]:
        """Figure 4: of each method asked on all sets, its score on each as a share of the best."""
        best = {task: max(self.value(name, task) or 0 for name in self.scores) or 1 for task in self.sets}
        return {
            STYLES[name]: [(self.value(name, task) or 0) / best[task] for task in self.sets]
            for name, rows in self.scores.items()
            if rows.keys() >= set(self.sets)
        }

    def trainings(self) -> list[str]:
        """Rows, steps, tokens, trained parameters and seconds of each tuning."""
        lines = ["Tunings", line("", ["rows", "steps", "tokens", "parameters", "s"])]
        for path in sorted(self.here.glob("tuned/*/run.json")):
            run = json.loads(path.read_text(encoding="utf-8"))
            counts = (run["rows"], run["steps"], sum(run["tokens"][kind] for kind in ("text", "image")))
            cells = [*counts, run["trained_parameters"]]
            lines.append(line(path.parent.name, [*(f"{cell:,}" for cell in cells), f"{run['seconds']:.0f}"]))
        return lines


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def _groups(path: Path) -> dict[str, str]:
    return {row["task"]: row["group"] for row in _rows(path)}


def _place(group: str) -> tuple[int, str]:
    return (GROUPS.index(group) if group in GROUPS else len(GROUPS)), group


def _scaled(row: dict[str, Any], value: float) -> float:
    return value * (1 if row["unit"] == "%" else 100)


def _starred(values: Sequence[float | None]) -> list[str]:
    best = max((value for value in values if value is not None), default=None)
    return [_percent(value) + ("*" if value is not None and value == best else " ") for value in values]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def line(name: str, cells: Sequence[str], width: int = 12) -> str:
    """A line of a table."""
    return f"{name:22}" + "".join(f"{cell:>{width}}" for cell in cells)


if __name__ == "__main__":
    main()
