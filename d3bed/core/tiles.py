"""A block cut into tiles: what each tile reads, makes and costs, and what tiles fetch from one another.

The output map of a block is cut by a grid. From each output tile the needs run backwards: a vertex makes
what its readers in the block need of it (the hull of it, where there are several), and reads what its
window reaches of its inputs. Neighbouring tiles overlap there, and the overlap is computed more than
once: that is the redundancy. Between two blocks in a row no whole map is needed: a tile of the second
takes pieces of the first one's output tiles, most of it from the one in its place.

Here is geometry alone. It must not know who computes a tile, how fast, nor over which link.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import msgspec

from d3bed.core.errors import PlanInfeasible
from d3bed.core.graph import Graph, Value
from d3bed.core.regions import Padding, Reach, Region, Span, cut, reach

__all__ = [
    "Block",
    "Grid",
    "Patch",
    "Piece",
    "Tile",
    "Tiling",
    "exchanged_bytes",
    "largest_grid",
    "map_size",
    "pieces",
    "tiling",
    "tilings_to",
]


class Block(msgspec.Struct, frozen=True):
    """Vertices (ascending) between the value they read and the value of the last of them."""

    source: Value
    vertices: tuple[int, ...]

    @property
    def sink(self) -> Value:
        return Value(self.vertices[-1])

    def describe(self, graph: Graph) -> str:
        first, last = graph.vertices[self.vertices[0]].name, graph.vertices[self.vertices[-1]].name
        return first if first == last else f"{first} … {last}"


def map_size(graph: Graph, value: Value) -> tuple[int, int]:
    """Height and width of a value `[N, C, H, W]`."""
    _, _, height, width = graph.spec(value).shape
    return height, width


class Grid(msgspec.Struct, frozen=True):
    """Where the output map of a block is cut: 0, …, height and 0, …, width, strictly ascending."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]

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

    def bands(self, axis: int) -> list[Span]:
        return [Span(*ends) for ends in pairwise((self.rows, self.columns)[axis])]

    def __str__(self) -> str:
        return "×".join(map(str, self.shape))


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
    """All that one tile takes of the block's source, does (in this order), and makes of its output."""

    row: int
    column: int
    takes: Region
    patches: tuple[Patch, ...]
    input_bytes: int

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
    """Needs along one axis, per vertex and band: `makes` of the source too. `broken`: see `_trace`."""

    makes: dict[int, list[Span]]
    reaches: dict[int, list[Reach]]
    broken: int | None


