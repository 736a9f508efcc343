from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from scipy.optimize import linprog

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import TIERS, Tier
from d3bed.core.measurements import LinkRate
from d3bed.plan import Problem, check_limits, loads_s
from d3bed.plan.mix import best_mix, highest_rate
from d3bed.plan.problem import most_per_s

MakeProblem = Callable[..., Problem]
Judge = Callable[[Problem], Any]

DEVICE, EDGE, CLOUD = TIERS


def least_period_s(loads: np.ndarray[Any, Any]) -> float:
    """The best mix of all plans; `loads` [plans, stages] in seconds."""
    plans, stages = loads.shape
    answer = linprog(
        [*np.zeros(plans), 1.0],
        A_ub=np.column_stack([loads.T, -np.ones(stages)]),
        b_ub=np.zeros(stages),
        A_eq=[[*np.ones(plans), 0.0]],
        b_eq=[1.0],
    )
    return float(answer.fun)


def test_rate_and_mix_equal_all_plans_of_random_graphs(
    random_problem: MakeProblem, everything: Judge
) -> None:
    rng = random.Random(21)
    gains = []
    for number in range(120):
        tiers = TIERS if number % 5 else rng.choice([(DEVICE, CLOUD), (DEVICE, EDGE)])
        problem = random_problem(rng, rng.randint(2, 7), direct=number % 3 == 0, tiers=tiers)
        plans = everything(problem)
        loads = np.array(list(plans.loads_s.values())).T * 1e3  # ms: HiGHS compares in absolute terms
        single_s, mixed_s = loads.max(axis=1).min() / 1e3, least_period_s(loads) / 1e3
        found, rate_per_s = highest_rate(problem)
        assert rate_per_s == pytest.approx(1 / single_s, rel=2e-5), number
        assert max(loads_s(problem, found).values()) == pytest.approx(1 / rate_per_s)
        mix = best_mix(problem)
        assert mix.rate_per_s == pytest.approx(1 / mixed_s, rel=2e-5), number
        assert mix.rate_per_s <= mix.bound_per_s * (1 + 1e-9)
        assert mix.bound_per_s == pytest.approx(1 / mixed_s, rel=2e-5)
        assert mix.rate_per_s <= most_per_s(problem) * (1 + 1e-9)
        assert mix.single_per_s == pytest.approx(rate_per_s)
        quick = best_mix(problem, single=False)
        assert quick.rate_per_s == pytest.approx(mix.rate_per_s, rel=2e-5)
        assert quick.single_per_s <= mix.single_per_s * (1 + 1e-9)
        gains.append(mix.gain)
    assert min(gains) > 1 - 2e-5
    assert sum(gain > 1.05 for gain in gains) > 48, "mixes often pay"


def test_shares_add_up_and_keep_every_stage_within_the_rate(random_problem: MakeProblem) -> None:
    rng = random.Random(22)
    for _ in range(10):
        problem = random_problem(rng, 60, shape="inception")
        mix = best_mix(problem)
        assert sum(mix.shares) == pytest.approx(1)
        assert min(mix.shares) > 0
        assert len(set(mix.plans)) == len(mix.plans) == len(mix.shares)
        busy = {stage: 0.0 for stage in loads_s(problem, mix.plans[0])}
        for plan, share in zip(mix.plans, mix.shares, strict=True):
            for stage, load_s in loads_s(problem, plan).items():
                busy[stage] += share * load_s
        assert max(busy.values()) * mix.rate_per_s == pytest.approx(1)


def test_two_tiers_at_once() -> None:
    """One heavy vertex: alone on either tier 1 and 2 frames/s, in turn on both 3 frames/s."""
    problem = Problem(
        ("input", "heavy"),
        {DEVICE: (0.0, 1.0), EDGE: (0.0, 0.5)},
        (1, 1),
        ((0, 1),),
        {"device-edge": LinkRate(1e6, 0.0)},
    )
    tiers, rate_per_s = highest_rate(problem)
    assert tiers == (DEVICE, EDGE)
    assert rate_per_s == pytest.approx(2)
    mix = best_mix(problem)
    assert dict(zip(mix.plans, mix.shares, strict=True)) == pytest.approx(
        {(DEVICE, DEVICE): 1 / 3, (DEVICE, EDGE): 2 / 3}, rel=1e-4
    )
    assert mix.gain == pytest.approx(1.5, rel=1e-4)


def test_the_plans_of_a_mix_fit_together(random_problem: MakeProblem, everything: Judge) -> None:
    rng = random.Random(23)
    mixed = refused = 0
    for _ in range(60):
        problem = random_problem(rng, rng.randint(2, 6))
        total = sum(problem.weight_bytes)
        limits = {tier: float(round(total * rng.uniform(0.3, 1.1))) for tier in TIERS}
        problem = replace(problem, memory_bytes=limits)
        plans = everything(problem)
        fits = plans.fits(problem)
        if not fits.any():
            refused += 1
            with pytest.raises(PlanInfeasible, match="memory_bytes"):
                best_mix(problem)
            continue
        single_s = np.max(list(plans.loads_s.values()), axis=0)[fits].min()
        mix = best_mix(problem)
        assert mix.single_per_s == pytest.approx(1 / single_s, rel=2e-5)
        assert mix.single_per_s <= mix.rate_per_s * (1 + 1e-9) <= mix.bound_per_s * (1 + 2e-9)
        for plan in mix.plans:
            check_limits(problem, plan)
        for tier, limit in limits.items():
            loaded = {v for plan in mix.plans for v, on in enumerate(plan) if on is tier}
            assert sum(problem.weight_bytes[v] for v in loaded) <= limit
        mixed += len(mix.plans) > 1
    assert mixed > 5
    assert refused > 0


def test_where_nothing_takes_time_the_rate_is_infinite() -> None:
    idle = Problem(("input", "a"), {Tier.DEVICE: (0.0, 0.0)}, (1, 1), ((0, 1),), {})
    tiers, rate_per_s = highest_rate(idle)
    assert tiers == (DEVICE, DEVICE)
    assert rate_per_s == math.inf
    mix = best_mix(idle)
    assert (mix.plans, mix.shares, mix.rate_per_s, mix.gain) == ((tiers,), (1.0,), math.inf, 1.0)


def test_the_rate_asked_for_does_not_matter(random_problem: MakeProblem) -> None:
    problem = random_problem(random.Random(24), 30, shape="residual")
    asked = replace(problem, rate_per_s=1e9)
    assert highest_rate(asked) == highest_rate(problem)
    assert best_mix(asked) == best_mix(problem)
