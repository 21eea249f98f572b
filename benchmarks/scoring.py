"""How fast predictions are scored: exact match against reading alone, CIDEr against pycocoevalcap alone.

Every figure is a whole process, start-up included. `python benchmarks/scoring.py read|loop|cider FILE` are the
baselines.
"""

from __future__ import annotations

import os
import random
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson
from data import sentence
from measure import HEAD, compare, cost

DATA = Path(os.environ.get("MMKIT_BENCH_DATA", Path(tempfile.gettempdir(), "mmkit-bench")))
SHORT, LONG = "answers.jsonl", "captions.jsonl"
NUM_ANSWERS, NUM_CAPTIONS, NUM_REFERENCES = 100_000, 10_000, 5
_LINEAGE = {"op": "predict", "version": "0.1.0", "model": "tuned", "params": "00c0ffee00c0ffee"}


def answers(draw: random.Random) -> list[dict[str, Any]]:
    """Short answers with what `mmkit predict` writes beside them; four questions an image."""
    return [
        {
            "id": f"vqa-{i:06d}",
            "task": "vqa",
            "images": [{"path": f"images/{i // 4:06d}.jpg"}],
            "question": sentence(draw, 9),
            "answer": draw.choice(("left lung", "liver", "2", "yes", "no", "heart")),
            "prediction": draw.choice(("left lung", "Liver.", "2", "yes", "No", "The heart")),
            "lineage": [{**_LINEAGE, "parents": [f"vqa-{i:06d}"], "usage": {"prompt_tokens": 600}}],
        }
        for i in range(NUM_ANSWERS)
    ]


def captions(draw: random.Random) -> list[dict[str, Any]]:
    """Captions of about eleven words with five references each."""
    return [
        {
            "id": f"caption-{i:05d}",
            "prediction": sentence(draw, draw.randint(8, 14)),
            "answers": [sentence(draw, draw.randint(8, 14)) for _ in range(NUM_REFERENCES)],
        }
        for i in range(NUM_CAPTIONS)
    ]


def write(directory: str) -> None:
    draw = random.Random(0)
    for path, records in ((SHORT, answers(draw)), (LONG, captions(draw))):
        Path(directory, path).write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))


def read(path: str) -> None:
    """What mmkit does to read records, and nothing else."""
    from mmkit.streams import read_records

    for _ in read_records(path):
        pass


def loop(path: str) -> None:
    """The least that reads and checks records."""
    from mmkit.records import check

    with open(path, "rb", buffering=1 << 20) as lines:  # noqa: PTH123
        for line in lines:
            check(orjson.loads(line))


def cider(path: str) -> None:
    """pycocoevalcap's CIDEr-D on the same tokens."""
    from pycocoevalcap.cider.cider import Cider

    def tokens(text: str) -> str:
        return " ".join(re.findall(r"\w+", text.lower()))

    records = [orjson.loads(line) for line in Path(path).read_bytes().splitlines()]
    golds = {i: [tokens(text) for text in record["answers"]] for i, record in enumerate(records)}
    Cider().compute_score(golds, {i: [tokens(record["prediction"])] for i, record in enumerate(records)})


def main() -> None:
    DATA.mkdir(parents=True, exist_ok=True)
    cost([__file__, "write", str(DATA)])  # in a process of its own: a child's peak memory begins with its parent's
    short, long = str(DATA / SHORT), str(DATA / LONG)
    print(f"\n## Scores: {NUM_ANSWERS:,} short answers, {NUM_CAPTIONS:,} captions\n\n{HEAD}")
    exact = ["-m", "mmkit", "eval", short]
    compare("eval, em, against mmkit's reading alone", exact, [__file__, "read", short], 3.0)
    compare("eval, em, against a loop of orjson.loads and check", exact, [__file__, "loop", short], 3.0)
    described = ["-m", "mmkit", "eval", long, "--metric", "cider"]
    compare("eval, CIDEr-D, against pycocoevalcap alone", described, [__file__, "cider", long], 1.3)


if __name__ == "__main__":
    if sys.argv[1:]:
        {"write": write, "read": read, "loop": loop, "cider": cider}[sys.argv[1]](sys.argv[2])
    else:
        main()
