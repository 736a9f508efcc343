"""All plans of a graph as nested pairs of sets: what is on the device, and what is not in the cloud.

Each of the two sets is closed under predecessors (an order ideal), and a plan's cost and what it asks
of every tier and link are sums of a part for each set. DNNs are chains of narrow modules, so that the
sets are a few thousand, and all plans are at hand: this module finds the best of them where prices
leave a gap, looking only at pairs that a bound does not exclude. A graph with more sets than `MOST`
(many long branches side by side) is not for it.

Only for problems where tensors are relayed (`mincut.relayed`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from d3bed.plan.mincut import Bools, Floats, Ints, Network
from d3bed.plan.problem import EDGE_CLOUD, Problem
from d3bed.plan.waists import Waists

__all__ = ["MOST", "Ideals", "layered"]

#: More sets than this are not made, nor sets with more members and others in all.
MOST = 20_000
_CELLS = 8_000_000
#: And more pairs than this are not looked at.
_PAIRS = 4_000_000
#: So many times all costs together stand for what is not allowed.
_NEVER = 10.0


@dataclass
class Ideals:
    """Sets as columns of `member` [vertices, sets], by `block`, the stretch of the graph they end in.

    A pair costs, per metric, `first` of the smaller set and `second` of the larger; a plan that puts a
    vertex where it may not be costs far more than any other.
    """

    member: Bools
    block: Ints
    first: Floats
    second: Floats

    @classmethod
    def all(
        cls,
        problem: Problem,
        network: Network,
        metrics: Floats,
        prices: Floats | None = None,
        ceiling: float = np.inf,
    ) -> Ideals | None:
        """Every set; None if there are too many. `metrics` [metrics, arcs] are those of cut arcs.

        Where `prices` are given, only those of stretches in which a plan may change tier whose metrics at
        these add up to `ceiling` at most.
        """
        wanted = None
        if prices is not None and 0 < ceiling < np.inf:
            leave, enter = Waists(problem, network, prices @ metrics, ceiling).open(ceiling)
            # Sets that end in a block, or are all up to its end, the waist where the next stretch begins.
            ends = leave | enter
            ends[0] |= not ends.any()
            wanted = np.concatenate([ends[:1], ends[:-1] | ends[1:], ends[-1:]])
        blocks = _enumerate(problem, wanted)
        if blocks is None:
            return None
        parts = _Parts(problem, network, metrics)
        before: list[int] = []
        members, sums, numbers = list[Bools](), list[Floats](), list[Ints]()
        for number, (block, sets) in enumerate(blocks):
            if not sets.shape[1]:
                before += block
                continue
            whole = np.zeros((network.count, sets.shape[1]), dtype=bool)
            whole[before] = True
            whole[block] = sets
            # Of all vertices before the block, only the last has a tensor that leaves them.
            local = before[-1:] + block
            sums.append(parts.of(local, whole[local]) + parts.unary[:, before[:-1]].sum(axis=1)[:, None])
            members.append(whole)
            numbers.append(np.full(sets.shape[1], number))
            before += block
        return cls._of(parts, np.hstack(members), np.concatenate(numbers), np.hstack(sums))

    @classmethod
    def prefixes(cls, problem: Problem, network: Network, metrics: Floats, most: int) -> Ideals:
        """Only those that cut one order of the vertices, at up to `most` places."""
        count = network.count
        places = min(count, most, max(2, _CELLS // count))
        steps = np.unique(np.linspace(1, count, places).round().astype(int))
        order = layered(problem)
        member = np.empty((count, len(steps)), dtype=bool)
        member[order] = np.arange(count)[:, None] < steps
        parts = _Parts(problem, network, metrics)
        return cls._of(parts, member, np.arange(len(steps)), parts.of(order, member[order]))

    @classmethod
    def _of(cls, parts: _Parts, member: Bools, block: Ints, sums: Floats) -> Ideals:
        first, second = np.vsplit(sums + parts.certain[:, None] + parts.result(member), 2)
        return cls(member, block, first, second)

    def rank(self, smaller: int, larger: int) -> Ints:
        """The plan of two sets, as the tier's rank per vertex."""
        found: Ints = (~self.member[:, smaller]).astype(np.int64) + ~self.member[:, larger]
        return found

    def nested(self, smaller: int, larger: int) -> bool:
        return not (self.member[:, smaller] & ~self.member[:, larger]).any()

    def below(self, prices: Floats, ceiling: float, limits: Floats) -> tuple[Ints, Ints] | None:
        """Every nested pair (and some that are not) whose metrics at `prices` add up to `ceiling` at
        most, as two columns of set numbers; None if they are too many to look at. Sets that are in no
        pair with every metric within `limits` are left out.
        """
        first, second = prices @ self.first, prices @ self.second
        small, large = self._fit(first, second, ceiling)
        for row, limit in enumerate(limits):
            if limit < np.inf:
                one, other = self._fit(self.first[row], self.second[row], limit)
                small &= one
                large &= other
        smaller, larger = np.flatnonzero(small), np.flatnonzero(large)
        if len(smaller) * len(larger) > _PAIRS:
            return None
        low = first[smaller][:, None] + second[larger][None, :] <= ceiling
        low &= self.block[smaller][:, None] <= self.block[larger][None, :]
        rows, columns = np.nonzero(low)
        return smaller[rows], larger[columns]

    def _fit(self, first: Floats, second: Floats, ceiling: float) -> tuple[Bools, Bools]:
        """Which sets are the smaller one, and the larger, of any pair whose two parts add up to no more."""
        blocks = int(self.block[-1]) + 1
        best_first, best_second = np.full(blocks, np.inf), np.full(blocks, np.inf)
        np.minimum.at(best_first, self.block, first)
        np.minimum.at(best_second, self.block, second)
        before = np.minimum.accumulate(best_first)
        after = np.minimum.accumulate(best_second[::-1])[::-1]
        return first + after[self.block] <= ceiling, second + before[self.block] <= ceiling


