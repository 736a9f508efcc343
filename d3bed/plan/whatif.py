"""One change to a problem, and what would follow from it.

A change sets a link's rate, or makes a tier or a single vertex so many times as fast as it is. This
module applies it to a problem and compares what can be done about it: leave the plan as it is, adjust
it locally, or plan anew. It must not know how a change is written or measured.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import msgspec

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import Tier
from d3bed.core.measurements import LinkRate
from d3bed.plan.problem import Problem, check_limits, cost_s
from d3bed.plan.solve import solve

__all__ = ["Change", "Reaction", "WhatIf", "what_if", "with_change"]


class Change(msgspec.Struct, frozen=True):
    """`value` is bytes per second for a link, otherwise how many times as fast as before."""

    kind: Literal["link", "tier", "vertex"]
    name: str
    value: float


def with_change(problem: Problem, change: Change) -> Problem:
    """The problem after it. The link, tier or vertex must exist."""
    if change.kind == "link":
        rate = LinkRate(change.value, problem.links[change.name].latency_s)
        return msgspec.structs.replace(problem, links={**problem.links, change.name: rate})
    if change.kind == "tier":
        tier = Tier(change.name)
        faster = {tier: tuple(time_s / change.value for time_s in problem.times_s[tier])}
    else:
        at = problem.names.index(change.name)
        faster = {
            tier: (*times[:at], times[at] / change.value, *times[at + 1 :])
            for tier, times in problem.times_s.items()
        }
    return msgspec.structs.replace(problem, times_s={**problem.times_s, **faster})


class Reaction(msgspec.Struct, frozen=True):
    """One way to react. `cost_s` is None where it breaks a limit, and `note` says which.

    `examined` counts the vertices that were looked at, `moved` names those that change tier.
    """

    name: str
    tiers: tuple[Tier, ...]
    cost_s: float | None
    examined: int
    moved: tuple[int, ...]
    time_s: float
    note: str = ""


class WhatIf(msgspec.Struct, frozen=True):
    """A plan, its cost before a change, and the reactions to it."""

    change: Change
    tiers: tuple[Tier, ...]
    before_s: float
    reactions: tuple[Reaction, ...]


def what_if(problem: Problem, change: Change, strategy: str = "optimal") -> WhatIf:
    """React to `change` of a problem that was planned by `strategy`. Raises `PlanInfeasible`."""
    before = solve(problem, strategy)
    after = with_change(problem, change)
    reactions = [_judged(after, before.tiers, "leave it as it is", before.tiers, 0, 0.0)]
    for name in dict.fromkeys((strategy, "optimal")):
        start_s = time.perf_counter()
        try:
            tiers, note = solve(after, name).tiers, ""
        except PlanInfeasible as refusal:
            tiers, note = before.tiers, str(refusal)
        taken_s = time.perf_counter() - start_s
        reactions.append(_judged(after, before.tiers, f"new plan, {name}", tiers, len(tiers), taken_s, note))
    return WhatIf(change, before.tiers, before.cost_s, tuple(reactions))


def _judged(
    problem: Problem,
    current: Sequence[Tier],
    name: str,
    tiers: Sequence[Tier],
    examined: int,
    taken_s: float,
    note: str = "",
) -> Reaction:
    moved = tuple(v for v, (a, b) in enumerate(zip(current, tiers, strict=True)) if a is not b)
    cost: float | None = None
    try:
        check_limits(problem, tiers)
        cost = cost_s(problem, tiers)
    except PlanInfeasible as refusal:
        note = note or str(refusal)
    return Reaction(name, tuple(tiers), cost, examined, moved, taken_s, note)
