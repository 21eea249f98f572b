"""Two readings of one prompt, held side by side: what counts as a difference, and what is said of it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import orjson
import pytest

from mmkit.engines.parity import Comparison, Parity, Reading, compare, table
from mmkit.errors import UnavailableError

ONE = Reading(ids=[1, 2, 3, 4, 5, 6, 7, 8], num_image=2, log_probs={10: -0.5, 11: -1.0, 12: -4.0}, best=10)
REFUSES = Reading(refusal="too long")


def side_by_side(vllm: Reading, transformers: Reading = ONE, tolerance: float = 0.01) -> Comparison:
    return compare("r", transformers, vllm, spell=lambda token: f"t{token}", tolerance=tolerance)


def shifted(**log_probs: float) -> Reading:
    """vLLM's side, with some log-probabilities of its own: shifted(t11=-1.2)."""
    return replace(ONE, log_probs={**ONE.log_probs, **{int(name[1:]): value for name, value in log_probs.items()}})


def test_the_same_is_ok() -> None:
    found = side_by_side(ONE)
    assert (found.state, found.detail, found.differences) == ("ok", "", [])
    assert (found.prompt_tokens, found.image_tokens) == ((8, 8), (2, 2))


def test_a_prompt_is_shown_around_the_first_token_that_is_not_the_same() -> None:
    found = side_by_side(replace(ONE, ids=[1, 2, 3, 4, 9, 6, 7, 8]))
    assert found.differences == [
        "prompts differ from token 4 on (transformers | vLLM): … t2 t3 t4 [t5] t6 t7 t8 | … t2 t3 t4 [t9] t6 t7 t8"
    ]


def test_a_prompt_that_begins_the_other_ends_in_it() -> None:
    (found,) = side_by_side(replace(ONE, ids=ONE.ids[:2])).differences
    assert found == "prompts differ from token 2 on (transformers | vLLM): t1 t2 [t3] t4 t5 t6 … | t1 t2 [end]"
    (found,) = side_by_side(replace(ONE, ids=ONE.ids[:3])).differences
    assert found.endswith(": t1 t2 t3 [t4] t5 t6 t7 … | t1 t2 t3 [end]")
    (found,) = side_by_side(replace(ONE, ids=[0, *ONE.ids])).differences
    assert found == "prompts differ from token 0 on (transformers | vLLM): [t1] t2 t3 t4 … | [t0] t1 t2 t3 …"


def test_image_tokens_are_counted_on_their_own() -> None:
    assert side_by_side(replace(ONE, num_image=3)).differences == ["2 image tokens in transformers, 3 in vLLM"]


def test_log_probabilities_may_differ_by_the_tolerance_and_no_more() -> None:
    assert side_by_side(shifted(t11=-1.25), tolerance=0.25).state == "ok"
    found = side_by_side(shifted(t11=-1.26, t12=-4.1), tolerance=0.25)
    assert found.differences == [
        "log-probabilities differ by up to 0.26, more than 0.25: t11 has -1.0000 in transformers, -1.2600 in vLLM"
    ]
    assert found.first_tokens is not None
    assert found.first_tokens.difference == pytest.approx(0.26)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_model_that_gives_no_number_differs(value: float) -> None:
    found = side_by_side(shifted(t11=value))
    assert "t11" in found.detail
    assert orjson.loads(orjson.dumps(found.to_wire()))["log_probs"]["max_difference"] is None


def test_a_token_that_vllm_says_nothing_of_differs() -> None:
    assert side_by_side(replace(ONE, log_probs={10: -0.5, 11: -1.0})).state == "differs"


def test_another_most_probable_token_is_a_difference_where_the_tolerance_does_not_explain_it() -> None:
    says = ["the most probable first token is t10 in transformers, t11 in vLLM"]
    assert side_by_side(replace(ONE, best=11), tolerance=0.24).differences == says
    assert side_by_side(replace(ONE, best=11), tolerance=0.25).differences == []  # .5 apart: a near-tie


def test_a_most_probable_token_that_transformers_holds_for_improbable_is_a_difference() -> None:
    elsewhere = replace(ONE, best=99)
    assert side_by_side(elsewhere, tolerance=1.7).state == "differs"  # it can be no more probable than t12
    assert side_by_side(elsewhere, tolerance=1.75).state == "ok"


def test_what_one_engine_refuses_and_the_other_takes_is_a_difference() -> None:
    assert side_by_side(REFUSES).differences == ["vLLM refuses what transformers takes: too long"]
    assert side_by_side(ONE, REFUSES).differences == ["transformers refuses what vLLM takes: too long"]


def test_what_both_refuse_is_said_and_no_difference() -> None:
    found = side_by_side(Reading(refusal="longer than 512"), REFUSES)
    assert (found.state, found.detail) == ("ok", "both refuse it: too long")
    assert found.to_wire()["refusals"] == {"transformers": "too long", "vllm": "longer than 512"}


def test_rows_say_all_of_it() -> None:
    assert side_by_side(replace(ONE, num_image=3)).to_wire() == {
        "record": "r",
        "state": "differs",
        "prompt_tokens": {"transformers": 8, "vllm": 8},
        "image_tokens": {"transformers": 2, "vllm": 3},
        "log_probs": {
            "max_difference": 0.0,
            "token": "t10",
            "transformers": -0.5,
            "vllm": -0.5,
            "best": {"transformers": "t10", "vllm": "t10"},
        },
        "refusals": None,
        "differences": ["2 image tokens in transformers, 3 in vLLM"],
    }
    header, shown, refused = table([side_by_side(replace(ONE, num_image=3)), side_by_side(REFUSES, REFUSES)])
    assert [len(row) for row in (header, shown, refused)] == [6, 6, 6]
    assert shown[:5] == ["r", "differs", "8", "2 | 3", "0.0e+00"]
    assert refused[1:5] == ["ok", "", "", ""]


def conclusion(*readings: Reading) -> Any:
    comparisons = [side_by_side(reading, REFUSES if reading is REFUSES else ONE) for reading in readings]
    return Parity(comparisons, "float32", 0.01).conclude()


def test_the_summary_counts_and_a_difference_is_an_error() -> None:
    assert conclusion(ONE, shifted(t10=-0.501)) == (
        "transformers and vLLM read 2 records alike (float32, log-probabilities within 1.0e-03)"
    )
    assert conclusion(ONE, REFUSES).endswith(", both refuse 1")
    with pytest.raises(UnavailableError, match="differ on 1 of 3 records"):
        conclusion(ONE, shifted(t10=-9), REFUSES)


def test_engines_that_refuse_everything_have_shown_nothing() -> None:
    with pytest.raises(UnavailableError, match="nothing was compared: both engines refuse all of 2 records"):
        conclusion(REFUSES, REFUSES)
