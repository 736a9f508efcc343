from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex
from d3bed.core.ids import TIERS, AgentId, Tier
from d3bed.core.plan import Plan, TiledBlock
from d3bed.core.program import STAND_INS, Program, hops, programs_for
from d3bed.core.tiles import Block, Grid

SPEC = TensorSpec((1, 4), "float32")


@st.composite
def planned_graphs(draw: st.DrawFn) -> tuple[Graph, Plan]:
    """A random DAG, some vertices with several outputs, some values results, and a monotone plan."""
    count = draw(st.integers(1, 12))
    outputs = [1] + [draw(st.integers(1, 3)) for _ in range(count)]
    tiers = [Tier.DEVICE]
    edges = []
    for v in range(1, count + 1):
        producers = draw(st.lists(st.integers(0, v - 1), min_size=1, max_size=3, unique=True))
        floor = max(tiers[p].rank for p in producers)
        tiers.append(TIERS[draw(st.integers(floor, 2))])
        for p in sorted(producers):
            read = draw(st.lists(st.integers(0, outputs[p] - 1), min_size=1, unique=True))
            edges.append(Edge(p, v, tuple(sorted(read))))
    values = [Value(v, o) for v in range(1, count + 1) for o in range(outputs[v])]
    extra = draw(st.lists(st.sampled_from(values), max_size=2))
    results = tuple(sorted({Value(count, 0), *extra}))
    vertices = tuple(
        Vertex(f"v{v}", "input" if v == 0 else "conv2d", (SPEC,) * n) for v, n in enumerate(outputs)
    )
    return Graph("made", vertices, tuple(edges), results), Plan(tuple(tiers))


def programs(graph: Graph, plan: Plan) -> dict[Tier, Program]:
    return dict(zip(TIERS, programs_for(graph, plan, STAND_INS).values(), strict=True))


@given(planned_graphs())
def test_a_description_parses_back(case: tuple[Graph, Plan]) -> None:
    graph, plan = case
    plan.check(graph)
    assert Plan.parse(plan.describe()) == plan
    assert Plan.parse(plan.describe(graph)) == plan


@given(planned_graphs())
def test_every_vertex_runs_once_on_its_tier(case: tuple[Graph, Plan]) -> None:
    graph, plan = case
    for tier, program in programs(graph, plan).items():
        assert sorted(program.vertices) == [v for v in plan.segment(tier) if v != 0]


@given(planned_graphs())
def test_each_value_crosses_a_link_once_and_reaches_all_who_need_it(case: tuple[Graph, Plan]) -> None:
    graph, plan = case
    made = programs(graph, plan)
    for value in set(graph.consumers) | set(graph.results):
        has = [plan.tiers[value.vertex]]
        arrivals: list[Tier] = []
        for here in has:  # grows while it is walked: what arrives is passed on
            for there in map(Tier, made[here].forward.get(value, ())):
                arrivals.append(there)
                has.append(there)
        assert len(arrivals) == len(set(arrivals)), "a value arrives at a tier once"
        assert plan.tiers[value.vertex] not in arrivals, "and never where it was made"
        wanted = {plan.tiers[c] for c in graph.consumers.get(value, ())}
        wanted |= {Tier.DEVICE} if value in graph.results else set()
        assert wanted <= set(has)
        assert set(arrivals) == {tier for tier in TIERS if value in made[tier].receives}
        links = hops(graph, plan, value)
        assert len(links) == len(set(links)) == len(arrivals)


@given(planned_graphs())
def test_steps_can_run_in_program_order(case: tuple[Graph, Plan]) -> None:
    graph, plan = case
    for tier, program in programs(graph, plan).items():
        have = set(program.receives) | ({Value(0)} if tier is Tier.DEVICE else set())
        for step in program.steps:
            assert set(step.takes) <= have
            inside: set[int] = set()
            for v in step.vertices:
                for edge in graph.edges:
                    if edge.consumer == v and edge.producer not in inside:
                        assert {Value(edge.producer, o) for o in edge.outputs} <= set(step.takes)
                inside.add(v)
            have |= set(step.makes)
        made_here = {value for value in program.forward if plan.tiers[value.vertex] is tier}
        assert made_here <= have, "what is sent was made"


@given(planned_graphs())
def test_a_step_ends_where_a_value_leaves(case: tuple[Graph, Plan]) -> None:
    graph, plan = case
    for program in programs(graph, plan).values():
        leaving = {value.vertex for value in program.forward}
        for step in program.steps:
            assert not leaving.intersection(step.vertices[:-1])


