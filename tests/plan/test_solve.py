from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from d3bed.core.errors import ConfigError, PlanInfeasible
from d3bed.core.ids import TIERS, Tier
from d3bed.core.measurements import LinkRate
from d3bed.plan import STRATEGIES, Problem, cost_s, loads_s, solve

PROBLEM = Problem(
    ("input", "a", "b"),
    {Tier.DEVICE: (0, 1.0, 1.0), Tier.EDGE: (0, 0.1, 0.1)},
    (100, 50, 10),
    ((0, 1), (1, 2)),
    {"device-edge": LinkRate(1000.0, 0.01)},
    result_bytes=10,
)


def test_a_report_has_exactly_the_published_keys() -> None:
    solution = solve(PROBLEM)
    report = solution.report(PROBLEM)
    assert solution.plan_time_s > 0
    assert report == {
        "strategy": "optimal",
        "assignment": {"input": "device", "a": "edge", "b": "edge"},
        "cost_s": pytest.approx(0.2 + 0.11 + 0.02),
        "plan_time_s": solution.plan_time_s,
        "link_bytes": {"device-edge": 110},
    }
    assert type(report["assignment"]["a"]) is str


def test_every_solution_is_judged_by_definition() -> None:
    for strategy in ("optimal", "device", "edge"):
        solution = solve(PROBLEM, strategy)
        assert solution.strategy == strategy
        assert solution.cost_s == cost_s(PROBLEM, solution.tiers)


def test_throughput_is_the_highest_rate_whatever_rate_is_asked_for() -> None:
    """One heavy vertex: the edge alone answers 5 frames in a second, the device less."""
    asked = msgspec.structs.replace(PROBLEM, rate_per_s=1e9)
    with pytest.raises(PlanInfeasible):
        solve(asked)
    fastest = solve(asked, "optimal", "throughput")
    rates = {
        strategy: 1 / max(loads_s(PROBLEM, solve(PROBLEM, strategy, "throughput").tiers).values())
        for strategy in STRATEGIES
        if strategy != "cloud"  # There is none.
    }
    assert 1 / max(loads_s(PROBLEM, fastest.tiers).values()) == max(rates.values())
    assert rates["device"] < rates["optimal"]
    assert solve(PROBLEM, "hpa", "throughput").tiers == solve(PROBLEM, "hpa").tiers


def test_an_unknown_strategy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="optimol.*known: optimal, .*device, edge, cloud"):
        solve(PROBLEM, "optimol")
    assert {"optimal", *TIERS} <= set(STRATEGIES)


def test_planning_needs_neither_torch_nor_asyncio_and_loads_scipy_late() -> None:
    script = """
import sys
sys.modules["torch"] = sys.modules["asyncio"] = None
import d3bed.plan
print("scipy" in sys.modules, "numpy" in sys.modules)
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "False"]
