"""Print what the recipe has measured, shaped like the paper's tables and figures, from the files that it left here.

python report.py [DIRECTORY]
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from mmkit.models.parts import part_of

LANGUAGE, VISION, BIMODAL, OVERALL = "language", "vision", "bimodal", "overall"
PRETRAINED = "pretrained"


def main() -> None:
    """Tables 1 and 5, Tables 2 and 6, Figures 6, 7 and 8, and what moved in a run."""
    results = Results(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    parts = [results.scores(), results.tokens(), results.by_mixture(), results.by_budget(), results.moved()]
    if (results.here / "diversity.jsonl").exists():
        parts.insert(4, results.similarity())
    print("\n\n".join("\n".join(part) for part in parts))


class Results:
    """The runs of a working directory. A run's name is its percent of language, or budget- and its percent of that."""

    def __init__(self, here: Path) -> None:
        self.here = here
        self.modality = _modalities(_rows(here / "test.jsonl"))
        self.of_run = {
            path.stem.removeprefix("scores-"): {row["task"]: row for row in _rows(path)}
            for path in here.glob("scores-*.jsonl")
        }
        tuned = sorted(self.of_run.keys() - {PRETRAINED}, key=_number)
        self.mixtures = [PRETRAINED, *(name for name in tuned if not name.startswith("budget-"))]
        self.budgets = [name for name in tuned if name.startswith("budget-")]

    def scores(self) -> list[str]:
        """Tables 1 and 5, turned: a line each held-out set and average, a column each mixture."""
        runs = [self.of_run[name] for name in self.mixtures]
        lines = [
            "Scores on held-out sets by percent of language (Tables 1 and 5), in percent",
            _line("", [name.removesuffix("trained") for name in self.mixtures]),
        ]
        for task in sorted(self.modality, key=lambda task: (self.modality[task], task)):
            lines.append(_line(task, [f"{_percent(rows[task]):.1f}" for rows in runs]))
        for part in (LANGUAGE, VISION, OVERALL):
            averages = [self.average(name, part) for name in self.mixtures]
            lines.append(_line(f"{part}, average", [f"{value:.1f}" for value, _ in averages]))
            lines.append(_line("± (95 %)", [f"{half:.1f}" for _, half in averages]))
        counts = [[sum(rows[name][field] for name in self.modality) for field in ("unparsed", "n")] for rows in runs]
        return [*lines, _line("no answer found", [f"{100 * unparsed / n:.1f}" for unparsed, n in counts])]

    def average(self, name: str, part: str) -> tuple[float, float]:
        """The mean of the sets' scores and half its 95 % interval, the sets' errors taken as independent."""
        rows = [self.of_run[name][task] for task, own in self.modality.items() if part in (own, OVERALL)]
        return fmean(map(_percent, rows)), math.hypot(*map(_half_interval, rows)) / len(rows)

    def tokens(self) -> list[str]:
        """Tables 2 and 6: tokens of the language model, those of images included, as `stats` counts them.

        Raises SystemExit where a run was trained on another number of them.
        """
        lines = [
            "Training tokens, images included (Tables 2 and 6)",
            _line("language", ["rows", "tokens", "of images", "more", "s to tune"], 11),
        ]
        counted = {
            row["set"].removeprefix("train-"): row for row in _rows(self.here / "tokens.jsonl") if _is_total(row)
        }
        for name in sorted(counted, key=lambda name: (name.startswith("budget-"), -_number(name))):
            row, tuned = counted[name], self.here / f"tuned-{name}"
            seconds = "-"
            if name in self.of_run:
                run = _run(tuned)
                seconds = f"{run['seconds']:.1f}"
                if _num_tokens(run) != row["tokens"]:
                    raise SystemExit(f"{tuned}: trained on {_num_tokens(run)} tokens, stats counts {row['tokens']}")
            cells = [f"{row['rows']:,}", f"{row['tokens']:,}", f"{row['image_tokens']:,}"]
            lines.append(_line(name, [*cells, f"{row['relative_percent']:+.2f}%", seconds], 11))
        return lines

    def by_mixture(self) -> list[str]:
        """Figure 6: average scores over the share of language."""
        return ["Average scores by percent of language (Figure 6)", *self._bars(self.mixtures)]

    def by_budget(self) -> list[str]:
        """Figure 7: average scores over the share of the budget, all of it language."""
        names = [PRETRAINED, *self.budgets, "100"]
        return ["Average scores by percent of the budget, language alone (Figure 7)", *self._bars(names)]

    def _bars(self, names: Iterable[str]) -> list[str]:
        lines = []
        for name in names:
            for part in (LANGUAGE, VISION):
                value, half = self.average(name, part)
                label = name.removeprefix("budget-") if part == LANGUAGE else ""
                lines.append(f"{label:12}{part:9}{'#' * round(value / 2):50} {value:5.1f} ±{half:.1f}")
        return lines

    def similarity(self) -> list[str]:
        """Figure 8: how alike questions are, and whether two means differ."""
        lines = ["Cosine similarity of question pairs (Figure 8)"]
        for row in _rows(self.here / "diversity.jsonl"):
            pair = " × ".join(dict.fromkeys(row["sets"]))
            if "against" in row:
                other = " × ".join(dict.fromkeys(row["against"]))
                lines.append(f"{pair} against {other}: difference {row['difference']:+.4f}, p = {row['p']:.2g}")
            else:
                lines.append(f"{pair:28}{row['mean']:7.4f} ±{1.96 * row['se']:.4f} ({row['pairs']:,} pairs)")
        return lines

    def moved(self) -> list[str]:
        """Whether a run's encoder and projector are, byte for byte, those that it started from."""
        lines = [
            "Encoder and projector against those of the pretrained model, by sha256 of all their bytes",
            _line("language", ["encoder", "projector", "image tokens"], 14),
        ]
        before = digests(self.here / PRETRAINED)
        for name in [*self.mixtures[1:], *self.budgets]:
            after, run = digests(self.here / f"tuned-{name}"), _run(self.here / f"tuned-{name}")
            told = ["same" if after[part] == before[part] else "changed" for part in ("vision", "projector")]
            lines.append(_line(name, [*told, f"{run['tokens']['image']:,}"], 14))
        return lines


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _run(directory: Path) -> dict[str, Any]:
    run: dict[str, Any] = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    return run


