from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import TIERS, Tier
from d3bed.core.measurements import LinkRate
from d3bed.plan import Problem, cost_s, solve
from d3bed.plan.baselines import all_on
from d3bed.plan.milp import mixed_integer
from d3bed.plan.mincut import applies

DEVICE, EDGE, CLOUD = TIERS

Assignment = tuple[Tier, ...]
MakeProblem = Callable[..., Problem]
BruteForce = Callable[[Problem], tuple[float, Assignment]]


def check_feasible(problem: Problem, tiers: Assignment) -> None:
    assert tiers[0] is DEVICE
    assert all(tiers[a].rank <= tiers[b].rank for a, b in problem.edges)
    assert all(tiers[problem.names.index(n)] in allowed for n, allowed in problem.allowed.items())


def test_one_cut_equals_brute_force_on_600_random_graphs(
    random_problem: MakeProblem, brute_force: BruteForce, reference_cost_s: Callable[..., float]
) -> None:
    rng = random.Random(1)
    used = set[frozenset[Tier]]()
    mixed = 0
    for number in range(600):
        tiers = TIERS if number % 5 else rng.choice([(DEVICE, EDGE), (DEVICE, CLOUD), (DEVICE,)])
        problem = random_problem(rng, rng.randint(1, 8), tiers=tiers)
        problem.check("random")
        assert applies(problem)
        solution = solve(problem)
        check_feasible(problem, solution.tiers)
        best, _ = brute_force(problem)
        assert solution.cost_s == pytest.approx(reference_cost_s(problem, solution.tiers), rel=1e-12)
        assert solution.cost_s == pytest.approx(best, rel=1e-8), number
        used.add(frozenset(solution.tiers[1:]))
        mixed += len(set(solution.tiers[1:])) > 1
    assert len(used) >= 7, "optima of every kind"
    assert mixed > 150, "and many that no single tier gives"


def test_cut_equals_mixed_integer_program_on_larger_graphs(random_problem: MakeProblem) -> None:
    rng = random.Random(2)
    mixed = 0
    for number in range(24):
        shape = ("any", "residual", "inception")[number % 3]
        problem = random_problem(rng, rng.randint(100, 200), shape=shape)
        problem.check("random")
        cut = solve(problem)
        check_feasible(problem, cut.tiers)
        assert cut.cost_s == pytest.approx(cost_s(problem, mixed_integer(problem)), rel=1e-7), number
        mixed += len(set(cut.tiers[1:])) > 1
    assert mixed > 12


def test_direct_link_is_used_where_it_is_cheaper(
    random_problem: MakeProblem, brute_force: BruteForce
) -> None:
    rng = random.Random(3)
    beyond_cut = 0
    for number in range(60):
        problem = random_problem(rng, rng.randint(2, 7), direct=True)
        beyond_cut += not applies(problem)
        solution = solve(problem)
        check_feasible(problem, solution.tiers)
        assert solution.cost_s == pytest.approx(brute_force(problem)[0], rel=1e-8), number
    assert beyond_cut > 30


def test_memory_limits_hold_and_the_rest_is_optimal(
    random_problem: MakeProblem, brute_force: BruteForce
) -> None:
    rng = random.Random(4)
    infeasible = 0
    for number in range(50):
        problem = random_problem(rng, rng.randint(2, 7), direct=number % 2 == 0)
        total = sum(problem.weight_bytes)
        limits = {tier: float(round(total * rng.uniform(0.2, 0.8))) for tier in TIERS}
        problem = replace(problem, memory_bytes=limits)
        best, _ = brute_force(problem)
        if best == float("inf"):
            infeasible += 1
            with pytest.raises(PlanInfeasible, match="memory_bytes") as caught:
                solve(problem)
            assert caught.value.binding in TIERS
            continue
        assert solve(problem).cost_s == pytest.approx(best, rel=1e-8), number
    assert 3 < infeasible < 40


def test_rate_limits_hold_and_the_highest_rate_is_named(
    random_problem: MakeProblem, brute_force: BruteForce, highest_rate: Callable[[Problem], float]
) -> None:
    rng = random.Random(5)
    for number in range(50):
        problem = random_problem(rng, rng.randint(2, 7), direct=number % 2 == 0)
        highest = highest_rate(problem)
        within = replace(problem, rate_per_s=highest * rng.uniform(0.5, 0.999))
        assert solve(within).cost_s == pytest.approx(brute_force(within)[0], rel=1e-8), number
        with pytest.raises(PlanInfeasible, match="highest rate that would do is") as caught:
            solve(replace(problem, rate_per_s=highest * 1.01))
        assert caught.value.binding in {*TIERS, *problem.links}
        named = float(caught.value.problem.split("would do is ")[1].split()[0])
        assert named == pytest.approx(highest, rel=2e-5)
        assert solve(replace(problem, rate_per_s=named)).cost_s > 0


