"""What the summary says is what happened: read = kept + dropped + rejected, and every row is in one of the files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any


def counts(err: str) -> tuple[int, int, int, int]:
    found = re.search(r"([\d,]+) rows in.*?, ([\d,]+) kept.*?, ([\d,]+) dropped, ([\d,]+) rejected", err)
    assert found, err
    read, kept, dropped, rejected = (int(text.replace(",", "")) for text in found.groups())
    assert read == kept + dropped + rejected
    return read, kept, dropped, rejected


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def task(name: str, answer: str, rationale: str | None, **more: Any) -> dict[str, Any]:
    return {"id": name, "question": "Which?", "answer": answer, "rationale": rationale, **more}


def test_filter_by_words(mmkit: Any, write: Any, tmp_path: Path) -> None:
    rows = [
        task("a", "red", "It is red."),
        task("b", "red", "It is blue."),
        task("c", "red", None),
        "torn",
        task("d", "Red.", "so:  RED!"),
    ]
    write("in.jsonl", rows)
    options = ["--judge", "contains", "--rejects", "r.jsonl", "--dropped", "d.jsonl"]
    done = mmkit("filter", "in.jsonl", *options)
    assert counts(done.err) == (5, 2, 1, 2)
    assert [row["id"] for row in done.rows()] == ["a", "d"]
    assert [(a["line"], a["reason"]) for a in lines(tmp_path / "d.jsonl")] == [
        (2, "the answer does not occur in rationale")
    ]
    rejected = lines(tmp_path / "r.jsonl")
    assert [account["line"] for account in rejected] == [3, 4]
    assert rejected[0]["record"] == rows[2], "the row can be mended and run again"
    assert {account["command"] for account in rejected} == {"filter"}


def test_filter_by_a_model(mmkit: Any, write: Any, tmp_path: Path) -> None:
    verdicts = {"a": (-0.1, -3.0, -4.0), "b": (-3.0, -0.1, -4.0), "c": (-3.0, -4.0, -0.1), "d": (-1.0, -1.1, -1.2)}
    write("in.jsonl", [task(name, "x", "y") for name in [*verdicts, "e"]])
    scores = [{"id": n, "log_probs": dict(zip((" Yes", " No", " Open"), v, strict=True))} for n, v in verdicts.items()]
    write("answers.jsonl", [*scores, {"id": "e", "error": "the judge is ill"}])
    engine = ["--engine", "replay", "--answers", "answers.jsonl", "--rejects", "r.jsonl", "--dropped", "d.jsonl"]
    done = mmkit("filter", "in.jsonl", *engine)
    assert counts(done.err) == (5, 2, 2, 1)
    assert "2 yes, 1 no, 1 open" in done.err
    assert [row["id"] for row in done.rows()] == ["a", "d"]
    assert [row["id"] for row in mmkit("filter", "in.jsonl", *engine, "--threshold", "0.5").rows()] == ["a"]
    assert [row["id"] for row in mmkit("filter", "in.jsonl", *engine, "--keep", "no,open").rows()] == ["b", "c"]
    (account,) = lines(tmp_path / "r.jsonl")
    assert "the judge gave no verdict: the judge is ill" in account["reason"]
    done = mmkit("filter", "in.jsonl", *engine[:4])
    assert done.code == 69
    assert "mmkit filter: in.jsonl:5: the judge gave no verdict: the judge is ill" in done.err


def test_synthesize_says_what_it_made_of_every_caption(mmkit: Any, write: Any, picture: Any, tmp_path: Path) -> None:
    picture("p.png")
    good = [
        {"role": "user", "text": "Answer with a precise response.\nWhat colour?"},
        {"role": "assistant", "text": "navy"},
        {"role": "user", "text": "Answer with an informative response.\nWhat colour?"},
        {"role": "assistant", "text": "It is navy."},
    ]
    write("captions.jsonl", [{"id": n, "image": "p.png", "caption": "a square"} for n in "abc"] + [{"id": "d"}])
    write(
        "answers.jsonl",
        [{"id": "a#0", "turns": good}, {"id": "b#0", "turns": good[:2]}, {"id": "c#0", "error": "out of memory"}],
    )
    options = ["--engine", "replay", "--answers", "answers.jsonl", "--rejects", "r.jsonl", "--dropped", "d.jsonl"]
    done = mmkit("synthesize", "--captions", "captions.jsonl", *options)
    assert counts(done.err) == (4, 1, 1, 2)
    (made,) = done.rows()
    assert (made["id"], made["question"], made["answer"]) == ("a#0", "What colour?", "navy")
    assert made["rationale"] == "It is navy."
    assert made["lineage"][-1]["parents"] == ["a"]
    assert [account["line"] for account in lines(tmp_path / "r.jsonl")] == [3, 4]
    assert "out of memory" in lines(tmp_path / "r.jsonl")[0]["reason"]


def test_expanding_and_merging_commands_state_both_counts(mmkit: Any, write: Any) -> None:
    write("captions.jsonl", [{"id": "a", "caption": "A cat."}])
    write("tasks.jsonl", [task("x", "cat", "A cat, so cat."), task("y", "dog", "no")])
    done = mmkit("compose", "tasks.jsonl", "--captions", "captions.jsonl")
    assert "1 rows in, 1 kept (as 3 rows out)" in done.err
    assert len(done.rows()) == 3


def test_a_task_that_cannot_be_composed_is_named(mmkit: Any, write: Any, tmp_path: Path) -> None:
    write("captions.jsonl", [{"id": "a", "caption": "A cat."}])
    write("tasks.jsonl", [task("x", "cat", None), task("y", "dog", "It barks, so it is a dog.")])
    done = mmkit("compose", "tasks.jsonl", "--captions", "captions.jsonl")
    assert done.code == 65
    assert 'task "x": rationale: this composition needs it' in done.err
    done = mmkit("compose", "tasks.jsonl", "--captions", "captions.jsonl", "--rejects", "r.jsonl")
    assert counts(done.err) == (2, 1, 0, 1)
    assert [row["id"] for row in done.rows()] == ["a", "y"]
    assert lines(tmp_path / "r.jsonl")[0]["record"]["id"] == "x"


def test_split_into_parts_loses_nothing(mmkit: Any, write: Any, tmp_path: Path) -> None:
    rows = [{"id": str(i), "images": [{"path": f"{i % 40}.png"}, {"path": f"./{i % 7}.png"}]} for i in range(120)]
    rows += [{"id": f"t{i}"} for i in range(60)]
    write("all.jsonl", rows)
    done = mmkit("split", "all.jsonl", "--into", "parts", "--ratio", "train=.5,test=.5", "--seed", "3")
    assert done.code == 0
    parts = {path.stem: lines(path) for path in (tmp_path / "parts").iterdir()}
    assert set(parts) == {"train", "test"}
    assert sorted(row["id"] for part in parts.values() for row in part) == sorted(row["id"] for row in rows)
    images = [
        {image["path"].removeprefix("./") for row in p for image in row.get("images", ())} for p in parts.values()
    ]
    assert not images[0] & images[1]


def test_repeated_ids_and_the_rate_of_rejects(mmkit: Any, write: Any) -> None:
    write("in.jsonl", [{"id": "a"}, {"id": "b"}, {"id": "a"}, {"id": "c"}])
    done = mmkit("validate", "in.jsonl", "--check-ids")
    assert (done.code, done.err) == (65, 'mmkit validate: in.jsonl:3: id: "a" occurs a second time\n')
    assert counts(mmkit("validate", "in.jsonl", "--check-ids", "--rejects", "r").err) == (4, 3, 0, 1)
    rate = ["--rejects", "r", "--max-reject-rate"]
    assert mmkit("validate", "in.jsonl", "--check-ids", *rate, "0.25").code == 0
    done = mmkit("validate", "in.jsonl", "--check-ids", *rate, "0.2")
    assert done.code == 75
    assert "1 of 4 rows rejected, more than --max-reject-rate 0.2 allows (see r)" in done.err
