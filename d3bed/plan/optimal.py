"""`optimal`: no plan costs less.

Decides which exact method fits: one minimum cut; with limits on memory or frame rate, prices and a look
at what they leave open; where a cheaper direct device–cloud link couples what a cut keeps apart, a cut
and small programs (`bypass`), or with limits one linear program; and mixed-integer programming where
these leave a gap. It trusts none of them: a plan that is dearer by definition than the best single-tier
plan is not returned. SciPy is loaded at the first call, so that importing the planner stays cheap.
"""

from __future__ import annotations

from typing import NamedTuple

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import Tier
from d3bed.plan.baselines import all_on
from d3bed.plan.problem import Problem, check_limits, cost_s

__all__ = ["Proven", "optimal", "proven"]


#: A gap no larger than this is rounding.
_ROUNDING = 1e-9


class Proven(NamedTuple):
    """A plan, its cost in seconds, and what no plan within the limits goes below."""

    tiers: tuple[Tier, ...]
    cost_s: float
    bound_s: float

    @property
    def gap(self) -> float:
        """How far the cost may be above the least, as a part of it; 0 where the plan is proven best."""
        return max(0.0, 1 - self.bound_s / self.cost_s) if self.cost_s > 0 else 0.0


def optimal(problem: Problem) -> tuple[Tier, ...]:
    """The cheapest plan. Raises `PlanInfeasible` if limits leave none."""
    return proven(problem).tiers


def proven(problem: Problem, gap: float = 0.0) -> Proven:
    """A plan that costs at most `gap` more than the cheapest, as a part of its cost, with the proof.

    Methods are tried from the fastest on, until one proves enough. Raises `PlanInfeasible`.
    """
    from d3bed.plan import mincut

    if mincut.applies(problem):
        tiers, found_s = mincut.minimum_cut(problem, [all_on(problem, tier) for tier in problem.tiers])
        return Proven(tiers, found_s, found_s)

    from d3bed.plan import bypass, milp

    best = _best_single(problem)
    if mincut.relayed(problem):
        from d3bed.plan.limits import within_limits

        quick = within_limits(problem, gap)
    elif bypass.applies(problem):
        quick = bypass.with_direct_link(problem, gap)
    else:
        quick = milp.relaxed(problem, best.cost_s if best is not None else None)
    if quick is not None:
        tiers, bound_s = quick
        found_s = cost_s(problem, tiers)
        if best is None or found_s < best.cost_s:
            best = Proven(tiers, found_s, 0.0)
        best = best._replace(bound_s=min(bound_s, best.cost_s))
        if best.gap <= gap + _ROUNDING:
            return best
    tiers = milp.mixed_integer(problem, best.cost_s if best is not None else None, gap)
    found_s = cost_s(problem, tiers)
    if best is None or found_s < best.cost_s:
        best = Proven(tiers, found_s, best.bound_s if best is not None else 0.0)
    return best._replace(bound_s=max(best.bound_s, best.cost_s * (1 - gap)))


def _best_single(problem: Problem) -> Proven | None:
    """The cheapest of the plans that keep to one tier as far as they may, if any is within the limits."""
    found: list[tuple[float, int, tuple[Tier, ...]]] = []
    for tier in problem.tiers:
        tiers = all_on(problem, tier)
        try:
            check_limits(problem, tiers)
        except PlanInfeasible:
            continue
        found.append((cost_s(problem, tiers), tier.rank, tiers))
    if not found:
        return None
    least_s, _, tiers = min(found)
    return Proven(tiers, least_s, 0.0)
