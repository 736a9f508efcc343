"""A section divided inside gives the whole map, block by block from what the planner says alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st

from d3bed.core.errors import PlanInfeasible
from d3bed.core.graph import Graph, Value, Window
from d3bed.core.ids import AgentId, Tier
from d3bed.core.measurements import LinkRate
from d3bed.core.plan import Plan, TiledBlock
from d3bed.core.program import moved_bytes
from d3bed.core.regions import cut_channels
from d3bed.core.tiles import Block, Grid, Tiling, largest_grid, pieces, tiling
from d3bed.plan import timeline
from d3bed.plan.vsm import PIECE_S, TileCosts, inside, tileable_parts
from d3bed.plan.vsm.choose import choose_tiles
from d3bed.plan.vsm.inside import Ways, divided, division

if TYPE_CHECKING:
    from tests.plan.vsm.conftest import Net, Tools

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
slow = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])

AGENTS = tuple(AgentId(f"edge-{i}") for i in range(1, 5))


def fitting(graph: Graph, block: Block, grid: Grid) -> Tiling:
    """Under the drawn grid or, where that leaves a tile nothing but padding, the largest that does not."""
    try:
        return tiling(graph, block, grid)
    except PlanInfeasible:
        pass
    try:
        return tiling(graph, block, largest_grid(graph, block, *grid.shape))
    except PlanInfeasible:
        reject()


def drawn(data: st.DataObject, tools: Tools) -> tuple[Net, Block, tuple[Block, ...]]:
    """A network whose one part is divided behind any of its vertices."""
    net: Net = data.draw(tools.nets())
    assume(len(net.vertices) > 2 and net.vertices[-1].outputs[0].shape[2:] != (1, 1))
    section = net.block
    mixing = data.draw(st.sets(st.sampled_from(section.vertices)))
    blocks = divided(net.graph, section, mixing.__contains__)
    assume(len(blocks) > 1)
    return net, section, blocks


@slow
@given(data=st.data())
def test_blocks_of_a_section_are_all_of_it_and_come_after_what_they_read(
    data: st.DataObject, tools: Tools
) -> None:
    net, section, blocks = drawn(data, tools)
    assert sorted(v for block in blocks for v in block.vertices) == list(section.vertices)
    made = set(section.sources)
    for block in blocks:
        assert list(block.problems(net.graph)) == []
        assert made.issuperset(block.sources)
        made.add(block.sink)
    assert blocks[-1].sink == section.sink


@slow
@given(data=st.data())
def test_tiles_of_several_sources_joined_are_the_whole_map(data: st.DataObject, tools: Tools) -> None:
    """Every block under a grid of its own; each tile of what pieces of the tiles before it hold."""
    net, section, blocks = drawn(data, tools)
    graph = net.graph
    image = torch.randn(net.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    held: dict[Value, tuple[Tiling, list[torch.Tensor]]] = {}
    for block in blocks:
        now = fitting(graph, block, data.draw(tools.grids(graph.spec(block.sink).shape)))
        taken: list[dict[int, torch.Tensor]] = [{} for _ in now.tiles]
        for which, source in enumerate(block.sources):
            for number, tile in enumerate(now.tiles):
                region = tile.takes[which]
                if source not in held:
                    taken[number][source.vertex] = tools.crop(image, region)
                    continue
                before, tensors = held[source]
                parts = [
                    (
                        piece.region.within(region),
                        tools.crop(tensors[piece.tile], piece.region.within(before.makes[piece.tile])),
                    )
                    for piece in pieces(before, now)[number]
                ]
                shape = graph.spec(Value(source.vertex, source.output, region)).shape
                taken[number][source.vertex] = tools.join(parts, shape)
        held[block.sink] = now, [net.run_tile(*each) for each in zip(now.tiles, taken, strict=True)]
    made, tensors = held[section.sink]
    joined = tools.join(list(zip(made.makes, tensors, strict=True)), graph.spec(section.sink).shape)
    torch.testing.assert_close(joined, net.run(image)[section.sink.vertex])


@slow
@given(data=st.data())
def test_a_tile_takes_of_each_source_just_what_changes_it(data: st.DataObject, tools: Tools) -> None:
    """One NaN at each position of each source in turn: which outputs of the block does it reach?"""
    net, _, blocks = drawn(data, tools)
    block = data.draw(st.sampled_from([b for b in blocks if len(b.sources) > 1] or [reject()]))
    graph = net.graph
    cut_up = fitting(graph, block, data.draw(tools.grids(graph.spec(block.sink).shape)))
    for which, source in enumerate(block.sources):
        _, channels, height, width = graph.spec(source).shape
        assume(height * width <= 200)
        count, places = height * width, torch.arange(height * width)
        values = {
            s: torch.zeros((count, *graph.spec(s).shape[1:]), dtype=torch.float64) for s in block.sources
        }
        values[source][places, :, places // width, places % width] = torch.nan
        reached = net.run_from({s.vertex: v for s, v in values.items()}, block.vertices).isnan()
        for takes, makes in zip(cut_up.takes, cut_up.makes, strict=True):
            changing = tools.crop(reached, makes).flatten(1).any(1).reshape(height, width)
            rows, columns = (changing.any(axis).nonzero() for axis in (1, 0))
            if len(rows):
                assert takes[which].rows.start <= int(rows.min()) <= int(rows.max()) < takes[which].rows.stop
                assert takes[which].columns.start <= int(columns.min())
                assert int(columns.max()) < takes[which].columns.stop


def unit(tools: Tools, channels: int = 4) -> Net:
    """A residual unit on a map of 8×8."""
    net = tools.net((1, channels, 8, 8))
    window = Window((3, 3), (1, 1), (1, 1))
    first = net.add("conv2d", 0, window=window)
    net.add("add", 0, net.add("conv2d", first, window=window))
    return net


def test_what_an_agent_was_sent_before_is_not_sent_again(tools: Tools) -> None:
    """Channels of a unit: its source is needed whole, then once more in part."""
    net = unit(tools)
    graph, part = net.graph, net.part
    first, second = divided(graph, part.block(), lambda v: graph.vertices[v].kind == "conv2d")
    assert (first.sources, second.sources) == ((Value(0),), (Value(0), Value(1)))
    halves = Grid((0, 8), (0, 8), cut_channels(4, [1, 1]))
    tiles = [TiledBlock(block, halves, AGENTS[:2]) for block in (first, second)]
    size = 8 * 8 * 8
    assert moved_bytes(graph, tiles, AGENTS[0]) == [(4 * size, 0), (4 * size, 2 * size)]


def test_a_unit_divided_by_channels_computes_nothing_twice(tools: Tools) -> None:
    net = unit(tools)
    graph, section = net.graph, net.part.block()
    agents = AGENTS[:2]
    costs = TileCosts(graph, dict.fromkeys(agents, (0.0, *[1e-2] * 3)))
    ways = Ways([[0.0] * 2] * 2, [[0.0] * 2] * 2)
    grid = Grid((0, 8), (0, 8), cut_channels(4, [1, 1]))
    assert tiling(graph, section, grid).redundancy > 1.4
    found = division(graph, section, grid, agents, costs, ways)
    assert found is not None
    assert [len(block.vertices) for block, _ in found.blocks] == [1, 2]
    assert all(tiling(graph, *each).redundancy == 1 for each in found.blocks)


@pytest.mark.parametrize("name", ["resnet18", "inception_v4"])
def test_exchanging_inside_is_predicted_to_pay(
    name: str,
    graphs: Callable[[str], Graph],
    recorded: Callable[[str, Graph], tuple[float, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On agents ten times slower than the recorded machine: by the planner's sum and by the timeline, which
    plays what agents really do. The sum is on the safe side."""
    graph = graphs(name)
    (part,) = tileable_parts(graph)
    device = AgentId("pi")
    slow_s = tuple(10 * time_s for time_s in recorded(name, graph))
    times_s = {**dict.fromkeys(AGENTS, slow_s), device: (0.0,) * len(graph.vertices)}
    costs = TileCosts(graph, times_s, {}, PIECE_S)
    rates = {way: LinkRate(1.25e8, 2e-4) for way in itertools.permutations(AGENTS, 2)}
    near = {way: LinkRate(float("inf"), 0.0) for way in itertools.permutations((device, AGENTS[0]), 2)}
    played_s, predicted_s = [], []
    for allowed in (False, True):
        if not allowed:
            monkeypatch.setattr(inside, "divided", lambda graph, section, mixes: (section,))
        choice = choose_tiles(graph, part, AGENTS, costs, rates)
        monkeypatch.undo()
        assert any(len(tiled.block.sources) > 1 for tiled in choice.blocks) == allowed
        plan = Plan((Tier.DEVICE, *[Tier.EDGE] * (len(graph.vertices) - 1)), choice.blocks)
        plan.check(graph)
        assert Plan.parse(plan.describe(graph)) == plan
        route = {Tier.DEVICE: device, Tier.EDGE: AGENTS[0]}
        seen = timeline(graph, plan, route, times_s, rates | near, costs.tile_s, PIECE_S)
        outside_s = sum(t for v, t in enumerate(slow_s) if v not in part.vertices)
        played_s.append(seen.latency_s - outside_s)
        predicted_s.append(choice.predicted_s)
        assert played_s[-1] <= predicted_s[-1]
    assert predicted_s[1] < 0.95 * predicted_s[0]
    assert played_s[1] < 0.95 * played_s[0]
