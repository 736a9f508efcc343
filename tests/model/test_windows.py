"""What tiles need to know of real operators: their windows, and whether they depend on the position."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from d3bed.core.graph import Graph, Window
from d3bed.model.export import export_module, flatten
from d3bed.model.vertices import vertices_of


def graph_of(module: nn.Module) -> Graph:
    program = export_module("test", module.eval(), torch.zeros(1, 3, 16, 16))
    mean = torch.zeros(1, 3, 1, 1)
    return vertices_of("test", flatten("test", program, mean, mean + 1, loaded=False))[0]


@pytest.mark.parametrize(
    ("layer", "window"),
    [
        (nn.Conv2d(3, 4, (1, 7), padding=(0, 3)), Window((1, 7), (1, 1), (0, 3))),
        (nn.Conv2d(3, 6, 3, (2, 1), 2, 2, 3), Window((3, 3), (2, 1), (2, 2), (2, 2), 3)),
        (nn.Conv2d(3, 4, (5, 3), padding="same"), Window((5, 3), (1, 1), (2, 1))),
        (nn.Conv2d(3, 4, 2, padding="same"), None),
        (nn.MaxPool2d(3, 2, ceil_mode=True), Window((3, 3), (2, 2), ceil_mode=True)),
        (nn.MaxPool2d((2, 3), dilation=2), Window((2, 3), (2, 3), (0, 0), (2, 2))),
        (
            nn.AvgPool2d(3, 1, 1, count_include_pad=False),
            Window((3, 3), (1, 1), (1, 1), count_include_pad=False),
        ),
        (nn.AvgPool2d(2, divisor_override=3), None),
        (nn.AdaptiveAvgPool2d(4), None),
    ],
)
def test_windows_say_how_an_operator_looks_at_its_input(layer: nn.Module, window: Window | None) -> None:
    graph = graph_of(nn.Sequential(layer, nn.ReLU()))
    assert graph.vertices[2].window == window
    assert not graph.vertices[2].positional


class Added(nn.Module):
    """Adds a constant of this shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.ones(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.constant


@pytest.mark.parametrize(
    ("layer", "positional"),
    [
        (Added(1, 3, 1, 1), False),
        (Added(), False),
        (Added(16, 16), True),
        (Added(16), True),
        (Added(16, 1), True),
        (nn.PReLU(3), False),
        (nn.BatchNorm2d(3), False),
    ],
)
@pytest.mark.parametrize("after_a_convolution", [True, False])
def test_a_constant_that_differs_by_position_is_told(
    layer: nn.Module, positional: bool, after_a_convolution: bool
) -> None:
    layers = [nn.Conv2d(3, 3, 1), layer] if after_a_convolution else [layer]
    graph = graph_of(nn.Sequential(*layers))
    assert len(graph.vertices) == 2 + after_a_convolution
    assert [vertex.positional for vertex in graph.vertices[:-1]] == [False] * (1 + after_a_convolution)
    assert graph.vertices[-1].positional is positional
