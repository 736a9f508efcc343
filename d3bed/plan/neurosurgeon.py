"""`neurosurgeon`: one cut through the layers, between two tiers.

After Kang et al., "Neurosurgeon: Collaborative Intelligence Between the Cloud and Mobile Edge",
ASPLOS 2017: layers run in the order in which the framework has them; for every position in it, what
the client would compute, the one transfer, and what the server would compute are added up, and the
position of the least sum is taken. The paper has a phone and a datacenter; here every pair of tiers
is tried, device–cloud, edge–cloud and device–edge, and the best is kept.

For a stream, `fastest_cut` takes the cut whose slowest stage is fastest. The paper has no such plan: it is
what the best of its cuts could sustain, so that its rate is not that of a plan made for one frame.

What it cannot do: use three tiers; cut branches at different depths, as a DAG allows (its networks
are chains, and here one cut of one order may leave several tensors to send); adapt a plan in part.
What the paper does not have, and it gets here: the uint8 photo, relaying, latencies, the result's way
back, pins, and limits (the cheapest cut that keeps them).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import accumulate

import msgspec

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import Tier
from d3bed.plan.placements import no_placement, placements
from d3bed.plan.problem import (
    DEVICE_CLOUD,
    DEVICE_EDGE,
    EDGE_CLOUD,
    Problem,
    check_limits,
    loads_s,
    result_way,
    tensor_ways,
)

__all__ = ["fastest_cut", "framework_order", "neurosurgeon"]


def neurosurgeon(problem: Problem) -> tuple[Tier, ...]:
    """The cheapest single cut between two tiers. Raises `PlanInfeasible`."""
    order = framework_order(problem)
    cuts = sorted(
        (cost_s, tuple(tier.rank for tier in pair), cut, pair)
        for pair, narrow in placements(problem)
        for cut, cost_s in _cuts(narrow, order, *pair)
    )
    if not cuts:
        raise no_placement("neurosurgeon")
    refusals: list[tuple[float, int, PlanInfeasible]] = []
    for number, (_, _, cut, pair) in enumerate(cuts):
        tiers = _assignment(order, cut, *pair)
        try:
            check_limits(problem, tiers)
        except PlanInfeasible as error:
            slowest_s = 0.0 if problem.rate_per_s is None else max(loads_s(problem, tiers).values())
            refusals.append((slowest_s, number, error))
            continue
        return tiers
    # The one nearest to the rate names the highest that would do.
    raise min(refusals, key=lambda refused: refused[:2])[2]


def fastest_cut(problem: Problem) -> tuple[Tier, ...]:
    """The single cut between two tiers whose slowest stage is fastest; of equal ones the cheapest. Memory
    limits count, a rate does not. Raises `PlanInfeasible`."""
    order, problem = framework_order(problem), msgspec.structs.replace(problem, rate_per_s=None)
    cuts = []
    for pair, narrow in placements(problem):
        before = [list(accumulate((narrow.times_s[tier][v] for v in order), initial=0.0)) for tier in pair]
        for cut, cost in _cuts(narrow, order, *pair):
            tiers_s = max(before[0][cut], before[1][-1] - before[1][cut])
            cuts.append((tiers_s, cost, tuple(tier.rank for tier in pair), cut, pair))
    best: tuple[float, float, tuple[Tier, ...]] | None = None
    refusal: PlanInfeasible | None = None
    for tiers_s, cost, _, cut, pair in sorted(cuts):
        if best is not None and tiers_s > best[0]:
            break  # links can only add to the slowest stage
        tiers = _assignment(order, cut, *pair)
        try:
            check_limits(problem, tiers)
        except PlanInfeasible as error:
            refusal = refusal or error
            continue
        found = (max(loads_s(problem, tiers).values()), cost, tiers)
        best = min(best or found, found, key=lambda each: each[:2])
    if best is None:
        raise refusal or no_placement("neurosurgeon")
    return best[2]


def _assignment(order: Sequence[int], cut: int, front: Tier, back: Tier) -> tuple[Tier, ...]:
    tiers = [back] * len(order)
    for v in order[:cut]:
        tiers[v] = front
    tiers[0] = Tier.DEVICE
    return tuple(tiers)


def framework_order(problem: Problem) -> tuple[int, ...]:
    """The topological order nearest to the vertices' numbers: as the framework runs the layers."""
    missing = [len(before) for before in problem.predecessors]
    ready, found = [0], list[int]()
    while ready:
        v = heapq.heappop(ready)
        found.append(v)
        for after in problem.successors[v]:
            missing[after] -= 1
            if not missing[after]:
                heapq.heappush(ready, after)
    return tuple(found)


