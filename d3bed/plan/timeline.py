"""What one frame's way through a plan will take, with everything that runs at the same time.

The cost of a problem adds all times up; really, a tier computes while links carry and other tiers
compute. This module plays one frame by the rules that the agents follow, on the very programs that
they run: on each tier one compute thread takes the first step, in program order, whose inputs are
there; a value that a link needs is queued on it, first in first out, the moment the step that makes
it ends; it occupies the link for bytes / bytes_per_s and arrives `latency_s` after that; a tier that
relays has the whole value before it sends it on. The frame is answered when every result is on the
device. It must not know how plans are made.

For a stream of frames no stage can be busy longer than one frame's period: that bounds the rate.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence

import msgspec

from d3bed.core.errors import PlanInfeasible
from d3bed.core.graph import Graph, Value
from d3bed.core.ids import TIERS, Tier
from d3bed.core.measurements import LinkRate
from d3bed.core.plan import Plan, Step, program_for

__all__ = ["StageSpan", "Timeline", "timeline"]


class StageSpan(msgspec.Struct, frozen=True):
    """When a tier (`device`) or a directed link (`device→edge`) is busy with what, from frame start."""

    stage: str
    start_s: float
    end_s: float
    label: str


class Timeline(msgspec.Struct, frozen=True):
    """One frame's way. `busy_s` counts seconds of work per stage; the busiest bounds the rate."""

    latency_s: float
    spans: tuple[StageSpan, ...]
    compute_s: dict[Tier, float]
    busy_s: dict[str, float]

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
    times_s: Mapping[Tier, Sequence[float]],
    links: Mapping[tuple[Tier, Tier], LinkRate],
    relays: Sequence[Tier] = TIERS,
) -> Timeline:
    """Play one frame; `times_s` per vertex, `links` by (from, to), `relays` as in `program_for`.

    Raises `PlanInfeasible` naming a tier or link that the plan needs and that has no numbers.
    """
    frame = _Frame(graph, plan, times_s, links, relays)
    frame.play()
    compute_s = {tier: frame.busy_s.get(tier.value, 0.0) for tier in TIERS if tier in times_s}
    spans = tuple(sorted(frame.spans, key=lambda span: (span.start_s, span.end_s)))
    return Timeline(frame.answered_s, spans, compute_s, frame.busy_s)


class _Frame:
    """The state of one frame under way: who has which values, what is queued, what comes when."""

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        times_s: Mapping[Tier, Sequence[float]],
        links: Mapping[tuple[Tier, Tier], LinkRate],
        relays: Sequence[Tier],
    ) -> None:
        self.graph, self.times_s, self.links = graph, times_s, links
        self.programs = {tier: program_for(graph, plan, tier, relays) for tier in TIERS}
        self.waiting = {tier: list(program.steps) for tier, program in self.programs.items()}
        self.here: dict[Tier, set[Value]] = {tier: set() for tier in TIERS}
        self.idle = dict.fromkeys(TIERS, True)
        self.queues: dict[tuple[Tier, Tier], deque[Value]] = {}
        self.sending: set[tuple[Tier, Tier]] = set()
        self.missing = set(graph.results)
        self.answered_s = 0.0
        self.spans: list[StageSpan] = []
        self.busy_s: dict[str, float] = dict.fromkeys((tier.value for tier in times_s), 0.0)
        #: What happens when: (time, sequence number, what, where, values).
        self.events: list[tuple[float, int, str, Tier, tuple[Tier, Tier] | None, tuple[Value, ...]]] = []
        self.sequence = 0

    def play(self) -> None:
        inputs = tuple(Value(0, output) for output in range(len(self.graph.vertices[0].outputs)))
        self._compute(0.0, Tier.DEVICE, Step((0,), (), inputs))
        while self.events:
            now_s = self.events[0][0]
            while self.events and self.events[0][0] == now_s:
                _, _, what, tier, link, values = heapq.heappop(self.events)
                if what == "sent" and link is not None:
                    self.sending.discard(link)
                    continue
                if what == "computed":
                    self.idle[tier] = True
                for value in values:
                    self._have(now_s, tier, value)
            for tier in TIERS:
                self._dispatch(now_s, tier)
            for link in self.queues:
                self._send(now_s, link)

    def _at(
        self,
        when_s: float,
        what: str,
        tier: Tier,
        values: tuple[Value, ...] = (),
        link: tuple[Tier, Tier] | None = None,
    ) -> None:
        heapq.heappush(self.events, (when_s, self.sequence, what, tier, link, values))
        self.sequence += 1

    def _have(self, now_s: float, tier: Tier, value: Value) -> None:
        """A value was made on a tier, or has arrived there."""
        self.here[tier].add(value)
        for there in self.programs[tier].forward.get(value, ()):
            self.queues.setdefault((tier, there), deque()).append(value)
        if tier is Tier.DEVICE and value in self.missing:
            self.missing.discard(value)
            self.answered_s = now_s

    def _dispatch(self, now_s: float, tier: Tier) -> None:
        if self.idle[tier]:
            ready = (step for step in self.waiting[tier] if self.here[tier].issuperset(step.takes))
            step = next(ready, None)
            if step is not None:
                self.waiting[tier].remove(step)
                self._compute(now_s, tier, step)

    def _compute(self, now_s: float, tier: Tier, step: Step) -> None:
        if tier not in self.times_s:
            raise PlanInfeasible(tier, f"the plan needs the {tier}, and it has no times")
        taken_s = sum(self.times_s[tier][v] for v in step.vertices)
        self.idle[tier] = False
        self._span(tier.value, now_s, taken_s, step.vertices[0], step.vertices[-1])
        self._at(now_s + taken_s, "computed", tier, step.makes)

    def _send(self, now_s: float, link: tuple[Tier, Tier]) -> None:
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
        self._span(f"{here}→{there}", now_s, taken_s, value.vertex, value.vertex)
        self._at(now_s + taken_s, "sent", there, link=link)
        self._at(now_s + taken_s + rate.latency_s, "arrived", there, (value,))

    def _span(self, stage: str, start_s: float, taken_s: float, first: int, last: int) -> None:
        self.busy_s[stage] = self.busy_s.get(stage, 0.0) + taken_s
        names = [self.graph.vertices[first].name, self.graph.vertices[last].name]
        label = names[0] if first == last else " … ".join(names)
        if taken_s > 0:
            self.spans.append(StageSpan(stage, start_s, start_s + taken_s, label))
