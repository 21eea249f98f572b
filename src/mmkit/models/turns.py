"""Cut what a model wrote into the turns that its chat template would have made of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mmkit.models.templates import ChatTemplate
from mmkit.models.tokens import CarefulTokenizer

_OTHER = {"user": "assistant", "assistant": "user"}
_MARKS = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class WrittenTurn:
    """One turn of a conversation that a model wrote by itself."""

    role: str
    text: str


class TurnCutter:
    """Knows how turns of one template end: by its control tokens, never by text that merely spells them."""

    def __init__(self, template: ChatTemplate, tokens: CarefulTokenizer, end_of_text_ids: Sequence[int]) -> None:
        self._template = template
        self._tokens = tokens
        self._end_of_text_ids = end_of_text_ids

    def cut(self, ids: Sequence[int], first_role: str) -> tuple[list[WrittenTurn], bool]:
        """The turns of generated ids that begin inside a `first_role` turn, and whether the last one is finished."""
        rest, role, turns = self._tokens.with_marks(ids), first_role, list[WrittenTurn]()
        while True:
            boundary = self._boundaries[role].search(rest)
            if boundary is None:
                return turns, False
            text = _MARKS.sub("", rest[: boundary.start()]).strip()
            if text or boundary["close"]:
                turns.append(WrittenTurn(role, text))
            if boundary["next"] is None:
                return turns, boundary["stop"] is not None
            rest, role = rest[boundary.end() :], _OTHER[role]

    @cached_property
    def _boundaries(self) -> dict[str, re.Pattern[str]]:
        """What ends a turn of each role: `close`, its own end, then `next`, a header, or `stop`, the end of all."""
        tokens = self._tokens
        mark = {role: tokens.with_marks(tokens.ids_of(self._template.opening(role))).strip() for role in _OTHER}
        end_of_text = "|".join(re.escape(tokens.with_marks([i])) for i in self._end_of_text_ids) or "(?!)"
        boundaries = {}
        for role, other in _OTHER.items():
            close = re.escape(tokens.with_marks(tokens.ids_of(self._template.closing(role))).strip())
            go_on = rf"\s*(?P<next>{re.escape(mark[other])})"
            if close:
                # The empty alternative: the turn is closed, but neither header nor end follows.
                pattern = rf"(?P<close>{close}|(?={end_of_text}))(?:{go_on}|\s*(?P<stop>{end_of_text}|\Z)|)"
            else:
                pattern = rf"(?P<close>)(?:{go_on}|\s*(?P<stop>{end_of_text}))"
            boundaries[role] = re.compile(pattern)
        return boundaries