def test_large_capacities_do_not_overflow_int32(random_problem: MakeProblem) -> None:
    """Times over seven orders of magnitude beside fast links: what broke with infinity at 2^31 - 1."""
    rng = random.Random(6)
    for number in range(40):
        base = random_problem(rng, rng.randint(60, 120), shape="inception", pins=False)
        times = {tier: (0.0, *(10 ** rng.uniform(-6, 1) for _ in base.names[1:])) for tier in base.times_s}
        problem = replace(base, times_s=times, links={k: LinkRate(1e12, 0.0) for k in base.links})
        found = solve(problem)
        check_feasible(problem, found.tiers)
        single = min(solve(problem, name).cost_s for name in ("device", "edge", "cloud"))
        assert found.cost_s <= single
        assert found.cost_s == pytest.approx(cost_s(problem, mixed_integer(problem)), rel=1e-6), number


def test_numbers_of_all_sizes_are_planned_exactly(
    random_problem: MakeProblem, brute_force: BruteForce
) -> None:
    """Nothing, picoseconds and weeks side by side, by cut and by mixed-integer program."""
    rng = random.Random(8)
    times_s, latencies_s, rates = (
        [0, 0, 1e-12, 1e-6, 1e-3, 1, 2, 1e6],
        [0, 0, 1e-9, 1, 1e3],
        [1, 1e3, 1e9, 1e15],
    )
    for number in range(120):
        base = random_problem(rng, rng.randint(1, 6), direct=number % 2 == 0)
        problem = replace(
            base,
            times_s={tier: tuple(rng.choice(times_s) for _ in base.names) for tier in TIERS},
            output_bytes=tuple(rng.choice([0, 1, 1000, 10**9]) for _ in base.names),
            links={k: LinkRate(rng.choice(rates), rng.choice(latencies_s)) for k in base.links},
        )
        assert solve(problem).cost_s == pytest.approx(brute_force(problem)[0], rel=1e-8, abs=0), number


def test_an_optimum_far_below_every_single_tier_is_found_exactly() -> None:
    """The scale comes from a known plan; where that is far too dear, the cut is made again, finer."""
    rng = np.random.default_rng(7)
    count = 40
    cheap = 10 ** rng.uniform(-9, -8, (3, count))
    dear = np.sort(rng.integers(1, count, 2))
    times = cheap.copy()
    times[0, dear[0] :] += 1e3
    times[1, : dear[0]] += 1e3
    times[1, dear[1] :] += 1e3
    times[2, : dear[1]] += 1e3
    problem = Problem(
        tuple(f"v{v}" for v in range(count)),
        {tier: tuple(map(float, times[tier.rank])) for tier in TIERS},
        (1,) * count,
        tuple((v, v + 1) for v in range(count - 1)),
        {"device-edge": LinkRate(1e12, 0.0), "edge-cloud": LinkRate(1e12, 0.0)},
    )
    solution = solve(problem)
    expected = [DEVICE] * dear[0] + [EDGE] * (dear[1] - dear[0]) + [CLOUD] * (count - dear[1])
    assert list(solution.tiers) == expected
    assert solution.cost_s < 1e-6


def test_equal_plans_stay_nearest_the_device() -> None:
    names = tuple("abc")
    problem = Problem(
        names,
        {tier: (0.0, 1.0, 1.0) for tier in TIERS},
        (0, 0, 0),
        ((0, 1), (1, 2)),
        {"device-edge": LinkRate(1e6, 0.0), "edge-cloud": LinkRate(1e6, 0.0)},
    )
    assert solve(problem).tiers == (DEVICE,) * 3


def test_a_tensor_with_many_readers_is_paid_once() -> None:
    """Three slow vertices read one tensor: each alone would not pay its crossing, together they do."""
    problem = Problem(
        ("input", "a", "b", "c", "join"),
        {DEVICE: (0, 1.0, 1.0, 1.0, 0.0), EDGE: (0, 0.1, 0.1, 0.1, 0.0)},
        (200, 0, 0, 0, 0),
        ((0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4)),
        {"device-edge": LinkRate(100.0, 0.0)},
    )
    solution = solve(problem)
    assert solution.tiers == (DEVICE, EDGE, EDGE, EDGE, EDGE)
    assert solution.cost_s == pytest.approx(2.3)
    assert solution.link_bytes == {"device-edge": 200}


