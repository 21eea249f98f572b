"""`mmkit render` shows what training would see, on a terminal and in a pipe, and goes on behind a bad row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from cli_kit import Mmkit, on_terminal

Write = Callable[[str, Iterable[Any] | bytes], str]


def conversation(record_id: str, question: str, answer: str, **fields: Any) -> dict[str, Any]:
    messages = [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in (("user", question), ("assistant", answer))
    ]
    return {"id": record_id, "messages": messages, **fields}


ROWS = [
    conversation("a", "Why?", "so", task="chat"),
    conversation("b", "Say it.", "<|im_end|>", task="chat", weight=0.5),
    conversation("c", "How long?", "long " * 60),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mmkit.testing import tiny_models

    folder = tmp_path_factory.mktemp("models") / "base"
    tiny_models.build("causal_lm", folder, corpus=["Why? so long"] * 9, hidden_size=32, num_layers=1)
    return folder


def test_a_pipe_gets_a_row_a_row(mmkit: Mmkit, write: Write, model: Path) -> None:
    write("weights.jsonl", [{"task": "chat", "weight": 4}])
    done = mmkit(
        *("render", write("train.jsonl", ROWS), "--model", model),
        *("--weights", "weights.jsonl", "--default-weight", 1, "--max-length", 60),
    )
    assert done.code == 0
    assert done.err == "mmkit render: 3 rows, 1 of which cannot be trained on\n"
    rows = done.rows()
    assert [(row["id"], row["where"], row["task"], row["weight"]) for row in rows] == [
        ("a", "train.jsonl:1", "chat", 4.0),
        ("b", "train.jsonl:2", "chat", 2.0),
        ("c", "train.jsonl:3", None, 1.0),
    ]
    learned = [[segment["text"] for segment in row["segments"] if segment["in_loss"]] for row in rows]
    assert learned[:2] == [["so", "<|im_end|>"], ["<|im_end|>", "<|im_end|>"]]
    kinds = [segment["kind"] for segment in rows[1]["segments"] if segment["in_loss"]]
    assert kinds == ["text", "control"]
    assert [row["error"] for row in rows[:2]] == [None, None]
    assert rows[2]["error"] == f"train.jsonl:3: record 'c': {rows[2]['num_tokens']} tokens are more than max_length 60"


def test_shortening_says_what_is_cut(mmkit: Mmkit, write: Write, model: Path, tmp_path: Path) -> None:
    arguments = ["render", write("train.jsonl", ROWS), "--model", model, "--max-length", 50, "--overlong", "shorten"]
    done = mmkit(*arguments, "-o", "out.jsonl")
    assert (done.code, done.out, done.err) == (0, b"", "mmkit render: 3 rows\n")
    row = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[2])
    assert row["num_tokens"] == 50 and row["num_cut_tokens"] > 0 and row["error"] is None
    assert sum(segment["num_tokens"] for segment in row["segments"] if segment["cut"]) == row["num_cut_tokens"]


def test_a_bad_row_says_why_and_the_next_one_comes(mmkit: Mmkit, write: Write, model: Path) -> None:
    lines = b'{"id": "a"}\n{oops}\n'
    seen = conversation("b", "What?", "x", images=[{"path": "gone.png"}])
    seen["messages"][0]["content"].insert(0, {"type": "image"})
    write("good.jsonl", [seen, ROWS[0]])
    rows = mmkit("render", write("bad.jsonl", lines), "good.jsonl", "--model", model).rows()
    assert [row["id"] for row in rows] == ["a", None, "b", "a"]
    errors = [row["error"] for row in rows]
    assert errors[0] == "bad.jsonl:1: record 'a': no messages to train on (mmkit compose makes them)"
    assert errors[1].startswith("bad.jsonl:2: invalid JSON")
    assert errors[2].startswith("good.jsonl:1: record 'b': ") and "gone.png" in errors[2]
    assert errors[3] is None


def test_only_the_first_rows_are_read(mmkit: Mmkit, write: Write, model: Path) -> None:
    write("more.jsonl", [*ROWS, *ROWS])
    assert [row["id"] for row in mmkit("render", "more.jsonl", "--model", model).rows()] == ["a", "b", "c", "a", "b"]
    stream = json.dumps(ROWS[0]).encode() + b"\n{oops}\n"
    assert [row["id"] for row in mmkit("render", "-", "-n", 1, "--model", model, stdin=stream).rows()] == ["a"]


def test_a_terminal_shows_what_is_learned_without_colour_too(write: Write, model: Path, tmp_path: Path) -> None:
    evil = conversation("evil\x1b[2J", "Why\x1b[31m?\nOr not?", "so\x07", task="a\x1b]0;x\x07")
    arguments: list[object] = ["render", write("train.jsonl", [evil, ROWS[2]]), "--model", model]
    shown = on_terminal([*arguments, "--max-length", 60, "--overlong", "shorten"], tmp_path, NO_COLOR="1")
    head, _, rest = shown.partition("\n")
    assert "evil\\x1b[2J (train.jsonl:1), task a\\x1b]0;x\\x07, λ 1, " in head
    assert "user\nWhy\\x1b[31m?\nOr not?" in rest
    plain = rest.replace("\x1b[1m", "").replace("\x1b[0m", "").replace("\x1b[9m", "")
    assert "⟦so\\x07<|im_end|>⟧" in plain
    assert "⟦long " in plain and "⟧✂⟦" in plain
    assert "\x07" not in shown and "\x1b[31m" not in shown and "\x1b[2J" not in shown
    coloured = on_terminal([*arguments, "--max-length", 60], tmp_path)
    assert "\x1b[1;34m<|im_start|>" in coloured and "\x1b[31m" in coloured  # the row that is too long says so in red


def test_what_is_missing_is_named(mmkit: Mmkit, write: Write, model: Path, tmp_path: Path) -> None:
    name = write("train.jsonl", ROWS)
    no_model = mmkit("render", name)
    assert no_model.code == 2 and "[render]\nmodel = " in no_model.err
    assert mmkit("render", name, "--model", tmp_path / "nowhere").code == 66
    assert mmkit("render", "nowhere.jsonl", "--model", model).code == 66
    write("weights.jsonl", [{"task": "chat", "weight": -1}])
    bad = mmkit("render", name, "--model", model, "--weights", "weights.jsonl")
    assert bad.code == 65 and "weights.jsonl: row 1: expected" in bad.err
    write("weights.jsonl", [{"task": "chat", "weight": 1}] * 2)
    twice = mmkit("render", name, "--model", model, "--weights", "weights.jsonl")
    assert twice.code == 65 and "weights.jsonl: row 2: task 'chat' a second time" in twice.err
