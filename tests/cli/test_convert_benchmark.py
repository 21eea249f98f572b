"""`mmkit convert --benchmark`: a set's rows from a copy of the hub set, from files, or from the hub, become tasks."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

FIXTURES = Path(__file__).parents[1] / "benchmarks"


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20), colour).save(buffer, "PNG")
    return buffer.getvalue()


CHARTS = datasets.Features(
    {
        "image": datasets.Image(),
        "query": datasets.Value("string"),
        "label": datasets.List(datasets.Value("string")),
        "human_or_machine": datasets.ClassLabel(names=["human", "machine"]),
    }
)


def charts(*rows: tuple[str, str, str, int]) -> datasets.Dataset:
    """ChartQA's rows, as the hub has them, of (colour of the image, question, answer, index of its author)."""
    return datasets.Dataset.from_dict(
        {
            "image": [{"bytes": png(colour), "path": f"{colour}.png"} for colour, *_ in rows],
            "query": [query for _, query, _, _ in rows],
            "label": [[label] for _, _, label, _ in rows],
            "human_or_machine": [author for *_, author in rows],
        },
        features=CHARTS,
    )


@pytest.fixture
def copy(tmp_path: Path) -> str:
    """A directory like the hub's: one Parquet file a split, images in bytes, authors as class labels."""
    folder = tmp_path / "ChartQA" / "data"
    folder.mkdir(parents=True)
    charts(("red", "How many bars?", "4", 1)).to_parquet(folder / "train-00000-of-00001.parquet")
    test = charts(("red", "Which bar is tallest?", "2014", 0), ("blue", "What is its value?", "37.5", 1))
    test.to_parquet(folder / "test-00000-of-00001.parquet")
    return "ChartQA"


def test_a_copy_of_the_hub_set_becomes_tasks_with_images_in_files(mmkit: Any, copy: str, tmp_path: Path) -> None:
    done = mmkit("convert", "--benchmark", "chartqa", copy, "--images-to", "images")
    assert done.code == 0, done.err
    first, second = done.rows()
    assert (tmp_path / first["images"][0].pop("path")).read_bytes() == png("red")
    assert first.pop("id").startswith("chartqa-")
    assert first == {
        "benchmark": "chartqa",
        "task": "chartqa",
        "images": [{}],
        "question": "Which bar is tallest?",
        "answer": "2014",
        "answers": ["2014"],
        "category": "human",
    }
    assert (second["answer"], second["category"]) == ("37.5", "machine")
    assert "2 rows in, 2 kept" in done.err


def test_another_split_is_read_if_it_is_named(mmkit: Any, copy: str) -> None:
    done = mmkit("convert", "--benchmark", "chartqa", copy, "--split", "train", "--images-to", "images")
    assert [row["question"] for row in done.rows()] == ["How many bars?"]
    done = mmkit("convert", "--benchmark", "chartqa", copy, "--split", "dev")
    assert done.code == 65
    assert "ChartQA: Bad split: dev. Available splits: ['train', 'test']" in done.err


def test_inline_images_go_into_tables_and_not_into_lines(mmkit: Any, copy: str, tmp_path: Path) -> None:
    done = mmkit("convert", "--benchmark", "chartqa", copy)
    assert done.code == 65
    assert "ChartQA:1: images hold inline bytes" in done.err
    assert "--images-to DIR" in done.err
    assert mmkit("convert", "--benchmark", "chartqa", copy, "-o", "tasks.parquet").code == 0
    assert mmkit("convert", "tasks.parquet", "--images-to", "later", "-o", "tasks.jsonl").code == 0
    first = json.loads((tmp_path / "tasks.jsonl").read_text().splitlines()[0])
    assert (tmp_path / first["images"][0]["path"]).read_bytes() == png("red")


def test_the_configuration_of_a_copy_is_the_definitions(mmkit: Any, tmp_path: Path) -> None:
    folder = tmp_path / "biomed"
    for name in ("SLAKE", "PathVQA"):
        (folder / name).mkdir(parents=True)
        row = {"image": [None], "input": [f"Is this {name}?"], "label": ["yes"], "answer_type": ["CLOSED"]}
        row["image"] = [{"bytes": png("red"), "path": None}]
        features = datasets.Features({**dict.fromkeys(row, datasets.Value("string")), "image": datasets.Image()})
        datasets.Dataset.from_dict(row, features=features).to_parquet(folder / name / "test.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n"
        + "".join(
            f"- config_name: {name}\n  data_files:\n  - split: test\n    path: {name}/test.parquet\n"
            for name in ("SLAKE", "PathVQA")
        )
        + "---\n"
    )
    done = mmkit("convert", "--benchmark", "path-vqa", "biomed", "--images-to", "images")
    assert [row["question"] for row in done.rows()] == ["Is this PathVQA?"]


def test_a_table_named_as_a_file_keeps_the_names_of_its_labels(mmkit: Any, copy: str) -> None:
    file = f"{copy}/data/test-00000-of-00001.parquet"
    done = mmkit("convert", "--benchmark", "chartqa", file, "--images-to", "images")
    assert [row["category"] for row in done.rows()] == ["human", "machine"]


def test_a_label_that_the_definition_treats_stays_a_number(mmkit: Any, tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "question": datasets.Value("string"),
            "choices": datasets.List(datasets.Value("string")),
            "answer": datasets.ClassLabel(names=["A", "B"]),
        }
    )
    row = {"image": [None], "question": ["Which is hot?"], "choices": [["ice", "fire"]], "answer": [1]}
    (tmp_path / "science").mkdir()
    datasets.Dataset.from_dict(row, features=features).to_parquet(tmp_path / "science" / "test.parquet")
    done = mmkit("convert", "--benchmark", "scienceqa", "science")
    assert [row["answer"] for row in done.rows()] == ["fire"]


