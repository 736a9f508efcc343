"""The strategies by name, and what comes of one: a new strategy is one module and one line here.

Objectives: `latency`, the least cost of one frame (at the problem's frame rate, if it has one), is what
every strategy plans for. For `throughput`, the most frames per second, some have a plan of their own; of
the others, what their plan sustains can be compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from d3bed.core.errors import ConfigError
from d3bed.core.ids import Tier
from d3bed.plan import baselines
from d3bed.plan.dads import dads, heavy
from d3bed.plan.greedy import hpa_greedy
from d3bed.plan.hpa import hpa
from d3bed.plan.layers import layers
from d3bed.plan.neurosurgeon import fastest_cut, neurosurgeon
from d3bed.plan.optimal import optimal
from d3bed.plan.problem import Problem, cost_s, link_bytes

__all__ = ["STRATEGIES", "Objective", "Solution", "Strategy", "solve"]

Objective = Literal["latency", "throughput"]

#: A strategy: a problem in, the tier of every vertex out. Raises `PlanInfeasible`.
Strategy = Callable[[Problem], tuple[Tier, ...]]

STRATEGIES: dict[str, Strategy] = {
    "optimal": optimal,
    "hpa": hpa,
    "hpa-greedy": hpa_greedy,
    "layers": layers,
    "neurosurgeon": neurosurgeon,
    "dads": dads,
    "device": baselines.device,
    "edge": baselines.edge,
    "cloud": baselines.cloud,
}


def _fastest(problem: Problem) -> tuple[Tier, ...]:
    """The plan that sustains the most frames per second."""
    from d3bed.plan.mix import highest_rate

    return highest_rate(problem)[0]


#: Strategies that plan for throughput in another way.
_THROUGHPUT: dict[str, Strategy] = {"optimal": _fastest, "dads": heavy, "neurosurgeon": fastest_cut}


class Solution(msgspec.Struct, frozen=True):
    """A plan, judged by definition. `link_bytes` counts one frame, its result included. `gap` is how far
    the cost may be above the least, as a part of it; None where nothing is proven.
    """

    strategy: str
    tiers: tuple[Tier, ...]
    cost_s: float
    plan_time_s: float
    link_bytes: dict[str, int]
    gap: float | None = None

    def report(self, problem: Problem) -> dict[str, Any]:
        """What `d3bed plan --json` prints."""
        return {
            "strategy": self.strategy,
            "assignment": {n: t.value for n, t in zip(problem.names, self.tiers, strict=True)},
            "cost_s": self.cost_s,
            "plan_time_s": self.plan_time_s,
            "link_bytes": self.link_bytes,
        }


def solve(problem: Problem, strategy: str = "optimal", objective: Objective = "latency") -> Solution:
    """Plan by the named strategy. Raises `ConfigError` for an unknown one, and `PlanInfeasible`.

    For `throughput` the rate that a problem asks for plays no part.
    """
    plan = STRATEGIES.get(strategy)
    if plan is None:
        known = ", ".join(STRATEGIES)
        raise ConfigError("strategy", strategy, "there is no such strategy", f"known: {known}")
    if objective == "throughput":
        plan = _THROUGHPUT.get(strategy, plan)
        problem = msgspec.structs.replace(problem, rate_per_s=None)
    start_s = time.perf_counter()
    tiers = plan(problem)
    taken_s = time.perf_counter() - start_s
    gap = 0.0 if plan is optimal else None
    return Solution(strategy, tiers, cost_s(problem, tiers), taken_s, link_bytes(problem, tiers), gap)
