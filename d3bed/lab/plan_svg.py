"""Pictures of plans as SVG text: the graph coloured by tier, and costs over a link's rate. Pure.

Vertices stand where the dashboard has them (`server/layout`). Colour always comes with a second cue: a
tier has its own outline, a line its own dashes and its name beside it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from html import escape

from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex
from d3bed.core.ids import TIERS, Tier
from d3bed.plan import Problem, Solution
from d3bed.plan.neurosurgeon import framework_order
from d3bed.plan.problem import EDGE_CLOUD
from d3bed.plan.sweep import Band, Sweep
from d3bed.server.layout import ROW_GAP, Node, layout

__all__ = ["graph_svg", "sweep_svg"]

#: As on the dashboard's light page.
_COLOURS = {Tier.DEVICE: "#2f8fd6", Tier.EDGE: "#ee9a22", Tier.CLOUD: "#a876df"}
_INK, _MUTED, _PAPER = "#1d2733", "#66717f", "#ffffff"

#: Graphs of at most so many vertices carry names, others numbers.
_NAMED = 45
_MARGIN, _HEAD = 28, 104
#: Keeps words apart from the lines that they stand on.
_HALO: dict[str, str | float] = {"stroke": _PAPER, "stroke_width": 3, "paint_order": "stroke"}


def _document(width: float, height: float, title: str, parts: Iterator[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="system-ui, sans-serif" font-size="12" '
        f'fill="{_INK}">\n<title>{escape(title)}</title>\n'
        f'<rect width="100%" height="100%" fill="{_PAPER}"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _text(x: float, y: float, words: str, **attributes: str | float) -> str:
    given = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in attributes.items())
    return f'<text x="{x:.1f}" y="{y:.1f}"{given}>{escape(words)}</text>'


# ── the graph ─────────────────────────────────────────────────────────────────────────────────────


def graph_svg(problem: Problem, solution: Solution, about: str) -> str:
    """The graph with every vertex in its tier's colour and outline, and what crosses links marked."""
    return _Picture(problem, solution).document(about)


