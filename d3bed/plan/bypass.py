"""The cheapest plan where a direct device-cloud link may be cheaper than relaying.

What a tensor from the device to the cloud costs is then no matter of two separate cuts. But between two
waists (`waists`) at least: a plan that leaves the device in one stretch and enters the cloud in a later
one has no such tensor, and among these a minimum cut finds the best. What is left are plans that go from
device to cloud within one stretch. All before it is on the device, all after it in the cloud, so that
each stretch is a problem of its own, a small one in most networks; a lower bound tells most of them to be
no better than what is known. The others are solved as linear programs, with whole numbers where needed.

Only for problems without limits on memory or rate (`applies`).
"""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from d3bed.core.ids import Tier
from d3bed.plan import milp
from d3bed.plan.baselines import all_on
from d3bed.plan.mincut import Floats, Network, minimum_cut
from d3bed.plan.problem import DEVICE_CLOUD, DEVICE_EDGE, EDGE_CLOUD, Problem, cost_s, result_way
from d3bed.plan.waists import Waists

__all__ = ["applies", "with_direct_link"]

#: A gap no larger than this is rounding.
_ROUNDING = 1e-9


def applies(problem: Problem) -> bool:
    """Whether this module's way is open: all tiers and links, no limits, and a result from one place
    where it may come back directly.
    """
    if problem.memory_bytes or problem.rate_per_s is not None or len(problem.links) < 3:
        return False
    direct = problem.result_bytes and DEVICE_CLOUD in result_way(problem, Tier.CLOUD)
    return len(problem.sinks) == 1 or not direct


def with_direct_link(problem: Problem, gap: float = 0.0) -> tuple[tuple[Tier, ...], float]:
    """A plan, at most `gap` dearer than the cheapest as a part of its cost, and what none goes below."""
    relayed = _relayed(problem)
    singles = [all_on(problem, tier) for tier in problem.tiers]
    tiers, bound_s = minimum_cut(relayed, singles)
    best_s, best = min((cost_s(problem, plan), plan) for plan in (tiers, *singles))
    stretches = _Stretches(problem, relayed, best_s)
    plan, plan_s = stretches.cheapest()
    if plan_s < best_s:
        best_s, best = cost_s(problem, plan), plan
    least_s = stretches.bounds_s()
    for number in np.argsort(least_s).tolist():
        enough_s = best_s * (1 - gap)
        if least_s[number] >= enough_s:
            bound_s = min(bound_s, float(least_s[number]))
            break
        plan, at_least_s = stretches.solve(number, best_s - enough_s)
        bound_s = min(bound_s, at_least_s)
        if cost_s(problem, plan) < best_s:
            best_s, best = cost_s(problem, plan), plan
    return best, min(bound_s, best_s)


def _relayed(problem: Problem) -> Problem:
    """The problem without its direct link; what one result costs on its way back is paid where it is
    made, as it may come back directly.
    """
    links = {link: rate for link, rate in problem.links.items() if link != DEVICE_CLOUD}
    if len(problem.sinks) > 1:
        return replace(problem, links=links)
    (sink,) = problem.sinks
    times_s = {}
    for tier, times in problem.times_s.items():
        back_s = sum(problem.transfer_s(link, problem.result_bytes) for link in result_way(problem, tier))
        times_s[tier] = (*times[:sink], times[sink] + back_s, *times[sink + 1 :])
    return replace(problem, links=links, times_s=times_s, result_bytes=0)


