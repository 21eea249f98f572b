"""mmkit instruct, as users run it: between other commands, with wordings of their own, and with what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_kit import Done, Mmkit
from typer.testing import CliRunner

from mmkit import streams
from mmkit.cli.main import app

ORGAN = {"question": "Which organ is this?", "choices": ["lung", "liver"], "answer": "liver"}


def said(row: dict[str, Any]) -> list[str]:
    return [turn["content"][-1]["text"] for turn in row["messages"]]


def test_shards_together_are_the_whole(mmkit: Mmkit, write: Callable[..., str]) -> None:
    write("tasks.jsonl", [{"id": str(i), **ORGAN} for i in range(30)])
    whole = mmkit("instruct", "tasks.jsonl").rows()
    shards = [mmkit("instruct", "tasks.jsonl", "--shard", f"{i}/2").rows() for i in range(2)]
    assert shards == [whole[::2], whole[1::2]]
    assert mmkit("instruct", "tasks.jsonl", "--seed", 1).rows() != whole


def test_options_say_how_a_task_looks(mmkit: Mmkit, write: Callable[..., str]) -> None:
    write(
        "own.json", json.dumps({"multiple_choice": ["{question}\n{choices}"], "closer": ["Answer: {answer}"]}).encode()
    )
    write(
        "tasks.jsonl", [{"id": "a", **ORGAN, "context": "A scan.", "rationale": "It is brown."}, {"id": "b", **ORGAN}]
    )
    own = ["instruct", "tasks.jsonl", "--templates", "own.json"]
    assert said(mmkit(*own).rows()[0]) == ["A scan.\nWhich organ is this?\nA. lung\nB. liver", "Answer: B"]
    done = mmkit(*own, "--rationale", "--option-style", "inline", "--answer-style", "both", "--context", "after")
    assert said(done.rows()[0]) == [
        "Which organ is this?\nA. lung B. liver\nA scan.",
        "It is brown.\nAnswer: B. liver",
    ]
    assert said(done.rows()[1])[1] == "Answer: B. liver"
    assert done.err.endswith("; 1 without a rationale\n")
    bare = mmkit(*own, "--no-closer", "--answer-style", "text", "--context", "none").rows()
    assert said(bare[0]) == ["Which organ is this?\nA. lung\nB. liver", "liver"]


def test_wordings_of_a_project_lie_beside_its_toml(shell: Callable[[str], Done], write: Callable[..., str]) -> None:
    write("project/own.json", json.dumps({"short_answer": ["{question} (short)"]}).encode())
    write("project/mmkit.toml", b'[instruct]\ntemplates = "own.json"\ncloser = false\ncontext = "none"\n')
    write("project/data/tasks.jsonl", [{"id": "a", "question": "Which?", "context": "c", "answer": "this"}])
    done = shell("cd project/data; mmkit instruct tasks.jsonl")
    assert said(done.rows()[0]) == ["Which? (short)", "this"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--templates", "own.json"], 2, "own.json: closer[1]: an answer could not be read back"),
        (["--templates", "none.json"], 66, "none.json: No such file or directory"),
        (["--rationale", "--no-closer"], 2, "--rationale goes with a closer"),
        (["--merge-image", "--shard", "0/2"], 2, "--merge-image needs all questions on an image: leave out --shard"),
    ],
)
def test_what_cannot_be_done_is_said(
    mmkit: Mmkit, write: Callable[..., str], arguments: list[str], code: int, message: str
) -> None:
    write("own.json", json.dumps({"closer": ["Answer: {answer}", "It is {answer}"]}).encode())
    write("tasks.jsonl", [{"id": "a", **ORGAN}])
    done = mmkit("instruct", "tasks.jsonl", *arguments)
    assert (done.code, done.out) == (code, b"")
    assert done.err.startswith("mmkit instruct: ")
    assert message in done.err


def test_rows_that_are_no_tasks_are_rejected(mmkit: Mmkit, write: Callable[..., str], tmp_path: Path) -> None:
    rows = [{"id": "a", **ORGAN}, {"id": "b", **ORGAN, "answer": "spleen"}, {"id": "c", "answer": "x"}]
    write("tasks.jsonl", rows)
    done = mmkit("instruct", "tasks.jsonl")
    assert (done.code, len(done.rows())) == (65, 1)
    assert "tasks.jsonl:2: answer: 'spleen' is none of the 2 choices" in done.err
    for merge in ([], ["--merge-image"]):
        done = mmkit("instruct", "tasks.jsonl", "--rejects", "r.jsonl", *merge)
        assert "3 rows in, 1 kept, 0 dropped, 2 rejected" in done.err
        reasons = [json.loads(line)["reason"] for line in (tmp_path / "r.jsonl").read_bytes().splitlines()]
        assert [reason.partition(":")[0] for reason in reasons] == ["answer", "question"]


def test_a_stopped_run_goes_on_with_the_same_wordings_only(
    write: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(streams.run.__globals__, "_CHECKPOINT_EVERY_S", 0.0)
    rows: list[Any] = [{"id": str(i), **ORGAN} for i in range(60)]
    ours, others = ({"closer": [f"{word} answer is {{answer}}"]} for word in ("The", "Our"))

    def run(wordings: Any, rows: list[Any], output: str) -> Any:
        write("own.json", json.dumps(wordings).encode())
        write("tasks.jsonl", rows)
        return CliRunner().invoke(app, ["instruct", "tasks.jsonl", "--templates", "own.json", "-o", output])

    assert run(ours, rows, "whole").exit_code == 0
    assert run(ours, [*rows[:50], "torn", *rows[51:]], "stopped").exit_code == 65
    refused = run(others, rows, "stopped")
    assert refused.exit_code == 2
    assert "stopped.part belongs to an unfinished run with templates_text" in refused.stderr
    assert "went on at row" in run(ours, rows, "stopped").stderr
    assert Path("stopped").read_bytes() == Path("whole").read_bytes()


def test_questions_on_one_image_become_one_conversation(mmkit: Mmkit, write: Callable[..., str]) -> None:
    rows = [{"id": str(i), **ORGAN, "images": [{"path": "a.png"}]} for i in range(12)] + [{"id": "text", **ORGAN}]
    write("tasks.jsonl", rows)
    done = mmkit("instruct", "tasks.jsonl", "--merge-image")
    assert "13 rows in, 13 kept (as 3 rows out), 0 dropped, 0 rejected" in done.err
    assert "12 questions on 1 images in 2 conversations" in done.err
    assert [len(row["messages"]) for row in done.rows()] == [2, 18, 6]
    write("mixed.jsonl", rows[::-1])
    assert mmkit("instruct", "mixed.jsonl", "--merge-image").rows() == done.rows()


def test_a_model_that_answers_as_it_was_taught_is_scored_in_full(
    mmkit: Mmkit, shell: Callable[[str], Done], write: Callable[..., str]
) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "mc": ORGAN,
        "closed": {"question": "Is it brown?", "answer": "yes", "answer_type": "yes-no"},
        "em": {"question": "How many lobes?", "answer": "two"},
    }
    tasks = [{"id": f"{name}{i}", "task": name, **kinds[name]} for i in range(20) for name in kinds]
    write("tasks.jsonl", tasks)
    taught = mmkit("instruct", "tasks.jsonl").rows()
    write("answers.jsonl", [{"id": row["id"], "text": said(row)[-1]} for row in taught])
    asking = "mmkit predict --engine replay --answers answers.jsonl"
    done = shell(f"mmkit instruct tasks.jsonl | {asking} | mmkit eval")
    assert done.code == 0, done.err
    assert [(row["task"], row["metric"], row["value"]) for row in done.rows()] == [(k, k, 100.0) for k in sorted(kinds)]
