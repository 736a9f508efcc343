"""The highest frame rate: of one plan, and of a mix of plans.

A stream is bounded by its busiest stage, tier or link (a result's way back runs against the stream and
is not counted). `highest_rate` finds the one plan whose busiest stage is least busy. In a mix, frames
take several plans in fixed shares, so that tiers and links that one plan leaves idle work too:
`best_mix` finds the best by a linear program over plans, whose columns are made as needed: the
program's duals are prices for a second of each stage's work, and the cheapest plan at these prices is
a minimum cut. If no plan is cheaper than what the mix pays for a frame, no mix is faster.

Latency, migration and the rate that a problem asks for play no part; pins and memory limits do. All
plans of a mix are loaded at the same time, so they have to fit together.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from scipy.optimize import linprog

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import TIERS, Tier
from d3bed.plan.baselines import all_on
from d3bed.plan.ideals import Ideals
from d3bed.plan.milp import cheapest_at, least_longest
from d3bed.plan.mincut import Floats, Network, relayed
from d3bed.plan.optimal import optimal
from d3bed.plan.prices import SLACK, Rows
from d3bed.plan.problem import Problem, check_limits, loads_s

__all__ = ["Mix", "best_mix", "highest_rate"]

#: A plan this much cheaper than the mix, relatively, is worth another column.
_WORTH = 1e-5
#: A share below this is rounding.
_SHARE = 1e-9
#: A stage so many times busier than need be rules a plan out of any mix, or as good as that.
_USELESS = 1e6
#: So many places of a cut are looked at in pairs.
_PLACES = 256


class Mix(msgspec.Struct, frozen=True):
    """Plans, the share of frames that takes each (adding up to 1), and the frames per second of all.

    No mix sustains more than `bound_per_s`; the best of single plans sustains `single_per_s`.
    """

    plans: tuple[tuple[Tier, ...], ...]
    shares: tuple[float, ...]
    rate_per_s: float
    bound_per_s: float
    single_per_s: float

    @property
    def gain(self) -> float:
        """How many times the frame rate of the best single plan."""
        return self.rate_per_s / self.single_per_s if math.isfinite(self.single_per_s) else 1.0


def highest_rate(problem: Problem) -> tuple[tuple[Tier, ...], float]:
    """The plan that sustains the most frames per second (infinite where nothing takes time), and how many.

    Raises `PlanInfeasible` if memory leaves no plan.
    """
    stream = _Stream(problem)
    stream.mix()
    tiers = stream.best_single()
    return tiers, _rate(max(stream.load_s(tiers)))


def best_mix(problem: Problem, *, single: bool = True) -> Mix:
    """The mix that sustains the most frames per second. Raises `PlanInfeasible` if memory leaves no plan.

    The best single plan may take seconds to find; without `single`, and where memory is no matter, it is the
    best of those met on the way.
    """
    stream = _Stream(problem)
    period_s, shares = stream.mix()
    alone = stream.best_single() if single or problem.memory_bytes else stream.best_known()
    single_s = float(max(stream.load_s(alone)))
    used = [number for number, share in enumerate(shares) if share > _SHARE]
    plans = tuple(stream.plans[number] for number in used)
    if single_s <= period_s * (1 + _WORTH) or not _fit_together(problem, plans):
        plans, mixed, period_s = (alone,), np.ones(1), single_s
    else:
        mixed = shares[used] / shares[used].sum()
        period_s = float(max(mixed @ np.array([stream.load_s(plan) for plan in plans])))
    return Mix(plans, tuple(mixed.tolist()), _rate(period_s), _rate(stream.bound_s), _rate(single_s))


def _rate(period_s: float) -> float:
    return 1 / float(period_s) if period_s > 0 else math.inf


def _fit_together(problem: Problem, plans: tuple[tuple[Tier, ...], ...]) -> bool:
    """Whether the weights of all plans fit each tier at the same time."""
    for tier, limit in problem.memory_bytes.items():
        needed = {v for plan in plans for v, on in enumerate(plan) if on is tier}
        if sum(problem.weights[v] for v in needed) > limit * (1 + SLACK):
            return False
    return True


class _Stream:
    """Plans as columns of the linear program, and the best prices found. `bound_s` is proven: at any
    mix, the busiest stage works at least so long per frame.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = msgspec.structs.replace(problem, rate_per_s=None)
        self.stages = [*(tier.value for tier in problem.tiers), *problem.links]
        self.plans: list[tuple[Tier, ...]] = []
        self.loads: list[Floats] = []
        self.bound_s = 0.0
        self.prices: Floats = np.full(len(self.stages), 1 / len(self.stages))
        self.by_cut = relayed(problem) and not problem.memory_bytes
        self.network = Network(problem) if relayed(problem) else None
        self.rows = Rows(self.problem, self.network, 1.0) if self.network is not None else None
        for tier in problem.tiers:
            tiers = all_on(problem, tier)
            try:
                check_limits(self.problem, tiers)
            except PlanInfeasible:
                continue
            self._add(tiers)
        if not self.plans:
            self._add(optimal(self.problem))

    def load_s(self, tiers: tuple[Tier, ...]) -> Floats:
        """Seconds of work per stage and frame."""
        loads = loads_s(self.problem, tiers)
        return np.array([loads[stage] for stage in self.stages])

    def _add(self, tiers: tuple[Tier, ...]) -> bool:
        if tiers in self.plans:
            return False
        self.plans.append(tiers)
        self.loads.append(self.load_s(tiers))
        return True

    def mix(self) -> tuple[float, Floats]:
        """The least busy busiest stage, in seconds per frame, and the share of each plan."""
        while True:
            period_s, shares, prices = self._master()
            if period_s <= 0:
                return period_s, shares
            tiers, least_s = self._cheapest(prices)
            if least_s > self.bound_s:
                self.bound_s, self.prices = least_s, prices
            if period_s - least_s <= _WORTH * period_s or not self._add(tiers):
                self.bound_s = min(self.bound_s, period_s)
                return period_s, shares

    def _master(self) -> tuple[float, Floats, Floats]:
        """The best mix of the plans known: seconds per frame, shares, and the price of each stage."""
        loads = np.array(self.loads).T
        scale = float(loads.max(axis=0).min()) or 1.0
        stages, plans = loads.shape
        answer = linprog(
            np.array([*np.zeros(plans), 1.0]),
            A_ub=np.column_stack([np.minimum(loads / scale, _USELESS), np.full(stages, -1.0)]),
            b_ub=np.zeros(stages),
            A_eq=np.array([[*np.ones(plans), 0.0]]),
            b_eq=np.ones(1),
            method="highs",
        )
        prices = np.maximum(-answer.ineqlin.marginals, 0.0)
        total = float(prices.sum())
        if total <= 0:
            prices, total = np.ones(stages), float(stages)
        return float(answer.fun) * scale, answer.x[:-1], prices / total

    def _cheapest(self, prices: Floats) -> tuple[tuple[Tier, ...], float]:
        """The cheapest plan at these prices, and what no plan costs less than."""
        known_s = min(float(prices @ load) for load in self.loads)
        if self.network is None or self.rows is None or not self.by_cut:
            tiers = cheapest_at(self.problem, dict(zip(self.stages, prices.tolist(), strict=True)))
            return tiers, min(known_s, float(prices @ self.load_s(tiers)))
        network, rows = self.network, self.rows
        capacity_s = np.where(np.isinf(network.capacity_s), np.inf, prices @ rows.loads)
        if known_s <= 0:
            return self.plans[0], 0.0
        cut = network.cut(capacity_s, known_s)
        found_s = float(capacity_s[network.cut_by(cut.rank)].sum())
        return cut.tiers, min(found_s, known_s) - cut.slack_s

    def best_known(self) -> tuple[Tier, ...]:
        """The plan whose busiest stage is least busy of those that are columns, or cut one order twice."""
        best = min(range(len(self.plans)), key=lambda number: float(max(self.loads[number])))
        if max(self.loads[best]) - self.bound_s > _WORTH * max(self.loads[best]):
            near = self._two_cuts()
            if near is not None and self._add(near) and max(self.loads[-1]) < max(self.loads[best]):
                best = len(self.plans) - 1
        return self.plans[best]

    def best_single(self) -> tuple[Tier, ...]:
        """The plan whose busiest stage is least busy; after `mix`, of which it needs the prices."""
        best = self.plans.index(self.best_known())
        period_s = float(max(self.loads[best]))
        if period_s - self.bound_s <= _WORTH * period_s:
            return self.plans[best]
        found = self._look_through(period_s)
        if found is None:
            found = least_longest(self.problem, period_s)
        return found if max(self.load_s(found)) < period_s else self.plans[best]

    def _two_cuts(self) -> tuple[Tier, ...] | None:
        """A good plan to start from: the best of those that cut one order of the vertices twice."""
        network, rows = self.network, self.rows
        if network is None or rows is None:
            return None
        sets = Ideals.prefixes(self.problem, network, rows.metrics(network), _PLACES)
        longest_s = np.tril(np.full((len(sets.block), len(sets.block)), np.inf), -1)
        # What is forbidden costs more than all loads together.
        ceilings = [float(rows.loads.sum()), *np.full(rows.rated, np.inf), *rows.limits[rows.rated :]]
        for row, limit in enumerate(ceilings):
            load = sets.first[row][:, None] + sets.second[row]
            longest_s[load > limit * (1 + SLACK)] = np.inf
            if 0 < row <= rows.rated:
                longest_s = np.maximum(longest_s, load)
        smaller, larger = divmod(int(longest_s.argmin()), len(longest_s))
        if not np.isfinite(longest_s[smaller, larger]):
            return None
        return tuple(TIERS[rank] for rank in sets.rank(smaller, larger).tolist())

    def _look_through(self, period_s: float) -> tuple[Tier, ...] | None:
        """The best of all plans that the prices do not exclude; None where they are too many to see."""
        network, rows = self.network, self.rows
        if network is None or rows is None:
            return None
        prices = np.zeros(len(rows.stages) + 1)
        prices[: len(self.stages) + 1] = [1.0, *self.prices]
        ideals = Ideals.all(self.problem, network, rows.metrics(network), prices, period_s)
        if ideals is None:
            return None
        limits = np.full(len(prices), period_s)
        limits[0], limits[len(self.stages) + 1 :] = np.inf, rows.limits[len(self.stages) :] * (1 + SLACK)
        pairs = ideals.below(prices, period_s, limits)
        if pairs is None:
            return None
        smaller, larger = pairs
        longest_s = np.zeros(len(smaller))
        fits = np.ones(len(smaller), dtype=bool)
        for row in range(1, len(prices)):
            load = ideals.first[row, smaller] + ideals.second[row, larger]
            if row <= len(self.stages):
                longest_s = np.maximum(longest_s, load)
            else:
                fits &= load <= rows.limits[row - 1] * (1 + SLACK)
        # `below` excludes what is not allowed: that costs more than any period.
        candidates = np.flatnonzero(fits & (longest_s < period_s))
        for number in candidates[np.argsort(longest_s[candidates])]:
            if ideals.nested(smaller[number], larger[number]):
                rank = ideals.rank(smaller[number], larger[number])
                return tuple(TIERS[r] for r in rank.tolist())
        return self.plans[min(range(len(self.plans)), key=lambda number: max(self.loads[number]))]
