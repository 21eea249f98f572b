"""Write docs/benchmarks.md from the benchmarks' definitions, or with --check say whether it is up to date."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mmkit.tasks.benchmarks import Benchmark, benchmark, names

TARGET = Path(__file__).with_name("benchmarks.md")
HEAD = """# The benchmarks

Generated from the definitions in src/mmkit/tasks/benchmarks by `make docs`; `make check` compares.

`mmkit eval --benchmark NAME --model MODEL` asks a model a set's questions and scores its answers;
`mmkit convert --benchmark NAME` makes tasks of the set, to train on or to ask otherwise. Both read the set from the
Hugging Face hub, or a local copy of the same columns; sets without a hub id need the local copy that their note
describes. Hub ids, splits and columns come from the sets' cards and public code; what could not be verified is said in
the notes.

"""
COLUMNS = ("name", "set", "hub", "split", "answer, metric", "tables")


def main() -> int:
    found = [benchmark(name) for name in names()]
    rows = [COLUMNS, ["---"] * len(COLUMNS), *map(row, found)]
    text = HEAD + "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
    text += "\n## Notes\n\n" + "".join(note(each) for each in found)
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if TARGET.exists() and TARGET.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{TARGET.name} is not what the definitions say; run: make docs\n")
    return 1


def row(found: Benchmark) -> Sequence[str]:
    """One benchmark as a row of the table."""
    return (
        f"`{found.name}`",
        found.title,
        hub(found),
        found.split or "",
        "unsupported" if found.unsupported else tasks(found),
        "; ".join(found.tables),
    )


def hub(found: Benchmark) -> str:
    if found.hub is None:
        return "" if found.unsupported else "local copy"
    link = f"[{found.hub}](https://huggingface.co/datasets/{found.hub})"
    return f"{link}, `{found.config}`" if found.config else link


def tasks(found: Benchmark) -> str:
    """The kinds of answers and metrics, each with its tasks where they are more than the set itself."""
    kinds: dict[str, list[str]] = {}
    for task in found.tasks.values():
        kinds.setdefault(f"{task.answer_type}, {task.metric}", []).append(task.name)
    if list(found.tasks) == [found.name]:
        return next(iter(kinds))
    return "<br>".join(f"{kind}: {', '.join(f'`{name}`' for name in of_kind)}" for kind, of_kind in kinds.items())


def note(found: Benchmark) -> str:
    text = " ".join(text for text in (found.unsupported, found.notes) if text)
    return f"- `{found.name}`: {text}\n" if text else ""


if __name__ == "__main__":
    sys.exit(main())
