"""Plots over any quantity as SVG text, for pages that carry everything themselves. Pure.

Beside `plots`, which has time on its x axis: here axes are linear, logarithmic or categories. Colours are
CSS classes of the page (`web/templates/_style.html`): `paint-KIND` fills, `line KIND` draws, `dot KIND`
marks; each kind has a shape or dash of its own as well. Every mark has a `<title>`, which browsers show
under the pointer and screen readers read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from d3bed.lab.plots import ticks

__all__ = ["Axis", "Chart", "log_ticks", "symbol"]

WIDTH = 960.0
_LEFT, _RIGHT, _TOP = 62.0, 24.0, 20.0

#: Over a smaller range a logarithmic axis has even steps.
_EVEN = 3.5

Point = tuple[float, float]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within the range; powers alone over more than three of them, even steps
    over less than half of one."""
    if high / low < _EVEN:
        return ticks(low, high, 6)
    steps = (1,) if math.log10(high / low) > 3 else (1, 2, 5)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    all_ticks = [step * 10.0**exponent for exponent in exponents for step in steps]
    return [tick for tick in all_ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]


@dataclass(frozen=True)
class Axis:
    """From `low` to `high` (both > 0 if `log`). With `names`, whole numbers from 0 on are categories."""

    label: str
    low: float
    high: float
    log: bool = False
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, label: str, values: Iterable[float], *, log: bool = False, room: float = 1.08) -> Axis:
        """Wide enough for the values; a linear one begins at 0."""
        known = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
        high = max(known)
        if not log:
            return cls(label, 0.0, high * room or 1.0)
        low = min(known)
        low, high = (low / 2, high * 2) if high <= low * (1 + 1e-9) else (low, high)
        return cls(label, low / room, high * room, log=True)

    def share(self, value: float) -> float:
        """0 to 1 along the axis; what is outside is put at the end."""
        if self.log:
            span = math.log(self.high / self.low)
            value = math.log(max(value, self.low) / self.low) / span if span else 0.0
        else:
            value = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.0
        return min(1.0, max(0.0, value))

    @property
    def ticks(self) -> list[float]:
        if self.names:
            return [float(number) for number in range(len(self.names))]
        return log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high, 8)


class Chart:
    def __init__(self, name: str, x: Axis, y: Axis, height: float = 320.0) -> None:
        self._name, self._x, self._y, self._height = name, x, y, height
        self._bottom = 96.0 if x.names else 46.0
        self._parts: list[str] = []
        self._axes()

    def x(self, value: float) -> float:
        return _LEFT + self._x.share(value) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return self._height - self._bottom - self._y.share(value) * (self._height - self._bottom - _TOP)

    def _axes(self) -> None:
        base, right = self._height - self._bottom, WIDTH - _RIGHT
        for tick in self._y.ticks:
            y = self.y(tick)
            self._parts.append(f'<path class="grid" d="M{_LEFT:g} {y:.1f}H{right:g}"/>')
            self.text(_LEFT - 8, y + 4, f"{tick:g}", "end")
        for tick in self._x.ticks:
            x = self.x(tick)
            if self._x.names:
                name = escape(self._x.names[round(tick)])
                self._parts.append(
                    f'<text transform="translate({x + 4:.1f} {base + 12:.1f}) rotate(-38)"'
                    f' text-anchor="end">{name}</text>'
                )
            else:
                self._parts.append(f'<path class="tick" d="M{x:.1f} {base:.1f}v5"/>')
                self.text(x, base + 19, f"{tick:g}", "middle")
        self._parts.append(f'<path class="axis" d="M{_LEFT:g} {base:.1f}H{right:g}"/>')
        self._parts.append(
            f'<text class="unit" transform="translate(14 {(base + _TOP) / 2:.1f}) rotate(-90)"'
            f' text-anchor="middle">{escape(self._y.label)}</text>'
        )
        if self._x.label:
            self.text((_LEFT + right) / 2, self._height - 6, self._x.label, "middle")

    def text(self, x: float, y: float, words: str, anchor: str = "start") -> None:
        """At a place in pixels."""
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>')

    def line(self, points: Sequence[Point], kind: str, title: str = "") -> None:
        path = " ".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)
        if path:
            self._parts.append(f'<path class="line {kind}" d="M{path}">{_title(title)}</path>')

    def dot(self, x: float, y: float, kind: str, title: str = "", shift: float = 0.0) -> None:
        """`shift`: so many pixels to the right."""
        mark = symbol(kind, self.x(x) + shift, self.y(y))
        self._parts.append(f"<g>{_title(title)}{mark}</g>")

    def whisker(self, x: float, low: float, high: float, kind: str, shift: float = 0.0) -> None:
        """An upright line between two values."""
        at = self.x(x) + shift
        self._parts.append(f'<path class="line {kind}" d="M{at:.1f} {self.y(low):.1f}V{self.y(high):.1f}"/>')

    def bar(
        self, x: float, low: float, high: float, kind: str, title: str, shift: float, width: float
    ) -> None:
        """From `low` to `high` (either way round); place and width in pixels around `x`."""
        top, bottom = sorted((self.y(low), self.y(high)))
        left, tall = self.x(x) + shift - width / 2, max(1.0, bottom - top)
        self._parts.append(
            f'<rect class="paint-{kind}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}"'
            f' height="{tall:.1f}">{_title(title)}</rect>'
        )

    def level(self, y: float, label: str = "") -> None:
        """A line at one value, over the whole width."""
        at = self.y(y)
        self._parts.append(f'<path class="axis level" d="M{_LEFT:g} {at:.1f}H{WIDTH - _RIGHT:g}"/>')
        if label:
            self.text(WIDTH - _RIGHT, at - 5, label, "end")

    def upright(self, x: float, title: str, label: str = "") -> None:
        """A line at one place, over the whole height."""
        at, base = self.x(x), self._height - self._bottom
        self._parts.append(
            f'<g class="mark change">{_title(title)}<path class="wide" d="M{at:.1f} {_TOP}V{base:.1f}"/>'
            f'<path d="M{at:.1f} {_TOP}V{base:.1f}"/></g>'
        )
        if label:
            self.text(at + 4, _TOP + 9, label)

    @property
    def svg(self) -> str:
        return (
            f'<svg class="plot" viewBox="0 0 {WIDTH:g} {self._height:g}" role="img"'
            f' aria-label="{escape(self._name)}">{"".join(self._parts)}</svg>'
        )


#: Where the corners of each shape are, from its middle.
_SHAPES = {
    "a": "M0 -5A5 5 0 1 0 0.01 -5Z",
    "b": "M-4.5 -4.5H4.5V4.5H-4.5Z",
    "c": "M0 -6L5.5 4.5H-5.5Z",
    "d": "M0 -6L6 0L0 6L-6 0Z",
    "e": "M0 6L5.5 -4.5H-5.5Z",
    "f": "M-5 -1.6H-1.6V-5H1.6V-1.6H5V1.6H1.6V5H-1.6V1.6H-5Z",
}
_SHAPE_OF = {
    "ours": "a",
    "other": "b",
    "device": "c",
    "edge": "d",
    "cloud": "e",
    "published": "f",
}


def symbol(kind: str, x: float, y: float) -> str:
    """A mark of this kind, as SVG."""
    shape = _SHAPES[_SHAPE_OF.get(kind, "a")]
    return f'<path class="dot {kind}" transform="translate({x:.1f} {y:.1f})" d="{shape}"/>'


def _title(words: str) -> str:
    return f"<title>{escape(words)}</title>" if words else ""
