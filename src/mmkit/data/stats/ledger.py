"""What the records of some files cost: tokens and money, by step and model, from their lineage."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias

import orjson

from mmkit.errors import DataError, UsageError

_COUNTS = ("prompt_tokens", "image_tokens", "completion_tokens")
_MILLION = Decimal(1_000_000)
_MOST_TOKENS = 10**12
_Step: TypeAlias = tuple[str, str | None, list[str], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Prices:
    """What things cost, in whatever currency the user thinks in.

    `per_million` holds for a model what a million prompt tokens (image tokens among them) and a million completion
    tokens cost. `per_step` and `per_row` hold for an op what one step of it costs, and one row that went through it.
    """

    per_million: Mapping[str, tuple[Decimal, Decimal]] = field(default_factory=dict)
    per_step: Mapping[str, Decimal] = field(default_factory=dict)
    per_row: Mapping[str, Decimal] = field(default_factory=dict)

    @classmethod
    def parse(cls, per_million: Iterable[str], per_step: Iterable[str], per_row: Iterable[str]) -> Prices:
        """From `MODEL=IN,OUT`, `OP=PRICE` and `OP=PRICE`. Raises UsageError for another form and for two prices of
        one thing."""
        tokens = _priced("--price", per_million, "MODEL=IN,OUT", 2)
        steps = _priced("--price-per-step", per_step, "OP=PRICE", 1)
        rows = _priced("--price-per-row", per_row, "OP=PRICE", 1)
        return cls(
            {model: (into, out) for model, (into, out) in tokens.items()},
            {op: price for op, (price,) in steps.items()},
            {op: price for op, (price,) in rows.items()},
        )


def _priced(option: str, texts: Iterable[str], form: str, count: int) -> dict[str, list[Decimal]]:
    prices: dict[str, list[Decimal]] = {}
    for text in texts:
        name, numbers = _parsed(option, text, form, count)
        if prices.setdefault(name, numbers) != numbers:
            raise UsageError(f"{option} {text}: {name} has another price already")
    return prices


def _parsed(option: str, text: str, form: str, count: int) -> tuple[str, list[Decimal]]:
    name, _, prices = text.rpartition("=")  # a model's name may hold the sign, a price does not
    try:
        numbers = [Decimal(price) for price in prices.split(",")]
    except InvalidOperation:
        numbers = []
    if not name or len(numbers) != count or not all(number.is_finite() and number >= 0 for number in numbers):
        raise UsageError(f"{option} {text}: expected {form}, prices that are not negative")
    return name, numbers


@dataclass(slots=True)
class Account:
    """What one op cost with one model. `op` None is all of them.

    `steps` are requests or edits that were made, `rows` the records that went through one. `cost` is None where
    nothing says what it costs.
    """

    op: str | None
    model: str | None
    steps: int = 0
    rows: int = 0
    prompt_tokens: int = 0
    image_tokens: int = 0
    completion_tokens: int = 0

    def cost(self, prices: Prices) -> Decimal | None:
        """Tokens, steps and rows at their prices, exactly.

        Source: MMInstruct, appendix on cost (161,000 × 0.00885 + 973,000 × 0.0004 + 973,000 × 0.13). Deviation: none.
        """
        op = self.op or ""
        parts = []
        if self.model is not None and (tokens := prices.per_million.get(self.model)) is not None:
            parts.append((self.prompt_tokens * tokens[0] + self.completion_tokens * tokens[1]) / _MILLION)
        if (step := prices.per_step.get(op)) is not None:
            parts.append(self.steps * step)
        if (row := prices.per_row.get(op)) is not None:
            parts.append(self.rows * row)
        return sum(parts, Decimal(0)) if parts else None


class Ledger:
    """Adds up the steps in the lineage of records, each once.

    A row that was made into several hands its lineage to each, and a conversation has that of all its tasks: a step is
    the same where op, model, adapter, parents and settings are. Memory is about 100 bytes a step.
    """

    def __init__(self) -> None:
        self._accounts: dict[tuple[str, str | None], Account] = {}
        self._seen: set[int] = set()
        self.without_lineage = 0

    def add(self, record: Mapping[str, Any]) -> None:
        """Take one record in. Raises DataError, and takes nothing, where its lineage is not what it should be."""
        entries = list(_entries(record))
        self.without_lineage += not record.get("lineage")
        met: dict[tuple[str, str | None], None] = {}
        for entry, (op, model, parents, usage) in entries:
            account = self._accounts.setdefault((op, model), Account(op, model))
            met[op, model] = None
            # A step without parents belongs to this record alone.
            step = _digest([op, model, parents or ["", record["id"]], entry.get("params"), entry.get("adapter")])
            if step in self._seen:
                continue
            self._seen.add(step)
            account.steps += 1
            account.prompt_tokens += usage[0]
            account.image_tokens += usage[1]
            account.completion_tokens += usage[2]
        for key in met:
            self._accounts[key].rows += 1

    def accounts(self) -> list[Account]:
        """In order of op and model."""
        return sorted(self._accounts.values(), key=lambda account: (account.op or "", account.model or ""))


def _entries(record: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], _Step]]:
    for number, entry in enumerate(record.get("lineage") or ()):
        try:
            yield entry, _read(entry)
        except DataError as error:
            raise DataError(f"lineage[{number}].{error}") from None


def _read(entry: Mapping[str, Any]) -> _Step:
    op, model, parents, usage = (entry.get(name) for name in ("op", "model", "parents", "usage"))
    if not isinstance(op, str):
        raise DataError("op: expected a string")
    if model is not None and not isinstance(model, str):
        raise DataError("model: expected a string")
    if parents is not None and not (isinstance(parents, list) and all(isinstance(one, str) for one in parents)):
        raise DataError("parents: expected a list of ids")
    if usage is not None and not isinstance(usage, dict):
        raise DataError("usage: expected an object")
    counts = tuple((usage or {}).get(name, 0) for name in _COUNTS)
    for name, count in zip(_COUNTS, counts, strict=True):
        if type(count) is not int or not 0 <= count <= _MOST_TOKENS:
            raise DataError(f"usage.{name}: expected a whole number from 0 to {_MOST_TOKENS:,}")
    return op, model, parents or [], counts


def _digest(step: Sequence[Any]) -> int:
    return int.from_bytes(hashlib.blake2b(orjson.dumps(step), digest_size=8).digest(), "big")


@dataclass(frozen=True, slots=True)
class Bill:
    """The accounts with their prices, and their sum."""

    accounts: Sequence[Account]
    prices: Prices

    @property
    def total(self) -> Account:
        """Tokens of all accounts; steps of all, rows of none, as a row goes through several."""
        whole = Account(None, None)
        for account in self.accounts:
            whole.steps += account.steps
            for name in _COUNTS:
                setattr(whole, name, getattr(whole, name) + getattr(account, name))
        return whole

    @property
    def cost(self) -> Decimal | None:
        """The sum of what has a price; None where nothing has."""
        costs = [cost for account in self.accounts if (cost := account.cost(self.prices)) is not None]
        return sum(costs, Decimal(0)) if costs else None

    def unpriced(self) -> list[str]:
        """The models whose work has no price, where other work has one."""
        if self.cost is None:
            return []
        return sorted({a.model for a in self.accounts if a.model is not None and a.cost(self.prices) is None})

    def unmet(self) -> list[str]:
        """The models and ops that have a price and did nothing here."""
        models, ops = ({getattr(account, of) for account in self.accounts} for of in ("model", "op"))
        priced = {*self.prices.per_step, *self.prices.per_row}
        return [*sorted(self.prices.per_million.keys() - models), *sorted(priced - ops)]

    def to_wire(self) -> list[dict[str, Any]]:
        """A row an account, then the sum, whose `op` and `rows` are null."""
        return [
            *(_wire(account, account.rows, account.cost(self.prices)) for account in self.accounts),
            _wire(self.total, None, self.cost),
        ]

    def table(self) -> list[list[str]]:
        """For a terminal, header first."""
        header = ["op", "model", "steps", "rows", "prompt tokens", "of images", "completion tokens", "cost"]
        return [header, *(_cells(row) for row in self.to_wire())]


def _wire(account: Account, rows: int | None, cost: Decimal | None) -> dict[str, Any]:
    return {
        "op": account.op,
        "model": account.model,
        "steps": account.steps,
        "rows": rows,
        **{name: getattr(account, name) for name in _COUNTS},
        "cost": None if cost is None else float(cost),
    }


def _cells(row: Mapping[str, Any]) -> list[str]:
    counts = [f"{row[name]:,}" if row[name] else "" for name in ("steps", "rows", *_COUNTS)]
    cost = row["cost"]
    return [row["op"] or "all", row["model"] or "", *counts, "" if cost is None else money(cost)]


def money(cost: float) -> str:
    """An amount to the cent; small ones to four digits."""
    return f"{cost:,.2f}" if cost >= 1 or not cost else f"{cost:.4g}"
