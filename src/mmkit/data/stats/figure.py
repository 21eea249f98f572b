"""A bar chart as SVG, written by hand: one file, no library, text that can be searched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from mmkit.data.stats.describe import Description
from mmkit.data.stats.lengths import Lengths

_LABEL, _BAR, _NOTE, _LINE = 180, 420, 160, 26
_BINS = 20
_MAX_LABEL = 28


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: its name, how long it is (not negative), and what stands behind it."""

    label: str
    value: float
    note: str


def figure(rows: Sequence[Description]) -> str:
    """Of several sets the tokens of each (rows where no model counted), of one how long its rows are. SVG."""
    sets = [row for row in rows if row.part.axis is None]
    counted = all(row.model is not None for row in sets)
    if len(sets) != 1:
        return chart("Training tokens" if counted else "Rows", [_of_set(row, counted) for row in sets])
    tally = sets[0].tally
    what, lengths = ("Tokens", tally.tokens) if counted else ("Words", tally.words)
    return chart(f"{what} of a row: {sets[0].part.set}", histogram(lengths))


def _of_set(row: Description, counted: bool) -> Bar:
    value = row.tally.tokens.total if counted else row.tally.rows
    more = "" if row.relative_percent is None else f" ({row.relative_percent:+.2f} %)"
    return Bar(row.part.set, value, f"{value:,}{more}")


def histogram(lengths: Lengths) -> list[Bar]:
    """The lengths in at most 20 bins of one width, each with the number of its rows."""
    counts = lengths.histogram()
    if not counts:
        return []
    least, greatest = counts[0][0], counts[-1][0]
    width = max(1, math.ceil((greatest - least + 1) / _BINS))
    bins = [0] * ((greatest - least) // width + 1)
    for length, count in counts:
        bins[(length - least) // width] += count
    return [Bar(_span(least + i * width, width), count, f"{count:,}") for i, count in enumerate(bins)]


def _span(first: int, width: int) -> str:
    return f"{first:,}" if width == 1 else f"{first:,}–{first + width - 1:,}"


def chart(title: str, bars: Sequence[Bar]) -> str:
    """The bars below each other, their lengths in proportion to the longest. Any text is escaped."""
    most = max((bar.value for bar in bars), default=0) or 1
    height = _LINE * (len(bars) + 2)
    width = _LABEL + _BAR + _NOTE
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="10" y="{_LINE - 6}" font-weight="bold">{_text(title, 80)}</text>',
    ]
    for number, bar in enumerate(bars, 1):
        top = _LINE * number + 6
        length = _BAR * bar.value / most
        lines += [
            f'<text x="{_LABEL - 8}" y="{top + 14}" text-anchor="end">{_text(bar.label, _MAX_LABEL)}</text>',
            f'<rect x="{_LABEL}" y="{top}" width="{length:.2f}" height="{_LINE - 8}" fill="#4878a8"/>',
            f'<text x="{_LABEL + length + 6:.2f}" y="{top + 14}">{_text(bar.note, _MAX_LABEL)}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def _text(text: str, limit: int) -> str:
    """XML text; what XML cannot hold, and what is not seen, as a question mark."""
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    return escape("".join(c if c.isprintable() else "?" for c in shown))