class _Picture:
    def __init__(self, problem: Problem, solution: Solution) -> None:
        self.problem, self.solution = problem, solution
        self.order = framework_order(problem)
        graph = _graph(problem, self.order)
        placed = layout(graph)
        self.nodes: list[Node] = placed["nodes"]
        self.named = len(problem.names) <= _NAMED
        # On a single lane names stand above and below in turn, and have two columns' width each.
        single = placed["height"] == 1
        self.pitch = (62.0 if single else 80.0) if self.named else 40.0
        self.letters = 19 if single else 14
        self.lane = 62.0 if self.named else 30.0
        self.radius = 13.0 if self.named else 11.0
        self.width = max(placed["width"] * self.pitch + 2 * _MARGIN, 620.0)
        self.height = placed["height"] * self.lane + _HEAD + _MARGIN + (18 if self.named else 0)
        self.edges = [(edge.producer, edge.consumer) for edge in graph.edges]
        self.turns = {p for p, c in self.edges if self.nodes[c]["x"] == 0}
        row = [0] * len(self.nodes)
        for p, c in self.edges:
            row[c] = max(row[c], row[p] + (p in self.turns))
        self.row = row
        self.tops: dict[int, float] = {}
        for n, node in enumerate(self.nodes):
            self.tops[row[n]] = min(self.tops.get(row[n], node["y"]), node["y"])

    def document(self, about: str) -> str:
        solution = self.solution
        title = f"{solution.strategy}: {solution.cost_s * 1e3:.1f} ms a frame"
        width = max(self.width, 2 * _MARGIN + 6.8 * len(about))
        return _document(width, self.height, f"{about} — {title}", self._parts(title, about))

    def _parts(self, title: str, about: str) -> Iterator[str]:
        yield _text(_MARGIN, 28, title, font_size=15, font_weight=600)
        yield _text(_MARGIN, 47, about, fill=_MUTED)
        yield from self._legend()
        tiers = self.solution.tiers
        crossing = [(p, c) for p, c in self.edges if tiers[self.order[p]] is not tiers[self.order[c]]]
        for p, c in self.edges:
            if (p, c) not in crossing:
                yield f'<path d="{self._path(p, c)}" fill="none" stroke="#b5bfca"/>'
        for p, c in crossing:
            colour = _COLOURS[tiers[self.order[c]]]
            yield (
                f'<path d="{self._path(p, c)}" fill="none" stroke="{colour}" stroke-width="2.5" '
                'stroke-dasharray="6 3"/>'
            )
        for n in range(len(self.nodes)):
            yield self._vertex(n)
        for p in sorted({p for p, _ in crossing}):
            yield self._label(p)

    def _legend(self) -> Iterator[str]:
        x = float(_MARGIN)
        tiers = self.solution.tiers
        for tier in self.problem.tiers:
            mine = [v for v, t in enumerate(tiers) if t is tier]
            compute_s = sum(self.problem.times_s[tier][v] for v in mine)
            words = f"{tier}: {len(mine)} vertices, {compute_s * 1e3:.1f} ms"
            yield f'<g transform="translate({x + 9:.1f} 69)">{_outline(tier, 8)}</g>'
            yield _text(x + 24, 73, words)
            x += 48 + 6.4 * len(words)
        sent = [
            f"{link}{' (backbone)' if link == EDGE_CLOUD else ''} {size / 1e3:.1f} kB"
            for link, size in self.solution.link_bytes.items()
        ]
        yield _text(_MARGIN, 94, f"a frame sends: {', '.join(sent) or 'nothing'}", fill=_MUTED)

    def _x(self, column: float) -> float:
        return _MARGIN + (column + 0.5) * self.pitch

    def _y(self, lane: float) -> float:
        return _HEAD + (lane + 0.5) * self.lane

    def _vertex(self, n: int) -> str:
        v, node = self.order[n], self.nodes[n]
        tier = self.solution.tiers[v]
        problem = self.problem
        details = (
            f"{problem.names[v]}: {tier}, {problem.times_s[tier][v] * 1e3:.3f} ms, "
            f"{problem.output_bytes[v] / 1e3:.1f} kB out"
        )
        mark = _text(0, 4, str(v), text_anchor="middle", font_size=9 if v < 1000 else 7, fill="#10161d")
        name = ""
        if self.named:
            side = -20 if self._name_above(n) else 28
            name = _text(
                0, side, _clip(problem.names[v], self.letters), text_anchor="middle", font_size=10, **_HALO
            )
        return (
            f'<g transform="translate({self._x(node["x"]):.1f} {self._y(node["y"]):.1f})">'
            f"<title>{escape(details)}</title>{_outline(tier, self.radius)}{mark}{name}</g>"
        )

    def _name_above(self, n: int) -> bool:
        """Away from the middle of its row; in turn where the vertex is in the middle."""
        node = self.nodes[n]
        lanes = [other["y"] for other, row in zip(self.nodes, self.row, strict=True) if row == self.row[n]]
        off = node["y"] - statistics.median(lanes)
        return off < 0 if abs(off) > 0.1 else bool(node["x"] % 2)

    def _label(self, n: int) -> str:
        """How much a tensor that crosses a link has, above its vertex."""
        v, node = self.order[n], self.nodes[n]
        size = self.problem.output_bytes[v]
        words = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
        x, y = self._x(node["x"]), self._y(node["y"])
        # Between two named vertices, over the line; in the crowd of a big graph, over the vertex.
        x, y = (x + self.pitch / 2, y - 6) if self.named else (x, y - self.radius - 3)
        return _text(
            x,
            y,
            words,
            text_anchor="middle",
            font_size=9,
            font_weight=700,
            **_HALO,
        )

    def _path(self, p: int, c: int) -> str:
        """From vertex to vertex, along the producer's trail; at the end of a row, down to the next."""
        here, there = self.nodes[p], self.nodes[c]
        turned = p in self.turns
        first = 0 if turned else here["x"] + 1
        trail = [
            (self._x(first + n), self._y(y))
            for n, y in enumerate(here["trail"][: max(0, there["x"] - first)])
        ]
        start = (self._x(here["x"]), self._y(here["y"]))
        end = (self._x(there["x"]), self._y(there["y"]))
        if not turned:
            return _curve([start, *trail, end])
        between = self._y(self.tops[self.row[c]] - ROW_GAP / 2 - 0.5)
        right, left = self.width - _MARGIN / 2, _MARGIN / 2
        entry = (trail or [end])[0][1]
        down = f"M{start[0]:.1f} {start[1]:.1f}H{right:.1f}V{between:.1f}H{left:.1f}V{entry:.1f}"
        return down + _curve([(left, entry), *trail, end]).replace("M", "L", 1)


