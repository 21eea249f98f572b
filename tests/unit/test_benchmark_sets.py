"""Every benchmark runs on a fixture shaped like the real set: tests/benchmarks, where the README tells the format.

The expectations beside the rows are written by hand. All definitions are found by themselves, so that one without a
fixture fails here.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_kit import json_values

from mmkit import images
from mmkit.data.instruct import Form, Instructor
from mmkit.errors import DataError, MmkitError
from mmkit.records import check
from mmkit.tasks import benchmarks
from mmkit.tasks.benchmarks.rows import to_records, why_dropped
from mmkit.tasks.metrics import METRICS
from mmkit.tasks.prompts import ask, conversation, load_phrasings

FIXTURES = Path(__file__).parents[1] / "benchmarks"
SUPPORTED = [name for name in benchmarks.names() if not benchmarks.benchmark(name).unsupported]


def lines(name: str) -> list[dict[str, Any]]:
    def with_bytes(value: dict[str, Any]) -> Any:
        return base64.b64decode(value["$bytes"]) if value.keys() == {"$bytes"} else value

    text = (FIXTURES / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line, object_hook=with_bytes) for line in text.splitlines()]


def size_of(reference: Mapping[str, Any]) -> tuple[int, int]:
    return images.load(reference, FIXTURES / "images").rgb().size


def records(name: str, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return to_records(benchmarks.benchmark(name), row, "made", size_of)


@pytest.mark.parametrize("name", SUPPORTED)
def test_each_row_gives_what_the_fixture_says(name: str) -> None:
    assert len(lines(name)) >= 3
    for line in lines(name):
        if "rejected" in line:
            with pytest.raises(DataError) as refused:
                records(name, line["row"])
            assert line["rejected"] in str(refused.value)
            assert str(refused.value).startswith(f"{name}: ")
        elif "dropped" in line:
            assert records(name, line["row"]) == []
            assert line["dropped"] in why_dropped(benchmarks.benchmark(name), line["row"])
        else:
            found = records(name, line["row"])
            assert found == [{"benchmark": name, **record} for record in line["gives"]]
            for record in found:
                check(record)
            if "asked" in line:
                assert ask(found[0]) == line["asked"]


@pytest.mark.parametrize("name", SUPPORTED)
def test_the_fixture_holds_every_task_and_a_prompt_as_it_is_asked(name: str) -> None:
    given = [line for line in lines(name) if "gives" in line]
    tasks = {record["task"] for line in given for record in line["gives"]}
    assert tasks == set(benchmarks.benchmark(name).tasks)
    assert any("asked" in line for line in given)


@pytest.mark.parametrize("name", SUPPORTED)
def test_a_perfect_reply_earns_all_there_is(name: str) -> None:
    for line in lines(name):
        for i, record in enumerate(records(name, line["row"]) if "gives" in line else ()):
            metric = METRICS[benchmarks.benchmark(name).tasks[record["task"]].metric]
            if metric.default_rule == "judge" or metric.default_rule not in metric.rules:
                continue  # scored by a judge, or over all rows at once
            own = line.get("reply") if i == 0 else None
            reply = own or record.get("answer") or record["answers"][0]
            score = metric.rules[metric.default_rule]({**record, "prediction": reply})
            assert score.value == metric.range[1]


@pytest.mark.parametrize("name", SUPPORTED)
def test_images_of_the_fixture_are_there(name: str) -> None:
    for line in lines(name):
        for record in records(name, line["row"]) if "gives" in line else ():
            for image in record.get("images", ()):
                images.load(image, FIXTURES / "images")


@pytest.mark.parametrize("name", SUPPORTED)
@given(data=st.data())
@settings(max_examples=25)
def test_a_hostile_column_is_refused_and_never_a_bug(name: str, data: st.DataObject) -> None:
    row = data.draw(st.sampled_from([line["row"] for line in lines(name)]))
    column = data.draw(st.sampled_from(sorted(row)))
    try:
        found = records(name, {**row, column: data.draw(json_values)})
    except MmkitError as error:
        assert str(error).startswith(f"{name}: ")
    else:
        for record in found:
            check(record)
            ask(record)


@pytest.mark.parametrize("name", SUPPORTED)
def test_training_asks_what_evaluation_asks(name: str) -> None:
    """Where a definition has a prompt; the others are asked plainly by `predict`, and in varied words by `instruct`."""
    instructor = Instructor(Form(), load_phrasings())
    for line in lines(name):
        for record in records(name, line["row"]) if "gives" in line else ():
            if benchmarks.definition_of(record).prompt is not None:
                asked = instructor.of_one(record)["messages"][0]
                assert asked == conversation(record)[-1]


def test_no_fixture_is_left_over() -> None:
    assert {path.stem for path in FIXTURES.glob("*.jsonl")} == set(SUPPORTED)
