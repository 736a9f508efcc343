"""Tiles give the bits of the undivided network: real operators, by way of the real export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from d3bed.core.errors import PlanInfeasible
from d3bed.core.graph import Graph, Value
from d3bed.core.ids import AgentId, Tier
from d3bed.core.messages import ModelSpec
from d3bed.core.plan import Plan, TiledBlock
from d3bed.core.program import STAND_INS, Step, programs_for
from d3bed.core.regions import Region, Span, cut_channels
from d3bed.core.tiles import Block, Grid, Tiling, largest_grid, map_size, tiling
from d3bed.model import LoadedModel, compile_step, prepare_tiles, prepared_before
from d3bed.model.export import export_module, flatten, normalise
from d3bed.model.images import encoded, shipped
from d3bed.model.tiles import Way, tile_graph
from d3bed.model.vertices import vertices_of
from d3bed.model.weights import randomise
from d3bed.plan.vsm import tileable_parts
from d3bed.plan.vsm.inside import divided

Loaded = Callable[..., LoadedModel]
Photo = Callable[[LoadedModel], torch.Tensor]
Split = Callable[..., tuple[torch.Tensor, ...]]

AGENTS = tuple(map(AgentId, ("edge", "edge-2", "edge-3")))


# ── random networks ──────────────────────────────────────────────────────────────────────────────────


class Sum(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.inner(x) + x)


class Branches(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def pair(draw: st.DrawFn, low: int, high: int) -> tuple[int, int]:
    numbers = st.integers(low, high)
    return draw(numbers), draw(numbers)


def convolution(draw: st.DrawFn, channels: int) -> tuple[nn.Module, int]:
    made = channels * draw(st.integers(1, 2)) if channels < 48 else channels
    groups = draw(st.sampled_from([1, 1, 1, channels]))
    kernel, stride, padding, dilation = (pair(draw, *ends) for ends in ((1, 4), (1, 2), (0, 2), (1, 2)))
    layers = [
        nn.Conv2d(channels, made, kernel, stride, padding, dilation, groups, draw(st.booleans())),
        nn.BatchNorm2d(made),
        draw(st.sampled_from([nn.ReLU(), nn.SiLU(), nn.Hardswish(), nn.LeakyReLU(0.1), nn.Identity()])),
    ]
    return nn.Sequential(*layers), made


def same_size(draw: st.DrawFn, channels: int, made: int) -> nn.Module:
    kernel = draw(st.sampled_from([(3, 3), (1, 1), (1, 7), (5, 3)]))
    padding = (kernel[0] // 2, kernel[1] // 2)
    return nn.Sequential(nn.Conv2d(channels, made, kernel, padding=padding), nn.BatchNorm2d(made))


def pool(draw: st.DrawFn) -> nn.Module:
    kernel, stride = pair(draw, 1, 4), pair(draw, 1, 3)
    padding = (draw(st.integers(0, kernel[0] // 2)), draw(st.integers(0, kernel[1] // 2)))
    ceil = draw(st.booleans())
    if draw(st.booleans()):
        return nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil)
    return nn.AvgPool2d(kernel, stride, padding, ceil, draw(st.booleans()))


@st.composite
def modules(draw: st.DrawFn) -> nn.Module:
    channels = draw(st.sampled_from([4, 16, 32]))
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1)]
    for _ in range(draw(st.integers(1, 4))):
        match draw(st.sampled_from(["convolution", "convolution", "pool", "sum", "branches"])):
            case "convolution":
                layer, channels = convolution(draw, channels)
            case "pool":
                layer = pool(draw)
            case "sum":
                layer = Sum(same_size(draw, channels, channels))
            case _:
                around = nn.AvgPool2d(3, 1, 1, count_include_pad=draw(st.booleans()))
                one, two = same_size(draw, channels, 8), same_size(draw, channels, 4)
                layer, channels = Branches(one, nn.Sequential(around, two)), 12
        layers.append(layer)
    return nn.Sequential(*layers)


def exported(module: nn.Module, height: int, width: int) -> LoadedModel:
    """As `load` does, of a module at hand. A window that finds no room in its map is no network."""
    randomise(module.eval().requires_grad_(False), 0)
    image = torch.zeros(1, 3, height, width)
    try:
        module(image)
    except RuntimeError:
        assume(False)
    mean = torch.zeros(1, 3, 1, 1)
    flat = flatten("drawn", export_module("drawn", module, image), mean, mean + 0.5, loaded=False)
    graph, body = vertices_of("drawn", flat)

    def whole(photo: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.inference_mode():
            return (module(normalise(photo, mean, mean + 0.5)),)

    return LoadedModel(ModelSpec("drawn"), graph, whole, graph.vertices[0].outputs[0], body)


# ── plans ────────────────────────────────────────────────────────────────────────────────────────────


def fitting(graph: Graph, block: Block, grid: Grid) -> Tiling:
    """Under this grid or, where it leaves a tile nothing but padding, the largest even one that does not."""
    try:
        return tiling(graph, block, grid)
    except PlanInfeasible:
        return tiling(graph, block, largest_grid(graph, block, *grid.shape))


def tiled_plan(graph: Graph, tilings: Sequence[Tiling], gather: bool = False) -> Plan:
    """Everything on the edge; each block's tiles go round among three agents."""
    tiers = (Tier.DEVICE,) + (Tier.EDGE,) * (len(graph.vertices) - 1)
    blocks = []
    for number, cut_up in enumerate(tilings):
        count = len(cut_up.tiles)
        agents = tuple(AGENTS[(number + i) % len(AGENTS)] for i in range(count))
        blocks.append(TiledBlock(cut_up.block, cut_up.grid, agents, gather))
    return Plan(tiers, tuple(blocks))


