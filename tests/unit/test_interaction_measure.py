"""What score-interaction asks, of whom and how often; what becomes of rows that fail; the samples of several shards."""

from __future__ import annotations

import gc
import hashlib
import itertools
import math
import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from stream_kit import put, run_stage

from mmkit.balance.measure import Measurement, Method
from mmkit.balance.views import Statements
from mmkit.engines import Choice, Reply, Request, Usage
from mmkit.errors import DataError, UnavailableError, UsageError
from mmkit.images import LoadedImage
from mmkit.records import message, parts_text

ALL = dict.fromkeys(("text", "image", "both"), "m")


class Oracle:
    """An engine whose answers depend on what it is asked and on nothing else. It notes what it was asked, and reads a
    window of requests before it answers."""

    window = 4

    def __init__(self, model: str = "m", *, fails: Sequence[str] = (), empty: Sequence[str] = ()) -> None:
        self.model, self.fails, self.empty = model, fails, empty
        self.asked: list[tuple[str, int, str]] = []
        self.groups: list[tuple[str, ...]] = []
        self.most_images_at_once = 0

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        for request, number in self._windows(requests):
            text = "" if request.id in self.empty else f"answer {number % 3}"
            yield Reply(request.id, text, usage=Usage(7, 2, 1), error=self._error(request))

    def choose(self, requests: Iterable[Request], choices: Sequence[str]) -> Iterator[Choice]:
        self.groups.append(tuple(choices))
        for request, number in self._windows(requests):
            values = {choice: -1.0 - number * (place + 1) % 997 / 100 for place, choice in enumerate(choices)}
            yield Choice(request.id, values, Usage(7, 2, 0), self._error(request))

    def close(self) -> None:
        """Nothing is open."""

    def _windows(self, requests: Iterable[Request]) -> Iterator[tuple[Request, int]]:
        stream = iter(requests)
        while window := list(itertools.islice(stream, self.window)):
            yield from [(request, self._note(request)) for request in window]

    def _error(self, request: Request) -> str | None:
        return "the server is ill" if request.id in self.fails else None

    def _note(self, request: Request) -> int:
        text = "\n".join(parts_text(turn) for turn in request.messages)
        self.asked.append((request.id, request.position, text))
        seen = [text, *(image.sha256() for image in request.images)]
        return int.from_bytes(hashlib.sha256("|".join(seen).encode()).digest()[:4], "big")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with images 0.png to 5.png."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(6):
        Image.new("RGB", (8, 8), (number * 40, 0, 0)).save(folder / f"{number}.png")
    return str(folder)


def records(count: int, task: str = "t", **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{task}{i}",
            "task": task,
            "images": [{"path": f"{i % 6}.png"}],
            "question": f"What is {i % 4}?",
            **more,
        }
        for i in range(count)
    ]


def measured(
    rows: Sequence[Mapping[str, Any]],
    method: Method,
    engines: Mapping[str, Any] | Oracle | None = None,
    models: Mapping[Any, str | None] | None = None,
    **options: Any,
) -> tuple[list[dict[str, Any]], Measurement]:
    """What the stage gives for the rows, as samples unless `output` says otherwise, and the stage."""
    engines = {"m": engines} if isinstance(engines, Oracle) else engines or {}
    models = dict.fromkeys(ALL, "m") if models is None and engines else models or {}
    with tempfile.TemporaryDirectory() as folder:
        stage = Measurement(method, models, lambda name: engines[name], options.pop("output", "samples"))
        source, target = put(Path(folder, "in.jsonl"), rows), Path(folder, "out.jsonl")
        summary = run_stage(stage, source, target, resumable=False, **options)
        assert summary.read == summary.kept + summary.dropped + summary.rejected
        return load_any(target), stage


