"""Exactness with all options, against all plans of small graphs and against MILP on larger ones."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import TIERS, Tier
from d3bed.core.measurements import LinkRate
from d3bed.plan import Problem, check_limits, cost_s, loads_s, solve
from d3bed.plan.ideals import Ideals
from d3bed.plan.limits import within_limits
from d3bed.plan.milp import mixed_integer, relaxed
from d3bed.plan.mincut import Network, relayed
from d3bed.plan.mix import highest_rate
from d3bed.plan.optimal import optimal, proven

MakeProblem = Callable[..., Problem]
Judge = Callable[[Problem], Any]

DEVICE, EDGE, CLOUD = TIERS


def limited(rng: random.Random, problem: Problem, highest_per_s: float, memory: bool, rate: bool) -> Problem:
    """Limits that often bind and sometimes leave no plan."""
    if memory:
        total = sum(problem.weight_bytes)
        some = rng.sample(problem.tiers, rng.randint(1, len(problem.tiers)))
        limits = {tier: float(round(total * rng.uniform(0.2, 0.9))) for tier in TIERS if tier in some}
        problem = replace(problem, memory_bytes=limits)
    if rate:
        problem = replace(problem, rate_per_s=highest_per_s * rng.uniform(0.4, 1.02))
    return problem


def test_optimal_equals_all_plans_of_1000_random_graphs_with_every_option(
    random_problem: MakeProblem, everything: Judge
) -> None:
    rng = random.Random(11)
    options = list(itertools.product([False, True], repeat=4))  # direct link, pins, memory, rate
    used, infeasible, counts = set[frozenset[Tier]](), 0, Counter[str]()
    for number in range(1008):
        direct, pins, memory, rate = options[number % len(options)]
        count = 10 if number % 11 == 0 else rng.randint(2, 8)
        shape = rng.choice(["any", "residual", "inception"])
        problem = random_problem(rng, count, shape=shape, direct=direct, pins=pins)
        # Of those with pins, most have tiers forbidden and a plan in force as well.
        while pins and number % 3 and not (problem.allowed and problem.current):
            problem = random_problem(rng, count, shape=shape, direct=direct, pins=pins)
        plans = everything(problem)
        longest_s = np.max(list(plans.loads_s.values()), axis=0).min()
        problem = limited(rng, problem, 1 / longest_s, memory, rate)
        problem.check("random")
        fits = plans.fits(problem)
        if not fits.any():
            infeasible += 1
            with pytest.raises(PlanInfeasible):
                optimal(problem)
            continue
        tiers = optimal(problem)
        check_limits(problem, tiers)
        best_s = plans.cost_s[fits].min()
        assert cost_s(problem, tiers) == pytest.approx(best_s, rel=1e-8), number
        (found,) = np.flatnonzero((plans.ranks == [tier.rank for tier in tiers]).all(axis=1))
        assert plans.cost_s[found] == pytest.approx(best_s, rel=1e-8)
        used.add(frozenset(tiers[1:]))
        counts.update(options_of(problem))
        counts["a limit binds"] += plans.cost_s.min() < best_s * (1 - 1e-9)
    assert len(used) == 7, "optima of every kind"
    assert 30 < infeasible < 400
    assert min(counts[option] for option in OPTIONS) > 150, counts
    assert counts["a limit binds"] > 100
    assert counts["everything"] > 5, "all of it in one problem"


OPTIONS = ("result", "latency", "direct link pays", "migration", "allowed tiers", "memory", "rate")


def options_of(problem: Problem) -> list[str]:
    """What of the problem's options is used by this one, and says something."""
    used = (
        problem.result_bytes > 0,
        any(rate.latency_s > 0 for rate in problem.links.values()),
        not relayed(problem),
        bool(problem.current) and problem.migration_cost_s > 0,
        bool(problem.allowed),
        bool(problem.memory_bytes),
        problem.rate_per_s is not None,
    )
    found = [option for option, here in zip(OPTIONS, used, strict=True) if here]
    return found + (["everything"] if all(used) else []) + (["both limits"] if all(used[-2:]) else [])


