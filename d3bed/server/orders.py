"""What users asked for, and what became of it by the word of those that it is for. Pure.

An order is pending until every agent that was sent something for it has confirmed that it did it, until the
plan that it calls for is in force or refused, or until the agent that it ends is gone. One that an agent
refuses, does not confirm within `PATIENCE_S`, or leaves before is failed. Nothing is ordered here: whoever
carries an order out says what it waits for. `action` of an order is in the words of scenario files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import msgspec

from d3bed.core.ids import AgentId, CauseId, PipelineId
from d3bed.core.messages import Confirm
from d3bed.server.views import OrderView

if TYPE_CHECKING:
    from d3bed.server.world import World

__all__ = ["KEPT", "PATIENCE_S", "Orders"]

PATIENCE_S = 10.0
KEPT = 100


@dataclass
class _Open:
    """What an order waits for: the word of `agents` (it `asked` so many), the end of one, a decision about a
    pipeline's plan."""

    agents: set[AgentId] = field(default_factory=set)
    asked: int = 0
    end_of: AgentId | None = None
    plan_of: PipelineId | None = None
    due_s: float | None = None


class Orders:
    """All of them; the last ones are shown."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._shown: dict[CauseId, OrderView] = {}
        self._open: dict[CauseId, _Open] = {}

    @property
    def latest(self) -> tuple[OrderView, ...]:
        """Oldest first."""
        return tuple(self._shown.values())

    @property
    def last(self) -> CauseId | None:
        """The one that began last."""
        return next(reversed(self._shown), None)

    def begin(
        self,
        what: str,
        by: str,
        action: Mapping[str, str | float | bool | None],
        *,
        id: CauseId | None = None,
        plan_of: PipelineId | None = None,
    ) -> CauseId:
        """With `plan_of` it lasts until that pipeline has its plan; earlier orders of that kind are over."""
        world = self._world
        number = id or world.new_cause()
        if plan_of is not None:
            for other in [o for o, waits in self._open.items() if waits.plan_of == plan_of]:
                self.failed(other, f"{by} asked for something else: {what}")
        self._open[number] = _Open(plan_of=plan_of)
        said = {key: value for key, value in action.items() if value is not None}
        self._put(OrderView(number, what, by, world.now, said))
        return number

    # ── what it waits for ─────────────────────────────────────────────────────────────────────────

    def confirm(self, order: CauseId, agent: AgentId) -> None:
        """It lasts until the agent has done what it was sent so far."""
        world, waits = self._world, self._open.get(order)
        if waits is None:
            return
        if not world.is_connected(agent):
            self.failed(order, f"{agent} is gone")
            return
        waits.agents.add(agent)
        waits.asked += 1
        waits.due_s = world.now + PATIENCE_S
        world.send(agent, Confirm(order))

    def end(self, order: CauseId, agent: AgentId) -> None:
        """It lasts until the agent is gone."""
        if (waits := self._open.get(order)) is not None:
            waits.end_of, waits.due_s = agent, self._world.now + PATIENCE_S

    # ── what becomes of it ────────────────────────────────────────────────────────────────────────

    def done(self, order: CauseId, answer: str) -> None:
        self._close(order, "done", answer)

    def failed(self, order: CauseId, answer: str) -> None:
        self._close(order, "failed", answer)

    def confirmed(self, agent: AgentId, order: CauseId, problem: str) -> None:
        """An agent's word; without a `problem` it did all that it was sent."""
        waits = self._open.get(order)
        if waits is None or agent not in waits.agents:
            return
        if problem:
            self.failed(order, f"{agent}: {problem}")
            return
        waits.agents.discard(agent)
        if not waits.agents:
            self.done(order, f"{agent} confirms" if waits.asked == 1 else f"all {waits.asked} agents confirm")

    def agent_lost(self, agent: AgentId) -> None:
        for order, waits in list(self._open.items()):
            if waits.end_of == agent:
                self.done(order, f"{agent} is gone")
            elif agent in waits.agents:
                self.failed(order, f"{agent} left before it could confirm")

    def decided(self, pipeline: PipelineId, choice: Literal["move", "keep", "fail"], text: str) -> None:
        """The pipeline's wish is settled."""
        for order, waits in list(self._open.items()):
            if waits.plan_of == pipeline:
                self._close(order, "failed" if choice == "fail" else "done", text)

    def end_due(self) -> None:
        """Call it now and then: those that nobody answered have failed."""
        now = self._world.now
        for order, waits in list(self._open.items()):
            if waits.due_s is not None and now >= waits.due_s:
                whom = ", ".join(sorted(waits.agents)) or f"{waits.end_of}"
                did = "did not end" if waits.end_of else "did not confirm"
                self.failed(order, f"{whom} {did} within {PATIENCE_S:g} s")

    def _close(self, order: CauseId, state: Literal["done", "failed"], answer: str) -> None:
        if self._open.pop(order, None) is None:
            return
        view = self._shown.get(order)
        if view is not None:
            now = self._world.now
            self._put(msgspec.structs.replace(view, state=state, answer=answer, ended_s=now))

    def _put(self, view: OrderView) -> None:
        self._shown[view.id] = view
        if len(self._shown) > KEPT:
            oldest = next(iter(self._shown))
            del self._shown[oldest]
            self._open.pop(oldest, None)
        self._world.publish("order", view, view.id)
        if view.state != "pending":
            self._world.record(
                "events",
                at_s=self._world.now,
                cause_id=view.id,
                kind="order",
                data=msgspec.to_builtins(view),
            )
