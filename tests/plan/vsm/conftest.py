"""Random networks of convolutions, pools, sums and branches that torch can run whole or tile by tile.

A tile is run from what the planner says alone: crop, pad, operator without padding. In float64, so that
a wrong row is not taken for rounding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st
from torch.nn import functional

from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex, Window
from d3bed.core.messages import ModelSpec
from d3bed.core.regions import Region, Span, divisors, output_size, reach
from d3bed.core.tiles import Block, Grid, Patch, Tile, map_size
from d3bed.model import load
from d3bed.plan.vsm import Part, tileable_parts


def crop(tensor: torch.Tensor, region: Region) -> torch.Tensor:
    rows, columns, channels = (slice(*span) for span in region)
    return tensor[:, channels, rows, columns]


def join(tiles: list[tuple[Region, torch.Tensor]], shape: tuple[int, ...]) -> torch.Tensor:
    """Put tiles together; what no tile covers stays NaN."""
    whole = tiles[0][1].new_full(shape, torch.nan)
    for region, tensor in tiles:
        crop(whole, region).copy_(tensor)
    return whole


@dataclass
class Net:
    """A graph and its weights; `outputs` is filled by `run`."""

    shape: tuple[int, ...]
    vertices: list[Vertex] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    weights: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.vertices.append(Vertex("input", "input", (TensorSpec(self.shape, "float64"),)))

    @property
    def graph(self) -> Graph:
        return Graph("random", tuple(self.vertices), tuple(self.edges), (Value(len(self.vertices) - 1),))

    @property
    def part(self) -> Part:
        (part,) = tileable_parts(self.graph)
        return part

    @property
    def block(self) -> Block:
        return self.part.block()

    def add(self, kind: str, *sources: int, window: Window | None = None, channels: int = 0) -> int:
        """Append a vertex; its shape is what torch makes of its inputs' shapes."""
        number = len(self.vertices)
        shapes = [self.vertices[source].outputs[0].shape for source in sources]
        if kind == "conv2d":
            assert window is not None
            inner = shapes[0][1]
            channels = channels or inner
            generator = torch.Generator().manual_seed(number)
            weight = torch.randn(
                channels, inner // window.groups, *window.kernel, generator=generator, dtype=torch.float64
            )
            self.weights[number] = (weight, torch.randn(channels, generator=generator, dtype=torch.float64))
        vertex = Vertex(f"{kind}{number}", kind, (), (kind,), window=window)
        self.vertices.append(vertex)
        made = self._whole(number, [torch.zeros(shape, dtype=torch.float64) for shape in shapes])
        spec = TensorSpec(tuple(made.shape), "float64")
        flops = made.numel() * (2 * self.weights[number][0][0].numel() if kind == "conv2d" else 1)
        self.vertices[number] = Vertex(vertex.name, kind, (spec,), (kind,), flops, window=window)
        self.edges += [Edge(source, number) for source in sorted(set(sources))]
        return number

    def run(self, image: torch.Tensor) -> dict[int, torch.Tensor]:
        """All values of the undivided network."""
        values = {0: image}
        before = self.graph.predecessors
        for number in range(1, len(self.vertices)):
            values[number] = self._whole(number, [values[source] for source in before[number]])
        return values

    def run_from(self, values: dict[int, torch.Tensor], vertices: Sequence[int]) -> torch.Tensor:
        """What vertices make of the values of others."""
        before, found = self.graph.predecessors, dict(values)
        for number in vertices:
            found[number] = self._whole(number, [found[source] for source in before[number]])
        return found[vertices[-1]]

    def run_tile(self, tile: Tile, taken: dict[int, torch.Tensor]) -> torch.Tensor:
        """What a tile makes of its pieces of the block's sources, by their vertices in the block's order."""
        values = {
            source: (region, tensor)
            for (source, tensor), region in zip(taken.items(), tile.takes, strict=True)
        }
        before = self.graph.predecessors
        for patch in tile.patches:
            inputs = []
            for number in before[patch.vertex]:
                held, tensor = values[number]
                inputs.append(crop(tensor, patch.reads.within(held)))
                read = Value(number, 0, patch.reads)
                if self.vertices[patch.vertex].kind != "cat":
                    assert inputs[-1].shape == self.graph.spec(read).shape
            made = self._part(patch, inputs)
            assert made.shape == self.graph.spec(Value(patch.vertex, 0, patch.makes)).shape
            values[patch.vertex] = (patch.makes, made)
        return values[tile.patches[-1].vertex][1]

    def _whole(self, number: int, inputs: list[torch.Tensor]) -> torch.Tensor:
        vertex = self.vertices[number]
        w = vertex.window
        match vertex.kind:
            case "conv2d":
                assert w is not None
                weight, bias = self.weights[number]
                return functional.conv2d(inputs[0], weight, bias, w.stride, w.padding, w.dilation, w.groups)
            case "max_pool2d":
                assert w is not None
                return functional.max_pool2d(
                    inputs[0], w.kernel, w.stride, w.padding, w.dilation, w.ceil_mode
                )
            case "avg_pool2d":
                assert w is not None
                return functional.avg_pool2d(
                    inputs[0], w.kernel, w.stride, w.padding, w.ceil_mode, w.count_include_pad
                )
            case _:
                return self._pointwise(vertex.kind, inputs)

    def _part(self, patch: Patch, inputs: list[torch.Tensor]) -> torch.Tensor:
        vertex = self.vertices[patch.vertex]
        w = vertex.window
        if w is None:
            return self._pointwise(vertex.kind, inputs)
        fill = -torch.inf if vertex.kind == "max_pool2d" else 0.0
        top, bottom, left, right = patch.padding
        padded = functional.pad(inputs[0], (left, right, top, bottom), value=fill)
        match vertex.kind:
            case "conv2d":
                weight, bias = (each[slice(*patch.makes.channels)] for each in self.weights[patch.vertex])
                groups = padded.shape[1] // weight.shape[1]
                return functional.conv2d(padded, weight, bias, w.stride, 0, w.dilation, groups)
            case "max_pool2d":
                return functional.max_pool2d(padded, w.kernel, w.stride, 0, w.dilation, w.ceil_mode)
            case _:
                sums = functional.avg_pool2d(padded, w.kernel, w.stride, 0, w.ceil_mode, divisor_override=1)
                height, width = map_size(self.graph, Value(self.graph.predecessors[patch.vertex][0]))
                rows = torch.tensor(divisors(w, 0, patch.makes.rows, height))
                columns = torch.tensor(divisors(w, 1, patch.makes.columns, width))
                return sums / (rows[:, None] * columns)

    def _pointwise(self, kind: str, inputs: list[torch.Tensor]) -> torch.Tensor:
        if kind == "cat":
            return torch.cat(inputs, 1)
        return inputs[0] + inputs[1] if kind == "add" else torch.relu(inputs[0])


