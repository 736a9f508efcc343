"""Agents that came while a plan was in force: they get ready beside it, and are planned with once they are.

Pure. A restarted agent takes seconds to load its model, and a new one longer to profile it; meanwhile plans
follow conditions without it. One that cannot load the model is left out, with a note.
"""

from __future__ import annotations

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

    def __bool__(self) -> bool:
        return bool(self._able)

    def __contains__(self, agent: AgentId) -> bool:
        return agent in self._able

    def add(self, agent: AgentId) -> None:
        self._able[agent] = True

    def discard(self, agent: AgentId) -> None:
        self._able.pop(agent, None)

    def unable(self, agent: AgentId, problem: str) -> None:
        """It cannot get ready."""
        self._able[agent] = False
        self._world.note(f"{agent} is left out: {problem}", "error", pipeline=self._settings.id)

    def ready(self, model: ModelSpec, members: dict[AgentId, Tier]) -> AgentId | None:
        """Order what each still lacks for the model; returns one that lacks nothing, which then is none."""
        device, agents = self._settings.device, self._world.agents
        if device not in members or model not in agents[device].loaded:
            return None
        for agent in [agent for agent, able in self._able.items() if able]:
            alone = {agent: self._settings.tiers[agent]}
            if self._ground.load(model, alone):
                continue
            if problem := self._ground.disagreement(model, {device: members[device]} | alone):
                self.unable(agent, problem)
            elif not (self._ground.profile(model, alone) or self._ground.measure(members | alone, busy=True)):
                del self._able[agent]
                return agent
        return None
