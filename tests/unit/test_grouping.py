"""Groups by interaction: MINT's tables, thresholds, probabilities; and what every method of grouping keeps to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkit.balance import grouping
from mmkit.balance.grouping import TaskScore
from mmkit.balance.groups import GroupRow
from mmkit.balance.interaction import InteractionRow
from mmkit.errors import DataError, UsageError

TABLE_1 = {
    "redundancy": ["flickr30k", "nlvr", "pathvqa", "slake", "vqarad"],
    "synergy": ["hateful memes", "irfl", "memecap", "memotion", "mm-imdb", "ny cartoon", "scienceqa"],
    "uniqueness": ["decimer", "enrico", "fer-2013", "inaturalist", "resisc45", "ucmerced"],
}
SECTION_4_1_1 = {
    "redundancy": ["flickr30k", "nlvr", "ok-vqa", "pathvqa", "slake", "vqarad"],
    "synergy": ["hateful memes", "memecap", "memotion", "mm-imdb", "ny cartoon", "scienceqa"],
    "uniqueness": ["decimer", "enrico", "fer-2013", "inaturalist", "resisc45", "ucmerced"],
}
TEST_SETS = {
    "redundancy": ["nlvr", "pathvqa", "slake", "vqa"],
    "synergy": ["hateful memes", "magicbrush", "ny cartoon", "scienceqa"],
    "uniqueness": ["inaturalist", "lncoco", "screen2words", "ucmerced"],
}
CENTRES = {"synergy": 0.0, "uniqueness": 1.0, "redundancy": 2.0}

names = st.text(min_size=1, max_size=8)
finite = st.floats(0, 2)


def row(task: str, score: float, **fields: object) -> InteractionRow:
    own = {"score_text": score / 2, "score_image": score / 2, "se": None, "ci95": None, "n": 100, "draws": 10}
    return InteractionRow(task=task, score=score, **{**own, "size": 100, "similarity": "exact", **fields})  # type: ignore[arg-type]


def score(task: str, value: float, interval: tuple[float, float] | None = None) -> TaskScore:
    return TaskScore(task, value, interval)


def groups_of(rows: Sequence[GroupRow]) -> dict[str, list[str]]:
    """The tasks of each group, by name."""
    found: dict[str, list[str]] = {}
    for one in rows:
        found.setdefault(one.group, []).append(one.task)
    return {group: sorted(tasks) for group, tasks in found.items()}


@st.composite
def scores_like(draw: st.DrawFn, groups: dict[str, list[str]], reach: float) -> list[TaskScore]:
    """A score for each task within `reach` of 0, 1 or 2, as its group has it, tasks in any order."""
    found = []
    for group, tasks in groups.items():
        low, high = max(CENTRES[group] - reach, 0), min(CENTRES[group] + reach, 2)
        found += [score(task, draw(st.floats(low, high))) for task in tasks]
    return draw(st.permutations(found))


@pytest.mark.parametrize("groups", [TABLE_1, SECTION_4_1_1], ids=["Table 1", "section 4.1.1"])
@given(data=st.data())
def test_scores_near_0_1_and_2_give_the_papers_groups(groups: dict[str, list[str]], data: st.DataObject) -> None:
    scores = data.draw(scores_like(groups, reach=0.49))
    assert groups_of(grouping.by_interaction(scores)) == groups


@pytest.mark.parametrize("groups", [TABLE_1, SECTION_4_1_1], ids=["Table 1", "section 4.1.1"])
@given(data=st.data())
def test_three_groups_by_distance_are_the_papers_where_scores_keep_apart(
    groups: dict[str, list[str]], data: st.DataObject
) -> None:
    scores = data.draw(scores_like(groups, reach=0.2))
    found = groups_of(grouping.by_distance(scores, num_groups=3))
    assert found == dict(zip(["group-1", "group-2", "group-3"], (groups[kind] for kind in CENTRES), strict=True))


def test_the_papers_lists_differ_in_irfl_and_ok_vqa_alone() -> None:
    table, text = ({task for tasks in groups.values() for task in tasks} for groups in (TABLE_1, SECTION_4_1_1))
    assert (table - text, text - table) == ({"irfl"}, {"ok-vqa"})


@given(data=st.data())
def test_test_sets_join_the_papers_groups_and_move_no_task(data: st.DataObject) -> None:
    groups = grouping.by_interaction(data.draw(scores_like(SECTION_4_1_1, reach=0.2)))
    tests = data.draw(scores_like(TEST_SETS, reach=0.2))
    for by in ("interaction", "distance"):
        added = grouping.assign(tests, groups, by=by)
        assert {one.task for one in added} == {"vqa", "magicbrush", "lncoco", "screen2words"}
        assert all(one.task in TEST_SETS[one.group] for one in added)


@pytest.mark.parametrize(
    ("value", "group"),
    [
        (0.0, "synergy"),
        (math.nextafter(0.5, 0), "synergy"),
        (0.5, "uniqueness"),
        (1.5, "uniqueness"),
        (math.nextafter(1.5, 2), "redundancy"),
        (2.0, "redundancy"),
    ],
)
def test_a_score_on_a_threshold_is_uniqueness(value: float, group: str) -> None:
    assert grouping.by_interaction([score("a", value)])[0].group == group


def test_thresholds_are_chosen() -> None:
    scores = [score("a", 0.3), score("b", 0.7)]
    assert groups_of(grouping.by_interaction(scores, (0.2, 0.6))) == {"uniqueness": ["a"], "redundancy": ["b"]}


@pytest.mark.parametrize("thresholds", [(1.5, 0.5), (1.0, 1.0), (math.nan, 1.0)])
def test_thresholds_that_do_not_ascend_are_refused(thresholds: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match="not below"):
        grouping.by_interaction([score("a", 1.0)], thresholds)


def test_probabilities_are_those_of_a_normal_distribution() -> None:
    found = grouping.by_interaction([score("a", 1.4, (1.4 - 1.96 * 0.2, 1.4 + 1.96 * 0.2))])[0]
    normal = NormalDist(1.4, 0.2)
    assert found.probabilities == pytest.approx(
        {
            "synergy": normal.cdf(0.5),
            "uniqueness": normal.cdf(1.5) - normal.cdf(0.5),
            "redundancy": 1 - normal.cdf(1.5),
        },
        abs=1e-4,
    )
    assert found.probability == found.probabilities["uniqueness"]  # type: ignore[index]
    assert found.unsure


@given(finite, st.floats(0, 0.6), st.floats(0, 0.6))
def test_probabilities_sum_to_1_and_the_sure_are_likely(value: float, below: float, above: float) -> None:
    found = grouping.by_interaction([score("a", value, (value - below, value + above))])[0]
    assert found.probabilities is not None
    assert math.isclose(sum(found.probabilities.values()), 1)
    assert all(0 <= probability <= 1 for probability in found.probabilities.values())
    crossed = any(value - below < threshold < value + above for threshold in grouping.THRESHOLDS)
    assert not crossed or found.unsure


def test_an_interval_to_one_side_is_not_taken_for_half_as_wide() -> None:
    """A score of 2 can only be too high. Its interval's end is its 2.5 % quantile, wherever the other end is."""
    redundant = grouping.by_interaction([score("a", 2.0, (1.5, 2.0))])[0]
    assert redundant.probability == pytest.approx(0.975, abs=1e-12)
    synergistic = grouping.by_interaction([score("a", 0.0, (0.0, 0.5))])[0]
    assert synergistic.probability == pytest.approx(0.975, abs=1e-12)
    skewed = grouping.by_interaction([score("a", 1.0, (0.5, 1.2))])[0].probabilities
    assert skewed == pytest.approx(
        {"synergy": 0.025, "uniqueness": 0.975, "redundancy": 1 - NormalDist(1, 0.2 / 1.96).cdf(1.5)}, abs=1e-5
    )


