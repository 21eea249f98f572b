"""`finetune --group` trains on the rows of one group, and on nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from distributed_kit import ENVIRONMENT

from mmkit.balance.members import Members
from mmkit.cli.groups_file import read_task_groups
from mmkit.cli.training_rows import read_samples
from mmkit.errors import DataError
from mmkit.training.config import TuneConfig
from mmkit.training.job import Job
from mmkit.training.samples import Refused, Sample

pytestmark = pytest.mark.tiny

MMKIT = [sys.executable, "-c", "import sys; sys.argv[0] = 'mmkit'; from mmkit.cli.main import main; main()"]
TASKS = ("slake", "memecap", "pathvqa")
GROUPS = [
    {"task": "slake", "group": "redundancy"},
    {"task": "memecap", "group": "synergy"},
    {"task": "pathvqa", "group": "redundancy"},
    {"task": "enrico", "group": "uniqueness"},
]


def row(number: int, task: str | None) -> dict[str, Any]:
    turns = [("user", f"say {number}"), ("assistant", f"it is {number}")]
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    return {"id": f"r{number}", "task": task, "messages": messages}


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Callable[[str], Path]) -> Path:
    """A model, and the tasks' groups."""
    (tmp_path / "base").symlink_to(tiny_model("qwen2_vl"))
    write(tmp_path / "groups.jsonl", GROUPS)
    return tmp_path


def finetune(folder: Path, data: str, out: str, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [*MMKIT, "finetune", data, "--model", "base", "-o", out, "--max-steps", "2", "--device", "cpu", *arguments],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        timeout=200,
        check=False,
    )
    return done.returncode, done.stderr.decode()


OF_REDUNDANCY = ("--group", "redundancy", "--groups", "groups.jsonl")


def test_it_is_the_run_on_the_groups_rows_alone(folder: Path) -> None:
    rows = [row(number, TASKS[number % 3]) for number in range(12)]
    write(folder / "train.jsonl", [*rows, row(12, "slaek"), row(13, None)])
    write(folder / "own.jsonl", (one for one in rows if one["task"] != "memecap"))
    code, said = finetune(folder, "train.jsonl", "grouped", *OF_REDUNDANCY, "--rejects", "bad.jsonl")
    assert code == 0, said
    assert "8 rows of redundancy (4 of other groups left out, 2 rejected), 2 steps" in said
    reasons = [json.loads(line)["reason"] for line in (folder / "bad.jsonl").read_text().splitlines()]
    assert reasons == [
        "train.jsonl:13: task 'slaek' is in no group of groups.jsonl",
        "train.jsonl:14: no task, so no group",
    ]
    assert finetune(folder, "own.jsonl", "alone")[0] == 0
    weights = [(folder / out / "model.safetensors").read_bytes() for out in ("grouped", "alone")]
    assert weights[0] == weights[1]
    run = json.loads((folder / "grouped" / "run.json").read_text())
    assert run["task_group"] == {"name": "redundancy", "tasks": ["pathvqa", "slake"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--group", "redundency", "--groups", "groups.jsonl"),
            "'redundency' is no group of groups.jsonl; there are: redundancy, synergy, uniqueness",
        ),
        (("--group", "redundancy"), "--group and --groups go together: give --groups FILE, too"),
        (("--groups", "groups.jsonl"), "--group and --groups go together: give --group NAME, too"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    write(tmp_path / "groups.jsonl", GROUPS)
    code, said = finetune(tmp_path, "train.jsonl", "tuned", *arguments)
    assert (code, said) == (2, f"mmkit finetune: {message}\n")
    assert not (tmp_path / "tuned").exists()


def test_a_row_in_no_group_is_an_error_before_anything_is_trained(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [row(0, "slake"), row(1, "memecap"), row(2, "slaek")])
    write(tmp_path / "groups.jsonl", GROUPS)
    groups = read_task_groups(str(tmp_path / "groups.jsonl"))
    members = Members("redundancy", groups, "groups.jsonl")
    own, refused = read_samples([str(tmp_path / "train.jsonl")], members=members)
    assert isinstance(own, Sample) and own.id == "r0"
    assert isinstance(refused, Refused) and "task 'slaek' is in no group of groups.jsonl" in str(refused.error)
    assert (members.num_own, members.num_others) == (1, 1)


def test_a_group_without_a_row_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [row(0, "slake"), row(1, "memecap")])
    members = Members("uniqueness", {one["task"]: one["group"] for one in GROUPS}, "groups.jsonl")
    with pytest.raises(DataError, match="no row is in the group 'uniqueness': 2 are in others"):
        list(read_samples([str(tmp_path / "train.jsonl")], members=members))


def test_a_run_of_another_group_does_not_go_on(tmp_path: Path) -> None:
    group = {"name": "redundancy", "tasks": ["slake"]}
    job = Job(tmp_path, "base", TuneConfig(), 1, {}, None, "abc", 0, task_group=group)
    assert job.differences(replace(job, task_group={**group, "name": "synergy"})) == [
        "group: 'synergy' there, 'redundancy' here"
    ]
    assert job.differences(replace(job, task_group=None)) == ["group: None there, 'redundancy' here"]
    # More tasks in the group, and no other rows: the same run.
    assert job.differences(replace(job, task_group={**group, "tasks": ["slake", "vqarad"]})) == []
