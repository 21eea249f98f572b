"""Reshapes: what a source can do to a value beyond taking it as it is, by name.

Each takes a value that is not empty and what the row asks, and gives a value or None. Those of one value take a list
element by element. All raise DataError for a value of another kind; the source adds the column.
"""

from __future__ import annotations

import ast
import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from mmkit.errors import DataError

ImageSize: TypeAlias = "tuple[int, int]"


@dataclass(slots=True)
class Asked:
    """What is known of a row's question when its answer is read.

    `choices` holds the options in the set's own places, None where one is empty. `image_size` gives (width, height)
    in pixels of the row's first image, and raises an MmkitError without one.
    """

    choices: Sequence[str | None] = ()
    image_size: Callable[[], ImageSize] = lambda: (0, 0)


Reshape: TypeAlias = Callable[[Any, Asked], Any]


def _index(value: Any, asked: Asked) -> str | None:
    return _option(_whole_number(value), value, asked)


def _number(value: Any, asked: Asked) -> str | None:
    return _option(_whole_number(value) - 1, value, asked)


def _letter(value: Any, asked: Asked) -> str | None:
    letter = value.strip().strip("().:") if isinstance(value, str) else ""
    if len(letter) != 1 or not letter.isascii() or not letter.isalpha():
        raise DataError(f"expected a letter, got {shown(value)}")
    return _option(ord(letter.upper()) - ord("A"), value, asked)


def _letter_or_text(value: Any, asked: Asked) -> Any:
    return _letter(value, asked) if asked.choices else value


def _option(index: int, value: Any, asked: Asked) -> str:
    option = asked.choices[index] if 0 <= index < len(asked.choices) else None
    if option is None:
        raise DataError(f"{shown(value)} names none of the {len(asked.choices)} choices")
    return option


def _whole_number(value: Any) -> int:
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not int:
        raise DataError(f"expected a whole number, got {shown(value)}")
    return value


def _yes_no(value: Any, asked: Asked) -> str:
    word = value.strip().lower() if isinstance(value, str) else value
    if word in (True, "true", "yes", "1"):
        return "yes"
    if word in (False, "false", "no", "0"):
        return "no"
    raise DataError(f"expected true or false, got {shown(value)}")


def _base64(value: Any, asked: Asked) -> dict[str, bytes]:
    if not isinstance(value, str):
        raise DataError(f"expected an image as base64 text, got {shown(value)}")
    try:
        return {"bytes": base64.b64decode("".join(value.split()), validate=True)}
    except (binascii.Error, ValueError):
        raise DataError("an image's base64 text is broken") from None


def _written_list(value: Any, asked: Asked) -> list[Any]:
    """A list written as text, in JSON or as Python writes it; a list that is one already stays."""
    if isinstance(value, list):
        return value
    for read, failures in (
        (json.loads, (ValueError, RecursionError)),
        (ast.literal_eval, (ValueError, SyntaxError, RecursionError, MemoryError)),
    ):
        try:
            found = read(value.strip())
        except (*failures, AttributeError, TypeError):
            continue
        if isinstance(found, list | tuple):
            return list(found)
    raise DataError(f"expected a list written as text, got {shown(value)}")


def _commas(value: Any, asked: Asked) -> list[str]:
    return _pieces(value, ",")


def _lines(value: Any, asked: Asked) -> list[str]:
    return _pieces(value, "\n")


def _pieces(value: Any, mark: str) -> list[str]:
    if not isinstance(value, str):
        raise DataError(f"expected a text, got {shown(value)}")
    return [piece.strip() for piece in value.split(mark) if piece.strip()]


def _joined(value: Any, asked: Asked) -> Any:
    if not isinstance(value, list | tuple):
        return value
    if not all(isinstance(piece, str) for piece in value):
        raise DataError(f"expected texts, got {shown(value)}")
    return "\n".join(value)


def _box_xywh(value: Any, asked: Asked) -> str:
    x, y, width, height = _four(value)
    return _box(x, y, x + width, y + height, asked)


def _box_xyxy(value: Any, asked: Asked) -> str:
    return _box(*_four(value), asked)


def _four(value: Any) -> tuple[float, float, float, float]:
    numbers = isinstance(value, list | tuple) and all(
        isinstance(number, int | float) and not isinstance(number, bool) for number in value
    )
    if not numbers or len(value) != 4:
        raise DataError(f"expected a box of four numbers, got {shown(value)}")
    x, y, third, fourth = value
    return x, y, third, fourth


def _box(left: float, top: float, right: float, bottom: float, asked: Asked) -> str:
    width, height = asked.image_size()
    corners = (left / width, top / height, right / width, bottom / height)
    return "[" + ", ".join(f"{min(max(corner, 0.0), 1.0):.2f}" for corner in corners) + "]"


def shown(value: Any) -> str:
    """A value as messages tell it, cut after 80 characters."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else text[:80] + "…"


def _for_each(function: Reshape) -> Reshape:
    def reshape(value: Any, asked: Asked) -> Any:
        if isinstance(value, list | tuple):
            return [None if item is None else function(item, asked) for item in value]
        return function(value, asked)

    return reshape


RESHAPES: Mapping[str, Reshape] = {
    "index": _for_each(_index),
    "number": _for_each(_number),
    "letter": _for_each(_letter),
    "letter-or-text": _for_each(_letter_or_text),
    "yes-no": _for_each(_yes_no),
    "base64": _for_each(_base64),
    "list": _written_list,
    "commas": _commas,
    "lines": _lines,
    "joined": _joined,
    "box-xywh": _box_xywh,
    "box-xyxy": _box_xyxy,
}
"""By name:

- index, number, letter: the text of the option that is meant: counted from 0, from 1, or A, B, C …
- letter-or-text: a letter where the row has options, else the answer itself
- yes-no: true, 1, "Yes" → "yes"; false, 0, "No" → "no"
- base64: an image's base64 text → its bytes
- list: a list written as text; commas, lines: a text cut at its commas or line ends
- joined: a list of texts → one text, a line each; a text stays
- box-xywh, box-xyxy: a box in pixels → LLaVA's "[left, top, right, bottom]" in parts of width and height
"""
