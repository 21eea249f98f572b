"""Whether transformers and vLLM read the same prompts alike: what each made of them, held side by side.

A comparison knows neither engine; `readings` asks them, `requests` has prompts that tend to part them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmkit.engines.choices import common_length
from mmkit.errors import UnavailableError

NUM_TOKENS = 20
"""How many of the most probable first tokens are compared."""

TOLERANCES = {"float32": 1e-3, "float16": 0.03, "bfloat16": 0.25}
"""How far two log-probabilities of one token may lie apart, by the type that both engines compute in.

Measured on a CPU with the built-in prompts, random qwen2_vl and llava of 2 layers and a qwen2_vl of 28, the largest
difference was 6e-6 in float32, .009 in float16 and .05 in bfloat16. The bounds leave room for what was not measured: in
float32 for a GPU's other kernels; in the narrow types for larger logits, whose own rounding grows with them (between
16 and 32, bfloat16 has steps of .125, float16 of an eighth of that). A model with another image size, another position
encoding or an adapter on one side only is off by far more.
"""

_AROUND = 3


@dataclass(frozen=True, slots=True)
class Reading:
    """What one engine made of a prompt.

    `ids` are its tokens as the model read them, `num_image` of them stand for images. `log_probs` are natural
    logarithms, by token, of tokens that may come first behind it, and `best` is the most probable of all. Where the
    engine would not take the prompt, `refusal` says why, and there is nothing else.
    """

    ids: Sequence[int] = ()
    num_image: int = 0
    log_probs: Mapping[int, float] = field(default_factory=dict)
    best: int | None = None
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class FirstTokens:
    """The first tokens of both engines. `difference` is the largest between two log-probabilities of one token, found
    at `token`; `best` are the most probable tokens. Tokens as the vocabulary spells them."""

    difference: float
    token: str
    transformers: float
    vllm: float
    best: tuple[str, str]

    def to_wire(self) -> dict[str, Any]:
        """The JSON form. A difference that is no finite number is null."""
        return {
            "max_difference": self.difference,
            "token": self.token,
            "transformers": self.transformers,
            "vllm": self.vllm,
            "best": {"transformers": self.best[0], "vllm": self.best[1]},
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """One record through both engines. `differences` names what is not the same, `refusals` is what each said (""
    where it took the prompt); token counts are (transformers, vLLM), None where there are none to compare."""

    record: str
    differences: Sequence[str]
    refusals: tuple[str, str] = ("", "")
    prompt_tokens: tuple[int, int] | None = None
    image_tokens: tuple[int, int] | None = None
    first_tokens: FirstTokens | None = None

    @property
    def state(self) -> str:
        """Either "ok" or "differs". Two engines that refuse the same record agree."""
        return "differs" if self.differences else "ok"

    @property
    def detail(self) -> str:
        """What there is to say, in words."""
        if self.differences:
            return "; ".join(self.differences)
        return f"both refuse it: {self.refusals[0]}" if self.refusals[0] else ""

    def to_wire(self) -> dict[str, Any]:
        """The JSON row."""
        return {
            "record": self.record,
            "state": self.state,
            "prompt_tokens": _pair(self.prompt_tokens),
            "image_tokens": _pair(self.image_tokens),
            "log_probs": None if self.first_tokens is None else self.first_tokens.to_wire(),
            "refusals": _pair(self.refusals) if any(self.refusals) else None,
            "differences": list(self.differences),
        }


@dataclass(frozen=True, slots=True)
class Parity:
    """All records compared. Both engines computed in `dtype`; log-probabilities were allowed to differ by
    `tolerance`."""

    comparisons: Sequence[Comparison]
    dtype: str
    tolerance: float

    def conclude(self) -> str:
        """What it comes to, in one line. Raises UnavailableError, with that line, where the engines differ, and where
        no record was taken by both: nothing is known then."""
        total = len(self.comparisons)
        differing = sum(one.state == "differs" for one in self.comparisons)
        gaps = [one.first_tokens.difference for one in self.comparisons if one.first_tokens]
        if differing:
            raise UnavailableError(f"transformers and vLLM differ on {differing} of {total} records ({self.dtype})")
        if not gaps:
            raise UnavailableError(f"nothing was compared: both engines refuse all of {total} records")
        found = f"{self.dtype}, log-probabilities within {max(gaps):.1e}"
        refused = f", both refuse {total - len(gaps)}" if len(gaps) < total else ""
        return f"transformers and vLLM read {len(gaps)} records alike ({found}){refused}"


def compare(
    record: str, transformers: Reading, vllm: Reading, *, spell: Callable[[int], str], tolerance: float
) -> Comparison:
    """Hold what the engines made of one record side by side. `spell` gives a token's spelling in the vocabulary.

    Compared are the prompts' tokens, the number that stands for images, and the log-probabilities of the tokens that
    the transformers reading lists: these may differ by `tolerance`. Two most probable tokens that are not the same are
    a difference where no pair of errors within the tolerance explains them, that is, where transformers holds its own
    more than twice the tolerance ahead; else they are near-ties.
    """
    refusals = (transformers.refusal or "", vllm.refusal or "")
    if any(refusals):
        return Comparison(record, _one_sided(*refusals), refusals)
    first = _first_tokens(transformers, vllm, spell)
    found = [
        _prompt_difference(transformers.ids, vllm.ids, spell),
        _count_difference(transformers.num_image, vllm.num_image),
        _log_prob_difference(first, tolerance),
        _best_difference(transformers, vllm, spell, tolerance),
    ]
    return Comparison(
        record,
        [difference for difference in found if difference],
        prompt_tokens=(len(transformers.ids), len(vllm.ids)),
        image_tokens=(transformers.num_image, vllm.num_image),
        first_tokens=first,
    )


def table(comparisons: Sequence[Comparison]) -> list[list[str]]:
    """The comparisons for a person, header first."""
    rows = [["record", "state", "prompt tokens", "image tokens", "log-probability gap", "detail"]]
    for one in comparisons:
        first = one.first_tokens
        counts = (_shown(one.prompt_tokens), _shown(one.image_tokens))
        rows.append([one.record, one.state, *counts, f"{first.difference:.1e}" if first else "", one.detail])
    return rows


def _one_sided(transformers: str, vllm: str) -> list[str]:
    if transformers and vllm:
        return []
    if vllm:
        return [f"vLLM refuses what transformers takes: {vllm}"]
    return [f"transformers refuses what vLLM takes: {transformers}"]


def _prompt_difference(transformers: Sequence[int], vllm: Sequence[int], spell: Callable[[int], str]) -> str:
    if list(transformers) == list(vllm):
        return ""
    place = common_length(transformers, vllm)
    sides = " | ".join(_around(ids, place, spell) for ids in (transformers, vllm))
    return f"prompts differ from token {place} on (transformers | vLLM): {sides}"


def _around(ids: Sequence[int], place: int, spell: Callable[[int], str]) -> str:
    """The tokens around one, which stands in brackets."""
    before = [spell(token) for token in ids[max(0, place - _AROUND) : place]]
    here = f"[{spell(ids[place])}]" if place < len(ids) else "[end]"
    after = [spell(token) for token in ids[place + 1 : place + 1 + _AROUND]]
    head, tail = "… " if place > _AROUND else "", " …" if place + 1 + _AROUND < len(ids) else ""
    return head + " ".join([*before, here, *after]) + tail


def _count_difference(transformers: int, vllm: int) -> str:
    return "" if transformers == vllm else f"{transformers} image tokens in transformers, {vllm} in vLLM"


def _first_tokens(transformers: Reading, vllm: Reading, spell: Callable[[int], str]) -> FirstTokens:
    apart = {
        token: _distance(log_prob, vllm.log_probs.get(token, -math.inf))
        for token, log_prob in transformers.log_probs.items()
    }
    worst = max(apart, key=lambda token: apart[token])
    assert transformers.best is not None and vllm.best is not None
    return FirstTokens(
        difference=apart[worst],
        token=spell(worst),
        transformers=transformers.log_probs[worst],
        vllm=vllm.log_probs.get(worst, -math.inf),
        best=(spell(transformers.best), spell(vllm.best)),
    )


def _distance(one: float, other: float) -> float:
    """The absolute difference; infinite where one of them is no number."""
    apart = abs(one - other)
    return 0.0 if one == other else math.inf if math.isnan(apart) else apart


def _log_prob_difference(first: FirstTokens, tolerance: float) -> str:
    if first.difference <= tolerance:
        return ""
    return (
        f"log-probabilities differ by up to {first.difference:.2g}, more than {tolerance:g}: "
        f"{first.token} has {first.transformers:.4f} in transformers, {first.vllm:.4f} in vLLM"
    )


def _best_difference(transformers: Reading, vllm: Reading, spell: Callable[[int], str], tolerance: float) -> str:
    assert transformers.best is not None and vllm.best is not None
    listed = transformers.log_probs
    # A token that is not in the list is no more probable than the last one in it.
    ahead = listed[transformers.best] - listed.get(vllm.best, min(listed.values()))
    if transformers.best == vllm.best or ahead <= 2 * tolerance:
        return ""
    return f"the most probable first token is {spell(transformers.best)} in transformers, {spell(vllm.best)} in vLLM"


def _pair(values: tuple[Any, Any] | None) -> dict[str, Any] | None:
    return None if values is None else {"transformers": values[0], "vllm": values[1]}


def _shown(counts: tuple[int, int] | None) -> str:
    if counts is None:
        return ""
    return f"{counts[0]}" if counts[0] == counts[1] else f"{counts[0]} | {counts[1]}"
