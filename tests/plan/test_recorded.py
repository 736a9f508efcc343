"""Every strategy on the recorded problems: sound plans, and none below the optimum."""

from __future__ import annotations

from pathlib import Path

import pytest

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import Tier
from d3bed.plan import STRATEGIES, Problem, cost_s, solve

FOLDER = Path(__file__).parent / "fixtures"
MIXED = sorted(FOLDER.glob("mixed-*.json"))
FIXTURES = [*sorted(FOLDER.glob("*-wifi.json")), *sorted(FOLDER.glob("*-slow-backbone.json")), *MIXED]


def read(path: Path) -> Problem:
    return Problem.parse(path.read_text(encoding="utf-8"), path.name)


def test_there_are_enough_of_both_kinds() -> None:
    assert len(MIXED) >= 6 and len(FIXTURES) - len(MIXED) == 10


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_every_strategy_plans_soundly(path: Path) -> None:
    problem = read(path)
    least_s = solve(problem).cost_s
    regrets: dict[str, float] = {}
    for strategy in STRATEGIES:
        try:
            solution = solve(problem, strategy)
        except PlanInfeasible as refusal:
            pytest.fail(f"{strategy}: {refusal}")
        # The definition of the cost refuses a plan that is not monotone.
        assert solution.cost_s == pytest.approx(cost_s(problem, solution.tiers), rel=1e-12)
        assert solution.tiers[0] is Tier.DEVICE
        regrets[strategy] = solution.cost_s / least_s
    assert min(regrets.values()) >= 1 - 1e-9
    # What each may choose from includes what the next may.
    assert regrets["optimal"] <= regrets["dads"] * (1 + 1e-9)
    assert regrets["dads"] <= regrets["neurosurgeon"] * (1 + 1e-9)
    assert regrets["neurosurgeon"] <= min(regrets[tier] for tier in Tier) * (1 + 1e-9)


@pytest.mark.parametrize("path", MIXED, ids=lambda path: path.stem)
def test_a_mixed_optimum_is_beyond_any_single_tier(path: Path) -> None:
    problem = read(path)
    best = solve(problem)
    assert len(set(best.tiers)) == 3
    assert best.cost_s < 0.999 * min(solve(problem, tier).cost_s for tier in Tier)