def load_any(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_every_view_is_asked_once_for_what_is_the_same(root: str) -> None:
    oracle = Oracle()
    rows = [{**row, "images": [{"path": "1.png"}]} for row in records(8)]
    out, stage = measured(rows, Method(image_root=root), oracle)
    # Four questions; one image, seen with the statement alone or with one of the questions.
    assert Counter(name.rpartition("/")[2] for name, _, _ in oracle.asked) == {"text": 4, "both": 4, "image": 1}
    assert len({text for _, _, text in oracle.asked}) == 5
    by_question = {row["question"]: row["predictions"] for row in out}
    assert all(row["predictions"] == by_question[row["question"]] for row in out)
    assert "8 sampled of 1 task" in stage.notes()
    assert "asked once each: 4 both, 1 image, 4 text" in stage.notes()


def test_requests_are_numbered_without_gaps_and_a_records_views_stand_together(root: str) -> None:
    oracle = Oracle()
    measured(records(12), Method(image_root=root), oracle)
    assert [position for _, position, _ in oracle.asked] == list(range(len(oracle.asked)))
    places: dict[str, list[int]] = {}
    for name, position, _ in oracle.asked:
        places.setdefault(name.rpartition("/")[0], []).append(position)
    assert all(max(own) - min(own) == len(own) - 1 for own in places.values())
    asked = [name.rpartition("/") for name, _, _ in oracle.asked]
    assert all(after[0] != before[0] for before, after in itertools.pairwise(asked) if before[2] == "text")


def test_images_are_loaded_when_their_turn_comes_and_let_go_of(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[int] = []

    class Watching(Oracle):
        window = 1

        def _note(self, request: Request) -> int:
            number = super()._note(request)
            alive.append(sum(type(thing) is LoadedImage for thing in gc.get_objects()))
            return number

    before = sum(type(thing) is LoadedImage for thing in gc.get_objects())
    measured(records(24), Method(image_root=root), Watching())
    assert len(alive) > 20
    assert max(alive) - before <= 2, "of this request, and of the one before it"


@settings(max_examples=15)
@given(order=st.randoms(use_true_random=False), window=st.integers(1, 7))
def test_neither_the_rows_order_nor_the_window_changes_a_byte(root: str, order: random.Random, window: int) -> None:
    rows = records(15) + records(9, "u", choices=["a", "b"])
    method = Method(draws=3, size=5, image_root=root)
    expected, _ = measured(rows, method, Oracle())
    shuffled = rows[:]
    order.shuffle(shuffled)
    oracle = Oracle()
    oracle.window = window
    assert measured(shuffled, method, oracle)[0] == expected


def test_only_what_a_record_does_not_bring_along_is_asked(root: str) -> None:
    rows = records(3)
    rows[0]["predictions"] = {"text": "a", "image": "b", "both": "c", "note": "kept"}
    rows[1]["predictions"] = {"text": "a"}
    oracle = Oracle()
    out, _ = measured(rows, Method(image_root=root), oracle)
    assert sorted(name for name, _, _ in oracle.asked) == ["t1/both", "t1/image", "t2/both", "t2/image", "t2/text"]
    assert out[0]["predictions"] == rows[0]["predictions"]
    assert "lineage" not in out[0], "nobody was asked about it"
    assert out[1]["predictions"]["text"] == "a"
    assert [row["question"] for row in out] == [row["question"] for row in rows], "fields are carried along"


def test_given_predictions_need_no_model_image_or_question() -> None:
    rows = [{"id": str(i), "predictions": {"text": "a", "image": "ab"[i % 2], "both": "a"}} for i in range(4)]
    out, stage = measured(rows, Method(), output="rows")
    assert (out[0]["task"], out[0]["score_text"], out[0]["score_image"]) == ("default", 1.0, 0.5)
    assert [row.task for row in stage.rows] == ["default"]


def test_each_model_is_asked_for_its_views_and_all_at_once(root: str) -> None:
    opened: list[str] = []
    engines = {name: Oracle(name) for name in ("words", "eyes", "whole")}

    class Noting(dict):  # type: ignore[type-arg]
        def __getitem__(self, name: str) -> Oracle:
            opened.append(name)
            return engines[name]

    models = {"text": "words", "image": "eyes", "both": "whole"}
    out, _ = measured(records(5), Method(image_root=root), Noting(engines), models)
    assert sorted(opened) == sorted(engines), "an engine is opened twice, or never"
    for view, name in models.items():
        assert {asked.rpartition("/")[2] for asked, _, _ in engines[name].asked} == {view}
    assert [entry["model"] for entry in out[0]["lineage"]] == opened


def test_the_samples_say_what_was_paid_and_for_whom(root: str) -> None:
    oracle = Oracle()
    rows = [{**row, "images": [{"path": "1.png"}]} for row in records(8)]
    out, _ = measured(rows, Method(image_root=root), oracle)
    paid = [entry["usage"]["prompt_tokens"] for row in out for entry in row["lineage"]]
    assert sum(paid) == 7 * len(oracle.asked)
    assert {entry["op"] for row in out for entry in row["lineage"]} == {"score-interaction"}


def test_who_stays_in_the_sample_pays_for_an_answer_whose_asker_left_it(root: str, tmp_path: Path) -> None:
    rows = [{**row, "question": "What?"} for row in records(3)]
    out, _ = measured(rows, Method(image_root=root), Oracle(fails=["t0/both"]), rejects=str(tmp_path / "r.jsonl"))
    paid = {row["id"]: row["lineage"][0]["usage"]["prompt_tokens"] // 7 for row in out}
    assert paid == {"t1": 2, "t2": 1}, "the images are seen with what both see; the text of all is the first's"


def test_a_row_about_which_there_is_no_answer_leaves_the_sample_and_is_told(root: str, tmp_path: Path) -> None:
    rejects = tmp_path / "r.jsonl"
    oracle = Oracle(fails=["t1/image"], empty=["t2/text"])
    rows = [*records(6), {"id": "gone", "task": "t", "images": [{"path": "no.png"}], "question": "Where?"}]
    for row in rows[:6]:
        row["question"] = f"What is {row['id']}?"
    out, stage = measured(rows, Method(image_root=root), oracle, rejects=str(rejects))
    assert [row["id"] for row in out] == ["t0", "t3", "t4", "t5"]
    accounts = {a["record"]["id"]: a for a in map(orjson.loads, rejects.read_bytes().splitlines())}
    assert accounts["t1"]["reason"] == "the model gave no answer (image): the server is ill"
    assert accounts["t2"]["reason"] == "predictions.text: empty"
    assert "no.png" in accounts["gone"]["reason"]
    assert {account["line"] for account in accounts.values()} == {2, 3, 7}
    assert "3 left the sample" in stage.notes()
    assert stage.rows[0].n == 4


def test_who_shares_a_question_shares_its_failure(root: str, tmp_path: Path) -> None:
    rows = [{**row, "images": [{"path": "1.png"}], "question": "What?"} for row in records(3)]
    oracle = Oracle(fails=["t0/both"])
    rejects = str(tmp_path / "r.jsonl")
    out, stage = measured(rows, Method(image_root=root), oracle, rejects=rejects, output="rows")
    assert out == [], "a task of which nothing is left has no score"
    assert "no row for t, of which nothing is left" in stage.notes()
    assert len(Path(rejects).read_bytes().splitlines()) == 3


def test_a_strict_run_ends_at_the_first_row_without_an_answer(root: str) -> None:
    oracle = Oracle(fails=["t1/both"])
    with pytest.raises(UnavailableError, match=r"in\.jsonl:2: the model gave no answer \(both\): the server is ill"):
        measured([{**row, "question": row["id"]} for row in records(50)], Method(image_root=root), oracle)
    assert len(oracle.asked) < 10, "the rest was asked all the same"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"images": []}, "images: an interaction needs an image"),
        ({"question": " "}, "question: a task needs one"),
        ({"predictions": ["a"]}, 'predictions: expected an object of "text", "image" and "both"'),
        ({"predictions": {"text": ""}}, "predictions.text: empty"),
        ({"predictions": {"both": 3}}, "predictions.both: expected a string, got int"),
        ({"benchmark": "none"}, "benchmark: 'none' is not defined"),
        ({"benchmark": "slake"}, "task: 't' is none of slake's"),
        ({"answer_type": "word"}, "answer_type: expected one of"),
        ({"choices": ["x"] * 27}, "choices: at most 26"),
    ],
)
def test_a_row_that_cannot_be_asked_about_is_rejected_before_anybody_is_asked(
    row: dict[str, Any], said: str, root: str, tmp_path: Path
) -> None:
    oracle = Oracle()
    with pytest.raises(DataError) as raised:
        measured([*records(2), {**records(1)[0], **row}], Method(image_root=root), oracle)
    assert f"in.jsonl:3: {said}" in str(raised.value)
    assert oracle.asked == []
    rows, rejects = [{**records(1)[0], **row, "id": "bad"}, *records(2)], str(tmp_path / "r")
    assert [row["id"] for row in measured(rows, Method(image_root=root), oracle, rejects=rejects)[0]] == ["t0", "t1"]


