"""Vertical separation: a stack of layers cut into tiles that several edge agents compute at once."""

from __future__ import annotations

from d3bed.plan.vsm.parts import Part, tileable_parts

__all__ = ["Part", "tileable_parts"]