@dataclass(frozen=True)
class _Needs:
    """Both axes, and what follows per vertex: shared by all blocks that end alike."""

    graph: Graph
    rows: _Trace
    columns: _Trace
    _flops: dict[int, list[int]] = field(default_factory=dict)

    def regions(self, vertex: int) -> list[Region]:
        """What every tile needs of a vertex's output."""
        return [Region(r, c) for r in self.rows.makes[vertex] for c in self.columns.makes[vertex]]

    def flops(self, vertex: int) -> list[int]:
        if vertex not in self._flops:
            this = self.graph.vertices[vertex]
            positions = math.prod(this.outputs[0].shape[2:])
            heights, widths = ([span.length for span in t.makes[vertex]] for t in (self.rows, self.columns))
            self._flops[vertex] = [this.flops * h * w // positions for h in heights for w in widths]
        return self._flops[vertex]


@dataclass(frozen=True)
class Tiling:
    """A block under a grid. Make it with `tiling` or `tilings_to`. Tiles are in order of their number."""

    graph: Graph
    block: Block
    grid: Grid
    needs: _Needs

    @cached_property
    def takes(self) -> list[Region]:
        """What every tile needs of the block's source."""
        return self.needs.regions(self.block.source.vertex)

    @property
    def makes(self) -> list[Region]:
        return [Region(r, c) for r in self.grid.bands(0) for c in self.grid.bands(1)]

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
        per_position = _bytes_per_position(self.graph, self.block.source)
        patches = [self._patches(vertex) for vertex in self.block.vertices]
        return tuple(
            Tile(*divmod(number, self.grid.shape[1]), takes, mine, takes.area * per_position)
            for number, (takes, mine) in enumerate(zip(self.takes, zip(*patches, strict=True), strict=True))
        )

    def _patches(self, vertex: int) -> list[Patch]:
        """One per tile."""
        rows, columns = self.needs.rows.reaches[vertex], self.needs.columns.reaches[vertex]
        reads = [
            (Region(r.reads, c.reads), Padding(r.before, r.after, c.before, c.after))
            for r in rows
            for c in columns
        ]
        per_position = _bytes_per_position(self.graph, Value(vertex))
        return [
            Patch(vertex, makes, *read, flops, makes.area * per_position)
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
    """For every tile of a block: from which output tiles of the block before it, it takes what.

    The pieces of a tile do not overlap and make up what it takes; the one that its agent holds already
    is among them. A tile smaller than a halo is no special case: the halo then comes from farther away.
    """
    if before.block.sink != after.block.source:
        raise ValueError(f"{after.block.source} is not what {before.block.sink} hands on")
    per_position = _bytes_per_position(after.graph, after.block.source)
    across = before.grid.shape[1]
    held_rows, held_columns = before.grid.bands(0), before.grid.bands(1)
    found = []
    for taken in after.takes:
        mine = []
        for r, held_row in enumerate(held_rows):
            row = held_row.overlap(taken.rows)
            if row is None:
                continue
            for c, held_column in enumerate(held_columns):
                if (column := held_column.overlap(taken.columns)) is not None:
                    region = Region(row, column)
                    mine.append(Piece(r * across + c, region, region.area * per_position))
        found.append(mine)
    return found


def exchanged_bytes(before: Tiling, after: Tiling, held: Sequence[Hashable], run: Sequence[Hashable]) -> int:
    """Bytes that change hands between two blocks in a row, given who `held` each output tile of the first
    and who is to `run` each tile of the second."""
    return sum(
        piece.nbytes
        for agent, taken in zip(run, pieces(before, after), strict=True)
        for piece in taken
        if held[piece.tile] != agent
    )


def _bytes_per_position(graph: Graph, value: Value) -> int:
    spec = graph.spec(value)
    return spec.nbytes // math.prod(spec.shape[2:])


def _needs(graph: Graph, block: Block, grid: Grid) -> _Needs:
    size = map_size(graph, block.sink)
    for cuts, positions in zip((grid.rows, grid.columns), size, strict=True):
        if len(cuts) < 2 or cuts[0] != 0 or cuts[-1] != positions or any(a >= b for a, b in pairwise(cuts)):
            raise PlanInfeasible(
                f"block {block.describe(graph)}",
                f"cuts {list(cuts)} do not divide a map of {size[0]}×{size[1]} into tiles",
            )
    rows, columns = (_trace(graph, block, axis, grid.bands(axis)) for axis in (0, 1))
    return _Needs(graph, rows, columns)


def _checked(block: Block, grid: Grid, needs: _Needs) -> Tiling:
    for trace in (needs.rows, needs.columns):
        if trace.broken is not None and trace.broken >= block.vertices[0]:
            raise PlanInfeasible(
                f"block {block.describe(needs.graph)}",
                f"in a grid {grid}, a tile of {needs.graph.vertices[trace.broken].name} sees only padding",
            )
    return Tiling(needs.graph, block, grid, needs)


def _trace(graph: Graph, block: Block, axis: int, bands: list[Span]) -> _Trace:
    """From the output's bands back to the source's. Ends early at a vertex, `broken`, that for some band
    reads only padding: blocks that start behind it are not affected."""
    makes = {block.sink.vertex: bands}
    reaches: dict[int, list[Reach]] = {}
    inside = {block.source.vertex, *block.vertices}
    for vertex in reversed(block.vertices):
        sources = [source for source in graph.predecessors[vertex] if source in inside]
        output = block.source.output if sources[0] == block.source.vertex else 0
        size = graph.vertices[sources[0]].outputs[output].shape[2 + axis]
        mine = []
        for span in makes[vertex]:
            reached = reach(graph.vertices[vertex].window, axis, span, size)
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
