"""Convolutions whose weights are brought into their kernel's order once, not on every call.

torch reorders a convolution's weights for oneDNN each time it runs: about 0.16 ms per MB, which is much for
layers with many weights and small maps (half of VGG-16's time, as timm builds it). Packed beforehand it is
the same kernel, and gives the same bits; a probe on random data holds that for every vertex, on the machine
and with the threads that it will run on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from d3bed.core.graph import Graph, TensorSpec, Window
from d3bed.core.regions import ALL, Span
from d3bed.model.export import arguments

if TYPE_CHECKING:
    from d3bed.model.vertices import Body

__all__ = ["RUN_PACKED", "groups_of", "kernels_of", "packable", "prepacked", "weight_of"]

RUN_PACKED: Any = torch.ops.mkldnn_prepacked.conv2d_run.default


def _weights(
    constants: Mapping[str, torch.Tensor], head: fx.Node
) -> tuple[torch.Tensor, torch.Tensor | None]:
    given = arguments(head)
    bias = given["bias"]
    return constants[str(given["weight"].target)], constants[str(bias.target)] if bias is not None else None


def weight_of(constants: Mapping[str, torch.Tensor], head: fx.Node) -> torch.Tensor:
    """What is packed holds on to it, unseen; who holds it, too, has others that pack it share it."""
    return _weights(constants, head)[0]


def kernels_of(constants: Mapping[str, torch.Tensor], head: fx.Node, window: Window, spec: TensorSpec) -> str:
    """The kernel family that torch runs for a convolution of `spec` under the current thread count."""
    chosen: Any = torch._C._select_conv_backend(
        torch.empty(spec.shape, dtype=getattr(torch, spec.dtype)),
        *_weights(constants, head),
        *(list(window.stride), list(window.padding), list(window.dilation)),
        *(False, [0, 0], window.groups, None),
    )
    return str(chosen.name)


def prepacked(
    constants: Mapping[str, torch.Tensor],
    head: fx.Node,
    window: Window,
    size: Sequence[int],
    padding: Sequence[int],
    share: Span = ALL,
) -> object:
    """Weights and bias, of all output channels or a share, in the order of oneDNN's kernel for maps of `size`
    `[N, C, H, W]`: what `RUN_PACKED` takes beside the map. A copy of the weights."""
    weight, bias = _weights(constants, head)
    some = weight[slice(*share)]
    return torch.ops.mkldnn_prepacked.conv2d_prepack(
        some,
        bias[slice(*share)] if bias is not None else None,
        *(list(window.stride), list(padding), list(window.dilation)),
        *(groups_of(window, len(some), len(weight)), list(size), "none"),
    )


def groups_of(window: Window, share: int, channels: int) -> int:
    """The groups in which so many of a convolution's output channels are made."""
    return max(1, window.groups * share // channels)


def packable(graph: Graph, body: Body) -> frozenset[int]:
    """The vertices whose convolution gives the same bits packed.

    Runs each twice, with the intra-op threads of the calling thread. Only maps that lie in memory as
    `[N, C, H, W]` are looked at: for others the packed kernel might lay out its result differently.
    """
    found = set()
    read = {reader: value for value, readers in graph.consumers.items() for reader in readers}
    with torch.inference_mode():
        for v, vertex in enumerate(graph.vertices):
            window, head = vertex.window, body.nodes[v][0]
            if (
                vertex.kind != "conv2d"
                or window is None
                or window.transposed
                or len(graph.predecessors[v]) != 1
            ):
                continue
            spec = graph.spec(read[v])
            plain = body.values[read[v]].meta["val"].is_contiguous() and head.meta["val"].is_contiguous()
            if (
                not plain
                or spec.dtype != "float32"
                or kernels_of(body.constants, head, window, spec) != "Mkldnn"
            ):
                continue
            generator = torch.Generator().manual_seed(v)
            image = torch.randn(spec.shape, generator=generator)
            weight, bias = _weights(body.constants, head)
            # Values about 1: no rounding is hidden by large ones.
            image *= 1 / max(1e-6, float(weight.std()) * math.sqrt(math.prod(weight.shape[1:])))
            settings = list(window.stride), list(window.padding), list(window.dilation), window.groups
            # One after the other: of VGG-16's largest weights there would else be three copies.
            made = RUN_PACKED(image, prepacked(body.constants, head, window, spec.shape, window.padding))
            if torch.equal(made, torch.ops.aten.conv2d.default(image, weight, bias, *settings)):
                found.add(v)
            del weight, bias
    return frozenset(found)