def test_a_gap_asked_for_is_kept_and_honest(random_problem: MakeProblem, everything: Judge) -> None:
    rng = random.Random(12)
    inexact = 0
    for number in range(150):
        problem = random_problem(rng, rng.randint(4, 8), direct=number % 3 == 0)
        plans = everything(problem)
        longest_s = np.max(list(plans.loads_s.values()), axis=0).min()
        problem = limited(rng, problem, 1 / longest_s, number % 2 == 0, number % 4 < 3)
        fits = plans.fits(problem)
        if not fits.any():
            continue
        best_s = plans.cost_s[fits].min()
        found = proven(problem, 0.1)
        check_limits(problem, found.tiers)
        assert found.cost_s == cost_s(problem, found.tiers)
        assert found.bound_s <= best_s * (1 + 1e-8)
        assert found.gap <= 0.1 + 1e-9
        inexact += found.cost_s > best_s * (1 + 1e-8)
    assert inexact > 0, "or the gap was never used"


@pytest.mark.parametrize("kind", ["memory", "rate", "both"])
@pytest.mark.parametrize("shape", ["residual", "inception"])
def test_limits_on_networks_are_met_exactly_without_the_solver(
    random_problem: MakeProblem, kind: str, shape: str
) -> None:
    rng = random.Random(f"{kind} {shape}")
    tight = 0
    for number in range(3):
        problem = random_problem(rng, rng.randint(80, 130), shape=shape)
        free = solve(problem)
        if kind != "rate":
            total = sum(problem.weight_bytes)
            problem = replace(problem, memory_bytes={tier: total * 0.5 for tier in TIERS})
        if kind != "memory":
            longest_s = max(loads_s(problem, free.tiers).values())
            problem = replace(problem, rate_per_s=1 / (longest_s * 0.9))
        try:
            best_s = cost_s(problem, mixed_integer(problem))
        except PlanInfeasible:
            continue
        found = within_limits(problem)
        assert found is not None
        tiers, bound_s = found
        check_limits(problem, tiers)
        assert cost_s(problem, tiers) == pytest.approx(best_s, rel=1e-7), number
        assert bound_s == pytest.approx(best_s, rel=1e-7)
        tight += best_s > free.cost_s * (1 + 1e-6)
    assert tight > 0


def test_on_wide_graphs_the_bound_holds_and_the_solver_closes_the_gap(random_problem: MakeProblem) -> None:
    rng = random.Random(14)
    open_gaps = 0
    for _ in range(3):
        problem = random_problem(rng, 40)
        total = sum(problem.weight_bytes)
        problem = replace(problem, memory_bytes={tier: total * 0.45 for tier in TIERS})
        try:
            best_s = cost_s(problem, mixed_integer(problem))
        except PlanInfeasible:
            continue
        found = within_limits(problem)
        assert found is not None
        tiers, bound_s = found
        assert bound_s <= best_s * (1 + 1e-8) <= cost_s(problem, tiers) * (1 + 2e-8)
        open_gaps += bound_s < cost_s(problem, tiers) * (1 - 1e-6)
        exact = proven(problem)
        assert exact.cost_s == pytest.approx(best_s, rel=1e-7)
        assert exact.gap <= 1e-9
    assert open_gaps > 0


def test_a_direct_link_mostly_needs_no_integers(random_problem: MakeProblem) -> None:
    rng = random.Random(15)
    exact = 0
    for _ in range(8):
        problem = random_problem(rng, 100, shape="inception", direct=True)
        best_s = cost_s(problem, mixed_integer(problem))
        found = relaxed(problem)
        assert found is not None
        tiers, bound_s = found
        assert bound_s <= best_s * (1 + 1e-8) <= cost_s(problem, tiers) * (1 + 2e-8)
        exact += cost_s(problem, tiers) <= bound_s * (1 + 1e-8)
    assert exact >= 6


