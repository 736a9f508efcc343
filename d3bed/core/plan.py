"""A plan says which tier runs which vertex, and what of the edge's segment is cut into tiles.

Pure data, and a text that people read and `Plan.parse` inverts.
"""

from __future__ import annotations

import re

import msgspec

from d3bed.core.graph import Graph, Value
from d3bed.core.ids import TIERS, AgentId, Tier
from d3bed.core.tiles import Block, Grid

__all__ = ["Plan", "TiledBlock"]


class TiledBlock(msgspec.Struct, frozen=True):
    """A block of the edge's segment cut by a grid; tile number i (row by row) is run by `agents[i]`.

    With `gather`, the edge agent of the route joins the tiles even where others could take them.
    """

    block: Block
    grid: Grid
    agents: tuple[AgentId, ...]
    gather: bool = False

    def check(self, graph: Graph) -> None:
        """Raise `ValueError` unless the grid is a cut of the block's map, with an agent for every tile."""
        if min(self.grid.shape) < 1 or self.grid.count != len(self.agents):
            raise ValueError(f"{len(self.agents)} agents for a grid of {self.grid} tiles")
        for problem in (*self.block.problems(graph), *self.grid.problems(graph, self.block.sink)):
            raise ValueError(problem)

    def __str__(self) -> str:
        """As in `tiles  4.0 [5-8] rows 0,28,56 columns 0,56 on edge-1,edge-2`, or `4.0,7.0` where it reads
        two values; perhaps `channels 0,64,128` before the agents, and `gather` behind them."""
        grid = self.grid
        cuts = {"rows": grid.rows, "columns": grid.columns, "channels": grid.channels}
        words = " ".join(f"{axis} {','.join(map(str, found))}" for axis, found in cuts.items() if found)
        return (
            f"tiles  {_values(self.block.sources)} [{_ranges(self.block.vertices)}] "
            f"{words} on {','.join(self.agents)}{' gather' * self.gather}"
        )

    @classmethod
    def parse(cls, line: str) -> TiledBlock:
        """Read a line of `str`. Raises `ValueError`."""
        match = re.fullmatch(
            r"\s*tiles\s+([\d.,]+) \[([\d,-]+)\] rows ([\d,]+) columns ([\d,]+)"
            r"(?: channels ([\d,]+))? on (\S+)( gather)?\s*",
            line,
        )
        if not match:
            raise ValueError(f"not a line of tiles: {line!r}")
        rows, columns, channels = (
            tuple(map(int, numbers.split(","))) if numbers else () for numbers in match.groups()[2:5]
        )
        block = Block(_parsed(match[1]), tuple(_numbers(match[2])))
        agents = tuple(map(AgentId, match[6].split(",")))
        return cls(block, Grid(rows, columns, channels), agents, bool(match[7]))


