from __future__ import annotations

import random
import statistics
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as given_settings
from hypothesis import strategies as st

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import TIERS, Tier
from d3bed.core.measurements import LinkRate
from d3bed.plan import Problem, check_limits, cost_s, solve
from d3bed.plan.baselines import all_on

DEVICE, EDGE, CLOUD = TIERS

Assignment = tuple[Tier, ...]
MakeProblem = Callable[..., Problem]
BruteForce = Callable[[Problem], tuple[float, Assignment]]

#: The fixture hands out a function and keeps nothing.
FIXTURE = HealthCheck.function_scoped_fixture


def check_feasible(problem: Problem, tiers: Assignment) -> None:
    assert tiers[0] is DEVICE
    assert all(tiers[a].rank <= tiers[b].rank for a, b in problem.edges)
    assert all(tiers[problem.names.index(n)] in allowed for n, allowed in problem.allowed.items())
    check_limits(problem, tiers)


def single_s(problem: Problem) -> float:
    """The cost of the best single tier, as far as pins allow one."""
    return min(cost_s(problem, all_on(problem, tier)) for tier in problem.tiers)


def mixed(tiers: Assignment) -> bool:
    return len(set(tiers[1:])) > 1


def test_small_graphs_are_within_five_percent_of_trying_everything(
    random_problem: MakeProblem, brute_force: BruteForce
) -> None:
    rng = random.Random(21)
    regrets = []
    splits = 0
    for number in range(250):
        tiers = TIERS if number % 4 else rng.choice([(DEVICE, EDGE), (DEVICE, CLOUD), (DEVICE,)])
        problem = random_problem(rng, rng.randint(1, 7), tiers=tiers)
        solution = solve(problem, "hpa")
        check_feasible(problem, solution.tiers)
        assert solution.cost_s <= single_s(problem) * (1 + 1e-12)
        best_s, best = brute_force(problem)
        regrets.append(solution.cost_s / best_s if best_s else 1.0)
        splits += mixed(best)
    assert splits > 60
    assert statistics.mean(regrets) <= 1.002
    assert max(regrets) <= 1.05


def test_networks_of_modules_with_mixed_optima_are_planned_within_one_percent(
    random_problem: MakeProblem,
) -> None:
    """200 problems that no single tier solves, the size of the five networks."""
    rng = random.Random(22)
    regrets: list[float] = []
    greedy: list[float] = []
    while len(regrets) < 200:
        shape = ("residual", "inception")[len(regrets) % 2]
        problem = random_problem(rng, rng.choice([32, 78, 195]), shape=shape)
        best = solve(problem)
        if not mixed(best.tiers):
            continue
        solution = solve(problem, "hpa")
        check_feasible(problem, solution.tiers)
        regrets.append(solution.cost_s / best.cost_s)
        greedy.append(solve(problem, "hpa-greedy").cost_s / best.cost_s)
    assert statistics.mean(regrets) <= 1.001
    assert max(regrets) <= 1.01
    assert statistics.mean(greedy) > statistics.mean(regrets)


def test_graphs_without_any_structure_are_planned_within_two_percent_on_average(
    random_problem: MakeProblem,
) -> None:
    rng = random.Random(23)
    regrets = []
    for _ in range(40):
        problem = random_problem(rng, rng.randint(60, 190), shape="any")
        solution = solve(problem, "hpa")
        check_feasible(problem, solution.tiers)
        regrets.append(solution.cost_s / solve(problem).cost_s)
    assert statistics.mean(regrets) <= 1.02
    assert max(regrets) <= 1.25


def test_a_cheaper_direct_link_is_made_use_of(random_problem: MakeProblem, brute_force: BruteForce) -> None:
    rng = random.Random(24)
    regrets = []
    for _ in range(80):
        problem = random_problem(rng, rng.randint(2, 7), direct=True)
        solution = solve(problem, "hpa")
        check_feasible(problem, solution.tiers)
        regrets.append(solution.cost_s / brute_force(problem)[0])
    assert statistics.mean(regrets) <= 1.01
    assert max(regrets) <= 1.1


@pytest.mark.parametrize("strategy", ["hpa", "layers"])
def test_limits_hold_or_the_stage_that_binds_is_named(
    random_problem: MakeProblem,
    brute_force: BruteForce,
    highest_rate: Callable[[Problem], float],
    strategy: str,
) -> None:
    rng = random.Random(25)
    found = missed = 0
    for number in range(60):
        problem = random_problem(rng, rng.randint(2, 7), direct=number % 2 == 0)
        if number % 3:
            room = {t: float(round(sum(problem.weight_bytes) * rng.uniform(0.3, 0.9))) for t in TIERS}
            problem = msgspec.structs.replace(problem, memory_bytes=room)
        else:
            rate = highest_rate(problem) * rng.uniform(0.5, 1.0)
            problem = msgspec.structs.replace(problem, rate_per_s=rate)
        best_s, _ = brute_force(problem)
        try:
            solution = solve(problem, strategy)
        except PlanInfeasible as refusal:
            assert refusal.binding in {*TIERS, *problem.links}
            missed += best_s < float("inf")
            continue
        check_feasible(problem, solution.tiers)
        assert solution.cost_s >= best_s * (1 - 1e-12)
        found += 1
    assert found > 25
    assert missed <= 15, "plans exist that are no pair of cuts, but they are rare"


