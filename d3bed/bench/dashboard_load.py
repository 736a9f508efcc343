"""A server whose testbed is made up: so many events a second, over a network of so many vertices.

`python -m d3bed.bench.dashboard_load --events 1000 --vertices 200` serves the real page, feed, store and
tape; only what the coordinator says is scripted, so that the load is the same every time. It prints its
address, and ends in order on SIGTERM. Of the events a tenth are frames, each with `SPANS` spans.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import tempfile
import time
from pathlib import Path

from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex
from d3bed.core.ids import AgentId, CauseId, Epoch, FrameId, PipelineId, Tier
from d3bed.core.measurements import SpanKind
from d3bed.plan import STRATEGIES
from d3bed.server import ServerSettings, serve
from d3bed.server.coordinator import Coordinator
from d3bed.server.events import Command, Event, Publish, Ticked
from d3bed.server.seconds import PARTS, SECONDS_KEPT, SecondView, parts
from d3bed.server.views import (
    AgentView,
    DecisionView,
    EpochView,
    ExactView,
    FramesView,
    FrameView,
    GraphView,
    LatencyView,
    LinkView,
    NoteView,
    PipelineView,
    PredictionView,
    SpanView,
    StateView,
    graph_view,
)

__all__ = ["SPANS", "made_graph"]

SPANS = 9
_SWITCH_S = 10.0
_STEP_S = 0.05
_PIPELINE = PipelineId("main")
_TIERS = {
    AgentId("pi-1"): Tier.DEVICE,
    AgentId("edge-1"): Tier.EDGE,
    AgentId("edge-2"): Tier.EDGE,
    AgentId("cloud-1"): Tier.CLOUD,
}
_ROUTE = (AgentId("pi-1"), AgentId("edge-1"), AgentId("cloud-1"))
_LINKS = [(a, b) for a in _TIERS for b in _TIERS if a != b]


def made_graph(vertices: int) -> Graph:
    """Like Inception: a stem, then modules of four branches that are joined again."""
    kinds = ("conv2d", "conv2d", "max_pool2d", "conv2d")
    maps = (TensorSpec((1, 64, 35, 35), "float32"),)
    photo = (TensorSpec((1, 3, 224, 224), "uint8"),)
    found = [Vertex("photo", "input", photo)]
    edges: list[Edge] = []

    def add(kind: str, *sources: int) -> int:
        number = len(found)
        found.append(Vertex(f"layer{number}", kind, maps, flops=10**7, weight_bytes=10**5))
        edges.extend(Edge(source, number) for source in sorted(sources))
        return number

    last = 0
    while len(found) < 8:
        last = add("conv2d", last)
    while len(found) + 11 <= vertices:
        ends = []
        for branch, length in enumerate((1, 2, 3, 4)):
            end = last
            for step in range(length):
                end = add(kinds[(branch + step) % 4], end)
            ends.append(end)
        last = add("cat", *ends)
    while len(found) < vertices:
        last = add("linear", last)
    return Graph(
        "made-up",
        tuple(found),
        tuple(sorted(edges, key=lambda edge: (edge.producer, edge.consumer))),
        (Value(last),),
    )


class _Scripted(Coordinator):
    """Says what a busy testbed would say, at the rate and over the graph that the class is given."""

    events_per_s = 1000
    vertices = 200

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._random = random.Random(1)
        self._begun_s = self._said_s = time.time()
        self._graph: GraphView = graph_view(made_graph(self.vertices))
        self._profile = tuple(0.001 * self._random.random() for _ in self._graph.vertices)
        self._told = self._answered = self._causes = 0
        self._epoch = Epoch(0)
        self._epochs: list[EpochView] = []
        self._decisions: list[DecisionView] = []
        self._seconds: list[SecondView] = []
        self._switched_s = 0.0
        self._past(self._begun_s)

    @property
    def is_counting(self) -> bool:
        return True

    def handle(self, event: Event, now: float) -> list[Command]:
        commands = super().handle(event, now)
        if isinstance(event, Ticked):
            while self._said_s + 1 / self.events_per_s <= now:
                self._said_s += 1 / self.events_per_s
                commands.append(self._next(now))
            if now - self._switched_s >= _SWITCH_S:
                self._switched_s = now
                commands += self._switch(now)
            if int(now) > self._seconds[-1].at_s:
                self._seconds = [*self._seconds[1 - SECONDS_KEPT :], self._second(int(now))]
                commands.append(Publish("second", self._seconds[-1]))
        return commands

    # ── one event after the other ─────────────────────────────────────────────────────────────────

    def _next(self, now: float) -> Command:
        """Of ten events one is a frame, four are links, three agents, one the pipeline's numbers, and one
        a link again or, now and then, a note."""
        self._told += 1
        turn = self._told % 10
        if turn == 0:
            frame = self._frame(now)
            self.frames.append(frame)
            return Publish("frame", frame)
        if turn in (1, 2, 3):
            return Publish("agent", self._agent(list(_TIERS)[self._told % 4], now))
        if turn == 4:
            numbers = {"frames": FramesView(self._answered, self._answered), "latency_s": self._latency()}
            return Publish("pipeline", {"id": _PIPELINE, **numbers})
        if turn == 5 and self._told % 100 == 5:
            return Publish("note", NoteView(f"made-up event {self._told}", "info", now))
        return Publish("link", self._link(_LINKS[self._told % len(_LINKS)]))

    def _switch(self, now: float) -> list[Command]:
        self._epoch, self._causes = Epoch(self._epoch + 1), self._causes + 1
        cause_id = CauseId(f"1-{self._causes}")
        view = EpochView(
            _PIPELINE, self._epoch, "optimal", "made-up", "pi-1→edge-1 fell from 80 to 11 Mbit/s", cause_id,
            "active", now, 14, 0.12, 0.125,
        )  # fmt: skip
        decision = DecisionView(
            _PIPELINE, cause_id, now, view.cause, (), (), "move", self._epoch, "", "", 0.2, 0.12,
            text=f"{view.cause} → epoch {self._epoch}: predicted 412 → 265 ms, measured 271 ms",
        )  # fmt: skip
        self._epochs = [*self._epochs[-19:], view]
        self._decisions = [*self._decisions[-199:], decision]
        changed = {"id": _PIPELINE, "epoch": self._epoch, "plan": self._plan(), "plan_text": f"{self._epoch}"}
        return [
            Publish("pipeline", changed, cause_id),
            Publish("epoch", view, cause_id),
            Publish("decision", decision, cause_id),
        ]

    def _frame(self, now: float) -> FrameView:
        self._answered += 1
        latency_s = 0.12 * self._random.uniform(0.9, 1.1)
        start_s, step_s = now - latency_s, latency_s / SPANS
        spans = tuple(self._span(n, start_s + n * step_s, step_s) for n in range(SPANS))
        return FrameView(
            pipeline=_PIPELINE,
            run="main-1-1",
            frame=FrameId(self._answered),
            epoch=self._epoch,
            photo="made-up.jpg",
            answer="class 1 (9.9)",
            started_s=start_s,
            latency_s=latency_s,
            identical=True,
            max_rel_err=0.0,
            attempts=1,
            compute_s={tier: step_s for tier in Tier},
            spans=spans,
            parts_s=parts(start_s, latency_s, 0.0, spans),
        )

    def _span(self, n: int, at_s: float, length_s: float) -> SpanView:
        """Each agent of the route computes, sends and keeps waiting in turn."""
        agent, kind = _ROUTE[n // 3], (SpanKind.COMPUTE, SpanKind.TRANSFER, SpanKind.QUEUE)[n % 3]
        peer = _ROUTE[min(2, n // 3 + 1) if n < 6 else 1] if kind is SpanKind.TRANSFER else None
        return SpanView(agent, _TIERS[agent], kind, at_s, at_s + length_s, 0.0, (n, n + 1), peer)

    def _second(self, at_s: int) -> SecondView:
        shares = {part: 0.02 * self._random.uniform(0.8, 1.2) for part in PARTS}
        total_s = sum(shares.values())
        return SecondView(
            _PIPELINE, at_s, self.events_per_s / 10, self._epoch, shares, total_s, 1.2 * total_s,
            1.4 * total_s, 0.12, 4_000_000, 15_000_000,
            {f"{a}→{b}": (10**6, round(1e7 * self._random.uniform(0.9, 1)), 1e7) for a, b in _LINKS[:5]},
        )  # fmt: skip

    # ── the state ─────────────────────────────────────────────────────────────────────────────────

    def _past(self, now: float) -> None:
        """Ten minutes have gone by: charts and lists are full from the start."""
        for back in range(SECONDS_KEPT, 0, -1):
            if back % int(_SWITCH_S) == 0:
                self._switch(now - back)
            self._seconds.append(self._second(int(now) - back))
        for back in range(100, 0, -1):
            self.frames.append(self._frame(now - back / 100))

    def _plan(self) -> tuple[Tier, ...]:
        count = len(self._graph.vertices)
        first, second = count // 4 + 7 * (self._epoch % 3), count * 2 // 3 + 7 * (self._epoch % 2)
        return tuple(
            Tier.DEVICE if n < first else Tier.EDGE if n < second else Tier.CLOUD for n in range(count)
        )

    def _latency(self) -> LatencyView:
        last_s = 0.12 * self._random.uniform(0.9, 1.1)
        return LatencyView(last_s, 0.12, 0.13)

    def _agent(self, agent: AgentId, now: float) -> AgentView:
        return AgentView(
            agent, _TIERS[agent], 4711, "made-up", "127.0.0.1:4000", 0.5, "eager", "0", 1, "same",
            "connected", self._random.randrange(4), 0, 10**8 + self._random.randrange(10**6),
            self._random.uniform(0.9, 1.1), heard_s=now, worked_s=now,
        )  # fmt: skip

    def _link(self, ends: tuple[AgentId, AgentId]) -> LinkView:
        rate = 1e7 * self._random.uniform(0.9, 1.0)
        return LinkView(*ends, 1e7, 0.002, 0.004, 1e7, self._told * 1000, rate, rate / 1e7 - 1, rate)

    def snapshot(self) -> StateView:
        now = self.world.now or self._begun_s
        pipeline = PipelineView(
            id=_PIPELINE,
            phase="running",
            phase_text="made up for a measurement",
            model="made-up",
            strategy="optimal",
            network="wifi",
            epoch=self._epoch,
            plan=self._plan(),
            plan_text="made up",
            route={
                Tier.DEVICE: AgentId("pi-1"),
                Tier.EDGE: AgentId("edge-1"),
                Tier.CLOUD: AgentId("cloud-1"),
            },
            graph=self._graph,
            profile_s={tier: self._profile for tier in Tier},
            guessed=(),
            predicted=PredictionView(0.12, {tier: 0.02 for tier in Tier}),
            frames=FramesView(self._answered, self._answered),
            exact=ExactView(self._answered, self._answered, 0.0),
            latency_s=self._latency(),
            compute_s={tier: 0.02 for tier in Tier},
            emulated=True,
            same_fingerprint=True,
            run="main-1-1",
            counting=True,
        )
        return StateView(
            agents=tuple(self._agent(agent, now) for agent in _TIERS),
            links=tuple(self._link(ends) for ends in _LINKS),
            pipelines=(pipeline,),
            epochs=tuple(self._epochs),
            frames=tuple(self.frames),
            notes=(),
            decisions=tuple(self._decisions),
            strategies=tuple(STRATEGIES),
            models=("made-up",),
        )

    def seconds(self) -> list[SecondView]:
        return self._seconds


async def _main(events: int, vertices: int, port: int) -> None:
    _Scripted.events_per_s, _Scripted.vertices = events, vertices
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    with tempfile.TemporaryDirectory() as directory:
        settings = ServerSettings(Path(directory), (), port=port)

        def ready(address: str) -> None:
            print(address, flush=True)  # noqa: T201 - what this program is asked for

        with contextlib.suppress(asyncio.CancelledError):
            await serve(settings, ready=ready, brain=_Scripted)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1000, help="a second")
    parser.add_argument("--vertices", type=int, default=200)
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(_main(**vars(parser.parse_args())))
