"""Segments run by torch on a CUDA device: tensors go there, and what they make comes back.

Its kernels add up in other orders than a processor's: results are close to the undivided network's (1e-5
relative), never promised to be equal. TF32, with three decimal digits, is switched off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from d3bed.model.calls import as_function

__all__ = ["available", "name", "on_device", "placed"]

#: Where segments run.
DEVICE = torch.device("cuda")


def available() -> bool:
    return torch.cuda.is_available()


def name() -> str:
    """Of the device, and of what it is driven by."""
    return f"CUDA {torch.version.cuda}, {torch.cuda.get_device_name(DEVICE)}" if available() else "no CUDA"


def placed(graph: fx.Graph, read: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """What the operators of a step read, on a device; where they name one, they name that from now on."""

    def there(value: Any) -> Any:
        return device if isinstance(value, torch.device) else value

    for node in graph.nodes:
        node.args, node.kwargs = (fx.node.map_aggregate(given, there) for given in (node.args, node.kwargs))
    return {name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in read.items()}


def on_device(graph: fx.Graph, read: Mapping[str, Any]) -> Callable[..., tuple[torch.Tensor, ...]]:
    """A step as a function of tensors in this machine's memory."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    forward = as_function(graph, placed(graph, read, DEVICE))

    def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        made = forward(*(tensor.to(DEVICE) for tensor in tensors))
        return tuple(tensor.cpu() for tensor in made)

    return run
