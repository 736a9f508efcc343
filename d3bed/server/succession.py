"""How one plan epoch of a pipeline follows another: prepare → ready from all → activate → drain → retire.

Pure. It keeps the epochs and moves them through their table of states, records each move, and tells agents
to forget what is over. Which epoch is to come, and why, `pipeline` decides.
"""

from __future__ import annotations

import msgspec

from d3bed.core.epochs import EpochState
from d3bed.core.ids import AgentId, Epoch, PipelineId
from d3bed.core.messages import Abandon, Activate, Retire
from d3bed.server.epochs import PlannedEpoch
from d3bed.server.world import World

__all__ = ["EPOCHS_KEPT", "Succession"]

EPOCHS_KEPT = 100


class Succession:
    """The epochs of one pipeline: at most one `preparing` and one `active`, any number `draining`.

    Each stands for the others of its mix as well; those that drain do so one by one.

    `epochs` are the last `EPOCHS_KEPT`, and those that still carry frames, by number; `switches` counts all
    that came into force.
    """

    def __init__(self, pipeline: PipelineId, device: AgentId, world: World) -> None:
        self._pipeline, self._device, self._world = pipeline, device, world
        self.active: PlannedEpoch | None = None
        self.preparing: PlannedEpoch | None = None
        self.draining: dict[Epoch, PlannedEpoch] = {}
        self.epochs: dict[Epoch, PlannedEpoch] = {}
        self.switches = 0

    @property
    def agents(self) -> set[AgentId]:
        """All that frames need."""
        under_way = (self.active, self.preparing, *self.draining.values())
        return {agent for epoch in under_way if epoch is not None for agent in epoch.agents}

    def propose(self, epoch: PlannedEpoch) -> None:
        """A new epoch, which its agents are to prepare."""
        self.epochs |= {each.number: each for each in epoch.group}
        over = (EpochState.RETIRED, EpochState.FAILED)
        gone = [number for number, old in self.epochs.items() if old.life.state in over]
        for number in gone[: max(0, len(self.epochs) - EPOCHS_KEPT)]:
            del self.epochs[number]
        self.preparing = epoch
        for each in epoch.group:
            self._move(each, "prepare")

    def call_off(self) -> PlannedEpoch | None:
        """Give up the epoch in preparation, if there is one, and return it."""
        epoch, self.preparing = self.preparing, None
        for each in epoch.group if epoch is not None else ():
            self._move(each, "fail")
            self._retire_everywhere(each)
        return epoch

    def activate(self) -> PlannedEpoch | None:
        """The prepared epoch takes over; returns the one that it follows."""
        epoch = self.preparing
        assert epoch is not None
        for each in epoch.group:
            each.activated_at = self._world.now
            self._move(each, "activate")
        old, self.active, self.preparing = self.active, epoch, None
        self.switches += 1
        self._drain(old)
        mix = tuple((each.number, each.share) for each in epoch.group) if epoch.others else ()
        order = Activate(self._pipeline, epoch.number, epoch.choice.depth, mix, epoch.predicted_s)
        self._world.send(self._device, order)
        return old

    def _drain(self, epoch: PlannedEpoch | None) -> None:
        for each in epoch.group if epoch is not None else ():
            self.draining[each.number] = each
            self._move(each, "drain")

    def drained(self, number: Epoch) -> bool:
        """The device has all answers of an old epoch. Returns whether the epoch is known here."""
        epoch = self.draining.pop(number, None)
        if epoch is not None:
            self._move(epoch, "retire")
            self._retire_everywhere(epoch)
        return number in self.epochs

    def end_all(self) -> None:
        """The device is gone, and its frames with it: all epochs that carried some are over."""
        self.call_off()
        self._drain(self.active)
        self.active = None
        for number in list(self.draining):
            self.drained(number)

    def lose(self, *agents: AgentId) -> None:
        """Frames of epochs that need these agents, or the link between them, cannot be finished there. The
        device is told at once: it can run them alone sooner than another epoch is ready."""
        for epoch in (*(self.active.group if self.active else ()), *self.draining.values()):
            if epoch.needs(*agents):
                self.abandon(epoch)

    def abandon(self, epoch: PlannedEpoch) -> None:
        """Its frames cannot be finished: the device need not wait for their answers."""
        if not epoch.broken:
            epoch.broken = True
            self._world.send(self._device, Abandon(self._pipeline, epoch.number))

    def record_again(self) -> None:
        """What was stored of the epochs is gone."""
        for epoch in self.epochs.values():
            self._record(epoch)

    def _move(self, epoch: PlannedEpoch, event: str) -> None:
        epoch.life.move(event)
        self._record(epoch)

    def _retire_everywhere(self, epoch: PlannedEpoch) -> None:
        for agent in epoch.agents:
            self._world.send(agent, Retire(self._pipeline, epoch.number))

    def _record(self, epoch: PlannedEpoch) -> None:
        """Publish and store the epoch as it is now. At once on disk: numbers must never come twice."""
        view = epoch.view
        self._world.publish("epoch", view, epoch.wish.cause_id)
        self._world.record("epochs", urgent=True, **msgspec.to_builtins(view), plan=epoch.plan.describe())
