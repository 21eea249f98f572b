"""`mmkit stats` as a person runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from cli_kit import Mmkit

Write = Callable[..., str]

LANGUAGE = [{"id": str(n), "task": "squad", "question": f"Who is number {n}?", "answer": "he"} for n in range(3)]
VISION = [{"id": str(n), "task": "vqa", "image": "a.png", "question": "What is it?", "answer": "it"} for n in range(2)]


def chat(record_id: str, asked: str, said: str, image: str | None = None) -> dict[str, Any]:
    content = [{"type": "image"}] * bool(image) + [{"type": "text", "text": asked}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": said}]}
    images = {"images": [{"path": image}]} if image else {}
    return {"id": record_id, "task": "chat", **images, "messages": [{"role": "user", "content": content}, answer]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mmkit.testing import tiny_models

    folder = tmp_path_factory.mktemp("model") / "base"
    tiny_models.build("llava", folder, corpus=["what is it , who are you ?"] * 20, hidden_size=32, num_layers=1)
    return folder


def whole(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    axes = ("task", "domain", "modality")
    return {row["set"]: row for row in rows if all(row[axis] is None for axis in axes)}


def test_each_file_is_a_set_and_named_files_are_one(mmkit: Mmkit, write: Write) -> None:
    write("language.jsonl", LANGUAGE), write("vision.jsonl", VISION)
    done = mmkit("stats", "language.jsonl", "vision.jsonl", "all=language.jsonl,vision.jsonl")
    assert done.code == 0
    assert done.err.startswith("mmkit stats: 5 rows in, 5 kept")
    sets = whole(done.rows())
    assert {name: row["rows"] for name, row in sets.items()} == {"language": 3, "vision": 2, "all": 5}
    assert sets["all"]["num_images"] == 2 and sets["vision"]["duplicate_rows"] == 1
    assert sets["all"]["duplicate_ids"] == 2 and sets["language"]["duplicate_ids"] == 0
    tasks = {(row["set"], row["task"]): row["rows"] for row in done.rows() if row["task"] is not None}
    assert tasks["all", "squad"] == 3 and tasks["all", "vqa"] == 2


def test_stdin_is_a_set_and_shards_add_up(mmkit: Mmkit) -> None:
    stream = b"".join(json.dumps(row).encode() + b"\n" for row in [*LANGUAGE, *VISION])
    shards = [mmkit("stats", "--shard", f"{i}/2", stdin=stream).rows() for i in range(2)]
    assert [whole(rows)["stdin"]["rows"] for rows in shards] == [3, 2]
    assert whole(mmkit("stats", "-", stdin=stream).rows())["stdin"]["rows"] == 5


def test_tokens_hold_the_visual_prefix_and_stand_against_a_baseline(
    mmkit: Mmkit, write: Write, picture: Callable[[str], str], model: Path, tmp_path: Path
) -> None:
    picture("a.png")
    write("text.jsonl", [chat("1", "who are you ?", "it")])
    write("seen.jsonl", [chat("1", "who are you ?", "it", "a.png")])
    counted = mmkit(
        "stats", "text.jsonl", "seen.jsonl", "--model", model, "--baseline", "text.jsonl", "-o", "rows.jsonl"
    )
    assert (counted.code, counted.out) == (0, b"")
    sets = whole([json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()])
    text, seen = sets["text"], sets["seen"]
    assert (text["image_tokens"], seen["image_tokens"]) == (0, 36)
    assert text["loss_tokens"] == seen["loss_tokens"] > 0
    assert text["relative_percent"] == 0
    assert seen["relative_percent"] == 100 * (seen["tokens"] - text["tokens"]) / text["tokens"]
    write("text-rows.jsonl", [text])
    again = mmkit("stats", "seen.jsonl", "--model", model, "--baseline", "text-rows.jsonl").rows()
    assert whole(again)["seen"]["relative_percent"] == seen["relative_percent"]


def test_per_row_adds_the_counts_and_changes_nothing_else(
    mmkit: Mmkit, write: Write, picture: Callable[[str], str], model: Path
) -> None:
    picture("a.png")
    rows = [chat("1", "who ?", "it"), {**chat("2", "what ?", "it", "a.png"), "extra": [1]}]
    done = mmkit("stats", write("in.jsonl", rows), "--model", model, "--per-row")
    found = done.rows()
    assert [row.pop("num_image_tokens") for row in found] == [0, 36]
    first, second = (row.pop("num_tokens") for row in found)
    assert 0 < first < second
    assert all(row.pop("num_loss_tokens") > 0 for row in found)
    assert found == rows


def test_a_row_that_finetune_would_refuse_is_rejected(mmkit: Mmkit, write: Write, model: Path, tmp_path: Path) -> None:
    rows = [chat("1", "who ?", "it"), LANGUAGE[0], chat("3", "who ?", "it", "gone.png"), chat("4", "who ? " * 50, "it")]
    write("in.jsonl", rows)
    options = ["--model", model, "--max-length", "60", "--rejects", "no.jsonl"]
    done = mmkit("stats", "in.jsonl", *options)
    assert done.code == 0 and whole(done.rows())["in"]["rows"] == 1
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "no.jsonl").read_text().splitlines()]
    assert reasons[0].startswith("no messages to train on")
    assert reasons[1].startswith("image 'gone.png' not found") and "more than max_length 60" in reasons[2]


def test_the_figure_is_a_file_of_its_own(mmkit: Mmkit, write: Write, tmp_path: Path) -> None:
    write("language.jsonl", LANGUAGE), write("vision.jsonl", VISION)
    done = mmkit("stats", "language.jsonl", "vision.jsonl", "--figure", "sets.svg")
    assert done.code == 0 and done.rows()
    drawn = ElementTree.parse(tmp_path / "sets.svg")
    texts = [one.text for one in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["Rows", "language", "3", "vision", "2"]


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        ("in.jsonl", "is an input or another output"),
        ("./out.jsonl", "is an input or another output"),
        ("no.jsonl", "is an input or another output"),
        ("no/such/f.svg", "name a file in a directory that is there"),
        (".", "name a file in a directory that is there"),
        ("-", "name a file in a directory that is there"),
    ],
)
def test_a_figure_takes_no_other_files_place_and_says_so_before_anything_is_counted(
    mmkit: Mmkit, write: Write, tmp_path: Path, figure: str, said: str
) -> None:
    write("in.jsonl", LANGUAGE)
    before = (tmp_path / "in.jsonl").read_bytes()
    done = mmkit("stats", "in.jsonl", "--figure", figure, "-o", "out.jsonl", "--rejects", "no.jsonl")
    assert done.code == 2 and said in done.err
    assert (tmp_path / "in.jsonl").read_bytes() == before and not (tmp_path / "out.jsonl").exists()


def test_a_file_without_rows_is_a_set_of_none(mmkit: Mmkit, write: Write) -> None:
    write("empty.jsonl", b""), write("language.jsonl", LANGUAGE)
    done = mmkit("stats", "empty.jsonl", "language.jsonl")
    assert {name: row["rows"] for name, row in whole(done.rows()).items()} == {"empty": 0, "language": 3}
    alone = mmkit("stats", "empty.jsonl")
    assert alone.code == 0 and [row["rows"] for row in alone.rows()] == [0]


@pytest.mark.parametrize("name", ["out.parquet", "out.arrow", "out.jsonl.gz"])
def test_the_answer_may_be_a_table_on_disk(mmkit: Mmkit, write: Write, tmp_path: Path, name: str) -> None:
    from mmkit.streams import read_rows

    write("vision.jsonl", VISION)
    done = mmkit("stats", "vision.jsonl", "-o", name)
    assert done.code == 0, done.err
    rows = [row.record for row in read_rows([str(tmp_path / name)], kind="json")]
    assert rows[0]["num_images"] == 2 and rows[0]["images_per_row"]["max"] == 1


def test_a_set_of_the_call_may_be_its_baseline_with_the_rows_that_the_call_takes(
    mmkit: Mmkit, write: Write, model: Path
) -> None:
    long = chat("2", "who are you ? " * 50, "it")
    write("base.jsonl", [chat("1", "who ?", "it"), long, LANGUAGE[0]]), write("twice.jsonl", [chat("1", "who ?", "it")])
    options = ["--model", model, "--max-length", "60", "--rejects", "no.jsonl", "--baseline", "base.jsonl"]
    done = mmkit("stats", "base.jsonl", "twice.jsonl", *options)
    assert done.code == 0, done.err  # two of the baseline's rows are refused, once
    sets = whole(done.rows())
    assert sets["base"]["relative_percent"] == sets["twice"]["relative_percent"] == 0


def test_a_baseline_that_cannot_be_one_says_where_and_why(mmkit: Mmkit, write: Write, model: Path) -> None:
    chats = write("in.jsonl", [chat("1", "who ?", "it")])
    write("tasks.jsonl", [chat("1", "who ?", "it"), LANGUAGE[0]]), write("empty.jsonl", b"")
    count = ["stats", chats, "--model", model, "--baseline"]
    assert "tasks.jsonl:2: no messages" in mmkit(*count, "tasks.jsonl").err
    assert "no tokens to compare with" in mmkit(*count, "empty.jsonl").err
    stdin = mmkit(*count, "-", stdin=b"")
    assert stdin.code == 2 and "name its file" in stdin.err


def test_a_baseline_that_another_model_counted_is_said(mmkit: Mmkit, write: Write, model: Path) -> None:
    write("in.jsonl", [chat("1", "who ?", "it")])
    counted = {"set": "a", "task": None, "domain": None, "modality": None, "rows": 1, "tokens": 5, "model": "other"}
    write("rows.jsonl", [counted])
    done = mmkit("stats", "in.jsonl", "--model", model, "--baseline", "rows.jsonl")
    assert done.code == 0 and f"counted by other, not by {model}" in done.err


LINEAGE = [
    {
        "op": "synthesize",
        "parents": ["cap"],
        "model": "qwen",
        "params": "p",
        "usage": {"prompt_tokens": 2_000_000, "image_tokens": 9, "completion_tokens": 1_000_000},
    }
]
TASKS = [{"id": f"cap#{n}", "question": "Q", "answer": "A", "lineage": LINEAGE} for n in range(3)]


def test_the_ledger_pays_a_step_once(mmkit: Mmkit, write: Write) -> None:
    done = mmkit(
        "stats", write("tasks.jsonl", TASKS), "--ledger", "--price", "qwen=2.5,10", "--price-per-row", "synthesize=1"
    )
    step, total = done.rows()
    assert (step["op"], step["model"], step["steps"], step["rows"]) == ("synthesize", "qwen", 1, 3)
    assert step["prompt_tokens"] == 2_000_000 and step["cost"] == 5 + 10 + 3
    assert (total["op"], total["rows"], total["cost"]) == (None, None, 18)
    unpriced = mmkit("stats", "tasks.jsonl", "--ledger", "--price-per-step", "judge=1")
    assert unpriced.rows()[-1]["cost"] is None
    assert unpriced.err.rstrip().endswith("; no work by judge, which has a price")
    assert "; 3 rows without lineage" in mmkit("stats", write("made.jsonl", LANGUAGE), "--ledger").err


def test_prices_may_stand_in_mmkit_toml(mmkit: Mmkit, write: Write) -> None:
    write("mmkit.toml", b'[stats]\nprice = ["qwen=1,1", "other=2,2"]\n')
    done = mmkit("stats", write("tasks.jsonl", TASKS), "--ledger")
    assert done.rows()[-1]["cost"] == 3
    assert mmkit("stats", "tasks.jsonl").code == 0
    write("mmkit.toml", b'model = "nowhere/at/all/here"\n')
    assert mmkit("stats", "tasks.jsonl", "--model", "").rows()[0]["model"] is None
    assert mmkit("stats", "tasks.jsonl").code == 66


def test_a_trace_goes_through_all_files(mmkit: Mmkit, write: Write) -> None:
    write("captions.jsonl", [{"id": "cap", "caption": "a dog"}])
    write("tasks.jsonl", TASKS)
    done = mmkit("stats", "tasks.jsonl", "captions.jsonl", "--trace", "cap#1")
    assert [(row["depth"], row["id"], row["op"], row["where"]) for row in done.rows()] == [
        (0, "cap#1", None, ["tasks.jsonl:2"]),
        (1, None, "synthesize", []),
        (2, "cap", None, ["captions.jsonl:1"]),
    ]
    gone = mmkit("stats", "tasks.jsonl", "--trace", "x")
    assert gone.code == 65 and "no record 'x'" in gone.err
    assert mmkit("stats", "-", "--trace", "x").code == 2
    for output, said in (("./tasks.jsonl", "is an input, too"), ("way.parquet", "name it .jsonl")):
        refused = mmkit("stats", "tasks.jsonl", "--trace", "cap#1", "-o", output)
        assert refused.code == 2 and said in refused.err
    assert mmkit("stats", "tasks.jsonl", "--trace", "cap#1", "-o", "way.jsonl").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ledger", "--trace", "1"], "--ledger and --trace are different answers"),
        (["--ledger", "--diversity"], "--diversity and --ledger"),
        (["--per-row"], "--per-row counts tokens: give --model"),
        (["--baseline", "in.jsonl"], "--baseline counts tokens: give --model"),
        (["--max-length", "9"], "--max-length counts tokens: give --model"),
        (["--price", "a=1,2"], "--price needs --ledger"),
        (["--ledger", "--model", "m"], "--model has no say in --ledger"),
        (["--per-row", "--model", "m", "--figure", "f.svg"], "--figure has no say in --per-row"),
        (["--pairs", "5"], "--pairs needs --diversity"),
        (["--trace", "1", "--max-reject-rate", "0.5"], "--max-reject-rate has no say in --trace"),
        (["--trace", "1", "--to", "arrow"], "--to has no say in --trace"),
        (["--ledger", "--price", "a"], "expected MODEL=IN,OUT"),
        (["in.jsonl"], "a second set of the name"),
        (["x=in.jsonl,in.jsonl"], "given twice"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    mmkit: Mmkit, write: Write, arguments: list[str], said: str
) -> None:
    done = mmkit("stats", write("in.jsonl", LANGUAGE), *arguments)
    assert done.code == 2 and said in done.err and done.out == b""


ENCODER = """
import numpy

