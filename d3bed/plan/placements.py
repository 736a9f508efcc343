"""What planners of two tiers may use of three: pairs of tiers, and the inputs that they ship.

The rivals of the literature know a client and a server. This module makes the problems that they can
express from ours: in each, every vertex but the input may only be on one of two tiers, and everything
else (links, relaying, the result's way back, pins, limits) stays as it is. It must not know how a
plan is found.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import msgspec

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import TIERS, Tier
from d3bed.plan.problem import Problem

__all__ = ["as_published", "no_placement", "placements", "restricted"]


def placements(problem: Problem) -> Iterator[tuple[tuple[Tier, Tier], Problem]]:
    """Each pair (earlier, later) of tiers that pins leave possible, and the problem on these two.

    A device that is alone is paired with itself. The input is on the device in any case.
    """
    pairs = list(combinations(problem.tiers, 2)) or [(Tier.DEVICE, Tier.DEVICE)]
    for front, back in pairs:
        narrow = restricted(problem, {name: (front, back) for name in problem.names[1:]})
        if narrow is not None:
            yield (front, back), narrow


def restricted(problem: Problem, to: dict[str, tuple[Tier, ...]]) -> Problem | None:
    """The problem with vertices `to` fewer tiers, beside its pins; None if that leaves no plan."""
    allowed = dict(problem.allowed)
    for name, tiers in to.items():
        here = allowed.get(name, problem.tiers)
        allowed[name] = tuple(tier for tier in TIERS if tier in tiers and tier in here)
    narrow = msgspec.structs.replace(problem, allowed=allowed)
    lowest = [0] * len(narrow.names)
    for v in narrow.order:
        floor = max((lowest[p] for p in narrow.predecessors[v]), default=0)
        fitting = [rank for rank in narrow.allowed_ranks[v] if rank >= floor]
        if not fitting:
            return None
        lowest[v] = fitting[0]
    return narrow


def no_placement(strategy: str) -> PlanInfeasible:
    """What to raise where pins need three tiers."""
    return PlanInfeasible("pins", f"they leave {strategy} no two tiers — use optimal")


def as_published(problem: Problem) -> Problem:
    """The problem with the input that the rivals' papers ship: float32, so four times our uint8 photo.

    Normalising stays free to be on either side of the cut, which can only favour them.
    """
    first, *others = problem.output_bytes
    return msgspec.structs.replace(problem, output_bytes=(4 * first, *others))
