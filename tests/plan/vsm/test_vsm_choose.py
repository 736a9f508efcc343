"""Chosen tiles are the fastest there are, are never slower than one agent, and run as predicted."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from d3bed.core.errors import PlanInfeasible
from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex, Window
from d3bed.core.ids import AgentId, Tier
from d3bed.core.measurements import LinkRate
from d3bed.core.plan import Plan
from d3bed.core.regions import cut_channels
from d3bed.core.tiles import Grid, Tiling, map_size, pieces, tiling
from d3bed.plan import timeline
from d3bed.plan.vsm import METHODS, Part, TileCosts, tileable_parts
from d3bed.plan.vsm.choose import TileChoice, _balanced, _bands, choose_tiles

if TYPE_CHECKING:
    from tests.plan.vsm.conftest import Tools

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
slow = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])

AGENTS = tuple(AgentId(f"edge-{i}") for i in range(1, 9))
Rates = dict[tuple[AgentId, AgentId], LinkRate]
RECORDED = Path(__file__).parents[1] / "recorded" / "vertex-times.json"


def linked(agents: Sequence[AgentId], bytes_per_s: float, latency_s: float = 0.0) -> Rates:
    return {pair: LinkRate(bytes_per_s, latency_s) for pair in itertools.permutations(agents, 2)}


def recorded_s(name: str, graph: Graph, speed: float = 1.0) -> tuple[float, ...]:
    rows = json.loads(RECORDED.read_text())["networks"][name]
    assert len(rows) == len(graph.vertices) - 1
    return (0.0, *(row[-1] * 1e-6 / speed for row in rows))


def chain(rng: random.Random, length: int) -> tuple[Graph, Part]:
    """Convolutions of 3×3, some with stride 2, on a map of 12×12."""
    vertices = [Vertex("input", "input", (TensorSpec((1, 3, 12, 12), "float32"),))]
    size = 12
    for number in range(1, length + 1):
        stride = 2 if size > 6 and rng.random() < 0.3 else 1
        size = (size - 1) // stride + 1
        shape = (1, rng.choice([2, 8, 32]), size, size)
        window = Window((3, 3), (stride, stride), (1, 1))
        spec = (TensorSpec(shape, "float32"),)
        vertices.append(Vertex(f"conv{number}", "conv2d", spec, ("conv2d",), 10**6, 0, window))
    edges = tuple(Edge(v, v + 1) for v in range(length))
    graph = Graph("chain", tuple(vertices), edges, (Value(length),))
    (part,) = tileable_parts(graph)
    return graph, part


class Everything:
    """Every way through a part, costed from the tiles that would really be run."""

    def __init__(self, graph: Graph, part: Part, agents: int, costs: TileCosts, rates: Rates) -> None:
        self.graph, self.part, self.costs, self.rates, self.agents = graph, part, costs, rates, agents
        self.known: dict[tuple[int, int, tuple[int, ...]], Tiling | None] = {}

    def fastest_s(self, border: int = 0, held: Tiling | None = None) -> float:
        part, end = self.part, len(self.part.borders) - 1
        ways = [] if border < end or held is not None else [0.0]
        if held is not None:
            ways.append(self.gather_s(held) + self.fastest_s(border))
        elif border < end:
            block = part.block(border, border + 1)
            alone_s = sum(self.costs.times_s[AGENTS[0]][v] for v in block.vertices)
            ways.append(alone_s + self.fastest_s(border + 1))
        for last in range(border + 1, end + 1):
            for made in self.tilings(border, last):
                ways.append(self.block_s(held, made) + self.fastest_s(last, made))
        return min(ways)

    def tilings(self, first: int, last: int) -> Iterator[Tiling]:
        _, channels, height, width = self.graph.spec(self.part.borders[last]).shape
        for count in range(2, self.agents + 1):
            shapes = [(rows, count // rows) for rows in range(1, count + 1) if count % rows == 0]
            for shape in (*shapes, (count,)):
                key = (first, last, shape)
                if key not in self.known:
                    try:
                        if len(shape) == 2:
                            grid = Grid.even((height, width), *shape)
                        else:
                            grid = Grid((0, height), (0, width), cut_channels(channels, [1] * count))
                        self.known[key] = tiling(self.graph, self.part.block(first, last), grid)
                    except PlanInfeasible:
                        self.known[key] = None
                if (made := self.known[key]) is not None:
                    yield made

    def sent_s(self, here: int, there: int, nbytes: int) -> float:
        if here == there:
            return 0.0
        rate = self.rates[AGENTS[here], AGENTS[there]]
        return rate.latency_s + nbytes / rate.bytes_per_s

    def gather_s(self, held: Tiling) -> float:
        return max(self.sent_s(i, 0, tile.output_bytes) for i, tile in enumerate(held.tiles))

    def block_s(self, held: Tiling | None, made: Tiling) -> float:
        latest = 0.0
        for i, tile in enumerate(made.tiles):
            if held is None:
                waited = self.sent_s(0, i, tile.input_bytes)
            else:
                waited = max(self.sent_s(p.tile, i, p.nbytes) for p in pieces(held, made)[i])
            latest = max(latest, waited + self.costs.tile_s(AGENTS[i], tile))
        return latest


@pytest.mark.parametrize("seed", range(30))
def test_no_way_through_a_chain_is_faster(seed: int) -> None:
    rng = random.Random(seed)
    graph, part = chain(rng, rng.randint(1, 4))
    count = rng.randint(2, 4 if len(part.borders) < 5 else 3)
    times_s = (0.0, *(rng.uniform(0.2e-3, 2e-3) for _ in graph.vertices[1:]))
    fixed_s = tuple(t * rng.uniform(0, 0.3) for t in times_s)
    agents = AGENTS[:count]
    costs = TileCosts(graph, dict.fromkeys(agents, times_s), dict.fromkeys(agents, fixed_s))
    rates = linked(agents, 10 ** rng.uniform(6.5, 8.5), rng.choice([0.0, 1e-4]))
    choice = choose_tiles(graph, part, agents, costs, rates)
    best_s = Everything(graph, part, count, costs, rates).fastest_s()
    assert choice.predicted_s == pytest.approx(best_s, rel=1e-9)


def played_s(graph: Graph, choice: TileChoice, costs: TileCosts, rates: Rates) -> float:
    """What the timeline says of a frame whose layers are all on the edge; other links take no time."""
    device = AgentId("pi")
    plan = Plan((Tier.DEVICE, *[Tier.EDGE] * (len(graph.vertices) - 1)), choice.blocks)
    near = linked((device, AGENTS[0]), float("inf"))
    route = {Tier.DEVICE: device, Tier.EDGE: AGENTS[0]}
    times_s = {**costs.times_s, device: (0.0,) * len(graph.vertices)}
    return timeline(graph, plan, route, times_s, {**rates, **near}, costs.tile_s).latency_s


@slow
@given(data=st.data())
def test_tiles_are_never_slower_than_one_agent_nor_than_predicted(data: st.DataObject, tools: Tools) -> None:
    net = data.draw(tools.nets())
    assume(len(net.vertices) > 1 and net.vertices[-1].outputs[0].shape[2:] != (1, 1))
    graph, part = net.graph, net.part
    agents = AGENTS[: data.draw(st.integers(1, 5))]
    seconds = st.floats(1e-5, 1e-2)
    work_s = [0.0, *(data.draw(seconds) for _ in graph.vertices[1:])]
    costs = TileCosts(
        graph, {a: [t / data.draw(st.sampled_from([1.0, 0.5])) for t in work_s] for a in agents}
    )
    speeds = st.sampled_from([1e5, 1e7, 1e9])
    rates = {
        pair: LinkRate(data.draw(speeds), data.draw(st.sampled_from([0.0, 1e-3])))
        for pair in itertools.permutations(agents, 2)
    }
    found = {m: choose_tiles(graph, part, agents, costs, rates, method=m) for m in METHODS}
    for choice in found.values():
        assert found["vsm"].predicted_s <= choice.predicted_s * (1 + 1e-9)
        assert choice.predicted_s <= choice.alone_s
        assert bool(choice.blocks) == (choice.predicted_s < choice.alone_s) == (not choice.reason)
        outside_s = sum(
            costs.times_s[agents[0]][v] for v in range(len(graph.vertices)) if v not in part.vertices
        )
        played = played_s(graph, choice, costs, rates)
        assert played <= (choice.predicted_s + outside_s) * (1 + 1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_faster_links_never_make_it_slower(method: str) -> None:
    graph, part = chain(random.Random(3), 6)
    agents = AGENTS[:4]
    costs = TileCosts(graph, dict.fromkeys(agents, (0.0, *[2e-3] * 6)))
    seconds = [
        choose_tiles(graph, part, agents, costs, linked(agents, 10**power, 1e-4), method=method).predicted_s
        for power in (4, 5, 6, 7, 8, 9, 10)
    ]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[-1] < seconds[0]


def test_late_layers_are_shared_by_channels_in_proportion_to_speed(
    graphs: Callable[[str], Graph],
) -> None:
    graph, agents = graphs("alexnet"), AGENTS[:4]
    (part,) = tileable_parts(graph)
    speeds = dict(zip(agents, (0.1, 0.05, 0.1, 0.1), strict=True))
    costs = TileCosts(graph, {agent: recorded_s("alexnet", graph, speed) for agent, speed in speeds.items()})
    found = {
        m: choose_tiles(graph, part, agents, costs, linked(agents, 1.25e8, 3e-4), method=m) for m in METHODS
    }
    assert all(not tiled.grid.channels for m in METHODS if m != "vsm" for tiled in found[m].blocks)
    last = found["vsm"].blocks[-1]
    assert last.grid.shape == (1, 1) and graph.vertices[last.block.vertices[0]].name == "features.10"
    shares = dict(zip(last.agents, (band.length for band in last.grid.bands(2)), strict=True))
    assert shares.pop(agents[1]) == 32 and sorted(shares.values()) == [64, 80, 80]
    assert tiling(graph, last.block, last.grid).redundancy == 1


def test_one_agent_tiles_nothing() -> None:
    graph, part = chain(random.Random(3), 4)
    costs = TileCosts(graph, {AGENTS[0]: (0.0, *[2e-3] * 4)})
    choice = choose_tiles(graph, part, AGENTS[:1], costs, {})
    assert not choice.blocks
    assert choice.predicted_s == choice.alone_s == pytest.approx(8e-3)
    assert choice.reason == "no other edge agent is linked with it"


def test_where_transfers_cost_more_than_they_save_the_reason_has_both_times() -> None:
    graph, part = chain(random.Random(3), 4)
    costs = TileCosts(graph, dict.fromkeys(AGENTS[:3], (0.0, *[2e-3] * 4)))
    choice = choose_tiles(graph, part, AGENTS[:3], costs, linked(AGENTS[:3], 1e4))
    assert not choice.blocks
    assert choice.reason.startswith("one agent takes 8.0 ms, the best tiles ")


def test_equal_agents_may_change_places() -> None:
    graph, part = chain(random.Random(5), 5)
    costs = TileCosts(graph, dict.fromkeys(AGENTS[:4], (0.0, *[2e-3] * 5)))
    rates = linked(AGENTS[:4], 1e8)
    found = [choose_tiles(graph, part, order, costs, rates) for order in itertools.permutations(AGENTS[:4])]
    assert len({choice.predicted_s for choice in found}) == 1
    assert len({tuple((b.block, b.grid) for b in choice.blocks) for choice in found}) == 1
    assert found[0].blocks


def test_a_helper_behind_a_dead_slow_link_is_not_used() -> None:
    graph, part = chain(random.Random(5), 5)
    # The fastest of all, but nothing gets there.
    times_s = {a: (0.0, *[2e-3] * 5) for a in AGENTS[:4]} | {AGENTS[1]: (0.0, *[1e-3] * 5)}
    rates = linked(AGENTS[:4], 1e8)
    for pair in rates:
        if AGENTS[1] in pair:
            rates[pair] = LinkRate(1e3, 0.5)
    choice = choose_tiles(graph, part, AGENTS[:4], TileCosts(graph, times_s), rates)
    assert {agent for tiled in choice.blocks for agent in tiled.agents} == set(AGENTS[:4]) - {AGENTS[1]}


def test_a_helper_without_links_to_all_others_is_left_out() -> None:
    graph, part = chain(random.Random(5), 5)
    costs = TileCosts(graph, dict.fromkeys(AGENTS[:3], (0.0, *[2e-3] * 5)))
    rates = linked(AGENTS[:3], 1e8)
    del rates[AGENTS[2], AGENTS[1]]
    choice = choose_tiles(graph, part, AGENTS[:3], costs, rates)
    assert {agent for tiled in choice.blocks for agent in tiled.agents} == set(AGENTS[:2])


def test_rivals_do_only_what_they_can(graphs: Callable[[str], Graph]) -> None:
    graph = graphs("vgg16")
    (part,) = tileable_parts(graph)
    costs = TileCosts(graph, dict.fromkeys(AGENTS[:4], recorded_s("vgg16", graph)))
    rates = linked(AGENTS[:4], 1.25e8, 3e-4)
    found = {m: choose_tiles(graph, part, AGENTS[:4], costs, rates, method=m) for m in METHODS}
    assert len(found["deepthings"].blocks) == 1
    assert found["deepthings"].blocks[0].block.sources[0] == part.borders[0]
    for tiled in found["modnn"].blocks:
        assert len(tiled.block.vertices) == 1
        assert 1 in tiled.grid.shape
    for method in ("aofl", "modnn"):
        for tiled, after in itertools.pairwise(found[method].blocks):
            assert tiled.gather == (after.block.sources[0] == tiled.block.sink)
    assert not any(tiled.gather for tiled in found["vsm"].blocks)


@pytest.mark.parametrize("name, least", [("vgg16", 3.0), ("darknet53", 2.2), ("resnet18", 2.0)])
def test_four_agents_on_a_fast_network(name: str, least: float, graphs: Callable[[str], Graph]) -> None:
    graph = graphs(name)
    (part,) = tileable_parts(graph)
    costs = TileCosts(graph, dict.fromkeys(AGENTS[:4], recorded_s(name, graph)))
    choice = choose_tiles(graph, part, AGENTS[:4], costs, linked(AGENTS[:4], 1.25e8, 3e-4))
    assert choice.speed_up > least


@pytest.mark.parametrize("name, share", [("vgg16", 0.8), ("darknet53", 0.65), ("resnet18", 0.6)])
def test_a_slow_agent_gets_a_small_tile(name: str, share: float, graphs: Callable[[str], Graph]) -> None:
    """As a share of what the summed speed allows; fixed parts, which do not shrink, are what is lost."""
    graph = graphs(name)
    (part,) = tileable_parts(graph)
    times_s = recorded_s(name, graph)
    slow_s = recorded_s(name, graph, 0.5)
    costs = TileCosts(graph, {**dict.fromkeys(AGENTS[:3], times_s), AGENTS[3]: slow_s})
    choice = choose_tiles(graph, part, AGENTS[:4], costs, linked(AGENTS[:4], 1.25e9, 1e-4))
    assert choice.speed_up > share * 3.5


@pytest.mark.parametrize("name, count, most_s", [("vgg16", 4, 1.0), ("inception_v4", 8, 20.0)])
def test_choosing_takes_little_time(
    name: str, count: int, most_s: float, graphs: Callable[[str], Graph]
) -> None:
    """28 and 300 ms of the processor on x86-64; the bounds only catch another order of growth."""
    graph = graphs(name)
    (part,) = tileable_parts(graph)
    agents = AGENTS[:count]
    costs = TileCosts(graph, dict.fromkeys(agents, recorded_s(name, graph)))
    rates = linked(agents, 1.25e8, 3e-4)
    spent = []
    for _ in range(3):
        began_s = time.thread_time()
        choose_tiles(graph, part, agents, costs, rates)
        spent.append(time.thread_time() - began_s)
    assert min(spent) < most_s


def test_cuts_follow_the_layers_that_they_are_made_for(graphs: Callable[[str], Graph]) -> None:
    """A slow agent gets the less of a map the more of the time does not depend on the tile."""
    graph = graphs("resnet18")
    (part,) = tileable_parts(graph)
    times_s, slow_s = recorded_s("resnet18", graph), recorded_s("resnet18", graph, 0.5)
    costs = TileCosts(graph, {AGENTS[0]: times_s, AGENTS[1]: slow_s})
    choice = choose_tiles(graph, part, AGENTS[:2], costs, linked(AGENTS[:2], 1.25e9))
    assert choice.blocks
    shares = {
        cuts[1] / cuts[-1] for b in choice.blocks for cuts in (b.grid.rows, b.grid.columns) if cuts[1:-1]
    }
    assert len(shares) > 1 and min(shares) > 0.5


@given(
    times=st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 1)), min_size=2, max_size=4),
    size=st.integers(4, 9),
)
def test_no_other_cut_into_bands_is_over_sooner(times: list[tuple[float, float]], size: int) -> None:
    fixed_s, slope_s = [fixed for fixed, _ in times], [slope for _, slope in times]

    def longest_s(lengths: Sequence[int]) -> float:
        return max(f + s * n / size for f, s, n in zip(fixed_s, slope_s, lengths, strict=True))

    cuts = _bands(size, fixed_s, slope_s)
    found = [b - a for a, b in itertools.pairwise(cuts)]
    assert cuts[0] == 0 and cuts[-1] == size and min(found) >= 1
    others = (
        lengths
        for lengths in itertools.product(range(1, size + 1), repeat=len(times))
        if sum(lengths) == size
    )
    assert longest_s(found) <= min(map(longest_s, others)) * (1 + 1e-9)


@pytest.mark.parametrize("shape", [(4, 1), (1, 4)])
def test_strips_between_others_are_narrower_where_a_block_overlaps(
    shape: tuple[int, int], graphs: Callable[[str], Graph]
) -> None:
    graph = graphs("resnet18")
    (part,) = tileable_parts(graph)
    names = [graph.vertices[border.vertex].name for border in part.borders]
    block = part.block(names.index("maxpool"), names.index("layer1.1.add"))  # four convolutions of 3×3
    agents = AGENTS[:4]
    costs = TileCosts(graph, dict.fromkeys(agents, recorded_s("resnet18", graph)))
    even = Grid.even(map_size(graph, block.sink), *shape)
    found = _balanced(graph, block, even, agents, costs)

    def longest_s(grid: Grid) -> float:
        return max(costs.tile_s(AGENTS[0], tile) for tile in tiling(graph, block, grid).tiles)

    first, *between, last = (span.length for span in found.bands(shape.index(4)))
    assert first == last > max(between)
    assert longest_s(found) < longest_s(even)
