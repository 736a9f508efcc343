"""Malformed input where strangers and broken peers can reach: data port, control connection, JSON API.

Each is the real code, without sockets where that is possible, so that many inputs fit in minutes:

- *data port*: bytes of a legal conversation, bent (bits, lengths, pieces left out, doubled, mixed), into the
  protocol object of an acceptor. It may refuse, and must not raise anything else, allocate more than its
  limits, or keep anything.
- *control*: messages drawn from their types, through the decoder into a coordinator to which agents are
  connected, plans included. Refusing is the decoder's right; what it lets through must be handled.
- *server*, *API*, *document*: the same, and requests, to a server process; see `fuzz_server`.

Everything follows from the seed. A failure is told with the input that caused it. What is stopped early, by
Ctrl-C or the clock, tells what came of the inputs until then.
"""

from __future__ import annotations

import json
import math
import random
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil

from d3bed.bench.nonsense import Nonsense
from d3bed.core.errors import D3Error, LinkBroken, RemoteProtocolError
from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex, Window
from d3bed.core.ids import AgentId, Epoch, FrameId, PipelineId, Tier
from d3bed.core.messages import (
    FromAgent,
    LinkMeasured,
    LoadModel,
    MeasureLinks,
    ModelLoaded,
    ModelSpec,
    Prepare,
    Profiled,
    ProfileModel,
    Ready,
    Register,
    ToAgent,
)
from d3bed.core.together import decode_all
from d3bed.net.codec import (
    Accepted,
    Challenge,
    Goodbye,
    Hello,
    Limits,
    Message,
    Ping,
    ProbeData,
    Proof,
    TensorMessage,
    WireViolation,
    encode,
)
from d3bed.net.wire import Role, Wire
from d3bed.plan import STRATEGIES
from d3bed.server.coordinator import Coordinator
from d3bed.server.events import (
    AgentJoined,
    AgentLost,
    AgentSaid,
    ChangeStrategy,
    ComputePlan,
    PlanComputed,
    PlanFailed,
    SendTo,
    Ticked,
)
from d3bed.server.runner import choice_for
from d3bed.server.settings import PipelineSettings, ServerSettings

__all__ = ["AGENTS", "HANG_S", "Stop", "Tally", "fuzz_control", "fuzz_wire", "garbled", "said_by_agents"]

#: Of resident memory, from a tenth of the inputs to the end.
GROWTH_BYTES = 64 << 20
#: An input that takes longer counts as a hang.
HANG_S = 5.0
_TOLD_EACH = 1000


class Stop:
    """Whether to end before all inputs are through, and who is told how far it is."""

    def __init__(self, minutes: float = math.inf, tell: Callable[[str], None] = lambda _: None) -> None:
        self._at_s = time.monotonic() + minutes * 60
        self._tell = tell
        self.asked = False

    @property
    def now(self) -> bool:
        return self.asked or time.monotonic() > self._at_s

    def told(self, name: str, done: int, inputs: int) -> None:
        self._tell(f"{name}: {done:,} of {inputs:,}")


