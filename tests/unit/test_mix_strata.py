"""How a mixture's budget is shared out: exact in sum, near to the shares, and never less for more."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkit.data import mixtures, strata
from mmkit.data.strata import Cell
from mmkit.errors import UsageError
from mmkit.streams import Row

shares = st.lists(st.integers(0, 1000), min_size=1, max_size=9).filter(any)


def as_shares(weights: list[int]) -> dict[str, Fraction]:
    return {f"s{i}": Fraction(weight, sum(weights)) for i, weight in enumerate(weights)}


def cell(dataset: str, family: str | None = None, modality: str = "language", file: str = "f") -> Cell:
    return Cell(dataset, family, modality, file)


@given(shares, st.integers(0, 2000))
def test_totals_are_exact_and_nobody_gets_less_of_more(weights: list[int], total: int) -> None:
    given_shares = as_shares(weights)
    less, more = strata.apportion(total, given_shares), strata.apportion(total + 1, given_shares)
    assert sum(less.values()) == total
    assert all(less[name] <= more[name] for name in given_shares)
    assert all(not less[name] for name, share in given_shares.items() if not share)


@given(st.integers(1, 40), st.integers(0, 10**9))
def test_equal_shares_differ_by_one_at_most(count: int, total: int) -> None:
    counts = strata.apportion(total, as_shares([1] * count)).values()
    assert max(counts) - min(counts) <= 1


@given(shares, st.integers(0, 50))
def test_shares_that_are_whole_numbers_come_out_as_they_are(weights: list[int], times: int) -> None:
    total = sum(weights) * times
    assert strata.apportion(total, as_shares(weights)) == {f"s{i}": w * times for i, w in enumerate(weights)}


def test_largest_remainders_would_not_nest_here() -> None:
    """Alabama's paradox: by largest remainders the third gets 2 of 10, but 1 of 11."""
    three = as_shares([6, 6, 2])
    by_total = [strata.apportion(total, three)["s2"] for total in (10, 11)]
    assert by_total == sorted(by_total)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("language=.5,vision=.4", "sum to 0.9, not 1"),
        ("language", "expected"),
        ("language=1,language=0", "expected"),
        ("language=1.5,vision=-.5", "expected"),
        ("language=nan", "expected"),
        ("=1", "expected"),
    ],
)
def test_a_ratio_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        strata.parse_ratio(text)


def test_a_ratio_is_exact_and_may_be_rounded() -> None:
    assert strata.parse_ratio("a=1/3,b=2/3") == {"a": Fraction(1, 3), "b": Fraction(2, 3)}
    assert strata.parse_ratio("a=.333,b=.333,c=.333") == dict.fromkeys("abc", Fraction(1, 3))
    assert strata.parse_ratio("x=y=.875, z=.125")["x=y"] == Fraction(7, 8)


def test_a_key_names_modality_family_task_or_file_and_an_unknown_one_what_there_is() -> None:
    cells = [cell("squad", "qa", file="one"), cell("arc", "reasoning"), cell("vqa", None, "vision", "two")]
    for key, datasets in (("language", ["squad", "arc"]), ("qa", ["squad"]), ("vqa", ["vqa"]), ("two", ["vqa"])):
        (stratum,) = strata.by_ratio(cells, {key: Fraction(1)})
        assert [cell.dataset for cell in stratum.cells] == datasets
    with pytest.raises(UsageError) as caught:
        strata.by_ratio(cells, {"visoin": Fraction(1)})
    assert str(caught.value) == (
        "--ratio: no row belongs to 'visoin'; there are: modality language, vision; family qa, reasoning; "
        "data set arc, squad, vqa; file f, one, two"
    )
    with pytest.raises(UsageError, match="'squad' belongs to both 'language' and 'qa'"):
        strata.by_ratio(cells, {"language": Fraction(1, 2), "qa": Fraction(1, 2)})
    (stratum,) = strata.by_ratio(cells[:2], {"language": Fraction(1), "vision": Fraction(0)})
    assert stratum.name == "language"


def test_a_share_of_0_leaves_out_nothing_that_another_key_takes() -> None:
    cells = [cell("squad"), cell("arc")]
    (stratum,) = strata.by_ratio(cells, {"squad": Fraction(1), "arc": Fraction(0)})
    assert [cell.dataset for cell in stratum.cells] == ["squad"]
    with pytest.raises(UsageError, match="'arc' belongs to both 'language' and 'arc'"):
        strata.by_ratio(cells, {"language": Fraction(1), "arc": Fraction(0)})


def test_a_key_means_the_widest_that_goes_by_it_and_the_modalities_names_nothing_else() -> None:
    mixed_file = [cell("a", file="language"), cell("b", modality="vision", file="language")]
    (stratum,) = strata.by_ratio(mixed_file, {"language": Fraction(1)})
    assert [cell.dataset for cell in stratum.cells] == ["a"]
    with pytest.raises(UsageError, match="no row belongs to 'language'"):
        strata.by_ratio(mixed_file[1:], {"language": Fraction(1)})
    with pytest.raises(UsageError, match="no row belongs to 'vision'"):
        strata.by_ratio([cell("vision", "vision", file="vision")], {"vision": Fraction(1)})
    cells = [cell("a", "qa", file="qa"), cell("b", "chat", file="qa")]
    (stratum,) = strata.by_ratio(cells, {"qa": Fraction(1)})
    assert [cell.dataset for cell in stratum.cells] == ["a"]


def test_a_stratum_is_halved_by_family_before_it_is_divided_by_data_set() -> None:
    cells = [cell(name, "qa") for name in "abc"] + [cell("d", "reasoning"), cell("alone")]
    given_rows = strata.quotas(strata.by_ratio(cells, {"language": Fraction(1)}), 10)
    assert {pool.dataset: quota for pool, quota in given_rows.items()} == {"alone": 4, "a": 1, "b": 1, "c": 1, "d": 3}
    assert sum(given_rows.values()) == 10