@given(finite, st.floats(0, 2), st.floats(0, 2))
def test_a_task_is_unsure_where_other_groups_have_a_fortieth_or_more(value: float, below: float, above: float) -> None:
    found = grouping.by_interaction([score("a", value, (value - below, value + above))])[0]
    assert found.probabilities is not None
    others = [found.probabilities[kind] for kind in grouping.KINDS if kind != found.group]
    assert sum(others) >= 0.025 - 1e-9 if found.unsure else max(others) <= 0.025 + 1e-9


def test_an_interval_of_no_width_is_certain() -> None:
    found = grouping.by_interaction([score("a", 2.0, (2.0, 2.0))])[0]
    assert (found.probability, found.unsure) == (1.0, False)


def test_without_an_interval_nothing_is_known_of_the_probability() -> None:
    found = grouping.by_interaction([score("a", 1.49)])[0]
    assert (found.probability, found.probabilities, found.unsure) == (None, None, False)


def test_the_interval_is_ci95_or_else_from_the_standard_error() -> None:
    assert TaskScore.of(row("a", 1.0, se=0.1)).interval == pytest.approx((0.804, 1.196), abs=1e-3)
    assert TaskScore.of(row("a", 1.0, se=0.1, ci95=(0.9, 1.2))).interval == (0.9, 1.2)
    assert TaskScore.of(row("a", 1.0)).interval is None


