"""The cheapest plan as one minimum cut.

Two nodes per vertex, on the source's side if the vertex is beyond the device (`x`) and if it is in
the cloud (`y`). A vertex pays one of three arcs on the way source → x → y → sink: its time on the
device, edge or cloud. Infinite arcs y → x, and between neighbours' x and y, keep the cut a monotone
plan. A tensor is paid where a consumer is beyond a link and its producer is not; if there are several
consumers, they join in an auxiliary node, so that it is paid once. The result's way back is paid by
the first sink beyond a link, in the same way. This holds where tensors for the cloud are relayed (or
there are only two tiers) and no limit couples vertices: `applies` says whether. Where no plan cheaper
than a known one changes tier (`waists`), vertices are one node: that leaves little of a large graph.

SciPy keeps residual capacities in int32, and an overflow there is silent. A residual is at most its
capacity plus the flow, and the flow at most the value of any cut. So: capacities are scaled such that
a known plan costs 2^29; whatever is dearer is infinite, which is 2^30; and nothing reaches 2^31.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, maximum_flow

from d3bed.core.ids import TIERS, Tier
from d3bed.plan.problem import DEVICE_CLOUD, DEVICE_EDGE, EDGE_CLOUD, Problem, cost_s, result_way, tensor_ways
from d3bed.plan.waists import Waists

__all__ = ["NO_BONDS", "Cut", "Network", "applies", "minimum_cut", "relayed"]

_FINITE = 2**29
_INFINITE = 2**30
#: A known plan this much dearer than the one found leaves too coarse a scale: scale and cut again.
_COARSE = 64
#: Sums of times and transfers are exact to far less than this part of them.
_ROUNDING = 1e-9
#: An arc that costs so many times a known plan is in no better one; the margin is for rounding.
_DEARER = 1.01

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: For cuts that may be anywhere.
NO_BONDS = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


def applies(problem: Problem) -> bool:
    """Whether a minimum cut of this problem is an optimal plan."""
    return not problem.memory_bytes and problem.rate_per_s is None and relayed(problem)


def relayed(problem: Problem) -> bool:
    """Whether no tensor or result has a cheaper direct way to the cloud beside the edge."""
    if DEVICE_CLOUD not in problem.links or EDGE_CLOUD not in problem.links:
        return True
    if problem.result_bytes and DEVICE_CLOUD in result_way(problem, Tier.CLOUD):
        return False
    return not any(any(tensor_ways(problem, v)) for v in range(len(problem.names)))


def minimum_cut(problem: Problem, plans: Iterable[tuple[Tier, ...]]) -> tuple[tuple[Tier, ...], float]:
    """An optimal plan and its cost. `plans` are any feasible ones: the cheaper, the finer is the cut."""
    network = Network(problem)
    bound_s, _, known = min(
        (float(network.capacity_s[network.cut_by(rank)].sum()), rank.sum(), tiers)
        for tiers in plans
        for rank in (np.array([tier.rank for tier in tiers]),)
    )
    waists = Waists(problem, network, network.capacity_s, bound_s)
    rank = waists.cheapest()
    by_waists_s = float(network.capacity_s[network.cut_by(rank)].sum())
    if by_waists_s < bound_s:
        bound_s, known = by_waists_s, _tiers(rank)
    bonds = waists.bonds(bound_s)
    while bound_s > 0:
        cut = network.cut(network.capacity_s, bound_s, bonds)
        found_s = cost_s(problem, cut.tiers)
        if found_s >= bound_s:
            break
        if (found_s - cut.certain_s) * _COARSE > bound_s - cut.certain_s:
            return cut.tiers, found_s
        known, bound_s = cut.tiers, found_s
    return known, cost_s(problem, known)


class Cut(NamedTuple):
    """A minimum cut as the tier's rank of every vertex. Of its cost, `certain_s` is what any plan pays;
    capacities being rounded, no plan is cheaper by more than `slack_s`.
    """

    rank: Ints
    certain_s: float
    slack_s: float

    @property
    def tiers(self) -> tuple[Tier, ...]:
        return _tiers(self.rank)


def _tiers(rank: Ints) -> tuple[Tier, ...]:
    return tuple(TIERS[r] for r in rank.tolist())


class Network:
    """The flow network of a problem: arcs, and what each costs in seconds if it is cut.

    The first arcs are, vertex by vertex, the times on the device, then those on the edge, then those in
    the cloud. `crossed` has the arcs that pay a tensor: link, arcs, and the vertices that make it; `back`
    those that pay the result's way back, beyond the device and in the cloud.
    """

    def __init__(self, problem: Problem) -> None:
        count = len(problem.names)
        self.count = count
        x: Ints = np.arange(count)
        y = x + count
        self.source, self.sink = 2 * count, 2 * count + 1
        self.nodes = 2 * count + 2
        self.arcs = 4 * count
        self.tails: list[Ints] = [np.full(count, self.source), x, y, y]
        self.heads: list[Ints] = [x, y, np.full(count, self.sink), x]
        self.capacities: list[Floats] = [*_unary(problem).T, np.full(count, np.inf)]
        self._joins: list[tuple[Ints, Ints]] = []
        self.crossed: list[tuple[str, Ints, Ints]] = []
        self.back: list[int] = []

        if problem.edges:
            edges: Ints = np.array(problem.edges)
            producers, consumers = edges[:, 0], edges[:, 1]
            fan_out = np.bincount(producers, minlength=count)
            sizes = np.array(problem.output_bytes, dtype=np.float64)
            for offset, link in _crossed_links(problem):
                rate = problem.links[link]
                paid = rate.latency_s + sizes / rate.bytes_per_s
                self._add(producers + offset, consumers + offset, np.full(len(edges), np.inf))
                self._add_tensors(link, producers, consumers, fan_out, paid, offset)
        self._add_result(problem)

        self.tail, self.head = np.concatenate(self.tails), np.concatenate(self.heads)
        self.capacity_s = np.concatenate(self.capacities)

    def _add(self, tails: Ints, heads: Ints, capacities: Floats) -> Ints:
        self.tails.append(tails)
        self.heads.append(heads)
        self.capacities.append(capacities)
        found: Ints = np.arange(self.arcs, self.arcs + len(tails))
        self.arcs += len(tails)
        return found

    def _join(self, tails: Ints, joint: Ints) -> None:
        """Infinite arcs into auxiliary nodes."""
        self._add(tails, joint, np.full(len(tails), np.inf))
        self._joins.append((tails, joint))

    def _new_nodes(self, count: int) -> Ints:
        found: Ints = np.arange(self.nodes, self.nodes + count)
        self.nodes += count
        return found

    def _add_tensors(
        self, link: str, producers: Ints, consumers: Ints, fan_out: Ints, paid: Floats, offset: int
    ) -> None:
        """Arcs that pay a tensor once if any consumer is beyond the link and its producer is not."""
        shared = np.flatnonzero(fan_out > 1)
        joint: Ints = np.full(self.count, -1)
        joint[shared] = self._new_nodes(len(shared))
        single = fan_out[producers] == 1
        makers = producers[single]
        self.crossed.append(
            (link, self._add(consumers[single] + offset, makers + offset, paid[makers]), makers)
        )
        self._join(consumers[~single] + offset, joint[producers[~single]])
        self.crossed.append((link, self._add(joint[shared], shared + offset, paid[shared]), shared))

    def _add_result(self, problem: Problem) -> None:
        """The way back is paid in two parts: for a sink beyond the device, and more for the cloud."""
        if not problem.result_bytes:
            return
        sinks: Ints = np.array(problem.sinks)
        back = {
            tier: sum(problem.transfer_s(link, problem.result_bytes) for link in result_way(problem, tier))
            for tier in problem.tiers
        }
        first = back.get(Tier.EDGE, back.get(Tier.CLOUD, 0.0))
        for offset, paid in ((0, first), (self.count, back.get(Tier.CLOUD, first) - first)):
            joint = self._new_nodes(1)
            self._join(sinks + offset, np.repeat(joint, len(sinks)))
            self.back += self._add(joint, np.array([self.sink]), np.array([paid])).tolist()

    @cached_property
    def _all_joins(self) -> tuple[Ints, Ints]:
        tails, heads = zip(*self._joins, strict=True) if self._joins else ((), ())
        nothing = np.zeros(0, dtype=np.int64)
        return np.concatenate([nothing, *tails]), np.concatenate([nothing, *heads])

    def cut_by(self, rank: Ints) -> Bools:
        """Which arcs a plan cuts; `rank` is the tier's of every vertex."""
        beyond = np.zeros(self.nodes, dtype=bool)
        beyond[self.source] = True
        beyond[: self.count] = rank > 0
        beyond[self.count : 2 * self.count] = rank > 1
        tails, joints = self._all_joins
        beyond[joints[beyond[tails]]] = True
        found: Bools = beyond[self.tail] & ~beyond[self.head]
        return found

    def cut(self, capacity_s: Floats, bound_s: float, bonds: tuple[Ints, Ints] = NO_BONDS) -> Cut:
        """The cheapest cut, in arithmetic scaled to a plan that is known to cost `bound_s`.

        `bonds`, tails and heads, are arcs that no plan that matters cuts.
        """
        # What a vertex pays in any case is no matter of choice, and would only coarsen the scale.
        capacity_s = capacity_s.copy()
        unary = capacity_s[: 3 * self.count].reshape(3, self.count)
        cheapest = unary.min(axis=0)
        unary -= cheapest
        certain_s = float(cheapest.sum())
        # A surplus lost in the rounding of sums must not be taken for a bound.
        surplus = max(bound_s - certain_s, _ROUNDING * bound_s)
        infinite = capacity_s > surplus * _DEARER
        units = np.full(len(capacity_s), _INFINITE)
        units[~infinite] = np.rint(capacity_s[~infinite] * (_FINITE / surplus))

        # Nodes in a circle of infinite arcs are on one side, and one node: over a slow link, most are.
        nodes = self.nodes
        tail, head = (
            np.concatenate([ends[infinite], more])
            for ends, more in zip((self.tail, self.head), bonds, strict=True)
        )
        uncut = csr_array((np.ones(len(tail), dtype=bool), (tail, head)), shape=(nodes, nodes))
        nodes, node = connected_components(uncut, connection="strong")
        tail, head = node[self.tail], node[self.head]
        kept = (tail != head) & (units > 0)
        network = csr_array((units[kept], (tail[kept], head[kept])), shape=(nodes, nodes))
        network.data = np.minimum(network.data, _INFINITE).astype(np.int32)

        source = node[self.source]
        flow = maximum_flow(network, source, node[self.sink]).flow
        # Flow is antisymmetric: against an arc, what flows along it can be taken back.
        reached = np.zeros(nodes, dtype=bool)
        reached[breadth_first_order(network - flow, source, return_predecessors=False)] = True
        beyond = reached[node]
        rank = beyond[: self.count].astype(int) + beyond[self.count : 2 * self.count]
        return Cut(rank, certain_s, network.nnz * surplus / _FINITE)


def _unary(problem: Problem) -> Floats:
    """Seconds per vertex and tier, migration included; infinite where a vertex may not be."""
    found = np.full((len(problem.names), len(TIERS)), np.inf)
    for tier, times in problem.times_s.items():
        found[:, tier.rank] = times
    if problem.current and problem.migration_cost_s:
        for v, name in enumerate(problem.names):
            if name in problem.current:
                moves = [tier is not problem.current[name] for tier in TIERS]
                found[v, moves] += problem.migration_cost_s
    if problem.allowed:
        for v, ranks in enumerate(problem.allowed_ranks):
            found[v, [tier.rank for tier in TIERS if tier.rank not in ranks]] = np.inf
    found[0, 1:] = np.inf
    return found


def _crossed_links(problem: Problem) -> list[tuple[int, str]]:
    """Which link a tensor crosses between neighbours' x nodes (offset 0), and between their y nodes."""
    if EDGE_CLOUD in problem.links:
        return [(0, DEVICE_EDGE), (len(problem.names), EDGE_CLOUD)]
    return [(0, link) for link in (DEVICE_EDGE, DEVICE_CLOUD) if link in problem.links]
