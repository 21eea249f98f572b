"""Tasks become conversations whose answers can be read back, asked in a way that no answer decides."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stream_kit import dump, load, put, run_stage, text

from mmkit import streams
from mmkit.data import instruct
from mmkit.errors import DataError, UsageError
from mmkit.records import check, parts_text
from mmkit.streams import Kept, Rejected, Row, Used
from mmkit.tasks import benchmarks, prompts
from mmkit.tasks.benchmarks import Benchmark, TaskDefinition
from mmkit.tasks.metrics import metric_for

PHRASINGS = prompts.load_phrasings()
ORGANS = ["lung", "left kidney", "no", "heart (B)"]
TYPES_OF_POOL = {"multiple_choice": "choice", "short_answer": "short", "yes_no": "yes-no"}
BARE = ("long", "box", "list")
GOLD: dict[str, dict[str, Any]] = {
    "choice": {"choices": ["lung", "liver"], "answer": "liver"},
    "yes-no": {"answer": "yes"},
    "number": {"answer": "3"},
    "short": {"answer": "left lung"},
    "long": {"answer": "A scan of a lung."},
    "box": {"answer": "[0.1, 0.2, 0.3, 0.4]"},
    "list": {"choices": ["lung", "liver", "heart"], "answer": "lung, heart"},
}
# Without the marks that belong to a statement, for whoever reads it: emphasis, and the colon of "the answer is:".
texts_with_words = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="*`:"), min_size=1, max_size=20
).filter(str.strip)


def instructor(phrasings: prompts.Phrasings = PHRASINGS, **form: Any) -> instruct.Instructor:
    return instruct.Instructor(instruct.Form(**form), phrasings)


def turns_of(record: dict[str, Any], phrasings: prompts.Phrasings = PHRASINGS, **form: Any) -> list[str]:
    """What user and assistant say, in turns."""
    made = instructor(phrasings, **form).of_one({"id": "a", **record})
    check(made)
    return [parts_text(turn) for turn in made["messages"]]


def only(phrasing: str, pool: Any, closer: str) -> prompts.Phrasings:
    """Phrasings that leave nothing to draw."""
    pools: dict[Any, Any] = {name: prompts.templates(name) for name in get_args(prompts.Pool)}
    return prompts.Phrasings({**pools, pool: [phrasing], "closer": [closer]})


def score(record: dict[str, Any], prediction: str) -> float:
    metric = metric_for(record)
    return metric.rules[metric.default_rule]({**record, "prediction": prediction}).value


def define(monkeypatch: pytest.MonkeyPatch, **task: Any) -> dict[str, str]:
    """Defines a benchmark of one task; the fields by which a record names it."""
    definition = TaskDefinition("t", **{"answer_type": "short", "metric": "em", **task})
    monkeypatch.setattr(benchmarks, "_definitions", lambda: {"b": Benchmark("b", "B", [], tasks={"t": definition})})
    return {"benchmark": "b", "task": "t"}


class TestAnswersAreReadBack:
    """Every phrasing × closer: what a model that says exactly what it was taught gets full marks for."""

    @pytest.mark.parametrize("option_style", get_args(prompts.OptionStyle))
    @pytest.mark.parametrize("answer_style", ["letter", "text", "both"])
    @pytest.mark.parametrize("rationale", [False, True])
    def test_of_a_choice(self, option_style: str, answer_style: str, rationale: bool) -> None:
        form = {"option_style": option_style, "answer_style": answer_style, "rationale": rationale}
        pools = prompts.templates("multiple_choice"), prompts.templates("closer")
        for i, (phrasing, closer) in enumerate(itertools.product(*pools)):
            answer = ORGANS[i % 4]
            record = {
                "question": "Which?",
                "choices": ORGANS,
                "answer": answer,
                "rationale": "The answer is one of four.",
            }
            user, assistant = turns_of(record, only(phrasing, "multiple_choice", closer), **form)
            assert all(organ in user for organ in ORGANS)
            assert assistant.startswith("The answer is one of four.\n") == rationale
            for gold in ORGANS:
                assert score({**record, "answer": gold}, assistant) == 100.0 * (gold == answer), assistant

    @pytest.mark.parametrize("rationale", [False, True])
    @pytest.mark.parametrize(
        ("pool", "answers"),
        [
            ("yes_no", ["yes", "No", "no."]),
            ("short_answer", ["left lung", "left\nlung", "U.S.", "3", "no snow", "{answer}", "Is it"]),
        ],
    )
    def test_of_an_open_or_closed_question(self, pool: str, answers: list[str], rationale: bool) -> None:
        for phrasing, closer in itertools.product(prompts.templates(pool), prompts.templates("closer")):
            for answer in answers:
                record = {"question": "Is it?", "answer": answer, "answer_type": TYPES_OF_POOL[pool]}
                record["rationale"] = "One sees it at once: yes, 7."
                _, assistant = turns_of(record, only(phrasing, pool, closer), rationale=rationale)
                assert score(record, assistant) == 100.0, assistant
                assert score({**record, "answer": "yes" if answer.lower().startswith("no") else "no"}, assistant) == 0.0

    @given(st.lists(texts_with_words, min_size=1, max_size=5), st.integers(0, 4), st.integers(0, 99))
    def test_whatever_the_options_say(self, choices: list[str], index: int, seed: int) -> None:
        record = {"question": "Which?", "choices": choices, "answer": choices[index % len(choices)]}
        forms: list[dict[str, Any]] = [{"closer": False}, {"rationale": True}]
        for form in forms:
            _, assistant = turns_of({**record, "answer_type": "choice", "rationale": "So."}, seed=seed, **form)
            assert score({**record, "answer_type": "choice"}, assistant) == 100.0

    @given(texts_with_words)
    def test_whatever_a_short_answer_says(self, answer: str) -> None:
        record = {"question": "Which?", "answer": answer}
        assert score(record, turns_of(record)[1]) == 100.0

    @pytest.mark.parametrize("prompt", ["benchmark", "phrasing"])
    def test_by_each_benchmarks_metric(self, prompt: str) -> None:
        maker, num_scored = instructor(prompt=prompt), 0
        for benchmark in map(benchmarks.benchmark, benchmarks.names()):
            for definition in benchmark.tasks.values():
                record = {"id": "a", "benchmark": benchmark.name, "task": definition.name, "question": "Which?"}
                record |= GOLD[definition.answer_type]
                user, assistant = (parts_text(turn) for turn in maker.turns(record))
                if definition.prompt is not None and (prompt == "benchmark" or definition.answer_type in BARE):
                    assert user == prompts.ask(record)
                metric = metric_for(record)
                if metric.default_rule in metric.rules and metric.default_rule != "judge":
                    assert score(record, assistant) == metric.range[1], definition.name
                    num_scored += 1
        assert num_scored > 50

    def test_a_letter_that_is_another_options_text_is_not_used(self) -> None:
        record = {"question": "Which vitamin?", "choices": ["B", "A"], "answer": "B"}
        for style in ("letter", "text", "both"):
            _, assistant = turns_of(record, answer_style=style)
            assert score(record, assistant) == 100.0
            assert score({**record, "answer": "A"}, assistant) == 0.0


class TestNoAnswerDecidesHowToAsk:
    def test_snow_is_asked_about_like_sand(self) -> None:
        """In MLAN's released scripts "no" in "snow" makes it a yes-or-no question."""
        for i in range(50):
            record = {"id": str(i), "question": "What covers the ground?"}
            snow, sand = (turns_of({**record, "answer": answer}) for answer in ("snow", "sand"))
            assert snow[0] == sand[0]
            assert snow[1].removesuffix("snow") == sand[1].removesuffix("sand")

    @given(
        st.lists(texts_with_words, max_size=4),
        st.sampled_from([None, "choice", "yes-no", "short", "number", "long", "box", "list"]),
        st.lists(st.sampled_from(["yes", "no", "snow", "B", "2", "[0, 0, 1, 1]"]) | texts_with_words, min_size=2),
        st.booleans(),
        st.integers(0, 9),
    )
    def test_the_user_turn_never_depends_on_answer_or_rationale(
        self, choices: list[str], kind: str | None, answers: list[str], rationale: bool, seed: int
    ) -> None:
        asked = set()
        for answer in [*answers, *choices]:
            record = {"question": "Which?", "context": "Here.", "choices": choices, "answer_type": kind}
            try:
                user, _ = turns_of(
                    {**record, "answer": answer, "answers": [answer], "rationale": f"It is {answer}."},
                    rationale=rationale,
                    seed=seed,
                )
            except DataError:
                continue
            asked.add(user)
        assert len(asked) <= 1