def test_weights_are_proportions_of_data_sets_and_name_what_is_missing() -> None:
    cells = [cell("a", "qa"), cell("a", "other", "vision"), cell("b", "qa"), cell("c")]
    by_weight = strata.by_weight(cells, {"a": 3.0, "b": 1.0, "c": 0.0, "unused": 0.0})
    assert {stratum.name: (stratum.share, len(stratum.cells)) for stratum in by_weight} == {
        "a": (Fraction(3, 4), 2),
        "b": (Fraction(1, 4), 1),
    }
    with pytest.raises(UsageError, match="no row names the weight of b, c"):
        strata.by_weight(cells, {"a": 1.0})
    with pytest.raises(UsageError, match="no row belongs to d; there are: "):
        strata.by_weight(cells[:1], {"a": 1.0, "d": 0.1})
    with pytest.raises(UsageError, match="all weights are 0"):
        strata.by_weight(cells[:1], {"a": 0.0})


def test_a_file_is_called_by_its_stem_unless_two_share_it() -> None:
    assert strata.file_names(["x/squad.jsonl.gz", "y/arc.arrow"]) == {"x/squad.jsonl.gz": "squad", "y/arc.arrow": "arc"}
    assert strata.file_names(["x/train.jsonl", "y/train.jsonl", "z"]) == {
        "x/train.jsonl": "x/train.jsonl",
        "y/train.jsonl": "y/train.jsonl",
        "z": "z",
    }
    for again in ("a.jsonl", "./a.jsonl"):
        with pytest.raises(UsageError, match=r"the same file as a\.jsonl"):
            strata.file_names(["a.jsonl", again])


def row(source: str = "f.jsonl", **fields: Any) -> Row:
    return Row({"id": "1", **fields}, 0, source, 1)


def test_a_data_set_is_a_task_or_a_file() -> None:
    files = {"f.jsonl": "f"}
    by_task, by_file = strata.label_by("task", files), strata.label_by("file", files)
    assert by_task(row(task="squad", family="qa")) == Cell("squad", "qa", "language", "f")
    assert by_task(row(images=[{"path": "x"}], family=3)) == Cell("f", None, "vision", "f")
    assert by_file(row(task="squad", images=[])) == Cell("f", None, "language", "f")
    grouped = strata.label_by("task", files, {"squad": "synergy"})
    assert grouped(row(task="squad", family="qa")).family == "synergy"
    assert grouped(row(task="arc", family="qa")).family is None
    strata.require_groups([grouped(row(task="squad"))], {"squad": "synergy", "unused": "synergy"})
    with pytest.raises(UsageError, match="--groups: no row names the group of arc, vqa"):
        strata.require_groups([grouped(row(task=name)) for name in ("vqa", "squad", "arc")], {"squad": "synergy"})


def test_a_mixture_knows_its_data_sets_by_task_benchmark_or_file() -> None:
    label = mixtures.named("mlan").label("task", {"ARC-Easy.jsonl": "ARC-Easy", "x.jsonl": "x"})
    assert label(row("x.jsonl", task="arc-challenge"))[:2] == ("arc", "commonsense-reasoning")
    assert label(row("x.jsonl", task="questions", benchmark="squad"))[:2] == ("squad", "question-answering")
    assert label(row("ARC-Easy.jsonl"))[:2] == ("arc", "commonsense-reasoning")
    assert label(row("x.jsonl", task="planted", family="question-answering"))[:2] == ("planted", "question-answering")


def test_a_mixture_needs_both_families_and_knows_what_it_lacks() -> None:
    mixture = mixtures.named("mlan-v")
    qa, reasoning = mixture.families
    language = [cell("squad", qa), cell("arc", reasoning)]
    vision = [cell("vqav2", qa, "vision"), cell("a-okvqa", reasoning, "vision")]
    assert [(s.name, s.share) for s in mixture.strata([*language, *vision])] == [
        ("language", Fraction(7, 8)),
        ("vision", Fraction(1, 8)),
    ]
    with pytest.raises(UsageError, match="no vision row is of the family commonsense-reasoning"):
        mixture.strata([*language, vision[0]])
    with pytest.raises(UsageError, match="mlan-v: chat: neither question-answering nor commonsense-reasoning"):
        mixture.strata([*language, *vision, cell("chat")])
    assert mixture.missing([*language, *vision]) == ["cosmosqa", "strategyqa", "commonsenseqa"]
    assert "vqav2" not in mixtures.named("mlan").missing(language)
    with pytest.raises(UsageError, match="there are mlan, mlan-v, mlan-v-vicuna, llava, cambrian"):
        mixtures.named("mlan-x")


def test_the_mixtures_shares_of_language_are_the_papers() -> None:
    percent = {name: float(100 * mixtures.named(name).ratio["language"]) for name in mixtures.names()}
    assert percent == {"mlan": 100, "mlan-v": 87.5, "mlan-v-vicuna": 50, "llava": 6, "cambrian": 25}
    assert all(mixtures.named(name).budget == 80_000 for name in mixtures.names())


def test_the_papers_tokens_lie_on_one_line_over_the_mixtures_shares() -> None:
    """Table 2: so both modalities are made up alike in all of its mixtures, as they are here."""
    tokens = {"mlan-v": 14_939_955, "mlan-v-vicuna": 29_443_833, "cambrian": 39_093_356, "llava": 46_360_439}
    of_language = 10_110_681
    a_share = {name: (n - of_language) / float(mixtures.named(name).ratio["vision"]) for name, n in tokens.items()}
    assert max(a_share.values()) / min(a_share.values()) < 1.003
