"""How fast rows stream through commands, as ratios to the plain loops of `baselines.py`; and how memory grows.

`-o FILE`, so with accounting and journal, all checks on. Every figure is a whole process, start-up included.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import data
from measure import HEAD, compare, cost

DATA = Path(os.environ.get("MMKIT_BENCH_DATA", Path(tempfile.gettempdir(), "mmkit-bench")))
BASELINES = str(Path(__file__).with_name("baselines.py"))


def main() -> None:
    files = data.paths(DATA)
    output = DATA / "out.jsonl"
    size = files["compact"].stat().st_size / 1e6
    print(f"\n## Rows: {data.NUM_ROWS:,}, {size:.0f} MB compact, against a plain loop in one process\n\n{HEAD}")
    for label, words, source, baseline, limit in (
        ("validate, compact JSON", ["validate"], "compact", "validate", 1.0),
        ("validate, json.dumps spacing", ["validate"], "spaced", "validate", 1.0),
        ("filter --judge contains", ["filter", "--judge", "contains"], "compact", "contains", 1.2),
        ("convert, LLaVA lines", ["convert"], "llava", "llava", 2.0),
        ("convert, LLaVA list", ["convert"], "llava-list", "llava", 2.0),
    ):
        ours = ["-m", "mmkit", *words, str(files[source]), "-o", str(output)]
        plain = [BASELINES, baseline, str(files[source]), str(output)]
        compare(label, ours, plain, limit, output)
    _memory(files, output)


def _memory(files: dict[str, Path], output: Path) -> None:
    print("\n## Peak memory of validate, MiB\n\n| options | 20,000 rows | 200,000 rows | growth | bytes a row more |")
    print("|---|---|---|---|---|")
    for options in ([], ["--check-ids"]):
        peaks = []
        for name in ("compact-small", "compact"):
            peaks.append(cost(["-m", "mmkit", "validate", *options, str(files[name]), "-o", str(output)]).peak_mib)
            output.unlink()
        more = (peaks[1] - peaks[0]) * 2**20 / (data.NUM_ROWS - data.SMALL)
        growth = peaks[1] / peaks[0] - 1
        print(f"| {' '.join(options) or '(none)'} | {peaks[0]:.1f} | {peaks[1]:.1f} | {growth:+.1%} | {more:.1f} |")


if __name__ == "__main__":
    main()
