"""A tile of a block as one function: its patches in order, each on a region of the map: a rectangle, of all
or some channels.

Every vertex crops its inputs to what its patch reads; a convolution or pool sees padding only where its
window really leaves the map. What would round differently on a small map is made to round as on the whole:
- a convolution runs the kernel that torch would choose for the whole map, not the tile's, and where that
  is not enough, on a map as tall, or of the whole size: see `Way`. `exact` finds out which patches need what;
- (other engines than torch's round as they like: there nothing of this is done, and tiles are only close)
- any other operator that may round the last few positions of a map differently runs at the whole size,
  too: vector code computes what fills its registers, other code the rest.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.nn import functional

from d3bed.core.graph import Value, Window
from d3bed.core.models import TORCH
from d3bed.core.program import Step
from d3bed.core.regions import ALL, WHOLE, Padding, Region, Span, divisors
from d3bed.core.tiles import Patch, Tile, map_size
from d3bed.model.export import arguments, operator_name
from d3bed.model.packing import RUN_PACKED, groups_of, kernels_of, prepacked, weight_of

if TYPE_CHECKING:
    from d3bed.model.loading import LoadedModel

__all__ = ["LAYOUTS", "Way", "is_pointwise", "rectangles_graph", "tile_graph"]

aten = torch.ops.aten

_UNPADDED = Padding()


class Way(enum.Enum):
    """How a patch of a convolution is computed, the fastest first."""

    #: The whole map's kernel, its weights brought into that kernel's order once. (torch does it on every
    #: call; for a small tile that is much.)
    PACKED = "packed"
    #: The whole map's kernel.
    FORCED = "forced"
    #: Of a 1×1 convolution: its positions laid out in as many rows as the whole map has. They know no
    #: neighbours, but how oneDNN adds up many channels follows from the rows (more than 10 or not).
    ROWS = "rows"
    #: Of a 1×1 convolution that is one matrix product: the products of slices of its input's channels, added
    #: up one after the other. (So MKL does it for large maps; for less than 192 positions it adds up 1,024
    #: channels at once, and Inception-v4 has 289 there.)
    SLICES = "slices"
    #: Of a 1×1 convolution: in rows, and at least two thirds of the whole map's positions, zeros behind the
    #: last.
    MOST = "most"
    #: The whole map's operator on a map of the whole size that is zero around what the patch reads: always
    #: right, and as slow as the whole.
    FULL = "full"


#: Ways of 1×1 convolutions only.
LAYOUTS = frozenset({Way.ROWS, Way.SLICES, Way.MOST})

#: So many channels are in a slice: what MKL takes at once.
_SLICE = 384


def is_pointwise(window: Window | None) -> bool:
    """Whether a window makes each position of one, and never of padding."""
    return window is not None and window.kernel == (1, 1) and window.padding == (0, 0)


#: Operators that give the same bits wherever a position lies: they compute nothing, or a single rounding.
_STEADY = frozenset(
    {
        *("abs", "add", "clamp", "clamp_max", "clamp_min", "div", "hardtanh", "leaky_relu", "maximum"),
        *("minimum", "mul", "neg", "prelu", "relu", "relu6", "rrelu", "sqrt", "square", "sub", "threshold"),
        *("_native_batch_norm_legit_no_training", "batch_norm"),
        *("alias", "alpha_dropout", "cat", "clone", "concat", "contiguous", "detach", "dropout"),
        *("feature_dropout", "getitem", "to", "_to_copy", "type_as"),
    }
)


# ── operators of the generated code: their numbers are plain tuples, which it spells out ────────────

#: A region in a tensor's own coordinates: top, bottom, left, right, first and last channel, half open.
_Box = tuple[int, int, int, int, int, int]


def _box(region: Region) -> _Box:
    return (*region.rows, *region.columns, *region.channels)


def _crop(tensor: torch.Tensor, box: _Box) -> torch.Tensor:
    top, bottom, left, right, first, last = box
    return tensor[:, first:last, top:bottom, left:right]


def _join(
    size: tuple[int, int, int],
    boxes: tuple[_Box, ...],
    padding: tuple[int, ...],
    fill: float,
    *parts: torch.Tensor,
) -> torch.Tensor:
    """A contiguous map of `size` (channels, height, width) from parts that do not overlap and leave nothing
    out, and padding around it: one copy, where `_frame` would make another."""
    top, bottom, left, right = padding
    channels, height, width = size
    batch = parts[0].shape[0]
    whole = parts[0].new_empty((batch, channels, top + height + bottom, left + width + right))
    for beside in (
        whole[:, :, :top],
        whole[:, :, top + height :],
        whole[..., :left],
        whole[..., left + width :],
    ):
        if beside.numel():
            beside.fill_(fill)
    inside = whole[:, :, top : top + height, left : left + width]
    for box, part in zip(boxes, parts, strict=True):
        _crop(inside, box).copy_(part)
    return whole


def _frame(tensor: torch.Tensor, box: _Box, padding: tuple[int, ...], fill: float) -> torch.Tensor:
    """A rectangle with padding around it, contiguous; copied once, or not at all where it is all there."""
    part = _crop(tensor, box)
    if not any(padding):
        return part.contiguous()
    top, bottom, left, right = padding
    return functional.pad(part, (left, right, top, bottom), value=fill)


def _lay(tensor: torch.Tensor, box: _Box, stride: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    """The positions of a rectangle that a 1×1 kernel takes, as a map of `size`; zeros behind the last."""
    taken = _crop(tensor, box)[:, :, :: stride[0], :: stride[1]]
    count = taken.shape[2] * taken.shape[3]
    flat = tensor.new_empty((*taken.shape[:2], math.prod(size)))
    flat[:, :, :count].view(taken.shape).copy_(taken)
    flat[:, :, count:].zero_()
    laid = flat.view(*flat.shape[:2], *size)
    if stride == (1, 1):
        return laid
    spread = laid.new_zeros((*laid.shape[:2], size[0] * stride[0], size[1] * stride[1]))
    spread[:, :, :: stride[0], :: stride[1]] = laid
    return spread


def _picked(tensor: torch.Tensor, box: _Box, stride: tuple[int, int]) -> torch.Tensor:
    """The positions of a rectangle that a 1×1 kernel takes, contiguous."""
    return _crop(tensor, box)[:, :, :: stride[0], :: stride[1]].contiguous()


def _sliced(
    tensor: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, size: tuple[int, int]
) -> torch.Tensor:
    """A 1×1 convolution of contiguous positions, to a map of `size`: bias, and slice by slice of channels."""
    flat, kernel = tensor.flatten(2), weight.flatten(1)
    made = tensor.new_zeros((tensor.shape[0], weight.shape[0], math.prod(size)))
    if bias is not None:
        made += bias[:, None]
    for whole, given in zip(made, flat, strict=True):
        for first in range(0, kernel.shape[1], _SLICE):
            whole.addmm_(kernel[:, first : first + _SLICE], given[first : first + _SLICE])
    return made.view(*made.shape[:2], *size)


def _lay_back(tensor: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The first positions of a map, as a contiguous map of `size`."""
    first = tensor.flatten(2)[:, :, : math.prod(size)]
    return first.contiguous().view(*tensor.shape[:2], *size)


