"""`hpa-greedy`: vertex by vertex in layer order, each where it is cheapest when its turn comes.

The reading of "horizontal partition" that others will make: a vertex's inputs are placed already, so
what is cheapest for it is known: its time, the crossings that its inputs still need, and (one step of
looking ahead) for each reader its time and crossing at the best place from there. What it cannot do:
pay now for what is gained two vertices later, so it stays behind every large tensor. It is here to be
measured: its plan may be many times dearer than a single tier.
"""

from __future__ import annotations

from d3bed.core.ids import TIERS, Tier
from d3bed.plan.problem import (
    DEVICE_CLOUD,
    DEVICE_EDGE,
    EDGE_CLOUD,
    Problem,
    check_limits,
    result_way,
    tensor_ways,
)

__all__ = ["hpa_greedy"]

_DEVICE, _EDGE, _CLOUD = (tier.rank for tier in TIERS)


def hpa_greedy(problem: Problem) -> tuple[Tier, ...]:
    """The greedy plan. Raises `PlanInfeasible` if it breaks a limit."""
    latest = _latest(problem)
    order = sorted(problem.order, key=_layers(problem).__getitem__)
    back_s = {
        tier.rank: sum(problem.transfer_s(link, problem.result_bytes) for link in result_way(problem, tier))
        for tier in problem.tiers
    }
    rank = [_DEVICE] * len(problem.names)
    #: Where the tensor of each vertex that is placed has been sent, or made.
    there: list[set[int]] = [set() for _ in problem.names]
    answered = _DEVICE

    def open_ranks(v: int, floor: int) -> list[int]:
        return [r for r in problem.allowed_ranks[v] if floor <= r <= latest[v]]

    def cost_s(v: int, r: int) -> float:
        total = _time_s(problem, v, r)
        total += sum(_crossing_s(problem, u, rank[u], there[u], r) for u in problem.predecessors[v])
        if not problem.successors[v]:
            total += max(0.0, back_s[max(r, answered)] - back_s[answered])
        for w in problem.successors[v]:
            total += min(
                _time_s(problem, w, s) + _crossing_s(problem, v, r, {r}, s) for s in open_ranks(w, r)
            )
        return total

    for v in order:
        floor = max((rank[u] for u in problem.predecessors[v]), default=_DEVICE)
        rank[v] = here = min(open_ranks(v, floor), key=lambda r, v=v: cost_s(v, r))  # type: ignore[misc]
        there[v].add(here)
        for u in problem.predecessors[v]:
            if here == _CLOUD and _relayed(problem, u, rank[u], there[u]):
                there[u].add(_EDGE)
            there[u].add(here)
        if not problem.successors[v]:
            answered = max(answered, here)
    tiers = tuple(TIERS[r] for r in rank)
    check_limits(problem, tiers)
    return tiers


def _layers(problem: Problem) -> list[int]:
    """The longest path from the input to each vertex."""
    found = [0] * len(problem.names)
    for v in problem.order:
        found[v] = max((found[u] + 1 for u in problem.predecessors[v]), default=0)
    return found


def _latest(problem: Problem) -> list[int]:
    """The latest rank at which each vertex leaves its descendants a tier that they may be on."""
    found = [ranks[-1] for ranks in problem.allowed_ranks]
    for v in reversed(problem.order):
        bound = min((found[w] for w in problem.successors[v]), default=found[v])
        found[v] = max(r for r in problem.allowed_ranks[v] if r <= bound)
    return found


def _time_s(problem: Problem, v: int, rank: int) -> float:
    tier = TIERS[rank]
    moved = problem.current.get(problem.names[v], tier) is not tier
    return problem.times_s[tier][v] + moved * problem.migration_cost_s


def _crossing_s(problem: Problem, u: int, here: int, there: set[int], target: int) -> float:
    """What it costs to have the tensor of `u`, made on rank `here`, on `target` as well."""
    if target in there:
        return 0.0
    size = problem.output_bytes[u]
    if target == _EDGE:
        return problem.transfer_s(DEVICE_EDGE, size)
    if here == _DEVICE and not _relayed(problem, u, here, there):
        return problem.transfer_s(DEVICE_CLOUD, size)
    first_s = 0.0 if _EDGE in there else problem.transfer_s(DEVICE_EDGE, size)
    return first_s + problem.transfer_s(EDGE_CLOUD, size)


def _relayed(problem: Problem, u: int, here: int, there: set[int]) -> bool:
    """Whether the tensor of `u` reaches the cloud by way of the edge."""
    return here == _EDGE or not tensor_ways(problem, u)[_EDGE in there]
