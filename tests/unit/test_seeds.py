"""Randomness is a function of (seed, record id, purpose), and fair."""

from __future__ import annotations

from collections import Counter

import pytest

from mmkit import seeds


def test_the_same_question_has_the_same_answer_for_ever() -> None:
    # Fixed values: a change of the hash would change every output that anybody has made.
    assert seeds.derive(0, "a", "test") == 17632715007063611124
    assert seeds.derive(0, "a", "test") == seeds.derive(0, "a", "test")
    assert seeds.generator(1, "a", "x").random() == seeds.generator(1, "a", "x").random()


def test_seed_id_and_purpose_each_matter_and_do_not_run_together() -> None:
    asked = [(0, "a", "x"), (1, "a", "x"), (0, "b", "x"), (0, "a", "y"), (0, "ax", ""), (0, "", "xa"), (0, "x", "a")]
    assert len({seeds.derive(*question) for question in asked}) == len(asked)


def test_uniform_is_uniform_over_ids() -> None:
    draws = [seeds.uniform(3, str(i), "test") for i in range(20_000)]
    assert all(0 <= draw < 1 for draw in draws)
    counts = Counter(int(draw * 10) for draw in draws)
    assert all(abs(count - 2000) < 5 * (2000 * 0.9) ** 0.5 for count in counts.values())


def test_pick_takes_each_item_and_refuses_nothing() -> None:
    assert {seeds.pick("abc", 0, str(i), "p") for i in range(50)} == set("abc")
    with pytest.raises(ValueError, match="nothing to pick from"):
        seeds.pick([], 0, "a", "p")


def test_ids_of_any_text_are_fine() -> None:
    assert seeds.derive(0, "\ud800", "x") != seeds.derive(0, "é\n", "x")
