"""Agents that came while a plan was in force: they get ready beside it, and are planned with once they are.

Pure. A restarted agent takes seconds to load its model, and a new one longer to profile it; meanwhile plans
follow conditions without it. One that cannot load the model is left out, with a note. One whose profile is to
be renewed is as good as new: frames leave it first.
"""

from __future__ import annotations

from collections.abc import Collection

from d3bed.core.ids import AgentId, Tier
from d3bed.core.messages import ModelSpec
from d3bed.server.groundwork import Groundwork
from d3bed.server.settings import PipelineSettings
from d3bed.server.world import World

__all__ = ["Newcomers"]


class Newcomers:
    """Those of one pipeline."""

    def __init__(self, settings: PipelineSettings, ground: Groundwork, world: World) -> None:
        self._settings, self._ground, self._world = settings, ground, world
        self._able: dict[AgentId, bool] = {}
        #: Those that profile anew once no frame needs them.
        self._renewing: set[AgentId] = set()

    def __bool__(self) -> bool:
        return bool(self._able)

    def __contains__(self, agent: AgentId) -> bool:
        return agent in self._able

    def add(self, agent: AgentId) -> None:
        self._able[agent] = True

    def discard(self, agent: AgentId) -> None:
        self._able.pop(agent, None)
        self._renewing.discard(agent)

    def renew(self, agent: AgentId) -> bool:
        """Have it profile anew, if it can be done without for a while, and is alone on its machine, so that
        nobody is disturbed; returns whether."""
        others = (r for a, r in self._world.agents.items() if r.connected and a != agent)
        host = self._world.agents[agent].register.host
        if agent == self._settings.device or any(other.register.host == host for other in others):
            return False
        self.add(agent)
        self._renewing.add(agent)
        return True

    def cannot_be_missed(self) -> None:
        """There is no plan without those that are to profile anew: they go on as they are."""
        for agent in list(self._renewing):
            self.discard(agent)

    def unable(self, agent: AgentId, problem: str) -> None:
        """It cannot get ready."""
        self._able[agent] = False
        self._world.note(f"{agent} is left out: {problem}", "error", pipeline=self._settings.id)

    def ready(
        self, model: ModelSpec, members: dict[AgentId, Tier], busy: Collection[AgentId] = ()
    ) -> AgentId | None:
        """Order what each still lacks for the model; returns one that lacks nothing, which then is none.
        Frames need those that are `busy`."""
        device, agents = self._settings.device, self._world.agents
        if device not in members or model not in agents[device].loaded:
            return None
        for agent in [agent for agent, able in self._able.items() if able]:
            if agent in self._renewing:
                if agent in busy or not self._world.order_profile(agent, model, fresh=True):
                    continue
                self._renewing.discard(agent)
            if self._world.asked.is_busy(agent, "profile"):
                continue
            alone = {agent: self._settings.tiers[agent]}
            if self._ground.load(model, alone):
                continue
            if problem := self._ground.disagreement(model, {device: members[device]} | alone):
                self.unable(agent, problem)
            elif not (self._ground.profile(model, alone) or self._ground.measure(members | alone, busy=True)):
                del self._able[agent]
                return agent
        return None
