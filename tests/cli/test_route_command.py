"""`mmkit predict --route` as a user runs it: each task's rows to its group's adapter, and what is said of mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmkit.testing.batch_runner import run_batch
from mmkit.testing.server import Answer, OpenAiServer, Received, chat

ADAPTERS = "redundancy=red,uniqueness=uni,synergy=base"
TASKS = {"digits": "redundancy", "maps": "uniqueness", "jokes": "synergy"}


def name_yourself(received: Received) -> Answer:
    return chat(f"by {received.body['model']}", tokens=(9, 4))


@pytest.fixture
def rows(write: Any) -> str:
    """Nine rows of three tasks in turn, and groups.jsonl."""
    write("groups.jsonl", [{"task": task, "group": group} for task, group in TASKS.items()])
    tasks = list(TASKS)
    name: str = write("rows.jsonl", [{"id": f"r{n}", "task": tasks[n % 3], "question": f"{n}?"} for n in range(9)])
    return name


@pytest.mark.loopback
@pytest.mark.enable_socket
def test_a_server_is_asked_by_the_adapters_name(mmkit: Any, rows: str) -> None:
    with OpenAiServer(name_yourself, models=["base", "red", "uni"]) as server:
        engine = ["--engine", "openai", "--base-url", server.base_url, "--model", "tiny"]
        done = mmkit("predict", rows, *engine, "--route", "groups.jsonl", "--adapters", ADAPTERS, "--cache", "kept")
        num_asked = len(server.received)
        again = mmkit("predict", rows, *engine, "--route", "groups.jsonl", "--adapters", ADAPTERS, "--cache", "kept")
        assert len(server.received) == num_asked
        other = ADAPTERS.replace("red,", "uni,")
        mmkit("predict", rows, *engine, "--route", "groups.jsonl", "--adapters", other, "--cache", "kept")
        assert [received.body["model"] for received in server.received[num_asked:]] == ["uni"] * 3
    assert [row["prediction"] for row in done.rows()] == ["by red", "by uni", "by tiny"] * 3
    assert again.out == done.out
    entries = [row["lineage"][-1] for row in done.rows()]
    assert [(entry["model"], entry.get("adapter")) for entry in entries[:3]] == [
        ("tiny", "red"),
        ("tiny", "uni"),
        ("tiny", None),
    ]


def test_a_batch_names_the_adapter_as_the_model(mmkit: Any, rows: str, tmp_path: Path) -> None:
    (tmp_path / "red").mkdir()
    (tmp_path / "red" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 20}))
    routed = [rows, "--model", "m", "--route", "groups.jsonl", "--adapters", ADAPTERS]
    done = mmkit("predict", *routed, "--to-batch", "requests.jsonl")
    assert done.code == 0, done.err
    serving = "--model m --enable-lora --max-loras 2 --max-lora-rank 32 --lora-modules red=red uni=DIR, then"
    assert serving in done.err
    requests = (tmp_path / "requests.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["body"]["model"] for line in requests] == ["red", "uni", "m"] * 3
    (tmp_path / "answers.jsonl").write_bytes(run_batch(reversed(requests), name_yourself))
    read = mmkit("predict", *routed, "--from-batch", "answers.jsonl")
    assert [row["prediction"] for row in read.rows()] == ["by red", "by uni", "by m"] * 3
    swapped = [word.replace("red,", "uni,") for word in routed]
    refused = mmkit("predict", *swapped, "--from-batch", "answers.jsonl")
    assert refused.code == 69 and "no answer to 'r0-" in refused.err


def test_a_row_without_a_group_is_rejected_and_never_guessed(mmkit: Any, write: Any, rows: str, tmp_path: Path) -> None:
    with (tmp_path / rows).open("a") as file:
        file.write('{"id": "new", "task": "riddles", "question": "?"}\n{"id": "none", "question": "?"}\n')
    write("answers.jsonl", [{"id": name, "text": "yes"} for name in [*(f"r{n}" for n in range(9)), "new", "none"]])
    routed = [rows, "--engine", "replay", "--answers", "answers.jsonl", "--route", "groups.jsonl"]
    stopped = mmkit("predict", *routed, "--adapters", ADAPTERS)
    assert stopped.code == 65
    assert "rows.jsonl:10: task 'riddles' is in no group of groups.jsonl: add it there, or say who" in stopped.err
    done = mmkit("predict", *routed, "--adapters", ADAPTERS, "--rejects", "rejects.jsonl")
    assert (done.code, len(done.rows())) == (0, 9)
    rejects = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rejects] == [10, 11]
    assert "no task, and so no group" in rejects[1]["reason"]
    done = mmkit("predict", *routed, "--adapters", "redundancy=red", "--adapters", "other=base")
    assert [row["lineage"][-1].get("adapter") for row in done.rows()] == ["red", None, None] * 3 + [None, None]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--route", "groups.jsonl"], 2, "give both"),
        (["--adapters", ADAPTERS], 2, "give both"),
        (["--route", "groups.jsonl", "--adapters", ADAPTERS, "--adapter", "red"], 2, "give one of the two"),
        (["--route", "groups.jsonl", "--adapters", "redundancy"], 2, "expected GROUP=DIR"),
        (["--route", "groups.jsonl", "--adapters", "redundancy=red"], 2, "nobody answers for group 'uniqueness'"),
        (["--route", "groups.jsonl", "--adapters", "redundency=red"], 2, "did you mean redundancy?"),
        (["--route", "gone.jsonl", "--adapters", ADAPTERS], 66, "gone.jsonl"),
        (["--route", "rows.jsonl", "--adapters", ADAPTERS], 65, 'rows.jsonl: row 1: expected {"task": "…", "group"'),
        (["--route", "groups.jsonl", "--adapters", ADAPTERS], 66, "adapter 'red': no such directory"),
        (["--route", "groups.jsonl", "--adapters", ADAPTERS, "--engine", "vllm"], 66, "adapter 'red': no such dir"),
        (["--route", "groups.jsonl", "--adapters", "redundancy=whole,other=base"], 65, "whole/adapter is one"),
        (
            ["--route", "groups.jsonl", "--adapters", "redundancy=theirs,other=base"],
            65,
            "theirs was trained on org/one",
        ),
        (["--route", "groups.jsonl", "--adapters", "redundancy=prompts,other=base"], 65, "peft_type 'PROMPT_TUNING'"),
        (["--route", "groups.jsonl", "--adapters", "redundancy=biased,other=base"], 65, "biased brings biases for the"),
    ],
)
def test_mistakes_are_said_before_a_model_is_loaded(
    mmkit: Any, write: Any, rows: str, options: list[str], code: int, words: str
) -> None:
    write("whole/adapter/adapter_config.json", [{"peft_type": "LORA"}])
    write("theirs/adapter_config.json", [{"peft_type": "LORA", "base_model_name_or_path": "org/one"}])
    write("theirs/adapter_model.safetensors", b"")
    write("biased/adapter_config.json", [{"peft_type": "LORA", "bias": "all"}])
    write("prompts/adapter_config.json", [{"peft_type": "PROMPT_TUNING"}])
    done = mmkit("predict", rows, "--model", "org/another", *options)
    assert (done.code, done.out) == (code, b"")
    assert words in done.err
