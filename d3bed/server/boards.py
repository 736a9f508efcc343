"""What agents tell of their boards: kept, shown, and an event when a board holds back its processor. Pure."""

from __future__ import annotations

import msgspec

from d3bed.core.ids import AgentId
from d3bed.core.measurements import BoardSample
from d3bed.server.world import AgentRecord, World

__all__ = ["CALM_S", "Boards"]

#: A board counts as throttled until it was not for so long: samples come and go.
CALM_S = 10.0


class Boards:
    """All of them; throttled ones are remembered with the time that they last were."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._throttled_s: dict[AgentId, float] = {}

    def sampled(self, record: AgentRecord, board: BoardSample) -> None:
        world, agent = self._world, record.register.agent
        record.board = board
        world.record("boards", agent=agent, at_s=world.now, **msgspec.structs.asdict(board))
        if board.throttled:
            if agent not in self._throttled_s:
                hot = "" if board.temperature_c is None else f" at {board.temperature_c:.0f} °C"
                world.note(f"{agent} is slower than it could be: {board.throttled}{hot}", "warn")
            self._throttled_s[agent] = world.now
        elif world.now - self._throttled_s.get(agent, world.now) > CALM_S:
            del self._throttled_s[agent]
            world.note(f"{agent} is not throttled any more")

    def forget(self, agent: AgentId) -> None:
        self._throttled_s.pop(agent, None)