def _modalities(records: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Each held-out set's modality: vision where its questions have images, bimodal where some have (ScienceQA).

    A set is a benchmark, whose score over all of its tasks `eval` gives under its name, or else a task.
    """
    with_images: dict[str, set[bool]] = {}
    for record in records:
        with_images.setdefault(record.get("benchmark") or record["task"], set()).add(bool(record.get("images")))
    return {
        name: BIMODAL if len(has) > 1 else VISION if has == {True} else LANGUAGE for name, has in with_images.items()
    }


def _percent(row: dict[str, Any]) -> float:
    return float(row["value"]) * (1 if row["unit"] == "%" else 100)


def _half_interval(row: dict[str, Any]) -> float:
    """Half of a score's 95 % interval, in percent."""
    low, high = row["ci95"]
    return float(high - low) / 2 * (1 if row["unit"] == "%" else 100)


def _is_total(row: dict[str, Any]) -> bool:
    """Whether a row of `stats` is about all of a set."""
    return row["task"] is None and row["domain"] is None and row["modality"] is None


def _num_tokens(run: dict[str, Any]) -> int:
    return int(run["tokens"]["text"] + run["tokens"]["image"])


def digests(model: Path) -> dict[str, str]:
    """A sha256 for each part of a model: of the names, types and bytes of its tensors, in order of names."""
    family = json.loads((model / "config.json").read_bytes())["model_type"]
    tensors = sorted(tensor for path in model.glob("*.safetensors") for tensor in _tensors(path))
    hashes = {part: hashlib.sha256() for part in ("llm", "projector", "vision")}
    for name, dtype, path, start, end in tensors:
        with path.open("rb") as file:
            file.seek(start)
            hashes[part_of(name, family)].update(f"{name} {dtype} ".encode() + file.read(end - start))
    return {part: digest.hexdigest() for part, digest in hashes.items()}


def _tensors(path: Path) -> list[tuple[str, str, Path, int, int]]:
    """Where each tensor of a safetensors file lies: its header has the length in eight bytes, then JSON."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    places = {name: entry["data_offsets"] for name, entry in header.items()}
    return [(name, header[name]["dtype"], path, 8 + size + a, 8 + size + b) for name, (a, b) in places.items()]


def _line(name: str, cells: Sequence[str], width: int = 7) -> str:
    return f"{name:28}" + "".join(f"{cell:>{width}}" for cell in cells)


def _number(name: str) -> float:
    return float(name.rpartition("-")[2])


if __name__ == "__main__":
    main()
