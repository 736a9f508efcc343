"""Strangers and broken peers at a real listener: closed, counted, logged once, others undisturbed."""

from __future__ import annotations

import asyncio
import logging
import pickle
import struct
from typing import TYPE_CHECKING

import msgspec
import psutil
import pytest

from d3bed.core.errors import RemoteProtocolError
from d3bed.core.ids import AgentId, PipelineId
from d3bed.net.codec import (
    MAGIC,
    Breach,
    Challenge,
    Kind,
    Limits,
    Proof,
    Refused,
    TensorHeader,
    encode,
)
from d3bed.net.handshake import Introduction
from d3bed.net.wire import Event, Role, Wire

if TYPE_CHECKING:
    from tests.net.conftest import MakeTensor, Site

pytestmark = pytest.mark.sockets

SECRET = b"what only the agents know"
DEVICE, EDGE, PIPELINE = AgentId("pi-1"), AgentId("edge-1"), PipelineId("main")
GIB = 1 << 30


def prefix(kind: int, header_bytes: int, payload_bytes: int, version: int = 1) -> bytes:
    return struct.pack("<4sBBHIQQI", MAGIC, version, kind, 0, header_bytes, payload_bytes, 1, 1)


def tensor(shape: tuple[int, ...], payload_bytes: int) -> bytes:
    header = msgspec.msgpack.encode(TensorHeader(1, 0, "uint8", shape, (1,) * len(shape)))
    return prefix(Kind.TENSOR, len(header), payload_bytes) + header


