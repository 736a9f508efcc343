"""Layout of real network shapes: nothing overlaps, rows read left to right, few crossings."""

from __future__ import annotations

import json
from itertools import combinations

import pytest

from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex
from d3bed.server.layout import COLUMNS_PER_ROW, Layout, layout


class Sketch:
    """A graph drawn by hand: `add` appends a vertex that reads `sources`."""

    def __init__(self) -> None:
        self.edges: list[Edge] = []
        self.count = 1

    def add(self, *sources: int) -> int:
        vertex = self.count
        self.count += 1
        self.edges += [Edge(source, vertex) for source in sorted(set(sources))]
        return vertex

    def chain(self, source: int, length: int) -> int:
        for _ in range(length):
            source = self.add(source)
        return source

    def graph(self) -> Graph:
        spec = TensorSpec((1, 8, 8, 8), "float32")
        vertices = [Vertex(f"v{n}", "conv2d" if n else "input", (spec,)) for n in range(self.count)]
        graph = Graph("made", tuple(vertices), tuple(self.edges), (Value(self.count - 1),))
        graph.check()
        return graph


def chain_graph(length: int) -> Graph:
    sketch = Sketch()
    sketch.chain(0, length - 1)
    return sketch.graph()


def inception_graph(modules: int = 14) -> Graph:
    """A stem with two joins, then modules of four branches of 1 to 5 layers, as in Inception-v4."""
    sketch = Sketch()
    at = sketch.chain(0, 4)
    at = sketch.add(sketch.add(at), sketch.add(at))
    at = sketch.add(sketch.chain(at, 2), sketch.chain(at, 4))
    for module in range(modules):
        longest = 3 if module < 4 else 5
        ends = [sketch.chain(at, length) for length in (1, 2, longest)]
        if module > 10:
            fork = sketch.chain(at, 2)
            ends += [sketch.add(fork), sketch.add(fork)]
        ends.append(sketch.chain(at, 2))
        at = sketch.add(*ends)
    sketch.chain(at, 3)
    return sketch.graph()


def residual_graph(blocks: int) -> Graph:
    sketch = Sketch()
    at = sketch.chain(0, 2)
    for _ in range(blocks):
        at = sketch.add(at, sketch.chain(at, 2))
    return sketch.graph()


def dense_graph(block: int = 24, blocks: int = 4) -> Graph:
    """Every layer of a block reads all earlier ones, as in DenseNet."""
    sketch = Sketch()
    at = sketch.chain(0, 2)
    for _ in range(blocks):
        made = [at]
        for _ in range(block):
            made.append(sketch.chain(sketch.add(*made), 1))
        at = sketch.chain(sketch.add(*made), 1)
    return sketch.graph()


def unet_graph(depth: int = 5) -> Graph:
    sketch = Sketch()
    at, kept = 0, []
    for _ in range(depth):
        at = sketch.chain(at, 2)
        kept.append(at)
        at = sketch.add(at)
    for skip in reversed(kept):
        at = sketch.chain(sketch.add(skip, sketch.add(at)), 2)
    return sketch.graph()


GRAPHS = {
    "chain": chain_graph(13),
    "deep-chain": chain_graph(80),
    "inception": inception_graph(),
    "residual": residual_graph(25),
    "dense": dense_graph(),
    "unet": unet_graph(),
    "one": chain_graph(1),
}


def turns(graph: Graph, drawn: Layout) -> set[int]:
    """Vertices whose output leads to the next row."""
    return {e.producer for e in graph.edges if drawn["nodes"][e.consumer]["x"] == 0}


def route(graph: Graph, drawn: Layout, edge: Edge) -> list[tuple[float, float]]:
    """The points that an edge passes, from the start of the next row on if it leads there."""
    here, there = drawn["nodes"][edge.producer], drawn["nodes"][edge.consumer]
    turned = edge.producer in turns(graph, drawn)
    first = 0 if turned else here["x"] + 1
    middle = [(first + n, y) for n, y in enumerate(here["trail"][: there["x"] - first])]
    return [*([] if turned else [(here["x"], here["y"])]), *middle, (there["x"], there["y"])]


