"""Tiles cost a fixed part per operator and a share of the rest."""

from __future__ import annotations

import pytest

from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex, Window
from d3bed.core.ids import AgentId
from d3bed.core.tiles import Block, Grid, tiling
from d3bed.plan.vsm import TileCosts

A, B = AgentId("a"), AgentId("b")
MAP = (TensorSpec((1, 4, 8, 8), "float32"),)
GRAPH = Graph(
    "two",
    (
        Vertex("input", "input", MAP),
        Vertex("conv", "conv2d", MAP, ("conv2d",), 10**6, 2_000_000, Window((3, 3), (1, 1), (1, 1))),
        Vertex("relu", "relu", MAP, ("relu",), 256),
    ),
    (Edge(0, 1), Edge(1, 2)),
    (Value(2),),
)
BLOCK = Block((Value(0),), (1, 2))


def test_a_tile_takes_fixed_parts_and_its_share_of_the_rest() -> None:
    costs = TileCosts(GRAPH, {A: (0.0, 0.010, 0.002)}, {A: (0.0, 0.004, 0.001)})
    tiles = tiling(GRAPH, BLOCK, Grid((0, 2, 8), (0, 8))).tiles
    assert costs.tile_s(A, tiles[0]) == pytest.approx(0.004 + 0.006 / 4 + 0.001 + 0.001 / 4)
    assert costs.tile_s(A, tiles[1]) == pytest.approx(0.004 + 0.006 * 3 / 4 + 0.001 + 0.001 * 3 / 4)


def test_one_tile_of_everything_takes_as_long_as_the_whole() -> None:
    costs = TileCosts(GRAPH, {A: (0.0, 0.010, 0.002)})
    (tile,) = tiling(GRAPH, BLOCK, Grid((0, 8), (0, 8))).tiles
    assert costs.tile_s(A, tile) == pytest.approx(0.012)


def test_a_fixed_part_is_never_more_than_the_whole() -> None:
    costs = TileCosts(GRAPH, {A: (0.0, 0.010, 0.002)}, {A: (0.0, 0.5, 0.001)})
    assert costs.fixed(A) == [0.0, 0.010, 0.001]


def test_unknown_fixed_parts_grow_with_weights_and_with_slowness() -> None:
    costs = TileCosts(GRAPH, {A: (0.0, 0.010, 0.010), B: (0.0, 0.020, 0.020)})
    heavy, light = costs.fixed(A)[1:]
    assert heavy > light > 0
    assert costs.fixed(B)[1] == pytest.approx(2 * heavy)
