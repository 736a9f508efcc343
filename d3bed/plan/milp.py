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

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import TIERS, Tier
from d3bed.plan.problem import (
    DEVICE_CLOUD,
    DEVICE_EDGE,
    EDGE_CLOUD,
    Problem,
    cost_s,
    loads_s,
    result_way,
    round_down,
    tensor_ways,
)

__all__ = ["mixed_integer"]

#: HiGHS compares in absolute terms (1e-6): costs and limits are scaled up to this many units.
_UNITS = 1e4
#: A plan so many times cheaper than what costs were scaled by deserves a finer scale.
_COARSE = 64
#: As in the cut: an element that costs so many times a known plan is in no better one.
_DEARER = 1.01

_Floats = NDArray[np.float64]


def mixed_integer(problem: Problem, bound_s: float | None = None) -> tuple[Tier, ...]:
    """An optimal plan; `bound_s` is the cost of any feasible plan, if one is known.

    Raises `PlanInfeasible`, which names the stage that binds.
    """
    program = _Program(problem, bound_s)
    found = program.solve()
    found_s = cost_s(problem, found)
    if 0 < found_s * _COARSE < program.scale_s:
        return mixed_integer(problem, found_s)
    return found


class _Program:
    def __init__(self, problem: Problem, bound_s: float | None = None) -> None:
        self.problem = problem
        self.rows: list[dict[int, float]] = []
        self.floors: list[float] = []
        count = len(problem.names)
        self.x = list(range(count))
        self.y = list(range(count, 2 * count))
        self.columns = 2 * count
        self.cost: dict[int, float] = {}
        self.continuous: list[int] = []
        self.never: list[int] = []
        #: What costs more than this is in no optimal plan.
        self.dear_s = math.inf if bound_s is None else bound_s * _DEARER
        self.crosses = {link: self._new(count) for link in problem.links}
        self._vertices()
        self._tensors()
        self._result()
        self.scale_s = bound_s or max(map(abs, self.cost.values())) or 1.0

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
                for column, c in terms.items():
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

    def _rate(self, period_s: float, longest: int | None = None) -> None:
        """Each tier and link is busy at most `period_s` a frame, or at most `longest` such periods."""
        problem = self.problem
        unit = period_s / _UNITS
        stages: list[tuple[float, dict[int, float]]] = []
        for tier, times in problem.times_s.items():
            constant, row = 0.0, dict[int, float]()
            for v, time_s in enumerate(times):
                on, terms = self._on(v, tier)
                constant += on * time_s
                for column, c in terms.items():
                    row[column] = row.get(column, 0.0) - c * time_s / unit
            stages.append((constant, row))
        for link, crosses in self.crosses.items():
            rate = problem.links[link].bytes_per_s
            sizes = problem.output_bytes
            stages.append((0.0, {column: -sizes[v] / rate / unit for v, column in enumerate(crosses)}))
        for constant, row in stages:
            if longest is None:
                self._at_least((constant - period_s) / unit, row)
            else:
                self._at_least(constant / unit, row | {longest: _UNITS})

    # ── solving ───────────────────────────────────────────────────────────────────────────────────

    def solve(self) -> tuple[Tier, ...]:
        problem = self.problem
        self._memory()
        if problem.rate_per_s is None:
            found = self._run(self.cost, self.scale_s)
        else:
            without_rate = len(self.rows)
            self._rate(1 / problem.rate_per_s)
            found = self._run(self.cost, self.scale_s)
            if found is None:
                del self.rows[without_rate:], self.floors[without_rate:]
                self._explain_rate(problem.rate_per_s)
        if found is None:
            self._explain_memory()
            raise AssertionError("limits left no plan, and yet none of them binds")
        return found

    def _explain_rate(self, rate_per_s: float) -> None:
        """Raise for the rate, unless memory alone leaves no plan."""
        (longest,) = self._new(1)
        self.continuous.append(longest)
        self._rate(1 / rate_per_s, longest)
        best = self._run({longest: 1.0}, 1.0)
        if best is None:
            return
        loads = loads_s(self.problem, best)
        stage = max(loads, key=lambda name: loads[name])
        raise PlanInfeasible(
            stage,
            f"no plan keeps every stage within 1/rate_per_s = {1 / rate_per_s:.6g} s a frame; "
            f"the highest rate that would do is {round_down(1 / loads[stage])} frames/s",
        )

    def _explain_memory(self) -> None:
        fresh = _Program(self.problem)
        limits = self.problem.memory_bytes
        slack = dict(zip(limits, fresh._new(len(limits)), strict=True))
        fresh.continuous += slack.values()
        fresh._memory(slack)
        tiers = fresh._run({column: 1.0 for column in slack.values()}, max(limits.values()) or 1.0)
        if tiers is None:
            return
        over = {
            tier: sum(self.problem.weights[v] for v, t in enumerate(tiers) if t is tier) - limit
            for tier, limit in limits.items()
        }
        tier = max(over, key=lambda t: over[t])
        raise PlanInfeasible(
            tier, f"weights do not fit memory_bytes {limits[tier]:.0f}; {over[tier]:.0f} bytes more would do"
        )

    def _run(self, cost: dict[int, float], scale: float) -> tuple[Tier, ...] | None:
        """The best assignment, or None if there is none; the least cost is of the order of `scale`."""
        prices = np.zeros(self.columns)
        prices[list(cost)] = list(cost.values())
        upper, integral = np.ones(self.columns), np.ones(self.columns)
        upper[self.continuous], integral[self.continuous] = np.inf, 0
        upper[self.never] = 0
        starts = np.cumsum([0, *map(len, self.rows)])
        columns = np.fromiter((c for row in self.rows for c in row), dtype=np.int32)
        data = np.fromiter((c for row in self.rows for c in row.values()), dtype=np.float64)
        matrix = csr_array((data, columns, starts), shape=(len(self.rows), self.columns))
        answer = milp(
            prices * (_UNITS / scale),
            integrality=integral,
            bounds=Bounds(0, upper),
            constraints=LinearConstraint(matrix, np.array(self.floors), np.inf),
            options={"mip_rel_gap": 0.0},
        )
        if answer.status == 2:
            return None
        if answer.x is None:
            raise PlanInfeasible("solver", answer.message)
        rank = np.rint(answer.x[self.x] + answer.x[self.y]).astype(int)
        return tuple(TIERS[r] for r in rank)
