"""A plan says which tier runs which vertex; a program is one tier's share of it.

Pure data and derivation. A program is what an agent runs for one epoch: steps in order, and for
every value where it goes next. Values travel from tier to adjacent tier, each at most once per
link; the edge relays what only the cloud needs and the results on their way back. A step ends where
a value must leave (so that it leaves at once) and starts where a new value must have arrived, so that
no vertex waits for a value that only others need.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import msgspec

from d3bed.core.graph import Graph, Value
from d3bed.core.ids import TIERS, AgentId, Tier, adjacent
from d3bed.core.tiles import Block, Grid, Tile

__all__ = ["Plan", "Program", "Step", "TiledBlock", "hops", "program_for"]


class TiledBlock(msgspec.Struct, frozen=True):
    """A block of the edge's segment cut by a grid; tile number i (row by row) is run by `agents[i]`."""

    block: Block
    grid: Grid
    agents: tuple[AgentId, ...]


class Plan(msgspec.Struct, frozen=True):
    """Tier of every vertex, by vertex number, and what of the edge's segment is tiled.

    A tiled block that reads what another one makes takes it tile by tile: nothing is gathered between.
    """

    tiers: tuple[Tier, ...]
    tiles: tuple[TiledBlock, ...] = ()

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
        return "\n".join(lines)

    @classmethod
    def parse(cls, text: str) -> Plan:
        """Read `describe`'s lines. Raises `ValueError` on gaps, overlaps or unknown tiers."""
        found: dict[int, Tier] = {}
        for line in text.strip().splitlines():
            match = re.match(r"\s*(\w+)\s+\[([\d,\s-]*)\]", line)
            if not match:
                raise ValueError(f"not a plan line: {line!r}")
            tier = Tier(match[1])
            for part in filter(None, (p.strip() for p in match[2].split(","))):
                low, _, high = part.partition("-")
                if int(high or low) < int(low):
                    raise ValueError(f"range {part} runs backward")
                for vertex in range(int(low), int(high or low) + 1):
                    if found.setdefault(vertex, tier) is not tier:
                        raise ValueError(f"vertex {vertex} is on two tiers")
        if sorted(found) != list(range(len(found))):
            raise ValueError("plan has gaps")
        return cls(tuple(found[v] for v in range(len(found))))


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


class Step(msgspec.Struct, frozen=True):
    """Vertices that run back to back: `takes` from outside the step, `makes` for outside it.

    With a `tile`, each vertex runs its patch of it: `takes` are rectangles that make up what the tile takes
    of its source (or the whole source), `makes` rectangles of what it makes. A step without vertices only
    cuts rectangles out of a whole value, or joins rectangles to the whole.
    """

    vertices: tuple[int, ...]
    takes: tuple[Value, ...]
    makes: tuple[Value, ...]
    tile: Tile | None = None


class Program(msgspec.Struct, frozen=True):
    """One tier's share of a plan.

    `receives` lists the values that come over links, in expected order of arrival; `forward` gives,
    for a value received or made here, the adjacent tiers it is sent to.
    """

    tier: Tier
    receives: tuple[Value, ...]
    steps: tuple[Step, ...]
    forward: dict[Value, tuple[Tier, ...]]

    @property
    def vertices(self) -> tuple[int, ...]:
        return tuple(v for step in self.steps for v in step.vertices)


def hops(graph: Graph, plan: Plan, value: Value, relays: Collection[Tier] = TIERS) -> list[tuple[Tier, Tier]]:
    """The links (from tier, to tier) that a value crosses under a plan, in order of travel.

    `relays` are the tiers that have an agent: without the edge, device and cloud are neighbours.
    """
    home = plan.tiers[value.vertex]
    goals = {plan.tiers[c] for c in graph.consumers.get(value, ())}
    if value in graph.results:
        goals.add(Tier.DEVICE)
    found: list[tuple[Tier, Tier]] = []
    for goal in sorted(goals, key=lambda t: t.rank):
        here = home
        while here is not goal:
            there = adjacent(here, goal)
            if there not in relays:
                there = goal
            if (here, there) not in found:
                found.append((here, there))
            here = there
    return found


def program_for(graph: Graph, plan: Plan, tier: Tier, relays: Collection[Tier] = TIERS) -> Program:
    """Derive one tier's program. Deterministic: all agents derive the same one.

    `relays` are the tiers that have an agent in the route, as in `hops`.
    """
    receives: list[Value] = []
    forward: dict[Value, tuple[Tier, ...]] = {}
    for value in sorted(set(graph.consumers) | set(graph.results)):
        crossed = hops(graph, plan, value, relays)
        if any(there is tier for _, there in crossed):
            receives.append(value)
        ways = tuple(there for here, there in crossed if here is tier)
        if ways:
            forward[value] = ways

    # A vertex can run when the received values in its ancestry have come: `needs` has a bit for each.
    # As numbers they order vertices by the last arrival, and an ancestor never after its descendants.
    mine = [v for v in plan.segment(tier) if v != 0]
    arrival = {value: 1 << rank for rank, value in enumerate(receives)}
    reads: dict[int, list[Value]] = {v: [] for v in mine}
    for value, readers in graph.consumers.items():
        for reader in readers:
            if reader in reads:
                reads[reader].append(value)
    needs: dict[int, int] = {}
    for v in mine:
        needs[v] = 0
        for value in reads[v]:
            needs[v] |= arrival.get(value) or needs.get(value.vertex, 0)
    order = sorted(mine, key=lambda v: (needs[v], v))

    groups: list[list[int]] = []
    closed = True
    for position, v in enumerate(order):
        if closed or needs[v] != needs[order[position - 1]]:
            groups.append([])
        groups[-1].append(v)
        closed = any(Value(v, o) in forward for o in range(len(graph.vertices[v].outputs)))

    steps = []
    results = set(graph.results)
    for group in groups:
        inside = set(group)
        takes = {value for v in group for value in reads[v] if value.vertex not in inside}
        makes = {
            value
            for v in group
            for value in (Value(v, o) for o in range(len(graph.vertices[v].outputs)))
            if value in forward
            or value in results
            or any(r not in inside and plan.tiers[r] is tier for r in graph.consumers.get(value, ()))
        }
        steps.append(Step(tuple(group), tuple(sorted(takes)), tuple(sorted(makes))))
    return Program(tier, tuple(receives), tuple(steps), forward)
