"""How long a decided plan takes to be in force: from the planner's answer to the epoch's activation.

Two kinds are told apart. What an epoch needs is *resident* where weights are there and its tiles were checked
before: it is compiled, links are opened, agents say so. A block on a grid and agents that no epoch had before
is checked against the undivided network *first*, and timed, on each agent; the plan before goes on meanwhile.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from d3bed.server.views import EpochHistory

__all__ = ["TARGET_S", "activations_s", "spread"]

#: With what it needs resident.
TARGET_S = 0.15


def activations_s(
    epochs: Iterable[EpochHistory], decided_s: Mapping[str, float], from_s: float, until_s: float
) -> tuple[list[float], list[float]]:
    """Of the epochs that came into force in that time, by number: those with what they need resident, and
    those whose tiles were checked first. `decided_s` is when the planner's answer came, by cause."""
    resident: list[float] = []
    first: list[float] = []
    known: set[str] = set()
    for epoch in sorted(epochs, key=lambda epoch: epoch.epoch):
        if epoch.activated_at is None:
            continue
        tiles = {line for line in epoch.plan.splitlines() if line.startswith("tiles")}
        kind = resident if tiles <= known else first
        known |= tiles
        if from_s <= epoch.activated_at <= until_s and epoch.cause_id in decided_s:
            kind.append(epoch.activated_at - decided_s[epoch.cause_id])
    return resident, first


def spread(numbers: Sequence[float]) -> dict[str, float] | None:
    if not numbers:
        return None
    return {"median": statistics.median(numbers), "max": max(numbers), "count": len(numbers)}
