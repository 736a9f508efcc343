"""Small plots as SVG text, for pages that carry everything themselves. Pure.

Colours are CSS classes of the page (`web/templates/report.html`), so that a plot follows its light or dark
scheme; a tier has a texture as well, a line its dashes. Every mark has a `<title>`, which browsers show
under the pointer and screen readers read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["Plot", "bars", "clock", "ticks"]

_WIDTH = 960.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 14.0, 14.0, 34.0
#: About how wide one of a label is.
_LETTER = 9.0

Point = tuple[float, float]


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from `low` to `high`, at most about `most`: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def clock(seconds: float) -> str:
    """Time since the start: `4.2 s` when short, else `m:ss` or `h:mm:ss`."""
    if seconds < 10 and seconds != int(seconds):
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Plot:
    """One plot over time. `x` are seconds, `y` any number from 0 to `top`; `unit` labels the y axis."""

    def __init__(self, name: str, seconds: tuple[float, float], top: float, unit: str, height: float) -> None:
        self._name, self._unit, self._height = name, unit, height
        self._low, self._high = seconds if seconds[1] > seconds[0] else (seconds[0], seconds[0] + 1.0)
        self._top = top if top > 0 else 1.0
        self._parts: list[str] = []
        self._labelled = 0.0
        self._axes()

    def x(self, seconds: float) -> float:
        share = (seconds - self._low) / (self._high - self._low)
        return _LEFT + min(1.0, max(0.0, share)) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = min(1.0, max(0.0, value / self._top))
        return self._height - _BOTTOM - share * (self._height - _TOP - _BOTTOM)

    def _axes(self) -> None:
        base = self.y(0)
        for value in ticks(0, self._top, 5):
            y = self.y(value)
            self._parts.append(f'<path class="grid" d="M{_LEFT:g} {y:.1f}H{_WIDTH - _RIGHT:g}"/>')
            self._text(_LEFT - 8, y + 4, f"{value:g}", "end")
        for seconds in ticks(self._low, self._high, 10):
            x = self.x(seconds)
            self._parts.append(f'<path class="tick" d="M{x:.1f} {base:.1f}v5"/>')
            self._text(x, base + 19, clock(seconds), "middle")
        self._parts.append(f'<path class="axis" d="M{_LEFT:g} {base:.1f}H{_WIDTH - _RIGHT:g}"/>')
        self._parts.append(
            f'<text class="unit" transform="translate(14 {(base + _TOP) / 2:.1f}) rotate(-90)"'
            f' text-anchor="middle">{escape(self._unit)}</text>'
        )

    def _text(self, x: float, y: float, words: str, anchor: str) -> None:
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>')

    def dots(self, points: Iterable[Point], kind: str) -> None:
        """A dot each, as one path: a page with thousands of elements is slow."""
        path = "".join(f"M{self.x(x):.1f} {self.y(y):.1f}h0" for x, y in points)
        self._parts.append(f'<path class="dots {kind}" d="{path}"/>')

    def line(self, points: Sequence[Point], kind: str, title: str = "") -> None:
        if len(points) == 1:
            self.dots(points, kind)
            return
        path = " ".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)
        self._parts.append(f'<path class="line {kind}" d="M{path}">{_title(title)}</path>')

    def band(self, rows: Sequence[tuple[float, float, float]], kind: str) -> None:
        """Between two values at each x."""
        there = [f"{self.x(x):.1f} {self.y(high):.1f}" for x, _, high in rows]
        back = [f"{self.x(x):.1f} {self.y(low):.1f}" for x, low, _ in reversed(rows)]
        self._parts.append(f'<path class="band {kind}" d="M{" ".join(there + back)}Z"/>')

    def stack(
        self, start_s: float, end_s: float, shares: Iterable[tuple[str, float]], title: str, gap: float
    ) -> None:
        """A column of shares, the first at the bottom. `gap`: pixels that are left free beside it."""
        left, right = self.x(start_s), self.x(end_s)
        width = max(0.5, right - left - gap)
        self._parts.append(f"<g>{_title(title)}")
        below = 0.0
        for kind, value in shares:
            low, high = self.y(below), self.y(below + value)
            below += value
            if low - high > 0.05:
                self._parts.append(
                    f'<rect class="paint-{kind}" x="{left:.1f}" y="{high:.1f}" width="{width:.1f}"'
                    f' height="{low - high:.1f}"/>'
                )
        self._parts.append("</g>")

    def mark(self, seconds: float, kind: str, title: str, label: str = "", *, brief: bool = False) -> None:
        """An upright line, with a label at its upper end where the last one leaves room; a `brief` one
        crosses nothing of the plot. Ask in order."""
        x, base = self.x(seconds), _TOP - 2 if brief else self.y(0)
        top = 2 if brief else _TOP
        self._parts.append(
            f'<g class="mark {kind}">{_title(title)}<path class="wide" d="M{x:.1f} {top:g}V{base:.1f}"/>'
            f'<path d="M{x:.1f} {top:g}V{base:.1f}"/>'
        )
        width = _LETTER * len(label)
        anchor, offset = ("end", -4) if x > _WIDTH - 60 else ("start", 4)
        left = x + offset - (width if anchor == "end" else 0)
        if label and left > self._labelled:
            self._text(x + offset, _TOP + 9, label, anchor)
            self._labelled = left + width
        self._parts.append("</g>")

    @property
    def svg(self) -> str:
        return (
            f'<svg class="plot" viewBox="0 0 {_WIDTH:g} {self._height:g}" role="img"'
            f' aria-label="{escape(self._name)}">{"".join(self._parts)}</svg>'
        )


def bars(name: str, rows: Sequence[tuple[str, float, str, str]]) -> str:
    """Lying bars: label, value, words beside the bar, kind."""
    label_width, words_width, row_height = 190.0, 190.0, 26.0
    top = max((value for _, value, _, _ in rows), default=0.0) or 1.0
    height = row_height * len(rows) + 8
    parts = []
    for number, (label, value, words, kind) in enumerate(rows):
        y = 4 + number * row_height
        width = max(1.0, (_WIDTH - label_width - words_width) * value / top)
        parts.append(
            f"<g>{_title(f'{label}: {words}')}"
            f'<text x="{label_width - 10:g}" y="{y + 17:.1f}" text-anchor="end">{escape(label)}</text>'
            f'<rect class="paint-{kind}" x="{label_width:g}" y="{y + 4:.1f}" width="{width:.1f}"'
            f' height="18"/>'
            f'<text x="{label_width + width + 8:.1f}" y="{y + 17:.1f}">{escape(words)}</text></g>'
        )
    return (
        f'<svg class="plot" viewBox="0 0 {_WIDTH:g} {height:g}" role="img" aria-label="{escape(name)}">'
        f"{''.join(parts)}</svg>"
    )


def _title(words: str) -> str:
    return f"<title>{escape(words)}</title>" if words else ""
