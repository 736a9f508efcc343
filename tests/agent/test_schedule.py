"""One frame through one tier's program: orders, freeing, hostile arrivals."""

from __future__ import annotations

import random

import pytest

from d3bed.agent.schedule import FrameSchedule, Run, Send
from d3bed.core.errors import RemoteProtocolError
from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex
from d3bed.core.ids import TIERS, Tier
from d3bed.core.plan import Plan, program_for

_SPEC = TensorSpec((1, 4), "float32")


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
        self.programs = {tier: program_for(graph, plan, tier) for tier in TIERS}
        self.schedules = {
            tier: FrameSchedule(p, frozenset(graph.results) if tier is Tier.DEVICE else frozenset())
            for tier, p in self.programs.items()
        }
        self.pending: list[tuple[Tier, Run | Send]] = []
        self.computed: list[int] = []
        self.crossed: list[tuple[Tier, Tier, Value]] = []

    def run(self) -> None:
        self._take(Tier.DEVICE, self.schedules[Tier.DEVICE].begin(Value(0)))
        while self.pending:
            tier, order = self.pending.pop(self.rng.randrange(len(self.pending)))
            match order:
                case Run(step):
                    self.computed += self.programs[tier].steps[step].vertices
                    self._take(tier, self.schedules[tier].ran(step))
                case Send(value, to):
                    self.crossed.append((tier, to, value))
                    self.schedules[tier].sent(value)
                    self._take(to, self.schedules[to].arrived(value))

    def _take(self, tier: Tier, orders: list[Run | Send]) -> None:
        self.pending += [(tier, order) for order in orders]


@pytest.mark.parametrize("seed", range(200))
def test_every_vertex_runs_once_and_every_value_crosses_a_link_at_most_once(seed: int) -> None:
    graph, plan = random_case(seed)
    world = World(graph, plan, random.Random(seed))
    world.run()
    assert sorted(world.computed) == list(range(1, len(graph.vertices)))
    assert len(world.crossed) == len(set(world.crossed))
    assert all(schedule.over for schedule in world.schedules.values())
    assert world.schedules[Tier.DEVICE].complete


@pytest.mark.parametrize("seed", range(50))
def test_when_a_frame_is_over_only_the_results_are_kept(seed: int) -> None:
    graph, plan = random_case(seed)
    world = World(graph, plan, random.Random(seed))
    world.run()
    values = [Value(v) for v in range(len(graph.vertices))]
    for tier, schedule in world.schedules.items():
        kept = {v for v in values if not schedule.dead(v)}
        assert kept == (set(graph.results) if tier is Tier.DEVICE else set())


def test_a_value_that_comes_twice_is_the_peers_fault() -> None:
    graph = make_graph([(0, 1), (1, 2)], [2])
    plan = Plan((Tier.DEVICE, Tier.DEVICE, Tier.EDGE))
    schedule = FrameSchedule(program_for(graph, plan, Tier.EDGE))
    assert schedule.arrived(Value(1)) == [Run(0)]
    with pytest.raises(RemoteProtocolError, match="twice"):
        schedule.arrived(Value(1))


def test_a_value_that_nobody_needs_here_is_the_peers_fault() -> None:
    graph = make_graph([(0, 1), (1, 2)], [2])
    plan = Plan((Tier.DEVICE, Tier.DEVICE, Tier.EDGE))
    schedule = FrameSchedule(program_for(graph, plan, Tier.EDGE))
    with pytest.raises(RemoteProtocolError, match="not expected"):
        schedule.arrived(Value(0))


def test_a_relayed_value_is_sent_before_anything_runs() -> None:
    graph = make_graph([(0, 1), (0, 2), (1, 3), (2, 3)], [3])
    plan = Plan((Tier.DEVICE, Tier.EDGE, Tier.CLOUD, Tier.CLOUD))
    schedule = FrameSchedule(program_for(graph, plan, Tier.EDGE))
    orders = schedule.arrived(Value(0))
    assert orders[0] == Send(Value(0), Tier.CLOUD)
    assert orders[1] == Run(0)
