"""The cheapest plan within limits on memory and frame rate, with a proof of how near it is.

Limits couple what a minimum cut keeps apart. First they become prices (`prices`), which gives a good
plan and a lower bound within a few cuts. Often a gap is left that no prices close. Then all plans that
the bound does not exclude are looked through (`ideals`): in the narrow graphs that DNNs are, these are
few, and what is returned is the best. In wide graphs they are too many, and a gap may stay.

Only for problems where tensors are relayed (`mincut.relayed`); `milp` does all others.
"""

from __future__ import annotations

import numpy as np

from d3bed.core.ids import TIERS, Tier
from d3bed.plan.ideals import Ideals
from d3bed.plan.mincut import Network
from d3bed.plan.prices import SLACK, Rows, Search
from d3bed.plan.problem import Problem

__all__ = ["within_limits"]

#: Rounds of cutting at new prices; more are rarely needed.
_ROUNDS = 12
#: The relative error of a sum of so many numbers as a graph has vertices.
_EPSILON = 1e-13


def within_limits(problem: Problem, gap: float = 0.0) -> tuple[tuple[Tier, ...], float] | None:
    """A plan within the limits, and what none goes below: equal to its cost, or less by `gap` if need be.

    None if the quick search knows no plan within the limits: there may still be one.
    """
    network = Network(problem)
    period_s = None if problem.rate_per_s is None else 1 / problem.rate_per_s
    rows = Rows(problem, network, period_s)
    search = Search(network, network.capacity_s, rows)
    search.run(problem, gap, _ROUNDS)
    if search.best is None:
        return None
    if search.best_s - search.bound_s > gap * search.best_s:
        _look_through(problem, search, gap)
    tiers = tuple(TIERS[rank] for rank in search.best.tolist())
    return tiers, min(search.bound_s, search.best_s)


def _look_through(problem: Problem, search: Search, gap: float) -> None:
    """Find the best plan among all that the bound does not exclude, unless they are too many."""
    rows = search.rows
    metrics = np.vstack([search.cost_s, rows.loads])
    enough_s = search.best_s * (1 - gap)
    margin_s = SLACK * search.best_s
    ceiling = enough_s + float(search.at @ rows.limits) * (1 + SLACK) + margin_s
    prices = np.array([1.0, *search.at])
    ideals = Ideals.all(problem, search.network, metrics, prices, ceiling)
    if ideals is None:
        return
    # Sums lose what is small beside their largest part: then they prove nothing.
    scales = np.array([search.best_s, *np.maximum(rows.limits, 1.0)])
    largest = np.abs(ideals.first).max(axis=1) + np.abs(ideals.second).max(axis=1)
    if np.any(largest * _EPSILON > scales * SLACK):
        return
    pairs = ideals.below(prices, ceiling, np.array([np.inf, *rows.limits * (1 + SLACK)]))
    if pairs is None:
        return
    smaller, larger = pairs
    cost_s = ideals.first[0, smaller] + ideals.second[0, larger]
    kept = cost_s < enough_s
    for row, limit in enumerate(rows.limits, 1):
        kept &= ideals.first[row, smaller] + ideals.second[row, larger] <= limit * (1 + SLACK)
    candidates = np.flatnonzero(kept)
    search.bound_s = enough_s
    for number in candidates[np.argsort(cost_s[candidates])]:
        if ideals.nested(smaller[number], larger[number]):
            search.add(ideals.rank(smaller[number], larger[number]))
            search.bound_s = search.best_s
            break
