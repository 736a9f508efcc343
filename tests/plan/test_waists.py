"""Waists against their definition, and bounds against all plans of small graphs."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from d3bed.core.ids import TIERS
from d3bed.plan import Problem, cost_s
from d3bed.plan.baselines import all_on
from d3bed.plan.mincut import Network, minimum_cut, relayed
from d3bed.plan.waists import Waists, waists_of

MakeProblem = Callable[..., Problem]
Judge = Callable[[Problem], Any]


def by_definition(problem: Problem) -> set[int]:
    """Vertices that every other one comes before or after, with no tensor that passes them by."""
    before: dict[int, set[int]] = {}
    for v in problem.order:
        before[v] = {v}.union(*(before[u] for u in problem.predecessors[v]))
    return {
        v
        for v in before
        if all(v in before[w] or w in before[v] for w in before)
        and not any(a in before[v] - {v} and v in before[b] - {b} for a, b in problem.edges)
    }


@pytest.mark.parametrize("shape", ["any", "residual", "inception"])
def test_waists_are_what_they_are_said_to_be(random_problem: MakeProblem, shape: str) -> None:
    rng = random.Random(f"waists {shape}")
    several = 0
    for _ in range(60):
        problem = random_problem(rng, rng.randint(1, 20), shape=shape)
        order, places = waists_of(problem)
        expected = by_definition(problem)
        assert set(order[places].tolist()) == expected
        several += len(expected) > 3
    assert several > 5 or shape == "any"


def test_no_plan_goes_below_the_bound_of_the_stretches_where_it_changes_tier(
    random_problem: MakeProblem, everything: Judge
) -> None:
    rng = random.Random("bounds")
    tight = 0
    for number in range(150):
        problem = random_problem(rng, rng.randint(2, 8), shape=("any", "residual")[number % 2])
        assert relayed(problem)
        network = Network(problem)
        plans = everything(problem)
        waists = Waists(problem, network, network.capacity_s, plans.cost_s.max())
        leave_s, enter_s = waists.bounds_s()
        along = plans.ranks[:, waists.order[waists.places]]
        for bounds_s, later in ((leave_s, along > 0), (enter_s, along > 1)):
            # The last waist before the tier rises.
            stretch = len(waists.places) - 1 - later.sum(axis=1)
            assert np.all(plans.cost_s >= bounds_s[stretch] - waists.margin_s)
            tight += plans.cost_s.min() < bounds_s.min() * 1.01
        if not problem.allowed:
            cheapest_s = cost_s(problem, tuple(TIERS[r] for r in waists.cheapest().tolist()))
            assert plans.cost_s.min() <= cheapest_s * (1 + 1e-9)
    assert tight > 30, "bounds that say something"


def test_closed_stretches_leave_the_optimum_and_a_small_cut(random_problem: MakeProblem) -> None:
    rng = random.Random("closed")
    closed = total = 0
    for _ in range(6):
        problem = random_problem(rng, 400, shape="inception", pins=False)
        network = Network(problem)
        singles = [all_on(problem, tier) for tier in problem.tiers]
        single_s = min(cost_s(problem, tiers) for tiers in singles)
        whole = network.cut(network.capacity_s, single_s)
        _, found_s = minimum_cut(problem, singles)
        assert found_s == pytest.approx(cost_s(problem, whole.tiers), rel=1e-7)
        waists = Waists(problem, network, network.capacity_s, single_s)
        closed += len(waists.bonds(found_s)[0])
        total += 2 * (len(waists.places) - 1)
    assert closed > 0.5 * total