def test_without_a_model_predictions_have_to_be_there() -> None:
    given = {"text": "a", "image": "a", "both": "a"}
    with pytest.raises(UsageError, match=r'in\.jsonl:2: nobody to ask: give --model, or in every record "predictions"'):
        measured([{"id": "1", "predictions": given}, {"id": "2"}], Method())
    with pytest.raises(DataError, match=r"in\.jsonl:1: predictions\.image: missing, and there is no --model"):
        measured([{"id": "1", "predictions": {"text": "a"}}], Method())
    with pytest.raises(UsageError, match='"choice_log_probs"'):
        measured([{"id": "1", "choices": ["a", "b"], "predictions": given}], Method(similarity="likelihood"))
    with pytest.raises(UsageError, match="nobody to judge"):
        measured([{"id": "1", "predictions": given}], Method(similarity="judge"))


def test_likelihood_scores_equal_choices_together_and_predicts_the_best(root: str) -> None:
    rows = records(4, choices=["red", "blue"]) + records(4, "u", choices=["A. one", "B. two"])
    rows += records(2, "v", answer_type="yes-no")
    oracle = Oracle()
    out, stage = measured(rows, Method(similarity="likelihood", image_root=root), oracle)
    assert oracle.groups == [("red", "blue"), ("one", "two"), ("yes", "no")], "labels are no part of a reply"
    for row in out:
        for view in ALL:
            values = row["choice_log_probs"][view]
            assert list(values) == row.get("choices", ["yes", "no"])
            assert row["predictions"][view] == max(values, key=values.__getitem__)
    assert {row["similarity"] for row in out} == {"likelihood"}
    letters = Oracle()
    measured(rows[:8], Method(similarity="likelihood", choice_form="letter", image_root=root), letters)
    assert letters.groups == [("A", "B")], "of letters there is one group"
    again, rescored = measured(out, Method(similarity="likelihood"))
    assert (again, rescored.rows) == (out, stage.rows)


