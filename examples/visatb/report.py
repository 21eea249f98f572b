"""Print what the recipe has measured, shaped like the paper's Tables 3 and 5, and draw its Figure 3.

python report.py [DIRECTORY]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures import bars, heat_map

LABELS = {
    "stl": "STL",
    "ew": "EW",
    "tla": "TLA",
    "rlw": "RLW",
    "dwa": "DWA",
    "igb": "IGBv1",
    "visatb": "VisATB",
    "visatb-matched": "VisATB, matched D",
}
"""The methods in the order of the table, the baseline first."""


def main() -> None:
    """The tables and the figures of one working directory."""
    results = Results(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    print("\n\n".join("\n".join(part) for part in results.tables()))
    for name, drawn in results.figures().items():
        (results.here / f"{name}.svg").write_text(drawn, encoding="utf-8")


class Results:
    """What the recipe has left in a working directory."""

    def __init__(self, here: Path) -> None:
        self.here = here
        self.scores = {name: _by_task(here / f"scores-{name}.jsonl") for name in LABELS if self._has("scores", name)}
        rows = _rows(here / "comparison.jsonl")
        self.summaries = {row["method"]: row for row in rows if row["kind"] == "summary"}
        self.weighed = [name for name in LABELS if self._has("weights", name)]
        self.tasks = list(self.scores["stl"])

    def _has(self, kind: str, method: str) -> bool:
        return (self.here / f"{kind}-{method}.jsonl").exists()

    def tables(self) -> list[list[str]]:
        """Contributions and weights of each weighed method, Table 3, and what the trainings took."""
        weighed = [table for name in self.weighed for table in (self.contributions(name), self.weights(name))]
        return [*weighed, self.comparison(), self.trainings()]

    def contributions(self, method: str) -> list[str]:
        """C of each task (a line) to each (a column), and its C_out, C_in and D. Source: eqs. 3 to 6."""
        pairs, measures = self._measured(method)
        lines = [f"{LABELS[method]}: contribution of a line's task to a column's", line("", [*measures, *_MEASURES])]
        for giving, measure in measures.items():
            cells = [_number(pairs.get((giving, receiving))) for receiving in measures]
            lines.append(line(giving, [*cells, *(_number(measure[name]) for name in _MEASURES)]))
        return lines

    def weights(self, method: str) -> list[str]:
        """Table 5: the three parts and the final weight, a column each task. Source: eqs. 4, 5, 7, 8."""
        rows = _by_task(self.here / f"weights-{method}.jsonl")
        lines = [f"{LABELS[method]}: weights (Table 5)", line("", list(rows))]
        for name, field in {"λ_out": "out", "λ_in": "in", "λ_D": "difficulty", "λ": "weight"}.items():
            lines.append(line(name, [f"{row[field]:.4f}" for row in rows.values()]))
        return lines

    def comparison(self) -> list[str]:
        """Table 3: a line each method, a column each task, ΔI% and ΔE%; * is the best of a column."""
        metrics = [f"{row['metric']} {row['unit'] or ''}".rstrip() + " " for row in self.scores["stl"].values()]
        best = {task: self._best(task) for task in self.tasks}
        lines = [
            "Scores by task (Table 3); ΔI% and ΔE% are against STL, a model a task; * is the best of its column",
            line("", [*self.tasks, "ΔI%", "ΔE%"]),
            line("", metrics),
        ]
        for name, scores in self.scores.items():
            found = [scores.get(task) for task in self.tasks]
            cells = [_score(row) + (" " if row is None or row["value"] != best[row["task"]] else "*") for row in found]
            lines.append(line(LABELS[name], [*cells, *(_number(value) for value in self._averages(name))]))
        return lines

    def trainings(self) -> list[str]:
        """Rows, steps, tokens and seconds of each training."""
        lines = ["Trainings", line("", ["rows", "steps", "tokens", "s"])]
        for path in sorted(self.here.glob("tuned/*/run.json")):
            run = json.loads(path.read_text(encoding="utf-8"))
            counts = (run["rows"], run["steps"], sum(run["tokens"][kind] for kind in ("text", "image")))
            lines.append(line(path.parent.name, [*(f"{count:,}" for count in counts), f"{run['seconds']:.0f}"]))
        return lines

    def figures(self) -> dict[str, str]:
        """Figure 3. Contributions are drawn once: they do not depend on how difficulty is measured."""
        drawn: dict[str, str] = {}
        for method in self.weighed:
            pairs, measures = self._measured(method)
            if not drawn:
                drawn["contribution"] = heat_map("Contribution of a line's task to a column's", list(measures), pairs)
            difficulties = {task: measure["D"] for task, measure in measures.items()}
            drawn[f"difficulty-{method}"] = bars(f"Difficulty, {LABELS[method]}", difficulties)
        return drawn

    def _measured(self, method: str) -> tuple[dict[tuple[str, str], float], dict[str, dict[str, Any]]]:
        """C by (giving, receiving) task, and the row of each task."""
        rows = _rows(self.here / f"contribution-{method}.jsonl")
        pairs = {(row["from"], row["to"]): row["C"] for row in rows if "C" in row}
        return pairs, {row["task"]: row for row in rows if "D" in row}

    def _best(self, task: str) -> float:
        rows = [scores[task] for scores in self.scores.values() if task in scores]
        return (max if rows[0]["higher_is_better"] else min)(row["value"] for row in rows)

    def _averages(self, method: str) -> list[float | None]:
        """ΔI% and ΔE%; none for the baseline."""
        if method == "stl":
            return [None, None]
        summary = self.summaries[method]
        return [summary["delta_i_percent"], summary["delta_e_percent"]]


_MEASURES = ("C_out", "C_in", "D")


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def _by_task(path: Path) -> dict[str, dict[str, Any]]:
    return {row["task"]: row for row in _rows(path)}


def _score(row: dict[str, Any] | None) -> str:
    """As many decimals as the paper prints: two of a percentage, four of a CIDEr."""
    return "-" if row is None else f"{row['value']:.{2 if row['unit'] == '%' else 4}f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def line(name: str, cells: Sequence[str], width: int = 12) -> str:
    """A line of a table."""
    return f"{name:22}" + "".join(f"{cell:>{width}}" for cell in cells)


if __name__ == "__main__":
    main()
