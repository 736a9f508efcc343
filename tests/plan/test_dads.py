"""DADS against its definition: every two-tier assignment, for one frame and for a stream."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import combinations

import msgspec
import pytest

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import TIERS, Tier
from d3bed.plan import Problem, cost_s, loads_s, solve

MakeProblem = Callable[..., Problem]
BruteForce = Callable[[Problem], tuple[float, tuple[Tier, ...]]]
HighestRate = Callable[[Problem], float]


def two_tier(problem: Problem) -> Iterator[Problem]:
    """The problem on each pair of tiers; impossible ones too."""
    for pair in combinations(problem.tiers, 2):
        allowed = {
            name: tuple(t for t in problem.allowed.get(name, TIERS) if t in pair)
            for name in problem.names[1:]
        }
        yield msgspec.structs.replace(problem, allowed=allowed)


@pytest.mark.parametrize("shape", ["any", "residual", "inception"])
@pytest.mark.parametrize("direct", [False, True])
def test_light_load_is_the_best_two_tier_plan(
    random_problem: MakeProblem, brute_force: BruteForce, shape: str, direct: bool
) -> None:
    rng = random.Random(f"dads {shape} {direct}")
    infeasible = 0
    for _ in range(40):
        problem = random_problem(rng, rng.randint(2, 8), shape=shape, direct=direct)
        least_s = min(brute_force(narrow)[0] for narrow in two_tier(problem))
        if least_s == float("inf"):
            infeasible += 1
            with pytest.raises(PlanInfeasible):
                solve(problem, "dads")
            continue
        assert solve(problem, "dads").cost_s == pytest.approx(least_s, rel=1e-6)
    assert infeasible < 20


def test_heavy_load_has_the_fastest_slowest_stage(
    random_problem: MakeProblem, highest_rate: HighestRate
) -> None:
    rng = random.Random("dads heavy")
    differs = 0
    for _ in range(40):
        problem = random_problem(rng, rng.randint(2, 8), direct=rng.random() < 0.3, pins=False)
        best = max(highest_rate(narrow) for narrow in two_tier(problem))
        light = solve(problem, "dads")
        heavy = solve(msgspec.structs.replace(problem, rate_per_s=0.9 * best), "dads")
        slowest_s = max(loads_s(problem, heavy.tiers).values())
        assert 1 / slowest_s == pytest.approx(best, rel=1e-5)
        assert heavy.cost_s == cost_s(problem, heavy.tiers)
        assert light.cost_s <= heavy.cost_s * (1 + 1e-9)
        assert solve(problem, "dads", "throughput").tiers == heavy.tiers
        differs += light.tiers != heavy.tiers
        with pytest.raises(PlanInfeasible, match="highest rate that would do"):
            solve(msgspec.structs.replace(problem, rate_per_s=1.01 * best), "dads")
    assert differs > 5


def test_never_below_optimal_and_never_above_neurosurgeon(random_problem: MakeProblem) -> None:
    """One cut of an order is one of the DAG's cuts, and two tiers are some of three."""
    rng = random.Random("dads between")
    better = worse = 0
    for _ in range(60):
        problem = random_problem(rng, 20, shape="inception", pins=False)
        optimal, dads, chain = (solve(problem, name).cost_s for name in ("optimal", "dads", "neurosurgeon"))
        assert optimal <= dads * (1 + 1e-9) <= chain * (1 + 1e-8)
        better += dads < chain * 0.999
        worse += optimal < dads * 0.999
    assert better > 5 and worse > 5
