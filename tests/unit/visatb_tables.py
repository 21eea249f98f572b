"""The result tables of VisATB as printed: scores by method, and the ΔI%, ΔE% or ΔI_zero% that the paper has from them.

Table 8 has the averages of Tables 13 and 14, Table 6 those of Tables 11 and 12.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PrintedTable:
    """`scores` by method, one a task; `averages` by method, in the order of `kinds`. The first is the baseline."""

    tasks: Sequence[tuple[str, str]]
    kinds: Sequence[str]
    scores: Mapping[str, Sequence[float]]
    averages: Mapping[str, Sequence[float]]

    def rows(self, method: str) -> list[dict[str, Any]]:
        """A method's scores as score rows."""
        return [
            {"task": task, "metric": metric, "value": value}
            for (task, metric), value in zip(self.tasks, self.scores[method], strict=True)
        ]


def _table(tasks: str, kinds: str, lines: str) -> PrintedTable:
    """From lines "method: scores | averages"; a task is NAME/METRIC."""
    pairs = [(task.partition("/")[0], task.partition("/")[2]) for task in tasks.split()]
    scores: dict[str, list[float]] = {}
    averages: dict[str, list[float]] = {}
    for line in lines.strip().splitlines():
        method, _, figures = line.strip().partition(": ")
        cells, _, printed = figures.partition("|")
        scores[method] = [float(cell) for cell in cells.split()]
        averages[method] = [float(cell) for cell in printed.split()]
    return PrintedTable(pairs, kinds.split(), scores, averages)


_FINE_TUNED = "ShareGPT4V/cider Ref-caption/cider VQAv2/em GQA/em ChartQA/em OCRVQA/em Ref-bbox/iou50"
_ZERO_SHOT = "TextVQA/score POPE/score MME/score SQA/score MMBench/score SEED/score MM-Vet/score"
_BOTH = "delta_i delta_e"

