"""A block cut into tiles: what each tile reads, makes and costs, and what tiles fetch from one another.

The output map of a block is cut by a grid. From each output tile the needs run backwards: a vertex makes
what its readers in the block need of it (the hull of it, where there are several), and reads what its
window reaches of its inputs. Neighbouring tiles overlap there, and the overlap is computed more than
once: that is the redundancy. A grid may cut channels, too: a convolution makes some of them from all that
it reads, what is element-wise or a pool from the same ones. Between blocks no whole map need be joined:
a tile takes pieces of the output tiles of the blocks that it reads.

Here is geometry alone. It must not know who computes a tile, how fast, nor over which link.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import msgspec

from d3bed.core.errors import PlanInfeasible
from d3bed.core.graph import Graph, Value, Vertex
from d3bed.core.regions import ALL, Padding, Reach, Region, Span, cut, reach

__all__ = [
    "Block",
    "Grid",
    "Patch",
    "Piece",
    "Tile",
    "Tiling",
    "largest_grid",
    "map_size",
    "pieces",
    "tiling",
    "tilings_to",
]


class Block(msgspec.Struct, frozen=True):
    """Vertices (ascending) between the values that they read (each of another vertex) and the value of the
    last of them."""

    sources: tuple[Value, ...]
    vertices: tuple[int, ...]

    @property
    def sink(self) -> Value:
        return Value(self.vertices[-1])

    def describe(self, graph: Graph) -> str:
        first, last = graph.vertices[self.vertices[0]].name, graph.vertices[self.vertices[-1]].name
        return first if first == last else f"{first} … {last}"

    def problems(self, graph: Graph) -> Iterator[str]:
        """Why it is no block of a graph, if so."""
        inside = set(self.vertices)
        if (
            not inside
            or sorted(inside) != list(self.vertices)
            or not inside <= set(range(len(graph.vertices)))
        ):
            yield f"{list(self.vertices)} are no vertices in ascending order"
            return
        read = {value for value, readers in graph.consumers.items() if inside.intersection(readers)}
        outside = {value for value in read if value.vertex not in inside}
        if outside != set(self.sources) or len({value.vertex for value in outside}) != len(self.sources):
            found, told = (", ".join(map(str, sorted(values))) for values in (outside, set(self.sources)))
            yield f"block {self.describe(graph)} reads {found}, not {told}"
        elif not all(graph.predecessors[v] for v in self.vertices):
            yield f"block {self.describe(graph)} holds what reads nothing"
        for value, readers in graph.consumers.items():
            if value.vertex in inside and value != self.sink and not inside.issuperset(readers):
                yield f"{value}, inside block {self.describe(graph)}, is read outside it"


def map_size(graph: Graph, value: Value) -> tuple[int, int]:
    """Height and width of a value `[N, C, H, W]`."""
    _, _, height, width = graph.spec(value).shape
    return height, width


class Grid(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the output map of a block is cut: 0, …, height and 0, …, width, strictly ascending; and 0, …, its
    channels, where these are shared out, too."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    channels: tuple[int, ...] = ()

    @classmethod
    def even(cls, size: tuple[int, int], rows: int, columns: int) -> Grid:
        """Tiles as equal as can be. Raises `PlanInfeasible` if the map (height, width) is too small."""
        return cls.weighted(size, [1] * rows, [1] * columns)

    @classmethod
    def weighted(cls, size: tuple[int, int], rows: Sequence[float], columns: Sequence[float]) -> Grid:
        """Bands in proportion to weights (speeds), none empty. Raises `PlanInfeasible`."""
        return cls(cut(size[0], rows), cut(size[1], columns))

    @property
    def shape(self) -> tuple[int, int]:
        """Tiles down and across; they are numbered row by row."""
        return len(self.rows) - 1, len(self.columns) - 1

    @property
    def count(self) -> int:
        """Of tiles; those of one place follow each other, by their channels."""
        return math.prod(self.shape) * len(self.bands(2))

    def bands(self, axis: int) -> list[Span]:
        if axis == 2 and not self.channels:
            return [ALL]
        return [Span(*ends) for ends in pairwise((self.rows, self.columns, self.channels)[axis])]

    def problems(self, graph: Graph, value: Value) -> Iterator[str]:
        """Why it is no cut of a value, if so."""
        _, channels, height, width = graph.spec(value).shape
        on_map = f"a map of {height}×{width}"
        wanted = [(self.rows, height, on_map), (self.columns, width, on_map)]
        if self.channels:
            wanted.append((self.channels, channels, f"{channels} channels"))
        for cuts, size, what in wanted:
            if len(cuts) < 2 or cuts[0] != 0 or cuts[-1] != size or any(a >= b for a, b in pairwise(cuts)):
                yield f"cuts {list(cuts)} do not divide {what} into tiles"

    @property
    def regions(self) -> list[Region]:
        """Of all tiles."""
        return [Region(*spans) for spans in itertools.product(*map(self.bands, range(3)))]

    def __str__(self) -> str:
        """As in `2×2`, or `1×1×4` for four shares of the channels."""
        return "×".join(map(str, self.shape)) + f"×{len(self.bands(2))}" * bool(self.channels)


class Patch(msgspec.Struct, frozen=True):
    """One vertex's share of a tile: crop every input to `reads`, pad, run without padding, get `makes`.

    `reads` and `makes` are in positions of the undivided maps.
    """

    vertex: int
    makes: Region
    reads: Region
    padding: Padding
    flops: int
    output_bytes: int


class Tile(msgspec.Struct, frozen=True):
    """All that one tile takes of each of the block's sources, does (in this order), and makes of its
    output."""

    row: int
    column: int
    takes: tuple[Region, ...]
    patches: tuple[Patch, ...]
    input_bytes: int
    share: int = 0

    @property
    def place(self) -> tuple[int, int, int]:
        """Its row, column and share of channels in the grid."""
        return self.row, self.column, self.share

    @property
    def makes(self) -> Region:
        return self.patches[-1].makes

    @property
    def output_bytes(self) -> int:
        return self.patches[-1].output_bytes

    @property
    def flops(self) -> int:
        return sum(patch.flops for patch in self.patches)


class Piece(msgspec.Struct, frozen=True):
    """`region` of a map as far as output tile number `tile` (row by row) holds it."""

    tile: int
    region: Region
    nbytes: int


@dataclass(frozen=True)
class _Trace:
    """Needs along one axis, per vertex and band: `makes` of the sources too. `broken`: see `_trace`."""

    makes: dict[int, list[Span]]
    reaches: dict[int, list[Reach]]
    broken: int | None


@dataclass(frozen=True)
class _Needs:
    """Both axes, and what follows per vertex: shared by all blocks that end alike."""

    graph: Graph
    rows: _Trace
    columns: _Trace
    channels: _Trace
    _flops: dict[int, list[int]] = field(default_factory=dict)

    @property
    def traces(self) -> tuple[_Trace, _Trace, _Trace]:
        return self.rows, self.columns, self.channels

    def regions(self, vertex: int) -> list[Region]:
        """What every tile needs of a vertex's output."""
        return [Region(*spans) for spans in itertools.product(*(t.makes[vertex] for t in self.traces))]

    def flops(self, vertex: int) -> list[int]:
        if vertex not in self._flops:
            this = self.graph.vertices[vertex]
            channels, *size = this.outputs[0].shape[1:]
            whole = channels * math.prod(size)
            self._flops[vertex] = [
                this.flops * region.area * min(region.channels.length, channels) // whole
                for region in self.regions(vertex)
            ]
        return self._flops[vertex]


