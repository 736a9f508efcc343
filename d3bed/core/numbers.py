"""How large the numbers in a message may be: checked where it is decoded, so that what follows may add,
multiply and store them. The bounds are far beyond what a board or a network has, and exact in a float."""

from __future__ import annotations

from typing import Annotated

import msgspec

from d3bed.core.ids import Epoch, FrameId

__all__ = ["Bytes", "Count", "FrameNumber", "EpochNumber", "LinkSpeed", "Place", "Rate", "Real", "Seconds"]

_MOST = 2**53

Count = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]
Bytes = Count
FrameNumber = Annotated[FrameId, msgspec.Meta(ge=0, le=_MOST)]
#: As many as a message on a link has room for.
EpochNumber = Annotated[Epoch, msgspec.Meta(ge=0, le=2**32 - 1)]

#: Of a vertex, an output, a tile, a row or column of a map.
Place = Annotated[int, msgspec.Meta(ge=0, le=2**31)]

#: A moment on a clock, a difference of two: also below zero.
Real = Annotated[float, msgspec.Meta(ge=-1e12, le=1e12)]
#: What something takes.
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
#: What a link carries a second: not nothing, or nothing would ever arrive.
LinkSpeed = Annotated[float, msgspec.Meta(ge=1, le=1e15)]
#: Per second.
Rate = Annotated[float, msgspec.Meta(ge=0, le=1e15)]