class Tally:
    """What came of the inputs, and the failures among them."""

    def __init__(self, name: str, inputs: int, stop: Stop | None = None) -> None:
        self.name, self.inputs, self.stop = name, inputs, stop or Stop()
        self.outcomes: Counter[str] = Counter()
        self.failures: list[str] = []
        self.slowest_s = 0.0
        self._began_s = time.monotonic()
        self._early: int | None = None
        self._done = 0
        self.growth_bytes = 0

    def done(self, outcome: str, took_s: float, given: object = None) -> None:
        self.outcomes[outcome] += 1
        if took_s > self.slowest_s:
            self.slowest_s = took_s
        if took_s > HANG_S:
            self.failures.append(f"took {took_s:.1f} s: {given!r}"[:2000])
        self.count(1)

    def count(self, inputs: int) -> None:
        """So many more are through."""
        before, self._done = self._done, self._done + inputs
        if before // _TOLD_EACH < self._done // _TOLD_EACH:
            self.stop.told(self.name, self._done, self.inputs)
        if self._early is None and self._done >= self.inputs // 10:
            self._early = psutil.Process().memory_info().rss

    @property
    def is_through(self) -> bool:
        return self.stop.now or self._done >= self.inputs

    def failed(self, error: BaseException, given: object) -> None:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno}) for {given!r}"
        if len(self.failures) < 50:
            self.failures.append(text[:2000])
        self.outcomes["failed"] += 1
        self.count(1)

    def result(self, growth_bytes: int | None = None) -> dict[str, Any]:
        if growth_bytes is None:
            now_bytes = psutil.Process().memory_info().rss
            growth_bytes = now_bytes - (self._early or now_bytes)
        return {
            "inputs": self._done,
            "wanted": self.inputs,
            "outcomes": dict(self.outcomes),
            "slowest_s": self.slowest_s,
            "took_s": time.monotonic() - self._began_s,
            "growth_bytes": max(0, growth_bytes),
            "failures": [
                *self.failures,
                *([f"memory grew by {growth_bytes >> 20} MiB"] if growth_bytes > GROWTH_BYTES else []),
            ],
        }


# ── data port ────────────────────────────────────────────────────────────────────────────────────────


def fuzz_wire(seed: int, inputs: int, stop: Stop | None = None) -> dict[str, Any]:
    """Bent conversations into an acceptor's protocol object."""
    dice, tally = random.Random(seed), Tally("data port", inputs, stop)
    limits = Limits(payload_bytes=1 << 20)
    legal = _conversation()

    def allocate(count: int) -> memoryview:
        if count > limits.payload_bytes:
            raise AssertionError(f"{count} bytes were to be allocated")
        return memoryview(bytearray(count))

    for _ in range(inputs):
        if tally.stop.now:
            break
        given = _bent(dice, legal)
        wire = Wire(Role.ACCEPTOR, limits, allocate)
        began_s, outcome = time.perf_counter(), "taken"
        try:
            for piece in given:
                size = dice.choice((1, 7, 32, len(piece))) or 1
                for at in range(0, len(piece), size):
                    wire.receive_data(piece[at : at + size])
                for event in wire.events_received():
                    _answer(wire, event)
            wire.receive_eof()
        except WireViolation as violation:
            outcome = f"refused: {violation.breach}"
        except LinkBroken:
            outcome = "ended early"
        except Exception as error:
            tally.failed(error, given)
            continue
        tally.done(outcome, time.perf_counter() - began_s, given)
    return tally.result()


def _conversation() -> list[bytes]:
    """What a connector says, message by message."""
    tensor = TensorMessage(
        FrameId(1), Epoch(1), Value(3), "float32", (1, 2, 3, 4), (24, 12, 4, 1), memoryview(bytes(96))
    )
    said: list[Message] = [
        Hello(AgentId("pi-1"), AgentId("edge-1"), PipelineId("main"), bytes(16)),
        Proof(bytes(32)),
        tensor,
        Ping(1),
        ProbeData(1, memoryview(bytes(300))),
        tensor,
        Goodbye("done"),
    ]
    return [b"".join(bytes(p) for p in encode(each, Limits()) if p is not None) for each in said]


def _answer(wire: Wire, event: object) -> None:
    """Go on as an acceptor that is content with any proof, so that what follows is reached."""
    if isinstance(event, Hello):
        wire.send(Challenge(bytes(16)))
    elif isinstance(event, Proof):
        wire.send(Accepted(bytes(32)))
    wire.data_to_send()