def test_corrected_scores_have_their_own_interval_or_none() -> None:
    given_both = row("a", 1.0, se=0.1, ci95=(0.9, 1.1), corrected=0.05, corrected_ci95=(-0.1, 0.2))
    assert TaskScore.of(given_both, corrected=True) == TaskScore("a", 0.05, (-0.1, 0.2), corrected=True)
    without = row("a", 1.0, se=0.1, ci95=(0.9, 1.1), corrected=0.05)
    assert TaskScore.of(without, corrected=True).interval is None


@pytest.mark.parametrize(("marks", "why"), [(("undefined",), "hardly vary"), ((), 'gives no "corrected"')])
def test_a_task_without_a_corrected_score_is_an_error_with_a_way_out(marks: tuple[str, ...], why: str) -> None:
    with pytest.raises(DataError, match=f"task 'xor' .*{why}.*--rejects"):
        TaskScore.of(row("xor", 1.0, marks=marks), corrected=True)


@pytest.mark.parametrize(
    "bad", [row("a", math.nan), row("a", math.inf), row("a", 1.0, ci95=(math.nan, 1.0)), row("a", 1.0, se=math.inf)]
)
def test_a_score_that_is_not_finite_is_refused(bad: InteractionRow) -> None:
    with pytest.raises(DataError, match=r"task 'a'.*not finite"):
        TaskScore.of(bad)


@given(st.dictionaries(names, finite, min_size=1, max_size=12), st.data())
def test_every_task_is_in_exactly_one_group_whatever_the_order(tasks: dict[str, float], data: st.DataObject) -> None:
    scores = [score(task, value) for task, value in tasks.items()]
    shuffled = data.draw(st.permutations(scores))
    num_groups = data.draw(st.integers(1, len(tasks)))
    max_distance = data.draw(finite)
    by_hand = {task: data.draw(names) for task in tasks}
    for group in (
        grouping.by_interaction,
        lambda own: grouping.by_distance(own, num_groups=num_groups),
        lambda own: grouping.by_distance(own, max_distance=max_distance),
        lambda own: grouping.single(one.task for one in own),
        lambda own: grouping.together(one.task for one in own),
        lambda own: grouping.by_hand((one.task for one in own), by_hand),
    ):
        found = group(scores)
        assert sorted(one.task for one in found) == sorted(tasks)
        assert group(shuffled) == found


