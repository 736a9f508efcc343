"""Pairs of cuts along an order of the vertices: what every heuristic here is made of.

A topological order and two positions in it are a plan: what stands before the first runs on the
device, what stands between them on the edge, the rest in the cloud. As a tensor crosses a boundary
once, wherever its readers are beyond it, the cost falls into a part for either position, and one pass
over vertices and edges gives both parts for all positions, and with a running minimum the best pair.
Several orders are passed over at once. Limits on memory and rate are kept where they can be seen from
positions: on tiers and relayed links.

A cheaper direct device–cloud link couples the two positions; a pass then either relays everything, or
leaves the edge out. `moves` prices a plan exactly. This module must not know where orders come from.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import Tier
from d3bed.plan.problem import DEVICE_CLOUD, DEVICE_EDGE, EDGE_CLOUD, Problem, check_limits, result_way

__all__ = ["Costs", "Orders", "Shape", "best_cuts", "ranks_of", "refined"]

_Ints = NDArray[np.intp]
_Floats = NDArray[np.float64]

#: Relative slack of a limit, below that of the check by definition.
_SLACK = 1e-10


class Shape:
    """What cuts need to know of a graph, whatever its vertices cost: good for every problem on it."""

    def __init__(self, problem: Problem) -> None:
        self.edges = problem.edges
        self.count = count = len(problem.names)
        self.predecessors, self.successors = problem.predecessors, problem.successors
        self.sinks = problem.sinks
        self.topological = problem.order
        self.layer = [0] * count
        for v in self.topological:
            after = self.layer[v] + 1
            for w in self.successors[v]:
                if self.layer[w] < after:
                    self.layer[w] = after
        height = [0] * count
        for v in reversed(self.topological):
            above = height[v] + 1
            for u in self.predecessors[v]:
                if height[u] < above:
                    height[u] = above
        #: Edges by producer; where each producer's begin; the producers.
        pairs: _Ints = np.array(sorted(self.edges), dtype=np.intp).reshape(-1, 2)
        self.readers = pairs[:, 1]
        self.producers, self.starts = np.unique(pairs[:, 0], return_index=True)
        self.read = np.zeros(count, dtype=bool)
        self.read[self.producers] = True

        place = np.empty(count, dtype=np.intp)
        place[np.array(self.topological)] = np.arange(count)
        by_layer = np.lexsort((place, np.array(self.layer)))
        by_height = np.lexsort((place, -np.array(height)))
        branches = self._depth_first(self.successors), self._depth_first([w[::-1] for w in self.successors])
        self.orders = Orders(self, np.array([by_layer, by_height, *branches]))

    def layer_cuts(self) -> Orders:
        """The order by layer, to be cut between layers only."""
        order = self.orders.order[:1]
        layer = np.array(self.layer)[order]
        return Orders(self, order, np.append(layer[:, 1:] > layer[:, :-1], [[True]], axis=1))

    def _depth_first(self, successors: Sequence[Sequence[int]]) -> list[int]:
        """A topological order that finishes a branch before it begins the next, from the last reader on."""
        missing = [len(before) for before in self.predecessors]
        found, ready = [], [0]
        while ready:
            v = ready.pop()
            found.append(v)
            for w in successors[v]:
                missing[w] -= 1
                if not missing[w]:
                    ready.append(w)
        return found

    def cheapest_next(self, price: Sequence[float], beyond: Sequence[float]) -> list[int]:
        """A topological order that takes, of the vertices that can come next, the one that adds least.

        To a cut that moves on past a vertex, it adds the vertex's own crossing, and takes away those
        that end here and what the vertex costs more `beyond` the cut.
        """
        before, after = self.predecessors, self.successors
        missing, unread = [len(u) for u in before], [len(w) for w in after]
        found, ready = [], [0]
        while ready:
            v, least = ready[0], math.inf
            if len(ready) > 1:
                for w in ready:
                    added = (price[w] if unread[w] else 0.0) - beyond[w]
                    for u in before[w]:
                        if unread[u] == 1:
                            added -= price[u]
                    if added < least:
                        v, least = w, added
            ready.remove(v)
            found.append(v)
            for u in before[v]:
                unread[u] -= 1
            for w in after[v]:
                missing[w] -= 1
                if not missing[w]:
                    ready.append(w)
        return found

    def fits(self, problem: Problem) -> bool:
        """Whether the problem is on this graph."""
        return len(problem.names) == self.count and (
            problem.edges is self.edges or problem.edges == self.edges
        )


class Orders:
    """Topological orders `[K, V]`, and in each of them the position of a vertex's last reader.

    `after`, if given, says after which positions `[K, V]` a cut may be.
    """

    def __init__(self, shape: Shape, order: _Ints, after: NDArray[np.bool_] | None = None) -> None:
        self.shape, self.order, self.after = shape, order, after
        count = order.shape[1]
        rows = np.arange(len(order))[:, None]
        place = np.empty_like(order)
        place[rows, order] = np.arange(count)
        self.last = np.full_like(order, -1)
        if len(shape.starts):
            self.last[:, shape.producers] = np.maximum.reduceat(place[:, shape.readers], shape.starts, axis=1)
        self.last_sink = place[:, list(shape.sinks)].max(axis=1)
        read = shape.read
        # Where readers end, as positions in all rows one after the other.
        self.closing = (self.last[:, read] + rows * count).ravel()

    def and_by_cost(self, costs: Costs) -> Orders:
        """These, and for each boundary the order that always takes what adds least to a cut there."""
        unary = costs.finite(costs.most_s) if costs.pinned else costs.finite(0.0)
        more = [
            self.shape.cheapest_next(price.tolist(), (unary[r + 1] - unary[r]).tolist())
            for r, price in enumerate((costs.near, costs.far)[: len(costs.tiers) - 1])
        ]
        return Orders(self.shape, np.array([*self.order, *more])) if more else self


def refined(orders: Orders, group: Sequence[int]) -> Orders:
    """The same orders with vertices sorted by `group` first, which must not fall along an edge.

    Where cuts may not be anywhere, orders stay as they are.
    """
    if orders.after is not None:
        return orders
    key = np.array(group)[orders.order]
    if (key[:, 1:] >= key[:, :-1]).all():
        return orders
    sorting = np.argsort(key, axis=1, kind="stable")
    return Orders(orders.shape, np.take_along_axis(orders.order, sorting, axis=1))


class Costs:
    """A problem's prices, as arrays over vertices; `rank` here counts the tiers that exist.

    `unary[rank]` is infinite where a vertex may not be. `near` and `far` are the prices of a tensor's
    relayed crossing; `alone` and `both` those of a device tensor that the cloud needs without and
    with the edge.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.tiers = problem.tiers
        count = len(problem.names)
        self.unary: _Floats = np.array([problem.times_s[tier] for tier in self.tiers], dtype=np.float64)
        if problem.current and problem.migration_cost_s:
            for v, name in enumerate(problem.names):
                if name in problem.current:
                    moves = [tier is not problem.current[name] for tier in self.tiers]
                    self.unary[moves, v] += problem.migration_cost_s
        self.pinned = bool(problem.allowed)
        self.allowed: list[tuple[int, ...]] = []
        if self.pinned:
            rank = {tier.rank: r for r, tier in enumerate(self.tiers)}
            self.allowed = [tuple(rank[r] for r in ranks) for ranks in problem.allowed_ranks]
            for v, ranks in enumerate(self.allowed):
                self.unary[[r for r in range(len(self.tiers)) if r not in ranks], v] = np.inf
        self.unary[1:, 0] = np.inf

        self.sizes: _Floats = np.array(problem.output_bytes, dtype=np.float64)
        nothing = np.zeros(count)
        self.hops = [
            link
            for link in (DEVICE_EDGE, EDGE_CLOUD, DEVICE_CLOUD)
            if link in problem.links and (link != DEVICE_CLOUD or Tier.EDGE not in self.tiers)
        ]
        prices = [self._price(problem, link) for link in self.hops]
        self.near = prices[0] if prices else nothing
        self.far = prices[1] if len(prices) > 1 else nothing
        self.alone = self.both = self.near + self.far
        self.direct = len(self.tiers) == 3 and DEVICE_CLOUD in problem.links
        if self.direct:
            straight = self._price(problem, DEVICE_CLOUD)
            self.both = self.near + np.minimum(self.far, straight)
            self.alone = np.minimum(self.alone, straight)
        self.back = [
            sum(problem.transfer_s(link, problem.result_bytes) for link in result_way(problem, tier))
            for tier in self.tiers
        ]
        self.limited = bool(problem.memory_bytes) or problem.rate_per_s is not None

    def _price(self, problem: Problem, link: str) -> _Floats:
        rate = problem.links[link]
        return rate.latency_s + self.sizes / rate.bytes_per_s

    @property
    def most_s(self) -> float:
        """No plan that is allowed costs more."""
        paid = np.where(np.isfinite(self.unary), self.unary, 0.0).max(axis=0) + self.near + self.far
        return float(paid.sum()) + max(self.back)

    def tiers_of(self, rank: Sequence[int]) -> tuple[Tier, ...]:
        """A plan in the problem's words."""
        tiers = self.tiers
        return tuple([tiers[r] for r in rank])

    def within_limits(self, rank: Sequence[int]) -> bool:
        """Whether memory and rate limits hold, by definition."""
        if self.limited:
            try:
                check_limits(self.problem, self.tiers_of(rank))
            except PlanInfeasible:
                return False
        return True

    def finite(self, penalty_s: float) -> _Floats:
        """`unary`, with a penalty in place of infinity; the input is before every cut anyway."""
        found = np.minimum(self.unary, penalty_s) if self.pinned else self.unary.copy()
        found[1:, 0] = 0.0
        return found

    def bounds(self) -> tuple[list[int], list[int]]:
        """The lowest and highest rank that pins leave each vertex, given its neighbours."""
        problem = self.problem
        low, high = [ranks[0] for ranks in self.allowed], [ranks[-1] for ranks in self.allowed]
        for v in problem.order:
            for u in problem.predecessors[v]:
                low[v] = max(low[v], low[u])
        for v in reversed(problem.order):
            for w in problem.successors[v]:
                high[v] = min(high[v], high[w])
        return low, high


