"""Records drawn by hypothesis, and small helpers around `mmkit.streams.run`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
from hypothesis import strategies as st

from mmkit.streams import StreamOptions, Summary, read_records, run
from mmkit.streams.rows import Stage

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | text
numbers = st.floats(allow_nan=False, allow_infinity=False)
json_values: st.SearchStrategy[Any] = st.recursive(
    scalars | numbers,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
_KNOWN = {"id", "image", "images", "conversations", "messages", "weight", "lineage", "choices", "answers"} | {
    "task",
    "caption",
    "question",
    "context",
    "answer",
    "rationale",
    "prediction",
}
_extras = st.dictionaries(text.filter(lambda key: key not in _KNOWN), json_values, max_size=3)


@st.composite
def records(draw: st.DrawFn, *, inline_bytes: bool = False) -> dict[str, Any]:
    """A canonical record: any known fields, nulls in their places, unknown fields nested as they like."""
    record: dict[str, Any] = {"id": draw(words)}
    for name in ("task", "caption", "question", "context", "answer", "rationale", "prediction"):
        if draw(st.booleans()):
            record[name] = draw(st.none() | text)
    for name in ("choices", "answers"):
        if draw(st.booleans()):
            record[name] = draw(st.none() | st.lists(text, max_size=3))
    if draw(st.booleans()):
        record["weight"] = draw(st.none() | st.integers(0, 9) | st.floats(0, 1e9))
    if draw(st.booleans()):
        record["lineage"] = draw(st.none() | st.lists(st.dictionaries(text, json_values, max_size=2), max_size=2))
    image = st.fixed_dictionaries({"path": words}, optional={"note": json_values})
    if inline_bytes:
        image |= st.fixed_dictionaries({"bytes": st.binary(max_size=20)}, optional={"path": words})
    num_images = draw(st.integers(0, 3))
    if num_images or draw(st.booleans()):
        record["images"] = draw(st.lists(image, min_size=num_images, max_size=num_images))
    if draw(st.booleans()):
        record["messages"] = draw(conversations(num_images))
    return {**record, **draw(_extras)}


@st.composite
def conversations(draw: st.DrawFn, num_images: int) -> list[dict[str, Any]]:
    """Messages with `num_images` image parts somewhere."""
    parts: list[dict[str, Any]] = [{"type": "image"} for _ in range(num_images)]
    parts += [{"type": "text", "text": t} for t in draw(st.lists(text, max_size=4))]
    parts = list(draw(st.permutations(parts)))
    turns = []
    for role in draw(st.lists(st.sampled_from(["system", "user", "assistant"]), min_size=1, max_size=3)):
        cut = draw(st.integers(0, len(parts)))
        turn: dict[str, Any] = {"role": role, "content": parts[:cut]}
        if draw(st.booleans()):
            turn["train"] = draw(st.booleans() | st.none())
        turns.append(turn)
        parts = parts[cut:]
    turns[-1]["content"] += parts
    return turns


def dump(rows: Iterable[Any]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def put(path: Path, rows: Iterable[Any]) -> str:
    path.write_bytes(dump(rows))
    return str(path)


def run_stage(stage: Stage, source: str | Path, target: str | Path, **options: Any) -> Summary:
    kept = {name: options.pop(name) for name in ("identity", "window", "kind", "resumable") if name in options}
    return run(stage, StreamOptions(inputs=[str(source)], output=str(target), **options), command="test", **kept)


def load(path: str | Path) -> list[dict[str, Any]]:
    return list(read_records(str(path)))
