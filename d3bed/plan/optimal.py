"""`optimal`: no plan costs less.

Decides which exact method fits: one minimum cut, or mixed-integer programming where a cheaper direct
device–cloud link, memory limits or a frame rate couple what a cut keeps apart. It trusts neither: a
plan that is dearer by definition than the best single-tier plan is not returned. SciPy is loaded at
the first call, so that importing the planner stays cheap.
"""

from __future__ import annotations

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import Tier
from d3bed.plan.baselines import all_on
from d3bed.plan.problem import Problem, check_limits, cost_s

__all__ = ["optimal"]


def optimal(problem: Problem) -> tuple[Tier, ...]:
    """The cheapest plan. Raises `PlanInfeasible` if limits leave none."""
    simple = []
    for tier in problem.tiers:
        tiers = all_on(problem, tier)
        try:
            check_limits(problem, tiers)
        except PlanInfeasible:
            continue
        simple.append((cost_s(problem, tiers), tier.rank, tiers))
    best = min(simple, default=None)

    from d3bed.plan import mincut

    if best is not None and mincut.applies(problem):
        return mincut.minimum_cut(problem, best[2], best[0])

    from d3bed.plan.milp import mixed_integer

    found = mixed_integer(problem, best[0] if best is not None else None)
    return best[2] if best is not None and best[0] <= cost_s(problem, found) else found
