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

__all__ = ["MOST", "Ideals", "layered"]

#: More sets than this are not made, nor sets with more members and others in all.
MOST = 20_000
_CELLS = 8_000_000
#: And more pairs than this are not looked at.
_PAIRS = 4_000_000
#: So many times all costs together stand for what is not allowed.
_NEVER = 1e3


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
    def all(cls, problem: Problem, network: Network, metrics: Floats) -> Ideals | None:
        """Every set; None if there are too many. `metrics` [metrics, arcs] are those of cut arcs."""
        found = _enumerate(problem)
        return None if found is None else cls.judge(problem, network, metrics, *found)

    @classmethod
    def prefixes(cls, problem: Problem, network: Network, metrics: Floats, most: int) -> Ideals:
        """Only those that cut one order of the vertices, at up to `most` places."""
        count = network.count
        places = min(count, most, max(2, _CELLS // count))
        steps = np.unique(np.linspace(1, count, places).round().astype(int))
        position = np.empty(count, dtype=np.int64)
        position[layered(problem)] = np.arange(count)
        return cls.judge(problem, network, metrics, position[:, None] < steps, np.arange(len(steps)))

    @classmethod
    def judge(cls, problem: Problem, network: Network, metrics: Floats, member: Bools, block: Ints) -> Ideals:
        count, rows = network.count, len(metrics)
        forbidden = np.isinf(metrics)
        never = _NEVER * (metrics[~forbidden].sum() or 1.0)
        device, edge, cloud = (
            np.where(forbidden, never, metrics)[:, : 3 * count].reshape(rows, 3, count).transpose(1, 0, 2)
        )
        inside = member.astype(np.float64)
        parts = np.vstack([device - edge, edge - cloud]) @ inside
        first, second = parts[:rows], parts[rows:] + cloud.sum(axis=1)[:, None]
        if problem.edges:
            edges = np.array(problem.edges)  # sorted by producer
            producers, starts = np.unique(edges[:, 0], return_index=True)
            crosses = member[producers] & ~np.logical_and.reduceat(member[edges[:, 1]], starts, axis=0)
            crossing = crosses.astype(np.float64)
            number = np.full(count, -1)
            number[producers] = np.arange(len(producers))
            paid = {False: np.zeros((rows, len(producers))), True: np.zeros((rows, len(producers)))}
            for link, arcs, makers in network.crossed:
                paid[link == EDGE_CLOUD][:, number[makers]] = metrics[:, arcs]
            first += paid[False] @ crossing
            if paid[True].any():
                second += paid[True] @ crossing
        if problem.result_bytes:
            # The way back is paid for where a set leaves a sink out; its arcs are the last into the sink.
            beyond, cloud_arc = np.flatnonzero(network.head == network.sink)[-2:]
            outside = ~member[list(problem.sinks)].all(axis=0)
            first[0] += np.where(outside, metrics[0, beyond], 0.0)
            second[0] += np.where(outside, metrics[0, cloud_arc], 0.0)
        return cls(member, block, first, second)

    def rank(self, smaller: int, larger: int) -> Ints:
        """The plan of two sets, as the tier's rank per vertex."""
        found: Ints = (~self.member[:, smaller]).astype(np.int64) + ~self.member[:, larger]
        return found

    def nested(self, smaller: int, larger: int) -> bool:
        return not (self.member[:, smaller] & ~self.member[:, larger]).any()

    def below(self, prices: Floats, ceiling: float) -> tuple[Ints, Ints] | None:
        """Every nested pair (and some that are not) whose metrics at `prices` add up to `ceiling` at
        most, as two columns of set numbers; None if they are too many to look at.
        """
        first, second = prices @ self.first, prices @ self.second
        blocks = int(self.block[-1]) + 1
        best_first, best_second = np.full(blocks, np.inf), np.full(blocks, np.inf)
        np.minimum.at(best_first, self.block, first)
        np.minimum.at(best_second, self.block, second)
        before = np.minimum.accumulate(best_first)
        after = np.minimum.accumulate(best_second[::-1])[::-1]
        smaller = np.flatnonzero(first + after[self.block] <= ceiling)
        larger = np.flatnonzero(second + before[self.block] <= ceiling)
        if len(smaller) * len(larger) > _PAIRS:
            return None
        low = first[smaller][:, None] + second[larger][None, :] <= ceiling
        low &= self.block[smaller][:, None] <= self.block[larger][None, :]
        rows, columns = np.nonzero(low)
        return smaller[rows], larger[columns]


def layered(problem: Problem) -> list[int]:
    """Vertices by their longest distance from the input."""
    layer = [0] * len(problem.names)
    for v in problem.order:
        for after in problem.successors[v]:
            layer[after] = max(layer[after], layer[v] + 1)
    return sorted(problem.order, key=lambda v: layer[v])


def _enumerate(problem: Problem) -> tuple[Bools, Ints] | None:
    """Every set closed under predecessors and with the input: its members, and its block."""
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
    member: list[Bools] = []
    numbers: list[Ints] = []
    before: list[int] = []
    total = 0
    for block_number, block in enumerate(blocks):
        local = {v: number for number, v in enumerate(block)}
        sets = np.zeros((len(block), 1), dtype=bool)
        for v in block:
            needs = [local[p] for p in problem.predecessors[v] if p in local]
            more = sets[:, sets[needs].all(axis=0)]
            more[local[v]] = True
            sets = np.hstack([sets, more])
            if total + sets.shape[1] > most:
                return None
        sets = sets[:, 1:]  # The empty one is the block before, all of it.
        whole = np.zeros((len(order), sets.shape[1]), dtype=bool)
        whole[before] = True
        whole[block] = sets
        member.append(whole)
        numbers.append(np.full(sets.shape[1], block_number))
        before += block
        total += sets.shape[1]
    return np.hstack(member), np.concatenate(numbers)
