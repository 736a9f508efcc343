"""The DNN as a DAG of layers, free of any engine.

A vertex is one heavy operator with the light ones that follow it (activation, batch norm, dropout).
Vertex 0 is the input: the decoded, resized uint8 image on the device. Vertices are numbered in a
topological order. A vertex may make several values (split, unbind); values, not vertices, cross
links. The graph must not know how a vertex is computed: `model/export` makes it, `model/segment`
runs it, `plan` decides over it, and the server passes it around as JSON.
"""

from __future__ import annotations

import hashlib
import math
from functools import cached_property
from typing import Annotated

import msgspec

from d3bed.core.numbers import Bytes, Count, Place
from d3bed.core.regions import ALL, WHOLE, Region, Span

__all__ = ["ITEM_BYTES", "Edge", "Graph", "TensorSpec", "Value", "Vertex", "Window"]

#: Bytes per element of every dtype that may cross a link.
ITEM_BYTES: dict[str, int] = {
    "uint8": 1,
    "int8": 1,
    "bool": 1,
    "int16": 2,
    "float16": 2,
    "bfloat16": 2,
    "int32": 4,
    "float32": 4,
    "int64": 8,
    "float64": 8,
}


#: Of a tensor; no link carries one that is larger by far.
MOST_DIMENSIONS, MOST_BYTES = 8, 2**40


class TensorSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """Shape `[N, C, H, W]` (or fewer/more dimensions) and dtype, as in `ITEM_BYTES`.

    With `usual_bytes`, a file: one dimension whose length differs from frame to frame. `shape` is then
    the bound that receivers hold it to, and `nbytes`, which planners count, is what is usual.
    """

    shape: tuple[Place, ...]
    dtype: str
    usual_bytes: Bytes | None = None

    def admits(self, shape: tuple[int, ...], dtype: str) -> bool:
        """Whether a tensor that came over a link may be this value."""
        if self.usual_bytes is None:
            return shape == self.shape and dtype == self.dtype
        return dtype == self.dtype and len(shape) == 1 and 0 < shape[0] <= self.shape[0]

    @property
    def usual_shape(self) -> tuple[int, ...]:
        return self.shape if self.usual_bytes is None else (self.usual_bytes,)

    @property
    def nbytes(self) -> int:
        if self.usual_bytes is not None:
            return self.usual_bytes
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


#: Of what must not be 0.
_Pair = tuple[Annotated[int, msgspec.Meta(ge=1, le=2**31)], Annotated[int, msgspec.Meta(ge=1, le=2**31)]]


class Window(msgspec.Struct, frozen=True):
    """How a convolution or pooling operator looks at its input: what tiles need to know.

    All pairs are (height, width). `padding` is symmetric.
    """

    kernel: _Pair
    stride: _Pair
    padding: tuple[Place, Place] = (0, 0)
    dilation: _Pair = (1, 1)
    groups: Place = 1
    transposed: bool = False
    ceil_mode: bool = False
    count_include_pad: bool = True


class Value(msgspec.Struct, frozen=True, order=True):
    """One tensor of the graph: output number `output` of vertex number `vertex`, or a rectangle of it."""

    vertex: Place
    output: Place = 0
    region: Region = WHOLE

    @property
    def whole(self) -> Value:
        """The tensor that this is a rectangle of, or is."""
        return self if self.region == WHOLE else Value(self.vertex, self.output)

    def __str__(self) -> str:
        name = f"{self.vertex}.{self.output}"
        return name if self.region == WHOLE else f"{name}[{self.region}]"


