"""Any set of vertices as one function, by code generation.

The operators of the vertices become a small fx graph whose generated Python is called: as fast as the
undivided module, and it forgets every tensor after its last use. Weights are shared, not copied, but for
those of convolutions, which are packed once (`packing`): so a segment is faster than the module's part.
With the engine `onnx` it calls sessions of ONNX Runtime instead (`sessions`), which have copies of them, and
with `cuda` the operators run on that device (`cuda`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from d3bed.core.models import CUDA, ONNX, TORCH
from d3bed.core.program import Step
from d3bed.model import cuda
from d3bed.model.calls import as_function
from d3bed.model.constants import beside
from d3bed.model.packing import RUN_PACKED, prepacked, weight_of
from d3bed.model.sessions import with_sessions
from d3bed.model.tiles import Way, rectangles_graph, tile_graph

if TYPE_CHECKING:
    from d3bed.model.loading import LoadedModel

__all__ = ["compile_step"]


def compile_step(
    model: LoadedModel, step: Step, ways: Mapping[int, Way] | None = None
) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Positional: the tensors of `step.takes` in order → those of `step.makes` in order.

    Call it under `inference_mode`. Takes some tens of milliseconds for a whole network. `ways`: by
    vertex, of a tile's convolutions that cannot be packed; `prepare_tiles` knows them.
    """
    extra: dict[str, Any] = {}
    if step.tile is not None:
        graph, extra = tile_graph(model, step, ways or {})
    elif not step.vertices:
        graph = rectangles_graph(model, step)
    else:
        graph, extra = _vertices_graph(model, step)
    constants = beside(extra, model.body.constants)
    if model.engine == ONNX and step.vertices:
        graph = with_sessions(graph, constants, [model.graph.spec(v) for v in step.takes], model.threads)
    read = {str(node.target): constants[str(node.target)] for node in graph.find_nodes(op="get_attr")}
    if model.engine == CUDA and step.vertices:
        return cuda.on_device(graph, read)
    return as_function(graph, {**extra, **read})


def _vertices_graph(model: LoadedModel, step: Step) -> tuple[fx.Graph, dict[str, object]]:
    """The operators as they are, but for convolutions with packed weights; these by name."""
    body = model.body
    graph = fx.Graph()
    extra: dict[str, object] = {}
    made: dict[fx.Node, fx.Node] = {}
    for value in step.takes:
        made[body.values[value]] = graph.placeholder(f"v{value.vertex}_{value.output}")

    def here(node: fx.Node) -> fx.Node:
        if node not in made:  # a constant, read for the first time
            made[node] = graph.get_attr(str(node.target))
        return made[node]

    for vertex in step.vertices:
        head, *others = body.nodes[vertex]
        window = model.graph.vertices[vertex].window
        if vertex in body.packable and window is not None and model.engine == TORCH:
            name = f"packed_{vertex}"
            size = tuple(head.all_input_nodes[0].meta["val"].shape)
            extra[f"of_{name}"] = weight_of(body.constants, head)
            extra[name] = prepacked(body.constants, head, window, size, window.padding)
            made[head] = graph.call_function(
                RUN_PACKED, (here(head.all_input_nodes[0]), graph.get_attr(name))
            )
        else:
            made[head] = graph.node_copy(head, here)
        for node in others:
            made[node] = graph.node_copy(node, here)
    graph.output(tuple(made[body.values[value]] for value in step.makes))
    return graph, extra
