"""Which plan wins at which rate of a link.

Decides where the optimal plan changes as one link's rate goes from low to high: rates are tried in
geometric steps, 16 to a factor of ten, and between two rates with different plans, where neither wins
at the other's rate, crossings are searched by bisection. A plan that wins only within one step, between
two rates where another one wins, is not noticed. Of plans that cost the same, the one that won before stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import Tier
from d3bed.plan.baselines import all_on
from d3bed.plan.optimal import optimal
from d3bed.plan.problem import Problem, check_limits, cost_s
from d3bed.plan.solve import solve
from d3bed.plan.whatif import Supposition, suppose

__all__ = ["Band", "Sweep", "sweep"]

_STEPS_PER_DECADE = 16
#: Crossings are found to within this part.
_PRECISION = 1.005
#: Costs that differ by less are equal.
_EQUAL = 1e-9


class Band(msgspec.Struct, frozen=True):
    """Rates from `low` to `high` (bytes/s) at which `tiers` wins; None: no plan keeps the limits.

    `low_cost_s` and `high_cost_s` are its costs at the two ends.
    """

    low: float
    high: float
    tiers: tuple[Tier, ...] | None
    low_cost_s: float | None
    high_cost_s: float | None
    #: The most that the best plan of a single tier costs more, as a part, at both ends and between.
    gain: float | None


class Sweep(msgspec.Struct, frozen=True):
    """`costs_s` per strategy, at each of `rates` (bytes/s); None where it has no plan."""

    link: str
    rates: tuple[float, ...]
    costs_s: dict[str, tuple[float | None, ...]]
    bands: tuple[Band, ...]


def sweep(problem: Problem, link: str, low: float, high: float, strategies: Sequence[str]) -> Sweep:
    """Sweep `link` from `low` to `high` bytes/s (0 < low < high)."""
    steps = max(1, math.ceil(math.log10(high / low) * _STEPS_PER_DECADE))
    rates = tuple(low * (high / low) ** (n / steps) for n in range(steps + 1))
    bands = _Bands(problem, link).between(rates)
    # Costs have their kinks at the crossings.
    rates = tuple(sorted({*rates, *(band.low for band in bands)}))
    costs_s: dict[str, list[float | None]] = {strategy: [] for strategy in strategies}
    for rate in rates:
        at = suppose(problem, Supposition("link", link, rate))
        for strategy, costs in costs_s.items():
            try:
                costs.append(solve(at, strategy).cost_s)
            except PlanInfeasible:
                costs.append(None)
    return Sweep(link, rates, {name: tuple(costs) for name, costs in costs_s.items()}, bands)


class _Bands:
    """Plans that win, by rate."""

    def __init__(self, problem: Problem, link: str) -> None:
        self.problem, self.link = problem, link
        self.best: dict[float, tuple[Tier, ...] | None] = {}

    def at(self, rate: float) -> Problem:
        return suppose(self.problem, Supposition("link", self.link, rate))

    def plan(self, rate: float) -> tuple[Tier, ...] | None:
        if rate not in self.best:
            try:
                self.best[rate] = optimal(self.at(rate))
            except PlanInfeasible:
                self.best[rate] = None
        return self.best[rate]

    def cost_s(self, rate: float, tiers: tuple[Tier, ...] | None) -> float:
        """Infinite where the plan is None or breaks a limit."""
        if tiers is None:
            return math.inf
        problem = self.at(rate)
        try:
            check_limits(problem, tiers)
        except PlanInfeasible:
            return math.inf
        return cost_s(problem, tiers)

    def wins(self, rate: float, tiers: tuple[Tier, ...] | None) -> bool:
        best = self.plan(rate)
        if best is None or tiers is None:
            return best is tiers
        least_s = self.cost_s(rate, best)
        return self.cost_s(rate, tiers) <= least_s * (1 + _EQUAL)

    def between(self, rates: Sequence[float]) -> tuple[Band, ...]:
        edges: list[tuple[float, tuple[Tier, ...] | None]] = [(rates[0], self.plan(rates[0]))]
        for here, there in zip(rates, rates[1:], strict=False):
            self._cross(edges, here, there)
        ends = [rate for rate, _ in edges[1:]] + [rates[-1]]
        return tuple(self._band(low, high, tiers) for (low, tiers), high in zip(edges, ends, strict=True))

    def _cross(self, edges: list[tuple[float, tuple[Tier, ...] | None]], here: float, there: float) -> None:
        """Add the crossings between two rates to `edges`, whose last plan wins `here`."""
        if self.wins(there, edges[-1][1]):
            return
        if there / here <= _PRECISION:
            edges.append((there, self.plan(there)))
            return
        middle = math.sqrt(here * there)
        self._cross(edges, here, middle)
        self._cross(edges, middle, there)

    def _band(self, low: float, high: float, tiers: tuple[Tier, ...] | None) -> Band:
        if tiers is None:
            return Band(low, high, None, None, None, None)
        gains = []
        for rate in (low, math.sqrt(low * high), high):
            single = min(self.cost_s(rate, all_on(self.problem, tier)) for tier in self.problem.tiers)
            mine = self.cost_s(rate, tiers)
            if mine < math.inf:
                gains.append(single / mine - 1 if mine > 0 else 0.0)
        return Band(
            low, high, tiers, self._finite(low, tiers), self._finite(high, tiers), max(gains, default=None)
        )

    def _finite(self, rate: float, tiers: tuple[Tier, ...]) -> float | None:
        found = self.cost_s(rate, tiers)
        return found if found < math.inf else None