@given(st.integers(0, 2**32), st.integers(1, 40), st.sampled_from(["any", "residual", "inception"]))
@given_settings(max_examples=60, suppress_health_check=[FIXTURE])
def test_a_plan_is_monotone_where_it_may_be_and_not_above_a_single_tier(
    random_problem: MakeProblem, seed: int, count: int, shape: str
) -> None:
    rng = random.Random(seed)
    problem = random_problem(rng, count, shape=shape, direct=rng.random() < 0.3)
    for strategy in ("hpa", "hpa-greedy", "layers"):
        solution = solve(problem, strategy)
        check_feasible(problem, solution.tiers)
        if strategy != "hpa-greedy":
            assert solution.cost_s <= single_s(problem) * (1 + 1e-9)


@given(st.integers(0, 2**32), st.integers(-8, 8))
@given_settings(max_examples=40, suppress_health_check=[FIXTURE])
def test_scaling_all_costs_changes_nothing(random_problem: MakeProblem, seed: int, power: int) -> None:
    rng = random.Random(seed)
    problem = random_problem(rng, rng.randint(2, 60), shape="inception")
    k = 2.0**power  # exact in floating point
    slower = msgspec.structs.replace(
        problem,
        times_s={tier: tuple(t * k for t in times) for tier, times in problem.times_s.items()},
        links={n: LinkRate(r.bytes_per_s / k, r.latency_s * k) for n, r in problem.links.items()},
        migration_cost_s=problem.migration_cost_s * k,
    )
    assert solve(slower, "hpa").tiers == solve(problem, "hpa").tiers


def test_numbers_of_all_sizes_leave_it_no_dearer_than_a_single_tier(random_problem: MakeProblem) -> None:
    """Nothing, picoseconds and weeks side by side: sums that cancel must not mislead it."""
    rng = random.Random(26)
    for number in range(150):
        base = random_problem(rng, rng.randint(1, 30), direct=number % 3 == 0)
        problem = msgspec.structs.replace(
            base,
            times_s={t: tuple(rng.choice([0, 1e-12, 1e-6, 1e-3, 1, 1e6]) for _ in base.names) for t in TIERS},
            output_bytes=tuple(rng.choice([0, 1, 1000, 10**9]) for _ in base.names),
            links={
                k: LinkRate(rng.choice([1, 1e3, 1e9, 1e15]), rng.choice([0, 1e-9, 1])) for k in base.links
            },
        )
        solution = solve(problem, "hpa")
        check_feasible(problem, solution.tiers)
        assert solution.cost_s <= single_s(problem) * (1 + 1e-9), number


def chain(count: int, dear: tuple[int, int]) -> Problem:
    """A chain that is best cut in two given places."""
    times = {
        tier: tuple(1.0 if (v >= dear[0]) + (v >= dear[1]) == tier.rank else 2.0 for v in range(count))
        for tier in TIERS
    }
    return Problem(
        tuple(f"v{v}" for v in range(count)),
        times,
        (1,) * count,
        tuple((v, v + 1) for v in range(count - 1)),
        {"device-edge": LinkRate(1e6, 0.0), "edge-cloud": LinkRate(1e6, 0.0)},
    )


@pytest.mark.parametrize("strategy", ["hpa", "hpa-greedy", "layers"])
def test_a_chain_of_100000_vertices_meets_no_recursion_limit(strategy: str) -> None:
    solution = solve(chain(100_000, (30_000, 70_000)), strategy)
    assert [solution.tiers.count(tier) for tier in TIERS] == [30_000, 40_000, 30_000]


def test_a_slow_uplink_keeps_layers_on_the_device() -> None:
    fast = chain(30, (10, 20))
    slow = msgspec.structs.replace(fast, links={link: LinkRate(1e-3, 0.0) for link in fast.links})
    assert set(solve(slow, "hpa").tiers) == {DEVICE}


def test_only_the_input() -> None:
    problem = Problem(("input",), {DEVICE: (0.5,)}, (10,), (), {}, result_bytes=10)
    for strategy in ("hpa", "hpa-greedy", "layers"):
        assert solve(problem, strategy).tiers == (DEVICE,)
