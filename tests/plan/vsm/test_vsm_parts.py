"""Which runs of a network can be tiled, and where their borders are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex, Window
from d3bed.plan.vsm import Part, tileable_parts

if TYPE_CHECKING:
    from tests.plan.vsm.conftest import Net, Tools

Graphs = Callable[[str], Graph]
SAME = Window((3, 3), (1, 1), (1, 1))


def borders(graph: Graph, part: Part) -> list[str]:
    return [graph.vertices[value.vertex].name for value in part.borders]


@pytest.mark.parametrize(
    ("name", "vertices", "count", "last"),
    [
        ("vgg16", 19, 20, "features.30"),
        ("resnet18", 30, 12, "layer4.1.add"),
        ("darknet53", 76, 31, "stages.4.blocks.3.add"),
        ("inception_v4", 193, 24, "features.21.cat_3"),
    ],
)
def test_everything_before_the_pooling_is_one_part(
    name: str, vertices: int, count: int, last: str, graphs: Graphs
) -> None:
    graph = graphs(name)
    (part,) = tileable_parts(graph)
    assert part.vertices == tuple(range(1, vertices + 1))
    assert len(part.borders) == count
    assert (borders(graph, part)[0], borders(graph, part)[-1]) == ("input", last)


def test_blocks_hold_whole_branches(graphs: Graphs) -> None:
    graph = graphs("resnet18")
    (part,) = tileable_parts(graph)
    assert borders(graph, part)[2:6] == ["conv1", "maxpool", "layer1.0.add", "layer1.1.add"]
    block = part.block(3, 4)
    assert block.describe(graph) == "layer1.0.conv1 … layer1.0.add"
    assert (block.sources[0], block.sink) == (part.borders[3], part.borders[4])
    with pytest.raises(ValueError, match="no block"):
        part.block(4, 3)


def test_a_block_reads_its_source_alone_and_hands_on_its_sink_alone(graphs: Graphs) -> None:
    graph = graphs("inception_v4")
    (part,) = tileable_parts(graph)
    for first in range(len(part.borders) - 1):
        block = part.block(first, first + 1)
        for v in block.vertices:
            assert set(graph.predecessors[v]) <= {block.sources[0].vertex, *block.vertices}
            assert v == block.sink.vertex or set(graph.successors[v]) <= set(block.vertices)


def test_a_part_can_be_bounded_to_a_segment(graphs: Graphs) -> None:
    graph = graphs("resnet18")
    parts = tileable_parts(graph, range(5, 20))
    # The first sum needs a value that is not the segment's; the last is not the segment's itself.
    assert [part.vertices for part in parts] == [(5,), tuple(range(7, 17)), (17, 18), (19,)]
    assert borders(graph, parts[1]) == ["layer1.0.add", "layer1.1.add", "layer2.0.add", "layer2.1.add"]


def chain(tools: Tools) -> Net:
    net = tools.net((1, 2, 8, 8))
    net.add("conv2d", 0, window=SAME)
    net.add("conv2d", 1, window=SAME)
    net.add("conv2d", 2, window=SAME)
    return net


def changed(net: Net, vertex: int, **changes: object) -> Graph:
    vertices = [replace(v, **changes) if i == vertex else v for i, v in enumerate(net.vertices)]
    return Graph("changed", tuple(vertices), tuple(net.edges), (Value(len(vertices) - 1),))


@pytest.mark.parametrize(
    "changes",
    [
        {"operators": ("softmax",)},
        {"operators": ("conv2d", "softmax")},
        {"operators": ("conv2d", "flatten")},
        {"operators": ("adaptive_avg_pool2d",)},
        {"operators": ("something_new",)},
        {"operators": ()},
        {"positional": True},
        {"window": None, "operators": ("conv2d",)},
        {"window": replace(SAME, transposed=True)},
        {"window": replace(SAME, padding=(0, 0))},
        {"outputs": (TensorSpec((1, 2, 64), "float64"),)},
        {"outputs": (TensorSpec((1, 2, 8, 8), "float64"),) * 2},
        {"outputs": (TensorSpec((1, 2, 8, 8), "int64"),)},
    ],
)
def test_what_mixes_positions_ends_a_part(changes: dict[str, object], tools: Tools) -> None:
    graph = changed(chain(tools), 2, **changes)
    first, *others = tileable_parts(graph)
    assert first.vertices == (1,)
    assert [part.vertices for part in others] in ([(3,)], [])


def test_a_map_of_one_position_ends_a_part(tools: Tools) -> None:
    net = chain(tools)
    net.add("conv2d", 3, window=Window((8, 8), (1, 1)))
    net.add("relu", 4)
    assert net.part.vertices == (1, 2, 3)


def test_a_value_read_elsewhere_can_only_be_an_end(tools: Tools) -> None:
    """A skip from 1 past a global operator (4) to a sum at the end, as squeeze-excite has it."""
    net = chain(tools)
    net.add("relu", 3)
    net.vertices[4] = replace(net.vertices[4], operators=("softmax",))
    net.add("add", 1, 4)
    net.add("relu", 5)
    parts = tileable_parts(net.graph)
    assert [part.vertices for part in parts] == [(1,), (2, 3), (6,)]
    assert [part.borders[0] for part in parts] == [Value(0), Value(1), Value(5)]


def test_a_result_can_only_be_an_end(tools: Tools) -> None:
    net = chain(tools)
    graph = Graph("two", tuple(net.vertices), tuple(net.edges), (Value(1), Value(3)))
    assert [part.vertices for part in tileable_parts(graph)] == [(1,), (2, 3)]
    net.add("add", 1, 3)
    graph = Graph("two", tuple(net.vertices), tuple(net.edges), (Value(2), Value(4)))
    assert [part.vertices for part in tileable_parts(graph)] == [(1,), (2,), (3,)]


def test_branches_that_do_not_meet_are_parts_of_their_own(tools: Tools) -> None:
    """A residual block and a head on the same source: the head does not spoil the sum."""
    net = tools.net((1, 2, 8, 8))
    net.add("conv2d", 0, window=SAME)
    net.add("relu", 0)
    net.add("add", 0, 1)
    net.add("relu", 2)
    graph = Graph("heads", tuple(net.vertices), tuple(net.edges), (Value(3), Value(4)))
    parts = tileable_parts(graph)
    assert [(part.vertices, part.borders[0]) for part in parts] == [((1, 3), Value(0)), ((2, 4), Value(0))]
    assert len(parts[1].borders) == 3


def test_a_gate_of_one_position_is_no_partner(tools: Tools) -> None:
    net = chain(tools)
    net.add("conv2d", 3, window=Window((8, 8), (1, 1)))
    net.add("add", 3, 4)
    assert net.vertices[5].outputs[0].shape == (1, 2, 8, 8)
    assert [part.vertices for part in tileable_parts(net.graph)] == [(1, 2, 3)]


def test_concatenation_along_rows_ends_a_part() -> None:
    spec, tall = TensorSpec((1, 2, 8, 8), "float32"), TensorSpec((1, 2, 16, 8), "float32")
    vertices = (
        Vertex("input", "input", (spec,)),
        Vertex("relu", "relu", (spec,), ("relu",)),
        Vertex("cat", "cat", (tall,), ("cat",)),
    )
    graph = Graph("tall", vertices, (Edge(0, 1), Edge(0, 2), Edge(1, 2)), (Value(2),))
    assert [part.vertices for part in tileable_parts(graph)] == [(1,)]
