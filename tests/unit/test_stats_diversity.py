"""How alike questions are: known vectors, known means, a z-test against scipy's."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mmkit.data.stats import diversity
from mmkit.data.stats.diversity import Difference, Questions, Similarity, differences, similarities
from mmkit.errors import DataError
from mmkit.records import message, question_of


def embed(texts: Sequence[str]) -> Any:
    """A unit vector for each text: its direction is the angle that it spells, in degrees."""
    angles = np.radians([float(text) for text in texts])
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def sampled(texts: dict[str, list[str]], num_pairs: int, seed: int = 0) -> dict[str, list[str]]:
    questions = Questions(num_pairs, seed)
    for name, own in texts.items():
        for number, text in enumerate(own):
            questions.add(name, str(number), text)
    return questions.sample()


def test_sets_of_one_direction_are_alike_within_and_not_between() -> None:
    texts = sampled({"language": ["0"] * 50, "vision": ["60"] * 50}, 20)
    found = similarities(texts, 20, 0, embed)
    assert [one.sets for one in found] == [("language", "language"), ("language", "vision"), ("vision", "vision")]
    assert [one.mean for one in found] == pytest.approx([1, 0.5, 1], abs=1e-6)
    assert [one.pairs for one in found] == [20, 20, 20]


def test_a_question_is_never_paired_with_itself() -> None:
    for count in (2, 3, 7):  # fewer than pairs, so that they are drawn with replacement
        texts = sampled({"a": [str(n * 360 / count) for n in range(count)]}, 500)
        (found,) = similarities(texts, 500, 1, embed)
        assert found.mean == pytest.approx(-1 / (count - 1), abs=0.15)


def test_where_there_are_enough_no_question_is_in_two_pairs() -> None:
    seen: list[str] = []

    def watched(texts: Sequence[str]) -> Any:
        seen.extend(texts)
        return embed(texts)

    similarities(sampled({"a": [str(n) for n in range(1000)]}, 30), 30, 0, watched)
    assert len(seen) == len(set(seen)) == 60


def test_the_sample_depends_on_the_seed_and_on_no_order() -> None:
    texts = [str(n) for n in range(300)]
    pairs = [(str(n), text) for n, text in enumerate(texts)]
    samples = []
    for order, seed in ((pairs, 0), (random.Random(1).sample(pairs, 300), 0), (pairs, 1)):
        questions = Questions(20, seed)
        for record_id, text in order:
            questions.add("a", record_id, text)
        samples.append(questions.sample())
    assert samples[0] == samples[1] != samples[2]
    assert len(samples[0]["a"]) == 40


def test_the_z_test_is_scipys() -> None:
    draw = np.random.default_rng(0)
    one, other = draw.normal(0.2, 0.1, 4000), draw.normal(0.21, 0.2, 5000)
    first, second = (Similarity((n, n), len(x), x.mean(), x.std(ddof=1)) for n, x in (("a", one), ("b", other)))
    found = Difference(first, second)
    expected = stats.ttest_ind(one, other, equal_var=False)  # of so many, t is normal
    assert found.z == pytest.approx(expected.statistic)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(expected.statistic)))
    assert found.p == pytest.approx(expected.pvalue, abs=1e-6)
    assert found.to_wire()["difference"] == pytest.approx(one.mean() - other.mean())


def test_means_without_spread_differ_for_certain_or_not_at_all() -> None:
    same, other = (Similarity(("a", "a"), 5, mean, 0.0) for mean in (0.5, 0.6))
    assert Difference(same, same).p == 1 and Difference(same, same).z == 0
    assert Difference(same, other).p == 0 and Difference(same, other).to_wire()["z"] is None
    assert len(differences([same, other, same])) == 3
    assert [len(table) for table in diversity.tables([same, other])] == [3, 2]


def test_a_question_is_the_field_or_the_first_user_turn() -> None:
    turns = [message("system", "S"), message("user", "Q1", 1), message("assistant", "A"), message("user", "Q2")]
    assert question_of({"id": "1", "question": "Q", "messages": turns}) == "Q"
    assert question_of({"id": "1", "messages": turns}) == "Q1"
    assert question_of({"id": "1", "question": "  "}) is None
    assert question_of({"id": "1", "caption": "c"}) is None


def test_sets_whose_pairs_share_questions_are_named() -> None:
    questions = Questions(2, seed=0)
    for number in range(5):
        questions.add("language", str(number), "Q")
    questions.add("vision", "1", "Q")
    assert questions.few() == ["vision 1"]


def test_no_question_at_all_is_refused_before_the_encoder_is_loaded() -> None:
    def never(texts: Sequence[str]) -> Any:
        raise AssertionError("embedded")

    with pytest.raises(DataError, match="no record has a question"):
        similarities({}, 4, 0, never)


def test_a_set_of_one_question_is_refused() -> None:
    with pytest.raises(DataError, match="vision: diversity needs two questions"):
        similarities({"language": ["1", "2"], "vision": ["3"]}, 10, 0, embed)
