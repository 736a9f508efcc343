"""A section between two borders as several blocks: what is exchanged inside residual units and modules.

Where layers branch, the next border of one value may be far away: fused to there, a block computes much twice
or, if it is shared out by channels, everywhere. So a section may be divided at values inside it, at those
that a window (or, where channels are shared out, a convolution) reads. Each then lies in tiles, too, and what
several blocks read is kept by those who have it. What needs less exchanged goes first, so that an agent
computes one branch while pieces of another are under way. It must not know what lies before a section or
behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from d3bed.core.errors import PlanInfeasible
from d3bed.core.graph import Graph, Value
from d3bed.core.ids import AgentId
from d3bed.core.regions import Region, Span, cut, cut_channels
from d3bed.core.tiles import Block, Grid, Tiling, pieces, tiling
from d3bed.plan.vsm.costs import TileCosts

__all__ = ["Inside", "Ways", "divided", "division"]


@dataclass(frozen=True)
class Ways:
    """Between the agents of a team, by their places in it: seconds, and seconds per byte."""

    latency_s: Sequence[Sequence[float]]
    per_byte_s: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Inside:
    """Blocks of a section, each with its grid; the last one makes the section's sink.

    `takes`: what each agent takes of the section's source; `seconds` from when all have that to when all are
    done.
    """

    blocks: tuple[tuple[Block, Grid], ...]
    takes: tuple[Region, ...]
    seconds: float


def divided(graph: Graph, section: Block, mixes: Callable[[int], bool]) -> tuple[Block, ...]:
    """A section's blocks, if what a vertex that `mixes` reads inside it is exchanged."""
    inside = set(section.vertices)
    before = {v: [u for u in graph.predecessors[v] if u in inside] for v in section.vertices}
    #: How many exchanges must be over before a vertex can be computed.
    level: dict[int, int] = {}
    for v in section.vertices:
        level[v] = max((level[u] + mixes(v) for u in before[v]), default=0)
    ends: dict[int, int] = {}
    for v in reversed(section.vertices):
        readers = [r for r in graph.consumers.get(Value(v), ()) if r in inside]
        homes = {ends[r] for r in readers}
        apart = len(homes) != 1 or any(mixes(r) or level[r] > level[v] for r in readers)
        ends[v] = v if apart else homes.pop()
    groups: dict[int, list[int]] = {}
    for v in section.vertices:
        groups.setdefault(ends[v], []).append(v)
    return tuple(
        _block(graph, section, tuple(groups[end]))
        for end in sorted(groups, key=lambda end: (level[end], end))
    )


def _block(graph: Graph, section: Block, vertices: tuple[int, ...]) -> Block:
    outputs = {source.vertex: source.output for source in section.sources}
    read = {u for v in vertices for u in graph.predecessors[v]} - set(vertices)
    return Block(tuple(Value(u, outputs.get(u, 0)) for u in sorted(read)), vertices)


def division(
    graph: Graph, section: Block, grid: Grid, team: Sequence[AgentId], costs: TileCosts, ways: Ways
) -> Inside | None:
    """A section divided, with all values inside it cut like its sink; None where there is nothing to divide,
    or something inside cannot be cut so."""

    def mixes(v: int) -> bool:
        vertex = graph.vertices[v]
        if grid.channels:
            return vertex.kind == "conv2d"
        window = vertex.window
        return window is not None and any(window.kernel[n] > 1 and grid.shape[n] > 1 for n in (0, 1))

    blocks = divided(graph, section, mixes)
    if len(blocks) == 1:
        return None
    try:
        made = [tiling(graph, block, _alike(graph, block, grid)) for block in blocks]
    except PlanInfeasible:
        return None
    taken = _taken(section.sources[0], made)
    return Inside(tuple((each.block, each.grid) for each in made), taken, _seconds(made, team, costs, ways))


def _alike(graph: Graph, block: Block, grid: Grid) -> Grid:
    """A block's map cut like another one. Raises `PlanInfeasible` where that is too fine."""
    _, channels, *size = graph.spec(block.sink).shape
    weights = [[band.length for band in grid.bands(axis)] for axis in range(3)]
    if grid.channels:
        return Grid((0, size[0]), (0, size[1]), cut_channels(channels, weights[2]))
    if [grid.rows[-1], grid.columns[-1]] == size:
        return grid
    return Grid(cut(size[0], weights[0]), cut(size[1], weights[1]))


def _taken(source: Value, made: Sequence[Tiling]) -> tuple[Region, ...]:
    readers = [
        (each.takes, each.block.sources.index(source)) for each in made if source in each.block.sources
    ]
    found = []
    for tile in range(len(made[0].takes)):
        regions = [takes[tile][which] for takes, which in readers]
        found.append(
            Region(
                *(
                    Span(min(r[axis].start for r in regions), max(r[axis].stop for r in regions))
                    for axis in range(3)
                )
            )
        )
    return tuple(found)


def _seconds(made: Sequence[Tiling], team: Sequence[AgentId], costs: TileCosts, ways: Ways) -> float:
    """How long it takes if each agent computes its tiles in order, and links carry pieces in order."""
    count = len(made[0].takes)
    free_s, done_s = [0.0] * count, dict[Value, tuple[Tiling, list[float]]]()
    link_s: dict[tuple[int, int], float] = {}
    for each in made:
        ready_s = list(free_s)
        for source in each.block.sources:
            if source not in done_s:
                continue
            before, done = done_s[source]
            for here, mine in enumerate(pieces(before, each)):
                waited_s, others = 0.0, 0
                for piece in mine:
                    if piece.tile != here:
                        way = piece.tile, here
                        begun_s = max(done[piece.tile], link_s.get(way, 0.0))
                        link_s[way] = begun_s + piece.nbytes * ways.per_byte_s[piece.tile][here]
                        waited_s = max(waited_s, link_s[way] + ways.latency_s[piece.tile][here])
                        others += 1
                ready_s[here] = max(ready_s[here], waited_s + 2 * others * costs.piece_s)
        free_s = [
            ready + costs.tile_s(agent, tile)
            for ready, agent, tile in zip(ready_s, team, each.tiles, strict=False)
        ]
        done_s[each.block.sink] = each, free_s
    return max(free_s)
