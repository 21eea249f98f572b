"""`mmkit measure-contribution` as a person runs it, up to where it would train: its plan, and what it refuses first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_kit import Done, Mmkit, on_terminal

Write = Callable[..., str]
FILES = ("--train", "train/*.jsonl", "--val", "val/*.jsonl", "--model", "base", "--device", "cpu")


def row(task: str, number: int, **fields: Any) -> dict[str, Any]:
    turns = [("user", f"say {number}"), ("assistant", f"{number}")]
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    return {"id": f"{task}{number}", "task": task, "answer": f"{number}", "messages": messages, **fields}


def shown(task: str, number: int, image: str) -> dict[str, Any]:
    """The row with an image."""
    found = row(task, number, images=[{"path": image}])
    found["messages"][0]["content"].insert(0, {"type": "image"})
    return found


@pytest.fixture
def folder(write: Write, tmp_path: Path) -> Path:
    """Three tasks."""
    for task, count in (("vqa", 64), ("ocr", 32), ("caption", 32)):
        write(f"train/{task}.jsonl", [row(task, number) for number in range(count)])
        write(f"val/{task}.jsonl", [row(task, number) for number in range(100, 104)])
    return tmp_path


def plan(mmkit: Mmkit, *options: object) -> Done:
    return mmkit("measure-contribution", *FILES, "--plan", *options)


def test_the_plan_is_rows_and_trains_nothing(mmkit: Mmkit, folder: Path) -> None:
    done = plan(mmkit, "--batch-size", "4")
    assert done.code == 0, done.err
    assert done.rows()[3] == {
        "training": "large:vqa@0",
        "rows": 18,
        "steps": 5,
        "evaluated_on": ["caption", "ocr", "vqa"],
        "trained": False,
        "cells_left": 3,
        "estimated_s": None,
    }
    assert "4 of 4 models to train, 12 cells to measure" in done.err
    assert "R_large + N·R_mini = 1/4 + 3 · 1/32 = 0.34" in done.err
    assert "0.34 times the rows of the final one" in done.err
    assert "mini subsets of 1,000 rows or more: caption 1, ocr 1, vqa 2" in done.err
    assert not (folder / "contribution").exists()


def test_rows_are_what_they_are_in_whatever_files(shell: Callable[[str], Done], mmkit: Mmkit, folder: Path) -> None:
    command = "mmkit measure-contribution --model base --device cpu --plan --val 'val/*.jsonl'"
    expected = plan(mmkit).out
    shell("head -20 train/vqa.jsonl | gzip > one.jsonl.gz")
    shell("tail -n +21 train/vqa.jsonl | cat - train/ocr.jsonl > two.jsonl")
    split = shell(f"{command} --train one.jsonl.gz --train two.jsonl --train train/caption.jsonl")
    assert split.out == expected, split.err
    assert shell(f"cat train/*.jsonl | {command} --train -").out == expected


def test_a_person_sees_a_table(folder: Path) -> None:
    shown = on_terminal(["measure-contribution", *FILES, "--plan", "--seeds", 2], folder)
    assert "large:caption@1" in shown and "cells left" in shown


def test_the_forms_and_groups_are_in_the_plan(mmkit: Mmkit, folder: Path, write: Write) -> None:
    def planned(*options: object) -> list[str]:
        done = plan(mmkit, *options)
        assert done.code == 0, done.err
        return [found["training"].removesuffix("@0") for found in done.rows()]

    write("groups.jsonl", [{"task": t, "group": "text" if t != "vqa" else "vqa"} for t in ("vqa", "ocr", "caption")])
    assert planned("--groups", "groups.jsonl") == ["mini", "large:text", "large:vqa"]
    assert "base" in planned("--form", "chat") and "matched" in planned("--difficulty", "matched")
    assert len(planned("--difficulty", "precise")) == 10


def test_settings_of_finetune_are_options_here(mmkit: Mmkit, folder: Path) -> None:
    assert plan(mmkit, "--max-steps", "7").rows()[0]["steps"] == 7
    assert plan(mmkit, "--preset", "visatb", "--epochs", "3").rows()[0]["steps"] == 3
    refused = plan(mmkit, "--lora-r", "8")
    assert refused.code == 2 and "--lora-r needs --tune lora" in refused.err


def test_a_makefile_runs_the_trainings_by_name(mmkit: Mmkit, folder: Path) -> None:
    done = mmkit("measure-contribution", *FILES, "--makefile")
    assert done.code == 0, done.err
    text = done.out.decode()
    command = "$(MMKIT) measure-contribution --train 'train/*.jsonl' --val 'val/*.jsonl' --model base --device cpu"
    assert f"\n\t{command} --only large:ocr@0\n" in text
    assert f"\n\t{command} -o $@\n" in text


def test_each_job_of_make_takes_the_same_batch_on_its_own_devices(mmkit: Mmkit, folder: Path) -> None:
    done = mmkit("measure-contribution", *FILES, "--device", "auto", "--batch-size", 4, "--makefile")
    assert done.code == 0, done.err
    assert "--batch-size 4 --global-batch 4 --only mini@0\n" in done.out.decode()


def test_trainings_on_the_same_rows_are_planned_as_one(mmkit: Mmkit, folder: Path) -> None:
    done = plan(mmkit, "--form", "chat", "--mini", "1/4", "--seeds", 2)
    rows = {found["training"]: found for found in done.rows()}
    assert rows["base@1"]["same_as"] == "base@0" and rows["own-mini:vqa@0"]["same_as"] == "own-large:vqa@0"
    assert rows["base@1"]["cells_left"] == 0 and "same_as" not in rows["own-large:vqa@1"]
    assert "6 of 14 models to train, 21 cells to measure" in done.err
    assert "is base@0" in on_terminal(
        ["measure-contribution", *FILES, "--form", "chat", "--seeds", 2, "--plan"], folder
    )


@pytest.mark.parametrize("form", ["standard", "chat"])
def test_validation_rows_that_are_trained_on_are_counted(
    mmkit: Mmkit, folder: Path, write: Write, picture: Callable[[str], str], form: str
) -> None:
    navy, copy, other = picture("navy.png"), picture("copy.png"), picture("other.png")
    with (folder / other).open("ab") as file:
        file.write(b"more")
    write("train/vqa.jsonl", [row("vqa", 1), shown("vqa", 2, navy), shown("vqa", 3, other), row("vqa", 4)])
    asked = [row("vqa", 1), shown("vqa", 2, copy), shown("vqa", 3, copy), row("vqa", 500)]
    write("val/vqa.jsonl", [{**one, "id": f"val-{one['id']}"} for one in asked])
    write("val/ocr.jsonl", [row("ocr", number, messages=None, question=f" Say  {number}") for number in (31, 100)])
    done = plan(mmkit, "--large", 1, "--form", form)
    assert done.code == 0, done.err
    assert "the same words with the same images: ocr 1 of 2, vqa 2 of 4" in done.err
    write("val/vqa.jsonl", [row("vqa", 200)])
    write("val/ocr.jsonl", [row("ocr", 200)])
    assert "trained on, too" not in plan(mmkit, "--large", 1, "--form", form).err


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ((), 2, "no rows: give --train FILES"),
        (("--train", "train/*.jsonl"), 2, "no rows: give --val FILES"),
        (("--train", "no/*.jsonl"), 66, "--train no/*.jsonl: no such file"),
        ((*FILES, "--mini", "1/2"), 2, "0 < mini <= large"),
        ((*FILES, "--only", "large:pope@0"), 2, "no training of the plan; there are: mini@0, large:caption@0"),
        ((*FILES, "--plan", "--makefile"), 2, "give one of them"),
        ((*FILES, "--makefile", "-o", "contribution.jsonl"), 2, "--makefile writes to stdout"),
        ((*FILES, "--only", "mini@0", "-o", "contribution.jsonl"), 2, "--only writes none"),
        ((*FILES, "--makefile", "--jobs", "2"), 2, "leave --jobs out"),
        ((*FILES, "--train", "-", "--makefile"), 2, "standard input is read once"),
        (("--train", "-", "--val", "-"), 2, "standard input is read once"),
        ((*FILES, "--val-size", "0.1"), 2, "--val-size 0.1 holds rows back"),
        ((*FILES, "--preset", "mint"), 2, "--val-size 0.1 holds rows back"),
        ((*FILES, "--large", "1/32"), 65, "no larger than the mini one: 'caption', 'ocr', 'vqa'"),
        ((*FILES, "--large", "10000"), 2, "expected shares of the rows"),
        ((*FILES, "--scores", "V.jsonl"), 2, "--scores trains nothing"),
        ((*FILES, "--form", "chat", "--difficulty", "matched"), 2, "--difficulty matched"),
        ((*FILES, "--task-sampling", "weights"), 2, "--task-sampling weights"),
        ((*FILES, "--metric", "emm"), 2, "unknown metric 'emm'"),
        ((*FILES, "--metric", "mm-vet"), 65, "val/caption.jsonl:1: mm-vet needs a judge's grades"),
    ],
)
def test_a_mistake_is_named(mmkit: Mmkit, folder: Path, options: tuple[str, ...], code: int, said: str) -> None:
    done = mmkit("measure-contribution", "--model", "base", *options)
    assert (done.code, done.out) == (code, b"")
    assert said in done.err and "Traceback" not in done.err


def test_a_model_has_to_be_given(mmkit: Mmkit) -> None:
    done = mmkit("measure-contribution", "--train", "x", "--val", "y")
    assert done.code == 2 and "[measure-contribution]" in done.err


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("val/pope.jsonl", [row("pope", 1)], "no training row of 'pope'"),
        ("train/pope.jsonl", [row("pope", 1)], "no validation row of 'pope'"),
        ("train/vqa.jsonl", [row("vqa", 1), row("vqa", 1)], "train/vqa.jsonl:2: id 'vqa1' a second time in task 'vqa'"),
        ("train/vqa.jsonl", [{**row("vqa", 1), "task": None}], "train/vqa.jsonl:1: task: expected a name"),
        ("train/vqa.jsonl", [row("vqa", 1, messages=None)], "train/vqa.jsonl:1"),
        ("val/vqa.jsonl", [row("vqa", 1, answer=None)], "val/vqa.jsonl:1"),
        ("val/vqa.jsonl", [shown("vqa", 1, "no.png")], "row 'vqa1' of task 'vqa': image 'no.png' not"),
        ("train/vqa.jsonl", [row("vqa", 1), shown("vqa", 2, "no.png")], "image 'no.png' not found"),
        ("val/vqa.jsonl", [row("vqa", 1, metric="nan")], "val/vqa.jsonl:1: metric: unknown metric 'nan'"),
        ("val/vqa.jsonl", [row("vqa", 1), row("vqa", 2, metric="anls")], "val/vqa.jsonl:2: task 'vqa' has two metrics"),
        ("groups.jsonl", [{"task": "vqa", "group": "a"}, {"task": "ocr", "group": "b"}], "in no group: 'caption'"),
    ],
)
def test_what_could_not_be_measured_is_refused_before_anything_is_trained(
    mmkit: Mmkit, folder: Path, write: Write, name: str, rows: list[dict[str, Any]], said: str
) -> None:
    write(name, rows)
    groups = ("--groups", name) if name == "groups.jsonl" else ()
    done = mmkit("measure-contribution", *FILES, "--large", 1, *groups)
    assert (done.code, done.out) == (66 if "not found" in done.err else 65, b""), done.err
    assert said in done.err
    assert not (folder / "contribution").exists()


def test_images_that_a_table_holds_are_no_obstacle(mmkit: Mmkit, folder: Path, picture: Callable[[str], str]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    image = {"bytes": (folder / picture("navy.png")).read_bytes()}
    rows = [row("look", number, images=[image]) for number in range(4)]
    for one in rows:
        one["messages"][0]["content"].insert(0, {"type": "image"})
    for part in ("train", "val"):
        parquet.write_table(pa.Table.from_pylist(rows), folder / part / "look.parquet")
    done = plan(mmkit, "--train", "train/look.parquet", "--val", "val/look.parquet", "--large", 1)
    assert done.code == 0, done.err
    assert "large:look@0" in [found["training"] for found in done.rows()]


def test_scores_alone_are_computed_and_piped_to_weights(
    shell: Callable[[str], Done], write: Write, tmp_path: Path
) -> None:
    values = {
        "mini": {"a": 10, "b": 20},
        "large:a": {"a": 50, "b": 30},
        "large:b": {"a": 20, "b": 40},
    }
    cells = [
        {"trained_on": training, "evaluated_on": task, "metric": "em", "value": value}
        for training, by_task in values.items()
        for task, value in by_task.items()
    ]
    write("V.jsonl", cells)
    done = shell("mmkit measure-contribution --scores V.jsonl | tee all.jsonl")
    assert [found for found in done.rows() if "C" in found] == [
        {"from": "a", "to": "b", "C": 0.5},
        {"from": "b", "to": "a", "C": 0.25},
    ]
    measured = {found["task"]: found for found in done.rows() if "D" in found}
    rule = {"form": "standard", "difficulty": "paper"}
    assert measured["a"] == {"task": "a", "C_out": 0.5, "C_in": 0.25, "D": pytest.approx(0.8), **rule}
    assert shell("mmkit measure-contribution --scores all.jsonl").out == done.out
    shown = on_terminal(["measure-contribution", "--scores", "V.jsonl"], tmp_path)
    assert [line.split() for line in shown.splitlines() if "0." in line] == [
        ["a", "0.500", "0.500", "0.800"],
        ["b", "0.250", "0.250", "0.500"],
        ["C_in", "0.250", "0.500"],
    ]
    weights = shell("mmkit weights all.jsonl")
    assert sum(found["weight"] for found in weights.rows()) == pytest.approx(2)


def test_a_score_that_is_no_number_is_named_by_its_line(mmkit: Mmkit, write: Write) -> None:
    cell = {"trained_on": "mini", "evaluated_on": "a", "metric": "em", "value": None}
    write("V.jsonl", (json.dumps(cell) + "\n").encode())
    done = mmkit("measure-contribution", "--scores", "V.jsonl")
    assert done.code == 65 and "V.jsonl:1: " in done.err and "value" in done.err
