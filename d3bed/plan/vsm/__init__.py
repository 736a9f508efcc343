"""Vertical separation: a stack of layers cut into tiles that several edge agents compute at once."""

from __future__ import annotations

from d3bed.plan.vsm.parts import Block, Part, map_size, tileable_parts
from d3bed.plan.vsm.regions import Padding, Reach, Region, Span, cut, divisors, output_size, reach
from d3bed.plan.vsm.tiles import (
    Grid,
    Patch,
    Piece,
    Tile,
    Tiling,
    exchanged_bytes,
    largest_grid,
    pieces,
    tiling,
    tilings_to,
)

__all__ = [
    "Block",
    "Grid",
    "Padding",
    "Part",
    "Patch",
    "Piece",
    "Reach",
    "Region",
    "Span",
    "Tile",
    "Tiling",
    "cut",
    "divisors",
    "exchanged_bytes",
    "largest_grid",
    "map_size",
    "output_size",
    "pieces",
    "reach",
    "tileable_parts",
    "tiling",
    "tilings_to",
]