def even(graph: Graph, block: Block, rows: int, columns: int, shares: int = 1) -> Tiling:
    """As far as the block can be cut so."""
    grid = largest_grid(graph, block, rows, columns)
    count = graph.spec(block.sink).shape[1]
    channels = cut_channels(count, [1] * min(shares, count)) if shares > 1 else ()
    try:
        return tiling(graph, block, msgspec.structs.replace(grid, channels=channels))
    except PlanInfeasible:
        return tiling(graph, block, grid)


def crop(tensor: torch.Tensor, region: Region) -> torch.Tensor:
    rows, columns, channels = (slice(*span) for span in region)
    return tensor[:, channels, rows, columns]


def blocks_of(graph: Graph, longest: int = 1) -> list[Block]:
    """From border to border, `longest` of them at once; 0: divided between borders, too, at convolutions."""
    found = []
    for part in tileable_parts(graph):
        ends = [*range(0, len(part.borders) - 1, longest or 1), len(part.borders) - 1]
        found += [part.block(first, last) for first, last in zip(ends, ends[1:], strict=False)]
    if longest:
        return found

    def mixes(v: int) -> bool:
        return graph.vertices[v].kind == "conv2d"

    return [each for block in found for each in divided(graph, block, mixes)]


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_tiles_of_random_networks_make_the_bits_of_the_whole(
    data: st.DataObject, split: Split, photo: Photo
) -> None:
    """Blocks in a row and inside units, uneven grids up to 5×5, some with shares of channels, tiles smaller
    than a halo; scattered, exchanged, joined."""
    model = exported(data.draw(modules()), data.draw(st.integers(9, 41)), data.draw(st.integers(9, 41)))
    blocks = blocks_of(model.graph, data.draw(st.integers(1, 3)))
    mixing = data.draw(st.sets(st.sampled_from(range(len(model.graph.vertices)))))
    blocks = [each for block in blocks for each in divided(model.graph, block, mixing.__contains__)]
    tilings = []
    for block in blocks:
        cuts = []
        for size in map_size(model.graph, block.sink):
            inner = data.draw(st.sets(st.integers(1, max(1, size - 1)), max_size=4))
            cuts.append((0, *sorted(cut for cut in inner if cut < size), size))
        if data.draw(st.booleans()):
            channels = model.graph.spec(block.sink).shape[1]
            inner = data.draw(st.sets(st.integers(1, max(1, channels - 1)), max_size=2))
            cuts.append((0, *sorted(cut for cut in inner if cut < channels), channels))
        try:
            tilings.append(fitting(model.graph, block, Grid(*cuts)))
        except PlanInfeasible:
            assume(False)
    image = photo(model)
    plan = tiled_plan(model.graph, tilings, data.draw(st.booleans()))
    (whole,), (joined,) = model.whole(image), split(model, plan, image)
    assert whole.isfinite().all() and torch.equal(whole, joined), plan.describe(model.graph)