@dataclass(frozen=True)
class Tiling:
    """A block under a grid. Make it with `tiling` or `tilings_to`. Tiles are in order of their number."""

    graph: Graph
    block: Block
    grid: Grid
    needs: _Needs

    @cached_property
    def takes(self) -> list[tuple[Region, ...]]:
        """What every tile needs of each of the block's sources."""
        return list(zip(*(self.needs.regions(source.vertex) for source in self.block.sources), strict=True))

    @cached_property
    def makes(self) -> list[Region]:
        return self.grid.regions

    @cached_property
    def flops(self) -> list[int]:
        """Floating-point operations of every tile."""
        return [sum(tile) for tile in zip(*map(self.needs.flops, self.block.vertices), strict=True)]

    @property
    def whole_flops(self) -> int:
        """Of the undivided block."""
        return sum(self.graph.vertices[v].flops for v in self.block.vertices)

    @property
    def redundancy(self) -> float:
        """FLOPs of all tiles over those of the undivided block: 1 where nothing is computed twice (a little
        less where the block's last rows or columns are read by nobody, and so are not computed)."""
        return sum(self.flops) / self.whole_flops if self.whole_flops else 1.0

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        patches = [self._patches(vertex) for vertex in self.block.vertices]
        places = itertools.product(*(range(len(self.grid.bands(axis))) for axis in range(3)))
        return tuple(
            Tile(row, column, takes, mine, self._input_bytes(takes), share)
            for (row, column, share), takes, mine in zip(
                places, self.takes, zip(*patches, strict=True), strict=True
            )
        )

    def _input_bytes(self, takes: tuple[Region, ...]) -> int:
        return sum(_nbytes(self.graph, *taken) for taken in zip(self.block.sources, takes, strict=True))

    def _patches(self, vertex: int) -> list[Patch]:
        """One per tile."""
        reads = [
            (Region(r.reads, c.reads, k.reads), Padding(r.before, r.after, c.before, c.after))
            for r, c, k in itertools.product(*(t.reaches[vertex] for t in self.needs.traces))
        ]
        return [
            Patch(vertex, makes, *read, flops, _nbytes(self.graph, Value(vertex), makes))
            for makes, read, flops in zip(
                self.needs.regions(vertex), reads, self.needs.flops(vertex), strict=True
            )
        ]


def tiling(graph: Graph, block: Block, grid: Grid) -> Tiling:
    """Raises `PlanInfeasible` if the grid does not fit the block: it is not a cut of its output map, or a
    tile would depend on padding alone."""
    return _checked(block, grid, _needs(graph, block, grid))


