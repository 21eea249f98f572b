"""mmkit mix, as users run it: from files, by ratios, weights and groups, killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_kit import ENVIRONMENT, MMKIT, Done, Mmkit

Write = Callable[..., str]


def tasks(name: str, count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"id": f"{name}-{i}", "task": name, "question": f"{name} {i}?", **fields} for i in range(count)]


def by_task(done: Done) -> dict[str, int]:
    assert done.code == 0, done.err
    return dict(Counter(row["task"] for row in done.rows()))


@pytest.fixture
def files(write: Write) -> list[str]:
    """Three data sets of language and one of vision."""
    picture = {"images": [{"path": "x.jpg"}]}
    return [
        write("language/squad.jsonl", tasks("squad", 60, family="qa")),
        write("language/cosmosqa.jsonl", tasks("cosmosqa", 50, family="qa")),
        write("language/arc.jsonl", tasks("arc", 5, family="reasoning")),
        write("vision/vqa.jsonl", tasks("vqa", 30, **picture)),
    ]


def test_budget_and_ratio_are_met_in_any_order_of_the_files(mmkit: Mmkit, files: list[str]) -> None:
    mix = ["mix", "--budget", "80", "--ratio", "language=.875,vision=.125"]
    done = mmkit(*mix, *files)
    assert by_task(done) == {"arc": 35, "cosmosqa": 18, "squad": 17, "vqa": 10}
    assert "145 rows in, 50 kept (as 80 rows out), 95 dropped, 0 rejected" in done.err
    assert done.err.endswith("; language 70 of 115, vision 10 of 30; bootstrapped: arc 35 from 5\n")
    assert mmkit(*mix, *reversed(files)).out == done.out
    smaller = mmkit("mix", "--budget", "20", *mix[3:], *files)
    assert set(smaller.out.splitlines()) < set(done.out.splitlines())
    shards = [mmkit(*mix, *files, "--shard", f"{i}/3").out.splitlines() for i in range(3)]
    assert sorted(line for shard in shards for line in shard) == sorted(done.out.splitlines())
    assert mmkit(*mix, *files, "--seed", 1).out != done.out


def test_ids_that_two_files_share_are_told_apart(mmkit: Mmkit, write: Write) -> None:
    for name in ("one", "two"):
        write(f"{name}.jsonl", [{"id": i, "question": f"{name} {i}"} for i in range(1, 101)])
    done = mmkit("mix", "one.jsonl", "two.jsonl", "--budget", 200)
    ids = [row["id"] for row in done.rows()]
    assert len(ids) == len(set(ids)) == 200
    assert {"one:1", "two:100"} < set(ids)
    assert done.err.endswith("; one 100 of 100, two 100 of 100; 200 ids made unique\n")


def test_weights_and_groups_come_from_rows(mmkit: Mmkit, files: list[str], write: Write) -> None:
    weights = {"squad": 3, "cosmosqa": 1, "arc": 0, "vqa": 0}
    write("weights.jsonl", [{"task": task, "weight": weight} for task, weight in weights.items()])
    assert by_task(mmkit("mix", *files, "--budget", 40, "--weights", "weights.jsonl")) == {"squad": 30, "cosmosqa": 10}
    groups = {"squad": "redundancy", "cosmosqa": "uniqueness", "arc": "uniqueness", "vqa": "synergy"}
    write("groups.jsonl", [{"task": task, "group": group, "score": 1.0} for task, group in groups.items()])
    grouped = ["mix", *files, "--groups", "groups.jsonl", "--budget", 12]
    assert by_task(mmkit(*grouped)) == {"squad": 4, "cosmosqa": 2, "arc": 2, "vqa": 4}
    one = mmkit(*grouped, "--ratio", "uniqueness=1")
    assert by_task(one) == {"cosmosqa": 6, "arc": 5 + 1}
    assert "; uniqueness 12 of 55; bootstrapped: arc 6 from 5; 90 in no stratum\n" in one.err
    missing = mmkit(*grouped, "--ratio", "synergie=1")
    assert missing.code == 2
    assert "family redundancy, synergy, uniqueness" in missing.err
    write("groups.jsonl", [{"task": "squad", "group": "a"}, {"task": "squad", "group": "b"}])
    assert "groups.jsonl: row 2: task 'squad' a second time" in mmkit(*grouped).err
    write("groups.jsonl", [{"task": "squad", "group": 3}])
    assert mmkit(*grouped).code == 65
    write("groups.jsonl", [{"task": "squad", "group": "a"}])
    done = mmkit(*grouped, "--rejects", "rejects.jsonl")  # which takes bad rows, not a mistake in the options
    assert (done.code, done.err) == (2, "mmkit mix: --groups: no row names the group of arc, cosmosqa, vqa\n")


def test_a_named_mixture_has_a_budget_of_its_own(mmkit: Mmkit, write: Write) -> None:
    for name, count in (("squad", 40), ("arc-easy", 20), ("arc-challenge", 20)):
        write(f"{name}.jsonl", tasks(name, count))
    done = mmkit("mix", "squad.jsonl", "arc-easy.jsonl", "arc-challenge.jsonl", "--mixture", "mlan")
    assert by_task(done) == {"squad": 40_000, "arc-easy": 20_000, "arc-challenge": 20_000}
    assert done.err.endswith(
        "; language 80,000 of 80; bootstrapped: arc 40,000 from 40, squad 40,000 from 40; "
        "mlan has cosmosqa, strategyqa, commonsenseqa besides\n"
    )
    assert mmkit("mix", "squad.jsonl", "--mixture", "mlan-v").code == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --budget ROWS, --budget-tokens TOKENS, or a --mixture"),
        (["--budget", "5", "--budget-tokens", "5"], "--budget and --budget-tokens contradict each other"),
        (["--mixture", "mlan", "--ratio", "language=1"], "--ratio and --mixture contradict each other"),
        (["--mixture", "mlan", "--groups", "g"], "--groups and --mixture contradict each other"),
        (["--weights", "w", "--groups", "g"], "--groups and --weights contradict each other"),
        (["--mixture", "flan"], "--mixture flan: there are mlan, mlan-v, mlan-v-vicuna, llava, cambrian"),
        (["--budget", "0"], "expected a whole number such as 80000, 80k or 1.5M, got '0'"),
        (["--budget", "1.5"], "expected a whole number"),
        (["--budget", "1,5"], "expected a whole number"),
        (["--budget", "5", "--ratio", "language=1,a=0"], "--ratio: 'a' belongs to both 'language' and 'a'"),
        (["--budget", "5", "--ratio", "language=.5"], "the shares sum to 0.5, not 1"),
        (["--budget", "5", "--ratio", "vision=1"], "no row belongs to 'vision'; there are: modality language; "),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(mmkit: Mmkit, write: Write, options: list[str], message: str) -> None:
    write("a.jsonl", tasks("a", 3))
    done = mmkit("mix", "a.jsonl", *options)
    assert (done.code, done.out) == (2, b"")
    assert message in done.err


def test_a_budget_may_be_written_short(mmkit: Mmkit, write: Write) -> None:
    write("a.jsonl", tasks("a", 3))
    for text, count in (("0.003k", 3), ("3", 3), ("0.000003M", 3), ("1.005k", 1005), ("1,005", 1005), ("1_005", 1005)):
        assert len(mmkit("mix", "a.jsonl", "--budget", text).rows()) == count


def test_the_command_line_outdoes_what_mmkit_toml_says_otherwise(mmkit: Mmkit, write: Write) -> None:
    write("a.jsonl", tasks("a", 9, num_tokens=5))
    write("b.jsonl", tasks("b", 9, num_tokens=5))
    write("weights.jsonl", [{"task": "a", "weight": 1}, {"task": "b", "weight": 0}])
    write("mmkit.toml", b'[mix]\nbudget = 8\nratio = "a=.5,b=.5"\n')
    mix = ["mix", "a.jsonl", "b.jsonl"]
    assert by_task(mmkit(*mix)) == {"a": 4, "b": 4}
    assert by_task(mmkit(*mix, "--weights", "weights.jsonl")) == {"a": 8}
    assert by_task(mmkit(*mix, "--budget-tokens", 20)) == {"a": 2, "b": 2}
    assert "--budget and --budget-tokens contradict" in mmkit(*mix, "--budget", 1, "--budget-tokens", 20).err
    write("mmkit.toml", b"[mix]\nbudget = 8\nbudget_tokens = 8\n")
    assert "--budget and --budget-tokens contradict" in mmkit(*mix).err


def test_inputs_without_rows_and_held_out_files_without_questions_are_not_passed_over(
    mmkit: Mmkit, write: Write
) -> None:
    write("a.jsonl", tasks("a", 3))
    write("empty.jsonl", b"")
    write("answers.jsonl", [{"id": "1", "answer": "yes"}])
    mix = ["mix", "a.jsonl", "empty.jsonl", "--budget", 2]
    assert mmkit(*mix).err.endswith("; a 2 of 3; no rows in empty.jsonl\n")
    write("other.jsonl", tasks("other", 3))
    assert (
        "; 0 held out (0 by image, 0 by question); no rows in empty.jsonl"
        in mmkit(*mix, "--heldout", "other.jsonl").err
    )
    for name in ("empty.jsonl", "answers.jsonl"):
        done = mmkit(*mix, "--heldout", "other.jsonl", "--heldout", name)
        assert done.code == 65
        assert done.err == f"mmkit mix: --heldout {name}: no row has an image or a question\n"


def test_a_file_that_changes_after_mix_has_begun_is_an_error(mmkit: Mmkit, write: Write, tmp_path: Path) -> None:
    write("a.jsonl", tasks("a", 30))
    os.mkfifo(tmp_path / "heldout")

    def change() -> None:
        with (tmp_path / "heldout").open("wb") as pipe:  # waits until mix reads, which has looked at its inputs by then
            write("a.jsonl", tasks("a", 20))
            pipe.write(b'{"id": "h", "question": "h"}\n')

    changing = threading.Thread(target=change, daemon=True)
    changing.start()
    done = mmkit("mix", "a.jsonl", "--budget", 5, "--heldout", "heldout", "-o", "out.jsonl")
    changing.join(timeout=60)
    assert done.code == 65
    assert "mmkit mix: a.jsonl has changed since it was read first" in done.err
    assert not (tmp_path / "out.jsonl").exists()


def test_a_pipe_cannot_be_read_twice(mmkit: Mmkit, shell: Callable[[str], Done], write: Write) -> None:
    write("a.jsonl", tasks("a", 3))
    for done in (
        mmkit("mix", "--budget", 3, stdin=b'{"id":"a"}\n'),
        mmkit("mix", "a.jsonl", "-", "--budget", 3, stdin=b'{"id":"a"}\n'),
        shell("mmkit mix <(cat a.jsonl) --budget 3"),
    ):
        assert done.code == 2
        assert done.err == "mmkit mix: mix reads its input twice, which a pipe cannot do: name the files\n"
    assert mmkit("mix", "a.jsonl", "./a.jsonl", "--budget", 3).code == 2
    assert mmkit("mix", "missing.jsonl", "--budget", 3).code == 66


def test_bad_rows_are_errors_with_a_place_or_rejected_once(mmkit: Mmkit, write: Write) -> None:
    rows = "".join(json.dumps({**row, "num_tokens": 10}) + "\n" for row in tasks("a", 3))
    write("a.jsonl", f"{rows}{{broken\n{json.dumps({'id': 'b', 'task': 'a'})}\n".encode())
    mix = ["mix", "a.jsonl", "--budget-tokens", "20"]
    done = mmkit(*mix)
    assert (done.code, done.out) == (65, b"")
    assert done.err.startswith("mmkit mix: a.jsonl:4: invalid JSON")
    done = mmkit(*mix, "--rejects", "rejects.jsonl", "-o", "out.jsonl")
    assert "5 rows in, 2 kept, 1 dropped, 2 rejected" in done.err
    assert "; a 2 of 3 (20 tokens)" in done.err
    # Under --limit both passes stop before the bad rows.
    assert len(mmkit(*mix, "--limit", 2).rows()) == 2


def test_what_is_held_out_is_looked_up_beside_mmkit_toml(mmkit: Mmkit, write: Write, tmp_path: Path) -> None:
    write("images/seen.jpg", b"seen")
    write("images/copy.jpg", b"seen")
    write("images/new.jpg", b"new")
    write("test.jsonl", [{"id": "t", "image": "seen.jpg"}])
    write("more.jsonl", [{"id": "t", "question": "a 1"}])
    write("a.jsonl", [*tasks("a", 2), *({"id": name, "image": f"{name}.jpg", "task": "a"} for name in ("copy", "new"))])
    write("mmkit.toml", b'image_root = "./images"\n[mix]\nheldout = ["test.jsonl", "more.jsonl"]\nbudget = 2\n')
    done = mmkit("mix", "a.jsonl", "--dropped", "dropped.jsonl")
    assert {row["id"] for row in done.rows()} == {"a-0", "new"}
    assert done.err.endswith("; a 2 of 2; 2 held out (1 by image, 1 by question)\n")
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert reasons == ["its question is held out", "its image is held out"]


def test_killed_anywhere_it_goes_on_to_the_same_bytes(mmkit: Mmkit, write: Write, tmp_path: Path) -> None:
    write("a.jsonl", tasks("a", 60_000, context="x" * 400))
    write("b.jsonl", tasks("b", 3_000, context="x" * 400))
    weights = write("weights.jsonl", [{"task": "a", "weight": 2}, {"task": "b", "weight": 1}])
    mix = ["mix", "a.jsonl", "b.jsonl", "--budget", "90k", "--weights", "weights.jsonl"]
    assert mmkit(*mix, "-o", "whole.jsonl").code == 0
    kills = 0
    for patience in (0.3, *[None] * 4):
        process = subprocess.Popen(
            [*MMKIT, *mix, "-o", "killed.jsonl"], cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.DEVNULL
        )
        time.sleep(patience) if patience else wait_for_rows(process, tmp_path / "killed.jsonl.journal")
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        if (tmp_path / "killed.jsonl").exists():
            break
    assert kills
    if (tmp_path / "killed.jsonl.journal").exists():
        other = mmkit(*mix, "--seed", 1, "-o", "killed.jsonl")
        assert other.code == 2
        assert "belongs to an unfinished run" in other.err
        before = (tmp_path / weights).read_text()
        write("weights.jsonl", before.replace("2", "3").encode())  # the same arguments, another sample
        other = mmkit(*mix, "-o", "killed.jsonl")
        assert other.code == 2
        assert "belongs to an unfinished run with sample" in other.err
        write("weights.jsonl", before.encode())
    assert mmkit(*mix, "-o", "killed.jsonl").code == 0
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def wait_for_rows(process: subprocess.Popen[bytes], journal: Path) -> None:
    """Until another checkpoint is written, or the command has ended."""
    before = journal.read_bytes() if journal.exists() else b""
    while process.poll() is None:
        if journal.exists() and journal.read_bytes().count(b'"position"') > before.count(b'"position"'):
            return
        time.sleep(0.01)
