"""The judges: by words, and by a model's log-probabilities."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from stream_kit import load, put, run_stage

from mmkit.engines import Choice, Request
from mmkit.engines.exchange import ask
from mmkit.engines.replay import ReplayEngine
from mmkit.errors import DataError, MissingInputError, UnavailableError, UsageError
from mmkit.streams import Kept, Row
from mmkit.synthesis.consistency import judge_by_model, judge_by_words, load_few_shot


def task(answer: str, rationale: str, **more: Any) -> dict[str, Any]:
    return {"id": "a", "question": "q?", "answer": answer, "rationale": rationale, **more}


def keeps(record: dict[str, Any], **options: Any) -> bool:
    (outcome,) = judge_by_words(**options)(iter([Row(record, 0, "f", 1)]))
    return isinstance(outcome, Kept)


@pytest.mark.parametrize(
    ("answer", "rationale", "kept"),
    [
        ("red", "It is red.", True),
        ("Red.", "IT IS RED", True),
        ("two cats", "There are two\n  cats.", True),
        ("red", "It is reddish.", False),
        ("red", "infrared", False),
        ("3.5", "It is 3x5.", False),
        ("3.5", "It is 3.5 m.", True),
        ("C++ (new)", "Written in C++ (new) style", True),
        ("straße", "Die STRASSE ist leer", True),
        ("yes", "It is red.", False),
    ],
)
def test_by_words(answer: str, rationale: str, kept: bool) -> None:
    assert keeps(task(answer, rationale)) is kept


def test_by_words_in_every_field_named() -> None:
    record = task("red", "red", caption="a red ball")
    assert keeps(record, within=["rationale", "caption"])
    assert not keeps({**record, "caption": "a ball"}, within=["rationale", "caption"])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"id": "a", "answer": "x", "rationale": "x"}, "question: the filter needs it"),
        (task("", "x"), "answer: the filter needs it"),
        (task("x", " "), "rationale: the filter needs it"),
    ],
)
def test_by_words_needs_a_task(record: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        run_stage(judge_by_words(), put(tmp_path / "in.jsonl", [record]), tmp_path / "o.jsonl")
    with pytest.raises(DataError, match="caption: the filter looks for the answer there"):
        run_stage(judge_by_words(within=["caption"]), put(tmp_path / "i", [task("x", "x")]), tmp_path / "o.jsonl")


PROBABILITIES = {"sure": (0.9, 0.06, 0.04), "unsure": (0.4, 0.35, 0.25), "no": (0.1, 0.8, 0.1), "open": (0.1, 0.2, 0.7)}


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, ["sure", "unsure"]),
        ({"threshold": 0.5}, ["sure"]),
        ({"keep": ("yes", "open")}, ["sure", "unsure", "open"]),
        ({"keep": ("no",), "threshold": 0.79}, ["no"]),
        ({"keep": ("no",), "threshold": 0.81}, []),
    ],
)
def test_by_model_keeps_by_verdict_and_probability(options: dict[str, Any], kept: list[str], tmp_path: Path) -> None:
    answers = [
        {"id": name, "log_probs": {f" {w}": math.log(p) - 5 for w, p in zip(("Yes", "No", "Open"), ps, strict=True)}}
        for name, ps in PROBABILITIES.items()
    ]
    engine = ReplayEngine(put(tmp_path / "answers.jsonl", answers))
    source = put(tmp_path / "in.jsonl", [{**task("x", "y"), "id": name} for name in PROBABILITIES])
    tally: Counter[str] = Counter()
    stage = ask(engine, judge_by_model(load_few_shot(None), tally=tally, **options))
    dropped = tmp_path / "d.jsonl"
    run_stage(stage, source, tmp_path / "o.jsonl", dropped=str(dropped))
    assert [row["id"] for row in load(tmp_path / "o.jsonl")] == kept
    assert tally == {"yes": 2, "no": 1, "open": 1}
    if not options:
        assert b"verdict no, probability 0.800" in dropped.read_bytes()


def test_a_judge_that_fails_rejects_the_row(tmp_path: Path) -> None:
    engine = ReplayEngine(put(tmp_path / "answers.jsonl", [{"id": "a", "error": "overloaded"}]))
    stage = ask(engine, judge_by_model(load_few_shot(None)))
    with pytest.raises(UnavailableError, match="the judge gave no verdict: overloaded"):
        run_stage(stage, put(tmp_path / "in.jsonl", [task("x", "y")]), tmp_path / "o.jsonl")


class Recorder:
    """Notes what it is asked, and finds everything consistent."""

    def __init__(self) -> None:
        self.asked: list[tuple[Request, tuple[str, ...]]] = []
        self.window, self.model = 1, "recorder"

    def choose(self, requests: Any, choices: Any) -> Any:
        for request in requests:
            self.asked.append((request, tuple(choices)))
            yield Choice(request.id, dict.fromkeys(choices, -1.0))


def test_the_prompt_is_the_shared_examples_and_then_the_task() -> None:
    recorder = Recorder()
    few_shot = load_few_shot(None)
    rows = [Row(task("short", "long"), 0, "f", 1), Row({**task("s2", "l2"), "id": "b"}, 1, "f", 2)]
    assert len(list(ask(recorder, judge_by_model(few_shot))(iter(rows)))) == 2  # type: ignore[arg-type]
    (first, choices), (second, _) = recorder.asked
    assert choices == (" Yes", " No", " Open")
    assert first.shared_prefix == second.shared_prefix == few_shot.prefix()
    assert first.prompt == "Question: q?\nDetailed answer: long\nShort answer: short\nSupported:"
    for verdict in ("Supported: Yes\n", "Supported: No\n", "Supported: Open\n"):
        assert verdict in few_shot.prefix()
    assert few_shot.prefix().endswith("\n\n")


def test_examples_of_ones_own(tmp_path: Path) -> None:
    example = {"question": "q", "informative": "i", "precise": "p"}
    examples = [{**example, "verdict": verdict} for verdict in ("yes", "no", "open")]
    path = tmp_path / "shots.json"
    put(path, [{"instruction": "Judge.", "examples": examples}])
    assert load_few_shot(str(path)).prefix().startswith("Judge.\n\nQuestion: q\nDetailed answer: i\n")
    with pytest.raises(MissingInputError, match="No such file"):
        load_few_shot(str(tmp_path / "gone.json"))
    for content in ([{"instruction": "x"}], [[]], [{"instruction": "x", "examples": examples[:2]}], ["x"]):
        put(path, content)
        with pytest.raises(UsageError, match=r"shots\.json"):
            load_few_shot(str(path))
    path.write_bytes(b"{")
    with pytest.raises(UsageError, match=r"shots\.json"):
        load_few_shot(str(path))
