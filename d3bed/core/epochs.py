"""The life of a plan epoch, as a table.

    PROPOSED ──prepare──▶ PREPARING ──activate──▶ ACTIVE ──drain──▶ DRAINING ──retire──▶ RETIRED
        └──────fail──────────┴──fail──▶ FAILED

An illegal move raises `IllegalTransition` with the epoch's history and changes nothing.
"""

from __future__ import annotations

from enum import StrEnum

from d3bed.core.errors import IllegalTransition
from d3bed.core.ids import Epoch

__all__ = ["EPOCH_TRANSITIONS", "EpochLife", "EpochState"]


class EpochState(StrEnum):
    PROPOSED = "proposed"
    PREPARING = "preparing"
    ACTIVE = "active"
    DRAINING = "draining"
    RETIRED = "retired"
    FAILED = "failed"


EPOCH_TRANSITIONS: dict[tuple[EpochState, str], EpochState] = {
    (EpochState.PROPOSED, "prepare"): EpochState.PREPARING,
    (EpochState.PROPOSED, "fail"): EpochState.FAILED,
    (EpochState.PREPARING, "activate"): EpochState.ACTIVE,
    (EpochState.PREPARING, "fail"): EpochState.FAILED,
    (EpochState.ACTIVE, "drain"): EpochState.DRAINING,
    (EpochState.DRAINING, "retire"): EpochState.RETIRED,
}


class EpochLife:
    """The state of one epoch and how it got there."""

    def __init__(self, epoch: Epoch) -> None:
        self.epoch = epoch
        self.state = EpochState.PROPOSED
        self.history: tuple[str, ...] = (EpochState.PROPOSED.value,)

    def move(self, event: str) -> EpochState:
        """Apply `event`; returns the new state. Raises `IllegalTransition`."""
        after = EPOCH_TRANSITIONS.get((self.state, event))
        if after is None:
            raise IllegalTransition(f"epoch {self.epoch}", self.state.value, event, self.history)
        self.state = after
        self.history = (*self.history, f"{event} → {after.value}")
        return after
