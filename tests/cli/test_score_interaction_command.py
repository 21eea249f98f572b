"""score-interaction as a user runs it: given predictions, a server, mistakes, a terminal, a kill in the middle."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_kit import ENVIRONMENT, MMKIT, Done, Mmkit, on_terminal

from mmkit.testing.server import Answer, OpenAiServer, Received, chat

GIVEN = {"text": "yes", "image": "no", "both": "yes"}


def given(count: int, task: str = "t", **predictions: str) -> list[dict[str, Any]]:
    return [{"id": f"{task}{i}", "task": task, "predictions": {**GIVEN, **predictions}} for i in range(count)]


def to_ask(count: int) -> list[dict[str, Any]]:
    return [{"id": f"r{i}", "task": "t", "image": "p.png", "question": f"What is {i}?"} for i in range(count)]


def test_given_predictions_are_scored_without_a_model(mmkit: Mmkit, write: Any) -> None:
    write("in.jsonl", given(3) + given(2, "u", text="no", image="yes"))
    done = mmkit("score-interaction", "in.jsonl")
    rows = {row["task"]: row for row in done.rows()}
    assert {task: (row["score_text"], row["score_image"], row["n"]) for task, row in rows.items()} == {
        "t": (1.0, 0.0, 3),
        "u": (0.0, 1.0, 2),
    }
    assert "5 rows in, 5 kept (as 2 rows out), 0 dropped, 0 rejected" in done.err
    assert "5 sampled of 2 tasks" in done.err
    assert "asked" not in done.err


def test_the_rows_of_a_model_that_nobody_had_to_ask_open_nothing(mmkit: Mmkit, write: Any) -> None:
    write("in.jsonl", given(3))
    assert mmkit("score-interaction", "in.jsonl", "--model", "nowhere/nothing").code == 0


def test_the_samples_of_shards_score_like_the_whole(mmkit: Mmkit, shell: Callable[[str], Done], write: Any) -> None:
    write("in.jsonl", [row for i in range(20) for row in given(1, f"t{i % 3}", text="yes" if i % 2 else "no")])
    whole = mmkit("score-interaction", "in.jsonl", "--size", "4", "--draws", "3")
    shards = "for i in 0 1 2; do mmkit score-interaction in.jsonl --size 4 --draws 3 --shard $i/3 --per-sample; done"
    assert shell(f"({shards}) | mmkit score-interaction --size 4 --draws 3").out == whole.out


def test_recorded_answers_are_found_by_record_and_view(mmkit: Mmkit, write: Any, picture: Any) -> None:
    picture("p.png")
    write("in.jsonl", to_ask(2))
    answers = {"r0/text": "red", "r0/image": "blue", "r0/both": "red", "r1/text": "two", "r1/both": "two"}
    write("answers.jsonl", [{"id": name, "text": text} for name, text in answers.items()])
    done = mmkit("score-interaction", "in.jsonl", "--engine", "replay", "--answers", "answers.jsonl", "--per-sample")
    assert [row["predictions"] for row in done.rows()] == [
        {"text": "red", "image": "blue", "both": "red"},
        {"text": "two", "image": "blue", "both": "two"},
    ], "both images are the same, and asked about in the same words"
    assert "asked once each: 2 both, 1 image, 2 text" in done.err
    assert "the images of t were asked about in general" in done.err


MISTAKES = {
    "no model": ([{"id": "1"}], [], 2, "in.jsonl:1: nobody to ask: give --model, or in every record"),
    "no image": ([{"id": "1", "question": "?"}], ["--model", "m"], 65, "in.jsonl:1: images: an interaction needs an"),
    "no question": ([{"id": "1", "image": "p.png"}], ["--model", "m"], 65, "in.jsonl:1: question: a task needs one"),
    "one view": ([{"id": "1", "predictions": {"text": "a"}}], [], 65, "predictions.image: missing, and there is no"),
    "empty": (given(1, text=" "), [], 65, "in.jsonl:1: predictions.text: empty"),
    "unfit": (given(1), ["--similarity", "embed"], 65, "answer_type: similarity embed does not fit short answers"),
    "benchmark": ([{"id": "1", "benchmark": "none"}], [], 65, "benchmark: 'none' is not defined"),
    "task": ([{"id": "1", "benchmark": "slake", "task": "x"}], [], 65, "task: 'x' is none of slake's: slake-open"),
    "judge": (given(1), ["--similarity", "judge"], 2, "nobody to judge: give --judge-model, or --model"),
    "idle judge": (given(1), ["--judge-model", "m"], 2, "--judge-model has a say in --similarity judge alone"),
    "idle form": (given(1), ["--choice-form", "letter"], 2, "--choice-form has a say in --similarity likelihood"),
    "idle adapter": (
        given(1),
        ["--text-model", "m", "--adapter", "a"],
        2,
        "--adapter belongs to --model, which is not",
    ),
    "batch": (given(1), ["--model", "m", "--to-batch", "b.jsonl"], 2, "no batch files here"),
    "no file": (given(1), ["--statements", "no.jsonl"], 66, "no.jsonl: no such file"),
    "no statement": (given(1), ["--statements", "in.jsonl"], 2, "in.jsonl:1: expected {"),
    "draws": (given(1), ["--draws", "0"], 2, "0 is not in the range x>=1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_place_and_the_way_out(
    mmkit: Mmkit, write: Any, picture: Any, mistake: str
) -> None:
    rows, options, code, said = MISTAKES[mistake]
    picture("p.png")
    write("in.jsonl", rows)
    done = mmkit("score-interaction", "in.jsonl", *options)
    assert (done.code, done.out) == (code, b"")
    assert said in done.err
    assert "Traceback" not in done.err


def test_rows_that_cannot_be_scored_go_to_the_rejects_and_the_others_are_scored(
    mmkit: Mmkit, write: Any, tmp_path: Path
) -> None:
    write("in.jsonl", [*given(2), {"id": "bad", "task": "t", "predictions": {"text": "", "image": "a", "both": "a"}}])
    done = mmkit("score-interaction", "in.jsonl", "--rejects", "r.jsonl")
    assert [(row["task"], row["n"]) for row in done.rows()] == [("t", 2)]
    assert "3 rows in, 2 kept (as 1 rows out), 0 dropped, 1 rejected" in done.err
    assert json.loads((tmp_path / "r.jsonl").read_text())["record"]["id"] == "bad"


def test_what_could_not_be_written_is_rejected_before_anybody_is_asked(
    mmkit: Mmkit, write: Any, picture: Any, tmp_path: Path
) -> None:
    import pyarrow
    from pyarrow import parquet

    image = {"path": "p.png", "bytes": (tmp_path / picture("p.png")).read_bytes()}
    rows = [{"id": f"r{n}", "task": "t", "question": "?", "images": [image]} for n in range(2)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "in.parquet")
    write("answers.jsonl", [{"id": f"r0/{view}", "text": "a"} for view in ("text", "image", "both")])
    asked = ["score-interaction", "in.parquet", "--engine", "replay", "--answers", "answers.jsonl"]
    refused = mmkit(*asked, "--per-sample")
    assert (refused.code, refused.out) == (65, b"")
    assert "in.parquet:1: images hold inline bytes, which JSONL does not carry: write .parquet" in refused.err
    rejected = mmkit(*asked, "--per-sample", "--rejects", "r.jsonl")
    assert "2 rows in, 0 kept, 0 dropped, 2 rejected" in rejected.err
    assert "asked" not in rejected.err
    assert [row["n"] for row in mmkit(*asked).rows()] == [2]
    assert mmkit(*asked, "--per-sample", "-o", "samples.parquet").code == 0
    assert [row["n"] for row in mmkit("score-interaction", "samples.parquet").rows()] == [2]


def test_one_record_is_no_sample_and_is_marked(mmkit: Mmkit, write: Any) -> None:
    write("in.jsonl", given(1))
    (row,) = mmkit("score-interaction", "in.jsonl").rows()
    assert row["marks"] == ["few", "undefined"]
    assert (row["se"], row["ci95"], row["corrected"]) == (None, None, None)


def test_a_terminal_shows_a_table(write: Any, tmp_path: Path) -> None:
    write("in.jsonl", given(3))
    shown = on_terminal(["score-interaction", "in.jsonl"], tmp_path)
    assert "score" in shown
    assert "1.00" in shown
    assert "{" not in shown


def answered_by_text(received: Received) -> Answer:
    """An answer that depends on what is asked alone: the words, and whether there is an image."""
    content = received.body["messages"][-1]["content"]
    images = [part for part in content if part["type"] != "text"] if isinstance(content, list) else []
    return chat(f"answer {sum(received.text.encode()) % 3} {len(images)}")


@pytest.mark.loopback
@pytest.mark.usefixtures("socket_enabled")
def test_a_run_that_was_killed_asks_nothing_twice_and_gives_the_same_bytes(
    mmkit: Mmkit, write: Any, picture: Any, tmp_path: Path
) -> None:
    picture("p.png")
    write("in.jsonl", to_ask(60))
    in_flight = 4
    options = ["score-interaction", "in.jsonl", "--engine", "openai", "--model", "tiny", "--max-in-flight", in_flight]
    with OpenAiServer(answered_by_text) as server:
        whole = mmkit(*options, "--base-url", server.base_url)
        needed = len(server.received)
    assert whole.code == 0, whole.err
    assert needed == 60 + 60 + 1

    reached = threading.Event()

    def until_the_kill(received: Received) -> Answer:
        if len(killed.received) > needed // 2:
            reached.set()
            return Answer(delay_s=30)
        return answered_by_text(received)

    cache = ["--cache", "replies"]
    with OpenAiServer(until_the_kill) as killed:
        command = [*MMKIT, *map(str, options), *cache, "--base-url", killed.base_url]
        process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE)
        assert reached.wait(60)
        process.kill()
        process.communicate()
    with OpenAiServer(answered_by_text) as server:
        done = mmkit(*options, *cache, "--base-url", server.base_url)
        asked_again = len(server.received)
    assert done.out == whole.out
    not_yet_kept = 2 * in_flight  # replies are kept in the order of the requests, which are read that far ahead
    assert asked_again <= needed - needed // 2 + not_yet_kept
    assert f"{asked_again:,} replies" in done.err
    assert mmkit(*options, *cache, "--base-url", "http://127.0.0.1:9/v1").out == whole.out, "all is known now"


@pytest.mark.loopback
@pytest.mark.usefixtures("socket_enabled")
def test_each_view_is_asked_of_its_model(mmkit: Mmkit, write: Any, picture: Any) -> None:
    picture("p.png")
    write("in.jsonl", to_ask(3))

    def by_model(received: Received) -> Answer:
        return chat(f"{received.body['model']} says {received.text[:8]}")

    with OpenAiServer(by_model, models=("words", "whole")) as server:
        options = ["--engine", "openai", "--base-url", server.base_url, "--model", "whole", "--text-model", "words"]
        done = mmkit("score-interaction", "in.jsonl", *options, "--per-sample")
    assert done.code == 0, done.err
    for row in done.rows():
        said = {view: text.split()[0] for view, text in row["predictions"].items()}
        assert said == {"text": "words", "image": "whole", "both": "whole"}
        assert [entry["model"] for entry in row["lineage"]] == ["words", "whole"]
    assert "; words: 3 replies" in done.err
    assert "; whole: 4 replies" in done.err


def test_one_model_is_closed_before_the_next_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmkit.cli import engine_options
    from mmkit.engines import catalog
    from mmkit.streams import sinks

    events: list[str] = []

    class Noting:
        window = 1

        def __init__(self, model: str, adapter: str | None) -> None:
            self.model = model
            events.append(f"open {model} {adapter}")

        def close(self) -> None:
            events.append(f"close {self.model}")

    def opened(_: str, options: dict[str, Any]) -> Noting:
        return Noting(options["model"], options["adapter"])

    monkeypatch.setattr(catalog, "open_engine", opened)
    monkeypatch.setattr(sinks, "close_stdout", lambda: None)
    model = engine_options.Model(model="one", adapter="lora")
    model.context = None  # type: ignore[assignment]
    with model.in_turn() as engine_of:
        for name in ("one", "one", "two", "one"):
            assert engine_of(name).model == name
    assert events == ["open one lora", "close one", "open two None", "close two", "open one lora", "close one"]