@pytest.mark.parametrize(
    "log_probs",
    [
        {"text": {"red": -1.0}},
        {"text": {"red": "x", "blue": -1}},
        {"both": {"red": 0, "blue": True}},
        {"image": {"red": 1e308, "blue": -1e308}},
        [1],
        {"text": 3},
    ],
)
def test_log_probabilities_that_are_none_of_all_choices_are_refused(log_probs: Any) -> None:
    with pytest.raises(DataError, match="choice_log_probs"):
        row = {"id": "1", "choices": ["red", "blue"], "choice_log_probs": log_probs}
        measured([row], Method(similarity="likelihood"))


def test_predictions_that_a_likelihood_could_not_be_written_beside_are_refused_before_anybody_is_asked(
    root: str,
) -> None:
    oracle = Oracle()
    with pytest.raises(DataError, match=r"in\.jsonl:2: predictions: expected an object"):
        rows = [*records(1, choices=["a", "b"]), *records(1, choices=["a", "b"], predictions=["a"])]
        measured(rows, Method(similarity="likelihood", image_root=root), oracle)
    assert oracle.groups == []


THOUGHT = "<think>A dog? No.</think>a cat"


def test_a_judge_is_asked_where_two_answers_differ_and_its_probability_of_yes_is_the_agreement(root: str) -> None:
    rows = [
        {"id": "1", "question": "What?", "predictions": {"text": "A cat.", "image": THOUGHT, "both": "a cat"}},
        {"id": "2", "question": "What?", "predictions": {"text": 'so"}', "image": "a dog", "both": "a cat"}},
    ]
    judge = Oracle("judge")
    method = Method(similarity="judge")
    out, stage = measured(rows, method, {"judge": judge}, {"judge": "judge"})
    assert [name for name, _, _ in judge.asked] == ["2/judge-text", "2/judge-image"]
    assert out[0]["delta"] == {"text": 1.0, "image": 1.0}
    assert all(0 < value < 1 for value in out[1]["delta"].values())
    assert 'Answer 1: "so\\"}"\nAnswer 2: "a cat"' in judge.asked[0][2], "a text may not end its own quotes"
    again, rescored = measured(out, method)
    assert (again, rescored.rows) == (out, stage.rows), "what a judge said is read back"


