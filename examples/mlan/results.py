"""What the recipe has left in a working directory, shaped like the paper's tables and figures."""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from mmkit.models.parts import part_of

LANGUAGE, VISION, BIMODAL, OVERALL = "language", "vision", "bimodal", "overall"
PRETRAINED, VISION_ALONE, ALONE = "pretrained", "0", "100"


class Results:
    """The runs of a working directory. A run's name is its percent of language, or budget- and its percent of that.

    Raises SystemExit where a run was trained on another number of tokens than `stats` counts.
    """

    def __init__(self, here: Path) -> None:
        self.here = here
        self.seed = int(tomllib.loads((here / "mmkit.toml").read_text(encoding="utf-8"))["seed"])
        self.modality = _modalities(_rows(here / "test.jsonl"))
        self.tasks = sorted(self.modality, key=lambda task: (self.modality[task], task))
        self.parts = [part for part in (LANGUAGE, VISION, OVERALL) if part in {*self.modality.values(), OVERALL}]
        self.counted = {
            row["set"].removeprefix("train-"): row for row in _rows(here / "tokens.jsonl") if _is_total(row)
        }
        scored = {path.stem.removeprefix("scores-"): path for path in here.glob("scores-*.jsonl")}
        tuned = sorted(scored.keys() & self.counted.keys(), key=_number)
        self.tuned = {name: _run(here / f"tuned-{name}") for name in tuned}
        for name, run in self.tuned.items():
            if (trained := run["tokens"]["text"] + run["tokens"]["image"]) != self.counted[name]["tokens"]:
                counted = self.counted[name]["tokens"]
                raise SystemExit(f"{here}/tuned-{name}: trained on {trained} tokens, stats counts {counted}")
        self.of_run = {name: {row["task"]: row for row in _rows(scored[name])} for name in (PRETRAINED, *tuned)}
        self.mixtures = [PRETRAINED, *(name for name in tuned if not name.startswith("budget-"))]
        self.budgets = [name for name in tuned if name.startswith("budget-")]

    def tables(self) -> list[list[str]]:
        """Tables 1 and 5, Tables 2 and 6, Figures 6, 7 and (where it was measured) 8, and what moved in a run."""
        alike = [self.similarity()] if (self.here / "diversity.jsonl").exists() else []
        return [self.scores(), self.tokens(), self.by_mixture(), self.by_budget(), *alike, self.moved()]

    def scores(self) -> list[str]:
        """Tables 1 and 5, turned: a line each held-out set and average, a column each mixture."""
        runs = [self.of_run[name] for name in self.mixtures]
        lines = [
            "Scores on held-out sets by percent of language (Tables 1 and 5), in percent",
            line("", [name.removesuffix("trained") for name in self.mixtures]),
        ]
        for task in self.tasks:
            lines.append(line(task, [f"{_percent(rows[task]):.1f}" for rows in runs]))
        for part in self.parts:
            averages = [self.average(name, part) for name in self.mixtures]
            lines.append(line(f"{part}, average", [f"{value:.1f}" for value, _ in averages]))
            lines.append(line("± (95 %)", [f"{half:.1f}" for _, half in averages]))
        counts = [[sum(rows[name][field] for name in self.modality) for field in ("unparsed", "n")] for rows in runs]
        return [*lines, line("no answer found", [f"{100 * unparsed / n:.1f}" for unparsed, n in counts])]

    def average(self, name: str, part: str) -> tuple[float, float]:
        """The mean of the sets' scores and half its 95 % interval, the sets' errors taken as independent."""
        rows = [self.of_run[name][task] for task, own in self.modality.items() if part in (own, OVERALL)]
        return fmean(map(_percent, rows)), math.hypot(*map(_half_interval, rows)) / len(rows)

    def value(self, name: str, what: str) -> float:
        """A run's score on a held-out set, or its average over those of a part."""
        return _percent(self.of_run[name][what]) if what in self.modality else self.average(name, what)[0]

    def tokens(self) -> list[str]:
        """Tables 2 and 6: tokens of the language model, those of images included, as `stats` counts them."""
        lines = [
            "Training tokens, images included (Tables 2 and 6)",
            line("language", ["rows", "tokens", "of images", "more", "s to tune"], 11),
        ]
        for name in sorted(self.counted, key=lambda name: (name.startswith("budget-"), -_number(name))):
            row = self.counted[name]
            seconds = f"{self.tuned[name]['seconds']:.1f}" if name in self.tuned else "-"
            cells = [f"{row['rows']:,}", f"{row['tokens']:,}", f"{row['image_tokens']:,}"]
            lines.append(line(name, [*cells, f"{row['relative_percent']:+.2f}%", seconds], 11))
        return lines

    def by_mixture(self) -> list[str]:
        """Figure 6: average scores over the share of language."""
        return ["Average scores by percent of language (Figure 6)", *self._bars(self.mixtures)]

    def by_budget(self) -> list[str]:
        """Figure 7: average scores over the share of the budget, all of it language."""
        names = [PRETRAINED, *self.budgets, *({ALONE} & self.of_run.keys())]
        return ["Average scores by percent of the budget, language alone (Figure 7)", *self._bars(names)]

    def _bars(self, names: Iterable[str]) -> list[str]:
        lines = []
        for name in names:
            for part in self.parts[:-1]:
                value, half = self.average(name, part)
                label = name.removeprefix("budget-") if part == self.parts[0] else ""
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
            line("language", ["encoder", "projector", "image tokens"], 14),
        ]
        before = digests(self.here / PRETRAINED)
        for name in [*self.mixtures[1:], *self.budgets]:
            after, run = digests(self.here / f"tuned-{name}"), self.tuned[name]
            told = ["same" if after[part] == before[part] else "changed" for part in ("vision", "projector")]
            lines.append(line(name, [*told, f"{run['tokens']['image']:,}"], 14))
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


def line(name: str, cells: Sequence[str], width: int = 7) -> str:
    """A line of a table."""
    return f"{name:28}" + "".join(f"{cell:>{width}}" for cell in cells)


def _number(name: str) -> float:
    return float(name.rpartition("-")[2])
