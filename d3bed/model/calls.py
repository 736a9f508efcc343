"""A graph of operators as a function, by the Python that torch generates of it.

A `GraphModule` stands in a circle with its graph: its weights would stay in memory until Python's collector
comes by, long after the plan that they are for. So the generated code reads them from an object of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

import torch
from torch import fx

__all__ = ["as_function"]


class _Step:
    """What the generated code reads as its attributes, and that `code`."""

    def __init__(self, read: Mapping[str, Any], code: str) -> None:
        self.__dict__.update(read)
        self.code = code


def as_function(graph: fx.Graph, read: Mapping[str, Any]) -> Callable[..., tuple[torch.Tensor, ...]]:
    """`read`: what stands behind its names."""
    module = fx.GraphModule(dict.fromkeys(read), graph, "Step")
    forward: Callable[..., tuple[torch.Tensor, ...]] = MethodType(
        type(module).forward, _Step(read, module.code)
    )
    return forward
