"""`mmkit group` as a person runs it: scores to groups, new tasks into old groups, records into a file a group."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_kit import Done, Mmkit

Write = Callable[..., str]
Shell = Callable[[str], Done]

ROWS = [
    {"task": "slake", "score": 1.82, "ci95": [1.7, 1.9], "corrected": 1.7, "corrected_ci95": [1.6, 1.8]},
    {"task": "vqarad", "score": 1.55, "ci95": [1.4, 1.7], "corrected": 1.2},
    {"task": "resisc45", "score": 1.02, "se": 0.02, "corrected": 0.98, "marks": ["few"]},
    {"task": "xor", "score": 1.0, "ci95": [1.0, 1.0], "corrected": 0.0, "marks": ["unlearned"]},
    {"task": "memecap", "score": 0.1, "corrected": 0.05},
]
RECORDS = [
    b'{"id":"1",  "task":"slake", "question": "Is it a lung?"}',
    b'{"id":"2","task":"memecap","x":{"y":[1.0e0]}}',
    b'{"id":"3","task":"vqarad"}',
    b'{"id":"4","task":"slake"}',
]
GROUPS = [
    {"task": "slake", "group": "redundancy"},
    {"task": "memecap", "group": "../synergy"},
    {"task": "vqarad", "group": "redundancy"},
    {"task": "enrico", "group": ".."},
]


def by_group(done: Done) -> dict[str, list[str]]:
    assert done.code == 0, done.err
    found: dict[str, list[str]] = {}
    for row in done.rows():
        found.setdefault(row["group"], []).append(row["task"])
    return found


@pytest.fixture
def scored(write: Write) -> str:
    return write("interaction.jsonl", ROWS)


def test_scores_become_groups_with_what_is_known_of_them(mmkit: Mmkit, scored: str) -> None:
    done = mmkit("group", scored)
    assert by_group(done) == {
        "synergy": ["memecap"],
        "uniqueness": ["xor", "resisc45"],
        "redundancy": ["vqarad", "slake"],
    }
    rows = {row["task"]: row for row in done.rows()}
    assert rows["memecap"] == {
        "task": "memecap",
        "group": "synergy",
        "probability": None,
        "score": 0.1,
        "by": "interaction",
        "corrected": False,
    }
    assert rows["vqarad"]["unsure"] and 0.7 < rows["vqarad"]["probability"] < 0.8
    assert not rows["slake"]["unsure"] and rows["slake"]["probability"] > 0.99
    assert done.err == (
        "mmkit group: 5 rows in, 5 kept, 0 dropped, 0 rejected, "
        + done.err.split("rejected, ")[1].split(";")[0]
        + "; synergy 1, uniqueness 2, redundancy 2; unsure: vqarad; few (fewer instances than a draw has): resisc45; "
        "unlearned (not shown to be right more often than by chance; the score may say nothing): xor\n"
    )


@pytest.mark.parametrize(
    "options", [[], ["--corrected"], ["--by", "distance"], ["--by", "distance", "--max-distance", ".5"]]
)
def test_the_order_of_rows_changes_no_byte(mmkit: Mmkit, write: Write, scored: str, options: list[str]) -> None:
    shuffled = random.Random(1).sample(ROWS, len(ROWS))
    assert mmkit("group", scored, *options).out == mmkit("group", write("other.jsonl", shuffled), *options).out != b""


def test_corrected_scores_tell_synergy_from_constant_guesses(mmkit: Mmkit, scored: str) -> None:
    found = by_group(mmkit("group", scored, "--corrected"))
    assert found == {"synergy": ["xor", "memecap"], "uniqueness": ["resisc45", "vqarad"], "redundancy": ["slake"]}


def test_a_task_without_a_corrected_score_ends_the_run_or_is_rejected(mmkit: Mmkit, write: Write) -> None:
    undefined = {"task": "flat", "score": 2.0, "corrected": None, "marks": ["undefined"]}
    write("interaction.jsonl", [*ROWS, undefined])
    done = mmkit("group", "interaction.jsonl", "--corrected", "-o", "groups.jsonl")
    assert (done.code, done.out) == (65, b"")
    assert "interaction.jsonl:6: task 'flat' has no chance-corrected score: its predictions hardly vary" in done.err
    done = mmkit("group", "interaction.jsonl", "--corrected", "--rejects", "bad.jsonl")
    assert "5 kept, 0 dropped, 1 rejected" in done.err
    assert sorted(task for tasks in by_group(done).values() for task in tasks) == sorted(row["task"] for row in ROWS)


def test_thresholds_and_distances_are_chosen(mmkit: Mmkit, scored: str) -> None:
    found = by_group(mmkit("group", scored, "--thresholds", ".05,1"))
    assert found == {"uniqueness": ["memecap", "xor"], "redundancy": ["resisc45", "vqarad", "slake"]}
    apart = by_group(mmkit("group", scored, "--by", "distance", "--max-distance", ".27"))
    assert list(apart.values()) == [["memecap"], ["xor", "resisc45"], ["vqarad", "slake"]]
    two = by_group(mmkit("group", scored, "--by", "distance", "--num-groups", 2))
    assert list(two.values()) == [["memecap"], ["xor", "resisc45", "vqarad", "slake"]]


def test_single_all_and_file_take_anything_with_a_task(mmkit: Mmkit, write: Write) -> None:
    write("train.jsonl", b"\n".join(RECORDS))
    assert by_group(mmkit("group", "train.jsonl", "--by", "all")) == {"all": ["memecap", "slake", "vqarad"]}
    single = by_group(mmkit("group", "train.jsonl", "--by", "single"))
    assert single == {"memecap": ["memecap"], "slake": ["slake"], "vqarad": ["vqarad"]}
    write("mine.jsonl", GROUPS)
    done = mmkit("group", "train.jsonl", "--by", "file", "--groups", "mine.jsonl")
    assert by_group(done) == {"../synergy": ["memecap"], "redundancy": ["slake", "vqarad"]}
    assert "mine.jsonl names enrico besides" in done.err
    write("mine.jsonl", GROUPS[:1])
    done = mmkit("group", "train.jsonl", "--by", "file", "--groups", "mine.jsonl")
    assert (done.code, done.err) == (65, "mmkit group: no group for 'memecap', 'vqarad': each task needs one\n")


def test_new_tasks_join_groups_whose_rows_stay_as_they_are(mmkit: Mmkit, write: Write, scored: str) -> None:
    there = [{**row, "mine": number} for number, row in enumerate(mmkit("group", scored).rows())]
    write("groups.jsonl", there)
    write("tests.jsonl", [{"task": "slake", "score": 0.0}, {"task": "vqa", "score": 1.9}, {"task": "w", "score": 0.5}])
    done = mmkit("group", "tests.jsonl", "--assign", "groups.jsonl")
    assert done.rows()[: len(there)] == there
    assert [(row["task"], row["group"]) for row in done.rows()[len(there) :]] == [
        ("w", "uniqueness"),
        ("vqa", "redundancy"),
    ]
    assert "; in a group already: slake" in done.err
    nearest = mmkit("group", "tests.jsonl", "--assign", "groups.jsonl", "--by", "distance").rows()
    assert [(row["task"], row["group"]) for row in nearest[len(there) :]] == [("w", "synergy"), ("vqa", "redundancy")]


def test_the_groups_may_come_from_a_pipe(shell: Shell, scored: str) -> None:
    done = shell(f"mmkit group {scored} --assign <(mmkit group {scored} | head -n 4)")
    assert by_group(done)["redundancy"] == ["vqarad", "slake"]


def test_a_terminal_gets_a_table(shell: Shell, scored: str) -> None:
    done = shell(f"script -qec 'mmkit group {scored}' /dev/null")
    lines = [line.split() for line in done.out.decode().splitlines()]
    assert ["redundancy", "vqarad", "1.55", "0.74", "unsure"] in lines
    assert ["synergy", "memecap", "0.10"] in lines


def test_records_are_split_by_group_byte_for_byte(mmkit: Mmkit, write: Write, tmp_path: Path) -> None:
    write("train.jsonl", b"".join(record + b"\n" for record in RECORDS))
    write("groups.jsonl", GROUPS)
    done = mmkit("group", "train.jsonl", "--groups", "groups.jsonl", "--split-to", "by-group")
    assert done.code == 0, done.err
    assert {path.name: path.read_bytes().splitlines() for path in (tmp_path / "by-group").iterdir()} == {
        "redundancy.jsonl": [RECORDS[0], RECORDS[2], RECORDS[3]],
        "%2E.%2Fsynergy.jsonl": [RECORDS[1]],
        "%2E%2E.jsonl": [],
    }
    assert "3 kept, 1 dropped, 0 rejected" in done.err and "group redundancy in by-group/redundancy.jsonl" in done.err


def test_files_of_another_format_are_named_so_that_they_can_be_read(mmkit: Mmkit, write: Write) -> None:
    rows = write("rows.jsonl", [{"id": str(n), "task": "ab"[n % 2], "question": f"{n}?"} for n in range(4)])
    write("groups.jsonl", [{"task": "a", "group": "one"}, {"task": "b", "group": "two"}])
    done = mmkit("group", rows, "--groups", "groups.jsonl", "--split-to", "parts", "--to", "parquet")
    assert done.code == 0, done.err
    for group, ids in (("one", ["0", "2"]), ("two", ["1", "3"])):
        read = mmkit("convert", f"parts/{group}.parquet")
        assert [row["id"] for row in read.rows()] == ids


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"id": "9", "task": "slaek"}, "train.jsonl:5: task 'slaek' is in no group of groups.jsonl"),
        ({"id": "9"}, "train.jsonl:5: no task, so no group"),
    ],
)
def test_a_record_in_no_group_is_never_lost(
    mmkit: Mmkit, write: Write, tmp_path: Path, record: dict[str, Any], why: str
) -> None:
    write("train.jsonl", b"\n".join([*RECORDS, json.dumps(record).encode()]))
    write("groups.jsonl", GROUPS)
    command = ["group", "train.jsonl", "--groups", "groups.jsonl", "--split-to", "by-group"]
    done = mmkit(*command)
    assert (done.code, done.err) == (65, f"mmkit group: {why}\n")
    assert not list(tmp_path.glob("by-group/*"))
    done = mmkit(*command, "--rejects", "bad.jsonl")
    assert done.code == 0
    assert [json.loads(line)["record"] for line in (tmp_path / "bad.jsonl").read_bytes().splitlines()] == [record]
    assert sum(len(path.read_bytes().splitlines()) for path in tmp_path.glob("by-group/*.jsonl")) == len(RECORDS)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/", "a\\b", ".hidden", "..", "x\n", "~", "%2F", "a b", "日本"])
def test_no_group_name_leads_out_of_the_directory(mmkit: Mmkit, write: Write, tmp_path: Path, name: str) -> None:
    write("deep/train.jsonl", RECORDS[0])
    write("groups.jsonl", [{"task": "slake", "group": name}])
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    done = mmkit("group", "deep/train.jsonl", "--groups", "groups.jsonl", "--split-to", "deep/to")
    assert done.code == 0, done.err
    (written,) = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert written.parent == tmp_path / "deep" / "to"
    assert written.read_bytes() == RECORDS[0] + b"\n"


@pytest.mark.parametrize(("one", "other"), [("Red", "red"), ("Straße", "STRASSE"), ("\u00c5", "\u212b")])
def test_groups_that_could_be_one_file_are_refused(
    mmkit: Mmkit, write: Write, tmp_path: Path, one: str, other: str
) -> None:
    write("train.jsonl", b"\n".join(RECORDS))
    write("groups.jsonl", [{"task": "slake", "group": one}, {"task": "memecap", "group": other}])
    done = mmkit("group", "train.jsonl", "--groups", "groups.jsonl", "--split-to", "to")
    assert (done.code, "some file systems have one file for both" in done.err) == (65, True)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("name", ["x" * 260, "日" * 90])
def test_a_group_whose_name_is_no_files_is_refused_before_anything_is_written(
    mmkit: Mmkit, write: Write, tmp_path: Path, name: str
) -> None:
    write("train.jsonl", b"\n".join(RECORDS))
    write("groups.jsonl", [{"task": "slake", "group": "a"}, {"task": "memecap", "group": name}])
    done = mmkit("group", "train.jsonl", "--groups", "groups.jsonl", "--split-to", "to")
    assert (done.code, "too long for a file's" in done.err) == (65, True)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing.jsonl"], 65, "there is no task to group"),
        (["twice.jsonl"], 65, "twice.jsonl:2: task 'a' a second time"),
        (["nan.jsonl"], 65, "nan.jsonl:1: invalid JSON"),
        (["percent.jsonl"], 65, "percent.jsonl:1: score: expected a number from 0 to 2, got 95"),
        (["train.jsonl"], 65, "train.jsonl:1: score: missing"),
        (["interaction.jsonl", "--by", "similarity"], 65, "interaction.jsonl:1: no instruction, question or user turn"),
        (["taskless.jsonl", "--by", "all"], 65, "taskless.jsonl:1: task: expected a name"),
        (["interaction.jsonl", "--by", "distance", "--num-groups", "6"], 2, "5 tasks make 1 to 5 groups"),
        (["interaction.jsonl", "--thresholds", "1.5,.5"], 2, "--thresholds: 1.5 is not below 0.5"),
        (["interaction.jsonl", "--thresholds", "1"], 2, "expected two numbers such as .5,1.5"),
        (["interaction.jsonl", "--num-groups", "2"], 2, "--num-groups has no say in --by interaction"),
        (["train.jsonl", "--by", "single", "--corrected"], 2, "--corrected has no say in --by single"),
        (["train.jsonl", "--by", "similarity", "--tune-lr", "1"], 2, "--tune-lr needs --tune-encoder"),
        (["train.jsonl", "--by", "file"], 2, "--by file needs --groups FILE"),
        (["train.jsonl", "--split-to", "d"], 2, "--split-to needs --groups FILE"),
        (["train.jsonl", "--split-to", "d", "--groups", "nothing.jsonl"], 65, "nothing.jsonl: no row names a group"),
        (["--split-to", "d", "--groups", "groups.jsonl"], 2, "which a pipe cannot do: name a file"),
        (["train.jsonl", "--split-to", ".", "--groups", "train-group.jsonl"], 2, "would overwrite the input"),
        (["interaction.jsonl", "--assign", "groups.jsonl"], 2, "'..' is no kind of interaction; --by distance takes"),
        (["interaction.jsonl", "--assign", "nothing.jsonl"], 65, "nothing.jsonl: no row names a group"),
        (
            ["interaction.jsonl", "--by", "distance", "--num-groups", "2", "--max-distance", "1"],
            2,
            "--num-groups and --max-distance contradict each other",
        ),
        (
            ["interaction.jsonl", "--by", "distance", "--assign", "groups.jsonl", "--num-groups", "2"],
            2,
            "--assign makes no groups: leave --num-groups out",
        ),
    ],
)
def test_mistakes_are_named(
    mmkit: Mmkit, write: Write, scored: str, arguments: list[str], code: int, message: str
) -> None:
    write("nothing.jsonl", b"")
    write("twice.jsonl", [{"task": "a", "score": 1}, {"task": "a", "score": 1}])
    write("nan.jsonl", b'{"task":"a","score":NaN}\n')
    write("percent.jsonl", [{"task": "a", "score": 95}])
    write("taskless.jsonl", [{"id": "1"}])
    write("train.jsonl", b"\n".join(RECORDS))
    write("groups.jsonl", GROUPS)
    write("train-group.jsonl", [{"task": "slake", "group": "train"}])
    done = mmkit("group", *arguments)
    assert (done.code, message in done.err, done.out) == (code, True, b""), done.err
