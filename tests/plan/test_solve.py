from __future__ import annotations

import subprocess
import sys

import pytest

from d3bed.core.errors import ConfigError
from d3bed.core.ids import TIERS, Tier
from d3bed.core.measurements import LinkRate
from d3bed.plan import STRATEGIES, Problem, cost_s, solve

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