class Vertex(msgspec.Struct, frozen=True):
    """One layer. `kind` is the heavy operator's name (`input`, `conv2d`, `linear`, `add`, …).

    `positional`: one of its constants differs by position on the map (a mask, position embeddings), so
    that it cannot run on a part of the map alone.
    """

    name: str
    kind: str
    outputs: tuple[TensorSpec, ...]
    operators: tuple[str, ...] = ()
    flops: Count = 0
    weight_bytes: Bytes = 0
    window: Window | None = None
    positional: bool = False

    def reads_channels(self, makes: Span, inputs: int) -> Span | None:
        """The channels, of inputs with `inputs` of them, that are read to make some of this vertex's output;
        None if some cannot be made alone: of a concatenation, or a part of a group of a convolution's."""
        if makes == ALL:
            return ALL
        if self.kind in ("cat", "concat"):
            return None
        if self.kind != "conv2d" or self.window is None:
            return makes
        groups = self.window.groups
        if groups == 1:
            return ALL
        each, per = self.outputs[0].shape[1] // groups, inputs // groups
        if makes.start % each or makes.stop % each:
            return None
        return Span(makes.start // each * per, makes.stop // each * per)


class Edge(msgspec.Struct, frozen=True):
    """`consumer` reads these `outputs` of `producer` (vertex numbers, producer < consumer)."""

    producer: Place
    consumer: Place
    outputs: tuple[Place, ...] = (0,)


class Graph(msgspec.Struct, frozen=True, dict=True):
    """A model's layers, who reads what, and which values are the answer."""

    model: str
    vertices: tuple[Vertex, ...]
    edges: tuple[Edge, ...]
    results: tuple[Value, ...]

    @cached_property
    def predecessors(self) -> tuple[tuple[int, ...], ...]:
        found: list[list[int]] = [[] for _ in self.vertices]
        for edge in self.edges:
            found[edge.consumer].append(edge.producer)
        return tuple(tuple(sorted(set(p))) for p in found)

    @cached_property
    def successors(self) -> tuple[tuple[int, ...], ...]:
        found: list[list[int]] = [[] for _ in self.vertices]
        for edge in self.edges:
            found[edge.producer].append(edge.consumer)
        return tuple(tuple(sorted(set(s))) for s in found)

    @cached_property
    def consumers(self) -> dict[Value, tuple[int, ...]]:
        """Which vertices read a value; values that nobody reads are absent."""
        found: dict[Value, set[int]] = {}
        for edge in self.edges:
            for output in edge.outputs:
                found.setdefault(Value(edge.producer, output), set()).add(edge.consumer)
        return {value: tuple(sorted(found[value])) for value in sorted(found)}

    @cached_property
    def index(self) -> dict[str, int]:
        """Vertex number by name."""
        return {vertex.name: number for number, vertex in enumerate(self.vertices)}

    def spec(self, value: Value) -> TensorSpec:
        """Shape and dtype; of a rectangle, its own."""
        whole = self.vertices[value.vertex].outputs[value.output]
        if value.region == WHOLE:
            return whole
        rows, columns, channels = value.region
        batch, count, *_ = whole.shape
        some = Span(channels.start, min(channels.stop, count)).length
        return TensorSpec((batch, some, rows.length, columns.length), whole.dtype)

    @cached_property
    def output_bytes(self) -> tuple[int, ...]:
        """Per vertex: bytes of those of its values that another vertex reads or that are results."""
        wanted = set(self.consumers) | set(self.results)
        total = [0] * len(self.vertices)
        for value in wanted:
            total[value.vertex] += self.spec(value).nbytes
        return tuple(total)

    @property
    def result_bytes(self) -> int:
        return sum(self.spec(value).nbytes for value in self.results)

    @cached_property
    def digest(self) -> str:
        """Short hash of the whole graph: equal digests mean interchangeable vertex numbers."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]

    def check(self) -> None:
        """Raise `ValueError` unless numbered topologically, single-sourced and in range."""
        count = len(self.vertices)
        if not count or self.vertices[0].kind != "input":
            raise ValueError("vertex 0 must be the input")
        if len(self.index) != count:
            raise ValueError("duplicate vertex names")
        for vertex in self.vertices:
            for spec in vertex.outputs:
                if spec.dtype not in ITEM_BYTES or len(spec.shape) > MOST_DIMENSIONS:
                    raise ValueError(f"vertex {vertex.name} makes {spec.dtype}{list(spec.shape)}")
                if spec.nbytes > MOST_BYTES:
                    raise ValueError(f"vertex {vertex.name} makes {spec.nbytes} bytes")
        for edge in self.edges:
            if not 0 <= edge.producer < edge.consumer < count:
                raise ValueError(f"edge {edge.producer}→{edge.consumer} is not topological")
            if any(not 0 <= o < len(self.vertices[edge.producer].outputs) for o in edge.outputs):
                raise ValueError(f"edge {edge.producer}→{edge.consumer} reads a missing output")
        for number, before in enumerate(self.predecessors):
            if bool(before) == (number == 0):
                raise ValueError(f"vertex {number}: the input must be the only source")
        if not self.results:
            raise ValueError("no results")
        for value in self.results:
            if not (
                0 <= value.vertex < count and 0 <= value.output < len(self.vertices[value.vertex].outputs)
            ):
                raise ValueError(f"result {value} is out of range")
