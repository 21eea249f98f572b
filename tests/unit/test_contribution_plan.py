"""What `measure-contribution` is going to train: the subsets, the trainings of each equation, their cost."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkit.balance.plan import Pace, Plan, advice, makefile, plan, require_larger_subsets
from mmkit.balance.subsets import Rates, Rows, require_same_tasks
from mmkit.errors import DataError, UsageError

QUARTER = Rates(Fraction(1, 4), Fraction(1, 32))
SIZES = {"vqa": 640, "caption": 320, "ocr": 320}
GROUPS = {"vqa": "answers", "caption": "texts", "ocr": "texts"}


def rows_of(sizes: dict[str, int]) -> Rows:
    rows = Rows()
    for task, count in sizes.items():
        for number in range(count):
            rows.add({"id": f"{task}-{number}", "task": task}, f'{{"id":"{task}-{number}"}}'.encode())
    return rows


def steps_of_16(ids: Mapping[str, Sequence[str]], seed: int) -> int:
    return math.ceil(sum(map(len, ids.values())) / 16)


def names(found: Plan) -> list[str]:
    return [each.name for each in found.trainings]


@given(
    ids=st.lists(st.text(min_size=1), min_size=1, unique=True),
    shuffled=st.randoms(use_true_random=False),
    seed=st.integers(0, 2**32 - 1),
    shares=st.tuples(st.fractions(0, 1), st.fractions(0, 1)),
)
def test_a_subset_is_one_of_ids_and_the_smaller_lies_in_the_larger(
    ids: list[str], shuffled: object, seed: int, shares: tuple[Fraction, Fraction]
) -> None:
    mini, large = (max(share, Fraction(1, 1000)) for share in sorted(shares))
    rates = Rates(large, mini)
    there, elsewhere = Rows(), Rows()
    for id in ids:
        there.add({"id": id, "task": "t"}, id.encode("utf-8", "surrogatepass"))
    shuffled.shuffle(ids)  # type: ignore[attr-defined]
    for id in ids:
        elsewhere.add({"id": id, "task": "t"}, id.encode("utf-8", "surrogatepass"))
    drawn = {size: there.drawn("t", rates.num_rows(size, len(ids)), seed) for size in ("mini", "large")}
    assert drawn["mini"] == elsewhere.drawn("t", rates.num_rows("mini", len(ids)), seed)
    assert drawn["mini"] and set(drawn["mini"]) <= set(drawn["large"]) <= set(ids)
    assert there.contents("t") == elsewhere.contents("t")


def test_another_seed_draws_other_rows_and_a_subset_has_its_share() -> None:
    rows = rows_of({"vqa": 3200})
    first, second = (set(rows.drawn("vqa", QUARTER.num_rows("mini", 3200), seed)) for seed in (0, 1))
    assert len(first) == len(second) == 100
    assert len(first & second) < 20


def test_shares_are_exact_and_must_be_shares() -> None:
    assert Rates.parsed("1/3", "0.1").num_rows("large", 3) == 1
    assert Rates.parsed("1", "1/32").num_rows("mini", 5) == 1
    for large, mini in (("1/32", "1/4"), ("2", "1"), ("1", "0"), ("a", "1"), ("1/0", "1")):
        with pytest.raises(UsageError, match="share"):
            Rates.parsed(large, mini)


def test_a_task_without_a_name_and_an_id_that_comes_twice_are_refused() -> None:
    rows = rows_of({"vqa": 2})
    with pytest.raises(DataError, match="task: expected a name"):
        rows.add({"id": "x"}, b"{}")
    with pytest.raises(DataError, match="'vqa-1' a second time in task 'vqa'"):
        rows.add({"id": "vqa-1", "task": "vqa"}, b"{}")


def test_tasks_of_one_side_alone_are_named() -> None:
    with pytest.raises(DataError, match="no validation row of 'ocr'"):
        require_same_tasks(["ocr", "vqa"], ["vqa"])
    with pytest.raises(DataError, match="no training row of 'ocr', 'pope'"):
        require_same_tasks(["vqa"], ["vqa", "pope", "ocr"])


def test_eq_3_takes_a_model_a_task_and_one_more() -> None:
    found = plan(rows_of(SIZES), rates=QUARTER, steps_of=steps_of_16)
    assert names(found) == ["mini@0", "large:caption@0", "large:ocr@0", "large:vqa@0"]
    mini, caption, _, vqa = found.trainings
    assert mini.num_rows_of == {"caption": 10, "ocr": 10, "vqa": 20}
    assert caption.num_rows_of == {"caption": 80, "ocr": 10, "vqa": 20}
    assert (vqa.num_rows, vqa.steps) == (180, 12)
    assert all(each.evaluated_on == ("caption", "ocr", "vqa") for each in found.trainings)


def test_its_cost_is_the_papers() -> None:
    found = plan(rows_of(SIZES), rates=QUARTER, steps_of=steps_of_16, seeds=(4, 5))
    assert found.cost == pytest.approx(found.paper_cost) == pytest.approx(2 * (1 / 4 + 3 / 32))
    assert names(found)[4:] == ["mini@5", "large:caption@5", "large:ocr@5", "large:vqa@5"]


def test_the_chat_form_trains_each_task_alone() -> None:
    found = plan(rows_of(SIZES), rates=QUARTER, form="chat", steps_of=steps_of_16)
    assert sorted(names(found)) == sorted(
        ["base@0", *(f"own-{size}:{task}@0" for size in ("mini", "large") for task in SIZES)]
    )
    base, little, much = (found.named(name) for name in ("base@0", "own-mini:vqa@0", "own-large:vqa@0"))
    assert (base.num_rows, base.steps, len(base.evaluated_on)) == (0, 0, 3)
    assert (little.num_rows_of, little.evaluated_on) == ({"vqa": 20}, ("vqa",))
    assert (much.num_rows_of, len(much.evaluated_on)) == ({"vqa": 160}, 3)


def test_precise_difficulty_adds_models_of_one_task_measured_there_alone() -> None:
    found = plan(rows_of(SIZES), rates=QUARTER, difficulty="precise", steps_of=steps_of_16)
    assert len(found.trainings) == 4 + 6
    assert found.named("own-large:ocr@0").evaluated_on == ("ocr",)


def test_matched_difficulty_repeats_the_mini_subsets_for_the_steps_of_the_longest() -> None:
    found = plan(rows_of(SIZES), rates=QUARTER, difficulty="matched", steps_of=steps_of_16)
    matched, mini = found.named("matched@0"), found.named("mini@0")
    assert matched.num_rows_of == mini.num_rows_of
    assert (mini.steps, matched.steps, matched.repeats) == (3, 12, 4.0)
    with pytest.raises(UsageError, match="matched"):
        plan(rows_of(SIZES), rates=QUARTER, form="chat", difficulty="matched", steps_of=steps_of_16)


def test_groups_are_trained_on_and_tasks_measured() -> None:
    found = plan(rows_of(SIZES), groups={**GROUPS, "other": "x"}, rates=QUARTER, steps_of=steps_of_16)
    assert names(found) == ["mini@0", "large:answers@0", "large:texts@0"]
    assert found.named("large:texts@0").num_rows_of == {"caption": 80, "ocr": 80, "vqa": 20}
    assert found.named("large:texts@0").evaluated_on == ("caption", "ocr", "vqa")
    with pytest.raises(DataError, match="in no group: 'ocr'"):
        plan(rows_of(SIZES), groups={"vqa": "a", "caption": "b"}, rates=QUARTER, steps_of=steps_of_16)
    with pytest.raises(DataError, match="two tasks or groups"):
        plan(rows_of(SIZES), groups=dict.fromkeys(SIZES, "all"), rates=QUARTER, steps_of=steps_of_16)


def test_a_large_subset_that_is_the_mini_one_is_named_where_c_divides_by_their_difference() -> None:
    rows = rows_of({"vqa": 640, "tiny": 3, "ocr": 1})
    with pytest.raises(DataError, match="no larger than the mini one: 'ocr', 'tiny';"):
        require_larger_subsets(plan(rows, rates=QUARTER, steps_of=steps_of_16, seeds=(0, 1)))
    grouped = {"vqa": "a", "tiny": "a", "ocr": "b"}
    with pytest.raises(DataError, match="no larger than the mini one: 'b';"):
        require_larger_subsets(plan(rows, groups=grouped, rates=QUARTER, steps_of=steps_of_16))
    require_larger_subsets(plan(rows, rates=QUARTER, form="chat", steps_of=steps_of_16))


def test_steps_are_asked_for_by_the_rows_that_are_drawn() -> None:
    rows, asked = rows_of(SIZES), []

    def steps_of(ids: Mapping[str, Sequence[str]], seed: int) -> int:
        asked.append((dict(ids), seed))
        return 7

    plan(rows, rates=QUARTER, form="chat", steps_of=steps_of, seeds=(5,))
    assert ({"ocr": rows.drawn("ocr", 80, 5)}, 5) in asked


def test_time_is_that_of_steps_and_replies_and_unknown_where_one_is_missing() -> None:
    assert Pace(2.0, 0.5).estimate(10, 4) == 22.0
    assert Pace(None, 0.5).estimate(0, 4) == 2.0
    assert Pace(None, 0.5).estimate(1, 4) is None


def test_what_the_paper_advises_is_checked_with_figures() -> None:
    rows = rows_of({"vqa": 40_004, "ocr": 40_000})
    enough = plan(rows, rates=QUARTER, steps_of=steps_of_16)
    assert advice(enough, rows) == ["the paper advises large subsets of 10,001 rows or more: ocr 10,000"]
    rates = Rates(Fraction(1, 2), Fraction(1, 50))
    assert advice(plan(rows, rates=rates, steps_of=lambda ids, seed: 100), rows) == [
        "the paper advises mini subsets of 1,000 rows or more: ocr 800, vqa 801",
        "the paper advises trainings of 101 steps or more: mini 100, large:ocr 100, large:vqa 100",
    ]


def test_a_name_that_is_not_planned_is_refused_with_those_that_are() -> None:
    with pytest.raises(UsageError, match=r"--only large:pope@0.*mini@0, large:caption@0"):
        plan(rows_of(SIZES), rates=QUARTER, steps_of=steps_of_16).named("large:pope@0")


def run_by_make(directory: Path, text: str, *options: str) -> Sequence[str]:
    """The words of each command that make runs, one a line."""
    (directory / "show").write_text('#!/bin/sh\nprintf "%s|" "$@" >> calls\necho >> calls\n')
    (directory / "show").chmod(0o755)
    (directory / "Makefile").write_text(text)
    subprocess.run(["make", "MMKIT=./show", *options], cwd=directory, check=True, capture_output=True, timeout=60)
    return (directory / "calls").read_text().splitlines()


def test_make_does_every_training_before_the_rows_with_names_as_they_are(tmp_path: Path) -> None:
    hostile = ["a b", "$HOME's", "#%`id`$(id)", "../../x/y", "\x1b[31m", "-o", 'quo"te\\', "\ttab"]
    found = plan(rows_of(dict.fromkeys(hostile, 8)), rates=QUARTER, steps_of=steps_of_16)
    calls = run_by_make(tmp_path, makefile(found, ["measure-contribution", "--train", "t/*.jsonl"]), "-j2")
    common = "measure-contribution|--train|t/*.jsonl|"
    assert sorted(calls[:-1]) == sorted(f"{common}--only|{name}|" for name in names(found))
    assert calls[-1] == f"{common}-o|contribution.jsonl|"


@pytest.mark.parametrize("name", ["two\nlines", "a\rb", "a\0b"])
def test_a_name_that_make_cannot_hold_is_refused(name: str) -> None:
    found = plan(rows_of({name: 8, "b": 8}), rates=QUARTER, steps_of=steps_of_16)
    with pytest.raises(UsageError, match="a Makefile cannot hold"):
        makefile(found, ["measure-contribution"])
