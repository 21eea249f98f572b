"""Two figures as SVG, written by hand: contributions between tasks as a heat map, difficulties as bars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from unicodedata import east_asian_width
from xml.sax.saxutils import escape

_CELL, _BAR, _HEIGHT = 76, 40, 220
_CHAR, _LINE, _MARGIN = 8, 24, 10
"""The width of a character, with the font's 0.6 of 13 and a little more, the height of a line, and the space around."""
_LIMIT = 40
"""Characters of a task's name that are shown."""
_MORE, _LESS = (31, 78, 156), (200, 62, 42)
"""The colours of 1 and above, and of -1 and below; 0 is white."""


def heat_map(title: str, tasks: Sequence[str], values: Mapping[tuple[str, str], float]) -> str:
    """SVG. `values` by (giving, receiving) task: a line each that gives, a column each that receives, blue above 0 and
    red below, full at 1 and -1. A pair without a value stays empty. Any text is escaped."""
    longest = max(map(_width, tasks))
    left, top = longest + 2 * _MARGIN, 2 * _LINE + _slanted(longest)
    side = _CELL * len(tasks)
    parts = [_text(_MARGIN, _LINE, title, limit=90, weight="bold")]
    for place, task in enumerate(tasks):
        middle = _middle(place)
        parts.append(_text(left - _MARGIN, top + middle + 4, task, anchor="end"))
        parts.append(_text(left + middle, top - _MARGIN, task, slant=-45))
    for row, giving in enumerate(tasks):
        for column, receiving in enumerate(tasks):
            x, y, value = left + _CELL * column, top + _CELL * row, values.get((giving, receiving))
            colour = "#eee" if value is None else _shade(value)
            parts.append(f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" fill="{colour}" stroke="white"/>')
            if value is not None:
                ink = "white" if abs(value) > 0.75 else "black"
                parts.append(_text(x + _CELL // 2, y + _CELL // 2 + 4, f"{value:z.2f}", anchor="middle", fill=ink))
    beyond = max(_middle(place) + _slanted(_width(task)) for place, task in enumerate(tasks))
    return _svg(max(left + max(side, beyond), _width(title, 90)) + 2 * _MARGIN, top + side + 2 * _MARGIN, parts)


def bars(title: str, values: Mapping[str, float]) -> str:
    """SVG. A bar each task, from the line of 0 up or down; the axis ends at 1, or further where a value does. Any text
    is escaped."""
    highest, lowest = max(1.0, *values.values()), min(0.0, *values.values())
    scale = _HEIGHT / (highest - lowest)
    top = 3 * _LINE
    zero = top + highest * scale
    left = max(0, *(_slanted(_width(task)) - _middle(place) for place, task in enumerate(values))) + 2 * _MARGIN
    right = left + _CELL * len(values)
    parts = [_text(_MARGIN, _LINE, title, limit=90, weight="bold")]
    for place, (task, value) in enumerate(values.items()):
        middle = left + _middle(place)
        end = zero - value * scale
        parts.append(
            f'<rect x="{middle - _BAR // 2}" y="{min(zero, end):.1f}" width="{_BAR}" height="{abs(end - zero):.1f}" '
            f'fill="rgb{_MORE}"/>'
        )
        parts.append(_text(middle, min(zero, end) - 6, f"{value:z.2f}", anchor="middle"))
        parts.append(_text(middle, top + _HEIGHT + _LINE, task, anchor="end", slant=-45))
    parts.append(f'<line x1="{left}" y1="{zero:.1f}" x2="{right}" y2="{zero:.1f}" stroke="#444"/>')
    width = max(right, _width(title, 90)) + 2 * _MARGIN
    return _svg(width, top + _HEIGHT + 2 * _LINE + max(_slanted(_width(task)) for task in values), parts)


def _middle(place: int) -> int:
    """Of the cell or bar at this place, from 0."""
    return _CELL * place + _CELL // 2


def _shade(value: float) -> str:
    """From white at 0 to the full colour at 1 or -1."""
    share = min(abs(value), 1)
    return f"rgb{tuple(round(255 + share * (part - 255)) for part in (_MORE if value > 0 else _LESS))}"


def _shown(text: str, limit: int) -> str:
    """What is not seen, and what XML cannot hold, as a question mark; at most `limit` characters."""
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(c if c.isprintable() else "?" for c in short)


def _width(text: str, limit: int = _LIMIT) -> int:
    """The width of a text as it is shown, in pixels; characters of East Asia take two columns."""
    return sum(_CHAR * (2 if east_asian_width(c) in "WF" else 1) for c in _shown(text, limit))


def _slanted(width: int) -> int:
    """How far a text of this width goes to the side, and up or down, at 45 degrees."""
    return round(width / sqrt(2)) + _MARGIN


def _text(
    x: float,
    y: float,
    text: str,
    *,
    limit: int = _LIMIT,
    anchor: str = "start",
    weight: str = "normal",
    fill: str = "black",
    slant: int = 0,
) -> str:
    turned = f' transform="rotate({slant} {x:g} {y:g})"' if slant else ""
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}" fill="{fill}"{turned}>'
        f"{escape(_shown(text, limit))}</text>"
    )


def _svg(width: float, height: float, parts: Iterable[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="monospace" font-size="13">'
    )
    return "\n".join([head, f'<rect width="{width:g}" height="{height:g}" fill="white"/>', *parts, "</svg>", ""])
