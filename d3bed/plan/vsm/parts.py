"""Which parts of a network can be computed tile by tile, and where such a part can be cut into blocks.

A vertex can be tiled if a rectangle of its output follows from a rectangle of each of its inputs:
convolutions and pools (by their window), element-wise operators, batch norm, sums, concatenation on
channels. Whatever mixes all positions (global pooling, softmax, attention, flatten, linear), depends on
the position (a mask) or is not known here ends a part; so does a map of a single position.

A part hangs on one value, its source, and leads to one value, the last of its borders. A border is a
value through which everything behind it in the part passes: between any two borders lies a block, with
one input and one output, be it a chain, a residual sum or a whole Inception module. The source may be
read by others too, and so may the last border; what lies between may not.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable

import msgspec

from d3bed.core.graph import Graph, Value
from d3bed.core.regions import Span, output_size, reach
from d3bed.core.tiles import Block

__all__ = ["Part", "tileable_parts"]

#: Operators that treat every position alike and alone.
_POINTWISE = frozenset(
    {
        *("celu", "clamp", "clamp_max", "clamp_min", "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh"),
        *("leaky_relu", "log_sigmoid", "mish", "prelu", "relu", "relu6", "rrelu", "selu", "sigmoid", "silu"),
        *("softplus", "tanh", "threshold"),
        *("_native_batch_norm_legit_no_training", "alpha_dropout", "batch_norm", "dropout"),
        *("feature_dropout", "alias", "clone", "contiguous", "detach", "to", "_to_copy", "type_as"),
        *("abs", "add", "div", "exp", "maximum", "minimum", "mul", "neg", "pow", "reciprocal", "rsqrt"),
        *("rsub", "sqrt", "square", "sub"),
    }
)
_CAT = frozenset({"cat", "concat"})
_WINDOWED = frozenset({"avg_pool2d", "conv2d", "max_pool2d", "max_pool2d_with_indices"})


class Part(msgspec.Struct, frozen=True):
    """A tileable run: `borders[0]` is its source, the others are values of its own, ascending."""

    vertices: tuple[int, ...]
    borders: tuple[Value, ...]

    def block(self, first: int = 0, last: int = -1) -> Block:
        """What lies between two borders, given by their positions in `borders`."""
        source, sink = self.borders[first], self.borders[last]
        inside = tuple(v for v in self.vertices if source.vertex < v <= sink.vertex)
        if not inside:
            raise ValueError(f"no block between borders {first} and {last}")
        return Block((source,), inside)


def tileable_parts(graph: Graph, within: Collection[int] | None = None) -> list[Part]:
    """All maximal parts, in the order of their sources; no vertex is in two of them.

    `within` bounds them to some vertices, such as the edge's segment of a plan; a source need not be
    among these.
    """
    finder = _Finder(graph, range(len(graph.vertices)) if within is None else within)
    sources = sorted(set(graph.consumers))
    return [part for source in sources for part in finder.parts_from(source)]


def _tileable(graph: Graph, vertex: int, reads: list[Value]) -> bool:
    """Whether a rectangle of this vertex's only output follows from rectangles of its inputs."""
    this = graph.vertices[vertex]
    if len(this.outputs) != 1 or len(this.outputs[0].shape) != 4 or not this.operators or this.positional:
        return False
    inputs = [graph.spec(value).shape for value in reads]
    batch, channels, *size = this.outputs[0].shape
    if size == [1, 1] or any(len(shape) != 4 or shape[0] != batch for shape in inputs):
        return False
    first, *others = this.operators
    if not _POINTWISE.issuperset(others):
        return False
    if first in _WINDOWED:
        window = this.window
        if window is None or window.transposed or len(inputs) != 1 or this.outputs[0].dtype == "int64":
            return False
        return all(
            size[axis] == output_size(window, axis, inputs[0][2 + axis])
            and reach(window, axis, Span(0, size[axis]), inputs[0][2 + axis])
            for axis in (0, 1)
        )
    if any(list(shape[2:]) != size for shape in inputs):
        return False
    if first in _CAT:
        return sum(shape[1] for shape in inputs) == channels
    return first in _POINTWISE


def _inputs(graph: Graph) -> list[list[Value]]:
    found: list[list[Value]] = [[] for _ in graph.vertices]
    for value, readers in graph.consumers.items():
        for reader in readers:
            found[reader].append(value)
    return found


class _Finder:
    def __init__(self, graph: Graph, within: Collection[int]) -> None:
        self._graph = graph
        self._inputs = _inputs(graph)
        self._results = set(graph.results)
        #: Vertices that a part may still take.
        self._free = {v for v in within if _tileable(graph, v, self._inputs[v])}

    def parts_from(self, source: Value) -> Iterable[Part]:
        while group := self._hanging_on(source):
            starts = [v for v in self._readers(source) if v in group]
            members = self._to_next_border(source, starts) or starts[:1]
            borders = [source, Value(members[-1])]
            vertices = list(members)
            while borders[-1] not in self._results:
                more = self._to_next_border(borders[-1], self._readers(borders[-1]))
                if not more:
                    break
                vertices += more
                borders.append(Value(more[-1]))
            self._free.difference_update(vertices)
            yield Part(tuple(vertices), tuple(borders))

    def _readers(self, value: Value) -> tuple[int, ...]:
        return self._graph.consumers.get(value, ())

    def _can_join(self, vertex: int, inside: Collection[Value]) -> bool:
        return vertex in self._free and all(value in inside for value in self._inputs[vertex])

    def _hanging_on(self, source: Value) -> set[int]:
        """Of the free vertices that depend on nothing but the source: those connected with the first."""
        inside, members = {source}, list[int]()
        waiting = sorted(self._readers(source))
        while waiting:
            vertex = heapq.heappop(waiting)
            if Value(vertex) not in inside and self._can_join(vertex, inside):
                inside.add(Value(vertex))
                members.append(vertex)
                for reader in self._readers(Value(vertex)):
                    heapq.heappush(waiting, reader)
        together: set[int] = set()
        reached = members[:1]
        while reached:
            vertex = reached.pop()
            if vertex not in together:
                together.add(vertex)
                near = {v.vertex for v in self._inputs[vertex]} | set(self._readers(Value(vertex)))
                reached += [v for v in near if Value(v) in inside and v != source.vertex]
        return together

    def _to_next_border(self, source: Value, starts: Collection[int]) -> list[int]:
        """The vertices up to the first one that all paths from `starts` pass; [] if some path strays."""
        inside, members = {source}, list[int]()
        due = sorted(starts)
        while due:
            vertex = heapq.heappop(due)
            if not self._can_join(vertex, inside):
                return []
            members.append(vertex)
            inside.add(Value(vertex))
            while due and due[0] == vertex:
                heapq.heappop(due)
            if not due:
                return members
            readers = self._readers(Value(vertex))
            if not readers or Value(vertex) in self._results:
                return []
            for reader in readers:
                heapq.heappush(due, reader)
        return []
