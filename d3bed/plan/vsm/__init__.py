"""Vertical separation: a stack of layers cut into tiles that several edge agents compute at once."""

from __future__ import annotations

from d3bed.plan.vsm.choose import METHODS, TileChoice, choose_tiles
from d3bed.plan.vsm.costs import TileCosts
from d3bed.plan.vsm.parts import Part, tileable_parts

__all__ = ["METHODS", "Part", "TileChoice", "TileCosts", "choose_tiles", "tileable_parts"]