@given(planned_graphs())
def test_no_vertex_waits_for_a_received_value_that_it_does_not_need(case: tuple[Graph, Plan]) -> None:
    graph, plan = case
    for program in programs(graph, plan).values():
        ancestry: dict[int, set[Value]] = {}
        for v in sorted(program.vertices):
            ancestry[v] = set()
            for edge in (edge for edge in graph.edges if edge.consumer == v):
                read = {Value(edge.producer, o) for o in edge.outputs}
                ancestry[v] |= ancestry.get(edge.producer, set()) | read.intersection(program.receives)
        for step in program.steps:
            assert len({frozenset(ancestry[v]) for v in step.vertices}) == 1


@given(planned_graphs())
def test_without_an_edge_agent_device_and_cloud_are_neighbours(case: tuple[Graph, Plan]) -> None:
    graph, plan = case
    two_tier = Plan(tuple(Tier.CLOUD if t is Tier.EDGE else t for t in plan.tiers))
    route = {tier: STAND_INS[tier] for tier in (Tier.DEVICE, Tier.CLOUD)}
    made = programs_for(graph, two_tier, route)
    assert set(made) == set(route.values())
    for program in made.values():
        assert all(set(ways) <= set(route.values()) for ways in program.forward.values())


def test_description_names_vertices_and_ranges() -> None:
    vertices = tuple(Vertex(n, "input" if n == "in" else "conv2d", (SPEC,)) for n in ("in", "a", "b", "c"))
    graph = Graph("m", vertices, tuple(Edge(v, v + 1) for v in range(3)), (Value(3),))
    plan = Plan((Tier.DEVICE, Tier.DEVICE, Tier.DEVICE, Tier.CLOUD))
    assert plan.describe(graph).splitlines() == [
        "device [0-2] in … b (3 vertices)",
        "edge   []",
        "cloud  [3] c (1 vertex)",
    ]


def tiled(grid: Grid, agents: int) -> Plan:
    on = tuple(AgentId(f"edge-{n}") for n in range(1, agents + 1))
    block = TiledBlock(Block((Value(0),), (1,)), grid, on, gather=True)
    return Plan((Tier.DEVICE, Tier.EDGE), (block,))


def test_tiles_and_shares_of_channels_are_told_and_parse_back() -> None:
    plan = tiled(Grid((0, 7), (0, 3, 7), (0, 64, 128)), 4)
    line = plan.describe().splitlines()[-1]
    assert line.endswith("rows 0,7 columns 0,3,7 channels 0,64,128 on edge-1,edge-2,edge-3,edge-4 gather")
    assert Plan.parse(plan.describe()) == plan
    without = tiled(Grid((0, 7), (0, 3, 7)), 2)
    assert "channels" not in without.describe() and Plan.parse(without.describe()) == without


@pytest.mark.parametrize(
    "grid, agents, problem",
    [
        (Grid((0, 7), (0, 7), (0, 64, 128)), 3, "3 agents for a grid of 1×1×2"),
        (Grid((0, 7), (0, 7), (0, 64, 100)), 2, "do not divide 128 channels"),
        (Grid((0, 7), (0, 7), (0, 128, 64, 128)), 3, "do not divide 128 channels"),
        (Grid((0, 6), (0, 7)), 1, "do not divide a map of 7×7"),
        (Grid((), (0, 7)), 0, "0 agents for a grid"),
    ],
)
def test_tiles_that_do_not_fit_are_refused(grid: Grid, agents: int, problem: str) -> None:
    map_ = (TensorSpec((1, 128, 7, 7), "float32"),)
    vertices = (Vertex("in", "input", map_), Vertex("a", "conv2d", map_))
    graph = Graph("m", vertices, (Edge(0, 1),), (Value(1),))
    with pytest.raises(ValueError, match=problem):
        tiled(grid, agents).check(graph)


@pytest.mark.parametrize(
    "text",
    ["device [0,2]", "device [0-1]\nedge [1]", "fog [0]", "device 0", "device [3-0]", "device [-]"],
)
def test_a_bad_description_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Plan.parse(text)


def test_a_plan_that_flows_back_is_refused() -> None:
    vertices = tuple(Vertex(f"v{v}", "input" if v == 0 else "conv2d", (SPEC,)) for v in range(3))
    graph = Graph("m", vertices, (Edge(0, 1), Edge(1, 2)), (Value(2),))
    device, edge, cloud = TIERS
    with pytest.raises(ValueError, match="back toward the device"):
        Plan((device, cloud, edge)).check(graph)
    with pytest.raises(ValueError, match="input"):
        Plan((edge, edge, edge)).check(graph)
    with pytest.raises(ValueError, match="2 vertices"):
        Plan((device, edge)).check(graph)
    assert Plan((device, edge, cloud)).moved(Plan((device, cloud, cloud))) == (1,)
