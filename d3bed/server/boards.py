"""What agents tell of their boards: kept, shown, and an event when a board holds back its processor, or its
clock jumps. Pure."""

from __future__ import annotations

import msgspec

from d3bed.core.ids import AgentId
from d3bed.core.measurements import BoardSample
from d3bed.server.diagnosis import CLOCK_REMEDY, clock_words, duration
from d3bed.server.world import AgentRecord, World

__all__ = ["CALM_S", "Boards"]

#: A board counts as throttled until it was not for so long: samples come and go.
CALM_S = 10.0
#: A clock jumped if it did by more than this: what it shows may have been on its way for seconds.
JUMP_S = 30.0


class Boards:
    """All of them; throttled ones are remembered with the time that they last were."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._throttled_s: dict[AgentId, float] = {}
        #: By how much their clocks were ahead of the server's at first, or when they jumped last.
        self._clocks_off_s: dict[AgentId, float] = {}

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

    def clock_read(self, record: AgentRecord, wall_s: float | None) -> None:
        """Its clock showed so many seconds since 1970 just now; None: it did not tell."""
        world, agent = self._world, record.register.agent
        if wall_s is None:
            return
        off_s = wall_s - world.now
        before_s = self._clocks_off_s.setdefault(agent, off_s)
        if abs(off_s - before_s) > JUMP_S:
            self._clocks_off_s[agent] = off_s
            jump = f"the clock of {agent} jumped by {duration(abs(off_s - before_s))}"
            text = f"{jump}: it is {clock_words(off_s)} now; frames do not go by it, the board's log does"
            world.note(f"{text} ({CLOCK_REMEDY})", "warn")

    def forget(self, agent: AgentId) -> None:
        self._throttled_s.pop(agent, None)
        self._clocks_off_s.pop(agent, None)
