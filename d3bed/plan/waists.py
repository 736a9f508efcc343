"""Where a graph is one vertex wide, and between which of these places an optimal plan can change tier.

A *waist* is a vertex that every other one comes before or after, with no tensor that passes it by: the
input, and each place where all of a network's branches join. Data never flows back, so along the waists
tiers only rise, and all that lies between two waists on one tier is on that tier as well. So a plan leaves
the device between one pair of neighbouring waists, and enters the cloud between one: what a plan costs
that does so between two given ones has a lower bound, by sums up to each waist; and the plans that change
tier right behind waists are the known ones to compare with. Where the bound is above a known plan, a cut
need not look.

A graph without waists is one stretch, of which this says nothing. Only for problems where tensors are
relayed (`mincut.relayed`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from d3bed.plan.problem import EDGE_CLOUD, Problem

if TYPE_CHECKING:
    from d3bed.plan.mincut import Bools, Floats, Ints, Network

__all__ = ["Waists", "waists_of"]

#: What costs so many times a known plan is in no better one, however much more it is.
_DEARER = 2.0
#: Relative slack in comparing sums of floats, and what each of their terms may lose.
_SLACK, _EPSILON = 1e-9, 2.3e-16


def waists_of(problem: Problem) -> tuple[Ints, Ints]:
    """A topological order, and the places of waists in it, ascending."""
    order: Ints = np.array(problem.order)
    count = len(order)
    if not problem.edges:
        return order, np.zeros(1, dtype=np.int64)
    place = np.empty(count, dtype=np.int64)
    place[order] = np.arange(count)
    edges = place[np.array(problem.edges)]
    # How far the tensor of each vertex reaches; what has no reader reaches beyond the end.
    reach: Ints = np.full(count, -1)
    np.maximum.at(reach, edges[:, 0], edges[:, 1])
    reach[reach < 0] = count
    before = np.maximum.accumulate(np.concatenate([[0], reach[:-1]]))
    return order, np.flatnonzero(before <= np.arange(count))


class Waists:
    """The stretches of a problem's graph, each from a waist up to the next; the last one to the end.

    `capacity_s` are the costs of the arcs of `network`; `known_s` is what some plan costs.
    """

    def __init__(self, problem: Problem, network: Network, capacity_s: Floats, known_s: float) -> None:
        count = network.count
        self.order, self.places = waists_of(problem)
        self.count = count
        dearest = known_s * _DEARER
        unary = np.minimum(capacity_s[: 3 * count].reshape(3, count), dearest)[:, self.order]
        device, edge, cloud = unary
        self.certain_s = float(cloud.sum())
        near, far = np.zeros(count), np.zeros(count)
        for link, arcs, makers in network.crossed:
            (far if link == EDGE_CLOUD else near)[makers] = capacity_s[arcs]
            #: Per boundary: what is paid for vertices up to a place, at a crossing, and for the result.
        self.sums = [np.cumsum(device - edge), np.cumsum(edge - cloud)]
        self.least = [np.minimum(device - edge, 0.0), np.minimum(edge - cloud, 0.0)]
        self.paid = [np.minimum(near, dearest)[self.order], np.minimum(far, dearest)[self.order]]
        self.back = [float(capacity_s[arc]) for arc in network.back] or [0.0, 0.0]
        largest = max(float(np.abs(sums).max()) for sums in self.sums) + self.certain_s
        self.margin_s = _SLACK * known_s + _EPSILON * count * largest

    def cheapest(self) -> Ints:
        """The tier's rank of every vertex in the cheapest plan that changes tier right behind waists."""
        ends = self.places[self.places < self.count - 1]
        values = [
            np.append(sums[ends] + paid[ends] + back, sums[-1])
            for sums, paid, back in zip(self.sums, self.paid, self.back, strict=True)
        ]
        ends = np.append(ends, self.count - 1)
        # From the best place to leave the device up to each at which the cloud is entered.
        best = np.minimum.accumulate(values[0])
        larger = int((best + values[1]).argmin())
        smaller = int(values[0][: larger + 1].argmin())
        rank: Ints = np.empty(self.count, dtype=np.int64)
        position = np.arange(self.count)
        rank[self.order] = (position > ends[smaller]).astype(np.int64) + (position > ends[larger])
        return rank

    def bounds_s(self) -> tuple[Floats, Floats]:
        """What a plan costs at least that leaves the device in each stretch, and one that enters the
        cloud there.
        """
        first, second = (self._boundary(number) for number in (0, 1))
        after = np.minimum.accumulate(second[::-1])[::-1]
        before = np.minimum.accumulate(first)
        return self.certain_s + first + after, self.certain_s + second + before

    def _boundary(self, number: int) -> Floats:
        sums, paid = self.sums[number], self.paid[number]
        inner = self.least[number].copy()
        inner[self.places] = 0.0
        found: Floats = sums[self.places] + np.add.reduceat(inner, self.places)
        # Between two waists some tensor crosses; in the last stretch, none need to.
        found[:-1] += np.minimum.reduceat(paid, self.places)[:-1] + self.back[number]
        return found

    def open(self, bound_s: float) -> tuple[Bools, Bools]:
        """In which stretches a plan of `bound_s` or less may leave the device, and enter the cloud."""
        leave, enter = (bounds_s <= bound_s + self.margin_s for bounds_s in self.bounds_s())
        return leave, enter

    def bonds(self, bound_s: float) -> tuple[Ints, Ints]:
        """Arcs that forbid to change tier in stretches where no plan that does so costs `bound_s` or less."""
        waist = self.order[self.places]
        arcs = [
            (waist[closed + 1] + offset, waist[closed] + offset)
            for still_open, offset in zip(self.open(bound_s), (0, self.count), strict=True)
            for closed in (np.flatnonzero(~still_open[:-1]),)
        ]
        tails, heads = (np.concatenate(ends) for ends in zip(*arcs, strict=True))
        return tails, heads