def _canvas(tensor: torch.Tensor, size: tuple[int, int, int], box: _Box) -> torch.Tensor:
    """A map of `size` (channels, height, width) that is zero outside `box`."""
    canvas = tensor.new_zeros((tensor.shape[0], *size))
    _crop(canvas, box).copy_(tensor)
    return canvas


# ── graphs ───────────────────────────────────────────────────────────────────────────────────────────


def rectangles_graph(model: LoadedModel, step: Step) -> fx.Graph:
    """A step without vertices: cut rectangles out of a whole value, or join rectangles to the whole."""
    graph = fx.Graph()
    given = [graph.placeholder(f"part_{number}") for number in range(len(step.takes))]
    whole = step.makes[0].whole
    if step.makes == (whole,):
        boxes = tuple(_box(value.region) for value in step.takes)
        size = model.graph.spec(whole).shape[1:]
        made = [graph.call_function(_join, (size, boxes, tuple(_UNPADDED), 0.0, *given))]
    else:
        made = [graph.call_function(_crop, (given[0], _box(value.region))) for value in step.makes]
    graph.output(tuple(made))
    return graph


def tile_graph(model: LoadedModel, step: Step, ways: Mapping[int, Way]) -> tuple[fx.Graph, dict[str, Any]]:
    """The patches of `step.tile`, and what they read beside the network's own constants, by name.

    `ways`: by vertex; `PACKED` where it is not given.
    """
    assert step.tile is not None
    builder = _Builder(model, step, step.tile)
    for patch in step.tile.patches:
        builder.add(patch, ways.get(patch.vertex, Way.PACKED))
    return builder.finish(), builder.extra


