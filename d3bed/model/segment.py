"""Any set of vertices as one function, by code generation.

The operators of the vertices become a small fx graph whose generated Python is called: as fast as the
undivided module, and it forgets every tensor after its last use. Weights are shared, not copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import fx

from d3bed.core.program import Step

if TYPE_CHECKING:
    from d3bed.model.loading import LoadedModel

__all__ = ["compile_step"]


def compile_step(model: LoadedModel, step: Step) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Positional: the tensors of `step.takes` in order → those of `step.makes` in order.

    Call it under `inference_mode`. Takes some tens of milliseconds for a whole network.
    """
    body = model.body
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    for value in step.takes:
        made[body.values[value]] = graph.placeholder(f"v{value.vertex}_{value.output}")

    def here(node: fx.Node) -> fx.Node:
        if node not in made:  # a constant, read for the first time
            made[node] = graph.get_attr(str(node.target))
        return made[node]

    for vertex in step.vertices:
        for node in body.nodes[vertex]:
            made[node] = graph.node_copy(node, here)
    graph.output(tuple(made[body.values[value]] for value in step.makes))
    constants = {
        str(node.target): body.constants[str(node.target)] for node in graph.find_nodes(op="get_attr")
    }
    forward: Callable[..., tuple[torch.Tensor, ...]] = fx.GraphModule(constants, graph, "Step").forward
    return forward