def _pair(draw: st.DrawFn, low: int, high: int) -> tuple[int, int]:
    numbers = st.integers(low, high)
    return draw(numbers), draw(numbers)


def _any_window(draw: st.DrawFn, kind: str, channels: int) -> Window:
    kernel, stride = _pair(draw, 1, 5), _pair(draw, 1, 3)
    if kind == "conv2d":
        groups = draw(st.sampled_from([1, channels]))
        return Window(kernel, stride, _pair(draw, 0, 3), _pair(draw, 1, 2), groups)
    padding = (draw(st.integers(0, kernel[0] // 2)), draw(st.integers(0, kernel[1] // 2)))
    dilation = _pair(draw, 1, 2) if kind == "max_pool2d" else (1, 1)
    return Window(
        kernel,
        stride,
        padding,
        dilation,
        ceil_mode=draw(st.booleans()),
        count_include_pad=draw(st.booleans()),
    )


def _same_size(draw: st.DrawFn, net: Net, source: int, stride: int, channels: int) -> int:
    """A branch whose output size depends on its stride alone."""
    kind = draw(st.sampled_from(["conv2d", "avg_pool2d", "max_pool2d"]))
    kernel = draw(st.sampled_from([(3, 3), (1, 1), (5, 3), (1, 7), (7, 1)]))
    padding = (kernel[0] // 2, kernel[1] // 2)
    include = draw(st.booleans())
    window = Window(kernel, (stride, stride), padding, count_include_pad=include)
    return net.add(kind, source, window=window, channels=channels if kind == "conv2d" else 0)


@st.composite
def nets(draw: st.DrawFn) -> Net:
    """Two to five stages: any window, an activation, a residual sum or branches that are concatenated."""
    channels = draw(st.integers(2, 3))
    net = Net((1, channels, *_pair(draw, 7, 21)))
    last = 0
    for _ in range(draw(st.integers(2, 5))):
        height, width = net.vertices[last].outputs[0].shape[2:]
        channels = net.vertices[last].outputs[0].shape[1]
        stage = draw(st.sampled_from(["window", "window", "relu", "residual", "branches"]))
        if stage == "window":
            kind = draw(st.sampled_from(["conv2d", "conv2d", "avg_pool2d", "max_pool2d"]))
            window = _any_window(draw, kind, channels)
            made = [output_size(window, axis, size) for axis, size in enumerate((height, width))]
            if all(made) and all(
                reach(window, axis, Span(0, made[axis]), size) for axis, size in enumerate((height, width))
            ):
                last = net.add(kind, last, window=window)
        elif stage == "relu":
            last = net.add("relu", last)
        elif stage == "residual":
            inner = net.add("conv2d", last, window=Window((3, 3), (1, 1), (1, 1)))
            if draw(st.booleans()):
                inner = net.add("conv2d", inner, window=Window((1, 3), (1, 1), (0, 2), (1, 2)))
            last = net.add("add", last, inner)
        else:
            stride = draw(st.integers(1, 2))
            branches = [_same_size(draw, net, last, stride, 2) for _ in range(draw(st.integers(2, 3)))]
            if draw(st.booleans()):
                branches[0] = _same_size(draw, net, branches[0], 1, 1)
            last = net.add("cat", *branches)
            if net.vertices[last].outputs[0].shape[1] > 4:
                last = net.add("conv2d", last, window=Window((1, 1), (1, 1)), channels=2)
        if net.vertices[last].outputs[0].shape[2:] == (1, 1):
            break
    return net


@st.composite
def grids(draw: st.DrawFn, shape: tuple[int, ...]) -> Grid:
    """Up to 5×5, uneven, at any cut; of a map [N, C, H, W], some with two or three shares of its channels."""
    _, channels, *size = shape
    cuts = []
    for positions, most in (*((each, 4) for each in size), (channels, 2 * draw(st.booleans()))):
        inner = st.lists(st.integers(1, max(1, positions - 1)), max_size=most, unique=True)
        cuts.append((0, *sorted(c for c in draw(inner) if c < positions), positions))
    return Grid(cuts[0], cuts[1], cuts[2] if len(cuts[2]) > 2 else ())


@dataclass(frozen=True)
class Tools:
    """What tests use of this file."""

    nets: Callable[[], st.SearchStrategy[Net]] = nets
    grids: Callable[[tuple[int, ...]], st.SearchStrategy[Grid]] = grids
    net: type[Net] = Net
    crop: Callable[[torch.Tensor, Region], torch.Tensor] = crop
    join: Callable[[list[tuple[Region, torch.Tensor]], tuple[int, ...]], torch.Tensor] = join


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tools() -> Tools:
    return Tools()


@pytest.fixture(scope="session")
def graphs() -> Callable[[str], Graph]:
    """The graphs of real networks, loaded once a session."""
    kept: dict[str, Graph] = {}

    def get(name: str) -> Graph:
        if name not in kept:
            kept[name] = load(ModelSpec(name)).graph
        return kept[name]

    return get


@pytest.fixture(scope="session")
def recorded() -> Callable[[str, Graph], tuple[float, ...]]:
    """Seconds per vertex of a real network, as measured once on one machine."""
    file = Path(__file__).parents[1] / "recorded" / "vertex-times.json"
    networks = json.loads(file.read_text())["networks"]

    def get(name: str, graph: Graph) -> tuple[float, ...]:
        assert len(networks[name]) == len(graph.vertices) - 1
        return (0.0, *(row[-1] * 1e-6 for row in networks[name]))

    return get
