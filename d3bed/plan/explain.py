"""Why the optimal plan has a vertex where it is, and what it would take to move it.

Decides by solving again: with the vertex held on each other tier (its neighbours move with it as they
must, and the rest as it pays), and with each link and tier faster or slower, up to a factor of 4,096,
until the vertex is elsewhere. The way from one factor to the next is searched by bisection; a vertex
that leaves and comes back between two factors tried, a factor of two apart, is not noticed.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import Tier
from d3bed.plan.optimal import optimal
from d3bed.plan.placements import restricted
from d3bed.plan.problem import Problem, cost_s
from d3bed.plan.whatif import Supposition, suppose

__all__ = ["Elsewhere", "Explanation", "Trigger", "explain"]

_FACTORS = 12
#: A trigger is found to within this part.
_PRECISION = 1.005


class Elsewhere(msgspec.Struct, frozen=True):
    """The best plan with the vertex on another tier, or why there is none.

    `compute_s` and `transfer_s` are that plan's, less the optimal plan's. With at most `time_s` on this
    tier the vertex would be there; None if even taking no time would not do.
    """

    tier: Tier
    refused: str = ""
    cost_s: float | None = None
    compute_s: float = 0.0
    transfer_s: float = 0.0
    moved: tuple[int, ...] = ()
    time_s: float | None = None


class Trigger(msgspec.Struct, frozen=True):
    """The smallest change of one link or tier that moves the vertex, and where it goes."""

    change: Supposition
    factor: float
    to: Tier


class Explanation(msgspec.Struct, frozen=True):
    vertex: int
    tier: Tier
    tiers: tuple[Tier, ...]
    cost_s: float
    elsewhere: tuple[Elsewhere, ...]
    triggers: tuple[Trigger, ...]


def explain(problem: Problem, vertex: int) -> Explanation:
    """Explain `vertex` in the optimal plan; triggers nearest first. Raises `PlanInfeasible`."""
    best = optimal(problem)
    least_s = cost_s(problem, best)
    here = best[vertex]
    elsewhere = tuple(
        _held(problem, best, least_s, vertex, tier) for tier in problem.tiers if tier is not here
    )
    found = [trigger for change in _levers(problem) for trigger in _triggers(problem, vertex, here, change)]
    found.sort(key=lambda trigger: max(trigger.factor, 1 / trigger.factor))
    return Explanation(vertex, here, best, least_s, elsewhere, tuple(found))


def _held(problem: Problem, best: tuple[Tier, ...], least_s: float, vertex: int, tier: Tier) -> Elsewhere:
    if tier.rank not in problem.allowed_ranks[vertex]:
        return Elsewhere(tier, "it may not be there" if vertex else "the input stays on the device")
    narrow = restricted(problem, {problem.names[vertex]: (tier,)})
    if narrow is None:
        return Elsewhere(tier, "pins of other vertices keep it from there")
    try:
        tiers = optimal(narrow)
    except PlanInfeasible as refusal:
        return Elsewhere(tier, f"{refusal.binding}: {refusal.problem}")
    found_s = cost_s(problem, tiers)
    compute_s = _compute_s(problem, tiers) - _compute_s(problem, best)
    moved = tuple(v for v, (a, b) in enumerate(zip(best, tiers, strict=True)) if a is not b)
    # Whatever the vertex saves there, every plan that has it there saves.
    spare_s = problem.times_s[tier][vertex] - (found_s - least_s)
    return Elsewhere(
        tier,
        cost_s=found_s,
        compute_s=compute_s,
        transfer_s=found_s - least_s - compute_s,
        moved=moved,
        time_s=spare_s if spare_s >= 0 else None,
    )


def _compute_s(problem: Problem, tiers: tuple[Tier, ...]) -> float:
    return sum(problem.times_s[tier][v] for v, tier in enumerate(tiers))


def _levers(problem: Problem) -> Iterator[Supposition]:
    """What can be turned, as it is now."""
    for link, rate in problem.links.items():
        yield Supposition("link", link, rate.bytes_per_s)
    for tier in problem.tiers:
        yield Supposition("tier", tier.value, 1.0)


def _triggers(problem: Problem, vertex: int, here: Tier, now: Supposition) -> Iterator[Trigger]:
    """The nearest factors above and below 1 with which the vertex is elsewhere."""

    def place(factor: float) -> Tier:
        changed = suppose(problem, Supposition(now.kind, now.name, now.value * factor))
        try:
            return optimal(changed)[vertex]
        except PlanInfeasible:
            return here

    for base in (2.0, 0.5):
        stays = 1.0
        for step in range(1, _FACTORS + 1):
            goes = base**step
            to = place(goes)
            if to is not here:
                while max(goes / stays, stays / goes) > _PRECISION:
                    middle = (stays * goes) ** 0.5
                    found = place(middle)
                    if found is here:
                        stays = middle
                    else:
                        goes, to = middle, found
                yield Trigger(Supposition(now.kind, now.name, now.value * goes), goes, to)
                break
            stays = goes
