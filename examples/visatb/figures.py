"""Two figures as SVG, written by hand: contributions between tasks as a heat map, difficulties as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

_CELL, _LEFT, _TOP = 76, 130, 80
_BAR, _HEIGHT = 40, 220
_MORE, _LESS = (31, 78, 156), (200, 62, 42)
"""The colours of 1 and above, and of -1 and below; 0 is white."""


def heat_map(title: str, tasks: Sequence[str], values: Mapping[tuple[str, str], float]) -> str:
    """SVG. `values` by (giving, receiving) task: a line each that gives, a column each that receives, blue above 0 and
    red below, full at 1 and -1. A pair without a value stays empty. Any text is escaped."""
    parts = [_text(10, 24, title, limit=90, weight="bold")]
    for place, task in enumerate(tasks):
        middle = _CELL * place + _CELL // 2
        parts.append(_text(_LEFT - 8, _TOP + middle + 4, task, anchor="end"))
        parts.append(_text(_LEFT + middle, _TOP - 10, task, limit=11, anchor="middle"))
    for row, giving in enumerate(tasks):
        for column, receiving in enumerate(tasks):
            x, y, value = _LEFT + _CELL * column, _TOP + _CELL * row, values.get((giving, receiving))
            colour = "#eee" if value is None else _shade(value)
            parts.append(f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" fill="{colour}" stroke="white"/>')
            if value is not None:
                ink = "white" if abs(value) > 0.6 else "black"
                parts.append(_text(x + _CELL // 2, y + _CELL // 2 + 4, f"{value:.2f}", anchor="middle", fill=ink))
    side = _CELL * len(tasks)
    return _svg(_LEFT + side + 20, _TOP + side + 20, parts)


def bars(title: str, values: Mapping[str, float]) -> str:
    """SVG. A bar each task, from the line of 0 up or down; the axis ends at 1, or further where a value does. Any text
    is escaped."""
    top, bottom = max(1.0, *values.values()), min(0.0, *values.values())
    scale = _HEIGHT / (top - bottom)
    zero = _TOP + top * scale
    width = _LEFT + _CELL * len(values)
    parts = [_text(10, 24, title, limit=90, weight="bold")]
    for place, (task, value) in enumerate(values.items()):
        middle = _LEFT + _CELL * place + _CELL // 2
        end = zero - value * scale
        parts.append(
            f'<rect x="{middle - _BAR // 2}" y="{min(zero, end):.1f}" width="{_BAR}" height="{abs(end - zero):.1f}" '
            f'fill="rgb{_MORE}"/>'
        )
        parts.append(_text(middle, min(zero, end) - 6, f"{value:.2f}", anchor="middle"))
        parts.append(_text(middle, _TOP + _HEIGHT + 22, task, limit=11, anchor="middle"))
    parts.append(f'<line x1="{_LEFT}" y1="{zero:.1f}" x2="{width}" y2="{zero:.1f}" stroke="#444"/>')
    return _svg(width + 20, _TOP + _HEIGHT + 40, parts)


def _shade(value: float) -> str:
    """From white at 0 to the full colour at 1 or -1."""
    share = min(abs(value), 1)
    return f"rgb{tuple(round(255 + share * (part - 255)) for part in (_MORE if value > 0 else _LESS))}"


def _text(
    x: float,
    y: float,
    text: str,
    *,
    limit: int = 16,
    anchor: str = "start",
    weight: str = "normal",
    fill: str = "black",
) -> str:
    """XML text; what XML cannot hold, and what is not seen, as a question mark."""
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    shown = escape("".join(c if c.isprintable() else "?" for c in short))
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}" fill="{fill}">{shown}</text>'


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="sans-serif" font-size="13">'
    )
    return "\n".join([head, f'<rect width="{width:g}" height="{height:g}" fill="white"/>', *parts, "</svg>", ""])
