"""A program is one agent's share of a plan: steps in order, and for every value where it goes next.

Pure derivation. Values travel from tier to adjacent tier, each at most once per link; the edge relays
what only the cloud needs and the results on their way back. A step ends where a value must leave (so
that it leaves at once) and starts where a new value must have arrived, so that no vertex waits for a
value that only others need.

Where the plan tiles blocks of the edge, the edge agent of the route owns them: it cuts their source into
rectangles for the agents that help, and joins what they make. Between blocks in a row agents send each
other just the rectangles that the other's next tile needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

import msgspec

from d3bed.core.graph import Graph, Value
from d3bed.core.ids import TIERS, AgentId, Tier, adjacent
from d3bed.core.plan import Plan, TiledBlock
from d3bed.core.regions import Region
from d3bed.core.tiles import Tile, pieces, tiling

__all__ = ["STAND_INS", "Program", "Rescue", "Step", "hops", "programs_for"]

#: A route for planning before there are agents.
STAND_INS: dict[Tier, AgentId] = {tier: AgentId(tier.value) for tier in TIERS}


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


class Rescue(msgspec.Struct, frozen=True):
    """What the owner of tiled blocks does without any help: `step` instead of its steps numbered `instead`.

    `pieces` are the rectangles that nobody needs any more then.
    """

    step: Step
    instead: tuple[int, ...]
    pieces: frozenset[Value]

    @property
    def place(self) -> tuple[int, int]:
        """The first and last vertex that are tiled."""
        return self.step.vertices[0], self.step.vertices[-1]


class Program(msgspec.Struct, frozen=True, dict=True):
    """One agent's share of a plan.

    `receives` lists the values that come over links, in expected order of arrival; `forward` gives, for
    a value received or made here, the agents that it is sent to. `rescues` are for when helpers fail.
    """

    agent: AgentId
    receives: tuple[Value, ...]
    steps: tuple[Step, ...]
    forward: dict[Value, tuple[AgentId, ...]]
    rescues: tuple[Rescue, ...] = ()

    @property
    def vertices(self) -> tuple[int, ...]:
        return tuple(v for step in self.steps for v in step.vertices)

    @cached_property
    def expected(self) -> frozenset[Value]:
        """What comes over links."""
        return frozenset(self.receives)

    @cached_property
    def readers(self) -> dict[Value, tuple[int, ...]]:
        """The numbers of the steps that take a value."""
        found: dict[Value, list[int]] = {}
        for number, step in enumerate(self.steps):
            for value in dict.fromkeys(step.takes):
                found.setdefault(value, []).append(number)
        return {value: tuple(numbers) for value, numbers in found.items()}

    @cached_property
    def uses(self) -> Counter[Value]:
        """How often a value is taken by steps and rescues, and sent."""
        found: Counter[Value] = Counter()
        for taking in (*self.steps, *(rescue.step for rescue in self.rescues)):
            found.update(taking.takes)
        for value, ways in self.forward.items():
            found[value] += len(ways)
        return found


def hops(graph: Graph, plan: Plan, value: Value, relays: Collection[Tier] = TIERS) -> list[tuple[Tier, Tier]]:
    """The links (from tier, to tier) that a whole value crosses under a plan, in order of travel.

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
            there = goal if value in plan.direct else adjacent(here, goal)
            if there not in relays:
                there = goal
            if (here, there) not in found:
                found.append((here, there))
            here = there
    return found


def programs_for(graph: Graph, plan: Plan, route: Mapping[Tier, AgentId]) -> dict[AgentId, Program]:
    """Derive the program of every agent: those of the route, device first, then those that only help with
    tiles. Deterministic: all agents derive the same ones. Raises `PlanInfeasible` for tiles that do not fit.
    """
    chains = [_Chain(graph, blocks) for blocks in _chained(graph, plan)]
    found = {
        agent: _program(graph, plan, route, tier, chains if tier is Tier.EDGE else [])
        for tier, agent in route.items()
    }
    for chain in chains:
        chain.share(found, route[Tier.EDGE])
    if chains:
        owner = found[route[Tier.EDGE]]
        rescues = tuple(chain.rescue(owner) for chain in chains)
        found[owner.agent] = msgspec.structs.replace(owner, rescues=rescues)
    return found


def _program(
    graph: Graph, plan: Plan, route: Mapping[Tier, AgentId], tier: Tier, chains: Sequence[_Chain]
) -> Program:
    """The program of one tier's agent on the route, without what it does for tiles."""
    received: list[Value] = []
    forward: dict[Value, tuple[AgentId, ...]] = {}
    for value in sorted(set(graph.consumers) | set(graph.results)):
        crossed = hops(graph, plan, value, route.keys())
        if any(there is tier for _, there in crossed):
            received.append(value)
        ways = tuple(route[there] for here, there in crossed if here is tier)
        if ways:
            forward[value] = ways

    # A vertex can run when the received values in its ancestry have come: `needs` has a bit for each.
    # As numbers they order vertices by the last arrival, and an ancestor never after its descendants.
    # What tiles make comes like something received.
    tiled = {v for chain in chains for v in chain.vertices}
    arriving = sorted({*received, *(chain.sink for chain in chains)})
    mine = [v for v in plan.segment(tier) if v != 0 and v not in tiled]
    arrival = {value: 1 << rank for rank, value in enumerate(arriving)}
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

    leaving = set(forward) | {chain.source for chain in chains}
    groups: list[list[int]] = []
    closed = True
    for position, v in enumerate(order):
        if closed or needs[v] != needs[order[position - 1]]:
            groups.append([])
        groups[-1].append(v)
        closed = any(Value(v, o) in leaving for o in range(len(graph.vertices[v].outputs)))

    steps = []
    wanted = leaving | set(graph.results)
    for group in groups:
        inside = set(group)
        takes = {value for v in group for value in reads[v] if value.vertex not in inside}
        makes = {
            value
            for v in group
            for value in (Value(v, o) for o in range(len(graph.vertices[v].outputs)))
            if value in wanted
            or any(r not in inside and plan.tiers[r] is tier for r in graph.consumers.get(value, ()))
        }
        steps.append(Step(tuple(group), tuple(sorted(takes)), tuple(sorted(makes))))
    return Program(route[tier], tuple(received), tuple(steps), forward)


