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
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import Tier
from d3bed.plan.problem import DEVICE_CLOUD, DEVICE_EDGE, EDGE_CLOUD, Problem, check_limits, result_way

__all__ = ["Costs", "Orders", "Shape", "best_cuts", "joined", "refined"]

_Ints = NDArray[np.intp]
_Floats = NDArray[np.float64]

#: Relative slack in comparing sums, below that of limits by definition.
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
        #: The next vertex of a branch: the only reader, which reads nothing else; or -1.
        self.onward = [
            after[0] if len(after) == 1 and len(self.predecessors[after[0]]) == 1 else -1
            for after in self.successors
        ]
        self.within_branch = [v for v in reversed(self.topological) if self.onward[v] >= 0]
        #: Edges by producer (tail, reader); where each producer's begin; the producers.
        pairs: _Ints = np.array(sorted(self.edges), dtype=np.intp).reshape(-1, 2)
        self.tails, self.readers = pairs[:, 0], pairs[:, 1]
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

    def by_cost(self, costs: Costs) -> Orders:
        """For each boundary, and both in one, the order that always takes what adds least to a cut there."""
        unary = costs.finite(costs.most_s if costs.pinned else 0.0)
        boundaries = [(0, 1, costs.near)]
        if len(costs.tiers) == 3:
            boundaries += [(1, 2, costs.far), (0, 2, costs.alone)]
        rows = []
        for here, there, price in boundaries:
            price = np.where(self.read, price, 0.0)
            adds = price - (unary[there] - unary[here])
            rows.append(self._cheapest_next(price.tolist(), adds.tolist()))
        return Orders(self, np.array(rows))

    def _cheapest_next(self, price: Sequence[float], adds: Sequence[float]) -> list[int]:
        """A topological order that takes, of the branches that can go on, what adds least.

        To a cut that moves on past a vertex, it adds the vertex's own crossing less what the vertex costs
        more beyond the cut (`adds`), and takes away the crossings that end here. Of a branch, as much is
        taken at once as adds least in sum: what begins dear may end cheap.
        """
        before, after, onward = self.predecessors, self.successors, self.onward
        #: What the best part of a branch from a vertex on adds, and whether it goes on after the vertex.
        least, goes_on = list(adds), [False] * self.count
        for v in self.within_branch:
            further = least[onward[v]] - price[v]
            if further < 0:
                least[v] += further
                goes_on[v] = True
        missing, unread = [len(u) for u in before], [len(w) for w in after]
        found: list[int] = []
        ready = [0]
        while ready:
            v = ready[0]
            if len(ready) > 1:
                best = math.inf
                for w in ready:
                    added = least[w]
                    for u in before[w]:
                        if unread[u] == 1:
                            added -= price[u]
                    if added < best:
                        v, best = w, added
            ready.remove(v)
            found.append(v)
            for u in before[v]:
                unread[u] -= 1
            while goes_on[v]:
                unread[v] -= 1
                v = onward[v]
                found.append(v)
            for w in after[v]:
                missing[w] -= 1
                if not missing[w]:
                    ready.append(w)
        return found

    def readers_on(self, rank: Sequence[int]) -> tuple[list[int], list[int]]:
        """How many readers every vertex has on rank 1, and on rank 2."""
        there = np.array(rank)[self.readers]
        one, two = (np.bincount(self.tails[there == r], minlength=self.count).tolist() for r in (1, 2))
        return one, two


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

    @property
    def first(self) -> Orders:
        """The first of them alone."""
        return Orders(self.shape, self.order[:1], None if self.after is None else self.after[:1])


def joined(*several: Orders) -> Orders:
    """All these orders of one graph, together."""
    rows = np.concatenate([orders.order for orders in several])
    return Orders(several[0].shape, rows)


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

    `unary[rank]` adds migration to `times`, and is infinite where a vertex may not be. `near` and `far`
    are the prices of a tensor's relayed crossing; `alone` and `both` those of a device tensor that the
    cloud needs without and with the edge.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.tiers = problem.tiers
        count = len(problem.names)
        self.times: _Floats = np.array([problem.times_s[tier] for tier in self.tiers], dtype=np.float64)
        self.unary: _Floats = self.times.copy()
        if problem.current and problem.migration_cost_s:
            named = np.array([name in problem.current for name in problem.names])
            for r, tier in enumerate(self.tiers):
                stays = np.array([problem.current.get(name) is tier for name in problem.names])
                self.unary[r, named & ~stays] += problem.migration_cost_s
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

    @cached_property
    def lists(self) -> tuple[list[list[float]], list[float], list[float], list[float], list[float]]:
        """`unary`, `near`, `far`, `alone` and `both` once more: lists are faster to look one number up."""
        prices = self.near, self.far, self.alone, self.both
        near, far, alone, both = (price.tolist() for price in prices)
        return self.unary.tolist(), near, far, alone, both

    def reprice(self, rank: int, v: int, time_s: float) -> None:
        """A vertex's time on a tier has changed."""
        self.times[rank, v] = time_s
        if self.unary[rank, v] < np.inf:
            self.unary[rank, v] = self.lists[0][rank][v] = time_s

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

    @cached_property
    def leeway(self) -> list[int]:
        """The lowest plus the highest rank that pins leave each vertex, given its neighbours.

        It never falls along an edge, and in its order cuts find room between pins.
        """
        problem = self.problem
        low, high = [ranks[0] for ranks in self.allowed], [ranks[-1] for ranks in self.allowed]
        for v in problem.order:
            for u in problem.predecessors[v]:
                low[v] = max(low[v], low[u])
        for v in reversed(problem.order):
            for w in problem.successors[v]:
                high[v] = min(high[v], high[w])
        return [a + b for a, b in zip(low, high, strict=True)]