def tilings_to(graph: Graph, blocks: Sequence[Block], grid: Grid) -> list[Tiling | None]:
    """Tilings of blocks that all end alike, from one backward trace of the first, which holds the others.

    None where the grid does not fit. Raises `PlanInfeasible` if it is not a cut of their output map.
    """
    needs = _needs(graph, blocks[0], grid)
    found: list[Tiling | None] = []
    for block in blocks:
        try:
            found.append(_checked(block, grid, needs))
        except PlanInfeasible:
            found.append(None)
    return found


def largest_grid(graph: Graph, block: Block, rows: int, columns: int) -> Grid:
    """The largest even grid up to `rows` × `columns` that fits. Raises `PlanInfeasible` if none does: the
    block's output is made of padding alone."""
    size = map_size(graph, block.sink)
    best = []
    for axis, wanted in enumerate((rows, columns)):
        for count in range(min(wanted, size[axis]), 0, -1):
            cuts = cut(size[axis], [1] * count)
            if _trace(graph, block, axis, [Span(*ends) for ends in pairwise(cuts)]).broken is None:
                best.append(cuts)
                break
    if len(best) < 2:
        raise PlanInfeasible(f"block {block.describe(graph)}", "its output depends on padding alone")
    return Grid(best[0], best[1])


def pieces(before: Tiling, after: Tiling) -> list[list[Piece]]:
    """For every tile of a block: from which output tiles of a block that it reads, it takes what.

    The pieces of a tile do not overlap and make up what it takes; the one that its agent holds already
    is among them. A tile smaller than a halo is no special case: the halo then comes from farther away.
    """
    graph, source = after.graph, before.block.sink
    if source not in after.block.sources:
        raise ValueError(f"{source} is not read by block {after.block.describe(graph)}")
    which = after.block.sources.index(source)
    return [
        [
            Piece(number, region, _nbytes(graph, source, region))
            for number, held in enumerate(before.makes)
            if (region := held.overlap(taken[which])) is not None
        ]
        for taken in after.takes
    ]


def _nbytes(graph: Graph, value: Value, region: Region) -> int:
    return graph.spec(Value(value.vertex, value.output, region)).nbytes


def _needs(graph: Graph, block: Block, grid: Grid) -> _Needs:
    for problem in grid.problems(graph, block.sink):
        raise PlanInfeasible(f"block {block.describe(graph)}", problem)
    rows, columns, channels = (_trace(graph, block, axis, grid.bands(axis)) for axis in range(3))
    return _Needs(graph, rows, columns, channels)


def _checked(block: Block, grid: Grid, needs: _Needs) -> Tiling:
    for trace in needs.traces:
        if trace.broken is not None and trace.broken >= block.vertices[0]:
            name = needs.graph.vertices[trace.broken].name
            why = "cannot make some channels alone" if trace is needs.channels else "sees only padding"
            raise PlanInfeasible(
                f"block {block.describe(needs.graph)}", f"in a grid {grid}, a tile of {name} {why}"
            )
    return Tiling(needs.graph, block, grid, needs)


def _trace(graph: Graph, block: Block, axis: int, bands: list[Span]) -> _Trace:
    """From the output's bands back to the sources'. Ends early at a vertex, `broken`, that for some band
    reads only padding, or cannot make these channels alone: blocks that start behind it are not affected."""
    outputs = {source.vertex: source.output for source in block.sources}
    if bands == [ALL]:  # as nearly always of channels
        all_of_it = [Reach(ALL, 0, 0)]
        members = (*outputs, *block.vertices)
        return _Trace(dict.fromkeys(members, bands), dict.fromkeys(block.vertices, all_of_it), None)
    makes = {block.sink.vertex: bands}
    reaches: dict[int, list[Reach]] = {}
    inside = {*outputs, *block.vertices}
    for vertex in reversed(block.vertices):
        sources = [source for source in graph.predecessors[vertex] if source in inside]
        shape = graph.vertices[sources[0]].outputs[outputs.get(sources[0], 0)].shape
        mine = []
        for span in makes[vertex]:
            reached = _reach(graph.vertices[vertex], axis, span, shape)
            if reached is None:
                return _Trace(makes, reaches, vertex)
            mine.append(reached)
        reaches[vertex] = mine
        for source in sources:
            if source in makes:
                makes[source] = [a.hull(b.reads) for a, b in zip(makes[source], mine, strict=True)]
            else:
                makes[source] = [reached.reads for reached in mine]
    return _Trace(makes, reaches, None)


def _reach(vertex: Vertex, axis: int, makes: Span, shape: Sequence[int]) -> Reach | None:
    """What a vertex reads along one axis of its inputs, whose `shape` is [N, C, H, W]."""
    if axis < 2:
        return reach(vertex.window, axis, makes, shape[2 + axis])
    channels = vertex.reads_channels(makes, shape[1])
    return Reach(channels, 0, 0) if channels is not None else None
