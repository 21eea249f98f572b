"""The rows that the benchmarks read: 200,000 multimodal conversations, 1.5 KB a row, the same in every run.

`python benchmarks/data.py DIRECTORY` writes them there; the benchmarks make them on the spot where they are missing.
The same rows are written in the spacing of `orjson.dumps` (compact), of Python's `json.dumps` (", " and ": ", and
every character beyond ASCII escaped), and in LLaVA's shape, as lines and as one JSON list.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

NUM_ROWS = 200_000
SMALL = 20_000
_VOCABULARY = (  # some beyond ASCII, some with quotes
    "the a of in and is with to on left right upper lower lobe scan slide section stained image shows region tissue "
    "cells dense pale dark round irregular margin contrast axial coronal view patient history chronic acute lesion "
    "mass nodule finding consistent suggests compared normal enlarged thickened small large single multiple arrow "
    "figure panel plate dish fresh grilled sliced bowl sauce herb rice leaf bark road river field building vehicle "
    "café naïve µm 10× α-helix 37 °C — “quoted”"
)
_WORDS = _VOCABULARY.split()


def sentence(draw: random.Random, num_words: int) -> str:
    text = " ".join(draw.choices(_WORDS, k=num_words))
    return text[0].upper() + text[1:] + draw.choice(".!?.....")


def _text(draw: random.Random, num_sentences: int) -> str:
    joint = "\n" if draw.random() < 0.1 else " "
    text = joint.join(sentence(draw, draw.randint(6, 23)) for _ in range(num_sentences))
    return f'Note: "{text[:20]}" {text}' if draw.random() < 0.05 else text


def record(number: int) -> dict[str, Any]:
    """Row `number` of the data: a canonical record with a conversation, a task's fields and a lineage."""
    draw = random.Random(number)
    num_images = 2 if draw.random() < 0.1 else 1
    images = [{"path": f"images/{number % 100:02d}/{number:07d}-{i}.jpg"} for i in range(num_images)]
    answer = " ".join(draw.choices(_WORDS[:40], k=2))
    contained = draw.random() < 0.7
    rationale = _text(draw, 2) + (f" So the answer is {answer}." if contained else " So the answer is another one.")
    messages: list[dict[str, Any]] = []
    for turn in range(draw.randint(1, 3)):
        asked: list[dict[str, Any]] = [{"type": "image"}] * num_images if turn == 0 else []
        messages += [
            {"role": "user", "content": [*asked, {"type": "text", "text": _text(draw, 1)}]},
            {"role": "assistant", "content": [{"type": "text", "text": _text(draw, 2)}]},
        ]
    return {
        "id": f"synthetic-{number:07d}",
        "task": draw.choice(("vqa", "caption", "report")),
        "images": images,
        "question": _text(draw, 1),
        "answer": answer,
        "rationale": rationale,
        "messages": messages,
        "source": {"split": "train", "width": draw.randint(200, 1600), "quality": round(draw.random(), 4)},
        "lineage": [
            {
                "op": "synthesize",
                "version": "0.1.0",
                "model": "some-vlm-8b",
                "params": f"{draw.getrandbits(128):032x}",
                "usage": {"prompt_tokens": draw.randint(300, 900), "completion_tokens": draw.randint(50, 300)},
            }
        ],
    }


def llava(canonical: dict[str, Any]) -> dict[str, Any]:
    """The row in LLaVA's shape."""
    names = {"user": "human", "assistant": "gpt"}
    turns = []
    for message in canonical["messages"]:
        texts = [part.get("text", "<image>") for part in message["content"]]
        turns.append({"from": names[message["role"]], "value": "\n".join(texts)})
    paths = [image["path"] for image in canonical["images"]]
    rest = {name: value for name, value in canonical.items() if name not in ("id", "images", "messages")}
    return {"id": canonical["id"], "image": paths[0] if len(paths) == 1 else paths, "conversations": turns, **rest}


def _as_it_is(row: dict[str, Any]) -> dict[str, Any]:
    return row


def _spaced(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode()


def _encoded(number: int, shape: Callable[[dict[str, Any]], Any], encode: Callable[[Any], bytes]) -> Iterator[bytes]:
    return (encode(shape(record(i))) for i in range(number))


def paths(directory: Path) -> dict[str, Path]:
    """The files by name; those that are missing are made (half a minute each)."""
    directory.mkdir(parents=True, exist_ok=True)
    kinds = {
        "compact": (NUM_ROWS, "jsonl", _as_it_is, orjson.dumps),
        "compact-small": (SMALL, "jsonl", _as_it_is, orjson.dumps),
        "spaced": (NUM_ROWS, "jsonl", _as_it_is, _spaced),
        "llava": (NUM_ROWS, "jsonl", llava, orjson.dumps),
        "llava-list": (NUM_ROWS, "json", llava, orjson.dumps),
    }
    files = {}
    for name, (number, suffix, shape, encode) in kinds.items():
        files[name] = directory / f"{name}-{number}.{suffix}"
        if not files[name].exists():
            _write(files[name], _encoded(number, shape, encode), is_list=suffix == "json")
    return files


def _write(path: Path, rows: Iterator[bytes], *, is_list: bool) -> None:
    print(f"making {path}", file=sys.stderr)
    unfinished = path.with_name(path.name + ".part")
    separator, end = (b",\n", b"\n]\n") if is_list else (b"\n", b"\n")
    with unfinished.open("wb", buffering=1 << 20) as file:
        before = b"[\n" if is_list else b""
        for row in rows:
            file.write(before + row)
            before = separator
        file.write(end)
    unfinished.replace(path)


if __name__ == "__main__":
    for made in paths(Path(sys.argv[1])).values():
        print(made, made.stat().st_size)