class Plan(msgspec.Struct, frozen=True):
    """Tier of every vertex, by vertex number, and what of the edge's segment is tiled.

    A tiled block that reads what another one makes takes it tile by tile: nothing is gathered between.
    Values in `direct` go from device to cloud, or back, past the edge.
    """

    tiers: tuple[Tier, ...]
    tiles: tuple[TiledBlock, ...] = ()
    direct: tuple[Value, ...] = ()

    def segment(self, tier: Tier) -> tuple[int, ...]:
        """The vertices of one tier, ascending."""
        return tuple(v for v, t in enumerate(self.tiers) if t is tier)

    def check(self, graph: Graph) -> None:
        """Raise `ValueError` unless it covers the graph, starts on the device and is monotone."""
        if len(self.tiers) != len(graph.vertices):
            raise ValueError(f"plan has {len(self.tiers)} vertices, graph {len(graph.vertices)}")
        if self.tiers[0] is not Tier.DEVICE:
            raise ValueError("the input vertex must be on the device")
        for edge in graph.edges:
            if self.tiers[edge.producer].rank > self.tiers[edge.consumer].rank:
                raise ValueError(f"edge {edge.producer}→{edge.consumer} goes back toward the device")
        tiled: set[int] = set()
        for each in self.tiles:
            mine = set(each.block.vertices)
            if mine & tiled or not all(
                v in range(len(self.tiers)) and self.tiers[v] is Tier.EDGE for v in mine
            ):
                raise ValueError(f"block {each.block} is not the edge's, or tiled twice")
            tiled |= mine
            each.check(graph)

    @property
    def tile_agents(self) -> tuple[AgentId, ...]:
        """Who runs tiles, in order of their first one."""
        return tuple(dict.fromkeys(agent for tiled in self.tiles for agent in tiled.agents))

    def moved(self, other: Plan) -> tuple[int, ...]:
        """Vertices whose tier differs in `other`."""
        return tuple(v for v, (a, b) in enumerate(zip(self.tiers, other.tiers, strict=True)) if a is not b)

    def describe(self, graph: Graph | None = None) -> str:
        """One line per segment, as in `edge   [3-7,9] conv3 … pool5 (6 vertices)`; `parse` inverts it."""
        lines = []
        for tier in TIERS:
            vertices = self.segment(tier)
            line = f"{tier:<6} [{_ranges(vertices)}]"
            if graph is not None and vertices:
                first, last = graph.vertices[vertices[0]].name, graph.vertices[vertices[-1]].name
                names = first if first == last else f"{first} … {last}"
                line += f" {names} ({len(vertices)} {'vertex' if len(vertices) == 1 else 'vertices'})"
            lines.append(line.rstrip())
        lines += map(str, self.tiles)
        if self.direct:
            lines.append("direct " + _values(self.direct))
        return "\n".join(lines)

    @classmethod
    def parse(cls, text: str) -> Plan:
        """Read `describe`'s lines. Raises `ValueError` on gaps, overlaps or unknown tiers."""
        found: dict[int, Tier] = {}
        tiles: list[TiledBlock] = []
        direct: list[Value] = []
        for line in text.strip().splitlines():
            match line.split(maxsplit=1):
                case ["tiles", _]:
                    tiles.append(TiledBlock.parse(line))
                    continue
                case ["direct", values]:
                    direct += _parsed(values)
                    continue
            found_line = re.match(r"\s*(\w+)\s+\[([\d,\s-]*)\]", line)
            if not found_line:
                raise ValueError(f"not a plan line: {line!r}")
            tier = Tier(found_line[1])
            for vertex in _numbers(found_line[2]):
                if found.setdefault(vertex, tier) is not tier:
                    raise ValueError(f"vertex {vertex} is on two tiers")
        if sorted(found) != list(range(len(found))):
            raise ValueError("plan has gaps")
        return cls(tuple(found[v] for v in range(len(found))), tuple(tiles), tuple(direct))


def _values(values: tuple[Value, ...]) -> str:
    return ",".join(f"{value.vertex}.{value.output}" for value in values)


def _parsed(values: str) -> tuple[Value, ...]:
    """Of what `_values` says. Raises `ValueError`."""
    pairs = (value.split(".") for value in values.split(","))
    return tuple(Value(int(vertex), int(output)) for vertex, output in pairs)


def _ranges(numbers: tuple[int, ...]) -> str:
    parts: list[str] = []
    start = previous = None
    for number in (*numbers, None):
        if previous is not None and number == previous + 1:
            previous = number
            continue
        if start is not None:
            parts.append(str(start) if start == previous else f"{start}-{previous}")
        start = previous = number
    return ",".join(parts)


def _numbers(ranges: str) -> list[int]:
    found: list[int] = []
    for part in filter(None, (p.strip() for p in ranges.split(","))):
        low, _, high = part.partition("-")
        if int(high or low) < int(low):
            raise ValueError(f"range {part} runs backward")
        found += range(int(low), int(high or low) + 1)
    return found
