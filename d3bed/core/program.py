"""A program is one agent's share of a plan: steps in order, and for every value where it goes next.

Pure derivation. Values travel from tier to adjacent tier, each at most once per link; the edge relays
what only the cloud needs and the results on their way back. A step ends where a value must leave (so
that it leaves at once) and starts where a new value must have arrived, so that no vertex waits for a
value that only others need.

Where the plan tiles blocks of the edge, the edge agent of the route owns them: it cuts their source into
rectangles for the agents that help, and joins what they make. Between blocks agents send each other just the
rectangles that the other's tiles need, when they have made them, and keep them until their last tile has used
them.
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

__all__ = ["STAND_INS", "Program", "Rescue", "Step", "hops", "moved_bytes", "programs_for"]

#: A route for planning before there are agents.
STAND_INS: dict[Tier, AgentId] = {tier: AgentId(tier.value) for tier in TIERS}


class Step(msgspec.Struct, frozen=True):
    """Vertices that run back to back: `takes` from outside the step, `makes` for outside it.

    With a `tile`, each vertex runs its patch of it: `takes` are rectangles that hold, without overlap, what
    the tile takes of each of its sources (or are the whole source), `makes` rectangles of what it makes. A
    step without vertices only cuts rectangles out of a whole value, or joins rectangles to the whole.
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


def moved_bytes(graph: Graph, tiles: Sequence[TiledBlock], owner: AgentId) -> list[tuple[int, int]]:
    """Per tiled block: bytes that its tiles take from other agents, and that are gathered behind it."""
    edge = (Tier.EDGE,) * (len(graph.vertices) - 1)
    programs = programs_for(graph, Plan((Tier.DEVICE, *edge), tuple(tiles)), STAND_INS | {Tier.EDGE: owner})
    blocks = {tiled.block.vertices: number for number, tiled in enumerate(tiles)}
    sinks = {tiled.block.sink: number for number, tiled in enumerate(tiles)}
    taken, gathered = [0] * len(tiles), [0] * len(tiles)
    for program in programs.values():
        for value, receivers in program.forward.items():
            for receiver in receivers if value.whole != value else ():
                steps = programs[receiver].steps
                step = next(step for step in steps if value in step.takes)
                if step.tile is not None:
                    taken[blocks[step.vertices]] += graph.spec(value).nbytes
                else:
                    gathered[sinks[value.whole]] += graph.spec(value).nbytes
    return list(zip(taken, gathered, strict=True))


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

    leaving = set(forward) | {source for chain in chains for source in chain.sources}
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
    """The tiled blocks, in chains within which tiles are exchanged and nothing is gathered.

    A value that only tiles behind it read is exchanged between these, unless it is to be gathered; but where
    a chain would then have more than one source or sink, only from one block to the next.
    """
    tiled = {v: number for number, each in enumerate(plan.tiles) for v in each.block.vertices}
    exchanged = {}
    for number, each in enumerate(plan.tiles):
        sink = each.block.sink
        readers = {tiled.get(v, -1) for v in graph.consumers.get(sink, ())}
        if not each.gather and sink not in graph.results and readers and min(readers) > number:
            exchanged[sink] = readers
    chains = []
    for chain in _connected(plan.tiles, exchanged):
        blocks = [each.block for each in chain]
        sinks = {block.sink for block in blocks}
        sources = {source for block in blocks for source in block.sources}
        if len(sources - exchanged.keys()) == 1 == len(sinks - exchanged.keys()):
            chains.append(chain)
        else:
            simple = {
                block.sources[0]: exchanged[block.sources[0]]
                for block in blocks
                if len(block.sources) == 1 == len(exchanged.get(block.sources[0], ()))
            }
            chains += _connected(chain, simple)
    return sorted(chains, key=lambda chain: tiled[chain[0].block.sink.vertex])


def _connected(blocks: Sequence[TiledBlock], values: Collection[Value]) -> list[list[TiledBlock]]:
    """Blocks in the groups that some values hold together, in their order."""
    groups: list[tuple[set[Value], list[int]]] = []
    for number, each in enumerate(blocks):
        ends = {value for value in (*each.block.sources, each.block.sink) if value in values}
        members, apart = [number], []
        for group in groups:
            if group[0].isdisjoint(ends):
                apart.append(group)
            else:
                ends |= group[0]
                members += group[1]
        groups = [*apart, (ends, members)]
    return [[blocks[number] for number in sorted(members)] for _, members in groups]