class _Stretches:
    """Plans that go from device to cloud within one stretch: what those of each cost at least."""

    def __init__(self, problem: Problem, relayed: Problem, known_s: float) -> None:
        self.problem, self.relayed = problem, relayed
        network = Network(relayed)
        self.waists = Waists(relayed, network, network.capacity_s, known_s)
        count = network.count
        unary = network.capacity_s[: 3 * count].reshape(3, count)[:, self.waists.order]
        self.unary = np.minimum(unary, known_s * 2)
        sizes = np.array(problem.output_bytes, dtype=np.float64)[self.waists.order]
        direct, near, far = (
            problem.links[link].latency_s + sizes / problem.links[link].bytes_per_s
            for link in (DEVICE_CLOUD, DEVICE_EDGE, EDGE_CLOUD)
        )
        self.direct, self.near, self.far = direct, near, far
        self.back_s = sum(self.waists.back)
        places = self.waists.places
        #: Seconds before each stretch, its first waist included, and from the next waist on.
        self.before = np.cumsum(self.unary[0])[places]
        self.after = np.append(np.cumsum(self.unary[2][::-1])[::-1][places[1:]], 0.0)

    def cheapest(self) -> tuple[tuple[Tier, ...], float]:
        """The best of those that do so right behind a waist; what is not allowed costs far more."""
        waists = self.waists
        ends = waists.places
        alone = np.minimum(self.direct, self.near + self.far)[ends]
        behind = np.cumsum(self.unary[2][::-1])[::-1] - self.unary[2]
        total = self.before + behind[ends] + np.where(ends < waists.count - 1, alone + self.back_s, 0.0)
        best = int(total.argmin())
        return self._plan(best, ()), float(total[best])

    def bounds_s(self) -> Floats:
        places = self.waists.places
        inner = self.unary.min(axis=0)
        inner[places] = 0.0
        found: Floats = self.before + np.add.reduceat(inner, places) + self.after
        direct, near, far = (np.minimum.reduceat(paid, places) for paid in (self.direct, self.near, self.far))
        found[:-1] += (np.minimum(direct, near + far) + self.back_s)[:-1]
        return found - self.waists.margin_s

    def solve(self, number: int, gap_s: float) -> tuple[tuple[Tier, ...], float]:
        """A plan of this stretch, at most `gap_s` dearer than its best, and what none goes below."""
        problem = self._alone(number)
        known_s = cost_s(problem, all_on(problem, Tier.CLOUD))
        offset_s = float(self.before[number] + self.after[number])
        if number < len(self.waists.places) - 1:
            offset_s += self.back_s
        found = milp.relaxed(problem, known_s)
        if found is not None and cost_s(problem, found[0]) - found[1] <= gap_s + _ROUNDING * known_s:
            tiers, bound_s = found
        else:
            tiers = milp.mixed_integer(problem, known_s, gap_s / known_s if known_s > 0 else 0.0)
            bound_s = cost_s(problem, tiers) - gap_s
        return self._plan(number, tiers[1:]), offset_s + bound_s

    def _members(self, number: int) -> list[int]:
        """The vertices of a stretch, and the next waist."""
        places = [*self.waists.places.tolist(), self.waists.count]
        members: list[int] = self.waists.order[places[number] : places[number + 1] + 1].tolist()
        return members

    def _alone(self, number: int) -> Problem:
        """The problem of a stretch, with its first waist as the input, and the next one in the cloud;
        what these two cost is left out.
        """
        whole, members = self.relayed, self._members(number)
        place = {v: n for n, v in enumerate(members)}
        names = [whole.names[v] for v in members]
        last = number == len(self.waists.places) - 1
        free = members[1:] if last else members[1:-1]
        inner = {whole.names[v] for v in free}
        allowed = {name: tiers for name, tiers in whole.allowed.items() if name in inner}
        return Problem(
            names=tuple(names),
            times_s={
                tier: tuple(times[v] if whole.names[v] in inner else 0.0 for v in members)
                for tier, times in whole.times_s.items()
            },
            output_bytes=tuple(whole.output_bytes[v] for v in members),
            edges=tuple((place[u], place[v]) for u in members for v in whole.successors[u] if v in place),
            links=self.problem.links,
            result_bytes=whole.result_bytes if last else 0,
            allowed=allowed if last else allowed | {names[-1]: (Tier.CLOUD,)},
            current={name: tier for name, tier in whole.current.items() if name in inner},
            migration_cost_s=whole.migration_cost_s,
        )

    def _plan(self, number: int, inner: tuple[Tier, ...]) -> tuple[Tier, ...]:
        """A whole plan: `inner` are the tiers of a stretch behind its first waist, or else the cloud."""
        places, order = self.waists.places, self.waists.order
        tiers = [Tier.CLOUD] * self.waists.count
        for v in order[: places[number] + 1].tolist():
            tiers[v] = Tier.DEVICE
        for v, tier in zip(self._members(number)[1:], inner, strict=False):
            tiers[v] = tier
        return tuple(tiers)
