"""Why a vertex of the plan in force is where it is: what `plan.explain` finds, for the page.

Pure but for the time it takes, up to a second on a deep network: call it on a thread.
"""

from __future__ import annotations

import msgspec

from d3bed.core.ids import Tier
from d3bed.plan import Problem

__all__ = ["ElsewhereView", "TriggerView", "WhyView", "why"]


class ElsewhereView(msgspec.Struct, frozen=True):
    """The best plan with the vertex on another tier: how many seconds a frame it costs more, of that
    computing and sending, and how many vertices change tier; or why it is `refused`."""

    tier: Tier
    refused: str
    more_s: float | None
    compute_s: float
    transfer_s: float
    moved: int


class TriggerView(msgspec.Struct, frozen=True):
    """The smallest change of one link or tier that moves the vertex in the optimal plan `to` another tier:
    `kind` link or tier, `name`, `factor` as fast."""

    kind: str
    name: str
    factor: float
    to: Tier


class WhyView(msgspec.Struct, frozen=True):
    """`best` is its tier in the optimal plan, under the conditions that the plan in force was made for; that
    may have it on another one (`tier`), where a strategy that is not optimal made it."""

    vertex: int
    name: str
    tier: Tier
    best: Tier
    allowed: tuple[Tier, ...]
    elsewhere: tuple[ElsewhereView, ...]
    triggers: tuple[TriggerView, ...]


def why(problem: Problem, vertex: int, tier: Tier) -> WhyView:
    """Raises `PlanInfeasible`. Limits of a frame rate are left out: this is about one frame."""
    from d3bed.plan.explain import explain  # here, so that a server starts without scipy

    found = explain(msgspec.structs.replace(problem, rate_per_s=None), vertex)
    allowed = tuple(t for t in problem.tiers if t.rank in problem.allowed_ranks[vertex])
    return WhyView(
        vertex=vertex,
        name=problem.names[vertex],
        tier=tier,
        best=found.tier,
        allowed=allowed,
        elsewhere=tuple(
            ElsewhereView(
                tier=other.tier,
                refused=other.refused,
                more_s=None if other.cost_s is None else other.cost_s - found.cost_s,
                compute_s=other.compute_s,
                transfer_s=other.transfer_s,
                moved=len(other.moved),
            )
            for other in found.elsewhere
        ),
        triggers=tuple(TriggerView(t.change.kind, t.change.name, t.factor, t.to) for t in found.triggers[:4]),
    )
