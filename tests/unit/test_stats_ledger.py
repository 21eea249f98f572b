"""What records cost: each step once, to the cent."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest

from mmkit.data.stats.ledger import Account, Bill, Ledger, Prices
from mmkit.errors import DataError, UsageError


def entry(op: str, *parents: str, model: str | None = "m", tokens: tuple[int, int] = (100, 10)) -> dict[str, Any]:
    usage = {"prompt_tokens": tokens[0], "image_tokens": 5, "completion_tokens": tokens[1]}
    return {"op": op, "parents": list(parents), "model": model, "params": "p", "usage": usage}


def added(records: list[dict[str, Any]]) -> list[Account]:
    ledger = Ledger()
    for record in records:
        ledger.add(record)
    return ledger.accounts()


def test_what_one_step_made_is_paid_once() -> None:
    made = entry("synthesize", "caption-1")
    tasks = [{"id": f"caption-1#{n}", "lineage": [made]} for n in range(3)]
    composed = {"id": "c", "lineage": [made, made, made, {"op": "compose", "parents": ["a", "b", "c"]}]}
    other = {"id": "caption-2#0", "lineage": [entry("synthesize", "caption-2")]}
    compose, synthesize = added([*tasks, composed, other])
    assert (synthesize.steps, synthesize.rows) == (2, 5)
    assert (synthesize.prompt_tokens, synthesize.image_tokens, synthesize.completion_tokens) == (200, 10, 20)
    assert (compose.steps, compose.rows, compose.prompt_tokens, compose.model) == (1, 1, 0, None)


def test_other_models_and_settings_are_other_steps() -> None:
    one = entry("predict", "a")
    accounts = added([{"id": "a", "lineage": [one, {**one, "params": "q"}, {**one, "model": "n"}]}])
    assert [(account.model, account.steps) for account in accounts] == [("m", 2), ("n", 1)]


def test_a_step_that_names_no_parent_belongs_to_its_record() -> None:
    made = {"op": "review", "params": "p"}
    assert added([{"id": "a", "lineage": [made]}, {"id": "b", "lineage": [made]}])[0].steps == 2


def test_order_changes_nothing() -> None:
    records = [
        {"id": str(n), "lineage": [entry("synthesize", f"c{n // 3}"), entry("judge", str(n))]} for n in range(30)
    ]
    shuffled = random.Random(1).sample(records, len(records))
    assert added(shuffled) == added(records)


def mminstruct(scale: int) -> list[dict[str, Any]]:
    """MMInstruct's rows, `scale` times fewer: 161,000 images captioned, 973,000 instructions, about six an image, each
    corrected by hand."""
    captions, tasks = 161_000 // scale, 973_000 // scale
    records = []
    for number in range(tasks):
        image = f"image-{number % captions}"
        task = f"{image}#{number // captions}"
        lineage = [
            entry("caption", image, model="gpt-4v"),
            entry("synthesize", image, model="gpt-3.5"),
            {"op": "review", "parents": [task]},
        ]
        records.append({"id": task, "lineage": lineage})
    return records


def test_mminstructs_cost_follows_from_its_rows() -> None:
    accounts = added(mminstruct(1000))
    prices = Prices.parse([], ["caption=0.00885"], ["synthesize=0.0004", "review=0.13"])
    assert Bill(accounts, prices).cost == Decimal("128.30405")


def test_mminstructs_cost_is_right_to_the_cent() -> None:
    """161,000 × 0.00885 + 973,000 × 0.0004 + 973,000 × 0.13; 973,000 × 0.84 had all been written by hand."""
    accounts = [
        Account("caption", "gpt-4v", steps=161_000, rows=973_000),
        Account("synthesize", "gpt-3.5", steps=161_000, rows=973_000),
        Account("review", None, steps=973_000, rows=973_000),
    ]
    bill = Bill(accounts, Prices.parse([], ["caption=0.00885"], ["synthesize=0.0004", "review=0.13"]))
    assert bill.cost == Decimal("128304.05")
    assert bill.to_wire()[-1]["cost"] == 128304.05
    assert bill.table()[-1][-1] == "128,304.05"
    assert Bill(accounts[2:], Prices.parse([], [], ["review=0.84"])).cost == 817_320


def test_tokens_are_priced_by_the_million_and_the_sum_counts_all() -> None:
    accounts = [
        Account("judge", "b", steps=1, rows=1, prompt_tokens=1_000_000),
        Account(
            "synthesize", "a=b", steps=2, rows=5, prompt_tokens=2_000_000, image_tokens=7, completion_tokens=500_000
        ),
    ]
    bill = Bill(accounts, Prices.parse(["a=b=2.5,10"], [], []))
    assert [row["cost"] for row in bill.to_wire()] == [None, 10.0, 10.0]
    assert bill.unpriced() == ["b"]
    total = bill.to_wire()[-1]
    assert (total["op"], total["steps"], total["rows"], total["prompt_tokens"]) == (None, 3, None, 3_000_000)
    unknown = Bill(accounts, Prices())
    assert unknown.cost is None and unknown.unpriced() == []


@pytest.mark.parametrize(
    ("prices", "option"),
    [
        ((["m"], [], []), "--price m"),
        ((["m=1"], [], []), "MODEL=IN,OUT"),
        ((["m=1,nan"], [], []), "--price"),
        (([], ["=1"], []), "--price-per-step =1"),
        (([], [], ["op=-1"]), "--price-per-row op=-1"),
        ((["m=1,2", "m=1,3"], [], []), "m has another price already"),
    ],
)
def test_a_price_of_another_form_is_refused(prices: tuple[list[str], list[str], list[str]], option: str) -> None:
    with pytest.raises(UsageError, match=option):
        Prices.parse(*prices)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"op": 3}, r"lineage\[1\].op: expected a string"),
        ({"op": "x", "model": []}, r"lineage\[1\].model"),
        ({"op": "x", "parents": "a"}, r"lineage\[1\].parents"),
        ({"op": "x", "usage": 5}, r"lineage\[1\].usage: expected an object"),
        ({"op": "x", "usage": {"prompt_tokens": -1}}, r"usage.prompt_tokens"),
        ({"op": "x", "usage": {"image_tokens": True}}, r"usage.image_tokens"),
        ({"op": "x", "usage": {"prompt_tokens": 2**62}}, r"usage.prompt_tokens: .* from 0 to 1,000,000,000,000"),
    ],
)
def test_a_broken_lineage_says_where(broken: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        added([{"id": "a", "lineage": [entry("x", "p"), broken]}])


def test_of_a_row_that_is_refused_no_step_counts() -> None:
    ledger = Ledger()
    with pytest.raises(DataError):
        ledger.add({"id": "a", "lineage": [entry("x", "p"), {"op": 3}]})
    assert ledger.accounts() == []


def test_prices_that_met_no_work_are_named() -> None:
    accounts = added([{"id": "a", "lineage": [entry("caption", "p", model="m")]}])
    prices = Prices.parse(["m=1,1", "n=1,1"], ["caption=1", "captoin=1"], ["review=1"])
    assert Bill(accounts, prices).unmet() == ["n", "captoin", "review"]
