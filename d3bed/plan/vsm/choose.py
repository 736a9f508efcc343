"""Which blocks of a part are tiled, how, and by whom: dynamic programming over predicted time.

At a border the map is either whole on the owner, or lies in tiles with several agents. A block from one
border to another is run by the owner alone or in tiles; its tiles are cut out of the owner's map, or made
from the tiles before them, however these were cut, of which agents send each other the rectangles that
they lack. A tile may also be a share of the channels, made from all of the map before, which each agent then
fetches: in late layers, of many weights and small maps, each weight is so read by one agent alone, and
nothing is computed twice. Tiles go back to the owner where the whole map is needed. Agents take tiles in
order, the owner the first; bands and shares are as wide as their agents are fast in the layers that count.
A block is over when its last tile is: really, an agent may be ahead of the others, so that what `timeline`
says of the same tiles is never more.

Ways of tiling, each with what it may do:
- `vsm`: all of that.
- `aofl`: blocks of any length, but a gather after each (Zhou et al., Adaptive parallel execution of deep
  neural networks on heterogeneous edge devices, SEC 2019). It cannot keep tiles from block to block.
- `deepthings`: one block of the first layers, in a grid, gathered at its end (Zhao et al., DeepThings,
  TCAD 2018). It cannot start afresh where overlaps have grown.
- `modnn`: one layer at a time, in strips, a gather after each (Mao et al., MoDNN, DATE 2017). It cannot
  fuse layers; where layers branch, it takes them together, from one border to the next.

What rivals may do is part of what `vsm` may do, and is predicted alike: it is never slower.
It must not know how agents are reached, nor which tier runs what.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from d3bed.core.errors import PlanInfeasible
from d3bed.core.graph import Graph, TensorSpec
from d3bed.core.ids import AgentId
from d3bed.core.measurements import LinkRate
from d3bed.core.plan import TiledBlock
from d3bed.core.regions import cut, cut_channels
from d3bed.core.tiles import Block, Grid, map_size, tiling
from d3bed.plan.vsm.costs import TileCosts
from d3bed.plan.vsm.inside import Inside, Ways, division
from d3bed.plan.vsm.methods import METHODS
from d3bed.plan.vsm.parts import Part
from d3bed.plan.vsm.traces import Spans, trace

__all__ = ["TileChoice", "choose_tiles"]

#: Cuts are also made for so many sections before a border.
_SCOPES = (1, 3)

#: Up to so many agents, every number of them is tried; then every second one.
_MANY = 8

#: Strips for at least this share of all agents are balanced with what they overlap: it takes time.
_MANY_OF_ALL = 2 / 3

_Seconds = NDArray[np.float64]


class TileChoice(msgspec.Struct, frozen=True):
    """The tiled blocks of a part, in order; none where the owner alone is as fast, and `reason` says why.

    `predicted_s` from having the part's source to having its sink, `alone_s` the same by the owner alone.
    """

    blocks: tuple[TiledBlock, ...]
    predicted_s: float
    alone_s: float
    reason: str = ""

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
    team = _team(graph, part, agents, costs, rates)
    ways = _ways(team, rates)
    found = [
        candidate
        for last in range(len(part.borders) - 1, 0, -1)
        for candidate in _with_insides(
            graph, part, _candidates(graph, part, last, team, costs, method), team, costs, ways, method
        )
    ]
    return _Search(graph, part, team, costs, ways, found, method).run()


def _ways(team: Sequence[AgentId], rates: Mapping[tuple[AgentId, AgentId], LinkRate]) -> Ways:
    between = [[rates.get((here, there)) for there in team] for here in team]
    return Ways(
        [[rate.latency_s if rate else 0.0 for rate in here] for here in between],
        [[1 / rate.bytes_per_s if rate else 0.0 for rate in here] for here in between],
    )


def _with_insides(
    graph: Graph,
    part: Part,
    candidates: Iterator[_Candidate],
    team: Sequence[AgentId],
    costs: TileCosts,
    ways: Ways,
    method: str,
) -> Iterator[_Candidate]:
    seen = set()
    for candidate in candidates:
        yield candidate
        grid, section = candidate.grid, part.block(candidate.last - 1, candidate.last)
        many = grid.count > _MANY_OF_ALL * len(team)
        kind = grid.shape, len(grid.channels)
        if method == "vsm" and len(section.vertices) > 2 and many and kind not in seen:
            seen.add(kind)
            if (inside := division(graph, section, grid, team, costs, ways)) is not None:
                yield _Candidate(candidate.last, grid, inside)


def _team(
    graph: Graph,
    part: Part,
    agents: Sequence[AgentId],
    costs: TileCosts,
    rates: Mapping[tuple[AgentId, AgentId], LinkRate],
) -> tuple[AgentId, ...]:
    """The owner, then the others as far as all are linked with all: first who would be done soonest with
    all of the part, its source and sink sent there and back."""
    owner, *others = agents
    ends_bytes = [graph.spec(border).nbytes for border in (part.borders[0], part.borders[-1])]

    def done_s(agent: AgentId) -> float:
        ways = ((owner, agent), (agent, owner))
        sent_s = sum(
            rates[way].latency_s + nbytes / rates[way].bytes_per_s
            for way, nbytes in zip(ways, ends_bytes, strict=True)
        )
        return sent_s + sum(costs.times_s[agent][v] for v in part.vertices)

    linked = [a for a in others if a in costs.times_s and (owner, a) in rates and (a, owner) in rates]
    found = [owner]
    for agent in sorted(linked, key=lambda a: (done_s(a), a)):
        if all(way in rates for other in found for way in ((agent, other), (other, agent))):
            found.append(agent)
    return tuple(found)


@dataclass(frozen=True)
class _Candidate:
    """A grid of the value at border `last`; its tiles are for the first agents of the team, in order.

    With `inside`, the section before that border is divided, and only that is tiled so.
    """

    last: int
    grid: Grid
    inside: Inside | None = None


def _counts(most: int) -> Iterator[int]:
    """Of agents, 2 … `most`."""
    return (n for n in range(2, most + 1) if n <= _MANY or n % 2 == 0 or n == most)


def _layouts(most: int, strips: bool) -> Iterator[tuple[int, int]]:
    """Tiles down and across, for 2 … `most` agents. Of those that are as fast the first is taken: strips of
    rows, which lie in one piece in memory and are as wide as the kernels like it."""
    for agents in _counts(most):
        for rows in range(agents, 0, -1):
            if agents % rows == 0 and (not strips or rows in (1, agents)):
                yield rows, agents // rows


def _candidates(
    graph: Graph, part: Part, last: int, team: Sequence[AgentId], costs: TileCosts, method: str
) -> Iterator[_Candidate]:
    """All that fit the map. Where agents differ, what they are best given depends on the layers: cuts are
    made for all of the part, and for the few layers before the border; the search takes what is faster."""
    size = map_size(graph, part.borders[last])
    blocks = [part.block(max(0, last - n), last) for n in _SCOPES]
    scopes = [part.vertices, *(block.vertices for block in blocks)]
    sums_s = [_fixed_and_slope_s(team, scope, costs) for scope in scopes]
    for rows, columns in _layouts(len(team), strips=method == "modnn"):
        if rows <= size[0] and columns <= size[1]:
            agents = team[: rows * columns]
            grids = [_grid(size, (rows, columns), *(each[: len(agents)] for each in sums)) for sums in sums_s]
            if min(rows, columns) == 1 and len(agents) > _MANY_OF_ALL * len(team):
                grids += [_balanced(graph, block, grids[0], agents, costs) for block in blocks]
            for grid in dict.fromkeys(grids):
                yield _Candidate(last, grid)
    if method == "vsm":
        channels = graph.spec(part.borders[last]).shape[1]
        for count in _counts(len(team)):
            if count <= channels:
                shares = [
                    1 / max(1e-12, sum(costs.times_s[agent][v] for v in blocks[0].vertices))
                    for agent in team[:count]
                ]
                yield _Candidate(last, Grid((0, size[0]), (0, size[1]), cut_channels(channels, shares)))


def _fixed_and_slope_s(
    team: Sequence[AgentId], vertices: Sequence[int], costs: TileCosts
) -> tuple[list[float], list[float]]:
    """Per agent: how long vertices take where their maps vanish, and how much longer where they are whole."""
    fixed_s = [sum(costs.fixed(agent)[v] for v in vertices) for agent in team]
    whole_s = [sum(costs.times_s[agent][v] for v in vertices) for agent in team]
    return fixed_s, [max(whole - fixed, 1e-12) for whole, fixed in zip(whole_s, fixed_s, strict=True)]


def _grid(
    size: tuple[int, int], shape: tuple[int, int], fixed_s: Sequence[float], slope_s: Sequence[float]
) -> Grid:
    """Cuts with which agents take equally long for vertices, fixed parts included, as far as whole positions
    allow."""
    rows, columns = shape
    if columns == 1:
        return Grid(_bands(size[0], fixed_s, slope_s), (0, size[1]))
    if rows == 1:
        return Grid((0, size[0]), _bands(size[1], fixed_s, slope_s))
    pairs = list(zip(fixed_s, slope_s, strict=True))
    all_s = (1 + sum(fixed / slope for fixed, slope in pairs)) / sum(1 / slope for _, slope in pairs)
    shares = [max((all_s - fixed) / slope, 1e-3) for fixed, slope in pairs]
    down = [sum(shares[r * columns : (r + 1) * columns]) for r in range(rows)]
    across = [sum(shares[c::columns]) for c in range(columns)]
    return Grid(cut(size[0], down), cut(size[1], across))


def _balanced(graph: Graph, block: Block, strips: Grid, agents: Sequence[AgentId], costs: TileCosts) -> Grid:
    """Strips with which agents take equally long for a block, with what they overlap: more in the middle than
    at the ends. It is taken to be as much as `strips` overlap."""
    try:
        needs = tiling(graph, block, strips).needs
    except PlanInfeasible:
        return strips
    axis = 0 if strips.shape[1] == 1 else 1
    makes, size = (needs.rows, needs.columns)[axis].makes, map_size(graph, block.sink)[axis]
    lengths = {v: graph.vertices[v].outputs[0].shape[2 + axis] for v in block.vertices}
    beside_s, slope_s = [], []
    for n, (agent, band) in enumerate(zip(agents, strips.bands(axis), strict=True)):
        fixed_s = sum(costs.fixed(agent)[v] for v in block.vertices)
        rest_s = {v: costs.times_s[agent][v] - costs.fixed(agent)[v] for v in block.vertices}
        slope_s.append(max(sum(rest_s.values()), 1e-12))
        taken_s = sum(rest_s[v] * makes[v][n].length / lengths[v] for v in block.vertices)
        beside_s.append(fixed_s + taken_s - slope_s[-1] * band.length / size)
    cuts = _bands(size, beside_s, slope_s)
    return Grid(cuts, strips.columns) if axis == 0 else Grid(strips.rows, cuts)


def _bands(size: int, fixed_s: Sequence[float], slope_s: Sequence[float]) -> tuple[int, ...]:
    """Cuts of `size` positions, at least one for each agent; the longest time is as short as it can be, for
    times that grow by `slope_s` over all positions."""
    waiting = [
        (fixed + 2 * slope / size, n) for n, (fixed, slope) in enumerate(zip(fixed_s, slope_s, strict=True))
    ]
    heapq.heapify(waiting)
    lengths = [1] * len(waiting)
    for _ in range(size - len(lengths)):
        seconds, n = waiting[0]
        lengths[n] += 1
        heapq.heapreplace(waiting, (seconds + slope_s[n] / size, n))
    return (0, *itertools.accumulate(lengths))


class _Tables:
    """What all blocks of all candidates cost, tile by tile.

    Candidates stand with later borders first; so those that end behind border i are the first
    `candidates[i]`, their tiles the first `tiles[i]`. `computing_s[i]` is how long each of these tiles
    computes from border i on, infinite where it cannot.
    """

    def __init__(
        self,
        graph: Graph,
        part: Part,
        team: Sequence[AgentId],
        costs: TileCosts,
        found: Sequence[_Candidate],
    ) -> None:
        ends = range(1, len(part.borders))
        self.specs = [graph.spec(border) for border in part.borders]
        self.candidates = [sum(c.last > i for c in found) for i in range(len(part.borders))]
        counts = [c.grid.count for c in found]
        self.offsets = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        self.tiles = [int(self.offsets[n]) for n in self.candidates]
        #: Of every tile: its agent's place in the team, and its bands [rows, columns, channels].
        self.agents = np.concatenate([np.arange(n) for n in counts]) if counts else np.empty(0, np.int64)
        self.held = [[_spans(c.grid, axis) for axis in range(3)] for c in found]
        bands = [np.empty((3, 0), np.int64)]
        first = np.zeros((3, 1), np.int64)
        for spans in self.held:
            shape = [len(s.start) for s in spans]
            bands.append(first + np.indices(shape).reshape(3, -1))
            first += np.array(shape)[:, None]
        self.bands = np.concatenate(bands, axis=1)
        traces = []
        for axis in range(3):
            held = [(c.last, spans[axis]) for c, spans in zip(found, self.held, strict=True)]
            starting = [_joined(spans for last, spans in held if last == i) for i in ends]
            traces.append(trace(graph, part, axis, starting))
        self.takes = [[t.takes[i] for t in traces] for i in range(len(part.borders) - 1)]

        # Per team member and vertex.
        fixed_s = np.array([costs.fixed(agent) for agent in team])
        rest_s = (np.array([costs.times_s[agent] for agent in team]) - fixed_s) / costs.positions
        read_s = np.array([costs.reading(agent) for agent in team])
        self.computing_s: list[_Seconds] = []
        sums_s = np.zeros(len(self.agents))
        for i in reversed(range(len(part.borders) - 1)):
            count = self.tiles[i]
            agents, (rows, columns, shares) = self.agents[:count], self.bands[:, :count]
            block = list(part.block(i, i + 1).vertices)
            heights, widths, depths = (np.array([t.makes[v].length for v in block]) for t in traces)
            parts = depths / np.array([[graph.vertices[v].outputs[0].shape[1]] for v in block])
            some = (parts < 1)[:, shares]
            patches_s = rest_s[:, block].T[:, agents] * heights[:, rows] * widths[:, columns]
            patches_s += fixed_s[:, block].T[:, agents]
            patches_s *= np.minimum(parts, 1)[:, shares]
            sums_s[:count] += np.sum(patches_s + some * read_s[:, block].T[:, agents], axis=0)
            lost = np.logical_or.reduce(
                [t.broken[i][band] for t, band in zip(traces, (rows, columns, shares), strict=True)]
            )
            self.computing_s.insert(0, np.where(lost, np.inf, sums_s[:count]))
        self._put_insides(found)

    def _put_insides(self, found: Sequence[_Candidate]) -> None:
        """A divided section takes less of its source, and longer or shorter; nothing begins before it."""
        first = np.zeros(3, np.int64)
        for n, candidate in enumerate(found):
            tiles = slice(self.offsets[n], self.offsets[n + 1])
            if (inside := candidate.inside) is not None:
                for i in range(candidate.last):
                    self.computing_s[i][tiles] = inside.seconds if i == candidate.last - 1 else np.inf
                for axis, takes in enumerate(self.takes[candidate.last - 1]):
                    for place, region in zip(self.bands[axis, tiles], inside.takes, strict=True):
                        takes.start[place] = min(takes.start[place], region[axis].start)
                        takes.stop[place] = max(takes.stop[place], region[axis].stop)
            first += [len(spans.start) for spans in self.held[n]]

    def latest(self, tiles_s: _Seconds, border: int) -> _Seconds:
        """Per candidate, of the tiles that reach a border: the last one."""
        count = self.candidates[border]
        return np.maximum.reduceat(tiles_s, self.offsets[:count]) if count else tiles_s[:0]


def _spans(grid: Grid, axis: int) -> Spans:
    bands = np.array(grid.bands(axis), dtype=np.int64)
    return Spans(bands[:, 0], bands[:, 1])


def _nbytes(
    spec: TensorSpec, rows: NDArray[np.int64], columns: NDArray[np.int64], channels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Of regions of a value, by their lengths."""
    made: NDArray[np.int64] = rows * columns * np.minimum(channels, spec.shape[1])
    return made * (spec.nbytes // math.prod(spec.shape[1:]))


def _joined(parts: Iterator[Spans]) -> Spans:
    found = list(parts)
    none = [np.empty(0, dtype=np.int64)]
    return Spans(
        np.concatenate(none + [s.start for s in found]), np.concatenate(none + [s.stop for s in found])
    )


#: In the place of a candidate: the whole map is with the owner.
_OWNER = -1


class _Search:
    """States are borders with the map whole, or with a candidate's tiles; each knows its fastest way."""

    def __init__(
        self,
        graph: Graph,
        part: Part,
        team: Sequence[AgentId],
        costs: TileCosts,
        ways: Ways,
        found: Sequence[_Candidate],
        method: str,
    ) -> None:
        self.part, self.team, self.found, self.method = part, team, found, method
        self.piece_s = costs.piece_s
        self.tables = _Tables(graph, part, team, costs, found)
        times_s = costs.times_s[team[0]]
        self.sections_s = [
            sum(times_s[v] for v in part.block(i, i + 1).vertices) for i in range(len(part.borders) - 1)
        ]
        self.latency_s, self.per_byte_s = np.array(ways.latency_s), np.array(ways.per_byte_s)
        #: Per border with the whole map, and per candidate: seconds, and the state that they go on from.
        self.whole_s = np.full(len(part.borders), np.inf)
        self.whole_from = [_OWNER] * len(part.borders)
        self.tiled_s = np.full(len(found), np.inf)
        self.tiled_from = [(0, _OWNER)] * len(found)

    def run(self) -> TileChoice:
        end = len(self.part.borders) - 1
        self.whole_s[0] = 0.0
        gathered_s = np.full(len(self.found), np.inf)
        for border in range(end + 1):
            here = range(self.tables.candidates[border], self.tables.candidates[border - 1] if border else 0)
            if border:
                self.whole_s[border] = self.whole_s[border - 1] + self.sections_s[border - 1]
            for candidate in here:
                gathered_s[candidate] = self.tiled_s[candidate] + self._gather_s(candidate)
                if gathered_s[candidate] < self.whole_s[border]:
                    self.whole_s[border] = gathered_s[candidate]
                    self.whole_from[border] = candidate
            if border == end:
                break
            self._offer(border, _OWNER, self.whole_s[border] + self._scattered_s(border))
            if self.method == "vsm":
                for candidate in here:
                    if self.tiled_s[candidate] < np.inf:
                        exchanged_s = self._exchanged_s(border, candidate)
                        self._offer(border, candidate, self.tiled_s[candidate] + exchanged_s)
        blocks, alone_s = self._blocks(), sum(self.sections_s)
        predicted_s = float(self.whole_s[end]) if blocks else alone_s
        return TileChoice(blocks, predicted_s, alone_s, "" if blocks else self._reason(gathered_s))

    def _offer(self, border: int, state: int, seconds: _Seconds) -> None:
        """Blocks from a border to all candidates behind it."""
        reached = self.tables.candidates[border]
        begin = 0
        if self.method == "modnn":
            begin = self.tables.candidates[border + 1]
        elif self.method == "deepthings" and border:
            return
        better = seconds < self.tiled_s[:reached]
        better[:begin] = False
        self.tiled_s[:reached][better] = seconds[better]
        for candidate in np.flatnonzero(better):
            self.tiled_from[candidate] = (border, state)

    def _sent_s(
        self, here: NDArray[np.int64] | int, there: NDArray[np.int64], nbytes: NDArray[np.int64]
    ) -> _Seconds:
        """How long rectangles are under way; empty ones, and those that stay, not at all."""
        return np.where(nbytes > 0, self.latency_s[here, there] + nbytes * self.per_byte_s[here, there], 0.0)

    def _scattered_s(self, border: int) -> _Seconds:
        tables, count = self.tables, self.tables.tiles[border]
        taken = (s.length[b[:count]] for s, b in zip(tables.takes[border], tables.bands, strict=True))
        nbytes = _nbytes(tables.specs[border], *taken)
        agents = tables.agents[:count]
        sent_s = self._sent_s(0, agents, nbytes) + self.piece_s * np.where(agents > 0, agents + 1, 0)
        return tables.latest(sent_s + tables.computing_s[border], border)

    def _exchanged_s(self, border: int, candidate: int) -> _Seconds:
        tables, count = self.tables, self.tables.tiles[border]
        rows, columns, channels = (
            held.overlap(taken)[:, b[:count]]
            for held, taken, b in zip(tables.held[candidate], tables.takes[border], tables.bands, strict=True)
        )
        shared = rows[:, None, None], columns[:, None], channels
        nbytes = _nbytes(tables.specs[border], *shared).reshape(-1, count)
        sent_s = self._sent_s(np.arange(len(nbytes))[:, None], tables.agents[:count], nbytes)
        pieces = (nbytes > 0) & (np.arange(len(nbytes))[:, None] != tables.agents[:count])
        handled_s = self.piece_s * 2 * pieces.sum(axis=0)  # an agent sends about as many as it receives
        return tables.latest(sent_s.max(axis=0) + handled_s + tables.computing_s[border], border)

    def _gather_s(self, candidate: int) -> float:
        rows, columns, channels = (held.length for held in self.tables.held[candidate])
        spec = self.tables.specs[self.found[candidate].last]
        nbytes = _nbytes(spec, rows[:, None, None], columns[:, None], channels).ravel()
        ways = np.arange(len(nbytes))
        sent_s = self.latency_s[ways, 0] + nbytes * self.per_byte_s[ways, 0]
        return float(np.max(sent_s)) + self.piece_s * len(ways)

    def _blocks(self) -> tuple[TiledBlock, ...]:
        blocks: list[TiledBlock] = []
        border, state = len(self.part.borders) - 1, _OWNER
        follows = False
        while border:
            if state == _OWNER:
                state = self.whole_from[border]
                if state == _OWNER:
                    border, follows = border - 1, False
                    continue
                gather = follows
            else:
                gather = False
            first, before = self.tiled_from[state]
            grid, inside = self.found[state].grid, self.found[state].inside
            agents = tuple(self.team[: grid.count])
            tiled = inside.blocks if inside is not None else ((self.part.block(first, border), grid),)
            blocks += [
                TiledBlock(block, each, agents, gather and (block, each) == tiled[-1])
                for block, each in reversed(tiled)
            ]
            border, state, follows = first, before, True
        return tuple(reversed(blocks))

    def _reason(self, gathered_s: _Seconds) -> str:
        """Why the owner is left alone. No state is then reached faster in tiles."""
        if len(self.team) == 1:
            return "no other edge agent is linked with it"
        alone_s = sum(self.sections_s)
        left_s = np.array([sum(self.sections_s[c.last :]) for c in self.found])
        if not len(left_s) or not np.isfinite(least_s := float(np.min(gathered_s + left_s))):
            return "its maps are too small to be cut"
        return f"one agent takes {alone_s * 1e3:.1f} ms, the best tiles {least_s * 1e3:.1f} ms"
