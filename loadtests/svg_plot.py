"""Line charts as SVG: panels above each other that share the horizontal axis. For figures that are kept beside their numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

WIDTH, PANEL_HEIGHT, LEFT, RIGHT, TOP, GAP, BOTTOM = 960, 150, 70, 190, 46, 34, 44
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#17becf", "#7f7f7f", "#e377c2", "#bcbd22")
Points = Sequence[tuple[float, float]]


class Panel(NamedTuple):
    """One chart: lines by name, and the unit of its axis."""

    title: str
    unit: str
    lines: dict[str, Points]


def chart(title: str, x_label: str, panels: Sequence[Panel], *, marks: Iterable[float] = ()) -> str:
    """The SVG text. `marks`: instants that get a thin vertical line in every panel. At least one point is needed."""
    xs = [x for panel in panels for points in panel.lines.values() for x, _ in points]
    low, high = min(xs), max(xs)
    span = (high - low) or 1.0
    height = TOP + len(panels) * (PANEL_HEIGHT + GAP) + BOTTOM
    inner = WIDTH - LEFT - RIGHT

    def across(x: float) -> float:
        return LEFT + (x - low) / span * inner

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{LEFT}" y="20" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    for n, panel in enumerate(panels):
        top = TOP + n * (PANEL_HEIGHT + GAP)
        parts += _panel(panel, top, across, [mark for mark in marks if low <= mark <= high])
    foot = TOP + len(panels) * (PANEL_HEIGHT + GAP) - GAP
    for tick in _ticks(low, high, 8):
        x = across(tick)
        parts.append(f'<text x="{x:.1f}" y="{foot + 14}" text-anchor="middle">{_number(tick)}</text>')
    parts.append(f'<text x="{LEFT + inner / 2}" y="{foot + 32}" text-anchor="middle">{escape(x_label)}</text></svg>')
    return "\n".join(parts) + "\n"


def _panel(panel: Panel, top: float, across: object, marks: Sequence[float]) -> list[str]:
    assert callable(across)
    peak = max((y for points in panel.lines.values() for _, y in points), default=0.0) or 1.0
    ticks = _ticks(0.0, peak, 4)
    ceiling = max(peak * 1.05, ticks[-1])
    right = WIDTH - RIGHT

    def down(y: float) -> float:
        return top + PANEL_HEIGHT - y / ceiling * PANEL_HEIGHT

    parts = [f'<text x="{LEFT}" y="{top - 6}" font-weight="bold">{escape(panel.title)} ({escape(panel.unit)})</text>']
    for tick in ticks:
        y = down(tick)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for mark in marks:
        x = across(mark)
        parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{top + PANEL_HEIGHT}" stroke="#f3c6c6"/>')
    for n, (name, points) in enumerate(panel.lines.items()):
        colour = COLOURS[n % len(COLOURS)]
        path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.4"/>')
        y = top + 10 + n * 14
        parts.append(
            f'<line x1="{right + 10}" y1="{y - 4}" x2="{right + 26}" y2="{y - 4}" stroke="{colour}" stroke-width="3"/>'
        )
        parts.append(f'<text x="{right + 31}" y="{y}">{escape(name)}</text>')
    return parts


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers within [low, high]."""
    span = (high - low) or 1.0
    raw = span / about
    base = 10.0 ** math.floor(math.log10(raw))
    step = next(base * factor for factor in (1, 2, 2.5, 5, 10) if base * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    if abs(value) >= 10_000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:g}"