class _Parts:
    """What the metrics of a plan are sums of: for each vertex that a set has, and each tensor that leaves
    it. The upper half of the rows is for the smaller set, the lower for the larger.
    """

    def __init__(self, problem: Problem, network: Network, metrics: Floats) -> None:
        count, rows = network.count, len(metrics)
        forbidden = np.isinf(metrics)
        never = _NEVER * (metrics[~forbidden].sum() or 1.0)
        tiers = np.where(forbidden, never, metrics)[:, : 3 * count].reshape(rows, 3, count)
        tiers[:, 1:, 0] = 0.0  # The input is in every set: where else it might be is no matter.
        device, edge, cloud = tiers.transpose(1, 0, 2)
        self.unary = np.vstack([device - edge, edge - cloud])
        self.certain = np.concatenate([np.zeros(rows), cloud.sum(axis=1)])
        self.paid = np.zeros((2 * rows, count))
        for link, arcs, makers in network.crossed:
            half = self.paid[rows:] if link == EDGE_CLOUD else self.paid[:rows]
            half[:, makers] = metrics[:, arcs]
        self.successors = problem.successors
        self.sinks = list(problem.sinks)
        self.back = np.zeros((2 * rows, 1))
        if network.back:
            self.back[[0, rows], 0] = metrics[0, network.back]

    def of(self, local: list[int], member: Bools) -> Floats:
        """Sums over the vertices `local`, members of sets as in `member` [local vertices, sets]; of others
        that read their tensors, no set has any.
        """
        place = {v: number for number, v in enumerate(local)}
        crosses = np.zeros(member.shape)
        for v, number in place.items():
            after = self.successors[v]
            inside = [place[w] for w in after if w in place]
            if len(inside) < len(after):
                crosses[number] = member[number]
            elif after:
                crosses[number] = member[number] & ~member[inside].all(axis=0)
        found: Floats = self.unary[:, local] @ member.astype(np.float64) + self.paid[:, local] @ crosses
        return found

    def result(self, member: Bools) -> Floats:
        """The way back is paid for where a set leaves out a vertex without successors."""
        found: Floats = self.back * ~member[self.sinks].all(axis=0)
        return found


def layered(problem: Problem) -> list[int]:
    """Vertices by their longest distance from the input."""
    layer = [0] * len(problem.names)
    for v in problem.order:
        for after in problem.successors[v]:
            layer[after] = max(layer[after], layer[v] + 1)
    return sorted(problem.order, key=lambda v: layer[v])


def _enumerate(problem: Problem, wanted: Bools | None) -> list[tuple[list[int], Bools]] | None:
    """Every set closed under predecessors and with the input, by the block of vertices it ends in: all
    blocks before are in it, and of the block what the columns [vertices of the block, sets] tell. Of blocks
    that are not `wanted`, none.
    """
    most = min(MOST, _CELLS // len(problem.names))
    if len(problem.names) > most:
        return None
    order = layered(problem)
    place = {v: number for number, v in enumerate(order)}
    blocks: list[list[int]] = [[]]
    reach, loose = 0, False
    for number, v in enumerate(order):
        blocks[-1].append(v)
        # No tensor jumps over v, and nothing before it ends: all later sets have all up to v.
        if reach <= number and not loose:
            blocks.append([])
        reach = max([reach, *(place[after] for after in problem.successors[v])])
        loose = loose or not problem.successors[v]
    found: list[tuple[list[int], Bools]] = []
    total = 0
    for number, block in enumerate(blocks):
        if wanted is not None and not wanted[number]:
            found.append((block, np.zeros((len(block), 0), dtype=bool)))
            continue
        local = {v: number for number, v in enumerate(block)}
        sets = np.zeros((len(block), 1), dtype=bool)
        for v in block:
            needs = [local[p] for p in problem.predecessors[v] if p in local]
            more = sets[:, sets[needs].all(axis=0)]
            more[local[v]] = True
            sets = np.hstack([sets, more])
            if total + sets.shape[1] > most:
                return None
        if block:
            found.append((block, sets[:, 1:]))  # The empty one is the block before, all of it.
            total += sets.shape[1] - 1
    return found