def best_cuts(
    costs: Costs, orders: Orders, unary: _Floats, *, skip_edge: bool = False
) -> tuple[_Floats, _Ints, _Ints]:
    """For each order the least cost and its two positions; infinite where limits leave none.

    `unary` is finite: seconds per rank and vertex. `skip_edge` leaves the edge out.
    """
    order = orders.order
    rows, count = order.shape
    if len(costs.tiers) == 1:
        return np.full(rows, unary[0].sum()), np.full(rows, count), np.full(rows, count)
    base = float(unary[0].sum())
    if skip_edge:
        first = _part(orders, unary[2] - unary[0], costs.alone, costs.back[2])
        second = np.zeros_like(first)
    else:
        first = _part(orders, unary[1] - unary[0], costs.near, costs.back[1])
        if len(costs.tiers) == 3:
            second = _part(orders, unary[2] - unary[1], costs.far, costs.back[2] - costs.back[1])
        else:
            second = np.full_like(first, np.inf)
            second[:, -1] = 0.0
    if orders.after is not None:
        first[~orders.after] = second[~orders.after] = np.inf
    if costs.limited:
        return _within_limits(costs, orders, first, second, base, skip_edge)
    if skip_edge:
        cut = first.argmin(axis=1)
        return first[np.arange(rows), cut] + base, cut + 1, cut + 1
    total = np.minimum.accumulate(first, axis=1)
    total += second
    q = total.argmin(axis=1)
    p = np.array([int(first[row, : end + 1].argmin()) for row, end in enumerate(q.tolist())])
    return total[np.arange(rows), q] + base, p + 1, q + 1