def _graph(problem: Problem, order: Sequence[int]) -> Graph:
    """What the layout needs of a problem: vertices in `order`, and edges."""
    number = {v: n for n, v in enumerate(order)}
    vertices = tuple(
        Vertex(problem.names[v], "input" if n == 0 else "layer", (TensorSpec((), "uint8"),))
        for n, v in enumerate(order)
    )
    edges = tuple(sorted((number[a], number[b]) for a, b in problem.edges))
    results = tuple(Value(number[v]) for v in problem.sinks)
    return Graph("problem", vertices, tuple(Edge(a, b) for a, b in edges), results)


def _outline(tier: Tier, r: float) -> str:
    """A square for the device, a circle for the edge, a hexagon for the cloud."""
    paint = f'fill="{_COLOURS[tier]}" stroke="{_PAPER}"'
    if tier is Tier.DEVICE:
        half, side = f"{-r * 0.9:.1f}", f"{r * 1.8:.1f}"
        return f'<rect x="{half}" y="{half}" width="{side}" height="{side}" {paint}/>'
    if tier is Tier.EDGE:
        return f'<circle r="{r:.1f}" {paint}/>'
    corners = [(r * 1.1 * math.cos(a * math.pi / 3), r * 1.1 * math.sin(a * math.pi / 3)) for a in range(6)]
    return f'<path d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in corners)}Z" {paint}/>'


def _clip(name: str, most: int) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _curve(points: Sequence[tuple[float, float]]) -> str:
    """Through `points`, level at each of them."""
    (x, y), *others = points
    path = f"M{x:.1f} {y:.1f}"
    for there_x, there_y in others:
        middle = (x + there_x) / 2
        path += (
            f"H{there_x:.1f}"
            if there_y == y
            else f"C{middle:.1f} {y:.1f} {middle:.1f} {there_y:.1f} {there_x:.1f} {there_y:.1f}"
        )
        x, y = there_x, there_y
    return path


# ── the sweep ─────────────────────────────────────────────────────────────────────────────────────

_PLOT = {"left": 70.0, "top": 96.0, "width": 640.0, "height": 340.0}
_DASHES = ("", "7 4", "2 3", "9 3 2 3", "4 4", "12 4", "1 4", "6 2 1 2 1 2")
_LINES = {
    "optimal": _INK,
    "device": _COLOURS[Tier.DEVICE],
    "edge": _COLOURS[Tier.EDGE],
    "cloud": _COLOURS[Tier.CLOUD],
}
_OTHERS = ("#2a8f5b", "#c0392b", "#00838f", "#8d6e63", "#5c6bc0", "#827717")


def sweep_svg(sweep: Sweep, about: str) -> str:
    """Cost over the link's rate, both logarithmic, one line per strategy; bands where one plan wins."""
    return _document(960, 500, f"{about}: sweep of {sweep.link}", _plot(sweep, about))


