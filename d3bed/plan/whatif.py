"""One change to a problem, and what would follow from it.

A change sets a link's rate, or makes a tier or a single vertex so many times as fast as it is. This
module applies it to a problem and compares what can be done about it: leave the plan as it is, adjust
it locally, or plan anew. It must not know how a change is written or measured.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import msgspec

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import Tier
from d3bed.core.measurements import LinkRate
from d3bed.plan.adjust import Standing
from d3bed.plan.problem import Problem, check_limits, cost_s
from d3bed.plan.solve import solve

__all__ = ["Reaction", "Supposition", "WhatIf", "suppose", "what_if"]

_Given = TypeVar("_Given")
_Result = TypeVar("_Result")

#: Runs to time a reaction: so many, or as many as fit the budget, one at least.
_MOST_RUNS, _BUDGET_S = 5, 0.1


class Supposition(msgspec.Struct, frozen=True):
    """`value` is bytes per second for a link, otherwise how many times as fast as before."""

    kind: Literal["link", "tier", "vertex"]
    name: str
    value: float


def suppose(problem: Problem, change: Supposition) -> Problem:
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

    change: Supposition
    tiers: tuple[Tier, ...]
    before_s: float
    reactions: tuple[Reaction, ...]


def what_if(problem: Problem, change: Supposition, strategy: str = "optimal") -> WhatIf:
    """React to `change` of a problem that was planned by `strategy`. Raises `PlanInfeasible`.

    Times are medians of a few runs on fresh copies. The local adjustment is timed as in a running
    pipeline, which has at hand what it knew of the plan in force.
    """
    before = solve(problem, strategy)
    after = suppose(problem, change)
    # How much dearer than the cheapest the plan may be is known only of these.
    slack_s = 0.0 if strategy in ("optimal", "hpa") else math.inf
    reactions = [_judged(after, before.tiers, "leave it as it is", before.tiers, 0, 0.0)]

    def standing() -> Standing:
        return Standing(msgspec.structs.replace(problem), before.tiers, slack_s)

    try:
        adjusted, taken_s = _timed(standing, lambda plan: plan.adjust(after))
    except PlanInfeasible as refusal:
        reactions.append(_refused(before.tiers, "local adjustment", refusal))
    else:
        name, note = "local adjustment", adjusted.why_stopped.value
        reactions.append(_judged(after, before.tiers, name, adjusted.tiers, adjusted.examined, taken_s, note))
    for name in dict.fromkeys((strategy, "hpa", "optimal")):
        reactions.append(_anew(after, before.tiers, name))
    return WhatIf(change, before.tiers, before.cost_s, tuple(reactions))


def _anew(after: Problem, current: tuple[Tier, ...], strategy: str) -> Reaction:
    name = f"new plan, {strategy}"
    try:
        found, taken_s = _timed(lambda: msgspec.structs.replace(after), lambda copy: solve(copy, strategy))
    except PlanInfeasible as refusal:
        return _refused(current, name, refusal)
    return _judged(after, current, name, found.tiers, len(found.tiers), taken_s)


def _timed(prepare: Callable[[], _Given], act: Callable[[_Given], _Result]) -> tuple[_Result, float]:
    """What it comes to, and the median time in seconds; the first run warms up and does not count."""
    result = act(prepare())
    times_s = list[float]()
    while len(times_s) < _MOST_RUNS and sum(times_s) < _BUDGET_S:
        given = prepare()
        start_s = time.perf_counter()
        act(given)
        times_s.append(time.perf_counter() - start_s)
    return result, statistics.median(times_s)


def _refused(current: tuple[Tier, ...], name: str, refusal: PlanInfeasible) -> Reaction:
    return Reaction(name, current, None, 0, (), 0.0, str(refusal))


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
