"""Tiles computed from the planner's regions alone give the whole map; wrong grids give an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st

from d3bed.core.errors import PlanInfeasible
from d3bed.core.graph import Graph, Value, Window
from d3bed.core.ids import AgentId
from d3bed.core.plan import TiledBlock
from d3bed.core.program import moved_bytes
from d3bed.core.regions import ALL
from d3bed.core.tiles import Grid, Tiling, largest_grid, map_size, pieces, tiling, tilings_to
from d3bed.plan.vsm import Part, tileable_parts

if TYPE_CHECKING:
    from tests.plan.vsm.conftest import Net, Tools

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
slow = settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])


def photo(net: Net) -> torch.Tensor:
    return torch.randn(net.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def fitting(graph: Graph, part: Part, first: int, last: int, grid: Grid) -> Tiling:
    """Under the drawn grid or, where that leaves a tile nothing but padding, the largest that does not."""
    block = part.block(first, last)
    try:
        return tiling(graph, block, grid)
    except PlanInfeasible:
        pass
    try:
        smaller = largest_grid(graph, block, *grid.shape)
    except PlanInfeasible:
        reject()
    return tiling(graph, block, smaller)


@slow
@given(data=st.data())
def test_joined_tiles_are_the_whole_map(data: st.DataObject, tools: Tools) -> None:
    net = data.draw(tools.nets())
    assume(len(net.vertices) > 1 and net.vertices[-1].outputs[0].shape[2:] != (1, 1))
    shape = net.vertices[-1].outputs[0].shape
    image = photo(net)
    cut_up = fitting(net.graph, net.part, 0, -1, data.draw(tools.grids(shape)))
    made = [
        (tile.makes, net.run_tile(tile, {0: tools.crop(image, tile.takes[0]).clone()}))
        for tile in cut_up.tiles
    ]
    torch.testing.assert_close(tools.join(made, shape), net.run(image)[net.block.sink.vertex])


@slow
@given(data=st.data())
def test_blocks_in_a_row_live_on_pieces_of_the_tiles_before(data: st.DataObject, tools: Tools) -> None:
    net = data.draw(tools.nets())
    assume(len(net.vertices) > 1 and net.vertices[-1].outputs[0].shape[2:] != (1, 1))
    graph, part, image = net.graph, net.part, photo(net)
    inner = data.draw(st.sets(st.integers(1, len(part.borders) - 1)))
    ends = sorted({0, *inner, len(part.borders) - 1})
    before: Tiling | None = None
    held: list[torch.Tensor] = []
    for first, last in zip(ends, ends[1:], strict=False):
        source, sink = part.borders[first], part.borders[last]
        now = fitting(graph, part, first, last, data.draw(tools.grids(graph.spec(sink).shape)))
        taken = [tools.crop(image, tile.takes[0]) for tile in now.tiles]
        if before is not None:
            taken = []
            for tile, mine in zip(now.tiles, pieces(before, now), strict=True):
                assert sum(piece.nbytes for piece in mine) == tile.input_bytes
                parts = [
                    (
                        piece.region.within(tile.takes[0]),
                        tools.crop(held[piece.tile], piece.region.within(before.makes[piece.tile])),
                    )
                    for piece in mine
                ]
                taken.append(
                    tools.join(parts, graph.spec(Value(source.vertex, source.output, tile.takes[0])).shape)
                )
        held = [net.run_tile(t, {source.vertex: x}) for t, x in zip(now.tiles, taken, strict=True)]
        before = now
    assert before is not None
    joined = tools.join(list(zip(before.makes, held, strict=True)), graph.spec(before.block.sink).shape)
    torch.testing.assert_close(joined, net.run(image)[before.block.sink.vertex])


@slow
@given(data=st.data())
def test_a_tile_takes_just_what_changes_it(data: st.DataObject, tools: Tools) -> None:
    """One NaN at each position of the source in turn, then in each channel: which outputs does it reach?"""
    net = data.draw(tools.nets())
    assume(len(net.vertices) > 1 and net.vertices[-1].outputs[0].shape[2:] != (1, 1))
    height, width = net.shape[2:]
    assume(height * width <= 200)
    shape = net.vertices[-1].outputs[0].shape
    cut_up = fitting(net.graph, net.part, 0, -1, data.draw(tools.grids(shape)))
    image = photo(net).repeat(height * width, 1, 1, 1)
    places = torch.arange(height * width)
    image[places, :, places // width, places % width] = torch.nan
    reached = net.run(image)[net.block.sink.vertex].isnan()
    image = photo(net).repeat(net.shape[1], 1, 1, 1)
    image[range(net.shape[1]), range(net.shape[1])] = torch.nan
    mixed = net.run(image)[net.block.sink.vertex].isnan()
    windows = [v.window for v in net.vertices if v.window]
    tight = all(w.dilation == (1, 1) and w.kernel[axis] >= w.stride[axis] for w in windows for axis in (0, 1))
    for (takes,), makes in zip(cut_up.takes, cut_up.makes, strict=True):
        changing = tools.crop(reached, makes).flatten(1).any(1)
        rows, columns = (changing.reshape(height, width).any(axis).nonzero() for axis in (1, 0))
        if not len(rows):
            continue
        found = [(int(hit.min()), int(hit.max()) + 1) for hit in (rows, columns)]
        assert takes.rows.hull(type(takes.rows)(*found[0])) == takes.rows
        assert takes.columns.hull(type(takes.columns)(*found[1])) == takes.columns
        if tight:
            assert takes[:2] == (found[0], found[1])
        (hit,) = tools.crop(mixed, makes).flatten(1).any(1).nonzero(as_tuple=True)
        assert takes.channels == ALL or takes.channels == (int(hit.min()), int(hit.max()) + 1)


@slow
@given(data=st.data())
def test_costs_add_up(data: st.DataObject, tools: Tools) -> None:
    net = data.draw(tools.nets())
    assume(len(net.vertices) > 1 and net.vertices[-1].outputs[0].shape[2:] != (1, 1))
    graph, part = net.graph, net.part
    size, shape = map_size(graph, part.borders[-1]), graph.spec(part.borders[-1]).shape
    cut_up = fitting(graph, part, 0, -1, data.draw(tools.grids(shape)))
    assert cut_up.flops == [tile.flops for tile in cut_up.tiles]
    assert cut_up.takes == [tile.takes for tile in cut_up.tiles]
    assert cut_up.makes == [tile.makes for tile in cut_up.tiles]
    assert sum(tile.output_bytes for tile in cut_up.tiles) == graph.spec(part.borders[-1]).nbytes
    for tile in cut_up.tiles:
        image = torch.zeros(net.shape, dtype=torch.float64)
        made = net.run(image)
        assert [p.output_bytes for p in tile.patches] == [
            tools.crop(made[p.vertex], p.makes).numel() * 8 for p in tile.patches
        ]
        assert tile.input_bytes == tools.crop(image, tile.takes[0]).numel() * 8
    whole = tiling(graph, part.block(), Grid.even(size, 1, 1))
    assert whole.redundancy <= 1
    blocks = [part.block(first) for first in range(len(part.borders) - 1)]
    for block, shared in zip(blocks, tilings_to(graph, blocks, cut_up.grid), strict=True):
        assert shared is not None
        assert shared.tiles == tiling(graph, block, cut_up.grid).tiles


def test_a_convolution_alone_repeats_no_work(tools: Tools) -> None:
    net = tools.net((1, 2, 9, 9))
    net.add("conv2d", 0, window=Window((3, 3), (1, 1), (1, 1)))
    four = tiling(net.graph, net.block, Grid.even((9, 9), 2, 2))
    assert four.redundancy == 1
    assert [tile.padding for tile in (t.patches[0] for t in four.tiles)] == [
        (1, 0, 1, 0),
        (1, 0, 0, 1),
        (0, 1, 1, 0),
        (0, 1, 0, 1),
    ]
    net.add("conv2d", 1, window=Window((3, 3), (1, 1), (1, 1)))
    four = tiling(net.graph, net.block, Grid.even((9, 9), 2, 2))
    assert four.redundancy == pytest.approx((81 + (6 + 5) ** 2) / (2 * 81))


def test_only_what_changes_hands_is_exchanged(tools: Tools) -> None:
    net = tools.net((1, 2, 8, 8))
    net.add("conv2d", 0, window=Window((3, 3), (1, 1), (1, 1)))
    net.add("conv2d", 1, window=Window((3, 3), (1, 1), (1, 1)))
    halves, row_bytes = Grid.even((8, 8), 2, 1), 8 * 8 * 2
    one, two = (net.part.block(i, i + 1) for i in (0, 1))
    a, b = AgentId("a"), AgentId("b")

    def moved(*agents: AgentId) -> list[tuple[int, int]]:
        tiles = (TiledBlock(one, halves, agents[:2]), TiledBlock(two, halves, agents[2:]))
        return moved_bytes(net.graph, tiles, a)

    assert moved(a, b, a, b) == [(5 * row_bytes, 0), (2 * row_bytes, 4 * row_bytes)]
    assert moved(a, b, b, a) == [(5 * row_bytes, 0), (8 * row_bytes, 4 * row_bytes)]
    assert moved(a, a, a, a) == [(0, 0), (0, 0)]
    with pytest.raises(ValueError, match="is not read by"):
        pieces(tiling(net.graph, two, halves), tiling(net.graph, one, halves))


def test_halos_wider_than_a_tile_come_from_farther_away(tools: Tools) -> None:
    net = tools.net((1, 1, 9, 4))
    net.add("relu", 0)
    net.add("conv2d", 1, window=Window((7, 1), (1, 1), (3, 0)))
    strips = Grid.even((9, 4), 9, 1)
    one, two = (tiling(net.graph, net.part.block(i, i + 1), strips) for i in (0, 1))
    assert [[piece.tile for piece in mine] for mine in pieces(one, two)][4] == [1, 2, 3, 4, 5, 6, 7]


def test_a_grid_that_does_not_fit_is_an_error_or_smaller(tools: Tools) -> None:
    net = tools.net((1, 1, 3, 4))
    net.add("relu", 0)
    graph, block = net.graph, net.block
    with pytest.raises(PlanInfeasible, match="3 positions cannot be cut into 5 tiles"):
        Grid.even((3, 4), 5, 5)
    assert largest_grid(graph, block, 5, 5) == Grid((0, 1, 2, 3), (0, 1, 2, 3, 4))
    assert str(largest_grid(graph, block, 5, 2)) == "3×2"
    for rows in ((0, 3, 3), (0, 2), (1, 3), (0, 2, 1, 3), (0,), (), (0, 4)):
        with pytest.raises(PlanInfeasible, match="do not divide a map of 3×4"):
            tiling(graph, block, Grid(rows, (0, 4)))


def test_a_tile_of_padding_alone_is_an_error_or_another_grid(tools: Tools) -> None:
    net = tools.net((1, 1, 4, 4))
    net.add("relu", 0)
    net.add("conv2d", 1, window=Window((1, 1), (1, 1), (2, 2)))
    net.add("relu", 2)
    graph, part = net.graph, net.part
    grid = Grid((0, 2, 6, 8), (0, 8))
    with pytest.raises(PlanInfeasible, match="conv2d2 sees only padding"):
        tiling(graph, part.block(), grid)
    assert largest_grid(graph, part.block(), 8, 3).shape == (2, 2)
    fits = [each is not None for each in tilings_to(graph, [part.block(i, 3) for i in range(3)], grid)]
    assert fits == [False, False, True]


@pytest.mark.parametrize(
    ("last", "redundancy"),
    [("features.9", 1.037), ("features.16", 1.16), ("features.23", 1.49), ("features.30", 2.59)],
)
def test_vgg16_repeats_as_much_as_was_measured(
    last: str, redundancy: float, graphs: Callable[[str], Graph]
) -> None:
    graph = graphs("vgg16")
    (part,) = tileable_parts(graph)
    end = part.borders.index(Value(graph.index[last]))
    block = part.block(1, end)
    assert graph.vertices[block.vertices[0]].name == "features.0"
    four = tiling(graph, block, Grid.even(map_size(graph, block.sink), 2, 2))
    assert four.redundancy == pytest.approx(redundancy, abs=0.005)
    assert four.whole_flops == sum(graph.vertices[v].flops for v in block.vertices)


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "inception_v4", "darknet53"])
def test_finer_blocks_of_real_networks_repeat_less(name: str, graphs: Callable[[str], Graph]) -> None:
    graph = graphs(name)
    part = max(tileable_parts(graph), key=lambda each: len(each.vertices))
    last = len(part.borders) - 1
    found = tilings_to(
        graph,
        [part.block(i, last) for i in range(last)],
        Grid.even(map_size(graph, part.borders[last]), 2, 2),
    )
    factors = [each.redundancy for each in found if each is not None]
    assert len(factors) == last
    assert factors[0] > 1.5
    assert factors[-1] < 1.6
    for each in found:
        assert each is not None
        height, width = map_size(graph, each.block.sources[0])
        assert all(0 <= t.rows.start < t.rows.stop <= height for (t,) in each.takes)
        assert all(0 <= t.columns.start < t.columns.stop <= width for (t,) in each.takes)