class _Builder:
    def __init__(self, model: LoadedModel, step: Step, tile: Tile) -> None:
        self._model, self._step = model, step
        self._graph = fx.Graph()
        self._value_of = {node: value for value, node in model.body.values.items()}
        self._constants: dict[fx.Node, fx.Node] = {}
        #: Of every value that is at hand: the rectangle, and its node.
        self._held: dict[Value, tuple[Region, fx.Node]] = {}
        #: What the tile takes, as far as it is still in parts: joined as its first reader wants it.
        self._parts: dict[Value, tuple[Region, tuple[_Box, ...], list[fx.Node]]] = {}
        #: Crops that several vertices read, made once.
        self._made: dict[tuple[Any, ...], fx.Node] = {}
        #: Packed weights, and what divides the sums of average pools.
        self.extra: dict[str, Any] = {}
        self._take(tile)

    def finish(self) -> fx.Graph:
        makes = [self._crop(value.whole, value.region) for value in self._step.makes]
        self._graph.output(tuple(makes))
        return self._graph

    def _take(self, tile: Tile) -> None:
        given: dict[Value, list[tuple[Region, fx.Node]]] = {}
        for number, value in enumerate(self._step.takes):
            node = self._graph.placeholder(f"part_{number}")
            held = self._whole(value) if value.region == WHOLE else value.region
            given.setdefault(value.whole, []).append((held, node))
        for (source, parts), taken in zip(given.items(), tile.takes, strict=True):
            if len(parts) == 1:
                self._held[source] = parts[0]
                continue
            boxes, nodes = [], []
            for held, node in parts:
                mine = held.overlap(taken) or held
                boxes.append(_box(mine.within(taken)))
                nodes.append(node if mine == held else self._call(_crop, node, _box(mine.within(held))))
            self._parts[source] = taken, tuple(boxes), nodes

    def _at_hand(
        self, value: Value, region: Region | None = None, padding: Padding = _UNPADDED, fill: float = 0.0
    ) -> tuple[Region, fx.Node]:
        """The rectangle that is held of a value, and its node: if it is still in parts and the first to be
        read is just all of it, with the padding around it."""
        if value in self._parts:
            taken, boxes, parts = self._parts.pop(value)
            (rows, columns, channels), around = taken, padding if region == taken else _UNPADDED
            size = self._shape(value, taken)[1:]
            made = self._call(_join, size, boxes, tuple(around), fill, *parts)
            held = Region(
                Span(rows.start - around.top, rows.stop + around.bottom),
                Span(columns.start - around.left, columns.stop + around.right),
                channels,
            )
            self._held[value] = held, made
            if region == taken:
                self._made[value, taken, around, fill] = made
        return self._held[value]

    def add(self, patch: Patch, way: Way) -> None:
        vertex = self._model.graph.vertices[patch.vertex]
        body = self._model.body.nodes[patch.vertex]
        sink = Value(patch.vertex)
        made: dict[fx.Node, fx.Node] = {}
        if vertex.window is not None:
            head, *behind = body
            source = self._value_of[next(n for n in head.all_input_nodes if n.op != "get_attr")]
            made[head] = (
                self._on_whole(head, source, vertex.window, patch)
                if way is Way.FULL
                else self._in_rows(head, source, vertex.window, patch, way)
                if way in LAYOUTS
                else self._windowed(head, source, vertex.window, patch, way)
            )
        else:
            behind = list(body)
            # Batch norm rounds differently on a map with holes; a sum or a concatenation does not.
            take = self._frame if len(self._model.graph.predecessors[patch.vertex]) == 1 else self._crop
            for node in dict.fromkeys(n for b in body for n in b.all_input_nodes if n in self._value_of):
                if node not in body:
                    made[node] = take(self._value_of[node], patch.reads)
        steady = self._model.engine != TORCH or all(map(_steady, behind))
        held = patch.makes if steady else self._whole(sink)
        if not steady:
            size = self._model.graph.spec(sink).shape[1:]
            made = {node: self._call(_canvas, new, size, _box(patch.makes)) for node, new in made.items()}
        for node in behind:
            made[node] = self._graph.node_copy(
                node, lambda n: self._spread(n, sink, held) if n.op == "get_attr" else made[n]
            )
        self._held[sink] = (held, made[self._model.body.values[sink]])

    def _on_whole(self, head: fx.Node, source: Value, window: Window, patch: Patch) -> fx.Node:
        """The whole map's operator on a map of the whole size."""
        spec = self._model.graph.spec(source)
        canvas = self._call(_canvas, self._crop(source, patch.reads), spec.shape[1:], _box(patch.reads))
        if patch.vertex in self._model.body.packable:
            self.extra[f"of_{patch.vertex}"] = weight_of(self._model.body.constants, head)
            packed = prepacked(self._model.body.constants, head, window, spec.shape, window.padding)
            whole = self._call(RUN_PACKED, canvas, self._extra(f"packed_{patch.vertex}", packed))
        else:
            whole = self._graph.node_copy(
                head, lambda node: self._constant(node) if node.op == "get_attr" else canvas
            )
        return self._call(_frame, whole, _box(patch.makes), tuple(_UNPADDED), 0.0)

    def _in_rows(self, head: fx.Node, source: Value, window: Window, patch: Patch, way: Way) -> fx.Node:
        """A 1×1 convolution on its positions, laid out in as many rows as the whole map has."""
        if way is Way.SLICES:
            return self._in_slices(head, source, window, patch)
        channels = self._shape(source, patch.reads)[:2]
        rows, width = map_size(self._model.graph, Value(patch.vertex))
        columns = max(-(-patch.makes.area // rows), -(-2 * width // 3) if way is Way.MOST else 1)
        (held, node), stride = self._at_hand(source), window.stride
        key = (source, patch.reads, stride, rows, columns)
        if key not in self._made:
            box = _box(patch.reads.within(held))
            self._made[key] = self._call(_lay, node, box, stride, (rows, columns))
        size = (*channels, rows * stride[0], columns * stride[1])
        made = self._kernel(head, source, window, patch, self._made[key], size, [0, 0], Way.PACKED)
        return self._call(_lay_back, made, (patch.makes.rows.length, patch.makes.columns.length))

    def _in_slices(self, head: fx.Node, source: Value, window: Window, patch: Patch) -> fx.Node:
        """A 1×1 convolution as products of matrices. One in groups is left as it is."""
        if window.groups > 1:
            return self._windowed(head, source, window, patch, Way.FORCED)
        size = patch.makes.rows.length, patch.makes.columns.length
        if window.stride == (1, 1):
            read = self._frame(source, patch.reads)
        else:
            held, node = self._at_hand(source)
            stride = window.stride
            read = self._call(_picked, node, _box(patch.reads.within(held)), stride)
        weight, bias = (arguments(head)[name] for name in ("weight", "bias"))
        constants = self._some(weight, patch.makes), bias and self._some(bias, patch.makes)
        return self._call(_sliced, read, *constants, size)

    def _windowed(self, head: fx.Node, source: Value, window: Window, patch: Patch, way: Way) -> fx.Node:
        name = operator_name(head)
        kernel, stride = list(window.kernel), list(window.stride)
        if name == "conv2d":
            return self._convolution(head, source, window, patch, way)
        fill = -math.inf if name.startswith("max_pool2d") else 0.0
        read = self._frame(source, patch.reads, patch.padding, fill)
        if name.startswith("max_pool2d"):
            target: Any = head.target
            return self._call(target, read, kernel, stride, [0, 0], list(window.dilation), window.ceil_mode)
        sizes = map_size(self._model.graph, source)
        rows, columns = (divisors(window, axis, patch.makes[axis], sizes[axis]) for axis in (0, 1))
        if {a * b for a in rows for b in columns} == {math.prod(kernel)}:
            return self._call(aten.avg_pool2d.default, read, kernel, stride, [0, 0], window.ceil_mode)
        sums = self._call(aten.avg_pool2d.default, read, kernel, stride, [0, 0], window.ceil_mode, True, 1)
        dtype: torch.dtype = head.meta["val"].dtype
        counts = torch.tensor(rows, dtype=dtype)[:, None] * torch.tensor(columns, dtype=dtype)
        return self._call(aten.div.Tensor, sums, self._extra(f"counts_{patch.vertex}", counts))

    def _convolution(self, head: fx.Node, source: Value, window: Window, patch: Patch, way: Way) -> fx.Node:
        # Padding on both sides of an axis is the kernel's own affair: that is faster than a wider map.
        top, bottom, left, right = patch.padding
        padding = [top if top == bottom else 0, left if left == right else 0]
        beside = Padding(top - padding[0], bottom - padding[0], left - padding[1], right - padding[1])
        read = self._frame(source, patch.reads, beside)
        *batch, rows, columns = self._shape(source, patch.reads)
        size = [*batch, rows + beside.top + beside.bottom, columns + beside.left + beside.right]
        return self._kernel(head, source, window, patch, read, size, padding, way)

    def _kernel(
        self,
        head: fx.Node,
        source: Value,
        window: Window,
        patch: Patch,
        read: fx.Node,
        size: Sequence[int],
        padding: list[int],
        way: Way,
    ) -> fx.Node:
        """The whole map's kernel on a map of `size`."""
        constants, spec = self._model.body.constants, self._model.graph.spec(source)
        other = self._model.engine != TORCH
        backend = "" if other else kernels_of(constants, head, window, spec)
        if backend == "Mkldnn" and way is Way.PACKED:
            self.extra[f"of_{patch.vertex}"] = weight_of(constants, head)
            packed = prepacked(constants, head, window, size, padding, patch.makes.channels)
            return self._call(RUN_PACKED, read, self._extra(f"packed_{patch.vertex}", packed))
        sink, stride, dilation = Value(patch.vertex), list(window.stride), list(window.dilation)
        groups = groups_of(window, self._shape(sink, patch.makes)[1], self._shape(sink)[1])
        weight, bias = (arguments(head)[name] for name in ("weight", "bias"))
        operands = read, self._some(weight, patch.makes), bias and self._some(bias, patch.makes)
        if other:
            return self._call(aten.conv2d.default, *operands, stride, padding, dilation, groups)
        if backend == "Mkldnn":
            plain: Any = aten.mkldnn_convolution.default
            return self._call(plain, *operands, padding, stride, dilation, groups)
        if backend == "Slow2d" and groups == 1:
            slow: Any = aten._slow_conv2d_forward.default
            return self._call(slow, *operands[:2], list(window.kernel), operands[2], stride, padding)
        return self._call(aten.conv2d.default, *operands, stride, padding, dilation, groups)

    # ── nodes ────────────────────────────────────────────────────────────────────────────────────────

    def _call(self, target: Callable[..., Any], *args: Any) -> fx.Node:
        return self._graph.call_function(target, args)

    def _extra(self, name: str, made: Any) -> fx.Node:
        self.extra[name] = made
        return self._graph.get_attr(name)

    def _constant(self, node: fx.Node) -> fx.Node:
        if node not in self._constants:
            self._constants[node] = self._graph.get_attr(str(node.target))
        return self._constants[node]

    def _some(self, node: fx.Node, region: Region, axis: int = 0) -> fx.Node:
        """What a region needs of a constant that has its channels along an axis."""
        if region.channels == ALL:
            return self._constant(node)
        first, last = region.channels
        share = self._model.body.constants[str(node.target)].narrow(axis, first, last - first)
        return self._extra(f"{node.target}_{first}_{last}", share.contiguous())

    def _spread(self, node: fx.Node, value: Value, region: Region) -> fx.Node:
        """What a region of a value needs of a constant that is spread over all positions: a number for each
        channel `[C]`, as batch norm has it, or something that torch makes as large as the map."""
        shape = self._model.body.constants[str(node.target)].shape
        axis = 0 if len(shape) == 1 else len(shape) - 3
        if axis < 0 or not shape or shape[axis] != self._shape(value)[1]:
            return self._constant(node)
        return self._some(node, region, axis)

    def _shape(self, value: Value, region: Region = WHOLE) -> tuple[int, ...]:
        return self._model.graph.spec(Value(value.vertex, value.output, region)).shape

    def _crop(self, value: Value, region: Region) -> fx.Node:
        held, node = self._at_hand(value)
        if held == region:
            return node
        key = (value, region)
        if key not in self._made:
            self._made[key] = self._call(_crop, node, _box(region.within(held)))
        return self._made[key]

    def _frame(
        self, value: Value, region: Region, padding: Padding = _UNPADDED, fill: float = 0.0
    ) -> fx.Node:
        """A contiguous copy, unless it is all there."""
        held, node = self._at_hand(value, region, padding, fill)
        key = (value, region, padding, fill)
        if key not in self._made:
            self._made[key] = self._call(_frame, node, _box(region.within(held)), tuple(padding), fill)
        return self._made[key]

    def _whole(self, value: Value) -> Region:
        height, width = map_size(self._model.graph, value)
        return Region(Span(0, height), Span(0, width))


def _steady(node: fx.Node) -> bool:
    return operator_name(node) in _STEADY and arguments(node).get("alpha", 1) == 1
