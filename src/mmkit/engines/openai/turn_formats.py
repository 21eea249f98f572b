"""How chat templates write a turn, to cut a conversation that a model wrote by itself back into turns.

A local engine can look at token ids; a server returns text alone. So the format is found by which opening marker
occurs first in that text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from mmkit.engines import Turn

END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "<eos>")
"""What models write when the whole conversation is over, as opposed to one turn."""

_CONTROL = re.compile(r"<\|\w+\|>|<(?:start|end)_of_\w+>")
_ROLES = {"user": "user", "assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class TurnFormat:
    """One family of templates: `opening` matches what stands before a turn's text and captures the role's name,
    `closing` ends the turn, `roles` translates the names."""

    name: str
    opening: re.Pattern[str]
    closing: str
    roles: Mapping[str, str] = field(default_factory=lambda: _ROLES)


TURN_FORMATS = (
    TurnFormat("chatml", re.compile(r"<\|im_start\|>[ ]?(\w+)[ ]?\n"), "<|im_end|>"),
    TurnFormat("llama3", re.compile(r"<\|start_header_id\|>[ ]?(\w+)[ ]?<\|end_header_id\|>"), "<|eot_id|>"),
    TurnFormat(
        "gemma",
        re.compile(r"<start_of_turn>[ ]?(\w+)[ ]?\n"),
        "<end_of_turn>",
        {"user": "user", "model": "assistant"},
    ),
    TurnFormat("phi3", re.compile(r"<\|(user|assistant|system)\|>"), "<|end|>"),
    TurnFormat("idefics3", re.compile(r"^(User|Assistant):", re.MULTILINE), "<end_of_utterance>"),
)


def cut_turns(text: str, *, ended: bool) -> tuple[Turn, ...] | None:
    """The turns in what a model wrote, or None where no known opening marker occurs.

    `ended` says that the model stopped by itself, so that a last turn without its closing marker is whole. A turn is
    dropped when it is unfinished, empty, of another role than user or assistant, or holds a control marker inside; the
    answers that follow a dropped turn go with it, so that no answer ends up under another question.
    """
    for marker in END_OF_TEXT:
        text, found, _ = text.partition(marker)
        ended = ended or bool(found)
    turn_format = _find_format(text)
    if turn_format is None:
        return None
    openings = list(turn_format.opening.finditer(text))
    ends = [opening.start() for opening in openings[1:]] + [len(text)]
    turns: list[Turn] = []
    orphaned = False
    for opening, end in zip(openings, ends, strict=True):
        body, closed, _ = text[opening.end() : end].partition(turn_format.closing)
        role = turn_format.roles.get(opening[1].lower())
        whole = bool(closed) or (ended and end == len(text))
        if role is None or not whole or not body.strip() or _CONTROL.search(body):
            orphaned = True
        elif role == "user" or not orphaned:
            turns.append(Turn(role, body.strip()))
            orphaned = False
    return tuple(turns)


def _find_format(text: str) -> TurnFormat | None:
    found = [(match.start(), each) for each in TURN_FORMATS if (match := each.opening.search(text))]
    return min(found, key=lambda pair: pair[0])[1] if found else None