class Intruder:
    """Speaks the protocol as far as it likes over a plain connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.wire = Wire(Role.CONNECTOR)

    async def answer(self) -> Event | None:
        """The next event; None at the end of the stream."""
        while True:
            data = await self.reader.read(4096)
            if not data:
                return None
            self.wire.receive_data(data)
            if events := self.wire.events_received():
                return events[0]

    async def greet(self, secret: bytes = SECRET) -> Proof:
        introduction = Introduction(DEVICE, EDGE, PIPELINE, secret, bytes(16), 0)
        self.wire.send(introduction.hello)
        self.writer.writelines(self.wire.data_to_send())
        challenge = await self.answer()
        assert isinstance(challenge, Challenge)
        return introduction.challenged(challenge)

    async def open(self) -> None:
        self.wire.send(await self.greet())
        self.writer.writelines(self.wire.data_to_send())
        assert type(await self.answer()).__name__ == "Accepted"

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:  # the listener was first
            return


async def intrude(site: Site) -> Intruder:
    return Intruder(*await site.raw())


@pytest.mark.parametrize(
    ("data", "breach"),
    [
        (b"\x00" * 500, Breach.MAGIC),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", Breach.MAGIC),
        (pickle.dumps(["anything"]), Breach.MAGIC),
        (prefix(Kind.HELLO, GIB, 0), Breach.HEADER_SIZE),
        (prefix(Kind.HELLO, 10, GIB), Breach.PAYLOAD_SIZE),
        (prefix(Kind.HELLO, 10, 0, version=9), Breach.VERSION),
        (prefix(Kind.HELLO, 10, 0) + b"\xff" * 10, Breach.HEADER),
        (tensor((4,), 4) + b"abcd", Breach.ORDER),
    ],
)
async def test_stranger_is_closed_and_counted(site: Site, data: bytes, breach: Breach) -> None:
    intruder = await intrude(site)
    intruder.writer.write(data)
    answer = await intruder.answer()
    assert isinstance(answer, Refused)
    assert site.listener.rejected_by_reason == {breach.value: 1}
    assert site.received.lost == []
    await intruder.close()


@pytest.mark.parametrize(
    ("data", "breach"),
    [
        (b"nonsense", Breach.MAGIC),
        (pickle.dumps(["anything"]), Breach.MAGIC),
        (prefix(Kind.TENSOR, GIB, 4), Breach.HEADER_SIZE),
        (prefix(Kind.TENSOR, 10, GIB), Breach.PAYLOAD_SIZE),
        (tensor((4,), 5), Breach.PAYLOAD_SIZE),
        (tensor((GIB,), GIB & 0xFFFF), Breach.PAYLOAD_SIZE),
        (tensor((1,) * 9, 1), Breach.LAYOUT),
        (prefix(Kind.HELLO, 10, 0), Breach.ORDER),
    ],
)
async def test_peer_that_breaks_the_protocol_is_closed_and_reported(
    site: Site, data: bytes, breach: Breach
) -> None:
    intruder = await intrude(site)
    await intruder.open()
    intruder.writer.write(data)
    assert isinstance(await intruder.answer(), Refused)
    await site.until(lambda: site.received.lost)
    ((agent, pipeline, error),) = site.received.lost
    assert (agent, pipeline) == (DEVICE, PIPELINE) and isinstance(error, RemoteProtocolError)
    assert site.listener.rejected_by_reason == {breach.value: 1}
    await intruder.close()


@pytest.mark.parametrize("first", [b"", b"d", prefix(Kind.HELLO, 40, 0)])
async def test_stall_in_the_handshake(strict_site: Site, first: bytes) -> None:
    intruder = await intrude(strict_site)
    intruder.writer.write(first)
    async with asyncio.timeout(60):
        assert isinstance(await intruder.answer(), Refused)
    assert strict_site.listener.rejected_by_reason == {Breach.STALL.value: 1}
    await intruder.close()


async def test_drop_by_drop_handshake_does_not_buy_time(strict_site: Site) -> None:
    intruder = await intrude(strict_site)
    answer = asyncio.create_task(intruder.answer())
    for byte in encode(Introduction(DEVICE, EDGE, PIPELINE, SECRET, bytes(16), 0).hello, Limits())[0][:30]:
        intruder.writer.write(bytes([byte]))
        await asyncio.wait([answer], timeout=0.05)
        if answer.done():
            break
    assert answer.done() and isinstance(await answer, Refused)
    assert strict_site.listener.rejected_by_reason == {Breach.STALL.value: 1}
    await intruder.close()


@pytest.mark.parametrize("sent", [1, 32, 50, 100_000])
async def test_stall_within_a_message(strict_site: Site, make_tensor: MakeTensor, sent: int) -> None:
    head, payload = encode(make_tensor((1, 3, 300, 300)), Limits())
    assert payload is not None
    intruder = await intrude(strict_site)
    await intruder.open()
    intruder.writer.write((head + payload)[:sent])
    async with asyncio.timeout(60):
        assert isinstance(await intruder.answer(), Refused)
    assert strict_site.listener.rejected_by_reason == {Breach.STALL.value: 1}
    await intruder.close()


async def test_quiet_link_between_messages_is_no_stall(strict_site: Site, make_tensor: MakeTensor) -> None:
    sender = await strict_site.connect()
    await sender.send(make_tensor())
    await asyncio.sleep(0.9)
    await sender.send(make_tensor())
    await strict_site.until(lambda: len(strict_site.received.tensors) == 2)
    assert strict_site.listener.rejected == 0


async def test_replayed_proof_is_refused(site: Site) -> None:
    honest = await intrude(site)
    proof = await honest.greet()
    replay = await intrude(site)
    await replay.greet()
    replay.wire.send(proof)
    replay.writer.writelines(replay.wire.data_to_send())
    answer = await replay.answer()
    assert isinstance(answer, Refused) and "secret" in answer.reason
    assert site.listener.rejected_by_reason == {Breach.PROOF.value: 1}
    await replay.close()
    await honest.close()


async def test_crowd_before_the_handshake_is_bounded(site: Site, make_tensor: MakeTensor) -> None:
    sender = await site.connect()
    crowd = [await intrude(site) for _ in range(70)]
    await site.until(lambda: site.listener.rejected_by_reason[Breach.CROWDED.value] == 6)
    await sender.send(make_tensor())  # those who are in stay in
    await site.until(lambda: site.received.tensors)
    assert len(site.received.tensors) == 1
    assert site.listener.rejected == 6
    for intruder in crowd:
        await intruder.close()


async def test_abuse_is_logged_once_and_disturbs_nobody(
    site: Site, make_tensor: MakeTensor, caplog: pytest.LogCaptureFixture
) -> None:
    sender = await site.connect()
    await sender.send(make_tensor())
    process = psutil.Process()
    abuses = [
        b"garbage" * 1000,
        pickle.dumps(list(range(1000))),
        prefix(Kind.TENSOR, 10, 60 * 1024 * 1024),
        prefix(Kind.HELLO, GIB, 0),
    ]
    before = 0
    with caplog.at_level(logging.WARNING):
        for number in range(400):
            intruder = await intrude(site)
            intruder.writer.write(abuses[number % len(abuses)])
            assert isinstance(await intruder.answer(), Refused)
            await intruder.close()
            if number == 100:
                before = process.memory_info().rss
    assert process.memory_info().rss - before < 8 * 1024 * 1024
    assert site.listener.rejected == 400
    assert len([record for record in caplog.records if record.name.startswith("d3bed")]) == 1
    await sender.send(make_tensor(frame=2))
    await site.until(lambda: len(site.received.tensors) == 2)
    assert not sender.closed and site.received.lost == []


async def test_tensor_that_the_agent_does_not_expect_is_refused(site: Site, make_tensor: MakeTensor) -> None:
    lost: list[Exception] = []
    sender = await site.connect(on_lost=lost.append)
    site.received.unexpected = RemoteProtocolError("value 3.1 is not expected here")
    await sender.send(make_tensor())
    await site.until(lambda: lost and site.received.lost)
    assert "refused: value 3.1 is not expected here" in str(lost[0])
    assert site.listener.rejected_by_reason == {Breach.CONTENT.value: 1}
    assert site.received.lost[0][2] is site.received.unexpected
