"""Neurosurgeon against its definition: every cut of one order, on every pair of tiers."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import combinations

import msgspec
import pytest

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import TIERS, Tier
from d3bed.plan import Problem, check_limits, cost_s, loads_s, solve
from d3bed.plan.neurosurgeon import framework_order
from d3bed.plan.placements import as_published

MakeProblem = Callable[..., Problem]
DEVICE, EDGE, CLOUD = TIERS


def every_cut(problem: Problem) -> list[tuple[float, tuple[Tier, ...]]]:
    """Each cut of the framework's order between two tiers that pins and limits allow, and its cost."""
    order = framework_order(problem)
    pairs = list(combinations(problem.tiers, 2)) or [(DEVICE, DEVICE)]
    found = []
    for front, back in pairs:
        for cut in range(1, len(order) + 1):
            tiers = [back] * len(order)
            for v in order[:cut]:
                tiers[v] = front
            tiers[0] = DEVICE
            if all(t in problem.allowed.get(n, TIERS) for n, t in zip(problem.names, tiers, strict=True)):
                try:
                    check_limits(problem, tiers)
                except PlanInfeasible:
                    continue
                found.append((cost_s(problem, tiers), tuple(tiers)))
    return found


@pytest.mark.parametrize("shape", ["any", "residual", "inception"])
@pytest.mark.parametrize("direct", [False, True])
def test_equals_the_best_of_all_cuts(random_problem: MakeProblem, shape: str, direct: bool) -> None:
    rng = random.Random(f"neurosurgeon {shape} {direct}")
    infeasible = 0
    for _ in range(100):
        problem = random_problem(rng, rng.randint(1, 10), shape=shape, direct=direct)
        cuts = every_cut(problem)
        if not cuts:
            infeasible += 1
            with pytest.raises(PlanInfeasible):
                solve(problem, "neurosurgeon")
            continue
        found = solve(problem, "neurosurgeon")
        assert found.cost_s == pytest.approx(min(cuts)[0], rel=1e-9)
        assert found.tiers in [tiers for _, tiers in cuts]
    assert infeasible < 60


@pytest.mark.parametrize("tiers", [(DEVICE,), (DEVICE, EDGE), (DEVICE, CLOUD)])
def test_fewer_tiers_leave_fewer_placements(random_problem: MakeProblem, tiers: tuple[Tier, ...]) -> None:
    rng = random.Random(f"neurosurgeon {tiers}")
    for _ in range(30):
        problem = random_problem(rng, rng.randint(2, 9), tiers=tiers, pins=False)
        assert solve(problem, "neurosurgeon").cost_s == pytest.approx(min(every_cut(problem))[0], rel=1e-9)


def test_takes_the_cheapest_cut_within_limits(random_problem: MakeProblem) -> None:
    rng = random.Random("neurosurgeon limits")
    refused = changed = 0
    for _ in range(120):
        free = random_problem(rng, rng.randint(3, 9), pins=False)
        plain = solve(free, "neurosurgeon")
        problem = msgspec.structs.replace(
            free,
            rate_per_s=rng.uniform(5, 120),
            memory_bytes={tier: rng.uniform(0.3, 1.2) * sum(free.weights) for tier in TIERS},
        )
        cuts = every_cut(problem)
        if not cuts:
            refused += 1
            with pytest.raises(PlanInfeasible):
                solve(problem, "neurosurgeon")
            continue
        found = solve(problem, "neurosurgeon")
        assert found.cost_s == pytest.approx(min(cuts)[0], rel=1e-9)
        changed += found.tiers != plain.tiers
    assert refused > 5 and changed > 5


def test_three_tiers_that_pins_ask_for_are_refused_in_words(random_problem: MakeProblem) -> None:
    problem = random_problem(random.Random(1), 6, pins=False)
    a, b, c = (problem.names[v] for v in problem.order[1:4])
    pinned = msgspec.structs.replace(problem, allowed={a: (DEVICE,), b: (EDGE,), c: (CLOUD,)})
    with pytest.raises(PlanInfeasible, match="no two tiers — use optimal"):
        solve(pinned, "neurosurgeon")


def test_as_published_ships_four_times_the_bytes(random_problem: MakeProblem) -> None:
    problem = random_problem(random.Random(2), 6)
    shipped = as_published(problem)
    assert shipped.output_bytes == (4 * problem.output_bytes[0], *problem.output_bytes[1:])
    assert shipped.times_s == problem.times_s
    assert solve(shipped, "neurosurgeon").cost_s >= solve(problem, "neurosurgeon").cost_s


@pytest.mark.parametrize("shape", ["any", "inception"])
def test_the_fastest_cut_has_the_least_busy_slowest_stage_of_all_cuts(
    random_problem: MakeProblem, shape: str
) -> None:
    rng = random.Random(f"fastest {shape}")
    better = 0
    for number in range(60):
        problem = random_problem(rng, rng.randint(2, 10), shape=shape, direct=number % 2 == 0)
        unhurried = msgspec.structs.replace(problem, rate_per_s=None)
        busiest_s = [max(loads_s(problem, tiers).values()) for _, tiers in every_cut(unhurried)]
        if not busiest_s:
            continue
        found = max(loads_s(problem, solve(problem, "neurosurgeon", "throughput").tiers).values())
        assert found == pytest.approx(min(busiest_s), rel=1e-9)
        better += found < max(loads_s(problem, solve(unhurried, "neurosurgeon").tiers).values()) * 0.99
    assert better > 5, "no problem here where it differs from the plan for one frame"
