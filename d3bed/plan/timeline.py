"""What one frame's way through a plan will take, with everything that runs at the same time.

The cost of a problem adds all times up; really, an agent computes while links carry and other agents
compute. This module plays one frame by the rules that the agents follow, on the very programs that
they run: on each agent one compute thread takes the first step, in program order, whose inputs are
there; a value that a link needs is queued on it, first in first out, the moment the step that makes
it ends; it occupies the link for bytes / bytes_per_s and arrives `latency_s` after that; an agent that
relays has the whole value before it sends it on. The frame is answered when every result is on the
device. It must not know how plans are made.

For a stream of frames no stage can be busy longer than one frame's period: that bounds the rate.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import msgspec

from d3bed.core.errors import PlanInfeasible
from d3bed.core.graph import Graph, Value
from d3bed.core.ids import AgentId, Tier
from d3bed.core.measurements import LinkRate
from d3bed.core.plan import Plan
from d3bed.core.program import Program, Step, programs_for
from d3bed.core.tiles import Tile

__all__ = ["StageSpan", "Timeline", "timeline"]


class StageSpan(msgspec.Struct, frozen=True):
    """When an agent (`pi-1`) or a directed link (`pi-1→edge-1`) is busy with what, from frame start."""

    stage: str
    start_s: float
    end_s: float
    label: str


class Timeline(msgspec.Struct, frozen=True):
    """One frame's way. `busy_s` counts seconds of work per stage; the busiest bounds the rate.

    `compute_s` is per tier; where several agents share the edge's work, of the one that computes longest.
    `tiled_s`: how long each tiled part takes, by its first and last vertex, from cutting to joining.
    """

    latency_s: float
    spans: tuple[StageSpan, ...]
    compute_s: dict[Tier, float]
    busy_s: dict[str, float]
    tiled_s: dict[tuple[int, int], float] = {}

    @property
    def busiest(self) -> str:
        """The stage that bounds the frame rate."""
        return max(self.busy_s, key=lambda stage: self.busy_s[stage])

    @property
    def frames_per_s(self) -> float:
        """What a stream of frames cannot exceed; infinite where nothing takes time."""
        longest_s = self.busy_s[self.busiest]
        return 1 / longest_s if longest_s > 0 else float("inf")


def timeline(
    graph: Graph,
    plan: Plan,
    route: Mapping[Tier, AgentId],
    times_s: Mapping[AgentId, Sequence[float]],
    links: Mapping[tuple[AgentId, AgentId], LinkRate],
    tile_s: Callable[[AgentId, Tile], float] | None = None,
    piece_s: float = 0.0,
) -> Timeline:
    """Play one frame; `times_s` per vertex, `links` by (from, to), `tile_s` and `piece_s` for plans with
    tiles, as in `TileCosts`.

    Raises `PlanInfeasible` naming an agent or link that the plan needs and that has no numbers.
    """
    frame = _Frame(graph, programs_for(graph, plan, route), times_s, links, tile_s, piece_s)
    frame.play(route[Tier.DEVICE])
    edge_s = [frame.busy_s[agent] for agent in frame.programs if agent not in route.values()]
    compute_s = {tier: frame.busy_s[agent] for tier, agent in route.items()}
    if edge_s:
        compute_s[Tier.EDGE] = max(compute_s[Tier.EDGE], *edge_s)
    spans = tuple(sorted(frame.spans, key=lambda span: (span.start_s, span.end_s)))
    return Timeline(frame.answered_s, spans, compute_s, frame.busy_s, frame.tiled_s)


class _Frame:
    """The state of one frame under way: who has which values, what is queued, what comes when."""

    def __init__(
        self,
        graph: Graph,
        programs: Mapping[AgentId, Program],
        times_s: Mapping[AgentId, Sequence[float]],
        links: Mapping[tuple[AgentId, AgentId], LinkRate],
        tile_s: Callable[[AgentId, Tile], float] | None,
        piece_s: float,
    ) -> None:
        self.graph, self.programs, self.times_s, self.links, self.tile_s = (
            graph,
            programs,
            times_s,
            links,
            tile_s,
        )
        self.here: dict[AgentId, set[Value]] = {agent: set() for agent in programs}
        #: How many values each step lacks; and those that lack none, the first one first.
        self.missing_of = {
            agent: [len(set(step.takes)) for step in program.steps] for agent, program in programs.items()
        }
        self.ready: dict[AgentId, list[int]] = {agent: [] for agent in programs}
        self.idle = dict.fromkeys(programs, True)
        self.queues: dict[tuple[AgentId, AgentId], deque[Value]] = {}
        self.sending: set[tuple[AgentId, AgentId]] = set()
        self.missing = set(graph.results)
        self.answered_s = 0.0
        self.tiled_s: dict[tuple[int, int], float] = {}
        self.began_s: dict[tuple[int, int], float] = {}
        self.piece_s = piece_s
        self.loop_free_s = dict.fromkeys(programs, 0.0)
        self.spans: list[StageSpan] = []
        self.busy_s: dict[str, float] = dict.fromkeys(programs, 0.0)
        #: What happens when: (time, sequence number, what, where, link, values).
        self.events: list[_Event] = []
        self.sequence = 0

    def play(self, device: AgentId) -> None:
        self.device = device
        inputs = tuple(Value(0, output) for output in range(len(self.graph.vertices[0].outputs)))
        self._at(0.0, "computed", device, inputs)
        self.idle[device] = False
        while self.events:
            now_s = self.events[0][0]
            while self.events and self.events[0][0] == now_s:
                _, _, what, agent, link, values = heapq.heappop(self.events)
                if what == "sent" and link is not None:
                    self.sending.discard(link)
                    continue
                if what == "computed":
                    self.idle[agent] = True
                if what == "arrived" and (handled_s := self._handled(agent, now_s, values[0])) > now_s:
                    self._at(handled_s, "handled", agent, values)
                    continue
                for value in values:
                    self._have(now_s, agent, value)
            for agent in self.programs:
                self._dispatch(now_s, agent)
            for link in self.queues:
                self._send(now_s, link)

    def _at(
        self,
        when_s: float,
        what: str,
        agent: AgentId,
        values: tuple[Value, ...] = (),
        link: tuple[AgentId, AgentId] | None = None,
    ) -> None:
        heapq.heappush(self.events, (when_s, self.sequence, what, agent, link, values))
        self.sequence += 1

    def _have(self, now_s: float, agent: AgentId, value: Value) -> None:
        """An agent has made a value, or it has arrived there."""
        if value not in self.here[agent]:
            self.here[agent].add(value)
            for number in self.programs[agent].readers.get(value, ()):
                self.missing_of[agent][number] -= 1
                if not self.missing_of[agent][number]:
                    heapq.heappush(self.ready[agent], number)
        for rescue in self.programs[agent].rescues:
            # From having all that it reads to having its sink.
            if value in rescue.step.takes:
                self.began_s[rescue.place] = now_s
            elif value in rescue.step.makes:
                self.tiled_s[rescue.place] = now_s - self.began_s[rescue.place]
        for there in self.programs[agent].forward.get(value, ()):
            self.queues.setdefault((agent, there), deque()).append(value)
        if agent == self.device and value in self.missing:
            self.missing.discard(value)
            self.answered_s = now_s

    def _dispatch(self, now_s: float, agent: AgentId) -> None:
        if self.idle[agent] and self.ready[agent]:
            number = heapq.heappop(self.ready[agent])
            self._compute(now_s, agent, self.programs[agent].steps[number])

    def _compute(self, now_s: float, agent: AgentId, step: Step) -> None:
        taken_s = self._seconds(agent, step)
        self.idle[agent] = False
        if taken_s > 0:
            self._span(agent, now_s, taken_s, step.vertices[0], step.vertices[-1], step.tile)
        self._at(now_s + taken_s, "computed", agent, step.makes)

    def _seconds(self, agent: AgentId, step: Step) -> float:
        """Cutting rectangles out and joining them counts as nothing."""
        if not step.vertices:
            return 0.0
        if agent not in self.times_s:
            raise PlanInfeasible(agent, f"the plan needs {agent}, and it has no times")
        if step.tile is not None:
            if self.tile_s is None:
                raise PlanInfeasible(agent, f"{agent} is to run a tile, and nothing says how long that takes")
            return self.tile_s(agent, step.tile)
        return sum(self.times_s[agent][v] for v in step.vertices)

    def _send(self, now_s: float, link: tuple[AgentId, AgentId]) -> None:
        queue = self.queues[link]
        if link in self.sending or not queue:
            return
        here, there = link
        rate = self.links.get(link)
        if rate is None:
            raise PlanInfeasible(f"{here}→{there}", "the plan needs this link, and it has no measured rate")
        value = queue.popleft()
        taken_s = self.graph.spec(value).nbytes / rate.bytes_per_s
        self.sending.add(link)
        if taken_s > 0:
            self._span(f"{here}→{there}", now_s, taken_s, value.vertex, value.vertex)
        begin_s = self._handled(here, now_s, value)
        self._at(begin_s + taken_s, "sent", there, link=link)
        self._at(begin_s + taken_s + rate.latency_s, "arrived", there, (value,))

    def _handled(self, agent: AgentId, when_s: float, value: Value) -> float:
        """When an agent's event loop is done with a value that it sends or receives. Whole ones are few and
        large; pieces of tiles are many and small, and wait for each other."""
        if value.whole == value:
            return when_s
        self.loop_free_s[agent] = max(when_s, self.loop_free_s[agent]) + self.piece_s
        return self.loop_free_s[agent]

    def _span(
        self, stage: str, start_s: float, taken_s: float, first: int, last: int, tile: Tile | None = None
    ) -> None:
        self.busy_s[stage] = self.busy_s.get(stage, 0.0) + taken_s
        names = [self.graph.vertices[first].name, self.graph.vertices[last].name]
        label = names[0] if first == last else " … ".join(names)
        if tile is not None:
            label += f" ({tile.row},{tile.column})"
        self.spans.append(StageSpan(stage, start_s, start_s + taken_s, label))


_Event = tuple[float, int, str, AgentId, tuple[AgentId, AgentId] | None, tuple[Value, ...]]
