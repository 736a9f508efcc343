"""Which blocks of a part are tiled, how, and by whom: dynamic programming over predicted time.

At a border the map is either whole on the owner, or lies in tiles with several agents. A block from one
border to another is run by the owner alone or in tiles; its tiles are cut out of the owner's map, or made
from the tiles before them, of which agents exchange the rectangles that they lack. Tiles go back to the
owner where the whole map is needed. Agents take tiles in order, the owner the first; strips are as wide as
their agents are fast. All times come from `TileCosts` and link rates; a block is over when its last tile is.

Ways of tiling, each with what it may do:
- `vsm`: all of that.
- `aofl`: blocks of any length, but a gather after each (Zhou et al., Adaptive parallel execution of deep
  neural networks on heterogeneous edge devices, SEC 2019).
- `deepthings`: one block of the first layers, in a grid, gathered at its end (Zhao et al., DeepThings,
  TCAD 2018).
- `modnn`: one layer at a time, in strips, a gather after each (Mao et al., MoDNN, DATE 2017).

It must not know how agents are reached, nor which tier runs what.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec

from d3bed.core.errors import PlanInfeasible
from d3bed.core.graph import Graph, Value
from d3bed.core.ids import AgentId
from d3bed.core.measurements import LinkRate
from d3bed.core.plan import TiledBlock
from d3bed.core.regions import Span
from d3bed.core.tiles import Grid, Tiling, map_size, tilings_to
from d3bed.plan.vsm.costs import TileCosts
from d3bed.plan.vsm.parts import Part

__all__ = ["METHODS", "TileChoice", "choose_tiles"]

METHODS: dict[str, str] = {
    "vsm": "blocks in tiles, halos exchanged between them",
    "aofl": "fused blocks, gathered after each",
    "deepthings": "one fused block in a grid, gathered at its end",
    "modnn": "one layer at a time in strips, gathered after each",
}

#: Agents that may share a part: 2, 3, 4 and then every second number.
_FEW = 4


class TileChoice(msgspec.Struct, frozen=True):
    """The tiled blocks of a part, in order; none where the owner alone is as fast.

    `predicted_s` from having the part's source to having its sink, `alone_s` the same by the owner alone.
    """

    blocks: tuple[TiledBlock, ...]
    predicted_s: float
    alone_s: float

    @property
    def speed_up(self) -> float:
        return self.alone_s / self.predicted_s if self.predicted_s > 0 else 1.0


def choose_tiles(
    graph: Graph,
    part: Part,
    agents: Sequence[AgentId],
    costs: TileCosts,
    rates: Mapping[tuple[AgentId, AgentId], LinkRate],
    *,
    method: str = "vsm",
) -> TileChoice:
    """The fastest tiling of a part by its owner, `agents[0]`, and as many of the others as help.

    Agents without links to and from all others before them take no part. Never slower than alone.
    """
    if method not in METHODS:
        raise ValueError(f"no way of tiling named {method!r}")
    table = _Table(graph, part, agents[0], costs, rates)
    helpers = _useful(agents, part, costs, rates)
    layouts = [layout for layout in _layouts(len(helpers)) if method != "modnn" or 1 in layout]
    search = _Search(
        table, [_Layout(*shape, tuple(helpers[: math.prod(shape)])) for shape in layouts], method
    )
    return search.run()


def _useful(
    agents: Sequence[AgentId],
    part: Part,
    costs: TileCosts,
    rates: Mapping[tuple[AgentId, AgentId], LinkRate],
) -> list[AgentId]:
    """The owner, then the others, fastest first, as far as all are linked with all."""
    owner, *others = agents
    found = [owner]
    for agent in sorted(others, key=lambda a: (sum(costs.times_s[a][v] for v in part.vertices), a)):
        if all((a, b) in rates for other in found for a, b in ((agent, other), (other, agent))):
            found.append(agent)
    return found


def _layouts(count: int) -> Iterator[tuple[int, int]]:
    """Tiles down and across, for 2 … `count` agents."""
    for agents in range(2, count + 1):
        if agents <= _FEW or agents % 2 == 0 or agents == count:
            yield from ((rows, agents // rows) for rows in range(1, agents + 1) if agents % rows == 0)


@dataclass(frozen=True)
class _Layout:
    """Tiles down and across; tile number i (row by row) is for `agents[i]`."""

    rows: int
    columns: int
    agents: tuple[AgentId, ...]


@dataclass
class _Cut:
    """One layout of the map at border `last`, traced back to all borders before it.

    `done_s[i]` is how long each tile computes from border i on; `takes[i]` what it takes there.
    """

    grid: Grid
    done_s: list[list[float] | None]
    takes: list[list[tuple[Span, Span]]]


class _Table:
    """What blocks cost, in tiles and alone."""

    def __init__(
        self,
        graph: Graph,
        part: Part,
        owner: AgentId,
        costs: TileCosts,
        rates: Mapping[tuple[AgentId, AgentId], LinkRate],
    ) -> None:
        self.graph, self.part, self.owner, self.costs, self.rates = graph, part, owner, costs, rates
        self.borders = part.borders
        self.fixed_s = {agent: costs.fixed(agent) for agent in costs.times_s}
        self.bytes = [self._bytes_per_position(border) for border in part.borders]

    def _bytes_per_position(self, value: Value) -> int:
        spec = self.graph.spec(value)
        return spec.nbytes // math.prod(spec.shape[2:])

    @cached_property
    def alone_s(self) -> list[float]:
        """The owner alone, from border to border."""
        times_s = self.costs.times_s[self.owner]
        return [
            sum(times_s[v] for v in self.part.block(first, first + 1).vertices)
            for first in range(len(self.borders) - 1)
        ]

    def weights(self, agents: Sequence[AgentId]) -> list[float]:
        """Shares of the part with which all agents take equally long, fixed parts included."""
        vertices = self.part.vertices
        fixed = [sum(self.fixed_s[a][v] for v in vertices) for a in agents]
        slope = [
            max(sum(self.costs.times_s[a][v] for v in vertices) - f, 1e-9)
            for a, f in zip(agents, fixed, strict=True)
        ]
        together = (1 + sum(f / s for f, s in zip(fixed, slope, strict=True))) / sum(1 / s for s in slope)
        return [max((together - f) / s, 1e-3) for f, s in zip(fixed, slope, strict=True)]

    def cut(self, layout: _Layout, last: int) -> _Cut | None:
        """The layout at border `last`; None where the map is too small for it."""
        size = map_size(self.graph, self.borders[last])
        if layout.rows > size[0] or layout.columns > size[1]:
            return None
        shares = self.weights(layout.agents)
        rows = [sum(shares[r * layout.columns : (r + 1) * layout.columns]) for r in range(layout.rows)]
        columns = [sum(shares[c :: layout.columns]) for c in range(layout.columns)]
        grid = Grid.weighted(size, rows, columns)
        try:
            tilings = tilings_to(self.graph, [self.part.block(i, last) for i in range(last)], grid)
        except PlanInfeasible:
            return None
        return _Cut(grid, self._computing_s(layout, tilings, last), self._takes(tilings))

    def _takes(self, tilings: Sequence[Tiling | None]) -> list[list[tuple[Span, Span]]]:
        return [[(r.rows, r.columns) for r in t.takes] if t is not None else [] for t in tilings]

    def _computing_s(
        self, layout: _Layout, tilings: Sequence[Tiling | None], last: int
    ) -> list[list[float] | None]:
        found: list[list[float] | None] = [None] * last
        sums = [0.0] * len(layout.agents)
        for first in range(last - 1, -1, -1):
            made = tilings[first]
            if made is None:
                break
            for v in self.part.block(first, first + 1).vertices:
                heights = [span.length for span in made.needs.rows.makes[v]]
                widths = [span.length for span in made.needs.columns.makes[v]]
                positions = self.costs.positions[v]
                tile = 0
                for height in heights:
                    for width in widths:
                        agent = layout.agents[tile]
                        fixed = self.fixed_s[agent][v]
                        rest = self.costs.times_s[agent][v] - fixed
                        sums[tile] += fixed + rest * (height * width / positions)
                        tile += 1
            found[first] = list(sums)
        return found

    def sent_s(self, source: AgentId, target: AgentId, positions: int, border: int) -> float:
        """How long a rectangle of the map at a border is under way."""
        if source == target or not positions:
            return 0.0
        rate = self.rates[source, target]
        return rate.latency_s + positions * self.bytes[border] / rate.bytes_per_s


@dataclass(frozen=True)
class _Best:
    """The fastest way to a state: `before` is the state that its last block starts from."""

    seconds: float
    before: tuple[int, _Layout | None] | None


class _Search:
    """States are (border, layout of its map); no layout: the whole map is with the owner."""

    def __init__(self, table: _Table, layouts: Sequence[_Layout], method: str) -> None:
        self.table, self.layouts, self.method = table, layouts, method
        self.cuts: dict[tuple[int, _Layout], _Cut | None] = {}
        self.best: dict[tuple[int, _Layout | None], _Best] = {(0, None): _Best(0.0, None)}

    def run(self) -> TileChoice:
        table, end = self.table, len(self.table.borders) - 1
        for last in range(1, end + 1):
            self._offer(last, None, self._seconds(last - 1, None) + table.alone_s[last - 1], (last - 1, None))
            for layout in self.layouts:
                self._tiled(last, layout)
        blocks = list[TiledBlock]()
        state: tuple[int, _Layout | None] = (end, None)
        gathered = True
        while (before := self.best[state].before) is not None:
            if state[1] is not None:
                blocks.append(self._block(before[0], state[0], state[1], gathered))
            gathered = state[1] is None
            state = before
        alone_s = sum(table.alone_s)
        return TileChoice(tuple(reversed(blocks)), self._seconds(end, None), alone_s)

    def _block(self, first: int, last: int, layout: _Layout, gather: bool) -> TiledBlock:
        cut = self.cuts[last, layout]
        assert cut is not None
        return TiledBlock(self.table.part.block(first, last), cut.grid, layout.agents, gather)

    def _tiled(self, last: int, layout: _Layout) -> None:
        table = self.table
        cut = self.cuts[last, layout] = table.cut(layout, last)
        if cut is None:
            return
        for first in range(last - 1, -1, -1):
            computing_s = cut.done_s[first]
            if computing_s is None:
                break
            if (self.method == "deepthings" and first) or (self.method == "modnn" and first < last - 1):
                continue
            self._offer(
                last,
                layout,
                self._seconds(first, None) + self._scattered_s(first, layout, cut, computing_s),
                (first, None),
            )
            if self.method == "vsm" and (first, layout) in self.best:
                exchanged_s = self._exchanged_s(first, layout, cut, computing_s)
                self._offer(last, layout, self._seconds(first, layout) + exchanged_s, (first, layout))
        if (last, layout) in self.best:
            self._offer(
                last, None, self._seconds(last, layout) + self._gathered_s(last, layout, cut), (last, layout)
            )

    def _scattered_s(self, first: int, layout: _Layout, cut: _Cut, computing_s: Sequence[float]) -> float:
        owner = self.table.owner
        return max(
            self.table.sent_s(owner, agent, rows.length * columns.length, first) + computing
            for agent, (rows, columns), computing in zip(
                layout.agents, cut.takes[first], computing_s, strict=True
            )
        )

    def _exchanged_s(self, first: int, layout: _Layout, cut: _Cut, computing_s: Sequence[float]) -> float:
        held = self.cuts[first, layout]
        assert held is not None
        rows, columns = held.grid.bands(0), held.grid.bands(1)
        latest = 0.0
        for agent, taken, computing in zip(layout.agents, cut.takes[first], computing_s, strict=True):
            waited = 0.0
            for r, row in enumerate(rows):
                if (height := row.overlap(taken[0])) is None:
                    continue
                for c, column in enumerate(columns):
                    source = layout.agents[r * layout.columns + c]
                    if source != agent and (width := column.overlap(taken[1])) is not None:
                        area = height.length * width.length
                        waited = max(waited, self.table.sent_s(source, agent, area, first))
            latest = max(latest, waited + computing)
        return latest

    def _gathered_s(self, last: int, layout: _Layout, cut: _Cut) -> float:
        regions = [(r.length * c.length) for r in cut.grid.bands(0) for c in cut.grid.bands(1)]
        owner = self.table.owner
        return max(
            self.table.sent_s(agent, owner, area, last)
            for agent, area in zip(layout.agents, regions, strict=True)
        )

    def _seconds(self, border: int, layout: _Layout | None) -> float:
        return self.best[border, layout].seconds

    def _offer(
        self, border: int, layout: _Layout | None, seconds: float, before: tuple[int, _Layout | None]
    ) -> None:
        known = self.best.get((border, layout))
        if known is None or seconds < known.seconds:
            self.best[border, layout] = _Best(seconds, before)