@pytest.mark.parametrize(
    ("name", "grid", "blocks", "longest"),
    [
        ("alexnet", (2, 2), slice(None), 3),
        ("alexnet", (4, 1), slice(None), 1),
        ("alexnet", (1, 1, 4), slice(None), 1),
        ("resnet18", (1, 1, 3), slice(4, None), 0),
        ("resnet18", (2, 1, 2), slice(4, None), 1),
        ("resnet18", (2, 1), slice(None), 2),
        ("resnet18", (2, 2), slice(None), 0),
        ("inception_v4", (2, 2), slice(0, 8), 2),
        ("inception_v4", (4, 1), slice(6, None), 3),
        ("inception_v4", (2, 2), slice(108, None), 0),
    ],
)
def test_tiles_of_real_networks_make_the_bits_of_the_whole(
    name: str, grid: tuple[int, ...], blocks: slice, longest: int, loaded: Loaded, split: Split, photo: Photo
) -> None:
    model = loaded(name)
    image = photo(model)
    tilings = [even(model.graph, block, *grid) for block in blocks_of(model.graph, longest)[blocks]]
    plan = tiled_plan(model.graph, tilings)
    whole, joined = model.whole(image), split(model, plan, image)
    assert all(map(torch.equal, whole, joined))


def test_tiles_of_a_network_that_takes_files_make_the_bits_of_the_whole(loaded: Loaded, split: Split) -> None:
    model = loaded("resnet18", encoded=100_000)
    file = encoded(shipped(jpeg=True)[0])
    blocks = blocks_of(model.graph, 2)
    assert model.graph.vertices[blocks[0].sources[0].vertex].name == "decode"
    plan = tiled_plan(model.graph, [even(model.graph, block, 2, 1) for block in blocks])
    assert torch.equal(model.whole(file)[0], split(model, plan, file)[0])


def test_one_ulp_in_any_halo_changes_the_result(loaded: Loaded, split: Split, photo: Photo) -> None:
    """Otherwise equality would prove nothing: nobody would see a wrong halo."""
    model = loaded("resnet18")
    image = photo(model)
    tilings = [even(model.graph, block, 3, 1) for block in blocks_of(model.graph)[2:6]]
    plan = tiled_plan(model.graph, tilings)
    whole = model.whole(image)
    assert torch.equal(split(model, plan, image)[0], whole[0])
    programs = programs_for(model.graph, plan, STAND_INS)
    halos = [value for p in programs.values() for value in p.receives if value != value.whole]
    assert len(halos) > 10
    deaf = [halo for halo in halos if torch.equal(split(model, plan, image, nudged={halo})[0], whole[0])]
    assert deaf == []