class _Chain:
    """Tiled blocks in a row or in branches: the owner cuts up what they read, tiles are run and exchanged,
    the owner joins what the last one makes."""

    def __init__(self, graph: Graph, blocks: Sequence[TiledBlock]) -> None:
        self.blocks = blocks
        self.tilings = [tiling(graph, tiled.block, tiled.grid) for tiled in blocks]
        self.made = {tiled.block.sink: number for number, tiled in enumerate(blocks)}
        self.sink = blocks[-1].block.sink
        taken = (source for tiled in blocks for source in tiled.block.sources)
        self.sources = tuple(dict.fromkeys(source for source in taken if source not in self.made))
        self.vertices = tuple(sorted(v for tiled in blocks for v in tiled.block.vertices))
        self._own: list[Step] = []
        self._pieces: set[Value] = set()

    def share(self, programs: dict[AgentId, Program], owner: AgentId) -> None:
        """Add what each agent does for this chain; the owner does it where the chain's sources are made."""
        steps: dict[AgentId, list[Step]] = {owner: []}
        takes, makes, sends = self._ways(owner)
        held = _held(programs[owner])
        for source in self.sources:
            cut_out = dict.fromkeys(
                piece
                for piece, here, there in sends
                if here != there and piece.whole == source and piece not in held
            )
            if cut_out:
                steps[owner].append(Step((), (source,), tuple(cut_out)))
        for tiled, cut_up, *ends in zip(self.blocks, self.tilings, takes, makes, strict=True):
            for agent, tile, taken, made in zip(tiled.agents, cut_up.tiles, *ends, strict=True):
                steps.setdefault(agent, []).append(
                    Step(tiled.block.vertices, tuple(taken), tuple(made), tile)
                )
        joined = tuple(_rectangle(self.sink, region) for region in self.tilings[-1].makes)
        steps[owner].append(Step((), joined, (self.sink,)))

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
                at = max(
                    (i + 1 for i, step in enumerate(program.steps) if {*self.sources} & {*step.makes}),
                    default=0,
                )
            programs[agent] = Program(
                agent,
                (*program.receives, *received[agent]),
                (*program.steps[:at], *added, *program.steps[at:]),
                {
                    **program.forward,
                    **{v: (*program.forward.get(v, ()), *to) for v, to in ways[agent].items()},
                },
            )
        self._own = steps[owner]
        used = {value for step in self._own for value in (*step.takes, *step.makes)}
        self._pieces = {value for value in (*used, *received[owner]) if value.whole != value}

    def _ways(
        self, owner: AgentId
    ) -> tuple[list[list[list[Value]]], list[list[list[Value]]], list[tuple[Value, AgentId, AgentId]]]:
        """Per block and tile what it takes and what it makes, and what goes from whom to whom.

        Who has been sent a rectangle, or has made it, takes what lies in it from there.
        """
        takes: list[list[list[Value]]] = [[[] for _ in tiled.agents] for tiled in self.blocks]
        makes: list[list[dict[Value, None]]] = [[{} for _ in tiled.agents] for tiled in self.blocks]
        sends: list[tuple[Value, AgentId, AgentId]] = []
        had: dict[tuple[AgentId, Value, int], list[Region]] = {}

        def piece_of(source: Value, region: Region, tile: int, here: AgentId, there: AgentId) -> Value:
            mine = had.setdefault((there, source, tile), [])
            wider = next((r for r in mine if r.overlap(region) == region), None)
            if wider is None:
                mine.append(region)
                sends.append((_rectangle(source, region), here, there))
            return _rectangle(source, wider or region)

        for number, (tiled, cut_up) in enumerate(zip(self.blocks, self.tilings, strict=True)):
            for which, source in enumerate(tiled.block.sources):
                if source not in self.made:
                    for i, (agent, taken) in enumerate(zip(tiled.agents, cut_up.takes, strict=True)):
                        whole = agent == owner
                        part = source if whole else piece_of(source, taken[which], -1, owner, agent)
                        takes[number][i].append(part)
                    continue
                maker = self.made[source]
                for i, (agent, mine) in enumerate(
                    zip(tiled.agents, pieces(self.tilings[maker], cut_up), strict=True)
                ):
                    for each in mine:
                        here = self.blocks[maker].agents[each.tile]
                        part = piece_of(source, each.region, each.tile, here, agent)
                        makes[maker][each.tile][part] = None
                        takes[number][i].append(part)
        for made, agent, region in zip(
            makes[-1], self.blocks[-1].agents, self.tilings[-1].makes, strict=True
        ):
            part = _rectangle(self.sink, region)
            made[part] = None
            sends.append((part, agent, owner))
        return takes, [[list(made) for made in each] for each in makes], sends

    def rescue(self, owner: Program) -> Rescue:
        """How the owner alone makes the chain's sink."""
        instead = tuple(number for number, step in enumerate(owner.steps) if step in self._own)
        step = Step(self.vertices, tuple(sorted(self.sources)), (self.sink,))
        return Rescue(step, instead, frozenset(self._pieces))


def _held(program: Program | None) -> set[Value]:
    """What an agent receives and makes."""
    if program is None:
        return set()
    return {*program.receives, *(value for step in program.steps for value in step.makes)}


def _rectangle(value: Value, region: Region) -> Value:
    return Value(value.vertex, value.output, region)