def _bent(dice: random.Random, legal: list[bytes]) -> list[bytes]:
    pieces = list(legal)
    for _ in range(dice.choice((0, 0, 1, 2))):  # the order
        at = dice.randrange(len(pieces))
        match dice.randrange(3):
            case 0:
                del pieces[at]
            case 1:
                pieces.insert(at, dice.choice(legal))
            case _:
                pieces[at] = pieces[at][: dice.randrange(len(pieces[at]) + 1)]
        if not pieces:
            return [dice.randbytes(40)]
    at = dice.randrange(len(pieces))
    piece = bytearray(pieces[at])
    for _ in range(dice.choice((0, 1, 1, 2, 8))):
        if not piece:
            break
        place = dice.randrange(len(piece))
        match dice.randrange(5):
            case 0:
                piece[place] ^= 1 << dice.randrange(8)
            case 1:
                piece[place] = dice.choice((0, 0x7F, 0x80, 0xFF, 0xC1))
            case 2:
                piece[place:place] = dice.randbytes(dice.randrange(1, 9))
            case 3:
                del piece[place : place + dice.randrange(1, 9)]
            case _:  # a length, in the prefix or the header
                wide = dice.choice((2, 4, 8))
                number = dice.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63, 2**64 - 1, 1 << 20, 4097))
                piece[place : place + wide] = (number % (1 << 8 * wide)).to_bytes(wide, "little")
    pieces[at] = bytes(piece)
    return pieces if dice.random() < 0.8 else [b"".join(pieces)]


# ── control ──────────────────────────────────────────────────────────────────────────────────────────

AGENTS = {"pi-1": Tier.DEVICE, "edge-1": Tier.EDGE, "edge-2": Tier.EDGE, "cloud-1": Tier.CLOUD}
_MODEL = ModelSpec("alexnet")


def fuzz_control(seed: int, inputs: int, stop: Stop | None = None) -> dict[str, Any]:
    """Messages of agents, more or less well-formed, into a coordinator; its plans are made."""
    dice, tally = random.Random(seed), Tally("control", inputs, stop)
    with tempfile.TemporaryDirectory() as folder:
        coordinator = _coordinator(Path(folder))
    said = said_by_agents(dice)
    now, numbers, plans = 1000.0, dict[str, int](), 0
    pipeline, fair = PipelineId("main"), 1.0

    def submit(event: Any) -> None:
        nonlocal plans
        waiting, patience = [event], 20
        while waiting:
            for command in coordinator.handle(waiting.pop(0), now):
                if isinstance(command, ComputePlan):
                    plans += 1
                    try:
                        waiting.append(PlanComputed(command.pipeline, command.request, choice_for(command)))
                    except D3Error as error:
                        waiting.append(PlanFailed(command.pipeline, command.request, str(error)))
                elif isinstance(command, SendTo) and patience > 0 and dice.random() < fair:
                    patience -= 1  # orders that follow from answers at once would never end
                    answers = _fair(command.message)
                    waiting += [AgentSaid(command.connection, answer) for answer in answers]

    def join(agent: str, connection: int) -> None:
        if agent in numbers:
            submit(AgentLost(numbers[agent], "fuzz"))
        numbers[agent] = connection
        address = f"127.0.0.1:{4000 + connection % 1000}"
        register = Register(AgentId(agent), AGENTS[agent], 1, "h", address, 1.0, "torch", "0")
        submit(AgentJoined(connection, register))

    for connection, agent in enumerate(AGENTS, 1):
        join(agent, connection)
    while coordinator.pipelines[pipeline].active is None:  # at first all is well, and a plan in force
        now += 0.1
        submit(Ticked())
    fair = 0.5
    for number in range(inputs):
        if tally.stop.now:
            break
        now += dice.choice((0.0, 0.01, 0.2))
        agent = dice.choice(list(AGENTS))
        began_s, outcome, text = time.perf_counter(), "handled", ""
        try:
            if dice.random() < 0.002:
                join(agent, len(AGENTS) + number + 1)
            text = next(said)
            for message in decode_all(text):
                if isinstance(message, Register):
                    raise RemoteProtocolError("registered already")  # as the door does for a second one
                submit(AgentSaid(numbers[agent], message, len(text)))
            if number % 20 == 0:
                submit(Ticked())
                if coordinator.pipelines[pipeline].phase[0] == "failed":
                    submit(ChangeStrategy(pipeline, dice.choice(("optimal", "hpa", "edge", "cloud"))))
                coordinator.snapshot()
        except RemoteProtocolError:
            outcome = "refused"
        except Exception as error:
            tally.failed(error, text)
            continue
        tally.done(outcome, time.perf_counter() - began_s, text)
    return tally.result() | {
        "plans": plans,
        "epochs": coordinator.world.new_epoch() - 1,
    }


