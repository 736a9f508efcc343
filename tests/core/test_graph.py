from __future__ import annotations

import msgspec
import pytest

from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex

PHOTO = TensorSpec((1, 3, 4, 4), "uint8")
MAP = TensorSpec((1, 2, 4, 4), "float32")


def vertex(name: str, *outputs: TensorSpec) -> Vertex:
    return Vertex(name, "input" if name == "input" else "conv2d", outputs or (MAP,))


def split() -> Graph:
    """input → split (two outputs) → left, right → join."""
    vertices = (
        vertex("input", PHOTO),
        vertex("split", MAP, MAP),
        vertex("left"),
        vertex("right"),
        vertex("join"),
    )
    edges = (Edge(0, 1), Edge(1, 2, (0,)), Edge(1, 3, (1,)), Edge(2, 4), Edge(3, 4), Edge(1, 4, (0,)))
    return Graph("split", vertices, edges, (Value(4),))


def test_sizes_follow_shape_and_dtype() -> None:
    assert PHOTO.nbytes == 48
    assert MAP.nbytes == 128


def test_neighbours_and_consumers_are_derived_from_edges() -> None:
    graph = split()
    graph.check()
    assert graph.predecessors == ((), (0,), (1,), (1,), (1, 2, 3))
    assert graph.successors == ((1,), (2, 3, 4), (4,), (4,), ())
    assert graph.consumers[Value(1, 0)] == (2, 4)
    assert graph.consumers[Value(1, 1)] == (3,)
    assert Value(4) not in graph.consumers
    assert graph.output_bytes == (48, 256, 128, 128, 128)
    assert graph.result_bytes == 128


def test_the_graph_survives_json_with_its_digest() -> None:
    graph = split()
    again = msgspec.json.decode(msgspec.json.encode(graph), type=Graph)
    assert again == graph
    assert again.digest == graph.digest
    assert msgspec.structs.replace(graph, model="other").digest != graph.digest


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"vertices": ()}, "vertex 0 must be the input"),
        ({"vertices": (vertex("a"), vertex("b"))}, "vertex 0 must be the input"),
        ({"vertices": (*split().vertices[:4], vertex("left"))}, "duplicate"),
        ({"edges": (*split().edges, Edge(3, 2))}, "not topological"),
        ({"edges": (*split().edges, Edge(2, 9))}, "not topological"),
        ({"edges": (*split().edges, Edge(2, 3, (1,)))}, "missing output"),
        ({"edges": split().edges[:2] + split().edges[3:]}, "only source"),
        ({"results": ()}, "no results"),
        ({"results": (Value(4, 1),)}, "out of range"),
    ],
)
def test_a_malformed_graph_is_refused(change: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        msgspec.structs.replace(split(), **change).check()