def _part(orders: Orders, beyond: _Floats, price: _Floats, back: float) -> _Floats:
    """One boundary's part of the cost `[K, V]`, for a cut after each position.

    `beyond` is what a vertex costs more behind the cut than before it.
    """
    rows, count = orders.order.shape
    price = np.where(orders.shape.read, price, 0.0)
    moved = (price - beyond)[orders.order]
    closed = np.bincount(
        orders.closing, weights=np.tile(price[orders.shape.read], rows), minlength=rows * count
    )
    moved -= closed.reshape(rows, count)
    part: _Floats = np.cumsum(moved, axis=1)
    part += beyond.sum()
    if back:
        part += back * (np.arange(count) < orders.last_sink[:, None])
    return part


def _within_limits(
    costs: Costs, orders: Orders, first: _Floats, second: _Floats, base: float, skip_edge: bool
) -> tuple[_Floats, _Ints, _Ints]:
    """As `best_cuts`: a cut that overloads device, cloud or a link is out, and so is a pair that
    overloads the edge: how much stands between two cuts only grows with their distance."""
    problem, count = costs.problem, orders.order.shape[1]
    kinds: list[tuple[_Floats, dict[int, float]]] = []
    weights = np.array(problem.weights, dtype=np.float64)
    ranks = range(len(costs.tiers))
    if problem.memory_bytes:
        limits = {r: problem.memory_bytes.get(costs.tiers[r], np.inf) for r in ranks}
        kinds.append((np.tile(weights, (len(costs.tiers), 1)), limits))
    if problem.rate_per_s is not None:
        times = np.array([problem.times_s[tier] for tier in costs.tiers], dtype=np.float64)
        kinds.append((times, dict.fromkeys(ranks, 1 / problem.rate_per_s)))
    found = []
    for row, order in enumerate(orders.order):
        one, two = first[row].copy(), second[row].copy()
        reach = np.zeros(count, dtype=np.intp)
        for amounts, limits in kinds:
            room = {r: limit * (1 + _SLACK) for r, limit in limits.items()}
            before = np.cumsum(amounts[:, order], axis=1)
            one[before[0] > room[0]] = np.inf
            last = len(costs.tiers) - 1
            behind = before[last][-1] - before[last]
            (two if last == 2 else one)[behind > room[last]] = np.inf
            if last == 2:
                least = np.searchsorted(before[1], before[1] - room[1], side="left")
                reach = np.maximum(reach, least)
        if problem.rate_per_s is not None and not skip_edge:
            for link, part in zip(costs.hops, (one, two), strict=False):
                busy = _live(orders, row, costs.sizes) / problem.links[link].bytes_per_s
                part[busy * problem.rate_per_s > 1 + _SLACK] = np.inf
        if skip_edge:
            one[np.isinf(two)] = np.inf
            two, reach = np.zeros(count), np.arange(count)
        found.append(_best_window(one.tolist(), two.tolist(), reach.tolist()))
    least_s = np.array([entry[0] for entry in found]) + base
    return least_s, np.array([e[1] + 1 for e in found]), np.array([e[2] + 1 for e in found])


