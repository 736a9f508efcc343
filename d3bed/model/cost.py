"""What an operator costs, and how it looks at its input. Estimates for planning, from shapes alone."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from d3bed.core.graph import Window
from d3bed.model.export import arguments, operator_name

__all__ = ["flops", "positional", "weight_bytes", "window"]

_CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
_TRANSPOSED = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
_PRODUCTS = frozenset({"addbmm", "addmm", "baddbmm", "bmm", "einsum", "linear", "matmul", "mm"})
#: Take constants of any shape as weights of theirs, not as one number per position.
_WEIGHTED = (
    _CONVOLUTIONS
    | _TRANSPOSED
    | _PRODUCTS
    | {"_native_batch_norm_legit_no_training", "batch_norm", "group_norm", "instance_norm", "prelu"}
)
#: Rearrange, but compute nothing.
_FREE = frozenset(
    {
        *("alias", "cat", "chunk", "clone", "concat", "contiguous", "detach", "dropout", "expand", "flatten"),
        *("getitem", "pad", "permute", "repeat", "reshape", "select", "slice", "split", "split_with_sizes"),
        *("squeeze", "stack", "t", "transpose", "unbind", "unflatten", "unsqueeze", "view"),
    }
)


def flops(node: fx.Node) -> int:
    """Floating-point operations, a multiply-add counted as two."""
    name, out = operator_name(node), _elements(node.meta["val"])
    if name in _FREE:
        return 0
    given = arguments(node)
    if name in _CONVOLUTIONS | _TRANSPOSED:
        weight: torch.Tensor = given["weight"].meta["val"]
        swept = out if name in _CONVOLUTIONS else _elements(given["input"].meta["val"])
        return 2 * swept * (weight.numel() // weight.shape[0])
    if name in _PRODUCTS:
        first = next((s for s in node.all_input_nodes if s.op != "get_attr"), node.all_input_nodes[0])
        return 2 * out * int(first.meta["val"].shape[-1])
    if name == "scaled_dot_product_attention":
        query, key = given["query"].meta["val"], given["key"].meta["val"]
        return 2 * int(key.shape[-2]) * (_elements(query) + out)
    if name.startswith(("avg_pool", "max_pool")):
        return out * math.prod(_pair(given["kernel_size"]))
    inputs = [_elements(s.meta["val"]) for s in node.all_input_nodes if s.op != "get_attr"]
    return max(out, *inputs)


def weight_bytes(reads: set[fx.Node]) -> int:
    """Bytes of the constants behind these `get_attr` nodes; an expanded one counts what it occupies."""
    tensors = [node.meta["val"] for node in reads]
    return sum(min(t.nbytes, t.untyped_storage().nbytes()) for t in tensors)


def positional(node: fx.Node) -> bool:
    """Whether it combines the map with a constant that differs by position, as a mask does."""
    if operator_name(node) in _WEIGHTED:
        return False
    constants = [s.meta["val"] for s in node.all_input_nodes if s.op == "get_attr"]
    return any(size > 1 for constant in constants for size in constant.shape[-2:])


def window(node: fx.Node) -> Window | None:
    """Of a two-dimensional convolution or pooling whose padding is symmetric, else None."""
    name, given = operator_name(node), arguments(node)
    if name in ("conv2d", "conv_transpose2d"):
        kernel = tuple(given["weight"].meta["val"].shape[2:])
        dilation = _pair(given["dilation"])
        padding = _padding(given["padding"], kernel, dilation)
        if padding is None or any(_pair(given.get("output_padding", 0))):
            return None
        return Window(kernel, _pair(given["stride"]), padding, dilation, given["groups"], name != "conv2d")
    if name not in ("avg_pool2d", "max_pool2d", "max_pool2d_with_indices") or given.get("divisor_override"):
        return None
    kernel = _pair(given["kernel_size"])
    return Window(
        kernel,
        _pair(given["stride"]) if given["stride"] else kernel,
        _pair(given["padding"]),
        _pair(given.get("dilation", 1)),
        ceil_mode=given["ceil_mode"],
        count_include_pad=given.get("count_include_pad", True),
    )


def _padding(padding: Any, kernel: tuple[int, ...], dilation: tuple[int, int]) -> tuple[int, int] | None:
    if padding == "valid":
        return (0, 0)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return None if any(t % 2 for t in total) else (total[0] // 2, total[1] // 2)
    return _pair(padding)


def _pair(value: Any) -> tuple[int, int]:
    both = list(value) if isinstance(value, (list, tuple)) else [value]
    return (int(both[0]), int(both[-1]))


def _elements(made: Any) -> int:
    if isinstance(made, torch.Tensor):
        return made.numel()
    return sum(_elements(part) for part in made) if isinstance(made, (list, tuple)) else 0
