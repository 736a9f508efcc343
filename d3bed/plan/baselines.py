"""Single-tier strategies: everything on one tier, as far as pins and the graph's order allow.

What they decide: `device` keeps every vertex as early, `cloud` as late as it may be; `edge` keeps it
on the edge where it may be there, and otherwise as early as it may be. The input is on the device
always. They do not look at times or links; the optimal planner never returns anything dearer than
the best of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import TIERS, Tier
from d3bed.plan.problem import Problem, check_limits

__all__ = ["all_on", "cloud", "device", "edge"]


def device(problem: Problem) -> tuple[Tier, ...]:
    return _checked(problem, Tier.DEVICE)


def edge(problem: Problem) -> tuple[Tier, ...]:
    return _checked(problem, Tier.EDGE)


def cloud(problem: Problem) -> tuple[Tier, ...]:
    return _checked(problem, Tier.CLOUD)


def all_on(problem: Problem, tier: Tier) -> tuple[Tier, ...]:
    """The assignment nearest to `tier` for every vertex; limits on memory and rate are not looked at."""
    if not problem.allowed:
        return (Tier.DEVICE, *[tier] * (len(problem.names) - 1))
    latest = [max(ranks) for ranks in problem.allowed_ranks]
    for v in reversed(problem.order):
        bound = min((latest[c] for c in problem.successors[v]), default=latest[v])
        latest[v] = max(rank for rank in problem.allowed_ranks[v] if rank <= bound)
    if tier is Tier.CLOUD:
        return tuple(TIERS[rank] for rank in latest)
    found = [0] * len(latest)
    for v in problem.order:
        floor = max((found[p] for p in problem.predecessors[v]), default=0)
        open_ranks: Sequence[int] = [r for r in problem.allowed_ranks[v] if floor <= r <= latest[v]]
        found[v] = tier.rank if tier.rank in open_ranks else open_ranks[0]
    return tuple(TIERS[rank] for rank in found)


def _checked(problem: Problem, tier: Tier) -> tuple[Tier, ...]:
    """`all_on`, or `PlanInfeasible` where the tier is absent or a limit is broken."""
    if tier not in problem.times_s:
        here = ", ".join(problem.tiers)
        raise PlanInfeasible(tier, f"there is no {tier} here — use optimal, or one of: {here}")
    tiers = all_on(problem, tier)
    check_limits(problem, tiers)
    return tiers