def test_every_row_of_a_file_is_accounted_for(mmkit: Any, write: Any, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (FIXTURES / "mmbench.jsonl").read_text().splitlines()]
    file = write("dev.jsonl", [line["row"] for line in lines] + [{"index": 9, "A": "x", "answer": "A"}])
    done = mmkit("convert", "--benchmark", "mmbench", file, "--rejects", "rejects.jsonl")
    assert done.code == 0
    assert [row["answer"] for row in done.rows()] == ["below", "0"]
    assert "5 rows in, 2 kept, 0 dropped, 3 rejected" in done.err
    rejects = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert [(row["line"], row["reason"]) for row in rejects] == [
        (3, "mmbench: column answer: expected a letter, got 'nan'"),
        (4, "mmbench: column answer: 'C' names none of the 4 choices"),
        (5, "mmbench: question: column question is missing or empty"),
    ]
    first = mmkit("convert", "--benchmark", "mmbench", file, "--images-to", "images")
    assert first.code == 66
    assert "wide.png" in first.err


def test_a_row_of_no_task_is_dropped_and_said_why(mmkit: Any, write: Any, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (FIXTURES / "seed-bench.jsonl").read_text().splitlines()[:2]]
    file = write("seed.jsonl", [line["row"] for line in lines])
    done = mmkit("convert", "--benchmark", "seed-bench", file, "--dropped", "dropped.jsonl")
    assert "2 rows in, 1 kept, 1 dropped, 0 rejected" in done.err
    [dropped] = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert dropped["reason"] == "belongs to no task of seed-bench (data_type: 'video')"


def test_a_row_with_several_questions_gives_several_tasks(mmkit: Any, write: Any) -> None:
    row = json.loads((FIXTURES / "ocrvqa.jsonl").read_text().splitlines()[0])["row"]
    done = mmkit("convert", "--benchmark", "ocrvqa", write("covers.jsonl", [row]))
    assert [record["id"] for record in done.rows()] == ["ocrvqa-0001111-0", "ocrvqa-0001111-1"]
    assert "1 rows in, 1 kept (as 2 rows out)" in done.err


def test_images_in_base64_become_files(mmkit: Any, write: Any, tmp_path: Path) -> None:
    row = {"instruction": "Describe it.", "inputs": "", "outputs": "Red.", "image_base64_str": []}
    row["image_base64_str"] = [base64.b64encode(png("red")).decode()]
    done = mmkit("convert", "--benchmark", "m3it-coco", write("m3it.jsonl", [row]), "--images-to", "images")
    [record] = done.rows()
    assert (tmp_path / record["images"][0]["path"]).read_bytes() == png("red")


def test_a_box_is_measured_on_the_image_under_the_image_root(mmkit: Any, write: Any, tmp_path: Path) -> None:
    row = json.loads((FIXTURES / "ref-caption.jsonl").read_text().splitlines()[0])["row"]
    file = write("ref.jsonl", [row])
    done = mmkit("convert", "--benchmark", "ref-caption", file, "--image-root", FIXTURES / "images")
    assert [record["question"] for record in done.rows()] == ["[0.25, 0.25, 0.75, 0.75]"]
    done = mmkit("convert", "--benchmark", "ref-caption", file)
    assert done.code == 66
    assert "image 'wide.png' not found" in done.err


def test_without_the_hub_the_error_names_the_set_and_the_way_out(mmkit: Any) -> None:
    done = mmkit("convert", "--benchmark", "slake")
    assert done.code == 69
    assert "AdaptLLM/biomed-VQA-benchmark cannot be had from the Hugging Face hub" in done.err
    assert "with a local copy: mmkit convert --benchmark slake DIR" in done.err
    assert "Traceback" not in done.err


def test_a_directory_without_data_is_told_as_such(mmkit: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = mmkit("convert", "--benchmark", "slake", "empty")
    assert done.code == 65
    assert "doesn't contain any data files" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--split", "test", "a.jsonl"], "--split needs --benchmark"),
        (["--benchmark", "slake", "--split", "dev"], "slake has no split 'dev'; it has: test"),
        (["--benchmark", "slake", "--split", "test", "a.jsonl"], "files are read whole"),
        (["--benchmark", "slake", "a.jsonl", "."], ".: a directory is read alone"),
        (["--benchmark", "nobody"], "unknown benchmark 'nobody'; mmkit eval --list shows all"),
        (["--benchmark", "lncoco", "a.jsonl"], "lncoco is not supported: The answer is an image"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(mmkit: Any, write: Any, arguments: list[str], said: str) -> None:
    write("a.jsonl", [{"input": "?"}])
    done = mmkit("convert", *arguments)
    assert done.code == 2
    assert said in done.err


@pytest.mark.parametrize("name", ["gone.jsonl", "gone.parquet", "gone.arrow", ""])
def test_an_input_that_is_not_there_is_missing(mmkit: Any, name: str) -> None:
    done = mmkit("convert", "--benchmark", "slake", name)
    assert done.code == 66
    assert done.err.startswith(f"mmkit convert: {name}: ")


def test_two_runs_give_the_same_bytes(mmkit: Any, copy: str, tmp_path: Path) -> None:
    arguments = ["convert", "--benchmark", "chartqa", copy, "--images-to", "images", "-o"]
    assert mmkit(*arguments, "once.jsonl").code == 0
    assert mmkit(*arguments, "again.jsonl").code == 0
    assert (tmp_path / "once.jsonl").read_bytes() == (tmp_path / "again.jsonl").read_bytes()
