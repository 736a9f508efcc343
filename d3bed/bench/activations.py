"""How long a decided plan takes to be in force: from the planner's answer to the epoch's activation.

Two kinds are told apart. What an epoch needs is *resident* where each agent had the weights under an epoch
before, and tiles were checked: it is compiled, links are opened, agents say so. Weights that are new to an
agent are read *first*, or made; a block on a grid and agents that no epoch had before is checked against
the undivided network, and timed, on each agent. The plan before goes on meanwhile.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from d3bed.core.plan import Plan
from d3bed.server.views import EpochHistory

__all__ = ["TARGET_S", "activations_s", "spread"]

#: With what it needs resident.
TARGET_S = 0.15


def activations_s(
    epochs: Iterable[EpochHistory], decided_s: Mapping[str, float], from_s: float, until_s: float
) -> tuple[list[float], list[float]]:
    """Of the epochs that came into force in that time, by number: those with what they need resident, and
    those that something was made ready for first. `decided_s` is when the planner's answer came, by cause."""
    resident: list[float] = []
    first: list[float] = []
    known: set[object] = set()
    for epoch in sorted(epochs, key=lambda epoch: epoch.epoch):
        if epoch.activated_at is None:
            continue
        needs = _needs(epoch)
        kind = resident if needs <= known else first
        known |= needs
        if from_s <= epoch.activated_at <= until_s and epoch.cause_id in decided_s:
            kind.append(epoch.activated_at - decided_s[epoch.cause_id])
    return resident, first


def _needs(epoch: EpochHistory) -> set[object]:
    """Vertices on agents, whose weights are to be there, and tiled blocks."""
    plan = Plan.parse(epoch.plan)
    route = [(epoch.route[tier], vertex) for vertex, tier in enumerate(plan.tiers) if tier in epoch.route]
    helping = [
        (agent, vertex) for each in plan.tiles for agent in each.agents for vertex in each.block.vertices
    ]
    return {*((epoch.model, *each) for each in (*route, *helping)), *map(str, plan.tiles)}


def spread(numbers: Sequence[float]) -> dict[str, float] | None:
    if not numbers:
        return None
    return {"median": statistics.median(numbers), "max": max(numbers), "count": len(numbers)}
