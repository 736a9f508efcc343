"""The control connection against a real WebSocket server: register, report, come back, give up."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from d3bed.agent.clock import ClockOffset
from d3bed.agent.control import REFUSED, run_control
from d3bed.agent.reporter import Reporter
from d3bed.core.errors import ConfigError
from d3bed.core.graph import Value
from d3bed.core.ids import AgentId, Epoch, FrameId, PipelineId, Tier
from d3bed.core.measurements import Span, SpanKind, Transfer
from d3bed.core.messages import (
    ClockPing,
    ClockPong,
    Drained,
    FrameRescued,
    FromAgent,
    Heartbeat,
    Register,
    Stop,
    ToAgent,
    Welcome,
    encode,
)
from d3bed.core.regions import Region
from d3bed.core.regions import Span as Positions
from d3bed.core.together import decode_all

pytestmark = pytest.mark.sockets

HELLO = Register(AgentId("a"), Tier.EDGE, 1, "here", "127.0.0.1:1", 1.0, "eager", "0")


class Peer:
    """A server that answers as d3bed's does; `refuse` ends registrations for good, `mute` says nothing."""

    def __init__(self) -> None:
        self.heard: list[FromAgent] = []
        self.texts: list[str | bytes] = []
        self.connections: list[ServerConnection] = []
        self.refuse = self.mute = False
        self.server: Server | None = None

    async def start(self, port: int = 0) -> int:
        self.server = await serve(self.answer, "127.0.0.1", port)
        return int(next(iter(self.server.sockets)).getsockname()[1])

    async def stop(self) -> None:
        assert self.server is not None
        self.server.close()
        await self.server.wait_closed()

    async def answer(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
        with contextlib.suppress(ConnectionClosed):
            async for text in connection:
                self.texts.append(text)
                for message in decode_all(text):
                    self.heard.append(message)
                    await self.react(connection, message)

    async def react(self, connection: ServerConnection, message: FromAgent) -> None:
        match message:
            case _ if self.mute:
                pass
            case Register() if self.refuse:
                await connection.close(REFUSED, "the name is taken")
            case Register():
                await connection.send(encode(Welcome("00" * 32, 0.05)))
            case ClockPing(sent_s):
                await connection.send(encode(ClockPong(sent_s, sent_s + 1000)))

    def count(self, kind: type) -> int:
        return sum(isinstance(message, kind) for message in self.heard)


class Client:
    def __init__(self, port: int) -> None:
        self.clock = ClockOffset()
        self.reporter = Reporter(self.clock)
        self.got: list[ToAgent] = []
        self.task = asyncio.create_task(
            run_control(
                f"http://127.0.0.1:{port}",
                lambda: None,
                lambda: HELLO,
                Heartbeat,
                self.clock,
                self.reporter,
                self.handle,
            )
        )

    async def handle(self, message: ToAgent) -> None:
        self.got.append(message)


class Relay:
    """Passes a connection on to `port`, and counts the bytes that the client sends."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int) -> int:
        self._port = port
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, onward = await asyncio.open_connection("127.0.0.1", self._port)
        for source, target, counts in ((reader, onward, True), (there, writer, False)):
            self._tasks.add(asyncio.create_task(self._pump(source, target, counts)))

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, counts: bool) -> None:
        try:
            while data := await source.read(65536):
                self.sent_bytes += len(data) if counts else 0
                target.write(data)
                await target.drain()
        finally:
            target.close()


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    made = Relay()
    yield made
    await made.stop()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    made = Peer()
    yield made
    await made.stop()


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_it_registers_first_keeps_time_and_reports(peer: Peer) -> None:
    client = Client(await peer.start())
    client.reporter.fact(Drained(PipelineId("p"), Epoch(4)))
    await until(lambda: peer.count(Drained) and peer.count(Heartbeat) > 2 and client.clock.known)
    assert peer.heard[0] == HELLO
    assert Drained(PipelineId("p"), Epoch(4)) in peer.heard
    assert isinstance(client.got[0], Welcome)
    assert abs(client.clock.offset_s - 1000) < 1
    client.task.cancel()
    await asyncio.gather(client.task, return_exceptions=True)


async def test_a_server_that_falls_silent_is_tried_anew(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d3bed.agent.control.SILENT_S", 1.0)
    client = Client(await peer.start())
    await until(lambda: client.clock.known)
    peer.mute = True
    await until(lambda: peer.count(Register) == 2)  # as behind a cut cable: nobody said goodbye
    peer.mute = False
    await until(lambda: peer.count(Register) >= 3 and sum(isinstance(m, Welcome) for m in client.got) == 2)
    client.task.cancel()
    await asyncio.gather(client.task, return_exceptions=True)


async def test_after_a_lost_server_it_registers_from_scratch(peer: Peer) -> None:
    port = await peer.start()
    client = Client(port)
    await until(lambda: peer.count(Register) == 1)
    await peer.stop()
    await peer.start(port)
    await until(lambda: peer.count(Register) == 2)
    await peer.connections[-1].send(encode(Stop("enough")))
    await until(lambda: any(isinstance(message, Stop) for message in client.got))
    assert not client.task.done()
    client.task.cancel()
    await asyncio.gather(client.task, return_exceptions=True)


async def test_a_refused_registration_ends_it_with_the_servers_reason(peer: Peer) -> None:
    peer.refuse = True
    client = Client(await peer.start())
    with pytest.raises(ConfigError, match="the name is taken"):
        await asyncio.wait_for(client.task, 60)
    assert peer.count(Register) == 1


async def test_a_server_that_talks_nonsense_is_left_and_tried_again(peer: Peer) -> None:
    client = Client(await peer.start())
    await until(lambda: peer.count(Register) == 1)
    await peer.connections[0].send('{"type": "SelfDestruct"}')
    await until(lambda: peer.count(Register) == 2)
    assert all(isinstance(message, Welcome | ClockPong) for message in client.got)
    client.task.cancel()
    await asyncio.gather(client.task, return_exceptions=True)


def tell_frame(reporter: Reporter, number: int, at_s: float) -> None:
    """What the edge agent that owns a plan's tiles says of a frame, counted in the demo: the busiest one."""
    pipeline, frame, epoch = PipelineId("main"), FrameId(number), Epoch(12)
    helper, jitter, start_s = AgentId("edge-2"), random.Random(number), at_s
    for turn in range(3):
        for kind in (SpanKind.WAIT, SpanKind.QUEUE, SpanKind.COMPUTE, SpanKind.SERIALISE, SpanKind.TRANSFER):
            end_s = start_s + 0.003 + jitter.random() / 1e3  # each begins when the one before is over
            peer = helper if kind is SpanKind.TRANSFER else None
            tile = (1, 0, 0) if kind is SpanKind.COMPUTE else None
            place = (3 + 2 * turn, 4 + 2 * turn)
            reporter.span(pipeline, Span(frame, epoch, kind, start_s, end_s, place, 0.0, peer, tile))
            start_s = end_s
    reporter.span(pipeline, Span(frame, epoch, SpanKind.TILED, at_s, start_s, (3, 9)))
    for n in range(5):
        value = Value(3 + n, 0, Region(Positions(0, 3), Positions(0, 13)))
        taken_s = 0.01 + jitter.random() / 1e3
        reporter.transfer(pipeline, Transfer(helper, frame, epoch, value, 9984, taken_s, 1.25e8))
    reporter.rescued(pipeline, epoch, frame, "no tiles")


async def test_ten_frames_a_second_are_told_in_five_kilobytes_a_second(peer: Peer, relay: Relay) -> None:
    client = Client(await relay.start(await peer.start()))
    await until(lambda: peer.count(Heartbeat) > 2 and client.clock.known)
    before, began_s = relay.sent_bytes, time.monotonic()
    for number in range(1, 31):
        tell_frame(client.reporter, number, time.monotonic())
        await until(lambda: peer.count(FrameRescued) == number)  # noqa: B023 — within this turn
    took_s = time.monotonic() - began_s
    per_frame = (relay.sent_bytes - before) / 30
    assert took_s > 2.0, "every frame left in a batch of its own"
    told = [text for text in peer.texts if "SpansRecorded" in str(text)]
    assert all("Transferred" in str(text) for text in told), "one moment's messages share a text"
    assert per_frame <= 500
    assert 0 < client.reporter.spent_s < took_s
    client.task.cancel()
    await asyncio.gather(client.task, return_exceptions=True)