def _chained(graph: Graph, plan: Plan) -> list[list[TiledBlock]]:
    """The tiled blocks, in runs within which tiles are exchanged and nothing is gathered."""
    chains: list[list[TiledBlock]] = []
    for tiled in plan.tiles:
        last = chains[-1][-1] if chains else None
        if (
            last is not None
            and not last.gather
            and tiled.block.source == last.block.sink
            and last.block.sink not in graph.results
            and set(graph.consumers[last.block.sink]) <= set(tiled.block.vertices)
        ):
            chains[-1].append(tiled)
        else:
            chains.append([tiled])
    return chains


class _Chain:
    """Tiled blocks in a row: the owner cuts their source up, tiles are run and exchanged, the owner joins."""

    def __init__(self, graph: Graph, blocks: Sequence[TiledBlock]) -> None:
        self.blocks = blocks
        self.tilings = [tiling(graph, tiled.block, tiled.grid) for tiled in blocks]
        self.source, self.sink = blocks[0].block.source, blocks[-1].block.sink
        self.vertices = tuple(v for tiled in blocks for v in tiled.block.vertices)

    def share(self, programs: dict[AgentId, Program], owner: AgentId) -> None:
        """Add what each agent does for this chain; the owner does it where the chain's source is made."""
        steps: dict[AgentId, list[Step]] = {owner: []}
        sends: list[tuple[Value, AgentId, AgentId]] = []
        first, last = self.blocks[0], self.blocks[-1]

        takes: list[tuple[Value, ...]] = []
        for agent, tile in zip(first.agents, self.tilings[0].tiles, strict=True):
            piece = _rectangle(self.source, tile.takes)
            takes.append((self.source,) if agent == owner else (piece,))
            sends.append((piece, owner, agent))
        held = _held(programs[owner])
        cut_out = dict.fromkeys(p for p, _, agent in sends if agent != owner and p not in held)
        if cut_out:
            steps[owner].append(Step((), (self.source,), tuple(cut_out)))

        for number, (tiled, cut_up) in enumerate(zip(self.blocks, self.tilings, strict=True)):
            if tiled is last:
                receivers: tuple[AgentId, ...] = (owner,)
                parts = [[(i, _rectangle(self.sink, region)) for i, region in enumerate(cut_up.makes)]]
            else:
                receivers = self.blocks[number + 1].agents
                parts = [
                    [(piece.tile, _rectangle(tiled.block.sink, piece.region)) for piece in taken]
                    for taken in pieces(cut_up, self.tilings[number + 1])
                ]
            makes: list[dict[Value, None]] = [{} for _ in tiled.agents]
            for receiver, mine in zip(receivers, parts, strict=True):
                for i, part in mine:
                    makes[i][part] = None
                    sends.append((part, tiled.agents[i], receiver))
            for agent, tile, taken, made in zip(tiled.agents, cut_up.tiles, takes, makes, strict=True):
                steps.setdefault(agent, []).append(Step(tiled.block.vertices, taken, tuple(made), tile))
            takes = [tuple(part for _, part in mine) for mine in parts]
        steps[owner].append(Step((), takes[0], (self.sink,)))

        # Nobody is sent what it has had before or makes itself, though it was gathered since.
        held_by = {
            agent: _held(programs.get(agent)) | {value for step in added for value in step.makes}
            for agent, added in steps.items()
        }
        ways: dict[AgentId, dict[Value, list[AgentId]]] = {agent: {} for agent in steps}
        received: dict[AgentId, list[Value]] = {agent: [] for agent in steps}
        for value, here, there in sends:
            if here != there and value not in held_by[there]:
                held_by[there].add(value)
                received[there].append(value)
                ways[here].setdefault(value, []).append(there)
        for agent, added in steps.items():
            program = programs.get(agent) or Program(agent, (), (), {})
            at = len(program.steps)
            if agent == owner:
                at = next((i + 1 for i, step in enumerate(program.steps) if self.source in step.makes), 0)
            programs[agent] = Program(
                agent,
                (*program.receives, *received[agent]),
                (*program.steps[:at], *added, *program.steps[at:]),
                {
                    **program.forward,
                    **{v: (*program.forward.get(v, ()), *to) for v, to in ways[agent].items()},
                },
            )

    def rescue(self, owner: Program) -> Rescue:
        """How the owner alone makes the chain's sink."""
        values = {self.source, *(Value(tiled.block.sink.vertex) for tiled in self.blocks)}
        used = {value for step in owner.steps for value in (*step.takes, *step.makes)}
        pieces = {
            value for value in {*used, *owner.receives} if value.whole in values and value.whole != value
        }
        instead = [
            number
            for number, step in enumerate(owner.steps)
            if (step.tile is not None and set(step.vertices) <= set(self.vertices))
            or (not step.vertices and (self.source in step.takes or self.sink in step.makes))
        ]
        return Rescue(Step(self.vertices, (self.source,), (self.sink,)), tuple(instead), frozenset(pieces))


def _held(program: Program | None) -> set[Value]:
    """What an agent receives and makes."""
    if program is None:
        return set()
    return {*program.receives, *(value for step in program.steps for value in step.makes)}


def _rectangle(value: Value, region: Region) -> Value:
    return Value(value.vertex, value.output, region)