def best_cuts(
    costs: Costs, orders: Orders, unary: _Floats, *, skip_edge: bool = False
) -> list[tuple[float, list[int]]]:
    """The best pair of cuts of each order that has one within limits: cost and rank of every vertex.

    And, first cut from one order and second from another, the best mix of two orders. Cheapest first,
    no plan twice. `unary` is finite: seconds per rank and vertex. `skip_edge` leaves the edge out.
    """
    order = orders.order
    rows, count = order.shape
    base = float(unary[0].sum())
    if len(costs.tiers) == 1:
        return [(base, [0] * count)]
    second = np.zeros(order.shape)
    if skip_edge:
        first = _part(orders, unary[2] - unary[0], costs.alone, costs.back[2])
    else:
        first = _part(orders, unary[1] - unary[0], costs.near, costs.back[1])
        if len(costs.tiers) == 3:
            second = _part(orders, unary[2] - unary[1], costs.far, costs.back[2] - costs.back[1])
        else:
            second[:, :-1] = np.inf
    if orders.after is not None:
        first[~orders.after] = second[~orders.after] = np.inf
    each = np.arange(rows)
    if costs.limited:
        least, p, q = _within_limits(costs, orders, first, second, skip_edge)
    elif skip_edge:
        p = q = first.argmin(axis=1)
        least = first[each, p]
    else:
        total = np.minimum.accumulate(first, axis=1)
        total += second
        q = total.argmin(axis=1)
        p = np.array([int(first[row, : end + 1].argmin()) for row, end in enumerate(q.tolist())])
        least = total[each, q]
    found: dict[tuple[int, ...], float] = {}
    last_s = -np.inf
    for row in least.argsort(kind="stable").tolist():
        cost_s = float(least[row]) + base
        # What costs the same is the same plan, nearly always.
        if last_s * (1 + _SLACK) < cost_s < np.inf:
            rank = _ranks(order[row], int(p[row]), order[row], int(q[row]), 2 if skip_edge else 1)
            found.setdefault(tuple(rank), cost_s)
            last_s = cost_s
    if len(found) > 1 and len(costs.tiers) == 3 and not (costs.limited or skip_edge):
        p, q = first.argmin(axis=1), second.argmin(axis=1)
        one, two = int(first[each, p].argmin()), int(second[each, q].argmin())
        rank = _ranks(order[one], int(p[one]), order[two], int(q[two]), 1)
        if rank.count(2) == count - 1 - q[two]:
            found.setdefault(tuple(rank), float(first[one, p[one]] + second[two, q[two]]) + base)
    return sorted(((cost, list(rank)) for rank, cost in found.items()), key=lambda entry: entry[0])


def _ranks(one: _Ints, p: int, two: _Ints, q: int, step: int) -> list[int]:
    """The rank of every vertex: `step` after position `p` of one order, and in the cloud if after position
    `q` of the other as well."""
    rank = np.zeros(len(one), dtype=np.intp)
    rank[one[p + 1 :]] = step
    if step == 1:
        beyond = np.zeros(len(one), dtype=np.intp)
        beyond[two[q + 1 :]] = 1
        rank += beyond * rank
    found: list[int] = rank.tolist()
    return found


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
    costs: Costs, orders: Orders, first: _Floats, second: _Floats, skip_edge: bool
) -> tuple[_Floats, _Ints, _Ints]:
    """For each order the least cost and its two positions; infinite where limits leave none.

    A cut that overloads device, cloud or a link is out, and so is a pair that overloads the edge: how
    much stands between two cuts only grows with their distance.
    """
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
    least, p, q = zip(*found, strict=True)
    return np.array(least), np.array(p), np.array(q)


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
