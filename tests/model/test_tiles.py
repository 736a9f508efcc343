"""Tiles give the bits of the undivided network: checked on real operators, by way of the real export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from d3bed.core.graph import Value
from d3bed.core.program import Step
from d3bed.core.tiles import Grid, Tiling, map_size, tiling
from d3bed.model import LoadedModel, compile_step, fingerprint, prepare_tiles
from d3bed.plan.vsm import tileable_parts

Loaded = Callable[..., LoadedModel]
Photo = Callable[[LoadedModel], torch.Tensor]


def tilings(model: LoadedModel, rows: int, columns: int, blocks: slice = slice(None)) -> list[Tiling]:
    """One per border-to-border block, as far as the grid fits."""
    graph = model.graph
    found = []
    for part in tileable_parts(graph):
        for first in range(len(part.borders) - 1):
            block = part.block(first, first + 1)
            height, width = map_size(graph, block.sink)
            grid = Grid.even((height, width), min(rows, height), min(columns, width))
            found.append(tiling(graph, block, grid))
    return found[blocks]


def steps_of(cut_up: Tiling) -> list[Step]:
    source, sink = cut_up.block.source, cut_up.block.sink
    return [
        Step(
            cut_up.block.vertices,
            (Value(source.vertex, source.output, tile.takes),),
            (Value(sink.vertex, 0, tile.makes),),
            tile,
        )
        for tile in cut_up.tiles
    ]


@pytest.mark.parametrize("name", ["alexnet", "resnet18"])
@pytest.mark.parametrize("grid", [(2, 1), (2, 2)])
def test_tiles_of_real_networks_are_joined_to_the_whole(
    name: str, grid: tuple[int, int], loaded: Loaded, photo: Photo, tmp_path: Path
) -> None:
    model = loaded(name)
    with torch.inference_mode():
        for cut_up in tilings(model, *grid, slice(0, 6)):
            source, sink = cut_up.block.source, cut_up.block.sink
            upto = tuple(range(1, sink.vertex + 1))
            wanted = tuple(v for v in (source, sink) if v.vertex)
            made = dict(
                zip(wanted, compile_step(model, Step(upto, (Value(0),), wanted))(photo(model)), strict=True)
            )
            made[Value(0)] = photo(model)
            steps = steps_of(cut_up)
            tiles = prepare_tiles(model, steps, tmp_path, fingerprint(1))
            takes = tuple(value for step in steps for value in step.takes)
            pieces = compile_step(model, Step((), (source,), takes))(made[source])
            parts = [tile.call(piece)[0] for tile, piece in zip(tiles, pieces, strict=True)]
            makes = tuple(value for step in steps for value in step.makes)
            (joined,) = compile_step(model, Step((), makes, (sink,)))(*parts)
            assert all(tile.identical for tile in tiles), cut_up.block.describe(model.graph)
            assert torch.equal(joined, made[sink]), cut_up.block.describe(model.graph)
