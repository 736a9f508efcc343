"""Limits as prices: what any plan within the limits costs at least, and good plans on the way.

Decides nothing about limits that a cut could not: each limit (seconds a tier or link may be busy per
frame, bytes of weights on a tier) gets a price per unit, and the cheapest plan at those prices is one
minimum cut again. At any prices that plan's cost, less what the limits are worth, is a lower bound for
all plans within them (Lagrange); the best prices come from a small linear program over the plans found
so far (Kelley's cutting planes). It starts from the cheapest of all pairs of cuts through one order of
the vertices, which are cheap to look through, their costs and loads being sums of two parts.

Only for problems where tensors are relayed (`mincut.relayed`).
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from d3bed.plan.baselines import all_on
from d3bed.plan.ideals import Ideals
from d3bed.plan.mincut import NO_BONDS, Bools, Floats, Ints, Network
from d3bed.plan.problem import Problem
from d3bed.plan.waists import Waists

__all__ = ["SLACK", "Priced", "Rows", "Search"]

#: Relative slack in comparing a sum of floats with a limit; as in `check_limits`.
SLACK = 1e-9
#: At most so many plans are taken from pairs of cuts.
_SEEDS = 12
#: Better prices are not looked for if they promise less than this part of the gap.
_LITTLE = 0.1
#: So many cut positions are looked at in pairs.
_POSITIONS = 256
#: The dearest price of a limit: this many times a plan's cost for as much as the limit again.
_DEAREST = 1e3


class Rows:
    """What each stage has to do, per arc that a plan cuts, in parts of its limit.

    `stages` are tiers and links (seconds of work per frame, in parts of `period_s`), then memory rows
    of tiers (in parts of the limit). `limits` are 1, or 0 for a limit of nothing.
    """

    def __init__(self, problem: Problem, network: Network, period_s: float | None) -> None:
        self.stages: list[str] = []
        rows: list[Floats] = []
        limits: list[float] = []
        count = network.count
        if period_s is not None:
            for tier in problem.tiers:
                row = np.zeros(network.arcs)
                row[tier.rank * count : (tier.rank + 1) * count] = problem.times_s[tier]
                self._add(rows, limits, tier, row, period_s)
            sizes = np.array(problem.output_bytes, dtype=np.float64)
            for link in problem.links:
                row = np.zeros(network.arcs)
                for crossed, arcs, makers in network.crossed:
                    if crossed == link:
                        row[arcs] = sizes[makers] / problem.links[link].bytes_per_s
                self._add(rows, limits, link, row, period_s)
        self.rated = len(rows)
        for tier, limit in problem.memory_bytes.items():
            if tier in problem.times_s:
                row = np.zeros(network.arcs)
                row[tier.rank * count : (tier.rank + 1) * count] = problem.weights
                self._add(rows, limits, tier, row, limit)
        self.loads = np.array(rows).reshape(len(rows), network.arcs)
        self.limits = np.array(limits)

    def metrics(self, network: Network) -> Floats:
        """The rows below one that tells what is forbidden: for plans that cost nothing but loads."""
        return np.vstack([np.where(np.isinf(network.capacity_s), np.inf, 0.0), self.loads])

    def _add(self, rows: list[Floats], limits: list[float], stage: str, row: Floats, limit: float) -> None:
        scale = limit or float(row.max(initial=0.0)) or 1.0
        self.stages.append(stage)
        rows.append(row / scale)
        limits.append(limit / scale)


class Priced:
    """Plans found so far, what each costs and asks of each stage, and the best that keeps all limits."""

    def __init__(self, network: Network, cost_s: Floats, rows: Rows) -> None:
        self.network, self.cost_s, self.rows = network, cost_s, rows
        self.ranks: list[Ints] = []
        self.costs: list[float] = []
        self.loads: list[Floats] = []
        self.best: Ints | None = None
        self.best_s = np.inf

    def add(self, rank: Ints) -> bool:
        """Judge a plan; False if it was known."""
        if any(np.array_equal(rank, known) for known in self.ranks):
            return False
        cut = self.network.cut_by(rank)
        cost = float(self.cost_s[cut].sum())
        if cost < np.inf:
            load = self.rows.loads[:, cut].sum(axis=1)
            self.ranks.append(rank)
            self.costs.append(cost)
            self.loads.append(load)
            if cost < self.best_s and np.all(load <= self.rows.limits * (1 + SLACK)):
                self.best, self.best_s = rank, cost
        return True

    def prices(self) -> tuple[float, Floats]:
        """The best prices over the plans known, and the bound that they would give."""
        loads, costs = np.array(self.loads), np.array(self.costs)
        scale = float(costs.min()) or 1.0
        count = loads.shape[1]
        answer = milp(
            np.array([-1.0, *np.zeros(count)]),
            constraints=LinearConstraint(
                np.column_stack([np.ones(len(loads)), self.rows.limits - loads]), -np.inf, costs / scale
            ),
            bounds=Bounds(
                np.array([-np.inf, *np.zeros(count)]), np.array([np.inf, *np.full(count, _DEAREST)])
            ),
        )
        return float(answer.x[0]) * scale, answer.x[1:] * scale


class Search(Priced):
    """The search for the best prices: `at` them, no plan within the limits costs less than `bound_s`."""

    bound_s = -np.inf
    at: Floats

    def run(self, problem: Problem, gap: float, rounds: int) -> None:
        pairs = _Pairs(problem, self.network, np.vstack([self.cost_s, self.rows.loads]))
        self._seed(problem, pairs)
        for _ in range(rounds):
            promised_s, prices = self.prices()
            capacity = self.cost_s + prices @ self.rows.loads
            credit = float(prices @ self.rows.limits)
            known = min(c + float(prices @ load) for c, load in zip(self.costs, self.loads, strict=True))
            bonds = Waists(problem, self.network, capacity, known).bonds(known) if known > 0 else NO_BONDS
            cut = self.network.cut(capacity, known, bonds)
            new = self.add(cut.rank)
            at_prices = float(capacity[self.network.cut_by(cut.rank)].sum())
            bound_s = min(at_prices, known) - cut.slack_s - credit
            if bound_s > self.bound_s:
                self.bound_s, self.at = bound_s, prices
            if not new or self._enough(promised_s, self.bound_s):
                return
            if self.best is not None and self.best_s - self.bound_s <= gap * self.best_s:
                return

    def _enough(self, promised_s: float, bound_s: float) -> bool:
        """Whether better prices can no longer close much of the gap."""
        return self.best is not None and promised_s - bound_s <= _LITTLE * (self.best_s - bound_s)

    def _seed(self, problem: Problem, pairs: _Pairs) -> None:
        for tier in problem.tiers:
            self.add(np.array([t.rank for t in all_on(problem, tier)]))
        within = pairs.within(self.rows.limits)
        if within is not None:
            self.add(within)
        self.add(pairs.cheapest(np.zeros(len(self.rows.limits))))
        for _ in range(_SEEDS):
            promised_s, prices = self.prices()
            if not self.add(pairs.cheapest(prices)):
                return
            if self._enough(promised_s, self.costs[-1] + float(prices @ (self.loads[-1] - self.rows.limits))):
                return


class _Pairs:
    """All plans that cut one order of the vertices twice."""

    def __init__(self, problem: Problem, network: Network, metrics: Floats) -> None:
        self.sets = Ideals.prefixes(problem, network, metrics, _POSITIONS)
        places = len(self.sets.block)
        self.late = np.arange(places)[:, None] > np.arange(places)[None, :]

    def cheapest(self, prices: Floats) -> Ints:
        weights = np.array([1.0, *prices])
        value = (weights @ self.sets.first)[:, None] + weights @ self.sets.second
        return self._least(value, self.late)

    def within(self, limits: Floats) -> Ints | None:
        """The cheapest that keeps all limits, if any does."""
        wrong = self.late.copy()
        first, second = self.sets.first, self.sets.second
        for row, limit in enumerate(limits, 1):
            wrong |= first[row][:, None] + second[row] > limit * (1 + SLACK)
        return None if wrong.all() else self._least(first[0][:, None] + second[0], wrong)

    def _least(self, value: Floats, wrong: Bools) -> Ints:
        smaller, larger = divmod(int(np.where(wrong, np.inf, value).argmin()), len(value))
        return self.sets.rank(smaller, larger)
