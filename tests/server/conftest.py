"""Agents that follow a script, and a stage on which the coordinator meets them without sockets.

A `Script` speaks the true protocol (`core.messages`) with made-up measurements; the planner is the
real one. The app's tests let the same scripts speak over real WebSockets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from d3bed.core.errors import D3Error
from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex, Window
from d3bed.core.ids import AgentId, Epoch, FrameId, PipelineId, Tier
from d3bed.core.measurements import FrameReport, LinkShape, Span, SpanKind, Transfer
from d3bed.core.messages import (
    Confirm,
    Confirmed,
    FramesAnswered,
    FromAgent,
    LinkFailed,
    LinkMeasured,
    LoadModel,
    MeasureLinks,
    ModelLoaded,
    ModelSpec,
    Peer,
    Prepare,
    Profiled,
    ProfileModel,
    Ready,
    Register,
    SampleSpeed,
    SourceEnded,
    SpansRecorded,
    SpeedSampled,
    StartSource,
    ToAgent,
    Transferred,
)
from d3bed.plan import STRATEGIES
from d3bed.server import Coordinator, PipelineSettings, ServerSettings
from d3bed.server.events import (
    AgentJoined,
    AgentLost,
    AgentSaid,
    CloseAgent,
    ComputePlan,
    Event,
    PlanComputed,
    PlanFailed,
    Publish,
    Record,
    SendTo,
    Ticked,
)
from d3bed.server.runner import choice_for
from d3bed.server.views import DecisionView, NoteView
from tests.server.lab import lab, start_lab

__all__ = ["lab", "start_lab"]  # fixtures

_Heard = TypeVar("_Heard")

PIPELINE = PipelineId("demo")
DEVICE, EDGE_1, EDGE_2, CLOUD = AgentId("pi-1"), AgentId("edge-1"), AgentId("edge-2"), AgentId("vm-1")
DEVICE_2, EDGE_3 = AgentId("pi-2"), AgentId("edge-3")  # where a test has them
TIER_OF = {
    DEVICE: Tier.DEVICE,
    DEVICE_2: Tier.DEVICE,
    EDGE_1: Tier.EDGE,
    EDGE_2: Tier.EDGE,
    EDGE_3: Tier.EDGE,
    CLOUD: Tier.CLOUD,
}
#: Seconds per vertex: the edge is 5 times as fast as the device, the cloud 20 times.
TIME_S = {DEVICE: 0.1, DEVICE_2: 0.1, EDGE_1: 0.02, EDGE_2: 0.021, EDGE_3: 0.021, CLOUD: 0.005}


def make_graph(model: str = "alexnet", layers: int = 3, kind: str = "conv2d", size: int = 8) -> Graph:
    """A chain: the uint8 photo, then `layers` convolutions, or what `kind` says; maps of more than 8 × 8
    can be tiled."""
    window = Window((3, 3), (1, 1), (1, 1)) if size > 8 else None
    photo = Vertex("input", "input", (TensorSpec((1, 3, size, size), "uint8"),))
    maps = (TensorSpec((1, 8, size, size), "float32"),)
    convs = tuple(
        Vertex(f"conv{n}", kind, maps, (kind,), flops=1000, weight_bytes=100, window=window)
        for n in range(1, layers + 1)
    )
    edges = tuple(Edge(n, n + 1) for n in range(layers))
    return Graph(model, (photo, *convs), edges, (Value(layers),))


class Script:
    """What one well-behaved agent answers; `silent` names message types that it ignores."""

    def __init__(self, agent: AgentId, *, layers: int = 3, kind: str = "conv2d", size: int = 8) -> None:
        self.agent = agent
        self.tier = TIER_OF[agent]
        self.layers = layers
        self.kind, self.size = kind, size
        self.decoder, self.engine = "", "torch"
        self.speed = 1.0
        self.host = "laptop"
        self.slower = 1.0
        self.links: dict[AgentId, float] = {}  # bytes/s, where they are not 1e7
        self.walls: set[AgentId] = set()  # who cannot be dialled from here
        self.deaf: set[AgentId] = set()  # by way of whom nothing gets through
        self.silent: set[type] = set()
        self.heard: list[ToAgent] = []
        self.to_say: list[FromAgent] = []

    @property
    def register(self) -> Register:
        return Register(
            self.agent, self.tier, 4711, self.host, "127.0.0.1:4000", self.speed, "torch", "0.1.0"
        )

    def count(self, kind: type) -> int:
        return sum(isinstance(message, kind) for message in self.heard)

    def answers(self, message: ToAgent) -> list[FromAgent]:
        self.heard.append(message)
        if type(message) in self.silent:
            return []
        match message:
            case LoadModel(model, threads):
                return [
                    ModelLoaded(
                        model,
                        make_graph(model.name, self.layers, self.kind, self.size),
                        "same",
                        threads,
                        0.5,
                        self.decoder,
                        self.engine,
                    )
                ]
            case ProfileModel(model):
                times = (0.0, *[TIME_S[self.agent]] * self.layers)
                return [Profiled(model, times, False, 1.0)]
            case MeasureLinks(peers, quick):
                return [self.measured(peer, quick=quick) for peer in peers]
            case SampleSpeed(model):
                return [SpeedSampled(model, 1, TIME_S[self.agent] * self.slower)]
            case Prepare(pipeline=pipeline, epoch=epoch):
                return [Ready(pipeline, epoch, 0.1)]
            case Confirm(order):
                return [Confirmed(order)]
            case _:
                return []

    def measured(self, peer: Peer, *, quick: bool) -> LinkMeasured | LinkFailed:
        if peer.way is None and peer.agent in self.walls:
            return LinkFailed(peer.agent, f"no answer at {peer.address}", unreachable=True)
        if peer.way is not None and peer.way.agent in self.deaf:
            return LinkFailed(peer.agent, f"{peer.way.agent} has no line")
        return LinkMeasured(peer.agent, self.links.get(peer.agent, 1e7), 0.001, 0.002, quick=quick)

    def say_frame(self, frame: int, epoch: Epoch, spans: int = 20) -> None:
        """Queue an answer and the spans that go with it, to be said with the next heartbeat."""
        report = FrameReport(
            FrameId(frame), epoch, "cat.jpg", 10.0 + frame, 10.3 + frame, "cat", 1, True, 0.0
        )
        one = Span(FrameId(frame), epoch, SpanKind.QUEUE, 10.0 + frame, 10.1 + frame, (1, self.layers))
        self.to_say += [
            SpansRecorded(PIPELINE, 0.001, (one,) * spans),
            FramesAnswered(PIPELINE, frame + 1, (report,)),
        ]

    def compute(self, frame: int, epoch: Epoch, start_s: float, end_s: float) -> SpansRecorded:
        span = Span(FrameId(frame), epoch, SpanKind.COMPUTE, start_s, end_s, (1, self.layers))
        return SpansRecorded(PIPELINE, 0.001, (span,))


class Stage:
    """The coordinator with scripted agents, the real planner and a clock that tests turn.

    `kind` and `size` are of the layers and maps of agents that join, `decoders` and `engines`
    what they decode and compute with, `walls` whom they cannot dial, `deaf` by way of whom they get nowhere,
    `rates` what their links carry.
    """

    def __init__(self, settings: ServerSettings, *, last_epoch: int = 0) -> None:
        self.coordinator = Coordinator(
            settings,
            link_secret="secret",
            strategies=tuple(STRATEGIES),
            boot=1,
            last_epoch=Epoch(last_epoch),
        )
        self.now = 1000.0
        self.scripts: dict[AgentId, Script] = {}
        self.connections: dict[AgentId, int] = {}
        self.published: list[Publish] = []
        self.records: list[Record] = []
        self.closed: list[CloseAgent] = []
        self.plans: list[ComputePlan] = []
        self.hold_plans = False
        self.kind, self.size = "conv2d", 8
        self.decoders: dict[AgentId, str] = {}
        self.engines: dict[AgentId, str] = {}
        self.walls: dict[AgentId, set[AgentId]] = {}
        self.deaf: dict[AgentId, set[AgentId]] = {}
        self.rates: dict[AgentId, dict[AgentId, float]] = {}
        self.hosts: dict[AgentId, str] = {}
        self._joined = 0
        self._events: deque[Event] = deque()

    @property
    def pipeline(self) -> PipelineId:
        return PIPELINE

    def submit(self, *events: Event) -> None:
        """Handle events and all that follows from them."""
        self._events.extend(events)
        while self._events:
            for command in self.coordinator.handle(self._events.popleft(), self.now):
                match command:
                    case SendTo(connection, agent, message):
                        answers = self.scripts[agent].answers(message)
                        self._events.extend(AgentSaid(connection, answer) for answer in answers)
                    case ComputePlan():
                        self.plans.append(command)
                        if not self.hold_plans:
                            self._events.append(self.plan(command))
                    case Publish():
                        self.published.append(command)
                    case Record():
                        self.records.append(command)
                    case CloseAgent():
                        self.closed.append(command)

    @staticmethod
    def plan(command: ComputePlan) -> PlanComputed | PlanFailed:
        try:
            choice = choice_for(command)
        except D3Error as error:
            return PlanFailed(command.pipeline, command.request, str(error))
        return PlanComputed(command.pipeline, command.request, choice)

    def join(self, *agents: AgentId, layers: int = 3, silent: type | None = None, speed: float = 1.0) -> None:
        for agent in agents:
            script = Script(agent, layers=layers, kind=self.kind, size=self.size)
            script.speed = speed
            script.decoder, script.engine = self.decoders.get(agent, ""), self.engines.get(agent, "torch")
            script.walls, script.deaf = self.walls.get(agent, set()), self.deaf.get(agent, set())
            script.links = self.rates.get(agent, {})
            script.host = self.hosts.get(agent, script.host)
            if silent is not None:
                script.silent.add(silent)
            self._joined += 1
            self.scripts[agent], self.connections[agent] = script, self._joined
            self.submit(AgentJoined(self._joined, script.register))

    def join_all(self) -> None:
        settings = self.coordinator.settings
        known = {agent for pipeline in settings.pipelines for agent in pipeline.tiers}
        self.join(*(agent for agent in TIER_OF if agent in known))

    def lose(self, agent: AgentId) -> None:
        self.submit(AgentLost(self.connections[agent], "its connection closed"))

    def count_fresh(self, agent: AgentId) -> int:
        """How often it was to profile a network that it had profiled."""
        return sum(isinstance(m, ProfileModel) and m.fresh for m in self.scripts[agent].heard)

    def say(self, agent: AgentId, *messages: FromAgent) -> None:
        self.submit(*[AgentSaid(self.connections[agent], message) for message in messages])

    def tick(self, seconds: float = 0.1, *, hearts: bool = True) -> None:
        """Let time pass in steps of 0.1 s; with `hearts`, agents stay alive meanwhile."""
        for _ in range(round(seconds / 0.1)):
            self.now += 0.1
            if hearts:
                for record in self.coordinator.world.agents.values():
                    record.heard_s = self.now
            self.submit(Ticked())

    def answer(self, epoch: Epoch, *frames: int, identical: bool | None = None) -> None:
        """The device answers `frames`, 0.3 s each, and every agent of the route sends its spans."""
        reports = tuple(
            FrameReport(
                FrameId(frame), epoch, "cat.jpg", self.now - 0.3, self.now, "cat", 1, identical,
                None if identical is None else 0.0,
            )
            for frame in frames
        )  # fmt: skip
        self.say(DEVICE, FramesAnswered(PIPELINE, max(frames), reports))
        planned = self.coordinator.pipelines[PIPELINE].epochs[epoch]
        for agent in planned.steps:
            for frame in frames:
                self.say(agent, self.scripts[agent].compute(frame, epoch, self.now - 0.3, self.now - 0.28))

    def say_answer_of_unknown_epoch(self, epoch: int) -> None:
        """As from a device that kept running while the server was down."""
        report = FrameReport(FrameId(90), Epoch(epoch), "cat.jpg", self.now - 0.3, self.now)
        self.say(DEVICE, FramesAnswered(PIPELINE, 90, (report,)))

    def transfer(self, sender: AgentId, peer: AgentId, size: int, taken_s: float, target: float) -> None:
        moved = Transfer(peer, FrameId(1), Epoch(1), Value(0), size, taken_s, target)
        self.say(sender, Transferred(PIPELINE, (moved,)))

    def end_source(self, sent: int, answered: int) -> None:
        self.say(DEVICE, SourceEnded(PIPELINE, sent, answered))

    # ── what came of it ───────────────────────────────────────────────────────────────────────────

    @property
    def phase(self) -> str:
        return self.coordinator.pipelines[PIPELINE].phase[0]

    @property
    def phase_text(self) -> str:
        return self.coordinator.pipelines[PIPELINE].phase[1]

    @property
    def active(self) -> int:
        """The number of the active epoch; 0 for none."""
        active = self.coordinator.pipelines[PIPELINE].active
        return active.number if active else 0

    @property
    def tiers(self) -> tuple[Tier, ...]:
        active = self.coordinator.pipelines[PIPELINE].active
        assert active is not None
        return active.plan.tiers

    def states(self) -> dict[int, str]:
        epochs = self.coordinator.pipelines[PIPELINE].epochs
        return {number: epoch.life.state.value for number, epoch in epochs.items()}

    def notes(self, level: str | None = None) -> list[str]:
        """What was said, notes and decisions, each as it was said last."""
        found: dict[object, NoteView | DecisionView] = {}
        for number, event in enumerate(self.published):
            if isinstance(event.data, NoteView | DecisionView):
                key = event.cause_id if isinstance(event.data, DecisionView) else number
                found[key] = event.data
        return [said.text for said in found.values() if level in (None, said.level)]

    def heard(self, agent: AgentId, kind: type[_Heard]) -> list[_Heard]:
        return [message for message in self.scripts[agent].heard if isinstance(message, kind)]

    @property
    def starts(self) -> int:
        return self.scripts[DEVICE].count(StartSource)


MakeStage = Callable[..., Stage]


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., ServerSettings]:
    """Settings of a server with one pipeline over four agents; `changes` go into the pipeline."""

    def make(*, host: str = "127.0.0.1", token: str | None = None, **changes: object) -> ServerSettings:
        pipeline = PipelineSettings(
            id=PIPELINE,
            device=DEVICE,
            edges=(EDGE_1, EDGE_2),
            cloud=CLOUD,
            model=ModelSpec("alexnet"),
            network="wifi",
            shapes={"device-edge": LinkShape(1e7, 0.001)},
            frames=10,
            adapt=False,
        )
        pipeline = msgspec.structs.replace(pipeline, **changes)
        return ServerSettings(tmp_path / "data", (pipeline,), host=host, port=0, token=token)

    return make


@pytest.fixture
def make_stage(make_settings: Callable[..., ServerSettings]) -> MakeStage:
    def make(*, last_epoch: int = 0, **changes: object) -> Stage:
        return Stage(make_settings(**changes), last_epoch=last_epoch)

    return make


@pytest.fixture
def stage(make_stage: MakeStage) -> Stage:
    return make_stage()


@pytest.fixture
def make_script() -> Callable[..., Script]:
    return Script
