"""`mmkit weights` as a person runs it: contribution rows or a paper's figures in, weights out, and its mistakes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_kit import Done, Mmkit, on_terminal

from mmkit.cli.training_rows import read_samples
from mmkit.cli.weights_file import read_task_weights

Write = Callable[..., str]
Shell = Callable[[str], Done]

MEASURED = [
    {"task": "vqa", "C_out": 0.3, "C_in": 0.1, "D": 0.1},
    {"task": "captions", "C_out": 0.1, "C_in": 0.2, "D": 0.4},
    {"task": "boxes", "C_out": 0.1, "C_in": 0.2, "D": 1.2},
]
V = {"trained_on": "mini", "evaluated_on": "vqa", "metric": "accuracy", "value": 50.0, "seed": 0}
C = {"from": "vqa", "to": "boxes", "C": 0.25}


def weights(done: Done) -> dict[str, float]:
    assert done.code == 0, done.err
    return {row["task"]: row["weight"] for row in done.rows()}


@pytest.fixture
def measured(write: Write) -> str:
    return write("contribution.jsonl", [V, C, *MEASURED])


def test_contribution_rows_become_weights_that_finetune_and_mix_read(
    mmkit: Mmkit, measured: str, tmp_path: Path
) -> None:
    done = mmkit("weights", measured, "-o", "weights.jsonl")
    assert done.code == 0, done.err
    assert "5 rows in, 5 kept (as 3 rows out)" in done.err
    assert "; temperature 0.5; weights from 0." in done.err
    found = read_task_weights(str(tmp_path / "weights.jsonl"))
    assert list(found) == ["vqa", "captions", "boxes"]
    assert sum(found.values()) == pytest.approx(3)
    assert found["boxes"] > found["vqa"] > found["captions"]


def test_rows_say_by_which_rule_they_were_computed(mmkit: Mmkit, measured: str) -> None:
    def rule(*arguments: str) -> dict[str, Any]:
        *_, row, fixed = mmkit("weights", measured, "--fixed", "chat=1", *arguments).rows()
        assert fixed == {"task": "chat", "weight": 1.0, "fixed": True}
        return {name: row.get(name) for name in ("strategy", "temperature", "alpha")}

    assert rule() == {"strategy": "visatb", "temperature": 0.5, "alpha": [0.25, 0.25, 0.5]}
    assert rule("--strategy", "in", "--temperature", "2") == {"strategy": "in", "temperature": 2.0, "alpha": [0, 1, 0]}
    assert rule("--strategy", "equal") == {"strategy": "equal", "temperature": None, "alpha": None}


def test_auto_says_its_temperature_and_the_same_temperature_gives_the_same(mmkit: Mmkit, measured: str) -> None:
    auto = mmkit("weights", measured, "--temperature", "auto", "--strategy", "difficulty")
    assert min(weights(auto).values()) == pytest.approx(0.5, abs=1e-6)
    temperature = auto.rows()[0]["temperature"]
    assert f"; temperature {temperature:.9g};" in auto.err
    again = mmkit("weights", measured, "--temperature", str(temperature), "--strategy", "difficulty")
    assert again.out == auto.out
    assert "outside" not in again.err


def test_weights_beyond_the_papers_bounds_are_named(mmkit: Mmkit, measured: str) -> None:
    done = mmkit("weights", measured, "--strategy", "difficulty", "--temperature", ".2")
    assert "outside of 0.5 to 2, which the paper advises to keep to: vqa, captions, boxes" in done.err


@pytest.mark.parametrize(
    ("strategy", "alpha"), [("out", ["1", "0", "0"]), ("in", ["0", "1", "0"]), ("difficulty", ["0", "0", "1"])]
)
def test_a_part_alone_is_visatb_with_that_share(mmkit: Mmkit, measured: str, strategy: str, alpha: list[str]) -> None:
    assert weights(mmkit("weights", measured, "--strategy", strategy)) == weights(
        mmkit("weights", measured, "--alpha", *alpha)
    )


def test_a_fixed_task_does_not_count(mmkit: Mmkit, measured: str) -> None:
    without = weights(mmkit("weights", measured))
    assert weights(mmkit("weights", measured, "--fixed", "chat=1.0")) == {**without, "chat": 1.0}
    found = weights(mmkit("weights", measured, "--fixed", "boxes=0.25", "--strategy", "equal"))
    assert found == {"vqa": 1.0, "captions": 1.0, "boxes": 0.25}
    two = weights(mmkit("weights", measured, "--fixed", "boxes=3"))
    assert two["vqa"] + two["captions"] == pytest.approx(2)
    none = mmkit("weights", measured, "--temperature", "auto", *(f"--fixed={row['task']}=2" for row in MEASURED))
    assert weights(none) == {"vqa": 2.0, "captions": 2.0, "boxes": 2.0}


def test_explain_says_a_sentence_a_task_and_changes_no_row(mmkit: Mmkit, measured: str) -> None:
    plain, explained = (mmkit("weights", measured, "--fixed", "chat=1", *more) for more in ((), ("--explain",)))
    assert explained.out == plain.out
    _, *sentences = explained.err.splitlines()
    assert [sentence.split(":")[0] for sentence in sentences] == ["vqa", "captions", "boxes", "chat"]
    assert "raised: it is harder (D 1.2000 makes " in sentences[2]


def test_names_of_tasks_cannot_write_to_the_terminal(mmkit: Mmkit, write: Write) -> None:
    name = "\x1b[31mred\x1b[0m\n日本"
    hostile = write("hostile.jsonl", [{**MEASURED[0], "task": name, "flat": [name]}, *MEASURED[1:]])
    done = mmkit("weights", hostile, "--explain", "--temperature", ".1", "--fixed", f"{name}2=1")
    assert [row["task"] for row in done.rows()] == [name, "captions", "boxes", f"{name}2"]
    assert "\x1b" not in done.err
    assert len([line for line in done.err.splitlines() if "日本" in line and line.startswith("\\x1b[31mred")]) == 2


def test_groups_weigh_their_tasks(mmkit: Mmkit, write: Write) -> None:
    rows = [{**MEASURED[0], "tasks": ["gqa", "vqav2"]}, {**MEASURED[1], "tasks": ["coco"], "flat": ["coco"]}]
    done = mmkit("weights", write("groups.jsonl", rows))
    assert [(row["task"], row["group"]) for row in done.rows()] == [
        ("gqa", "vqa"),
        ("vqav2", "vqa"),
        ("coco", "captions"),
    ]
    assert weights(done)["gqa"] == weights(done)["vqav2"]
    assert "flat, so read with care: coco" in done.err


@pytest.mark.parametrize("strategy", ["visatb", "equal"])
def test_a_fixed_group_fixes_its_tasks_and_does_not_count(mmkit: Mmkit, write: Write, strategy: str) -> None:
    groups = write("groups.jsonl", [{**MEASURED[0], "task": "qa", "tasks": ["gqa", "vqa"]}, *MEASURED[1:]])
    without = weights(mmkit("weights", write("rest.jsonl", MEASURED[1:]), "--strategy", strategy))
    for fixed in (["qa=3"], ["gqa=3", "vqa=3"]):
        done = mmkit("weights", groups, "--strategy", strategy, *(f"--fixed={each}" for each in fixed))
        assert weights(done) == {**without, "gqa": 3.0, "vqa": 3.0}
    one = weights(mmkit("weights", groups, "--strategy", strategy, "--fixed", "vqa=3"))
    assert one == {**weights(mmkit("weights", groups, "--strategy", strategy)), "vqa": 3.0}


def test_groups_go_from_values_to_a_mixture_and_a_training(
    mmkit: Mmkit, shell: Shell, write: Write, tmp_path: Path
) -> None:
    values = {"mini": (20, 0.2, 50), "large:qa": (60, 0.6, 55), "large:text": (30, 0.4, 75)}
    write("V.jsonl", [
        {"trained_on": training, "evaluated_on": task, "metric": "em", "value": value}
        for training, row in values.items()
        for task, value in zip(("gqa", "vqa", "alpaca"), row, strict=True)
    ])  # fmt: skip
    members = {"gqa": "qa", "vqa": "qa", "alpaca": "text"}
    write("groups.jsonl", [{"task": task, "group": group} for task, group in members.items()])
    done = shell(
        "mmkit measure-contribution --scores V.jsonl --groups groups.jsonl"
        " | mmkit weights --temperature .05 --fixed chat=2 -o weights.jsonl"
    )
    assert done.code == 0, done.err
    found = read_task_weights(str(tmp_path / "weights.jsonl"))
    assert found["gqa"] == found["vqa"] > 1 > found["alpaca"] > 0
    write("train.jsonl", [
        {"id": f"{task}{number}", "task": task, "messages": [
            {"role": "user", "content": [{"type": "text", "text": f"{task} {number}?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
        ]}
        for task in found
        for number in range(100)
    ])  # fmt: skip
    mixed = mmkit("mix", "train.jsonl", "--weights", "weights.jsonl", "--budget", "100").rows()
    counts = Counter(row["task"] for row in mixed)
    total = sum(found.values())
    assert all(abs(counts[task] - 100 * weight / total) < 1 for task, weight in found.items())
    samples = read_samples([str(tmp_path / "train.jsonl")], task_weights=found)
    assert {sample.task: sample.weight for sample in samples} == found


def test_seeds_become_intervals(mmkit: Mmkit, write: Write) -> None:
    rows = [{**row, "by_seed": {"C_out": [0.1, 0.2], "C_in": [0.1, 0.1], "D": [row["D"], 0.3]}} for row in MEASURED]
    for row in mmkit("weights", write("seeds.jsonl", rows)).rows():
        low, high = row["ci95"]
        assert 0 <= low <= row["weight"] <= high <= 3


def test_the_rows_of_stats_become_weights_by_rows(shell: Shell, write: Write) -> None:
    records = [{"id": str(number), "task": "a" if number < 9 else "b", "question": "?"} for number in range(10)]
    write("train.jsonl", records)
    assert weights(shell("mmkit stats train.jsonl | mmkit weights --strategy size")) == {"a": 1.8, "b": 0.2}
    assert weights(shell("mmkit stats train.jsonl | mmkit weights --strategy sqrt-size")) == {"a": 1.5, "b": 0.5}
    assert weights(shell("mmkit stats train.jsonl | mmkit weights --strategy equal")) == {"a": 1.0, "b": 1.0}
    done = shell("mmkit stats train.jsonl | mmkit weights --strategy tokens")
    assert "loss_tokens: expected how many there are, 1 or more, as mmkit stats --model counts; got None" in done.err


def test_sets_add_up_by_task(mmkit: Mmkit, write: Write) -> None:
    rows = [
        {"set": "x", "task": None, "rows": 9, "loss_tokens": 900},
        {"set": "x", "task": "a", "rows": 1, "loss_tokens": 100},
        {"set": "y", "task": "a", "rows": 3, "loss_tokens": 300},
        {"set": "y", "task": "b", "rows": 4, "loss_tokens": 1200},
    ]
    assert weights(mmkit("weights", write("stats.jsonl", rows), "--strategy", "size")) == {"a": 1.0, "b": 1.0}
    assert weights(mmkit("weights", "stats.jsonl", "--strategy", "tokens")) == {"a": 1.5, "b": 0.5}


def test_fixed_tasks_and_groups_in_the_other_strategies(mmkit: Mmkit, write: Write) -> None:
    sizes = write("sizes.jsonl", [{"task": task, "rows": rows} for task, rows in (("a", 1), ("b", 3), ("c", 96))])
    found = weights(mmkit("weights", sizes, "--strategy", "size", "--fixed", "c=1"))
    assert found == {"a": 0.5, "b": 1.5, "c": 1.0}
    groups = write("groups.jsonl", [{**MEASURED[0], "tasks": ["gqa", "vqav2"]}, MEASURED[1]])
    found = weights(mmkit("weights", groups, "--strategy", "equal"))
    assert found == {"gqa": 1.0, "vqav2": 1.0, "captions": 1.0}


def test_a_terminal_gets_a_table(measured: str, tmp_path: Path) -> None:
    shown = on_terminal(["weights", measured, "--fixed", "chat=1"], tmp_path)
    assert "{" not in shown
    lines = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if len(line.split()) > 2}
    assert lines["chat"] == ["1.0000", "fixed"]
    assert lines["boxes"][0].startswith("1.")


@pytest.mark.parametrize(
    ("rows", "arguments", "code", "said"),
    [
        ([V, C], [], 65, "no row has C_out, C_in and D of a task; mmkit measure-contribution makes them"),
        ([*MEASURED, MEASURED[0]], [], 65, "bad.jsonl:4: task 'vqa' a second time"),
        ([{"task": "a", "C_out": 1, "C_in": 1}], [], 65, "bad.jsonl:1: D: expected a finite number, got None"),
        ([{"weight": 1}], [], 65, "bad.jsonl:1: task: expected a name"),
        (MEASURED, ["--strategy", "size"], 65, "bad.jsonl:1: rows: expected how many there are"),
        (
            [{"set": "x", "task": "", "rows": 1}],
            ["--strategy", "size"],
            65,
            "bad.jsonl:1: task: expected a name, got ''; records of no task can have no weight",
        ),
        ([{"set": "x", "task": None, "rows": 1}], ["--strategy", "size"], 65, "no row is of a task"),
        ([{"task": "a", "rows": 0}], ["--strategy", "size"], 65, "rows: expected how many there are, 1 or more"),
        (
            [{"task": "a", "rows": True}],
            ["--strategy", "size"],
            65,
            "rows: expected how many there are, 1 or more, as mmkit stats counts; got True",
        ),
        (MEASURED, ["--temperature", "0"], 2, "expected a number above 0, or auto, got '0'"),
        (MEASURED, ["--temperature", "nan"], 2, "expected a number above 0, or auto"),
        (MEASURED, ["--alpha", "1", "1", "1"], 2, "--alpha: expected three shares that sum to 1, got 1 1 1"),
        (MEASURED, ["--alpha", "1", "0", "0", "--strategy", "in"], 2, "--alpha has no say in --strategy in"),
        (MEASURED, ["--temperature", "1", "--strategy", "equal"], 2, "--temperature has no say in --strategy equal"),
        (MEASURED, ["--fixed", "chat"], 2, "--fixed: expected TASK=WEIGHT with a weight of 0 or more, got 'chat'"),
        (MEASURED, ["--fixed", "=1"], 2, "--fixed: expected TASK=WEIGHT"),
        (MEASURED, ["--fixed", "chat=-1"], 2, "--fixed: expected TASK=WEIGHT"),
        (MEASURED, ["--fixed", "chat=nan"], 2, "--fixed: expected TASK=WEIGHT"),
        (MEASURED, ["--fixed", "chat=1", "--fixed", "chat=2"], 2, "--fixed: task 'chat' a second time"),
        ([{**MEASURED[0], "tasks": ["a"]}, {**MEASURED[1], "tasks": ["a"]}], [], 65, "task 'a' a second time"),
        ([], [], 65, "no row has C_out, C_in and D"),
    ],
)
def test_mistakes_are_named(
    mmkit: Mmkit, write: Write, rows: list[dict[str, Any]], arguments: list[str], code: int, said: str
) -> None:
    done = mmkit("weights", write("bad.jsonl", rows), *arguments)
    assert (done.code, done.out) == (code, b"")
    assert said in done.err


def test_a_nan_in_the_file_is_refused_with_its_line(mmkit: Mmkit, tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in MEASURED]
    (tmp_path / "nan.jsonl").write_text("\n".join([*lines, '{"task":"d","C_out":NaN,"C_in":0,"D":0}']) + "\n")
    done = mmkit("weights", "nan.jsonl")
    assert (done.code, done.out) == (65, b"")
    assert "nan.jsonl:4: " in done.err
