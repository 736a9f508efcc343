"""`layers`: the best pair of cuts between layers of the graph.

A layer is all vertices with the same longest path from the input. Whole layers go to device, edge and
cloud; all pairs of cuts are considered, none is refined. A single tier is such a pair, so this is never
dearer than the best one. What it cannot do: part with the branches of a module in different places.
Where pins leave no pair of layer cuts, the single tiers, bent as pins ask, are what is left.
"""

from __future__ import annotations

from d3bed.core.ids import Tier
from d3bed.plan.hpa import cuts_of
from d3bed.plan.problem import Problem

__all__ = ["layers"]


def layers(problem: Problem) -> tuple[Tier, ...]:
    """The cheapest plan of whole layers. Raises `PlanInfeasible` if limits leave none."""
    from d3bed.plan.cuts import Costs, Shape

    costs, shape = Costs(problem), Shape(problem)
    return costs.tiers_of(cuts_of(shape, costs, shape.layer_cuts())[0].rank)