# ── properties ────────────────────────────────────────────────────────────────────────────────────

seeds = st.integers(0, 2**32)
sizes = st.integers(1, 40)
brief = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(seed=seeds, size=sizes, direct=st.booleans())
@brief
def test_a_plan_is_monotone_and_never_dearer_than_a_single_tier(
    random_problem: MakeProblem, seed: int, size: int, direct: bool
) -> None:
    problem = make(random_problem, seed, size, direct=direct)
    found = solve(problem)
    check_feasible(problem, found.tiers)
    for tier in problem.tiers:
        assert found.cost_s <= cost_s(problem, all_on(problem, tier)) * (1 + 1e-12)


@given(seed=seeds, size=sizes, power=st.integers(-20, 20), factor=st.floats(1e-3, 1e3))
@brief
def test_scaling_all_costs_changes_nothing(
    random_problem: MakeProblem, seed: int, size: int, power: int, factor: float
) -> None:
    problem = make(random_problem, seed, size)
    found = solve(problem)
    assert solve(scaled(problem, 2.0**power)).tiers == found.tiers, "bit for bit, by a power of two"
    assert solve(scaled(problem, factor)).cost_s == pytest.approx(found.cost_s * factor, rel=1e-6)


def scaled(problem: Problem, factor: float) -> Problem:
    return replace(
        problem,
        times_s={tier: tuple(t * factor for t in times) for tier, times in problem.times_s.items()},
        links={k: LinkRate(r.bytes_per_s / factor, r.latency_s * factor) for k, r in problem.links.items()},
        migration_cost_s=problem.migration_cost_s * factor,
    )


@given(seed=seeds, size=sizes, bytes_per_s=st.floats(1e5, 1e10))
@brief
def test_adding_a_direct_link_never_hurts(
    random_problem: MakeProblem, seed: int, size: int, bytes_per_s: float
) -> None:
    problem = make(random_problem, seed, size)
    more = replace(problem, links=problem.links | {"device-cloud": LinkRate(bytes_per_s, 0.0)})
    more.check("more")
    assert solve(more).cost_s <= solve(problem).cost_s * (1 + 1e-8)


@given(seed=seeds, size=sizes)
@brief
def test_adding_a_tier_never_hurts(random_problem: MakeProblem, seed: int, size: int) -> None:
    problem = make(random_problem, seed, size, pins=False)
    fewer = replace(
        problem,
        times_s={tier: problem.times_s[tier] for tier in (DEVICE, EDGE)},
        links={"device-edge": problem.links["device-edge"]},
        current={},
    )
    fewer.check("fewer")
    assert solve(problem).cost_s <= solve(fewer).cost_s * (1 + 1e-9)


def make(random_problem: MakeProblem, seed: int, size: int, **options: object) -> Problem:
    shape = ("any", "residual", "inception")[seed % 3]
    return random_problem(random.Random(seed), size, shape=shape, **options)


def test_a_hundred_thousand_vertices_in_one_chain_need_no_recursion() -> None:
    count = 100_000
    rng = random.Random(31)
    problem = Problem(
        tuple(f"v{v}" for v in range(count)),
        {tier: (0.0, *(rng.lognormvariate(0, 1) for _ in range(count - 1))) for tier in TIERS},
        (100,) * count,
        tuple((v, v + 1) for v in range(count - 1)),
        {"device-edge": LinkRate(10.0, 0.0), "edge-cloud": LinkRate(10.0, 0.0)},
    )
    found = solve(problem)
    ranks = [tier.rank for tier in found.tiers]
    assert ranks == sorted(ranks)
    # Two cuts through a chain: every pair of places, by sums up to each.
    times = np.array([problem.times_s[tier] for tier in TIERS])
    before = np.concatenate([np.zeros((3, 1)), times.cumsum(axis=1)], axis=1)
    crossing = np.where(np.arange(count + 1) < count, 10.0, 0.0)
    first = (before[0] - before[1] + crossing)[1:]
    second = (before[1] - before[2] + before[2, -1] + crossing)[1:]
    least_s = (first + np.minimum.accumulate(second[::-1])[::-1]).min()
    assert found.cost_s == pytest.approx(least_s, rel=1e-7)