TABLE_1 = _table(
    "COCO/cider TCap/cider PCap/cider GOI/em Text/em INet/em ITM/em SVE/em Moch/em Shap/em OCR/em GQA/em "
    "SQA/em CLE/em NL/em VisD/em M30k/gleu",
    _BOTH,
    """
    STL: 1.024 0.751 0.179 90.7 100 98.0 98.9 81.2 84.6 63.7 56.5 48.2 73.4 57.4 72.4 42.8 0.358
    EW: 1.022 0.747 0.250 91.2 100 98.0 99.3 81.8 85.6 66.0 54.9 52.4 79.6 59.9 71.1 42.5 0.351 | 3.51 0.49
    TLA: 1.001 0.739 0.219 92.1 100 97.7 99.2 81.6 85.6 65.3 55.5 49.5 76.5 60.4 69.0 42.2 0.342 | 1.43 0.97
    RLW: 1.016 0.748 0.245 90.8 100 97.4 99.2 81.8 79.8 64.5 54.5 50.3 76.4 55.1 69.2 41.6 0.340 | 1.21 1.59
    DWA: 1.021 0.757 0.243 89.8 100 97.5 99.3 81.5 79.0 67.5 55.5 53.4 80.6 59.9 70.9 42.4 0.351 | 3.08 0.91
    IGBv1: 1.006 0.727 0.227 89.7 100 97.1 99.1 76.1 76.4 63.9 50.6 45.4 72.2 52.8 63.0 40.8 0.343 | -2.55 4.16
    VisATB: 1.019 0.756 0.258 91.7 100 97.9 99.4 82.2 86.1 68.0 55.1 52.7 81.1 61.8 71.6 42.7 0.351 | 4.52 0.39
    """,
)
TABLE_3 = _table(
    _FINE_TUNED,
    _BOTH,
    """
    STL: 0.1285 0.4658 77.73 61.23 17.76 68.22 51.58
    EW: 0.1411 0.5591 78.27 62.20 19.60 67.73 61.63 | 8.75 0.10
    TLA: 0.1144 0.5770 77.72 60.42 22.36 67.80 56.58 | 6.65 1.85
    RLW: 0.1388 0.5571 77.28 60.61 18.20 66.73 55.86 | 4.95 0.54
    DWA: 0.1225 0.5470 78.28 61.82 19.88 67.87 61.12 | 6.34 0.74
    IGBv1: 0.1349 0.4824 77.00 60.92 17.20 65.96 55.47 | 0.17 1.13
    VisATB: 0.1437 0.5724 77.99 61.81 20.16 67.48 67.38 | 11.29 0.15
    """,
)
TABLE_4 = _table(
    _ZERO_SHOT,
    "delta_i_zero",
    """
    EW: 53.96 86.83 1524.41 60.74 48.54 54.13 29.00 | 0.00
    TLA: 50.74 86.94 1426.51 55.86 52.92 46.67 28.70 | -3.73
    RLW: 52.74 86.29 1504.06 59.99 52.58 56.54 28.70 | 0.90
    DWA: 54.05 86.76 1484.26 60.53 49.31 54.75 28.90 | -0.07
    IGBv1: 52.09 86.86 1497.02 57.79 39.95 47.26 29.30 | -5.63
    VisATB: 53.87 86.73 1501.86 61.07 51.46 58.05 29.30 | 1.87
    """,
)
TABLE_7 = _table(
    "Conv./score Detail./score Complex./score",
    _BOTH,
    """
    STL: 43.6 49.3 80.9
    EW: 44.8 59.6 83.4 | 8.91 0.00
    TLA: 57.2 61.9 79.2 | 18.22 0.70
    RLW: 46.0 56.7 82.9 | 7.66 0.00
    DWA: 46.1 65.9 82.8 | 13.92 0.00
    IGBv1: 39.9 64.2 81.7 | 7.58 2.83
    VisATB: 52.2 60.7 83.4 | 15.31 0.00
    """,
)
TABLE_11_LLAVA = _table(
    _FINE_TUNED,
    _BOTH,
    """
    STL: 0.1407 0.5329 78.78 62.54 18.96 69.86 65.50
    EW: 0.1351 0.6008 79.51 63.05 22.28 69.41 68.44 | 4.55 0.66
    VisATB: 0.1391 0.6224 79.33 63.00 22.76 69.22 73.35 | 6.89 0.29
    """,
)
TABLE_11_QWEN2_VL = _table(
    _FINE_TUNED,
    _BOTH,
    """
    STL: 0.1370 0.8402 81.11 64.55 64.36 73.40 27.89
    EW: 0.1305 0.6658 80.22 64.41 63.36 73.28 30.62 | -2.68 4.08
    VisATB: 0.1480 0.6456 80.24 64.23 64.04 72.93 30.46 | -1.23 3.70
    """,
)
TABLE_12_LLAVA = _table(
    _ZERO_SHOT,
    "delta_i_zero",
    """
    EW: 57.52 86.50 1556.48 64.18 58.25 64.56 35.40 | 0.00
    VisATB: 57.06 86.47 1567.57 65.90 57.65 64.58 35.80 | 0.38
    """,
)
TABLE_12_QWEN2_VL = _table(
    _ZERO_SHOT,
    "delta_i_zero",
    """
    EW: 73.45 88.41 1438.46 52.49 70.45 74.08 35.70 | 0.00
    VisATB: 72.74 88.41 1445.53 64.35 69.85 73.69 30.80 | 1.00
    """,
)
# The STL line is that of Table 3; Table 13 does not repeat it.
TABLE_13 = _table(
    _FINE_TUNED,
    _BOTH,
    """
    STL: 0.1285 0.4658 77.73 61.23 17.76 68.22 51.58
    EW: 0.1411 0.5591 78.27 62.20 19.60 67.73 61.63 | 8.75 0.10
    α = 1, 0, 0: 0.1448 0.5763 78.34 62.16 19.52 67.72 61.81 | 9.67 0.10
    α = 0, 1, 0: 0.1333 0.5520 78.25 62.12 20.20 68.00 62.61 | 8.45 0.05
    α = 0, 0, 1: 0.1455 0.5706 77.46 61.30 20.08 67.04 71.52 | 12.21 0.30
    α = .50, .50, 0: 0.1340 0.5626 78.39 62.27 20.04 67.92 61.92 | 8.58 0.06
    α = .33, .33, .33: 0.1321 0.5591 78.12 62.08 19.68 66.68 66.08 | 8.77 0.32
    α = .25, .25, .50: 0.1437 0.5724 77.99 61.81 20.16 67.48 67.38 | 11.29 0.15
    T = 2.0: 0.1433 0.5642 78.10 62.08 20.16 67.67 63.06 | 9.92 0.12
    T = 1.0: 0.1369 0.5752 78.15 62.09 20.32 67.71 65.00 | 10.24 0.11
    T = 0.5: 0.1437 0.5724 77.99 61.81 20.16 67.48 67.38 | 11.29 0.15
    precise Diff: 0.1345 0.5604 78.00 61.87 21.04 67.46 67.83 | 10.75 0.16
    real Diff: 0.1437 0.5724 77.99 61.81 20.16 67.48 67.38 | 11.29 0.15
    """,
)
TABLE_14 = _table(
    _ZERO_SHOT,
    "delta_i_zero",
    """
    EW: 53.96 86.83 1524.41 60.74 48.54 54.13 29.00 | 0.00
    α = 1, 0, 0: 54.40 86.87 1499.87 60.86 51.03 56.79 29.00 | 1.36
    α = 0, 1, 0: 54.19 86.49 1511.93 59.59 39.09 48.14 30.60 | -3.96
    α = 0, 0, 1: 53.87 86.68 1487.54 60.74 49.91 55.55 29.50 | 0.63
    α = .50, .50, 0: 54.73 86.53 1518.02 60.79 51.89 57.83 29.50 | 2.32
    α = .33, .33, .33: 54.07 86.47 1514.76 61.26 52.92 57.39 30.80 | 3.04
    α = .25, .25, .50: 53.87 86.73 1501.86 61.07 51.46 58.05 29.30 | 1.87
    T = 2.0: 54.07 86.66 1498.19 61.02 49.66 54.89 29.30 | 0.50
    T = 1.0: 54.13 86.45 1499.72 60.29 49.48 56.21 29.10 | 0.52
    T = 0.5: 53.87 86.73 1501.86 61.07 51.46 58.05 29.30 | 1.87
    precise Diff: 54.25 86.77 1504.47 60.83 51.72 57.47 30.80 | 2.61
    real Diff: 53.87 86.73 1501.86 61.07 51.46 58.05 29.30 | 1.87
    """,
)
# ΔI%, ΔE%, ΔI_zero% by method.
TABLE_6 = {
    "LLaVA-v1.5-13B": {"EW": (4.55, 0.66, 0.00), "VisATB": (6.89, 0.29, 0.38)},
    "Qwen2-VL-2B": {"EW": (-2.68, 4.08, 0.00), "VisATB": (-1.32, 3.70, 1.00)},
}
TABLE_8 = {
    "EW": (8.75, 0.10, 0.00),
    "α = 1, 0, 0": (9.67, 0.10, 1.36),
    "α = 0, 1, 0": (8.45, 0.05, -3.96),
    "α = 0, 0, 1": (12.21, 0.30, 0.63),
    "α = .50, .50, 0": (8.58, 0.06, 2.32),
    "α = .33, .33, .33": (8.77, 0.32, 3.04),
    "α = .25, .25, .50": (11.29, 0.15, 1.87),
    "T = 2.0": (9.92, 0.12, 0.50),
    "T = 1.0": (10.24, 0.11, 0.52),
    "T = 0.5": (11.29, 0.15, 1.87),
    "precise Diff": (10.75, 0.16, 2.61),
    "real Diff": (11.29, 0.15, 1.87),
}
