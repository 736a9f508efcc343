"""The cheapest plan as a mixed-integer program (HiGHS), for what a minimum cut cannot express.

Variables: per vertex `x` (beyond the device) and `y` (in the cloud), `y ≤ x`; per producer and link
whether its tensor crosses; whether the result is made beyond the device, and in the cloud. Rules:
monotone along edges; a crossing is at least what any consumer asks for; the way of a tensor from
device to cloud is the cheaper one, as the cost's definition has it, and not a matter of choice (a
rate limit could otherwise buy a dearer way). Memory and rate limits are one row a tier or link.

If limits leave no plan, the same rows are solved again for the least that would have to give: bytes
of memory, or the longest time that a stage is busy per frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp
from scipy.sparse import csr_array

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import TIERS, Tier
from d3bed.plan.problem import (
    DEVICE_CLOUD,
    DEVICE_EDGE,
    EDGE_CLOUD,
    Problem,
    check_limits,
    cost_s,
    loads_s,
    result_way,
    round_down,
    tensor_ways,
)

__all__ = ["cheapest_at", "least_longest", "mixed_integer", "relaxed"]

#: HiGHS compares in absolute terms (1e-6): costs and limits are scaled up to this many units.
_UNITS = 1e4
#: A plan so many times cheaper than what costs were scaled by deserves a finer scale.
_COARSE = 64
#: As in the cut: an element that costs so many times a known plan is in no better one.
_DEARER = 1.01
#: A stage this many times busier than need be is in no better plan.
_TOO_BUSY = 1e3
#: At so many values, at most, a solution without integrality is rounded.
_ROUNDINGS = 8
#: A plan so little dearer than the bound, relatively, is taken for the best.
_INTEGRAL = 1e-8

Floats = NDArray[np.float64]


def mixed_integer(problem: Problem, bound_s: float | None = None, gap: float = 0.0) -> tuple[Tier, ...]:
    """An optimal plan, or one within `gap`; `bound_s` is the cost of any feasible plan, if one is known.

    Raises `PlanInfeasible`, which names the stage that binds.
    """
    program = _Program(problem, bound_s)
    found = program.solve(gap)
    found_s = cost_s(problem, found)
    if 0 < found_s * _COARSE < program.scale_s:
        return mixed_integer(problem, found_s, gap)
    return found


def relaxed(problem: Problem, bound_s: float | None = None) -> tuple[tuple[Tier, ...], float] | None:
    """A plan within the limits, and what none goes below: by the program without its integrality.

    Its solution is rounded at each of its values, which keeps data flowing forward. None if that gives
    no plan within the limits: there may still be one.
    """
    program = _Program(problem, bound_s)
    program.limit()
    answer = program.run(program.cost, program.scale_s, integral=False)
    if answer is None:
        return None
    found = _rounded(problem, program, answer.x, lambda tiers: cost_s(problem, tiers))
    return None if found is None else (found, float(answer.fun) * program.scale_s / _UNITS)


def _rounded(
    problem: Problem, program: _Program, values: Floats, judge: Callable[[tuple[Tier, ...]], float]
) -> tuple[Tier, ...] | None:
    """The best plan within the limits that rounding gives, if any."""
    x, y = values[program.x], values[program.y]
    found: list[tuple[float, tuple[Tier, ...]]] = []
    for floor in np.unique(np.concatenate([x, y]).round(6))[1:][-_ROUNDINGS:]:
        rank = (x > floor - 1e-6).astype(int) + (y > floor - 1e-6)
        tiers = tuple(TIERS[r] for r in rank.tolist())
        try:
            check_limits(problem, tiers)
        except PlanInfeasible:
            continue
        found.append((judge(tiers), tiers))
    return min(found)[1] if found else None


def least_longest(problem: Problem, known_s: float) -> tuple[Tier, ...]:
    """The plan whose busiest stage is least busy, whatever the rate asked for. `known_s` is how busy that
    of some plan is. Raises `PlanInfeasible` if memory leaves no plan.
    """
    program = _Program(problem)
    program.limit(rate=False)
    best = program.least_longest(known_s, known_s * _TOO_BUSY)
    if best is None:
        program.explain_memory()
        raise AssertionError("memory left no plan, and yet it does not bind")
    return best


def cheapest_at(problem: Problem, prices: dict[str, float]) -> tuple[Tier, ...]:
    """The plan with the least Σ price · seconds over tiers and links, within memory. `problem` has no
    rate. Raises `PlanInfeasible`.
    """

    def judge(tiers: tuple[Tier, ...]) -> float:
        return sum(prices[stage] * load_s for stage, load_s in loads_s(problem, tiers).items())

    program = _Program(problem)
    program.limit()
    cost: dict[int, float] = {}
    for stage, (constant, row) in program.stages().items():
        for column, load_s in (row | {program.one: constant}).items():
            cost[column] = cost.get(column, 0.0) + prices[stage] * load_s
    scale = max(map(abs, cost.values()), default=0.0) or 1.0
    answer = program.run(cost, scale, integral=False)
    if answer is not None:
        found = _rounded(problem, program, answer.x, judge)
        if found is not None and judge(found) <= float(answer.fun) * scale / _UNITS * (1 + _INTEGRAL):
            return found
        answer = program.run(cost, scale)
    if answer is None:
        program.explain_memory()
        raise AssertionError("limits left no plan, and yet none of them binds")
    return program.tiers(answer.x)


class _Program:
    def __init__(self, problem: Problem, bound_s: float | None = None) -> None:
        self.problem = problem
        self.rows: list[dict[int, float]] = []
        self.floors: list[float] = []
        count = len(problem.names)
        self.x = list(range(count))
        self.y = list(range(count, 2 * count))
        #: A column that is always 1: what a plan costs in any case.
        self.one = 2 * count
        self.columns = 2 * count + 1
        self.cost: dict[int, float] = {}
        self.continuous: list[int] = []
        self.never: list[int] = []
        #: What costs more than this is in no optimal plan.
        self.dear_s = math.inf if bound_s is None else bound_s * _DEARER
        self.crosses = {link: self._new(count) for link in problem.links}
        self._vertices()
        self._tensors()
        self._result()
        self.scale_s = bound_s or max(map(abs, self.cost.values()), default=0.0) or 1.0

    def _new(self, count: int) -> list[int]:
        found = list(range(self.columns, self.columns + count))
        self.columns += count
        return found

    def _at_least(self, floor: float, row: dict[int, float]) -> None:
        """Add Σ coefficient · variable ≥ floor."""
        self.rows.append(row)
        self.floors.append(floor)

    def _on(self, v: int, tier: Tier) -> tuple[float, dict[int, float]]:
        """Whether vertex `v` is on `tier`, as a constant and coefficients."""
        if tier is Tier.DEVICE:
            return 1.0, {self.x[v]: -1.0}
        return 0.0, {self.x[v]: 1.0, self.y[v]: -1.0} if tier is Tier.EDGE else {self.y[v]: 1.0}

    def _vertices(self) -> None:
        problem = self.problem
        for v, name in enumerate(problem.names):
            self._at_least(0, {self.x[v]: 1, self.y[v]: -1})
            for tier in TIERS:
                on, terms = self._on(v, tier)
                paid = math.inf
                if tier.rank in problem.allowed_ranks[v]:
                    moved = problem.current.get(name, tier) is not tier
                    paid = problem.times_s[tier][v] + moved * problem.migration_cost_s
                if paid > self.dear_s or paid == math.inf:
                    self._at_least(on, {column: -c for column, c in terms.items()})
                    continue
                for column, c in (terms | ({self.one: on} if on else {})).items():
                    self.cost[column] = self.cost.get(column, 0.0) + c * paid
        for u, v in problem.edges:
            self._at_least(0, {self.x[v]: 1, self.x[u]: -1})
            self._at_least(0, {self.y[v]: 1, self.y[u]: -1})

    def _tensors(self) -> None:
        problem, x, y = self.problem, self.x, self.y
        for link, crosses in self.crosses.items():
            for v, column in enumerate(crosses):
                paid = problem.transfer_s(link, problem.output_bytes[v])
                if paid > self.dear_s:
                    self.never.append(column)
                else:
                    self.cost[column] = paid
        near, onward, direct = (self.crosses.get(link) for link in (DEVICE_EDGE, EDGE_CLOUD, DEVICE_CLOUD))
        for u, after in enumerate(problem.successors):
            alone, beside = tensor_ways(problem, u)
            if near is not None and onward is not None:
                # What the edge relays came over device-edge, if it was made on the device.
                self._at_least(0, {near[u]: 1, onward[u]: -1, x[u]: 1})
                # Beside an edge consumer's crossing, relaying may be the cheaper way, or never is.
                asks = {} if beside else {x[v]: 1.0 for v in after} | {y[v]: -1.0 for v in after}
                if alone and after:
                    self._at_least(0, {onward[u]: -1, x[u]: 1} | asks)
            for v in after:
                if near is not None:
                    # A consumer on the edge, the producer on the device.
                    self._at_least(0, {near[u]: 1, x[v]: -1, y[v]: 1, x[u]: 1})
                to_cloud = {y[v]: -1.0, y[u]: 1.0}
                if onward is not None:
                    to_cloud[onward[u]] = 1
                if direct is not None and alone:
                    to_cloud[direct[u]] = 1
                    if not beside:
                        self._at_least(-1, {direct[u]: -1, x[v]: -1, y[v]: 1})
                self._at_least(0, to_cloud)
            if direct is not None:
                self._at_least(-1, {direct[u]: -1, x[u]: -1})

    def _result(self) -> None:
        problem = self.problem
        size = problem.result_bytes
        if not size:
            return
        beyond, cloud = self._new(2)
        for made, nodes in ((beyond, self.x), (cloud, self.y)):
            for v in problem.sinks:
                self._at_least(0, {made: 1, nodes[v]: -1})
            self._at_least(0, {made: -1} | {nodes[v]: 1.0 for v in problem.sinks})
        back = {t: sum(problem.transfer_s(k, size) for k in result_way(problem, t)) for t in problem.tiers}
        if Tier.CLOUD in back and back[Tier.CLOUD] > self.dear_s:
            self.never.append(cloud)
            del back[Tier.CLOUD]
        first = back.get(Tier.EDGE, 0.0)
        if first > self.dear_s:
            # Not from the edge: whatever ends beyond the device ends in the cloud.
            self._at_least(0, {cloud: 1, beyond: -1})
            first = 0.0
        self.cost[beyond] = first
        self.cost[cloud] = back.get(Tier.CLOUD, first) - first

    # ── limits ────────────────────────────────────────────────────────────────────────────────────

    def _memory(self, slack: dict[Tier, int] | None = None) -> None:
        """Weights fit each tier; `slack` columns are allowed in excess, in limits' scale."""
        for tier, limit in self.problem.memory_bytes.items():
            if tier not in self.problem.times_s:
                continue
            unit = max(limit, 1.0) / _UNITS
            constant, row = 0.0, dict[int, float]()
            for v, weight in enumerate(self.problem.weights):
                on, terms = self._on(v, tier)
                constant += on * weight
                for column, c in terms.items():
                    row[column] = row.get(column, 0.0) - c * weight / unit
            if slack is not None:
                row[slack[tier]] = 1.0 / unit
            self._at_least((constant - limit) / unit, row)

    def stages(self, most_s: float = math.inf) -> dict[str, tuple[float, dict[int, float]]]:
        """Seconds that each tier and link is busy per frame, as a constant and coefficients; what takes
        longer than `most_s` is taken for so long.
        """
        problem = self.problem
        found: dict[str, tuple[float, dict[int, float]]] = {}
        for tier, times in problem.times_s.items():
            constant, row = 0.0, dict[int, float]()
            for v, time_s in enumerate(times):
                on, terms = self._on(v, tier)
                constant += on * min(time_s, most_s)
                for column, c in terms.items():
                    row[column] = row.get(column, 0.0) + c * min(time_s, most_s)
            found[tier.value] = (constant, row)
        for link, crosses in self.crosses.items():
            rate, sizes = problem.links[link].bytes_per_s, problem.output_bytes
            found[link] = (0.0, {column: min(sizes[v] / rate, most_s) for v, column in enumerate(crosses)})
        return found

    def _rate(self, period_s: float, longest: int | None = None, most_s: float = math.inf) -> None:
        """Each tier and link is busy at most `period_s` a frame, or at most `longest` such periods."""
        unit = period_s / _UNITS
        for constant, loads in self.stages(most_s).values():
            row = {column: -load_s / unit for column, load_s in loads.items()}
            if longest is None:
                self._at_least((constant - period_s) / unit, row)
            else:
                self._at_least(constant / unit, row | {longest: _UNITS})

    def limit(self, rate: bool = True) -> None:
        """Add the rows of all limits."""
        self._memory()
        if rate and self.problem.rate_per_s is not None:
            self._rate(1 / self.problem.rate_per_s)

    # ── solving ───────────────────────────────────────────────────────────────────────────────────

    def solve(self, gap: float = 0.0) -> tuple[Tier, ...]:
        problem = self.problem
        self._memory()
        without_rate = len(self.rows)
        if problem.rate_per_s is not None:
            self._rate(1 / problem.rate_per_s)
        answer = self.run(self.cost, self.scale_s, gap=gap)
        if answer is not None:
            return self.tiers(answer.x)
        if problem.rate_per_s is not None:
            del self.rows[without_rate:], self.floors[without_rate:]
            self._explain_rate(problem.rate_per_s)
        self.explain_memory()
        raise AssertionError("limits left no plan, and yet none of them binds")

    def least_longest(self, period_s: float, most_s: float = math.inf) -> tuple[Tier, ...] | None:
        """The least busy busiest stage; `period_s` is about how busy. None if memory leaves no plan."""
        (longest,) = self._new(1)
        self.continuous.append(longest)
        self._rate(period_s, longest, most_s)
        answer = self.run({longest: 1.0}, 1.0)
        return None if answer is None else self.tiers(answer.x)

    def _explain_rate(self, rate_per_s: float) -> None:
        """Raise for the rate, unless memory alone leaves no plan."""
        best = self.least_longest(1 / rate_per_s)
        if best is None:
            return
        loads = loads_s(self.problem, best)
        stage = max(loads, key=lambda name: loads[name])
        raise PlanInfeasible(
            stage,
            f"no plan keeps every stage within 1/rate_per_s = {1 / rate_per_s:.6g} s a frame; "
            f"the highest rate that would do is {round_down(1 / loads[stage])} frames/s",
        )

    def explain_memory(self) -> None:
        fresh = _Program(self.problem)
        limits = self.problem.memory_bytes
        slack = dict(zip(limits, fresh._new(len(limits)), strict=True))
        fresh.continuous += slack.values()
        fresh._memory(slack)
        answer = fresh.run({column: 1.0 for column in slack.values()}, max(limits.values()) or 1.0)
        if answer is None:
            return
        tiers = fresh.tiers(answer.x)
        over = {
            tier: sum(self.problem.weights[v] for v, t in enumerate(tiers) if t is tier) - limit
            for tier, limit in limits.items()
        }
        tier = max(over, key=lambda t: over[t])
        raise PlanInfeasible(
            tier, f"weights do not fit memory_bytes {limits[tier]:.0f}; {over[tier]:.0f} bytes more would do"
        )

    def run(
        self, cost: dict[int, float], scale: float, *, gap: float = 0.0, integral: bool = True
    ) -> OptimizeResult | None:
        """HiGHS's answer, or None if nothing keeps the rows; the least cost is of the order of `scale`."""
        prices = np.zeros(self.columns)
        prices[list(cost)] = list(cost.values())
        lower, upper, whole = np.zeros(self.columns), np.ones(self.columns), np.full(self.columns, integral)
        upper[self.continuous], whole[self.continuous] = np.inf, False
        upper[self.never] = 0
        lower[self.one] = 1
        starts = np.cumsum([0, *map(len, self.rows)])
        columns = np.fromiter((c for row in self.rows for c in row), dtype=np.int32)
        data = np.fromiter((c for row in self.rows for c in row.values()), dtype=np.float64)
        matrix = csr_array((data, columns, starts), shape=(len(self.rows), self.columns))
        answer = milp(
            prices * (_UNITS / scale),
            integrality=whole,
            bounds=Bounds(lower, upper),
            constraints=LinearConstraint(matrix, np.array(self.floors), np.inf),
            options={"mip_rel_gap": gap},
        )
        if answer.status == 2:
            return None
        if answer.x is None:
            raise PlanInfeasible("solver", answer.message)
        return answer

    def tiers(self, values: Floats) -> tuple[Tier, ...]:
        """The plan of a solution in whole numbers."""
        rank = np.rint(values[self.x] + values[self.y]).astype(int)
        return tuple(TIERS[r] for r in rank.tolist())
