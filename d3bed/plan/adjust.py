"""HPA's local adjustment: a plan in force meets changed costs, and only what they can affect is looked at.

From D3's abstract: HPA partitions again *partially* at run time, by processing time and network
conditions. How is ours:

1. *Bound.* A plan X can have become cheaper than the one in force only by what the change took more
   from the plan in force than from X. Summed up over what changed, at its most, that bounds what any plan
   can gain. It needs no assumption on which tier is faster; only that the plan in force was the cheapest
   when it was made, or `slack_s` dearer. If nothing can be gained, nothing is looked at.
2. *Outward.* Closure and sibling moves (`moves`), from the vertices that changed, or from the two
   boundaries if a link or a tier did, and on from whatever moves, until nothing does.
3. *Guard.* If more than `TOLERANCE` of the cost may still be gained: `hpa` itself, from orders made when the
   pipeline was planned, and one that begins with what the plan in force has before its cuts. The
   cheaper plan is kept, the one in force where none is cheaper.

What was let go within the tolerance adds up in `slack_s` until a guard settles it. So a plan is never dearer
than standing still, and never more than `TOLERANCE` further from the cheapest than guards leave it.
NumPy is loaded at the first use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from itertools import compress
from operator import ne
from typing import TYPE_CHECKING

import msgspec

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import Tier
from d3bed.plan.hpa import MANY, partition
from d3bed.plan.problem import Problem, check_limits, cost_s

if TYPE_CHECKING:
    from d3bed.plan.cuts import Costs, Orders
    from d3bed.plan.moves import Placement

__all__ = ["TOLERANCE", "Adjustment", "Change", "Standing", "Stop", "adjust", "difference"]

#: An improvement of less than this part of the cost is rounding.
_ROUNDING = 1e-12
#: Fields of a problem that must not change under a plan; and others whose change can be priced.
_STRUCTURE = ("names", "edges", "tiers", "allowed", "memory_bytes", "weights", "rate_per_s")
_MIGRATION = ("current", "migration_cost_s")
_TERMS = ("result_bytes", *_MIGRATION)

#: What may be left to gain, as a part of the plan's cost, without looking further.
TOLERANCE = 5e-4


class Stop(StrEnum):
    """Why an adjustment looked no further."""

    UNCHANGED = "nothing changed"
    NO_GAIN = "no plan can have become cheaper than this one"
    WITHIN_TOLERANCE = "what any plan could still gain is within the tolerance"
    SETTLED = "nothing moves, and no pair of cuts is cheaper"
    REPLANNED = "the graph, tiers, pins or limits changed: planned anew"


class Change(msgspec.Struct, frozen=True):
    """What differs between two problems on one graph: single vertices, links, whole tiers, other fields."""

    vertices: tuple[int, ...] = ()
    links: tuple[str, ...] = ()
    tiers: tuple[Tier, ...] = ()
    others: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.vertices or self.links or self.tiers or self.others)


class Adjustment(msgspec.Struct, frozen=True):
    """The plan after a change. `examined` counts the vertices that were tried elsewhere, `moved` names
    those that changed tier; `slack_s` is what a cheaper plan could still save at most, as far as known."""

    tiers: tuple[Tier, ...]
    cost_s: float
    examined: int
    moved: tuple[int, ...]
    why_stopped: Stop
    changed: Change
    slack_s: float


def adjust(problem: Problem, current: Sequence[Tier], before: Problem | None = None) -> Adjustment:
    """Adjust a plan to `problem`.

    `before` is the problem that `current` was made for, by `hpa` or `optimal`; without it nothing is known
    of the change, and everything may have to be looked at. Whoever adjusts again and again keeps a
    `Standing`. Raises `PlanInfeasible` if limits leave no plan.
    """
    standing = Standing(before or problem, current, math.inf if before is None else 0.0)
    adjusted = standing.adjust(problem)
    moved = tuple(_differing(current, adjusted.tiers))
    return msgspec.structs.replace(adjusted, moved=moved)


def difference(before: Problem, after: Problem) -> Change:
    """What changed. A tier counts as changed if the times of most vertices on it did."""
    if before is after:
        return Change()
    vertices = set(_differing(before.output_bytes, after.output_bytes))
    tiers = []
    for tier, times in after.times_s.items():
        differing = _differing(before.times_s.get(tier, ()), times)
        if 2 * len(differing) > len(times) > 2:
            tiers.append(tier)
        else:
            vertices.update(differing)
    links = tuple(link for link, rate in after.links.items() if rate != before.links.get(link))
    others = tuple(
        name
        for name in (*_STRUCTURE, *_TERMS)
        if (one := getattr(before, name)) is not (other := getattr(after, name)) and one != other
    )
    return Change(tuple(sorted(vertices)), links, tuple(tiers), others)


def _differing(one: Sequence[object], other: Sequence[object]) -> list[int]:
    return [] if one is other else list(compress(range(len(other)), map(ne, one, other)))


def _fits(problem: Problem, tiers: Sequence[Tier]) -> bool:
    """Whether this is a plan for `problem`, within its limits."""
    if len(tiers) != len(problem.names) or not set(tiers) <= problem.times_s.keys():
        return False
    if any(tier.rank not in ranks for tier, ranks in zip(tiers, problem.allowed_ranks, strict=True)):
        return False
    if any(tiers[u].rank > tiers[v].rank for u, v in problem.edges):
        return False
    try:
        check_limits(problem, tiers)
    except PlanInfeasible:
        return False
    return True


class Standing:
    """A plan in force, and what adjusting it needs: kept up to date, change after change.

    `tiers` is the plan, at most `slack_s` dearer than the cheapest for `problem`. Where it is not given, or
    is no plan for that problem, `hpa` makes one.
    """

    def __init__(self, problem: Problem, tiers: Sequence[Tier] | None = None, slack_s: float = 0.0) -> None:
        self.slack_s = slack_s
        self._take(problem, tiers if tiers is not None and _fits(problem, tiers) else None)

    def _take(self, problem: Problem, tiers: Sequence[Tier] | None) -> None:
        from d3bed.plan.cuts import Costs, Shape, joined
        from d3bed.plan.moves import Placement

        self.problem = problem
        self.shape = Shape(problem)
        self.costs: Costs = Costs(problem)
        self.orders: Orders = self.shape.orders
        if len(self.costs.tiers) > 1 and self.shape.count <= MANY:
            # Costs change; that makes these orders no worse than others.
            self.orders = joined(self.orders, self.shape.by_cost(self.costs))
        if tiers is None:
            self.placement: Placement = partition(self.shape, self.costs)
            self.slack_s = 0.0
        else:
            rank = {tier: r for r, tier in enumerate(self.costs.tiers)}
            self.placement = Placement(self.shape, self.costs, [rank[tier] for tier in tiers])
        self.tiers = self.costs.tiers_of(self.placement.rank)

    def adjust(self, problem: Problem) -> Adjustment:
        """Adjust the plan to `problem`: the same pipeline at other costs. Raises `PlanInfeasible`."""
        changed = difference(self.problem, problem)
        if not changed and self.slack_s < math.inf:
            self.problem = problem
            return self._adjusted(Stop.UNCHANGED, changed, 0)
        if not set(changed.others).isdisjoint(_STRUCTURE):
            return self._replan(problem, changed)
        gain_s = self._reprice(problem, changed)
        if self.costs.limited and not self.costs.within_limits(self.placement.rank):
            return self._replan(problem, changed)
        placement = self.placement
        placement.seen.clear()
        before_s = placement.cost_s
        if gain_s <= _ROUNDING * before_s:
            self.slack_s = max(0.0, gain_s)
            return self._adjusted(Stop.NO_GAIN, changed, 0)

        local = changed.vertices and not (changed.links or changed.tiers or changed.others)
        placement.settle(changed.vertices if local else {*changed.vertices, *placement.boundary()})
        self.slack_s = max(0.0, gain_s - (before_s - placement.cost_s))
        examined = len(placement.seen)
        if self.slack_s <= TOLERANCE * placement.cost_s:
            return self._adjusted(Stop.WITHIN_TOLERANCE, changed, examined)
        self._guard()
        self.slack_s = 0.0
        return self._adjusted(Stop.SETTLED, changed, self.shape.count)

    def _reprice(self, problem: Problem, changed: Change) -> float:
        """Take the new costs; returns what the cheapest plan can be cheaper than the one in force."""
        whole = (
            changed.links or changed.tiers or changed.others or problem.current or self.costs.limited
        ) or problem.output_bytes is not self.problem.output_bytes
        gain_s = self.slack_s
        if whole or gain_s == math.inf:
            gain_s += self._reprice_all(problem, changed)
        else:
            placement, rank = self.placement, self.placement.rank
            for v in changed.vertices:
                steps = []
                for r, tier in enumerate(self.costs.tiers):
                    was_s, now_s = placement.unary[r][v], problem.times_s[tier][v]
                    if was_s < math.inf:
                        steps.append(now_s - was_s)
                    self.costs.reprice(r, v, now_s)
                    if r == rank[v]:
                        here_s = now_s - was_s
                placement.cost_s += here_s
                gain_s += here_s - min(steps)
            self.costs.problem = problem
        self.problem = problem
        # Where a rate limits what a tier or link may carry, other times allow other plans.
        return gain_s if problem.rate_per_s is None else math.inf

    def _reprice_all(self, problem: Problem, changed: Change) -> float:
        """The same for changes that touch every vertex or tensor, without the slack from before."""
        import numpy as np

        from d3bed.plan.cuts import Costs

        placement, old, new = self.placement, self.costs, Costs(problem)
        crossing = placement.crossing()
        crossings_s, back_s = placement.crossings_s(crossing), placement.back_s()
        self.costs = new
        placement.price(new)
        placement.cost_s = placement.total_s()
        if not set(changed.others).isdisjoint(_MIGRATION) and not (
            problem.migration_cost_s >= self.problem.migration_cost_s
            and all(problem.current.get(n) is t for n, t in zip(problem.names, self.tiers, strict=True))
        ):
            return math.inf
        # Moving costs as much as before, or, from the plan in force, no less than it gained on it.
        steps = np.where(np.isfinite(new.unary), new.times - old.times, np.inf)
        here = steps[np.array(placement.rank), np.arange(self.shape.count)]
        gain_s = float((here - steps.min(axis=0)).sum())

        gain_s += placement.crossings_s(crossing) - crossings_s
        prices = [(getattr(old, kind), getattr(new, kind)) for kind in ("near", "far", "alone", "both")]
        saved = np.max([was - now for was, now in prices], axis=0)
        saved_s = float(np.maximum(saved, 0.0)[self.shape.read].sum())
        if saved_s > 0:
            # A plan that wins pays no more for crossings than what the one in force costs above all times.
            with np.errstate(divide="ignore", invalid="ignore"):
                factor = max(float(np.nanmax(was / now, initial=1.0)) for was, now in prices)
            room_s = placement.cost_s - float(new.unary.min(axis=0).sum())
            saved_s = min(saved_s, room_s * (factor - 1)) if room_s > 0 else 0.0
        gain_s += saved_s

        saved_s = max(was - now for was, now in zip(old.back, new.back, strict=True))
        return gain_s + placement.back_s() - back_s + saved_s

    def _guard(self) -> None:
        """Plan anew, and keep the cheaper plan."""
        found = partition(self.shape, self.costs, self.orders, self.placement)
        if found.cost_s < self.placement.cost_s * (1 - _ROUNDING):
            self.placement = found

    def _replan(self, problem: Problem, changed: Change) -> Adjustment:
        """Plan anew; the plan in force stays where it still is one, and no dearer."""
        tiers = self.tiers
        self._take(problem, None)
        if _fits(problem, tiers) and cost_s(problem, tiers) <= self.placement.cost_s * (1 + _ROUNDING):
            self._take(problem, tiers)
        self.tiers = tiers
        return self._adjusted(Stop.REPLANNED, changed, self.shape.count)

    def _adjusted(self, why: Stop, changed: Change, examined: int) -> Adjustment:
        before = self.tiers
        moved: tuple[int, ...] = ()
        if examined:
            self.tiers = self.costs.tiers_of(self.placement.rank)
            moved = tuple(_differing(before, self.tiers))
        return Adjustment(self.tiers, self.placement.cost_s, examined, moved, why, changed, self.slack_s)