class TestHowATaskIsAsked:
    @pytest.mark.parametrize(
        ("kind", "more", "shown", "hidden"),
        [
            ("choice", {"choices": ["B", "A"], "answer": "A"}, "A. B\nB. A", None),
            ("yes-no", {"answer": "no"}, "es", None),
            ("yes-no", {"answer": "no", "choices": ["yes", "no"]}, "es", "A. yes"),
            ("short", {"answer": "one"}, "Which?", None),
            ("number", {"answer": "1"}, "Which?", None),
        ],
    )
    def test_by_a_wording_for_its_type(self, kind: str, more: Any, shown: str, hidden: str | None) -> None:
        asked, pools = set(), {"choice": "multiple_choice", "yes-no": "yes_no"}
        for i in range(300):
            record = {"id": str(i), "question": "Which?", "answer_type": kind, **more}
            user, assistant = turns_of(record)
            assert shown in user
            assert hidden is None or hidden not in user
            assert "answer" in assistant.lower()
            asked.add(user)
        wordings = prompts.templates(pools.get(kind, "short_answer"))
        assert asked == {prompts.fill(wording, {"question": "Which?", **more}) for wording in wordings}

    @pytest.mark.parametrize("kind", BARE)
    def test_long_answers_boxes_and_lists_stand_alone(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        record = {"question": "Where?", "context": "In it.", "answer": " [0, 0, 1, 1] ", "answer_type": kind}
        assert turns_of({**record, "rationale": "So."}, rationale=True) == ["In it.\nWhere?", "[0, 0, 1, 1]"]
        named = define(monkeypatch, answer_type=kind, prompt="Find it.\n{question}")
        for prompt in ("benchmark", "phrasing"):
            user, _ = turns_of({**record, **named, "choices": [str(i) for i in range(103)]}, prompt=prompt)
            assert user == "Find it.\nWhere?"

    @pytest.mark.parametrize(("place", "line"), [("before", 0), ("after", -1), ("none", None)])
    def test_the_context_stands_where_it_should(self, place: str, line: int | None) -> None:
        for i in range(60):
            record = {"id": str(i), "question": "Which {context}?", "context": "{question}, they say.", "answer": "x"}
            user, _ = turns_of(record, context=place)
            assert user.count("{question}, they say.") == (line is not None)
            assert line is None or user.split("\n")[line] == "{question}, they say."
            assert "Which {context}?" in user
            assert turns_of({**record, "context": ""}, context=place)[0] == turns_of(record, context="none")[0]

    def test_a_benchmarks_own_prompt_is_what_predict_asks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        named = define(monkeypatch, answer_type="choice", prompt="{question}\n{choices}\nLetter only, please.")
        record = {"question": "Which?", "choices": ["lung", "liver"], "answer": "liver", "rationale": "Brown."} | named
        form: dict[str, Any] = {"rationale": True, "option_style": "parens", "context": "after"}
        maker = instructor(**form)
        assert [parts_text(turn) for turn in maker.turns({"id": "a", **record})] == [prompts.ask(record), "B"]
        assert (maker.num_by_benchmark, maker.num_without_rationale) == (1, 0)
        user, assistant = turns_of(record, prompt="phrasing", **form)
        assert "(B) liver" in user
        assert assistant.startswith("Brown.\n")

    def test_an_option_that_is_not_shown_is_answered_by_its_text(self, monkeypatch: pytest.MonkeyPatch) -> None:
        named = define(monkeypatch, answer_type="choice", prompt="{question}\nLung or liver?")
        record = {"question": "Which?", "choices": ["lung", "liver"], "answer": "B", **named}
        assert turns_of(record) == ["Which?\nLung or liver?", "liver"]

    def test_an_answer_alone(self) -> None:
        record = {"question": "Which?", "choices": ["lung", "liver"], "answer": "liver"}
        styles = {"letter": "B", "text": "liver", "both": "(B) liver"}
        for style, answer in styles.items():
            assert turns_of(record, closer=False, answer_style=style, option_style="parens")[1] == answer

    def test_a_task_without_a_rationale_is_counted(self) -> None:
        maker = instructor(rationale=True)
        for i, rationale in enumerate([None, "", " \n", "So it is."]):
            maker.turns({"id": str(i), "question": "Which?", "answer": "x", "rationale": rationale})
        assert maker.num_without_rationale == 3

    def test_hostile_texts_stay_what_they_are(self) -> None:
        question = "{choices} {answer} {question} %s \\1 <image>\n" * 20_000
        user, assistant = turns_of({"question": question, "answer": "{answer}{question}", "rationale": "{answer}"})
        assert question in user
        assert assistant.endswith("{answer}{question}")

    @pytest.mark.parametrize(
        ("change", "fault"),
        [
            ({"question": " "}, "question: a task needs one"),
            ({"answer": None}, "answer: missing or blank"),
            ({"answer": "spleen"}, "answer: 'spleen' is none of the 2 choices"),
            ({"choices": [str(i) for i in range(27)], "answer": "3"}, "at most 26 can be lettered"),
            ({"choices": [], "answer_type": "choice"}, "choices: missing"),
            ({"choices": [], "answer_type": "yes-no"}, "answer: expected yes or no"),
            ({"answer_type": "yes-no"}, "answer: expected yes or no, which is the answer type, got 'lung'"),
            ({"answer_type": "closed"}, "answer_type: expected one of"),
            ({"benchmark": "nobody's"}, 'benchmark: "nobody\'s" is not defined'),
        ],
    )
    def test_a_task_that_cannot_be_put_is_rejected(self, change: dict[str, Any], fault: str) -> None:
        record = {"question": "Which?", "choices": ["lung", "liver"], "answer": "lung"}
        with pytest.raises(DataError, match=fault):
            turns_of({**record, **change})

    def test_what_else_a_record_holds_stays(self) -> None:
        record = {"id": "a", "question": "Which?", "answer": "x", "images": [{"path": "1"}, {"path": "2"}], "own": [1]}
        made = instructor().of_one({**record, "lineage": [{"op": "synthesize"}]})
        assert {name: made[name] for name in record} == record
        assert [part["type"] for part in made["messages"][0]["content"]] == ["image", "image", "text"]
        assert [entry["op"] for entry in made["lineage"]] == ["synthesize", "instruct"]
        assert made["lineage"][-1]["parents"] == ["a"]
        other = instructor(only("{question}", "short_answer", "Answer: {answer}")).of_one(record)
        assert other["lineage"][-1]["params"] != made["lineage"][-1]["params"]


def task(i: int, **more: Any) -> dict[str, Any]:
    return {"id": f"q{i}", "question": f"Which is {i}?", "answer": f"number {i}", **more}


class TestOneRowAtATime:
    def test_rows_do_not_depend_on_each_other(self, tmp_path: Path) -> None:
        rows = [task(i) for i in range(80)]
        mixed = random.Random(1).sample(rows, 80)
        for name, order in (("whole", rows), ("mixed", mixed)):
            run_stage(instruct.instruct_stage(instructor()), put(tmp_path / f"{name}.in", order), tmp_path / name)
        whole = {row["id"]: row for row in load(tmp_path / "whole")}
        assert {row["id"]: row for row in load(tmp_path / "mixed")} == whole
        for index in range(3):
            run_stage(
                instruct.instruct_stage(instructor()), tmp_path / "whole.in", tmp_path / "shard", shard=(index, 3)
            )
            assert load(tmp_path / "shard") == [whole[f"q{i}"] for i in range(index, 80, 3)]

    def test_a_stopped_run_goes_on_with_the_same_wordings_only(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(streams.run.__globals__, "_CHECKPOINT_EVERY_S", 0.0)
        rows = [dump([task(i)]) for i in range(80)]
        source, identity = tmp_path / "in.jsonl", {"templates_text": PHRASINGS.digest()}
        source.write_bytes(b"".join(rows))
        run_stage(instruct.instruct_stage(instructor()), source, tmp_path / "whole", identity=identity)
        source.write_bytes(b"".join([*rows[:60], b"torn\n", *rows[61:]]))
        with pytest.raises(DataError, match=":61:"):
            run_stage(instruct.instruct_stage(instructor()), source, tmp_path / "stopped", identity=identity)
        source.write_bytes(b"".join(rows))
        other = only("{question}", "short_answer", "Answer: {answer}")
        with pytest.raises(UsageError, match="unfinished run with templates_text"):
            run_stage(
                instruct.instruct_stage(instructor(other)),
                source,
                tmp_path / "stopped",
                identity={"templates_text": other.digest()},
            )
        summary = run_stage(instruct.instruct_stage(instructor()), source, tmp_path / "stopped", identity=identity)
        assert summary.resumed_at > 0
        assert (tmp_path / "stopped").read_bytes() == (tmp_path / "whole").read_bytes()


def merged(rows: list[dict[str, Any]], **form: Any) -> tuple[instruct.Merger, list[dict[str, Any]], list[Any]]:
    """The merger, the conversations and all outcomes."""
    merger = instruct.Merger(instructor(**form))
    outcomes = list(merger(iter([Row(row, i, "f", i + 1) for i, row in enumerate(rows)])))
    return merger, [outcome.row.record for outcome in outcomes if isinstance(outcome, Kept)], outcomes


@st.composite
def tasks_on_images(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Tasks with unique ids on none to two of three images, some of them unanswerable."""
    images = st.lists(st.sampled_from(["a.png", "./a.png", "b.png", "c.png"]), max_size=2)
    rows = []
    for i in range(draw(st.integers(0, 40))):
        row = task(i, task=draw(st.sampled_from(["x", "y"])), images=[{"path": p} for p in draw(images)])
        if draw(st.integers(0, 9)) == 0:
            row["answer"] = ""
        rows.append(row | draw(st.dictionaries(st.sampled_from(["weight", "note"]), st.integers(0, 1))))
    return rows


def belonging(row: dict[str, Any]) -> tuple[Any, ...]:
    return (row["task"], row.get("weight"), str(row["images"]).replace("./", ""))


class TestMergedByImage:
    @given(tasks_on_images(), st.randoms(use_true_random=False))
    def test_each_question_is_in_one_conversation_or_rejected(self, rows: Any, chance: random.Random) -> None:
        merger, made, outcomes = merged(rows)
        by_id = {row["id"]: row for row in rows}
        rejected = [outcome.record["id"] for outcome in outcomes if isinstance(outcome, Rejected)]  # type: ignore[index]
        used = [outcome.row.record["id"] for outcome in outcomes if isinstance(outcome, Used)]
        parents = [parent for record in made for parent in record["lineage"][-1]["parents"]]
        assert sorted([*parents, *rejected]) == sorted(by_id)
        assert (merger.num_questions, merger.num_conversations) == (len(used), sum(bool(r["images"]) for r in made))
        assert len({record["id"] for record in made}) == len(made)
        for record in made:
            check(record)
            members = [by_id[parent] for parent in record["lineage"][-1]["parents"]]
            said = [parts_text(turn) for turn in record["messages"]]
            assert len(said) == 2 * len(members) < 20
            assert all(m["question"] in q for m, q in zip(members, said[::2], strict=True))
            assert all(a.endswith(m["answer"]) for m, a in zip(members, said[1::2], strict=True))
            shown = [[part for part in turn["content"] if part["type"] == "image"] for turn in record["messages"]]
            assert [len(parts) for parts in shown] == [len(record["images"]), *[0] * (len(said) - 1)]
            assert len({belonging(member) for member in members}) == 1
        num_questions = Counter(belonging(by_id[i]) for i in used)
        assert Counter(belonging(by_id[r["id"]]) for r in made if r["images"]) == {
            key: math.ceil(n / 9) for key, n in num_questions.items()
        }
        order = chance.sample(rows, len(rows))
        assert {r["id"]: (r["messages"], r["lineage"]) for r in merged(order)[1]} == {
            r["id"]: (r["messages"], r["lineage"]) for r in made
        }

    def test_a_long_list_of_questions_is_divided(self) -> None:
        rows = [task(i, images=[{"path": "a.png"}]) for i in range(20)]
        merger, made, _ = merged(rows)
        assert [len(record["messages"]) // 2 for record in made] == [9, 9, 2]
        assert (merger.num_questions, merger.num_images, merger.num_conversations) == (20, 1, 3)
        other = merged(rows, seed=1)[1]
        assert [record["lineage"][-1]["parents"] for record in other] != [r["lineage"][-1]["parents"] for r in made]

    def test_only_what_all_records_agree_in_rides_along(self) -> None:
        rows = [
            task(
                1, images=[{"path": "a"}], task="vqa", source="x", part=1, answers=["number 1"], lineage=[{"op": "s"}]
            ),
            task(2, images=[{"path": "a"}], task="vqa", source="x", part=2, lineage=[{"op": "t"}]),
        ]
        (record,) = merged(rows)[1]
        assert set(record) == {"id", "images", "task", "source", "messages", "lineage"}
        assert Counter(entry["op"] for entry in record["lineage"]) == {"s": 1, "t": 1, "instruct": 1}
        (alone,) = merged(rows[:1])[1]
        assert alone == instructor().of_one(rows[0])

    def test_every_row_is_accounted_for(self, tmp_path: Path) -> None:
        rows = [
            task(1, images=[{"path": "a"}]),
            task(2),
            {"id": "bad"},
            "torn",
            task(3, images=[{"path": "a"}]),
            task(4),
        ]
        stage = instruct.Merger(instructor())
        options = {"rejects": str(tmp_path / "rejects"), "resumable": False}
        summary = run_stage(stage, put(tmp_path / "in", rows), tmp_path / "out", **options)
        assert (summary.read, summary.kept, summary.written, summary.rejected) == (6, 4, 3, 2)
        assert [len(row["messages"]) for row in load(tmp_path / "out")] == [2, 2, 4]


@given(text)
def test_any_question_is_asked(question: str) -> None:
    record = {"question": question, "answer": "x"}
    if question.strip():
        assert question in turns_of(record)[0]
    else:
        with pytest.raises(DataError, match="question: a task needs one"):
            turns_of(record)
