"""A direct link beside relaying, against all plans of small graphs and MILP on larger ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from d3bed.core.ids import Tier
from d3bed.core.measurements import LinkRate
from d3bed.plan import Problem, cost_s
from d3bed.plan.bypass import applies, with_direct_link
from d3bed.plan.milp import mixed_integer
from d3bed.plan.mincut import relayed

MakeProblem = Callable[..., Problem]
Judge = Callable[[Problem], Any]


def skips(problem: Problem, tiers: tuple[Tier, ...]) -> bool:
    """Whether a tensor goes from the device to the cloud."""
    return any(tiers[a] is Tier.DEVICE and tiers[b] is Tier.CLOUD for a, b in problem.edges)


@pytest.mark.parametrize("gap", [0.0, 0.05])
def test_it_equals_all_plans_of_random_graphs(
    random_problem: MakeProblem, everything: Judge, gap: float
) -> None:
    rng = random.Random(f"direct {gap}")
    past = inexact = tried = 0
    for number in range(200):
        shape = ("any", "residual", "inception")[number % 3]
        problem = random_problem(rng, rng.randint(2, 8), shape=shape, direct=True)
        if relayed(problem) or not applies(problem):
            continue
        tried += 1
        best_s = everything(problem).cost_s.min()
        tiers, bound_s = with_direct_link(problem, gap)
        found_s = cost_s(problem, tiers)
        assert all(tiers[a].rank <= tiers[b].rank for a, b in problem.edges)
        assert all(tiers[problem.names.index(n)] in allowed for n, allowed in problem.allowed.items())
        assert bound_s <= best_s * (1 + 1e-8) <= found_s * (1 + 2e-8)
        assert bound_s >= found_s * (1 - gap) * (1 - 1e-8), number
        past += skips(problem, tiers)
        inexact += found_s > best_s * (1 + 1e-8)
    assert tried > 60 and past > 15
    assert (inexact > 0) == (gap > 0)


def test_it_equals_the_solver_on_networks(random_problem: MakeProblem) -> None:
    rng = random.Random("direct networks")
    past = 0
    for number in range(16):
        problem = random_problem(rng, 90, shape=("residual", "inception")[number % 2], direct=True)
        if relayed(problem) or not applies(problem):
            continue
        tiers, bound_s = with_direct_link(problem)
        best_s = cost_s(problem, mixed_integer(problem))
        assert cost_s(problem, tiers) == pytest.approx(best_s, rel=1e-7), number
        assert bound_s == pytest.approx(best_s, rel=1e-7)
        past += skips(problem, tiers)
    assert past > 2


def test_a_result_that_comes_back_directly_is_paid_directly() -> None:
    """Relayed, the result would cost 2 s; the cloud pays only if it need not be."""
    problem = Problem(
        ("input", "work"),
        {Tier.DEVICE: (0.0, 1.5), Tier.EDGE: (0.0, 1.4), Tier.CLOUD: (0.0, 0.1)},
        (0, 0),
        ((0, 1),),
        {name: LinkRate(1.0, 0.0) for name in ("device-edge", "edge-cloud")}
        | {"device-cloud": LinkRate(10.0, 0.0)},
        result_bytes=1,
    )
    assert applies(problem)
    tiers, bound_s = with_direct_link(problem)
    assert tiers == (Tier.DEVICE, Tier.CLOUD)
    assert cost_s(problem, tiers) == pytest.approx(0.2)
    assert bound_s == pytest.approx(0.2)
    two_ends = replace(problem, names=("input", "a", "b"), edges=((0, 1), (0, 2)), output_bytes=(0, 0, 0))
    assert not applies(two_ends)
