"""A radar figure as SVG, written by hand: an axis each test set, a closed line each method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_RADIUS, _LEFT, _TOP, _WIDTH, _HEIGHT, _LINE = 190, 330, 270, 820, 500, 22
_RINGS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Method:
    """A method's name and line: an SVG colour, and its dashes ("" is solid)."""

    label: str
    colour: str
    dashes: str


def radar(title: str, axes: Sequence[str], lines: Mapping[Method, Sequence[float]]) -> str:
    """SVG. Each method has a value from 0 (the centre) to 1 (the rim) for each axis. Any text is escaped."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="10" y="24" font-weight="bold">{_text(title, 90)}</text>',
        *(f'<circle cx="{_LEFT}" cy="{_TOP}" r="{ring * _RADIUS:g}" fill="none" stroke="#ccc"/>' for ring in _RINGS),
    ]
    for number, axis in enumerate(axes):
        x, y = _point(number, len(axes), 1)
        label_x, label_y = _point(number, len(axes), 1.08)
        side = "middle" if abs(x - _LEFT) < 1 else "start" if x > _LEFT else "end"
        parts += [
            f'<line x1="{_LEFT}" y1="{_TOP}" x2="{x:.1f}" y2="{y:.1f}" stroke="#ccc"/>',
            f'<text x="{label_x:.1f}" y="{label_y + 4:.1f}" text-anchor="{side}">{_text(axis, 18)}</text>',
        ]
    for number, (method, values) in enumerate(lines.items()):
        points = (_point(place, len(axes), value) for place, value in enumerate(values))
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        look = f'fill="none" stroke="{method.colour}" stroke-width="2" stroke-dasharray="{method.dashes or "none"}"'
        left, height = _WIDTH - 150, 60 + _LINE * number
        parts += [
            f'<polygon points="{corners}" {look}/>',
            f'<line x1="{left}" y1="{height - 4}" x2="{left + 34}" y2="{height - 4}" {look}/>',
            f'<text x="{left + 42}" y="{height}">{_text(method.label, 16)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _point(number: int, count: int, radius: float) -> tuple[float, float]:
    """Where a value stands on an axis; the first points up, the others follow clockwise."""
    angle = 2 * math.pi * number / count
    return _LEFT + radius * _RADIUS * math.sin(angle), _TOP - radius * _RADIUS * math.cos(angle)


def _text(text: str, limit: int) -> str:
    """XML text; what XML cannot hold, and what is not seen, as a question mark."""
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    return escape("".join(c if c.isprintable() else "?" for c in shown))