def _live(orders: Orders, row: int, sizes: _Floats) -> _Floats:
    """Bytes of the tensors that cross a cut after each position of one order."""
    count = orders.order.shape[1]
    read = orders.shape.read
    sizes = np.where(read, sizes, 0.0)
    closed = np.bincount(orders.last[row][read], weights=sizes[read], minlength=count)
    live: _Floats = np.cumsum(sizes[orders.order[row]] - closed)
    return live


def _best_window(one: list[float], two: list[float], reach: list[int]) -> tuple[float, int, int]:
    """The least `one[p] + two[q]` with `reach[q] ≤ p ≤ q`; `reach` never falls."""
    best = (float("inf"), 0, 0)
    window: deque[int] = deque()
    for q, cost in enumerate(two):
        while window and one[window[-1]] > one[q]:
            window.pop()
        window.append(q)
        while window and window[0] < reach[q]:
            window.popleft()
        if window:
            total = one[window[0]] + cost
            if total < best[0]:
                best = (total, window[0], q)
    return best


def ranks_of(order: _Ints, p: int, q: int) -> list[int]:
    """The rank of every vertex, for cuts after `p` and `q` vertices of an order."""
    rank = np.full(len(order), 1, dtype=np.intp)
    rank[order[:p]] = 0
    rank[order[q:]] = 2
    found: list[int] = rank.tolist()
    return found
