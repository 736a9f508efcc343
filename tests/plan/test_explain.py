"""Explanations and sweeps against solving anew, and trying everything."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest

from d3bed.core.ids import TIERS, Tier
from d3bed.plan import Problem, cost_s, solve
from d3bed.plan.explain import explain
from d3bed.plan.sweep import sweep
from d3bed.plan.whatif import Supposition, suppose

MakeProblem = Callable[..., Problem]
BruteForce = Callable[[Problem], tuple[float, tuple[Tier, ...]]]


def test_a_vertex_held_elsewhere_costs_what_the_best_such_plan_costs(
    random_problem: MakeProblem, brute_force: BruteForce
) -> None:
    rng = random.Random("explain")
    possible = refused = 0
    for _ in range(40):
        problem = random_problem(rng, rng.randint(3, 7))
        vertex = rng.randrange(1, len(problem.names))
        name = problem.names[vertex]
        found = explain(problem, vertex)
        assert found.cost_s == pytest.approx(brute_force(problem)[0])
        for other in found.elsewhere:
            held = (other.tier,) if other.tier in problem.allowed.get(name, TIERS) else ()
            narrow = msgspec.structs.replace(problem, allowed={**problem.allowed, name: held})
            least_s = brute_force(narrow)[0]
            if least_s == float("inf"):
                refused += 1
                assert other.refused and other.cost_s is None
                continue
            possible += 1
            assert other.cost_s == pytest.approx(least_s)
            assert vertex in other.moved
    assert possible > 20 and refused > 5


def test_a_vertex_moves_when_it_takes_less_than_is_said(random_problem: MakeProblem) -> None:
    rng = random.Random("explain times")
    tried = 0
    for _ in range(40):
        problem = random_problem(rng, rng.randint(3, 12), pins=False)
        vertex = rng.randrange(1, len(problem.names))
        for other in explain(problem, vertex).elsewhere:
            if other.time_s is None or other.time_s < 1e-6:
                continue
            tried += 1
            for factor, there in ((0.99, True), (1.01, False)):
                times = list(problem.times_s[other.tier])
                times[vertex] = other.time_s * factor
                changed = msgspec.structs.replace(
                    problem, times_s={**problem.times_s, other.tier: tuple(times)}
                )
                assert (solve(changed).tiers[vertex] is other.tier) is there
    assert tried > 10


def test_the_plan_of_a_band_is_optimal_all_over_it(random_problem: MakeProblem) -> None:
    rng = random.Random("sweep")
    crossings = 0
    for number in range(9):
        problem = random_problem(rng, rng.randint(4, 12), direct=number == 0)
        link = rng.choice(sorted(problem.links))
        found = sweep(problem, link, 1e5, 1e9, ["optimal"])
        crossings += len(found.bands) - 1
        for band in found.bands:
            assert band.tiers is not None
            for _ in range(3):
                rate = band.low * (band.high / band.low) ** rng.random()
                at = suppose(problem, Supposition("link", link, rate))
                # Within the precision of a crossing, the plan beyond it may be cheaper by a little.
                assert cost_s(at, band.tiers) <= solve(at).cost_s * 1.006
    assert crossings > 5


def test_a_sweep_with_a_rate_says_where_no_plan_keeps_it(random_problem: MakeProblem) -> None:
    problem = random_problem(random.Random(5), 8, pins=False)
    slow = msgspec.structs.replace(
        problem, times_s={**problem.times_s, Tier.DEVICE: tuple(1.0 for _ in problem.names)}
    )
    limited = msgspec.structs.replace(slow, rate_per_s=0.9)
    found = sweep(limited, "device-edge", 1.0, 1e9, ["optimal", "device"])
    assert found.bands[0].tiers is None and found.bands[-1].tiers is not None
    assert found.costs_s["optimal"][0] is None and set(found.costs_s["device"]) == {None}
