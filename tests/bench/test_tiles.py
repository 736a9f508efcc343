"""What the tiles bench makes of spans."""

from __future__ import annotations

from typing import Any

import pytest

from d3bed.bench.tiles import _convolutional_share, _exchanges_s


def span(agent: str, kind: str, start_s: float, end_s: float, block: int, tile: int | None) -> dict[str, Any]:
    vertices = [block * 10, block * 10 + 3]
    where = None if tile is None else [tile, 0]
    return {
        "agent": agent,
        "kind": kind,
        "start_s": start_s,
        "end_s": end_s,
        "vertices": vertices,
        "tile": where,
    }


def test_an_exchange_is_from_the_last_end_to_the_last_tile_that_has_what_it_needs() -> None:
    spans = [
        span("edge-1", "compute", 0.0, 1.0, 1, 0),
        span("edge-2", "compute", 0.1, 1.2, 1, 1),
        span("edge-1", "queue", 1.25, 1.5, 2, 0),  # what it needs is there, its thread is not
        span("edge-1", "compute", 1.5, 2.0, 2, 0),
        span("edge-2", "compute", 1.23, 2.1, 2, 1),
        span("edge-1", "compute", 2.4, 3.0, 3, 0),
        span("edge-1", "compute", 3.1, 9.0, 4, None),  # not a tile
    ]
    state = {"frames": [{"epoch": 7, "spans": spans}, {"epoch": 6, "spans": spans[:1]}]}
    tiles = [{"vertices": [n * 10, n * 10 + 3], "sources": [n * 10 - 7]} for n in (1, 2, 3)]
    assert _exchanges_s(state, 7, tiles) == pytest.approx([0.05, 0.3])
    assert _exchanges_s(state, 6, tiles) == []


def test_a_block_of_several_sources_waits_for_the_last_of_them() -> None:
    spans = [
        span("edge-1", "compute", 0.0, 1.0, 1, 0),
        span("edge-1", "compute", 1.0, 2.0, 2, 0),
        span("edge-1", "compute", 2.1, 3.0, 3, 0),
    ]
    tiles = [
        {"vertices": [10, 13], "sources": [5]},
        {"vertices": [20, 23], "sources": [5]},
        {"vertices": [30, 33], "sources": [5, 13, 23]},
    ]
    assert _exchanges_s({"frames": [{"epoch": 7, "spans": spans}]}, 7, tiles) == pytest.approx([0.1])


def test_the_layers_that_count_are_those_with_maps_that_no_tile_computes() -> None:
    shapes = {
        "input": [1, 3, 8, 8],
        "conv": [1, 4, 8, 8],
        "add": [1, 4, 8, 8],
        "pool": [1, 4, 1, 1],
        "fc": [1, 9],
    }
    view = {
        "profile_s": {"edge": [0.0, 3.0, 1.0, 2.0, 4.0]},
        "graph": {"vertices": [{"name": name, "shape": shape} for name, shape in shapes.items()]},
    }
    assert _convolutional_share(view) == 0.4
    assert _convolutional_share(view, [{"vertices": [1]}]) == 0.1
    assert _convolutional_share(view, [{"vertices": [1, 2]}]) == 0.0