def said_by_agents(dice: random.Random) -> Iterator[str]:
    """Messages to a server, more or less well-formed, without end."""
    known: dict[str, list[Any]] = {
        "agent": list(AGENTS),
        "peer": list(AGENTS),
        "pipeline": ["main", "main", "other"],
        "epoch": [1, 2, 3, 5, 1000],
        "frame": [1, 2, 3, 100],
        "ModelSpec": [_MODEL],
        # So that plans are made, prepared and in force now and then.
        "Graph": [_graph()],
        "fingerprint": ["same"],
        "problem": [""],
        "times_s": [[0.0, *(dice.choice((0.0, 1e-6, 0.01, 0.3, 1e9)) for _ in range(3))] for _ in range(8)],
        "fixed_s": [[], [0.0, 0.0, 0.001, 0.0]],
    }
    says = Nonsense(dice, known)
    kinds = [kind for kind in msgspec.inspect.type_info(FromAgent).types]  # type: ignore[attr-defined]
    # What ends a pipeline's plans comes seldom, what leads to them often.
    often = {"ModelLoaded": 5.0, "Profiled": 5.0, "LinkMeasured": 10.0, "Ready": 5.0, "ModelFailed": 0.05}
    weights = [often.get(kind.cls.__name__, 1.0) for kind in kinds]
    while True:
        kind = dice.choices(kinds, weights)[0]
        text = json.dumps(says.of(kind.cls))
        if dice.random() < 0.05:
            text = json.dumps([json.loads(text), says.of(kind.cls)])
        yield garbled(dice, text) if dice.random() < 0.05 else text


def _fair(order: ToAgent) -> list[FromAgent]:
    """What a good agent answers, so that plans are in force while others talk nonsense."""
    match order:
        case LoadModel(model, threads):
            return [ModelLoaded(model, _graph(), "same", threads, 0.1)]
        case ProfileModel(model):
            return [Profiled(model, (0.0, 0.01, 0.02, 0.03), False, 0.1)]
        case MeasureLinks(peers, quick):
            return [LinkMeasured(peer.agent, 1e7, 0.001, 0.002, quick=quick) for peer in peers]
        case Prepare(pipeline, epoch):
            return [Ready(pipeline, epoch, 0.1)]
        case _:
            return []


def _graph() -> Graph:
    """A chain of three convolutions."""
    maps = TensorSpec((1, 8, 32, 32), "float32")
    window = Window((3, 3), (1, 1), (1, 1))
    photo = Vertex("input", "input", (TensorSpec((1, 3, 32, 32), "uint8"),))
    layers = [Vertex(f"conv{n}", "conv2d", (maps,), ("conv2d",), 10**6, 10**4, window) for n in (1, 2, 3)]
    return Graph("alexnet", (photo, *layers), tuple(Edge(n, n + 1) for n in range(3)), (Value(3),))


def _coordinator(folder: Path) -> Coordinator:
    names = [AgentId(name) for name in AGENTS]
    pipeline = PipelineSettings(PipelineId("main"), names[0], (names[1], names[2]), names[3], _MODEL)
    settings = ServerSettings(folder, (pipeline,))
    return Coordinator(settings, link_secret="00", strategies=tuple(STRATEGIES))


def garbled(dice: random.Random, text: str) -> str:
    at = dice.randrange(len(text) + 1)
    return (
        text[:at]
        + dice.choice(("", "}", "\x00", "\ud800", '"', "[" * 200, "1e999", "9" * 400))
        + text[at + 1 :]
    )
