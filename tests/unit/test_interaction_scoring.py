"""Interaction scores: eq. 1 against a plain evaluation of it, what chance gives on tasks made by hand, the marks."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkit.balance.chance import mean_interval, resampled
from mmkit.balance.draws import Draws
from mmkit.balance.interaction import Instance, InteractionRow, Similarity
from mmkit.balance.scoring import require_scorable, score_task
from mmkit.errors import DataError, UnavailableError
from mmkit.streams import Row
from mmkit.tasks import embedding

YES_NO = {"choices": ["yes", "no"]}


def instance(number: int, text: str, image: str, both: str, **record: Any) -> Instance:
    return Instance({"id": f"r{number:04}", **record}, {"text": text, "image": image, "both": both})


def scored_whole(instances: Sequence[Instance], similarity: Similarity = "auto", seed: int = 0) -> InteractionRow:
    """Of one draw that holds every instance."""
    drawn = [(0,)] * len(instances)
    return score_task("t", instances, drawn, draws=1, size=len(instances), similarity=similarity, seed=seed).row


def task(
    n: int, views: Callable[[random.Random], tuple[str, str, str]], seed: int = 0, **record: Any
) -> list[Instance]:
    rng = random.Random(seed)
    return [instance(number, *views(rng), **record) for number in range(n)]


# Eq. 1

ANSWERS = st.sampled_from(["yes", "no", "perhaps"])


@settings(max_examples=50)
@given(st.lists(st.tuples(ANSWERS, ANSWERS, ANSWERS), min_size=1, max_size=30), st.integers(1, 5), st.integers(1, 9))
def test_the_score_is_a_plain_evaluation_of_equation_1(
    predictions: list[tuple[str, str, str]], draws: int, size: int
) -> None:
    by_id = {one.record["id"]: one for one in (instance(i, *three, **YES_NO) for i, three in enumerate(predictions))}
    sample = Draws(draws, size)
    for position, one in enumerate(by_id.values()):
        sample.add(Row(one.record, position, "tasks.jsonl", position + 1))
    (drawn,) = sample.tasks().values()
    instances = [by_id[one.row.record["id"]] for one in drawn]
    scored = score_task("t", instances, [one.draws for one in drawn], draws=draws, size=size)

    def mean_over_draws(agreement: Callable[[Instance], float]) -> float:
        means = []
        for number in range(draws):
            inside = [by_id[one.row.record["id"]] for one in drawn if number in one.draws]
            assert len(inside) == min(size, len(predictions))
            means.append(math.fsum(map(agreement, inside)) / len(inside))
        return math.fsum(means) / draws

    text = mean_over_draws(lambda one: one.predictions["text"] == one.predictions["both"])
    image = mean_over_draws(lambda one: one.predictions["image"] == one.predictions["both"])
    assert scored.row.score == pytest.approx(text + image, abs=1e-12)
    assert scored.row.score_text == pytest.approx(text, abs=1e-12)
    assert scored.row.score_image == pytest.approx(image, abs=1e-12)
    assert scored.agreements == [
        tuple(float(one.predictions[view] == one.predictions["both"]) for view in ("text", "image"))  # type: ignore[index]
        for one in instances
    ]
    assert InteractionRow.from_wire(scored.row.to_wire()) == scored.row


def test_the_standard_error_is_that_of_the_mean_over_draws() -> None:
    instances = [instance(0, "yes", "yes", "yes"), instance(1, "yes", "no", "yes"), instance(2, "no", "no", "yes")]
    drawn = [(0, 1), (0, 2), (1, 2)]  # draws of {0, 1}, {0, 2} and {1, 2}: 1.5, 1 and .5
    row = score_task("t", instances, drawn, draws=3, size=2).row
    assert row.score == pytest.approx(1.0, abs=1e-12)
    assert row.se == pytest.approx(0.5 / math.sqrt(3), abs=1e-12)
    assert (row.n, row.draws, row.size, row.similarity) == (3, 3, 2, "exact")


def test_a_draw_that_lost_an_instance_is_the_mean_of_the_others() -> None:
    instances = [instance(0, "yes", "yes", "yes", answer="yes"), instance(1, "no", "no", "yes", answer="no")]
    row = score_task("t", instances, [(0, 1), (0,)], draws=2, size=2).row
    assert row.score == pytest.approx((1 + 2) / 2, abs=1e-12)
    assert row.accuracy == pytest.approx((1 / 2 + 1) / 2, abs=1e-12)


def test_intervals_are_of_the_instances_as_often_as_they_were_drawn() -> None:
    often = [instance(i, "a", "a", "a") for i in range(10)]
    once = [instance(i, "a", "a", "b") for i in range(10, 20)]
    row = score_task("t", often + once, [tuple(range(9))] * 10 + [(0,)] * 10, draws=9, size=20).row
    assert row.score == pytest.approx((8 * 2 + 1) / 9, abs=1e-12)
    assert row.ci95 is not None
    assert row.ci95[0] > 1.5


def test_a_score_on_a_threshold_is_on_it() -> None:
    """One of ten agrees by text and four by image: in floats .1 + .4 over ten draws is a little below .5."""
    instances = [instance(i, "a" if i < 1 else "b", "a" if i < 4 else "b", "a") for i in range(10)]
    row = score_task("t", instances, [tuple(range(10))] * 10, draws=10, size=10).row
    assert (row.score, row.score_text, row.score_image) == (0.5, 0.1, 0.4)


# Chance: the table of tasks whose predictors are made by hand

N = 1000


def both_yes(rng: random.Random, share: float = 0.5) -> str:
    return "yes" if rng.random() < share else "no"


def test_constant_guesses_on_yes_or_no_read_as_uniqueness_until_they_are_corrected() -> None:
    row = scored_whole(task(N, lambda rng: ("yes", "yes", both_yes(rng)), **YES_NO))
    assert row.score == pytest.approx(1.0, abs=0.05)
    assert (row.corrected, row.corrected_text, row.corrected_image) == (0, 0, 0)


def test_xor_with_the_majoritys_guess_is_synergy() -> None:
    row = scored_whole(task(N, lambda rng: ("yes", "yes", both_yes(rng, 0.7)), **YES_NO))
    assert row.score == pytest.approx(1.4, abs=0.05)
    assert row.corrected == 0
    assert row.corrected_ci95 is not None
    assert row.corrected_ci95[0] < 0 < row.corrected_ci95[1]


def test_xor_with_guesses_from_the_prior_is_synergy() -> None:
    row = scored_whole(task(N, lambda rng: (both_yes(rng, 0.7), both_yes(rng, 0.7), both_yes(rng, 0.7)), **YES_NO))
    assert row.score == pytest.approx(1.16, abs=0.05)
    assert row.corrected == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(("share", "raw"), [(0.5, 1.5), (0.8, 1.8)])
def test_what_one_modality_carries_is_uniqueness(share: float, raw: float) -> None:
    def views(rng: random.Random) -> tuple[str, str, str]:
        both = both_yes(rng, share)
        return both, "yes", both

    row = scored_whole(task(N, views, **YES_NO))
    assert row.score == pytest.approx(raw, abs=0.05)
    assert (row.corrected, row.corrected_text, row.corrected_image) == (1, 1, 0)


def test_what_both_tell_is_redundancy() -> None:
    row = scored_whole(task(N, lambda rng: (rng.choice("ab"),) * 3))
    assert (row.score, row.corrected) == (2, 2)


def test_an_agreement_below_chance_is_negative() -> None:
    row = scored_whole(task(N, lambda rng: ("no", "no", "yes") if rng.random() < 0.5 else ("yes", "yes", "no")))
    assert row.score == 0
    assert row.corrected == pytest.approx(-2, abs=0.01)


def test_pooled_kinds_of_synergy_stay_synergy() -> None:
    """Guesses constant in each type of question: across types they would follow the question."""
    yes_no = task(N // 2, lambda rng: ("yes", "yes", both_yes(rng)), **YES_NO)
    letters = {"choices": ["cat", "dog", "cow", "hen"]}
    choices = task(N // 2, lambda rng: ("A", "A", rng.choice("ABCD")), **letters)
    mixed = [replace(one, record={**one.record, "id": str(i)}) for i, one in enumerate([*yes_no, *choices])]
    row = scored_whole(mixed)
    assert row.score == pytest.approx(0.75, abs=0.05)
    assert row.corrected == 0
    unstratified = [replace(one, record={"id": one.record["id"]}) for one in mixed]
    assert scored_whole(unstratified).corrected == pytest.approx(0.46, abs=0.06)


def test_constant_letters_on_questions_with_options_of_their_own_are_chance() -> None:
    def own(number: int) -> dict[str, Any]:
        return {"choices": [f"{name} {number}" for name in ("cat", "dog", "cow")]}

    rng = random.Random(0)
    row = scored_whole([instance(i, "A", "A", rng.choice("ABC"), **own(i)) for i in range(300)])
    assert row.score == pytest.approx(2 / 3, abs=0.1)
    assert row.corrected == 0


def test_a_constant_guess_is_worth_nothing_by_any_similarity_and_by_any_draws() -> None:
    rng = random.Random(0)
    words = ["a", "dog", "runs", "along", "the", "beach", "with", "2", "sticks"]
    for similarity in ("f1", "rouge-l", "exact", "number"):
        instances = [instance(i, "a dog runs", "so 2 sticks", " ".join(rng.sample(words, 5))) for i in range(60)]
        drawn = [tuple(sorted(rng.sample(range(5), rng.randint(1, 5)))) for _ in instances]
        row = score_task("t", instances, drawn, draws=5, size=30, similarity=similarity).row  # type: ignore[arg-type]
        assert (row.corrected, row.corrected_text, row.corrected_image) == (0, 0, 0)


def test_the_expected_agreement_is_that_of_all_other_pairs_of_a_stratum() -> None:
    rng = random.Random(0)
    instances = [
        instance(i, rng.choice("ab"), rng.choice("ab"), rng.choice("ab"), **({"answer_type": "list"} if i % 3 else {}))
        for i in range(20)
    ]
    row = scored_whole(instances, "exact")
    strata = [[one for i, one in enumerate(instances) if (i % 3 == 0) == first] for first in (True, False)]
    for view, found in (("text", row.chance_text), ("image", row.chance_image)):
        expected = sum(
            math.fsum(u.predictions[view] == m.predictions["both"] for u in stratum for m in stratum if u is not m)  # type: ignore[index]
            / (len(stratum) - 1)
            for stratum in strata
        )
        assert found == pytest.approx(expected / len(instances), abs=1e-12)


def test_an_instance_without_a_partner_is_in_neither_side_of_the_correction() -> None:
    instances = task(40, lambda rng: ("yes", "yes", both_yes(rng)), **YES_NO)
    lone = instance(99, "3", "3", "3", answer_type="number")
    row = scored_whole([*instances, lone])
    assert row.corrected == 0
    assert row.chance_text == scored_whole(instances).chance_text
    assert row.similarity == "choice+number"


def test_where_predictions_hardly_vary_the_correction_is_undefined() -> None:
    row = scored_whole(task(200, lambda rng: ("yes", "yes", "yes"), **YES_NO))
    assert (row.score, row.chance_text, row.corrected, row.corrected_ci95) == (2, 1, None, None)
    assert row.marks == ("undefined",)
    rare = task(200, lambda rng: ("yes", "yes", both_yes(rng, 0.98)), **YES_NO)
    assert scored_whole(rare).corrected is None
    seldom = task(200, lambda rng: ("yes", "yes", both_yes(rng, 0.9)), **YES_NO)
    assert scored_whole(seldom).corrected == 0
    half = scored_whole(task(200, lambda rng: ("yes", rng.choice("ab"), "yes")))
    assert (half.corrected_text, half.corrected_image, half.corrected) == (None, 0, None)


# Likelihood


def test_likelihood_scores_by_hand() -> None:
    """Text (.6, .4) and image (.5, .5) always; both (.9, .1) and (.2, .8): δ_text .7 and .6, δ_image .6 and .7."""
    views = [{"yes": 0.9, "no": 0.1}, {"yes": 0.2, "no": 0.8}]
    logs = [
        {
            "text": {"yes": math.log(0.6), "no": math.log(0.4)},
            "image": {"yes": -3.0, "no": -3.0},
            "both": {choice: math.log(share) - 7 for choice, share in view.items()},
        }
        for view in views
    ]
    instances = [
        replace(instance(i, "yes", "yes", "yes", **YES_NO), log_probs=one)  # type: ignore[arg-type]
        for i, one in enumerate(logs)
    ]
    scored = score_task("t", instances, [(0,), (0,)], draws=1, size=2, similarity="likelihood")
    assert np.array(scored.agreements) == pytest.approx(np.array([[0.7, 0.6], [0.6, 0.7]]), abs=1e-12)
    assert scored.row.score == pytest.approx(1.3, abs=1e-12)
    assert scored.row.corrected == 0  # both unimodal distributions are constant


# Judge


def test_a_judges_values_are_taken_as_they_are() -> None:
    instances = [replace(instance(i, "a", "b", "c"), judged={"text": i / 4, "image": 1.0}) for i in range(5)]
    scored = score_task("t", instances, [(0,)] * 5, draws=1, size=5, similarity="judge")
    assert scored.agreements == [(i / 4, 1.0) for i in range(5)]
    assert (scored.row.score, scored.row.chance_text, scored.row.corrected) == (1.5, None, None)
    assert scored.row.marks == ("undefined",)
    for judged in (None, {"text": 0.5}, {"text": 0.5, "image": math.nan}, {"text": 2, "image": 0}):
        with pytest.raises(DataError, match=r"t, record 'r0000': judged\.(text|image): expected"):
            scored_whole([replace(instances[0], judged=judged)], "judge")


# Accuracy


def test_a_model_that_only_guesses_is_marked() -> None:
    rng = random.Random(0)
    guessing = [instance(i, "yes", "yes", both_yes(rng), answer=both_yes(rng), **YES_NO) for i in range(200)]
    row = scored_whole(guessing)
    assert row.accuracy == pytest.approx(0.5, abs=0.1)
    assert row.accuracy_chance == pytest.approx(0.5, abs=0.1)
    assert row.marks == ("unlearned",)
    able = [replace(one, record={**one.record, "answer": one.predictions["both"]}) for one in guessing]
    row = scored_whole(able)
    assert (row.accuracy, row.marks) == (1, ())
    assert row.accuracy_ci95 is not None
    assert row.accuracy_ci95[0] < 1 == row.accuracy_ci95[1]


def test_always_saying_the_commonest_answer_is_no_skill() -> None:
    rng = random.Random(0)
    row = scored_whole([instance(i, "a", "b", "yes", answer=both_yes(rng, 0.9), **YES_NO) for i in range(200)])
    assert row.accuracy is not None
    assert row.accuracy > 0.85
    assert row.accuracy_chance == pytest.approx(row.accuracy, abs=1e-12)
    assert "unlearned" in row.marks


def test_letters_of_options_that_differ_are_chance_too() -> None:
    rng = random.Random(0)
    instances = []
    for i in range(200):
        options = [f"{name} {i}" for name in ("cat", "dog", "cow")]
        instances.append(instance(i, "A", "A", options[0], choices=options, answer=rng.choice(options)))
    row = scored_whole(instances)
    assert row.accuracy == pytest.approx(1 / 3, abs=0.1)
    assert row.accuracy_chance == row.accuracy  # always the first option, whatever it says
    assert "unlearned" in row.marks


@pytest.mark.parametrize("n", [5, 8, 40])
def test_a_model_that_is_always_right_is_not_marked(n: int) -> None:
    golds = ["yes", "no"] * n
    row = scored_whole([instance(i, "yes", "yes", golds[i], answer=golds[i], **YES_NO) for i in range(n)])
    assert (row.accuracy, "unlearned" in row.marks) == (1, False)


def test_always_saying_what_is_always_right_is_not_shown_to_be_skill() -> None:
    row = scored_whole([instance(i, "a", "b", "yes", answer="yes", **YES_NO) for i in range(40)])
    assert (row.accuracy, row.accuracy_chance) == (1, 1)
    assert "unlearned" in row.marks


def test_a_shuffled_letter_is_no_skill() -> None:
    """The same options in another order from record to record: whoever always says "cat" says another letter."""
    rng = random.Random(0)
    instances = []
    for i in range(100):
        options = rng.sample(["cat", "dog", "cow"], 3)
        gold = "cat" if rng.random() < 0.8 else "dog"
        instances.append(instance(i, "A", "A", "ABC"[options.index("cat")], choices=options, answer=gold))
    row = scored_whole(instances)
    assert row.accuracy is not None
    assert row.accuracy > 0.7
    assert row.accuracy_chance == pytest.approx(row.accuracy, abs=1e-12)
    assert "unlearned" in row.marks


def test_accuracy_is_of_the_records_with_gold_answers() -> None:
    golds = [{"answer": "lung"}, {"answers": ["x", "lung"]}, {"answer": " "}, {}]
    row = scored_whole([instance(i, "a", "b", "lung", **gold) for i, gold in enumerate(golds)])
    assert row.accuracy == 1
    without = scored_whole([instance(i, "a", "b", "lung") for i in range(4)])
    assert (without.accuracy, without.accuracy_chance, without.accuracy_ci95) == (None, None, None)


@pytest.mark.parametrize("metric", ["cider", "similarity", "mm-vet", "llava-bench", "mme"])
def test_metrics_that_are_no_percentage_of_a_row_give_no_accuracy(metric: str) -> None:
    row = scored_whole([instance(i, "a", "b", "lung", answer="lung", metric=metric) for i in range(4)])
    assert (row.accuracy, row.accuracy_chance) == (None, None)


# Sureness and determinism


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    held = {"score": 0, "corrected": 0}
    for seed in range(100):

        def views(rng: random.Random) -> tuple[str, str, str]:
            both = rng.choice("abcd")
            return both if rng.random() < 0.6 else rng.choice("abcd"), rng.choice("abcd"), both

        row = scored_whole(task(80, views, seed), seed=seed)
        assert row.ci95 is not None
        assert row.corrected_ci95 is not None
        held["score"] += row.ci95[0] <= 0.7 + 0.25 <= row.ci95[1]
        held["corrected"] += row.corrected_ci95[0] <= 0.6 <= row.corrected_ci95[1]
    assert all(90 <= count <= 98 for count in held.values()), held


@pytest.mark.parametrize("n", [2, 3, 5])
def test_intervals_of_few_instances_hold_the_truth(n: int) -> None:
    """Of two instances a bootstrap alone would hold it half of the time, of five in 83 of 100."""
    rng = np.random.default_rng(0)
    weights = np.ones(n)
    resamples = resampled(weights, seed=0)
    intervals = [mean_interval(2 * rng.random(n), weights, resamples, (0.0, 2.0)) for _ in range(200)]
    assert sum(one is not None and one[0] <= 1 <= one[1] for one in intervals) >= 188


def test_an_interval_is_not_narrower_for_an_instance_that_differs() -> None:
    def low(differing: int) -> float:
        row = scored_whole([instance(i, "a", "a", "b" if i < differing else "a") for i in range(100)])
        assert row.ci95 is not None
        return row.ci95[0]

    assert low(0) > low(1) > low(2) > low(10)


def test_two_instances_tell_nothing_of_the_corrected_scores_error() -> None:
    """Half of their resamples hold one of them alone, which has no partner: whatever the seed, not by chance."""
    for seed in range(8):
        row = scored_whole([instance(0, "a", "a", "a"), instance(1, "b", "b", "b")], seed=seed)
        assert (row.corrected, row.corrected_ci95) == (2, None)
        assert row.ci95 is not None


def test_who_has_no_partner_makes_the_corrected_score_no_surer() -> None:
    pairs = [instance(i, str(i), str(i), str(i)) for i in range(8)]
    lone = [instance(i, "3", "3", "3", choices=[str(n) for n in range(i)]) for i in range(10, 60)]
    alone, among = scored_whole(pairs).corrected_ci95, scored_whole([*pairs, *lone]).corrected_ci95
    assert alone is not None
    assert among is not None
    assert among[0] <= alone[0]


def test_no_interval_is_of_no_width_for_lack_of_data() -> None:
    for row in (
        scored_whole([instance(i, "a", "a", "a") for i in range(5)]),
        scored_whole([instance(i, str(i), str(i), str(i)) for i in range(5)]),
    ):
        assert row.ci95 is not None
        assert row.ci95[0] < 1.3
        assert row.ci95[1] == 2
    assert row.corrected == 2
    assert row.corrected_ci95 is not None
    assert row.corrected_ci95[0] < 1.3


def test_the_same_again_gives_the_same_and_another_seed_another_interval() -> None:
    instances = task(60, lambda rng: (rng.choice("ab"), rng.choice("ab"), rng.choice("ab")), answer="a")
    assert scored_whole(instances) == scored_whole(instances)
    other = scored_whole(instances, seed=1)
    assert other.corrected_ci95 != scored_whole(instances).corrected_ci95
    assert other.score == scored_whole(instances).score


@given(
    st.lists(st.tuples(ANSWERS, ANSWERS, ANSWERS, st.sampled_from([None, "yes", "no"])), min_size=1, max_size=12),
    st.sampled_from([{}, YES_NO, {"answer_type": "number"}, {"answer_type": "list"}]),
)
@settings(max_examples=50)
def test_no_number_is_ever_infinite_or_none_at_all(rows: list[Any], record: dict[str, Any]) -> None:
    row = scored_whole([instance(i, *three, answer=gold, **record) for i, (*three, gold) in enumerate(rows)])
    for value in asdict(row).values():
        for number in value if isinstance(value, tuple) else (value,):
            assert not isinstance(number, float) or math.isfinite(number)
    assert ("undefined" in row.marks) == (row.corrected is None)
    assert row.unparsed is None or 0 <= row.unparsed <= len(rows)
    for point, interval in (
        (row.score, row.ci95),
        (row.corrected, row.corrected_ci95),
        (row.accuracy, row.accuracy_ci95),
    ):
        assert interval is None or interval[0] - 1e-6 <= point <= interval[1] + 1e-6


# What cannot be read


def test_unparsed_predictions_are_counted_and_marked_where_they_are_many() -> None:
    """A model that rambles agrees with nobody, and so looks like synergy."""
    read = [instance(i, "A", "B", "yes", **YES_NO) for i in range(18)]
    rambling = [instance(i, "yes", "yes", f"Let me look at picture {i}.", **YES_NO) for i in range(18, 20)]
    row = scored_whole([*read, *rambling])
    assert (row.unparsed, "unparsed" in row.marks) == (2, False)
    row = scored_whole([*read[1:], *rambling])
    assert (row.unparsed, "unparsed" in row.marks) == (2, True)


@pytest.mark.parametrize(
    ("record", "parsed", "unparsed"),
    [
        ({"answer_type": "number"}, "3", "some"),
        ({"answer_type": "box"}, "[0, 0, 1, 1]", "left"),
        ({"answer_type": "yes-no"}, "No.", "maybe"),
        ({"choices": ["cat", "dog"]}, "B", "cow"),
    ],
)
def test_one_unparsed_view_is_enough(record: dict[str, Any], parsed: str, unparsed: str) -> None:
    assert scored_whole([instance(i, parsed, parsed, parsed, **record) for i in range(3)]).unparsed == 0
    views = [(unparsed, parsed, parsed), (parsed, unparsed, parsed), (parsed, parsed, unparsed)]
    row = scored_whole([instance(i, *three, **record) for i, three in enumerate(views)])
    assert (row.unparsed, "unparsed" in row.marks) == (3, True)


def test_what_compares_texts_parses_nothing() -> None:
    assert scored_whole([instance(i, "a", "b", "c") for i in range(3)]).unparsed is None
    assert scored_whole([instance(i, "a", "b", "c", **YES_NO) for i in range(3)], "exact").unparsed is None


# Bad input


def test_few_instances_are_marked_and_one_has_no_interval() -> None:
    few = score_task("t", task(3, lambda rng: ("a", "b", "b")), [(0, 1)] * 3, draws=2, size=100).row
    assert few.se is None
    assert few.ci95 is not None
    assert "few" in few.marks
    one = score_task("t", task(1, lambda rng: ("a", "b", "b"), answer="b"), [(0,)], draws=1, size=1).row
    assert (one.score, one.se, one.ci95, one.corrected, one.corrected_ci95) == (1, None, None, None, None)
    assert (one.accuracy, one.accuracy_chance, one.accuracy_ci95) == (1, None, None)
    assert one.marks == ("few", "undefined")


def test_what_cannot_be_scored_names_the_task_and_the_record() -> None:
    with pytest.raises(DataError, match=r"t, record 'r0001': predictions\.image: empty"):
        scored_whole([instance(0, "a", "b", "c"), instance(1, "a", " ", "c")])
    with pytest.raises(DataError, match=r"t, record 'r0000': answer_type: similarity embed does not fit short"):
        scored_whole([instance(0, "a", "b", "c")], "embed")
    with pytest.raises(DataError, match=r"t, record 'r0000': log_probs\.text: missing"):
        scored_whole([instance(0, "yes", "yes", "yes", **YES_NO)], "likelihood")


@pytest.mark.parametrize(
    "instances, drawn", [([], []), ([instance(0, "a", "b", "c")], []), ([instance(0, "a", "b", "c")], [()])]
)
def test_a_task_needs_instances_that_were_drawn(instances: list[Instance], drawn: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="a draw"):
        score_task("t", instances, drawn, draws=1, size=1)


def test_a_record_is_refused_before_a_model_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    require_scorable({"id": "1", "choices": ["a", "b"], "answer": "a"}, "auto")
    with pytest.raises(DataError, match="does not fit"):
        require_scorable({"id": "1", "choices": ["a", "b"]}, "number")
    with pytest.raises(DataError, match="none of the 2 choices"):
        require_scorable({"id": "1", "choices": ["a", "b"], "answer": "c"}, "auto")
    with pytest.raises(DataError, match="unknown metric"):
        require_scorable({"id": "1", "answer": "c", "metric": "none"}, "auto")

    def missing() -> None:
        raise UnavailableError("no encoder")

    monkeypatch.setattr(embedding, "encoder", missing)
    with pytest.raises(UnavailableError):
        require_scorable({"id": "1", "answer_type": "long"}, "auto")