class SentenceTransformer:
    def __init__(self, name):
        assert name == "sentence-transformers/all-MiniLM-L6-v2"

    def encode(self, texts, **options):
        assert options["normalize_embeddings"]
        return numpy.array([[1, 0] if text.startswith("Who") else [0.6, 0.8] for text in texts], dtype="float32")
"""


def test_diversity_compares_questions_within_and_between_sets(write: Write, shell: Callable[[str], Any]) -> None:
    write("all.jsonl", [*LANGUAGE, *VISION, {"id": "9", "caption": "no question"}])
    write("stub/sentence_transformers.py", ENCODER.encode())
    done = shell("PYTHONPATH=stub mmkit stats all.jsonl --diversity --pairs 50")
    assert done.code == 0 and "1 rows without a question" in done.err
    means, tests = done.rows()[:3], done.rows()[3:]
    assert [(row["sets"], row["pairs"], round(row["mean"], 5)) for row in means] == [
        (["language", "language"], 50, 1),
        (["language", "vision"], 50, 0.6),
        (["vision", "vision"], 50, 1),
    ]
    assert tests[0]["sets"] + tests[0]["against"] == ["language", "language", "language", "vision"]
    assert tests[0]["difference"] == pytest.approx(0.4) and tests[0]["p"] == 0
    assert "that share none (language 3, vision 2): p-values are too small" in done.err
    tasks = shell("PYTHONPATH=stub mmkit stats all.jsonl --diversity --sets task --pairs 50").rows()
    assert tasks[0]["sets"] == ["squad", "squad"]


def test_without_the_sentence_encoder_diversity_says_how_to_get_it(write: Write, shell: Callable[[str], Any]) -> None:
    write("all.jsonl", LANGUAGE)
    write("stub/sentence_transformers.py", b"raise ModuleNotFoundError('gone', name='sentence_transformers')")
    done = shell("PYTHONPATH=stub mmkit stats all.jsonl --diversity")
    assert done.code == 69 and "pip install 'mmkit[embed]'" in done.err
