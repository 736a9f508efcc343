"""Whether several boards that seem slower are one machine that is busy with something else. Pure.

Emulated boards share the cores of their machine: while that is slow, for a second or so, all that work seem
slower at the same moment, and any plan would be. That is one event, and mostly over before a plan for it is
in force; it is taken for what it seems once it has lasted for `WAIT_S`. A board of its own, and one alone
that becomes slower, is believed at once.
"""

from __future__ import annotations

from d3bed.core.ids import AgentId, PipelineId
from d3bed.plan import FACTOR_BAND, Basis
from d3bed.server.world import World

__all__ = ["WAIT_S", "Stalls"]

#: So alike is what one machine does to its boards.
WAIT_S, ALIKE = 1.0, 1.5


class Stalls:
    """Of one pipeline."""

    def __init__(self, pipeline: PipelineId, world: World) -> None:
        self._pipeline, self._world = pipeline, world
        #: Those that became slower together, and how many times, since then.
        self._together: dict[AgentId, float] = {}
        self._since_s = 0.0

    def hold(self, before: Basis, now: Basis) -> bool:
        """Whether no plan should follow yet. Call it whenever one might: it must see when that is over."""
        times = {agent: factor / before.factors.get(agent, factor) for agent, factor in now.factors.items()}
        slower = {agent: ratio for agent, ratio in times.items() if ratio > FACTOR_BAND}
        # One is seen to be back sooner than the other; one that goes on becoming slower is no part of it.
        self._together = {a: r for a, r in self._together.items() if a in slower and slower[a] <= ALIKE * r}
        if not self._together and (found := self._on_one_machine(slower)):
            self._together, self._since_s = found, self._world.now
            text = f"{', '.join(found)} became slower together: it may be their machine, and over in a moment"
            self._world.note(text, pipeline=self._pipeline)
        return bool(self._together) and self._world.now - self._since_s < WAIT_S

    def _on_one_machine(self, slower: dict[AgentId, float]) -> dict[AgentId, float]:
        """Those that are emulated on the machine of another one of them, and much as slow."""
        agents = self._world.agents
        boards = [a for a in slower if agents[a].emulated_speed < 1]

        def is_with(one: AgentId, other: AgentId) -> bool:
            same = agents[one].register.host == agents[other].register.host
            low, high = sorted((slower[one], slower[other]))
            return one != other and same and high <= ALIKE * low

        return {one: slower[one] for one in boards if any(is_with(one, other) for other in boards)}