def _cuts(problem: Problem, order: Sequence[int], front: Tier, back: Tier) -> list[tuple[int, float]]:
    """Every possible cut, as how many vertices of the order are before it, and what it costs (s)."""
    count = len(order)
    place = {v: position for position, v in enumerate(order)}
    first_cut, last_cut = 1, count
    for v in order[1:]:
        if front.rank not in problem.allowed_ranks[v]:
            last_cut = min(last_cut, place[v])
        if back.rank not in problem.allowed_ranks[v]:
            first_cut = max(first_cut, place[v] + 1)

    def paid_s(v: int, tier: Tier) -> float:
        moved = problem.current.get(problem.names[v], tier) is not tier
        return problem.times_s[tier][v] + moved * problem.migration_cost_s

    #: What is added to the cost from a cut on; a running sum gives the cost of each.
    steps = [0.0] * (count + 2)

    def pay(first: int, last: int, seconds: float) -> None:
        """Cuts from `first` to `last`, inclusive, cost so much more."""
        steps[first] += seconds
        steps[last + 1] -= seconds

    pay(0, count, paid_s(0, Tier.DEVICE))
    for v in order[1:]:
        pay(place[v] + 1, count, paid_s(v, front))
        pay(0, place[v], paid_s(v, back))
    for v in order:
        readers = [place[reader] for reader in problem.successors[v]]
        if not readers:
            continue
        if v or front is Tier.DEVICE:
            pay(place[v] + 1, max(readers), _crossing_s(problem, v, front, {back}))
        else:
            pay(0, min(readers), _crossing_s(problem, v, Tier.DEVICE, {back}))
            pay(min(readers) + 1, max(readers), _crossing_s(problem, v, Tier.DEVICE, {front, back}))
            pay(max(readers) + 1, count, _crossing_s(problem, v, Tier.DEVICE, {front}))
    final = max(place[v] for v in problem.sinks)
    pay(0, final, _back_s(problem, back))
    pay(final + 1, count, _back_s(problem, front))
    return [(cut, cost_s) for cut, cost_s in enumerate(accumulate(steps)) if first_cut <= cut <= last_cut]


def _crossing_s(problem: Problem, v: int, here: Tier, goals: set[Tier]) -> float:
    """What a tensor made `here` pays to reach `goals`."""
    links = set[str]()
    if Tier.CLOUD in goals and here is not Tier.CLOUD:
        direct = here is Tier.DEVICE and tensor_ways(problem, v)[Tier.EDGE in goals]
        links.add(DEVICE_CLOUD if direct else EDGE_CLOUD)
        if here is Tier.DEVICE and not direct:
            links.add(DEVICE_EDGE)
    if Tier.EDGE in goals and here is Tier.DEVICE:
        links.add(DEVICE_EDGE)
    return sum(problem.transfer_s(link, problem.output_bytes[v]) for link in links)


def _back_s(problem: Problem, tier: Tier) -> float:
    """What the result pays on its way back from `tier`; an input alone is its own result."""
    return sum(problem.transfer_s(link, problem.result_bytes) for link in result_way(problem, tier))
