"""What the recipe has left in a working directory, shaped like the paper's Tables 3 and 5 and its Figure 3."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from figures import bars, heat_map

from mmkit.console import escape

BASELINE, EQUAL = "stl", "ew"
LABELS = {
    BASELINE: "STL",
    EQUAL: "EW",
    "tla": "TLA",
    "rlw": "RLW",
    "dwa": "DWA",
    "igb": "IGBv1",
    "visatb": "VisATB",
    "visatb-matched": "VisATB, matched D",
}
"""The methods in the order of the table, the baseline first."""
_MEASURES = ("C_out", "C_in", "D")
_FIELDS = {"ΔI%": "delta_i_percent", "ΔE%": "delta_e_percent"}
"""Averages, and where a summary of `compare` has them."""
_LONGEST = 40
"""Characters of a name that a table shows."""


class Results:
    """The runs of a working directory. Averages are ΔI and ΔE in percent, scores in the units of their metrics.

    Raises SystemExit where the recipe has not come to its end.
    """

    def __init__(self, here: Path) -> None:
        if not (here / "comparison.jsonl").exists():
            raise SystemExit(f"{here}: not finished, there is no comparison.jsonl")
        self.here = here
        self.scores = {name: _by_task(here / f"scores-{name}.jsonl") for name in LABELS if self._has("scores", name)}
        rows = _rows(here / "comparison.jsonl")
        self.summaries = {row["method"]: row for row in rows if row["kind"] == "summary"}
        self.weighed = [name for name in LABELS if self._has("weights", name)]
        self.tasks = list(self.scores[BASELINE])

    def _has(self, kind: str, method: str) -> bool:
        return (self.here / f"{kind}-{method}.jsonl").exists()

    @property
    def seed(self) -> int:
        """The recipe's seed."""
        return int(tomllib.loads((self.here / "mmkit.toml").read_text(encoding="utf-8"))["seed"])

    @property
    def planted(self) -> dict[str, str]:
        """What each of the miniature's tasks is known to be; of other sets nothing is known."""
        firsts = [next(iter(_rows(path)), {}) for path in self.here.glob("test/*.jsonl")]
        return {row["task"]: row["truth"]["kind"] for row in firsts if isinstance(row.get("truth"), dict)}

    def tables(self) -> list[list[str]]:
        """Contributions and weights of each weighed method, Table 3, and what the trainings took."""
        weighed = [table for name in self.weighed for table in (self.contributions(name), self.weights(name))]
        return [*weighed, self.comparison(), self.trainings()]

    def contributions(self, method: str) -> list[str]:
        """C of each task (a line) to each (a column), and its C_out, C_in and D. Source: eqs. 3 to 6."""
        pairs, measures = self._measured(method)
        lines = [["", *measures, *_MEASURES]]
        for giving, measure in measures.items():
            cells = [number(pairs.get((giving, receiving))) for receiving in measures]
            lines.append([giving, *cells, *(number(measure[name]) for name in _MEASURES)])
        return [*table(f"{LABELS[method]}: contribution of a line's task to a column's", lines), *self.flat(method)]

    def weights(self, method: str) -> list[str]:
        """Table 5: the three parts and the final weight, a column each task. Source: eqs. 4, 5, 7, 8."""
        rows = _by_task(self.here / f"weights-{method}.jsonl")
        parts = {"λ_out": "out", "λ_in": "in", "λ_D": "difficulty", "λ": "weight"}
        lines = [[name, *(f"{row[field]:.4f}" for row in rows.values())] for name, field in parts.items()]
        return table(f"{LABELS[method]}: weights (Table 5)", [["", *rows], *lines])

    def comparison(self) -> list[str]:
        """Table 3: a line each method, a column each task, ΔI% and ΔE%; * is the best of a column."""
        metrics = [f"{row['metric']} {row['unit'] or ''}".rstrip() + " " for row in self.scores[BASELINE].values()]
        lines = [["", *(f"{task} " for task in self.tasks), *_FIELDS], ["", *metrics, *[""] * len(_FIELDS)]]
        best = {task: self._best(task) for task in self.tasks}
        for name, scores in self.scores.items():
            found = [scores.get(task) for task in self.tasks]
            cells = [score(row) + (" " if row is None or row["value"] != best[row["task"]] else "*") for row in found]
            lines.append([LABELS[name], *cells, *(number(self.average(name, kind)) for kind in _FIELDS)])
        title = "Scores by task (Table 3); ΔI% and ΔE% are against STL, a model a task; * is the best of its column"
        return [*table(title, lines), *self.left_out()]

    def left_out(self) -> list[str]:
        """A line for each set of tasks that do not count in ΔI% and ΔE%, with the methods of which this is so."""
        methods: dict[str, list[str]] = {}
        for name in self.summaries:
            if name != BASELINE and (tasks := self.uncounted(name)):
                methods.setdefault(", ".join(tasks), []).append(LABELS[name])
        return [escape(f"Not in ΔI% and ΔE% of {', '.join(names)}: {tasks}") for tasks, names in methods.items()]

    def uncounted(self, method: str) -> list[str]:
        """Tasks that do not count in a method's averages, and why."""
        return [f"{one['task']} ({one['reason']})" for one in self.summaries[method]["left_out"]]

    def trainings(self) -> list[str]:
        """Rows, steps, tokens and seconds of each training."""
        lines = [["", "rows", "steps", "tokens", "s"]]
        for path in sorted(self.here.glob("tuned/*/run.json")):
            run = json.loads(path.read_text(encoding="utf-8"))
            counts = (run["rows"], run["steps"], sum(run["tokens"][kind] for kind in ("text", "image")))
            lines.append([path.parent.name, *(f"{count:,}" for count in counts), f"{run['seconds']:.0f}"])
        return table("Trainings", lines)

    def draw(self) -> None:
        """Figure 3. Contributions are drawn once: they do not depend on how difficulty is measured."""
        for method in self.weighed:
            pairs, measures = self._measured(method)
            if method == self.weighed[0]:
                self._write("contribution", heat_map("Contribution of a line's task to a column's", [*measures], pairs))
            difficulties = {task: measure["D"] for task, measure in measures.items()}
            self._write(f"difficulty-{method}", bars(f"Difficulty, {LABELS[method]}", difficulties))

    def _write(self, name: str, drawn: str) -> None:
        (self.here / f"{name}.svg").write_text(drawn, encoding="utf-8")

    def average(self, method: str, kind: str) -> float | None:
        """ΔI% or ΔE% of a method; None of the baseline, and where no task could count."""
        value: float | None = None if method == BASELINE else self.summaries[method][_FIELDS[kind]]
        return value

    def value(self, method: str, task: str) -> float | None:
        """A method's score; None where it was not asked."""
        row = self.scores[method].get(task)
        return None if row is None else float(row["value"])

    def measures(self, method: str) -> dict[str, dict[str, Any]]:
        """C_out, C_in and D by task."""
        return self._measured(method)[1]

    def flat(self, method: str) -> list[str]:
        """A line with the tasks whose C or D would divide by nothing, or by noise: what stands is by `--on-flat`."""
        tasks = dict.fromkeys(task for row in self.measures(method).values() for task in row.get("flat", ()))
        return [escape(f"flat, so read with care: {', '.join(tasks)}")] if tasks else []

    def _measured(self, method: str) -> tuple[dict[tuple[str, str], float], dict[str, dict[str, Any]]]:
        """C by (giving, receiving) task, and the row of each task."""
        rows = _rows(self.here / f"contribution-{method}.jsonl")
        pairs = {(row["from"], row["to"]): row["C"] for row in rows if "C" in row}
        return pairs, {row["task"]: row for row in rows if "D" in row}

    def _best(self, task: str) -> float:
        rows = [scores[task] for scores in self.scores.values() if task in scores]
        return (max if rows[0]["higher_is_better"] else min)(row["value"] for row in rows)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def _by_task(path: Path) -> dict[str, dict[str, Any]]:
    return {row["task"]: row for row in _rows(path)}


def score(row: dict[str, Any] | None) -> str:
    """As many decimals as the paper prints: two of a percentage, four of a CIDEr."""
    return "-" if row is None else f"{row['value']:.{2 if row['unit'] == '%' else 4}f}"


def number(value: float | None, sign: str = "") -> str:
    """Two decimals; "+" as `sign` shows it of numbers above 0, too."""
    return "-" if value is None else f"{value:{sign}z.2f}"


def table(title: str, lines: Iterable[Sequence[str]]) -> list[str]:
    """The title, and lines whose cells stand below each other, the first to the left. Names are made visible."""
    cells = [[escape(cell, _LONGEST) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [title, *(_line(line, widths) for line in cells)]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip()
