"""Vertical separation: a stack of layers cut into tiles that several edge agents compute at once.

`choose` is not imported here: it needs numpy, and a server should start without it.
"""

from __future__ import annotations

from d3bed.plan.vsm.costs import PIECE_S, TileCosts
from d3bed.plan.vsm.methods import METHODS
from d3bed.plan.vsm.parts import Part, tileable_parts

__all__ = ["PIECE_S", "METHODS", "Part", "TileCosts", "tileable_parts"]
