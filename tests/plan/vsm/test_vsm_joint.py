"""The tier cut and the tiles, decided together: never worse than without tiles, and rivals left alone."""

from __future__ import annotations

import importlib
import itertools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex, Window
from d3bed.core.ids import TIERS, AgentId, Tier
from d3bed.core.measurements import LinkRate
from d3bed.core.plan import Plan, TiledBlock
from d3bed.plan import STRATEGIES, Choice, Pin, choose, timeline
from d3bed.plan.choose import TILED_STRATEGIES
from d3bed.plan.vsm import METHODS, PIECE_S, TileCosts, tileable_parts
from d3bed.plan.vsm.choose import choose_tiles

PI, VM = AgentId("pi-1"), AgentId("vm")
EDGES = tuple(AgentId(f"edge-{n}") for n in range(1, 5))
RECORDED = Path(__file__).parents[1] / "recorded" / "vertex-times.json"


@dataclass(frozen=True)
class Case:
    """A network, agents and links: everything that `choose` takes."""

    graph: Graph
    profiles: dict[AgentId, tuple[float, ...]]
    agents: dict[AgentId, Tier]
    rates: dict[tuple[AgentId, AgentId], LinkRate]
    pins: tuple[Pin, ...] = ()

    def choose(self, strategy: str, tiling: str = "none", current: Choice | None = None) -> Choice:
        return choose(
            self.graph,
            self.profiles,
            self.agents,
            self.rates,
            PI,
            strategy=strategy,
            tiling=tiling,
            pins=self.pins,
            current=current,
        )

    @property
    def costs(self) -> TileCosts:
        return TileCosts(self.graph, self.profiles, {}, PIECE_S)

    def latency_s(self, plan: Plan, route: dict[Tier, AgentId]) -> float:
        costs = self.costs
        return timeline(
            self.graph, plan, route, self.profiles, self.rates, costs.tile_s, costs.piece_s
        ).latency_s


def convolutions(rng: random.Random, length: int) -> Graph:
    """Convolutions of 3×3 on a map of 24×24, some with stride 2, some in residual sums; then a classifier."""
    vertices = [Vertex("input", "input", (TensorSpec((1, 3, 24, 24), "uint8"),))]
    edges: list[Edge] = []
    size, last = 24, 0
    while len(vertices) <= length:
        stride = 2 if size > 8 and rng.random() < 0.3 else 1
        size = (size - 1) // stride + 1
        spec = (TensorSpec((1, rng.choice([8, 32, 64]), size, size), "float32"),)
        window = Window((3, 3), (stride, stride), (1, 1))
        first = len(vertices)
        vertices.append(Vertex(f"conv{first}", "conv2d", spec, ("conv2d",), 10**7, 1000, window))
        edges.append(Edge(last, first))
        if rng.random() < 0.3:
            same = Window((3, 3), (1, 1), (1, 1))
            vertices.append(Vertex(f"conv{first + 1}", "conv2d", spec, ("conv2d",), 10**7, 1000, same))
            vertices.append(Vertex(f"add{first + 2}", "add", spec, ("add",), 10**4))
            edges += [Edge(first, first + 1), Edge(first, first + 2), Edge(first + 1, first + 2)]
        last = len(vertices) - 1
    vertices.append(Vertex("fc", "linear", (TensorSpec((1, 10), "float32"),), ("linear",), 10**5, 10**4))
    edges.append(Edge(last, last + 1))
    return Graph(
        "made",
        tuple(vertices),
        tuple(sorted(edges, key=lambda e: (e.producer, e.consumer))),
        (Value(last + 1),),
    )


def linked(rng: random.Random, agents: dict[AgentId, Tier]) -> dict[tuple[AgentId, AgentId], LinkRate]:
    rates = {}
    for (here, on), (there, at) in itertools.permutations(agents.items(), 2):
        if {on, at} != {TIERS[0], TIERS[2]}:
            rates[here, there] = LinkRate(10 ** rng.uniform(5.5, 8.5), rng.choice([0.0, 2e-4, 2e-3]))
    return rates


def random_case(seed: int, length: int = 8) -> Case:
    """Times vary by vertex and agent, so that optima are mixed."""
    rng = random.Random(seed)
    graph = convolutions(rng, length)
    agents = {PI: TIERS[0], **dict.fromkeys(EDGES[: rng.randint(1, 4)], TIERS[1]), VM: TIERS[2]}
    slowness = {TIERS[0]: rng.uniform(2, 8), TIERS[1]: rng.uniform(1, 3), TIERS[2]: rng.uniform(0.2, 1.5)}
    work_s = [rng.lognormvariate(0, 0.7) * 5e-3 for _ in graph.vertices]
    spread = rng.choice([0.05, 0.5])
    profiles = {
        agent: (0.0, *(w * slowness[tier] * rng.lognormvariate(0, spread) for w in work_s[1:]))
        for agent, tier in agents.items()
    }
    pins = (Pin("conv1", (TIERS[0],)),) if rng.random() < 0.3 else ()
    return Case(graph, profiles, agents, linked(rng, agents), pins)


def said(choice: Choice) -> Choice:
    """Without how long planning took."""
    return msgspec.structs.replace(choice, solution=msgspec.structs.replace(choice.solution, plan_time_s=0.0))


