"""`hpa`: the horizontal partition.

From D3's abstract: the DNN is partitioned *horizontally*, by vertices, into three parts for device,
edge and cloud, according to processing time and network conditions; and at run time it is partitioned
again only in part (`adjust`). The abstract gives no steps; these are ours: cut the graph's layers in
two places, and refine around the cuts.

1. Order the vertices by layer (longest path from the input), and in three more ways: by the longest path
   to the end, and branch after branch, from the first and from the last.
2. Find the best pair of cut positions of each order, all pairs considered (`cuts`). Where that splits the
   graph: also in orders that go, for each boundary, by what the next vertices add to a cut there.
3. From the best (in small graphs, the three best): move vertices with their closure, and siblings, at the
   two boundaries, until nothing improves (`moves`); and look once more at pairs of cuts, in orders that
   begin with what the plan found has before its cuts.

Never dearer than the best single tier that is feasible: that is one of the pairs, or looked at as well
where pins bend it. It does not always find a plan within tight limits, or the cheapest; `optimal` does.
NumPy is loaded at the first call.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from d3bed.core.ids import Tier
from d3bed.plan.baselines import all_on
from d3bed.plan.problem import Problem, check_limits

if TYPE_CHECKING:
    from d3bed.plan.cuts import Costs, Orders, Shape
    from d3bed.plan.moves import Placement

__all__ = ["MANY", "cuts_of", "hpa", "partition"]

#: Up to so many vertices orders by cost are tried: their time grows with the graph's width as well.
MANY = 2000
#: Up to so many vertices, so many plans are refined, the cheapest pairs of cuts first; above, one.
_SMALL, _STARTS = 64, 3
#: In small graphs and in others: the largest closure that is moved, and how far from where nothing moved.
_WIDE, _NARROW = (24, 2), (8, 1)


def hpa(problem: Problem) -> tuple[Tier, ...]:
    """A plan near the cheapest. Raises `PlanInfeasible` if it finds none within limits."""
    from d3bed.plan.cuts import Costs, Shape

    costs = Costs(problem)
    return costs.tiers_of(partition(Shape(problem), costs).rank)


def partition(
    shape: Shape, costs: Costs, orders: Orders | None = None, settled: Placement | None = None
) -> Placement:
    """The whole of it. Raises `PlanInfeasible`.

    `orders` stand in for those that it would try. `settled` is a plan that no move improves: its cuts are
    tried as well, and it is not moved again.
    """
    from d3bed.plan.cuts import joined, refined

    keep, limit, reach = (_STARTS, *_WIDE) if shape.count <= _SMALL else (1, *_NARROW)
    if settled is not None and orders is not None:
        best, *others = cuts_of(shape, costs, joined(orders, refined(orders.first, settled.rank)), keep)
    else:
        orders = shape.orders
        best, *others = cuts_of(shape, costs, orders)
        if shape.count <= MANY and any(start.splits for start in (best, *others)):
            orders = joined(orders, shape.by_cost(costs))
            others = others if keep > 1 else []
            best, *others = cuts_of(shape, costs, orders, keep, best) + others
    if settled is not None and settled.rank == best.rank:
        best = settled
    else:
        best.settle(best.boundary(), limit, reach)
    for start in others:
        if start.rank != best.rank:
            start.settle(start.boundary(), limit, reach)
            best = min(best, start, key=lambda placed: placed.cost_s)
    if best.splits:
        again = cuts_of(shape, costs, refined(orders, best.rank), known=best)[0]
        if again.cost_s < best.cost_s:
            again.settle(again.boundary(), limit, reach)
            return again
    return best


def cuts_of(
    shape: Shape, costs: Costs, orders: Orders, keep: int = 1, known: Placement | None = None
) -> list[Placement]:
    """The `keep` best of the best pairs of cuts of each of these orders, and `known`: cheapest first.

    Without a plan that is known, single tiers are among them where pins and limits may make one cheaper.
    Raises `PlanInfeasible`.
    """
    from d3bed.plan.cuts import best_cuts, refined
    from d3bed.plan.moves import Placement

    starts = [known] if known is not None else []
    if not starts and (costs.pinned or costs.limited):
        starts = _single_tiers(shape, costs)
    penalty_s = 0.0
    if costs.pinned:
        # A plan that pays this once is dearer than a plan that exists.
        penalty_s = 2 * min((start.cost_s for start in starts), default=costs.most_s) or 1.0
        orders = refined(orders, costs.leeway)
    unary = costs.finite(penalty_s)
    for skip_edge in (False, True) if costs.direct else (False,):
        for _, rank in best_cuts(costs, orders, unary, skip_edge=skip_edge)[:keep]:
            start = Placement(shape, costs, rank)
            if start.cost_s < math.inf and costs.within_limits(rank):
                starts.append(start)
    if not starts:
        check_limits(costs.problem, all_on(costs.problem, costs.tiers[0]))
    return sorted(starts, key=lambda start: start.cost_s)


def _single_tiers(shape: Shape, costs: Costs) -> list[Placement]:
    """The feasible plans that keep to one tier as far as pins allow."""
    from d3bed.plan.moves import Placement

    rank = {tier: r for r, tier in enumerate(costs.tiers)}
    plans = ([rank[t] for t in all_on(costs.problem, tier)] for tier in costs.tiers)
    return [Placement(shape, costs, plan) for plan in plans if costs.within_limits(plan)]
