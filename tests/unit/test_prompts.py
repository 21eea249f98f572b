"""How tasks are asked: pools of wordings, ours or the user's, and an answer type that no answer decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stream_kit import words

from mmkit.errors import DataError, MissingInputError, UsageError
from mmkit.tasks import benchmarks, prompts
from mmkit.tasks.benchmarks import ANSWER_TYPES, Benchmark, TaskDefinition
from mmkit.tasks.extraction import Options

POOLS = get_args(prompts.Pool)


def file_of(folder: Path, pools: Any) -> str:
    path = folder / "own.json"
    path.write_text(pools if isinstance(pools, str) else json.dumps(pools), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("pool", POOLS)
def test_twenty_wordings_that_pass_for_a_users_own(pool: str, tmp_path: Path) -> None:
    wordings = prompts.templates(pool)
    assert len({prompts.fill(wording, {"question": "x"}).lower() for wording in wordings}) == 20
    same = prompts.load_phrasings(file_of(tmp_path, {pool: wordings}))
    assert same.digest() == prompts.load_phrasings().digest()


def test_a_file_replaces_its_pools_and_no_others(tmp_path: Path) -> None:
    own = prompts.load_phrasings(file_of(tmp_path, {"yes_no": ["{question} (y/n)"]}))
    ours = prompts.load_phrasings()
    assert own.digest() != ours.digest()
    for i in range(20):
        assert own.phrasing("yes-no", 0, str(i)) == "{question} (y/n)"
        assert own.phrasing("short", 0, str(i)) == ours.phrasing("short", 0, str(i))
        assert own.closer(0, str(i)) == ours.closer(0, str(i))


@pytest.mark.parametrize(
    ("pools", "fault"),
    [
        ("not JSON", "own.json: "),
        ('{"closer": ["Answer: {answer}"], "closer": ["answer is {answer}"]}', "closer"),
        (["Answer: {answer}"], "expected an object"),
        ({"closers": []}, "closers: no such pool; there are multiple_choice, short_answer, yes_no, closer"),
        ({"describe": ["What is it?"]}, "describe: no such pool"),
        ({"closer": []}, "closer: expected a list of at least one wording"),
        ({"closer": "Answer: {answer}"}, "closer: expected a list"),
        ({"yes_no": ["{question}", 3]}, r"yes_no\[1\]: expected a string"),
        ({"yes_no": ["Yes or no?"]}, r"yes_no\[0\]: expected \{question\} once, found it 0 times"),
        ({"short_answer": ["{question} {question}"]}, r"short_answer\[0\]: .* found it 2 times"),
        ({"multiple_choice": ["{question}"]}, r"multiple_choice\[0\]: expected \{choices\} once"),
        ({"short_answer": ["{question} {choices}"]}, r"short_answer\[0\]: unknown slot \{choices\}"),
        ({"short_answer": ["{question} {}"]}, r"unknown slot \{\}"),
        ({"yes_no": ["{context} {question}"]}, r"unknown slot \{context\}; .*--context says where it stands"),
        ({"closer": ["It is {answer}"]}, r"closer\[0\]: an answer could not be read back"),
        ({"closer": ["Answer: {answer}", "{answer}"]}, r"closer\[1\]: an answer could not be read back"),
        ({"closer": ["The answer is {answer}."]}, "could not be read back"),
        ({"closer": ["The answer is {answer} because I say so"]}, "could not be read back"),
        ({"closer": ["If not this answer: no, the answer is {answer}"]}, "could not be read back"),
        ({"closer": ["The answer is clearly {answer}"]}, "could not be read back"),
    ],
)
def test_a_file_that_could_not_be_used_is_refused(pools: Any, fault: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=fault) as error:
        prompts.load_phrasings(file_of(tmp_path, pools))
    assert str(error.value).startswith(str(tmp_path / "own.json"))


def test_a_file_that_is_not_there_is_a_missing_input(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"none\.json: No such file"):
        prompts.load_phrasings(str(tmp_path / "none.json"))


def test_a_closer_may_go_on_behind_its_line(tmp_path: Path) -> None:
    closers = ["Answer: **{answer}**", "{I am sure.} The answer is {answer}\nThat is all."]
    prompts.load_phrasings(file_of(tmp_path, {"closer": closers}))


@pytest.mark.parametrize("kind", ANSWER_TYPES)
def test_wordings_vary_with_seed_and_id_alone(kind: str) -> None:
    phrasings = prompts.load_phrasings()
    drawn = [phrasings.phrasing(kind, 0, str(i)) for i in range(400)]
    assert drawn == [prompts.load_phrasings().phrasing(kind, 0, str(i)) for i in range(400)]
    if kind in ("long", "box", "list"):
        assert set(drawn) == {None}
    else:
        assert len(set(drawn)) == 20
        assert drawn != [phrasings.phrasing(kind, 1, str(i)) for i in range(400)]


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({}, "short"),
        ({"choices": []}, "short"),
        ({"choices": ["lung", "liver"]}, "choice"),
        ({"choices": ["Yes", "No."]}, "yes-no"),
        ({"choices": ["A. no", "B. yes"]}, "yes-no"),
        ({"choices": ["yes", "no", "maybe"]}, "choice"),
        ({"choices": ["yes", "no"], "answer_type": "choice"}, "choice"),
        ({"answer_type": "box"}, "box"),
    ],
)
def test_the_answer_type_is_the_records_or_that_of_its_choices(record: Any, kind: str) -> None:
    assert prompts.answer_type(record) == kind


def test_the_answer_type_of_a_benchmark_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TaskDefinition("t", "yes-no", "closed")
    monkeypatch.setattr(benchmarks, "_definitions", lambda: {"b": Benchmark("b", "B", [], tasks={"t": task})})
    record = {"benchmark": "b", "task": "t", "answer_type": "box", "choices": ["lung", "liver"]}
    assert prompts.answer_type(record) == "yes-no"
    with pytest.raises(DataError, match="task: 'u' is none of b's: t"):
        prompts.answer_type({**record, "task": "u"})


@pytest.mark.parametrize("own", ["closed", "", 3, ["short"]])
def test_an_unknown_answer_type_is_bad_data(own: Any) -> None:
    with pytest.raises(DataError, match="answer_type: expected one of choice, yes-no"):
        prompts.answer_type({"answer_type": own})


@given(st.sampled_from(["snow", "sand", "no", "yes", "B", "12", ""]), st.none() | st.lists(words, max_size=3))
def test_the_answer_type_is_the_same_whatever_the_answer(answer: str, choices: list[str] | None) -> None:
    record = {"question": "Which?", "choices": choices}
    assert prompts.answer_type({**record, "answer": answer, "answers": [answer]}) == prompts.answer_type(record)


@pytest.mark.parametrize(
    ("style", "shown"),
    [
        ("dot", "Which?\nA. lung\nB. liver"),
        ("paren", "Which?\nA) lung\nB) liver"),
        ("parens", "Which?\n(A) lung\n(B) liver"),
        ("inline", "Which?\nA. lung B. liver"),
    ],
)
@pytest.mark.parametrize("choices", [["lung", "liver"], ["A: lung", "B: liver"], ["(A) lung", "(B) liver"]])
def test_options_are_lettered_once(style: Any, shown: str, choices: list[str]) -> None:
    record = {"question": "Which?", "choices": choices}
    assert prompts.fill(prompts.COMMON_PROMPT, record, style) == shown
    for index, line in enumerate(prompts.listed(choices, style)):
        assert Options(choices).find(line) == index


@given(*[st.text().filter(str.strip)] * 3)
def test_braces_in_a_text_stay_what_they_are(question: str, context: str, choice: str) -> None:
    record = {
        "question": f"{{choices}}{question}{{context}}",
        "context": f"{{question}}{context}{{}}",
        "choices": [f"{{context}}{choice}", "{question}"],
    }
    filled = prompts.fill("{context}|{question}|{choices}", record, "inline")
    assert filled == f"{record['context']}|{record['question']}|A. {record['choices'][0]} B. {{question}}"


def test_more_choices_than_letters_are_bad_data() -> None:
    assert len(prompts.listed([str(i) for i in range(26)])) == 26
    with pytest.raises(DataError, match="at most 26 can be lettered, got 27"):
        prompts.listed([str(i) for i in range(27)])
