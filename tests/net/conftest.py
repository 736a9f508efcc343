"""Two ends of a link without a network, and real links on loopback."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from d3bed.core.graph import ITEM_BYTES, Value
from d3bed.core.ids import AgentId, Epoch, FrameId, PipelineId
from d3bed.core.measurements import LinkShape
from d3bed.net import Limits, Listener, Pacing, Sender, TensorMessage
from d3bed.net.codec import Accepted, Challenge, Hello, Message, Proof
from d3bed.net.handshake import Acceptance, Introduction
from d3bed.net.wire import Event, Role, Wire

SECRET = b"what only the agents know"
DEVICE, EDGE, PIPELINE = AgentId("pi-1"), AgentId("edge-1"), PipelineId("main")


class LinkPair:
    """A connector and an acceptor joined by nothing but bytes, handed over `step` at a time."""

    def __init__(self, step: int = 1, limits: Limits | None = None) -> None:
        self.step = step
        self.connector = Wire(Role.CONNECTOR, limits)
        self.acceptor = Wire(Role.ACCEPTOR, limits)

    def carry(self, sender: Wire) -> list[Event]:
        """Take what `sender` wants to send to the other end; what happened there."""
        receiver = self.acceptor if sender is self.connector else self.connector
        events: list[Event] = []
        for piece in sender.data_to_send():
            for start in range(0, len(piece), self.step):
                receiver.receive_data(piece[start : start + self.step])
                events += receiver.events_received()
        return events

    def say(self, sender: Wire, message: Message) -> list[Event]:
        sender.send(message)
        return self.carry(sender)

    def open(self, secret: bytes = SECRET, known: bytes = SECRET) -> LinkPair:
        """The whole handshake."""
        introduction = Introduction(DEVICE, EDGE, PIPELINE, secret, bytes(16), 0)
        acceptance = Acceptance(EDGE, known, bytes(range(16)))
        (hello,) = self.say(self.connector, introduction.hello)
        assert isinstance(hello, Hello)
        (challenge,) = self.say(self.acceptor, acceptance.greeted(hello))
        assert isinstance(challenge, Challenge)
        (proof,) = self.say(self.connector, introduction.challenged(challenge))
        assert isinstance(proof, Proof)
        (accepted,) = self.say(self.acceptor, acceptance.proved(proof)[1])
        assert isinstance(accepted, Accepted)
        introduction.accepted(accepted)
        return self


@pytest.fixture(params=[1, 7, 1 << 20], ids=["byte by byte", "seven bytes", "at once"])
def pair(request: pytest.FixtureRequest) -> LinkPair:
    """A pair before its handshake."""
    return LinkPair(request.param)


@pytest.fixture
def open_pair(pair: LinkPair) -> LinkPair:
    return pair.open()


MakeTensor = Callable[..., TensorMessage]


@pytest.fixture
def make_tensor() -> MakeTensor:
    """A tensor of `shape` and `dtype` with a payload that tells frames apart."""

    def make(
        shape: tuple[int, ...] = (1, 3, 4, 5),
        dtype: str = "float32",
        strides: tuple[int, ...] | None = None,
        frame: int = 1,
        epoch: int = 1,
    ) -> TensorMessage:
        if strides is None:
            strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        nbytes = math.prod(shape) * ITEM_BYTES[dtype]
        payload = bytes((i + frame) % 251 for i in range(min(nbytes, 251))) * (nbytes // 251 + 1)
        return TensorMessage(
            FrameId(frame), Epoch(epoch), Value(3, 1), dtype, shape, strides, payload[:nbytes]
        )

    return make


@dataclass
class Received:
    """What a listener told its agent."""

    tensors: list[TensorMessage] = field(default_factory=list)
    unexpected: Exception | None = None
    lost: list[tuple[AgentId, PipelineId, Exception]] = field(default_factory=list)

    def on_tensor(self, agent: AgentId, pipeline: PipelineId, tensor: TensorMessage) -> None:
        assert (agent, pipeline) == (DEVICE, PIPELINE)
        if self.unexpected is not None:
            raise self.unexpected
        self.tensors.append(tensor)

    def on_lost(self, agent: AgentId, pipeline: PipelineId, error: Exception) -> None:
        self.lost.append((agent, pipeline, error))


class Site:
    """A real listener on loopback and senders to it."""

    def __init__(self, listener: Listener, received: Received) -> None:
        self.listener, self.received = listener, received
        self.senders: list[Sender] = []

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for `condition`; the test fails if it does not come."""
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 — the condition is not ours to signal
                await asyncio.sleep(0.002)

    async def connect(
        self,
        secret: bytes = SECRET,
        shape: LinkShape | None = None,
        on_lost: Callable[[Exception], None] | None = None,
        peer: AgentId = EDGE,
        pacing: Pacing | None = None,
    ) -> Sender:
        sender = await Sender.connect(
            self.listener.address,
            me=DEVICE,
            peer=peer,
            pipeline=PIPELINE,
            secret=secret,
            shape=shape,
            on_lost=on_lost,
            pacing=pacing,
        )
        self.senders.append(sender)
        return sender

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection that does not speak d3bed by itself."""
        host, _, port = self.listener.address.rpartition(":")
        return await asyncio.open_connection(host, int(port))


@asynccontextmanager
async def a_site(limits: Limits) -> AsyncIterator[Site]:
    received = Received()
    listener = await Listener.start(
        "127.0.0.1",
        0,
        me=EDGE,
        secret=SECRET,
        on_tensor=received.on_tensor,
        on_lost=received.on_lost,
        limits=limits,
    )
    site = Site(listener, received)
    try:
        yield site
    finally:
        for sender in site.senders:
            await sender.close()
        await listener.close()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with a_site(Limits()) as made:
        yield made


@pytest.fixture
async def strict_site() -> AsyncIterator[Site]:
    """Stalls are noticed after 0.5 s."""
    async with a_site(Limits(timeout_s=0.5)) as made:
        yield made
