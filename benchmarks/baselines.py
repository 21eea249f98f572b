"""The plain loops that mmkit is measured against: parse, check or decide, write; one process, nothing else kept.

`python benchmarks/baselines.py validate|contains|llava INPUT... OUTPUT`. They call the library's own checks, so that
what is compared is the stream around them: accounting, journal, exactness, original bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from mmkit.records import check, normalise

_BUFFER = 1 << 20
Work = Callable[[dict[str, Any]], dict[str, Any] | None]


def checked(record: dict[str, Any]) -> dict[str, Any] | None:
    check(record)
    return record


def contains() -> Work:
    """The checks, then the same predicate as `mmkit filter --judge contains`."""
    from mmkit.synthesis.consistency import folded, occurs

    def judge(record: dict[str, Any]) -> dict[str, Any] | None:
        check(record)
        if not record["question"].strip() or not record["answer"].strip() or not record["rationale"].strip():
            raise ValueError(record["id"])
        answer = folded(record["answer"]).removesuffix(".")
        return record if occurs(answer, folded(record["rationale"])) else None

    return judge


def from_llava(record: dict[str, Any]) -> dict[str, Any] | None:
    result = normalise(record, "")
    check(result)
    return result


def rows(path: str) -> Iterator[dict[str, Any]]:
    if path.endswith(".json"):
        yield from orjson.loads(Path(path).read_bytes())
        return
    with open(path, "rb", buffering=_BUFFER) as lines:  # noqa: PTH123
        for line in lines:
            yield orjson.loads(line)


def main(work: Work, sources: Sequence[str], target: str) -> None:
    with open(target, "wb", buffering=_BUFFER) as out:  # noqa: PTH123
        for record in chain.from_iterable(map(rows, sources)):
            result = work(record)
            if result is not None:
                out.write(orjson.dumps(result, option=orjson.OPT_APPEND_NEWLINE))


if __name__ == "__main__":
    name, *inputs, output = sys.argv[1:]
    main(contains() if name == "contains" else {"validate": checked, "llava": from_llava}[name], inputs, output)