def test_sets_are_all_plans_and_add_up_to_their_cost(random_problem: MakeProblem, everything: Judge) -> None:
    rng = random.Random(16)
    for number in range(60):
        problem = random_problem(rng, rng.randint(1, 7), shape=("any", "inception")[number % 2])
        assert relayed(problem)
        network = Network(problem)
        ideals = Ideals.all(problem, network, network.capacity_s[None, :])
        assert ideals is not None
        costs = {}
        for smaller, larger in itertools.product(range(len(ideals.block)), repeat=2):
            if ideals.nested(smaller, larger):
                cost = ideals.first[0, smaller] + ideals.second[0, larger]
                costs[tuple(ideals.rank(smaller, larger).tolist())] = cost
        plans = everything(problem)
        for rank, expected_s in zip(plans.ranks.tolist(), plans.cost_s, strict=True):
            assert costs[tuple(rank)] == pytest.approx(expected_s, rel=1e-9), number
        allowed = sum(cost <= plans.cost_s.max() * 2 for cost in costs.values())
        assert allowed == len(plans.ranks), "what may not be costs far more"


def test_sets_of_stretches_that_are_out_of_question_are_left_out_and_no_others(
    random_problem: MakeProblem, everything: Judge
) -> None:
    rng = random.Random(19)
    every = fewer = 0
    for number in range(60):
        problem = random_problem(rng, rng.randint(8, 11), shape="residual")
        network = Network(problem)
        metrics = network.capacity_s[None, :]
        plans = everything(problem)
        ceiling = float(plans.cost_s.min()) * rng.uniform(1.0, 1.2)
        whole = Ideals.all(problem, network, metrics)
        some = Ideals.all(problem, network, metrics, np.ones(1), ceiling)
        assert whole is not None and some is not None
        every, fewer = every + len(whole.block), fewer + len(some.block)
        pairs = some.below(np.ones(1), ceiling * (1 + 1e-12), np.full(1, np.inf))
        assert pairs is not None
        found = {tuple(some.rank(a, b).tolist()) for a, b in zip(*pairs, strict=True) if some.nested(a, b)}
        assert found >= set(map(tuple, plans.ranks[plans.cost_s <= ceiling].tolist())), number
    assert fewer < 0.8 * every


def test_a_graph_with_too_many_sets_is_refused(random_problem: MakeProblem) -> None:
    problem = random_problem(random.Random(17), 40, shape="any", pins=False)
    fan = tuple((0, v) for v in range(1, 40))
    wide = replace(problem, edges=fan)
    network = Network(wide)
    assert Ideals.all(wide, network, network.capacity_s[None, :]) is None


def test_nothing_fits_and_the_tier_is_named() -> None:
    problem = Problem(
        ("input", "a"),
        {DEVICE: (0.0, 1.0)},
        (1, 1),
        ((0, 1),),
        {},
        weight_bytes=(0, 100),
        memory_bytes={DEVICE: 10.0},
    )
    with pytest.raises(PlanInfeasible, match="90 bytes more would do") as caught:
        proven(problem)
    assert caught.value.binding == "device"


def test_numbers_of_all_sizes_with_memory_limits(random_problem: MakeProblem, everything: Judge) -> None:
    """Nothing, picoseconds and weeks side by side: what sums lose must not be taken for a proof."""
    rng = random.Random(18)
    times_s, latencies_s, rates = (
        [0, 0, 1e-12, 1e-6, 1e-3, 1, 2, 1e6],
        [0, 0, 1e-9, 1, 1e3],
        [1, 1e3, 1e9, 1e15],
    )
    for number in range(80):
        base = random_problem(rng, rng.randint(2, 6))
        total = sum(base.weight_bytes)
        problem = replace(
            base,
            times_s={tier: tuple(rng.choice(times_s) for _ in base.names) for tier in TIERS},
            output_bytes=tuple(rng.choice([0, 1, 1000, 10**9]) for _ in base.names),
            links={k: LinkRate(rng.choice(rates), rng.choice(latencies_s)) for k in base.links},
            memory_bytes={tier: float(round(total * rng.uniform(0.4, 0.9))) for tier in TIERS},
        )
        plans = everything(problem)
        fits = plans.fits(problem)
        if not fits.any():
            continue
        assert solve(problem).cost_s == pytest.approx(plans.cost_s[fits].min(), rel=1e-8, abs=0), number
        longest_s = np.max(list(plans.loads_s.values()), axis=0)[fits].min()
        assert 1 / highest_rate(problem)[1] == pytest.approx(longest_s, rel=2e-5, abs=0), number