@pytest.mark.parametrize("delta", [{"text": 5, "image": 0.5}, {"text": 0.5, "image": "1"}, {"text": True, "image": 0}])
def test_what_no_judge_can_have_said_rejects_its_row_and_no_other(delta: Any, tmp_path: Path) -> None:
    predictions = {"text": "a", "image": "a", "both": "a"}
    rows = [{"id": "1", "question": "What?", "predictions": predictions, "similarity": "judge", "delta": delta}]
    rows.append({**rows[0], "id": "2", "delta": {"text": 1, "image": 0.5}})
    with pytest.raises(DataError, match=r"in\.jsonl:1: delta\.(text|image): expected a number from 0 to 1"):
        measured(rows, Method(similarity="judge"))
    out, _ = measured(rows, Method(similarity="judge"), rejects=str(tmp_path / "r.jsonl"))
    assert [row["id"] for row in out] == ["2"]


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_judge_without_a_verdict_costs_one_row_and_not_the_run(value: float, tmp_path: Path) -> None:
    class Undecided(Oracle):
        def choose(self, requests: Iterable[Request], choices: Sequence[str]) -> Iterator[Choice]:
            for choice in super().choose(requests, choices):
                lost = choice.id.startswith("1/")
                yield Choice(choice.id, dict.fromkeys(choices, value) if lost else choice.log_probs, choice.usage)

    rows = [{"id": f"{n}", "question": f"{n}?", "predictions": {"text": "a", "image": "b", "both": "c"}} for n in "12"]
    judge = {"judge": Undecided("judge")}
    rejects = tmp_path / "r.jsonl"
    out, _ = measured(rows, Method(similarity="judge"), judge, {"judge": "judge"}, rejects=str(rejects))
    assert [row["id"] for row in out] == ["2"]
    assert "gave neither yes nor no a probability (text)" in rejects.read_text()


def test_a_verdict_on_a_prediction_that_is_asked_for_anew_is_not_kept(root: str) -> None:
    row = {**records(1)[0], "similarity": "judge", "delta": {"text": 0.125, "image": 0.125}}
    oracle = Oracle()
    out, _ = measured([row], Method(similarity="judge", image_root=root), {"m": oracle}, {**ALL, "judge": "m"})
    assert out[0]["delta"]["text"] != 0.125
    assert out[0]["delta"]["image"] != 0.125


UNLISTED: list[tuple[dict[str, Any], str]] = [
    ({"answer_type": "yes-no"}, "names no option A"),
    ({"benchmark": "nlvr", "task": "nlvr", "choices": ["true", "false"]}, "names no option A"),
    ({"choices": ["red", "blue"], "messages": [message("user", "A thing?", 1)]}, "names no option B"),
]


@pytest.mark.parametrize(("row", "said"), UNLISTED)
def test_letters_are_scored_only_where_the_prompt_says_what_they_stand_for(
    row: dict[str, Any], said: str, root: str
) -> None:
    oracle, letter = Oracle(), Method(similarity="likelihood", choice_form="letter", image_root=root)
    with pytest.raises(DataError, match=rf"in\.jsonl:1: choices: the prompt {said}.*: --choice-form text"):
        measured(records(1, **row), letter, oracle)
    assert oracle.asked == []
    measured(records(1, **row), Method(similarity="likelihood", image_root=root), oracle)
    assert oracle.groups, "the texts of the choices can be scored all the same"


def test_a_judge_needs_a_question(tmp_path: Path) -> None:
    rows = [{"id": "1", "predictions": {"text": "a", "image": "b", "both": "c"}}]
    with pytest.raises(DataError, match=r"in\.jsonl:1: question: a task needs one"):
        measured(rows, Method(similarity="judge"), {"judge": Oracle("judge")}, {"judge": "judge"})


def test_a_statement_of_a_task_that_is_not_there_is_told(root: str) -> None:
    method = Method(statements=Statements({"t": "What is it?", "typo": "What?"}), image_root=root)
    oracle = Oracle()
    _, stage = measured(records(2), method, oracle)
    assert "no record of typo, named in --statements" in stage.notes()
    assert "What is it?" in {text for name, _, text in oracle.asked if name.endswith("/image")}
    assert not any("in general" in note for note in stage.notes())


answers = st.sampled_from(["yes", "no", "Yes.", "maybe"])
samples = st.lists(
    st.fixed_dictionaries(
        {
            "task": st.sampled_from(["a", "b"]),
            "choices": st.sampled_from([["yes", "no"], ["red", "blue"]]),
            "answer": st.sampled_from(["yes", "no"]),
            "predictions": st.fixed_dictionaries({"text": answers, "image": answers, "both": answers}),
        }
    ),
    max_size=25,
)


@settings(max_examples=25)
@given(samples=samples, count=st.integers(1, 4), draws=st.integers(1, 3), size=st.integers(1, 6))
def test_the_samples_of_all_shards_give_the_scores_of_the_whole(
    samples: list[dict[str, Any]], count: int, draws: int, size: int
) -> None:
    rows = [{"id": f"r{i}", **row, "answer": row["choices"][row["answer"] == "no"]} for i, row in enumerate(samples)]
    method = Method(draws=draws, size=size)
    expected, _ = measured(rows, method, output="rows")
    shards = [sample for i in range(count) for sample in measured(rows, method, shard=(i, count))[0]]
    assert measured(shards, method, output="rows")[0] == expected