def cheapest(case: Case) -> float:
    """The least predicted latency over all cuts and owners, each with the best tiles for it."""
    graph, costs, tiles = (
        case.graph,
        case.costs,
        dict[tuple[AgentId, tuple[int, ...]], tuple[TiledBlock, ...]](),
    )
    edges = [agent for agent, tier in case.agents.items() if tier is TIERS[1]]
    least_s = float("inf")
    for ranks in itertools.product(range(3), repeat=len(graph.vertices) - 1):
        tiers = (TIERS[0], *(TIERS[rank] for rank in ranks))
        fits = all(tiers[graph.index[pin.vertices]] in pin.tiers for pin in case.pins)
        if not fits or any(tiers[e.producer].rank > tiers[e.consumer].rank for e in graph.edges):
            continue
        segment = tuple(v for v, tier in enumerate(tiers) if tier is TIERS[1])
        for owner in edges:
            if (owner, segment) not in tiles:
                team = [owner, *(agent for agent in edges if agent != owner)]
                tiles[owner, segment] = tuple(
                    block
                    for part in tileable_parts(graph, set(segment))
                    for block in choose_tiles(graph, part, team, costs, case.rates).blocks
                )
            plan = Plan(tiers, tiles=tiles[owner, segment])
            least_s = min(least_s, case.latency_s(plan, dict(zip(TIERS, (PI, owner, VM), strict=True))))
    return least_s


@pytest.mark.parametrize("strategy", TILED_STRATEGIES)
def test_tiles_never_make_a_plan_worse(strategy: str) -> None:
    tiled = 0
    for seed in range(40):
        case = random_case(seed)
        plain, shared = case.choose(strategy), case.choose(strategy, "vsm")
        assert shared.timeline.latency_s <= plain.timeline.latency_s
        assert case.latency_s(shared.plan, shared.route) == pytest.approx(shared.timeline.latency_s)
        if shared.plan.tiles:
            tiled += 1
            assert shared.timeline.latency_s < plain.timeline.latency_s
            inside = {v for block in shared.plan.tiles for v in block.block.vertices}
            assert inside <= set(shared.plan.segment(TIERS[1]))
            assert all(block.agents[0] == shared.route[TIERS[1]] for block in shared.plan.tiles)
        else:
            assert said(shared) == said(plain)
    assert tiled >= 5


@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - set(TILED_STRATEGIES)))
def test_rivals_know_nothing_of_tiles(strategy: str) -> None:
    for seed in range(20):
        case = random_case(seed)
        assert said(case.choose(strategy, "vsm")) == said(case.choose(strategy))


def test_more_rounds_of_cutting_and_tiling_never_cost_more(monkeypatch: pytest.MonkeyPatch) -> None:
    gained = 0
    for seed in range(30):
        seconds = []
        for rounds in range(5):
            monkeypatch.setattr(importlib.import_module("d3bed.plan.choose"), "_MOST_ROUNDS", rounds)
            seconds.append(random_case(seed).choose("optimal", "vsm").timeline.latency_s)
        assert seconds == sorted(seconds, reverse=True)
        gained += seconds[-1] < seconds[0]
    assert gained >= 5


@pytest.mark.parametrize("seed", range(8))
def test_no_other_cut_and_owner_would_be_much_faster(seed: int) -> None:
    case = random_case(seed, 4)
    assert case.choose("optimal", "vsm").timeline.latency_s <= cheapest(case) * 1.05


def test_the_owner_is_the_agent_that_is_best_placed_for_tiles() -> None:
    """Alone, the fastest edge agent would do: but the photo gets to another much sooner."""
    case = random_case(0)
    rates = {way: LinkRate(1e8, 2e-4) for way in itertools.permutations(case.agents, 2)}
    fast, near = EDGES[0], EDGES[1]
    work_s = (0.0, *[8e-3] * (len(case.graph.vertices) - 1))
    profiles = {**dict.fromkeys(case.agents, work_s), PI: tuple(50 * t for t in work_s)}
    profiles[VM] = profiles[PI]
    profiles[fast] = tuple(0.8 * t for t in work_s)
    for way in rates:
        if PI in way and near not in way:
            rates[way] = LinkRate(2.5e5, 2e-4)
    case = Case(case.graph, profiles, case.agents, rates)
    assert case.choose("edge").route[TIERS[1]] == fast
    found = case.choose("edge", "vsm")
    assert found.route[TIERS[1]] == near
    assert fast in found.plan.tile_agents


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["alexnet", "vgg16", "resnet18"])
def test_recorded_networks_gain_or_stay(name: str, method: str, graphs: Callable[[str], Graph]) -> None:
    graph = graphs(name)
    rows = json.loads(RECORDED.read_text())["networks"][name]
    work_s = (0.0, *(row[-1] * 1e-6 for row in rows))
    agents = {PI: TIERS[0], **dict.fromkeys(EDGES, TIERS[1]), VM: TIERS[2]}
    speeds = {PI: 0.1, **dict.fromkeys(EDGES, 0.3), VM: 1.0}
    profiles = {agent: tuple(t / speeds[agent] for t in work_s) for agent in agents}
    for to_cloud_bytes_per_s in (6e5, 1e7):
        rates = {way: LinkRate(1.2e8, 3e-4) for way in itertools.permutations(agents, 2)}
        rates |= {way: LinkRate(to_cloud_bytes_per_s, 1e-2) for way in rates if VM in way}
        rates |= {way: LinkRate(1e7, 2e-3) for way in rates if PI in way}
        rates = {way: rate for way, rate in rates.items() if not {PI, VM} <= set(way)}
        case = Case(graph, profiles, agents, rates)
        for strategy in ("optimal", "hpa", "edge"):
            plain, shared = case.choose(strategy), case.choose(strategy, method)
            assert shared.timeline.latency_s <= plain.timeline.latency_s
    # On the edge alone there is much to gain.
    if method == "vsm":
        assert shared.timeline.latency_s < 0.8 * plain.timeline.latency_s