def test_a_tile_takes_its_source_whole_or_in_any_pieces(loaded: Loaded) -> None:
    model = loaded("resnet18")
    block = blocks_of(model.graph)[2]
    cut_up = even(model.graph, block, 2, 2)
    tile = cut_up.tiles[3]
    (top, bottom), (left, right), _ = tile.takes[0]
    corners = Grid((top, top + 1, bottom), (left, left + 7, right))
    pieces = [
        Value(block.sources[0].vertex, 0, Region(r, c)) for r in corners.bands(0) for c in corners.bands(1)
    ]
    made = Value(block.sink.vertex, 0, tile.makes)
    whole = torch.randn(model.graph.spec(block.sources[0]).shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        (want,) = compile_step(model, Step(block.vertices, (block.sources[0],), (made,), tile))(whole)
        for takes in (tuple(pieces), tuple(reversed(pieces))):
            parts = compile_step(model, Step((), (block.sources[0],), takes))(whole)
            (got,) = compile_step(model, Step(block.vertices, takes, (made,), tile))(*parts)
            assert torch.equal(got, want)


def test_pieces_are_joined_with_the_padding_around_them(loaded: Loaded) -> None:
    """One copy of what a tile takes, not one to join it and another to pad it."""
    model = loaded("resnet18")
    block = blocks_of(model.graph)[2]
    tile = even(model.graph, block, 2, 2).tiles[0]
    (top, bottom), (left, right), _ = tile.takes[0]
    halves = Grid((top, top + 9, bottom), (left, right))
    pieces = tuple(
        Value(block.sources[0].vertex, 0, Region(r, c)) for r in halves.bands(0) for c in halves.bands(1)
    )
    made = Value(block.sink.vertex, 0, tile.makes)
    graph, _ = tile_graph(model, Step(block.vertices, pieces, (made,), tile), {})
    copies = [node for node in graph.nodes if getattr(node.target, "__name__", "") in ("_join", "_frame")]
    assert [(node.target.__name__, node.args[2]) for node in copies] == [("_join", (1, 0, 1, 0))]


def test_the_fallback_alone_is_exact_too(loaded: Loaded, photo: Photo) -> None:
    model = loaded("resnet18")
    graph = model.graph
    blocks = blocks_of(graph)[1:5]
    values = tuple(sorted({value for block in blocks for value in (block.sources[0], block.sink)}))
    with torch.inference_mode():
        upto = tuple(range(1, values[-1].vertex + 1))
        truth = dict(
            zip(values, compile_step(model, Step(upto, (Value(0),), values))(photo(model)), strict=True)
        )
        for block in blocks:
            for tile in even(graph, block, 2, 2).tiles:
                step = Step(
                    block.vertices, (block.sources[0],), (Value(block.sink.vertex, 0, tile.makes),), tile
                )
                (made,) = compile_step(model, step, dict.fromkeys(block.vertices, Way.FULL))(
                    truth[block.sources[0]]
                )
                assert torch.equal(made, crop(truth[block.sink], tile.makes))


# ── preparing ────────────────────────────────────────────────────────────────────────────────────────


def tile_steps(model: LoadedModel, block: Block, rows: int, columns: int) -> list[Step]:
    """The tiles of a block, each taking all it reads as one rectangle."""
    source, sink = block.sources[0], block.sink
    return [
        Step(
            block.vertices,
            (Value(source.vertex, source.output, tile.takes[0]),),
            (Value(sink.vertex, 0, tile.makes),),
            tile,
        )
        for tile in even(model.graph, block, rows, columns).tiles
    ]


def test_a_prepared_tile_is_known_the_next_time(loaded: Loaded, tmp_path: Path) -> None:
    model = loaded("alexnet")
    steps = [step for block in blocks_of(model.graph)[2:4] for step in tile_steps(model, block, 2, 1)]
    told: list[tuple[int, int]] = []
    first = prepare_tiles(model, steps, tmp_path / "kept", "print", lambda *done: told.append(done))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(tile.identical and tile.nominal_s > 0 for tile in first)
    assert len(list((tmp_path / "kept").iterdir())) == 4
    again = prepared_before(model, steps, tmp_path / "kept", "print")
    assert again is not None
    assert prepare_tiles(model, steps, tmp_path / "kept", "print", lambda *done: told.append(done))
    assert len(told) == 4
    assert [tile.nominal_s for tile in again] == [tile.nominal_s for tile in first]
    taken = torch.randn(model.graph.spec(steps[0].takes[0]).shape)
    with torch.inference_mode():
        assert torch.equal(first[0].call(taken)[0], again[0].call(taken)[0])
    prepare_tiles(model, steps[:1], tmp_path / "kept", "another print", lambda *done: told.append(done))
    assert told[4:] == [(1, 1)]
    assert prepared_before(model, steps, tmp_path / "kept", "another print") is None, "one is not enough"


@pytest.mark.parametrize("content", ["", "null", "{}", '{"key": [], "verdict": 1}', "\xff"])
def test_a_corrupt_file_of_a_tile_is_replaced(content: str, loaded: Loaded, tmp_path: Path) -> None:
    model = loaded("alexnet")
    steps = tile_steps(model, blocks_of(model.graph)[3], 2, 1)[:1]
    prepare_tiles(model, steps, tmp_path, "print")
    (file,) = tmp_path.iterdir()
    kept = file.read_bytes()
    file.write_bytes(content.encode("latin-1"))
    (tile,) = prepare_tiles(model, steps, tmp_path, "print")
    assert tile.identical and len(file.read_bytes()) > len(kept) // 2


@pytest.mark.parametrize("way", [Way.FORCED, Way.FULL])
def test_the_way_of_each_convolution_is_kept(way: Way, loaded: Loaded, tmp_path: Path) -> None:
    """As if a probe had found that packed weights round differently here."""
    model = loaded("alexnet")
    step = tile_steps(model, blocks_of(model.graph)[2], 2, 1)[0]
    prepare_tiles(model, [step], tmp_path, "print")
    (file,) = tmp_path.iterdir()
    kept = msgspec.json.decode(file.read_bytes())
    assert kept["verdict"]["ways"] == {}
    kept["verdict"]["ways"] = {str(step.vertices[0]): way.value}
    file.write_bytes(msgspec.json.encode(kept))
    (tile,) = prepare_tiles(model, [step], tmp_path, "print")
    assert tile.fallbacks == (way is Way.FULL)
    source = torch.randn(model.graph.spec(step.takes[0].whole).shape)
    with torch.inference_mode():
        (whole,) = compile_step(model, Step(step.vertices, (step.takes[0].whole,), (step.makes[0].whole,)))(
            source
        )
        (made,) = tile.call(crop(source, step.takes[0].region).contiguous())
    assert torch.equal(made, crop(whole, step.makes[0].region))


def test_positions_in_as_many_rows_make_the_bits_of_the_whole(loaded: Loaded) -> None:
    """Also where they do not fill the rows, and with a stride."""
    model = loaded("resnet18")
    vertex = model.graph.index["layer3.0.downsample.0"]
    block = Block((Value(min(model.graph.predecessors[vertex])),), (vertex,))
    source = torch.randn(model.graph.spec(block.sources[0]).shape, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        (whole,) = compile_step(model, Step(block.vertices, (block.sources[0],), (block.sink,)))(source)
        for step in tile_steps(model, block, 3, 2):
            taken = crop(source, step.takes[0].region).contiguous()
            (made,) = compile_step(model, step, {vertex: Way.ROWS})(taken)
            assert made.is_contiguous()
            assert torch.equal(made, crop(whole, step.makes[0].region))


@pytest.mark.parametrize("vertex", ["layer3.0.downsample.0", "layer4.0.downsample.0"])
def test_slices_of_channels_add_up(vertex: str, loaded: Loaded) -> None:
    """To the very bits only where the machine's own product is made so: that, a probe finds out."""
    model = loaded("resnet18")
    number = model.graph.index[vertex]
    block = Block((Value(min(model.graph.predecessors[number])),), (number,))
    source = torch.randn(model.graph.spec(block.sources[0]).shape, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        (whole,) = compile_step(model, Step(block.vertices, block.sources, (block.sink,)))(source)
        for step in tile_steps(model, block, 3, 2):
            taken = crop(source, step.takes[0].region).contiguous()
            (made,) = compile_step(model, step, {number: Way.SLICES})(taken)
            torch.testing.assert_close(made, crop(whole, step.makes[0].region))


def test_a_tile_that_is_not_identical_is_told_so(loaded: Loaded, tmp_path: Path) -> None:
    """It computes a row that it does not read."""
    model = loaded("alexnet")
    step = tile_steps(model, blocks_of(model.graph)[4], 2, 1)[0]
    assert step.tile is not None and len(step.tile.patches) == 1
    (top, bottom), columns, _ = step.tile.makes
    lower = Region(Span(top + 1, bottom + 1), columns)
    patch = msgspec.structs.replace(step.tile.patches[0], makes=lower)
    tile = msgspec.structs.replace(step.tile, patches=(patch,))
    moved = Step(step.vertices, step.takes, (Value(step.makes[0].vertex, 0, lower),), tile)
    (prepared,) = prepare_tiles(model, [moved], tmp_path, "print")
    assert not prepared.identical and prepared.max_rel_err > 1e-3


def test_a_tolerance_takes_kernels_that_round_otherwise(loaded: Loaded, tmp_path: Path) -> None:
    """ResNet-18 has convolutions that do on some tiles, by less than is asked for."""
    model = loaded("resnet18")
    steps = [step for block in blocks_of(model.graph) for step in tile_steps(model, block, 2, 2)]
    exact = prepare_tiles(model, steps, tmp_path, "print")
    close = prepare_tiles(model, steps, tmp_path, "print", tolerance=1e-5)
    assert all(tile.identical and tile.max_rel_err == 0 for tile in exact)
    assert sum(tile.fallbacks for tile in (*exact, *close)) == 0
    assert all(tile.identical == (tile.max_rel_err == 0) for tile in close)
    assert 0 < max(tile.max_rel_err for tile in close) <= 1e-5
