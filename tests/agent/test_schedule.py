"""One frame through one tier's program: orders, freeing, hostile arrivals."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3bed.agent.schedule import FrameSchedule, Run, Send
from d3bed.core.errors import RemoteProtocolError
from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex, Window
from d3bed.core.ids import TIERS, AgentId, Tier
from d3bed.core.plan import Plan, TiledBlock
from d3bed.core.program import STAND_INS, programs_for
from d3bed.core.regions import Region, Span
from d3bed.core.tiles import Block, Grid, map_size
from d3bed.plan.vsm.inside import divided

_SPEC = TensorSpec((1, 4), "float32")

DEVICE, EDGE, CLOUD = STAND_INS.values()


def make_graph(edges: list[tuple[int, int]], results: list[int]) -> Graph:
    count = max(max(edge) for edge in edges) + 1
    vertices = tuple(Vertex(f"v{n}", "input" if n == 0 else "linear", (_SPEC,)) for n in range(count))
    return Graph("made", vertices, tuple(Edge(a, b) for a, b in edges), tuple(Value(r) for r in results))


def random_case(seed: int) -> tuple[Graph, Plan]:
    rng = random.Random(seed)
    count = rng.randint(3, 14)
    edges = []
    for v in range(1, count):
        before = rng.sample(range(v), k=min(v, rng.randint(1, 3)))
        edges += [(u, v) for u in before]
    sinks = [v for v in range(count) if all(a != v for a, _ in edges)]
    graph = make_graph(edges, sinks)
    ranks = [0] * count
    for v in range(1, count):
        ranks[v] = rng.randint(max(ranks[p] for p in graph.predecessors[v]), 2)
    return graph, Plan(tuple(TIERS[r] for r in ranks))


class World:
    """All three tiers with every order obeyed in random order; counts what crosses."""

    def __init__(self, graph: Graph, plan: Plan, rng: random.Random) -> None:
        self.graph, self.rng = graph, rng
        self.programs = programs_for(graph, plan, STAND_INS)
        self.schedules = {
            agent: FrameSchedule(p, frozenset(graph.results) if agent == DEVICE else frozenset())
            for agent, p in self.programs.items()
        }
        self.pending: list[tuple[AgentId, Run | Send]] = []
        self.computed: list[int] = []
        self.crossed: list[tuple[AgentId, AgentId, Value]] = []
        self.held: dict[AgentId, set[Value]] = {agent: set() for agent in self.programs}

        self.take(DEVICE, self.schedules[DEVICE].begin(Value(0)), Value(0))

    def run(self, orders: int | None = None) -> None:
        """All orders, or so many."""
        done = 0
        while self.pending and done != orders:
            done += 1
            agent, order = self.pending.pop(self.rng.randrange(len(self.pending)))
            match order:
                case Run(number):
                    step = self.programs[agent].steps[number]
                    if not self.held[agent].issuperset(step.takes):
                        continue  # given up while it waited, as in the executor
                    self.computed += step.vertices
                    self.take(agent, self.schedules[agent].ran(number), *step.makes)
                case Send(value, to):
                    if value not in self.held[agent]:
                        continue
                    self.crossed.append((agent, to, value))
                    self.schedules[agent].sent(value)
                    self.take(agent, [])
                    self.take(to, self.schedules[to].arrived(value), value)

    def take(self, agent: AgentId, orders: list[Run | Send], *values: Value) -> None:
        self.pending += [(agent, order) for order in orders]
        self.held[agent].update(values)
        self.held[agent].difference_update(self.schedules[agent].freed())


@pytest.mark.parametrize("seed", range(200))
def test_every_vertex_runs_once_and_every_value_crosses_a_link_at_most_once(seed: int) -> None:
    graph, plan = random_case(seed)
    world = World(graph, plan, random.Random(seed))
    world.run()
    assert sorted(world.computed) == list(range(1, len(graph.vertices)))
    assert len(world.crossed) == len(set(world.crossed))
    assert all(schedule.over for schedule in world.schedules.values())
    assert world.schedules[DEVICE].complete


@pytest.mark.parametrize("seed", range(50))
def test_when_a_frame_is_over_only_the_results_are_kept(seed: int) -> None:
    graph, plan = random_case(seed)
    world = World(graph, plan, random.Random(seed))
    world.run()
    for agent, held in world.held.items():
        assert held == (set(graph.results) if agent == DEVICE else set())


@st.composite
def tiled_cases(draw: st.DrawFn) -> tuple[Graph, Plan]:
    """Convolutions, pools and sums on the edge, cut into blocks and tiles for up to four agents; some blocks
    divided again, so that their parts read several values."""
    size, vertices, edges = (
        16,
        [Vertex("input", "input", (TensorSpec((1, 2, 16, 16), "float32"),))],
        list[Edge](),
    )

    def add(kind: str, *sources: int) -> int:
        window = {"max_pool2d": Window((2, 2), (2, 2)), "conv2d": Window((3, 3), (1, 1), (1, 1))}.get(kind)
        number, spec = len(vertices), TensorSpec((1, 2, size, size), "float32")
        vertices.append(Vertex(f"v{number}", kind, (spec,), (kind,), flops=100, window=window))
        edges.extend(Edge(source, number) for source in sources)
        return number

    ends = [0]
    for _ in range(draw(st.integers(1, 5))):
        source = ends[-1]
        match draw(st.sampled_from(["conv2d", "max_pool2d", "sum", "branches"])):
            case "sum":
                ends.append(add("add", source, add("conv2d", add("conv2d", source))))
            case "branches":
                ends.append(add("add", add("conv2d", source), add("conv2d", add("relu", source))))
            case kind:
                size = size // 2 if kind == "max_pool2d" and size >= 8 else size
                ends.append(add(kind if vertices[source].outputs[0].shape[-1] != size else "conv2d", source))
    last = len(vertices) - 1
    graph = Graph("tiled", tuple(vertices), tuple(edges), (Value(last),))
    helpers = [EDGE, AgentId("edge-2"), AgentId("edge-3"), AgentId("edge-4")]
    borders = sorted(draw(st.sets(st.sampled_from(ends[:-1]), min_size=1)) | {last})
    tiles = []
    for source, sink in zip(borders, borders[1:], strict=False):
        section = Block((Value(source),), tuple(range(source + 1, sink + 1)))
        mixing = draw(st.sets(st.sampled_from(section.vertices)))
        for block in divided(graph, section, mixing.__contains__):
            most = min(3, graph.spec(block.sink).shape[-1])
            grid = Grid.even(map_size(graph, block.sink), *draw(st.tuples(*[st.integers(1, most)] * 2)))
            agents = draw(st.lists(st.sampled_from(helpers), min_size=grid.count, max_size=grid.count))
            gather = block.sink == section.sink and draw(st.booleans())
            tiles.append(TiledBlock(block, grid, tuple(agents), gather))
    return graph, Plan((Tier.DEVICE, *(Tier.EDGE,) * last), tuple(tiles))


@given(case=tiled_cases(), seed=st.integers(0, 9))
def test_tiles_are_each_run_once_whatever_arrives_first(case: tuple[Graph, Plan], seed: int) -> None:
    graph, plan = case
    plan.check(graph)
    assert Plan.parse(plan.describe(graph)) == plan
    world = World(graph, plan, random.Random(seed))
    world.run()
    times = Counter(world.computed)
    for tiled in plan.tiles:
        assert all(times.pop(v) == len(tiled.agents) for v in tiled.block.vertices)
    assert all(count == 1 for count in times.values())
    assert len(world.crossed) == len(set(world.crossed))
    assert all(schedule.over for schedule in world.schedules.values())
    made = {value for program in world.programs.values() for step in program.steps for value in step.makes}
    assert {tiled.block.sink for tiled in plan.tiles if tiled.gather} <= made


@given(case=tiled_cases(), seed=st.integers(0, 9), moment=st.integers(0, 40))
def test_an_owner_that_gives_tiles_up_ends_with_the_same_values(
    case: tuple[Graph, Plan], seed: int, moment: int
) -> None:
    """Whenever it does so, and whatever still comes afterwards."""
    graph, plan = case
    world = World(graph, plan, random.Random(seed))
    owner, rescues = world.schedules[EDGE], world.programs[EDGE].rescues
    assert rescues
    world.run(moment)
    for number, rescue in enumerate(rescues):
        if owner.rescue(number):
            assert not owner.rescue(number), "once is enough"
            world.take(EDGE, owner.rescued(number), *rescue.step.makes)
            assert owner.has(rescue.step.makes[0])
    world.run()
    for number in range(len(rescues)):  # a later part may wait for pieces of one that was given up
        if owner.rescue(number):
            world.take(EDGE, owner.rescued(number), *rescues[number].step.makes)
            world.run()
    assert owner.over and world.schedules[DEVICE].complete
    assert not world.held[EDGE]


def test_direct_values_pass_the_edge_by() -> None:
    graph = make_graph([(0, 1), (1, 2), (1, 3), (2, 4), (3, 4)], [4])
    tiers = (Tier.DEVICE, Tier.DEVICE, Tier.EDGE, Tier.CLOUD, Tier.CLOUD)
    plan = Plan(tiers, direct=(Value(1), Value(4)))
    assert Plan.parse(plan.describe(graph)) == plan
    made = programs_for(graph, plan, STAND_INS)
    assert made[DEVICE].forward == {Value(1): (EDGE, CLOUD)}
    assert made[EDGE].forward == {Value(2): (CLOUD,)}
    assert made[CLOUD].forward == {Value(4): (DEVICE,)}
    world = World(graph, plan, random.Random(1))
    world.run()
    assert all(schedule.over for schedule in world.schedules.values())


def test_between_tiled_blocks_only_halos_cross() -> None:
    """Two strips of two 3×3 convolutions: one row each way between the blocks, and no whole map."""
    spec = TensorSpec((1, 1, 8, 8), "float32")
    window = Window((3, 3), (1, 1), (1, 1))
    vertices = (
        Vertex("input", "input", (spec,)),
        *(Vertex(name, "conv2d", (spec,), ("conv2d",), 1, window=window) for name in "ab"),
    )
    graph = Graph("two", vertices, (Edge(0, 1), Edge(1, 2)), (Value(2),))
    helper = AgentId("edge-2")
    grid = Grid((0, 4, 8), (0, 8))
    tiles = tuple(TiledBlock(Block((Value(v),), (v + 1,)), grid, (EDGE, helper)) for v in (0, 1))
    made = programs_for(graph, Plan((Tier.DEVICE, Tier.EDGE, Tier.EDGE), tiles), STAND_INS)

    def rows(vertex: int, start: int, stop: int) -> Value:
        return Value(vertex, 0, Region(Span(start, stop), Span(0, 8)))

    assert made[EDGE].forward == {rows(0, 3, 8): (helper,), rows(1, 3, 4): (helper,), Value(2): (DEVICE,)}
    assert made[EDGE].receives == (Value(0), rows(1, 4, 5), rows(2, 4, 8))
    assert made[helper].forward == {rows(1, 4, 5): (EDGE,), rows(2, 4, 8): (EDGE,)}
    assert [step.takes for step in made[helper].steps] == [
        (rows(0, 3, 8),),
        (rows(1, 3, 4), rows(1, 4, 8)),
    ]


def test_a_value_that_comes_twice_is_the_peers_fault() -> None:
    graph = make_graph([(0, 1), (1, 2)], [2])
    plan = Plan((Tier.DEVICE, Tier.DEVICE, Tier.EDGE))
    schedule = FrameSchedule(programs_for(graph, plan, STAND_INS)[EDGE])
    assert schedule.arrived(Value(1)) == [Run(0)]
    with pytest.raises(RemoteProtocolError, match="twice"):
        schedule.arrived(Value(1))


def test_a_value_that_nobody_needs_here_is_the_peers_fault() -> None:
    graph = make_graph([(0, 1), (1, 2)], [2])
    plan = Plan((Tier.DEVICE, Tier.DEVICE, Tier.EDGE))
    schedule = FrameSchedule(programs_for(graph, plan, STAND_INS)[EDGE])
    with pytest.raises(RemoteProtocolError, match="not expected"):
        schedule.arrived(Value(0))


def test_a_relayed_value_is_sent_before_anything_runs() -> None:
    graph = make_graph([(0, 1), (0, 2), (1, 3), (2, 3)], [3])
    plan = Plan((Tier.DEVICE, Tier.EDGE, Tier.CLOUD, Tier.CLOUD))
    schedule = FrameSchedule(programs_for(graph, plan, STAND_INS)[EDGE])
    orders = schedule.arrived(Value(0))
    assert orders[0] == Send(Value(0), CLOUD)
    assert orders[1] == Run(0)