@pytest.mark.parametrize("group", [grouping.by_interaction, grouping.by_distance])
def test_two_scores_of_a_task_are_refused(group: object) -> None:
    with pytest.raises(DataError, match="task 'a' has 2 scores"):
        group([score("a", 1.0), score("b", 1.0), score("a", 2.0)])  # type: ignore[operator]


@pytest.mark.parametrize("group", [grouping.by_interaction, grouping.by_distance, grouping.single, grouping.together])
def test_no_task_is_refused(group: object) -> None:
    with pytest.raises(DataError, match="no task to group"):
        group([])  # type: ignore[operator]


def test_by_hand_names_every_task_that_is_missing() -> None:
    with pytest.raises(DataError, match="no group for 'b', 'c'"):
        grouping.by_hand(["c", "a", "b"], {"a": "x"})


def test_single_groups_bear_the_tasks_names() -> None:
    assert groups_of(grouping.single(["b", "a", "b"])) == {"a": ["a"], "b": ["b"]}
    assert groups_of(grouping.together(["b", "a", "b"])) == {"all": ["a", "b"]}


def test_a_new_task_joins_the_nearest_mean_of_two_the_lower() -> None:
    groups = [GroupRow("a", "low", score=0.1), GroupRow("b", "low", score=0.3), GroupRow("c", "high", score=0.8)]
    added = grouping.assign([score("x", 0.5), score("y", 0.51), score("a", 0.8)], groups, by="distance")
    assert [(one.task, one.group) for one in added] == [("x", "low"), ("y", "high")]


def test_a_new_task_of_a_kind_that_is_not_there_is_an_error() -> None:
    with pytest.raises(DataError, match=r"task 'x' with score 0\.2 is of the kind synergy.*--by distance"):
        grouping.assign([score("x", 0.2)], [GroupRow("a", "redundancy", score=2.0)])


@pytest.mark.parametrize(
    ("groups", "by", "message"),
    [
        ([GroupRow("a", "group-1", score=1.0)], "interaction", "'group-1' is no kind of interaction"),
        ([GroupRow("a", "mine")], "distance", "no task of the group 'mine' has a score"),
        ([GroupRow("a", "synergy", score=0.1, corrected=True)], "interaction", "chance-corrected scores; give"),
    ],
)
def test_groups_that_a_task_cannot_be_put_into_are_refused(groups: list[GroupRow], by: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        grouping.assign([score("x", 1.0)], groups, by=by)  # type: ignore[arg-type]


def test_raw_scores_join_no_corrected_groups_nor_the_other_way_round() -> None:
    groups = [GroupRow("a", "synergy", score=0.1, corrected=False)]
    with pytest.raises(UsageError, match="raw scores; leave out --corrected"):
        grouping.assign([TaskScore("x", 0.2, corrected=True)], groups)


def test_a_group_row_says_how_it_came_about() -> None:
    sure, plain = grouping.by_interaction([score("b", 1.9, (1.8, 2.0)), score("a", 0.1)])[::-1]
    assert plain.to_wire() == {
        "task": "a",
        "group": "synergy",
        "probability": None,
        "score": 0.1,
        "by": "interaction",
        "corrected": False,
    }
    assert sure.to_wire()["probabilities"].keys() == set(grouping.KINDS)
    assert GroupRow.from_wire(plain.to_wire()) == GroupRow("a", "synergy", score=0.1, corrected=False)


@pytest.mark.parametrize(
    "wire",
    [
        {"task": "a"},
        {"task": "a", "group": ""},
        {"task": 1, "group": "x"},
        {"task": "a", "group": "x", "score": "1"},
        {"task": "a", "group": "x", "score": True},
        {"task": "a", "group": "x", "score": math.inf},
        {"task": "a", "group": "x", "corrected": "no"},
    ],
)
def test_what_is_no_group_row_is_refused(wire: dict[str, object]) -> None:
    with pytest.raises(DataError):
        GroupRow.from_wire(wire)
