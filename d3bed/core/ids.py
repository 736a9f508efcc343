"""Names of things: ids are distinct types, so that one cannot be passed for another."""

from __future__ import annotations

from enum import StrEnum
from typing import NewType

__all__ = ["TIERS", "AgentId", "CauseId", "Epoch", "FrameId", "PipelineId", "Tier", "adjacent"]

AgentId = NewType("AgentId", str)
PipelineId = NewType("PipelineId", str)
FrameId = NewType("FrameId", int)
Epoch = NewType("Epoch", int)
CauseId = NewType("CauseId", str)


class Tier(StrEnum):
    """Where a vertex runs. Data never flows to an earlier tier, results excepted."""

    DEVICE = "device"
    EDGE = "edge"
    CLOUD = "cloud"

    @property
    def rank(self) -> int:
        """0 for the device, 1 for the edge, 2 for the cloud."""
        return _RANK[self]


TIERS: tuple[Tier, ...] = (Tier.DEVICE, Tier.EDGE, Tier.CLOUD)
_RANK = {tier: rank for rank, tier in enumerate(TIERS)}


def adjacent(here: Tier, there: Tier) -> Tier:
    """The next tier on the relayed way from `here` to `there` (which must differ)."""
    step = 1 if there.rank > here.rank else -1
    return TIERS[here.rank + step]