def _plot(sweep: Sweep, about: str) -> Iterator[str]:
    left, top, width, height = (_PLOT[key] for key in ("left", "top", "width", "height"))
    rates = sweep.rates
    finite = [cost for costs in sweep.costs_s.values() for cost in costs if cost]
    low, high = (min(finite), max(finite)) if finite else (1e-3, 1.0)
    low, high = low / 1.15, high * 1.15

    def x(rate: float) -> float:
        return left + width * math.log(rate / rates[0]) / math.log(rates[-1] / rates[0])

    def y(cost_s: float) -> float:
        return top + height * (1 - math.log(max(cost_s, low) / low) / math.log(high / low))

    yield _text(28, 26, f"which plan wins at which rate of {sweep.link}", font_size=15, font_weight=600)
    yield _text(28, 44, about, fill=_MUTED)
    yield from _shade(sweep.bands, x)
    for tick in _ticks(rates[0] * 8 / 1e6, rates[-1] * 8 / 1e6):
        at = x(tick * 1e6 / 8)
        yield f'<path d="M{at:.1f} {top}V{top + height}" stroke="#00000014"/>'
        yield _text(at, top + height + 18, f"{tick:g}", text_anchor="middle")
    yield _text(left + width / 2, top + height + 40, f"{sweep.link}, Mbit/s", text_anchor="middle")
    for tick in _ticks(low * 1e3, high * 1e3):
        at = y(tick / 1e3)
        yield f'<path d="M{left} {at:.1f}H{left + width}" stroke="#00000014"/>'
        yield _text(left - 8, at + 4, f"{tick:g}", text_anchor="end")
    yield _text(
        0, 0, "ms a frame", text_anchor="middle", transform=f"translate(22 {top + height / 2}) rotate(-90)"
    )
    yield f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="{_MUTED}"/>'
    others = iter(_OTHERS * len(sweep.costs_s))
    # The optimum last, on top of what it equals.
    names = sorted(sweep.costs_s, key=lambda name: name == "optimal")
    for n, name in enumerate(names):
        colour = _LINES.get(name) or next(others)
        best = name == "optimal"
        stroke = f'stroke="{colour}" stroke-width="{3 if best else 1.8}"'
        dashes = "" if best else f' stroke-dasharray="{_DASHES[(n + 1) % len(_DASHES)]}"'
        path, pen = "", "M"
        for rate, cost in zip(rates, sweep.costs_s[name], strict=True):
            if cost is None:
                pen = "M"
                continue
            path += f"{pen}{x(rate):.1f} {y(cost):.1f}"
            pen = "L"
        yield f'<path d="{path}" fill="none" {stroke}{dashes}/>'
        row = top + 14 + 22 * (len(names) - 1 - n)
        yield f'<path d="M{left + width + 16} {row}h34" fill="none" {stroke}{dashes}/>'
        words = f"{name} (= optimal)" if not best and _same(sweep, name) else name
        yield _text(left + width + 58, row + 4, words, font_weight=600 if best else 400)


def _same(sweep: Sweep, name: str) -> bool:
    """Whether a strategy costs what the optimum does all over: its line is under the other one."""
    pairs = zip(sweep.costs_s[name], sweep.costs_s.get("optimal", ()), strict=True)
    return all(a == b or (a and b and math.isclose(a, b, rel_tol=1e-6)) for a, b in pairs)


def _shade(bands: Sequence[Band], x: Callable[[float], float]) -> Iterator[str]:
    """Alternating grounds, with how many vertices each tier has where there is room for it."""
    top, height = _PLOT["top"], _PLOT["height"]
    for n, band in enumerate(bands):
        start, end = x(band.low), x(band.high)
        words = "no plan"
        if band.tiers is not None:
            words = " · ".join(str(sum(t is tier for t in band.tiers)) for tier in TIERS)
        if n % 2 == 0:
            place = f'x="{start:.1f}" y="{top}" width="{end - start:.1f}" height="{height}"'
            yield f'<rect {place} fill="#eef2f6"/>'
        yield f'<path d="M{start:.1f} {top - 6}V{top + height}" stroke="#00000030"/>'
        if end - start > 6.2 * len(words):
            yield _text((start + end) / 2, top - 8, words, text_anchor="middle", font_size=11)
    yield _text(
        _PLOT["left"],
        top - 30,
        "vertices on device · edge · cloud in the plan that wins:",
        fill=_MUTED,
        font_size=11,
    )


def _ticks(low: float, high: float) -> Iterator[float]:
    """1, 2 and 5 times powers of ten within the range; powers alone over more than three of them."""
    steps = (1,) if math.log10(high / low) > 3 else (1, 2, 5)
    for exponent in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for step in steps:
            tick = step * 10.0**exponent
            if low <= tick <= high:
                yield tick