def crossings(graph: Graph, drawn: Layout) -> int:
    """Pairs of drawn pieces between two columns that cross; equal pieces of one producer count once."""
    pieces: dict[tuple[int, int], set[tuple[float, float]]] = {}
    for edge in graph.edges:
        points = route(graph, drawn, edge)
        row = sum(drawn["nodes"][t]["y"] < points[-1][1] - 4 for t in turns(graph, drawn))
        for (x, y), (_, below) in zip(points, points[1:], strict=False):
            pieces.setdefault((row, int(x)), set()).add((y, below))
    return sum(
        (a[0] - b[0]) * (a[1] - b[1]) < 0 for found in pieces.values() for a, b in combinations(found, 2)
    )


@pytest.mark.parametrize("name", GRAPHS)
def test_no_two_vertices_overlap_and_all_lie_inside(name: str) -> None:
    drawn = layout(GRAPHS[name])
    places = [(node["x"], node["y"]) for node in drawn["nodes"]]
    assert len(places) == len(GRAPHS[name].vertices)
    assert all(0 <= x < drawn["width"] and 0 <= y <= drawn["height"] - 1 for x, y in places)
    by_column: dict[int, list[float]] = {}
    for x, y in places:
        by_column.setdefault(x, []).append(y)
    for ys in by_column.values():
        ys.sort()
        assert all(below - above >= 0.99 for above, below in zip(ys, ys[1:], strict=False))


@pytest.mark.parametrize("name", GRAPHS)
def test_edges_go_forward_within_a_row_and_start_the_next_row_otherwise(name: str) -> None:
    graph, drawn = GRAPHS[name], layout(GRAPHS[name])
    for edge in graph.edges:
        xs = [x for x, _ in route(graph, drawn, edge)]
        assert xs == list(range(int(xs[0]), int(xs[0]) + len(xs)))
        if edge.producer in turns(graph, drawn):
            assert xs[0] == 0
            assert drawn["nodes"][edge.consumer]["y"] > drawn["nodes"][edge.producer]["y"]


@pytest.mark.parametrize("name", ["deep-chain", "inception", "residual"])
def test_deep_network_is_wrapped_into_three_rows_after_single_vertices(name: str) -> None:
    graph, drawn = GRAPHS[name], layout(GRAPHS[name])
    assert drawn["width"] <= COLUMNS_PER_ROW * 1.5
    assert len(turns(graph, drawn)) == 2  # one vertex leads to each of the rows two and three
    for turn in turns(graph, drawn):
        x, y = drawn["nodes"][turn]["x"], drawn["nodes"][turn]["y"]
        alone = [n for n in drawn["nodes"] if n["x"] == x and abs(n["y"] - y) < 2]
        assert len(alone) == 1


def test_shallow_network_stays_on_one_row() -> None:
    drawn = layout(GRAPHS["chain"])
    assert drawn["width"] == 13
    assert drawn["height"] == 1
    assert {node["y"] for node in drawn["nodes"]} == {0}


@pytest.mark.parametrize("name", ["inception", "residual", "unet"])
def test_no_crossings_where_none_are_needed(name: str) -> None:
    assert crossings(GRAPHS[name], layout(GRAPHS[name])) == 0


def test_shuffled_branches_are_untangled() -> None:
    sketch = Sketch()
    heads = [sketch.add(0) for _ in range(6)]
    tails = [sketch.add(head) for head in (heads[3], heads[0], heads[5], heads[1], heads[4], heads[2])]
    sketch.add(*tails)
    assert crossings(sketch.graph(), layout(sketch.graph())) == 0


@pytest.mark.parametrize("blocks", [3, 25])
def test_skip_connection_passes_beside_the_layers_that_it_skips(blocks: int) -> None:
    graph = residual_graph(blocks)
    drawn = layout(graph)
    for edge in graph.edges:
        points = route(graph, drawn, edge)
        end = drawn["nodes"][edge.consumer]
        for x, y in points[:-1] if edge.producer in turns(graph, drawn) else points[1:-1]:
            assert abs(y - end["y"]) < 2  # in the reader's row
            assert all(n["x"] != x or abs(n["y"] - y) >= 0.5 for n in drawn["nodes"])


@pytest.mark.parametrize("name", GRAPHS)
def test_equal_graphs_are_laid_out_alike_as_plain_json(name: str) -> None:
    first, second = layout(GRAPHS[name]), layout(GRAPHS[name])
    assert json.loads(json.dumps(first)) == second


@pytest.mark.parametrize("graph", [inception_graph(70), residual_graph(330)], ids=["wide", "deep"])
def test_a_thousand_vertices_are_laid_out(graph: Graph) -> None:
    """Within 300 ms: `d3bed bench dashboard` says how exactly."""
    assert len(layout(graph)["nodes"]) == len(graph.vertices) > 990
