"""How fast a mixture is drawn, as the ratio to one plain pass over the same rows; and its peak memory.

Two files of 200,000 rows to 100,000 of them: two passes with all checks on, accounting and journal.
"""

from __future__ import annotations

from pathlib import Path

import data
from measure import HEAD, compare
from rows import BASELINES, DATA


def main() -> None:
    one = data.paths(DATA)["compact"]
    other = DATA / f"other-{data.NUM_ROWS}.jsonl"
    if not other.exists():
        _with_other_ids(one, other)
    output = DATA / "out.jsonl"
    print(f"\n## Mixing: 2 × {data.NUM_ROWS:,} rows to 100,000, against one plain pass over them\n\n{HEAD}")
    for label, options in (
        ("mix --by file", ["--by", "file"]),
        ("mix --ratio", ["--ratio", "vqa=.5,caption=.25,report=.25"]),
    ):
        ours = ["-m", "mmkit", "mix", str(one), str(other), "--budget", "100k", *options, "-o", str(output)]
        compare(label, ours, [BASELINES, "validate", str(one), str(other), str(output)], 2.0, output)


def _with_other_ids(source: Path, target: Path) -> None:
    """The same rows under ids that no row of `source` has."""
    unfinished = target.with_name(target.name + ".part")
    with source.open("rb") as lines, unfinished.open("wb") as out:
        out.writelines(line.replace(b'"id":"synthetic-', b'"id":"other-', 1) for line in lines)
    unfinished.replace(target)


if __name__ == "__main__":
    main()
