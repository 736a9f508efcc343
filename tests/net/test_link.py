from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from d3bed.core.errors import ConfigError, LinkBroken, LinkClosed, LocalProtocolError, RemoteProtocolError
from d3bed.core.ids import AgentId, PipelineId
from d3bed.core.measurements import LinkShape
from d3bed.net import PIECE_BYTES, Limits, Listener, Pacing, Sender, new_event_loop
from d3bed.net.codec import Hello, Proof
from d3bed.net.handshake import Acceptance
from d3bed.net.wire import Role, Wire

if TYPE_CHECKING:
    from tests.net.conftest import MakeTensor, Site

pytestmark = pytest.mark.sockets

SECRET = b"what only the agents know"
DEVICE, EDGE, PIPELINE = AgentId("pi-1"), AgentId("edge-1"), PipelineId("main")


async def test_tensors_arrive_in_order(site: Site, make_tensor: MakeTensor) -> None:
    sender = await site.connect()
    sent = [make_tensor((1, 7, size, size), frame=size) for size in (1, 60, 3, 700, 2)]
    transfers = await asyncio.gather(*(sender.send(tensor) for tensor in sent))
    await site.until(lambda: len(site.received.tensors) == len(sent))
    for tensor, got, transfer in zip(sent, site.received.tensors, transfers, strict=True):
        assert (got.frame, got.epoch, got.value, got.shape) == (
            tensor.frame,
            tensor.epoch,
            tensor.value,
            tensor.shape,
        )
        assert got.payload == tensor.payload
        assert (transfer.peer, transfer.frame, transfer.bytes) == (EDGE, tensor.frame, len(tensor.payload))
        assert transfer.target_bytes_per_s is None and transfer.taken_s > 0


async def test_dead_tensors_give_their_buffers_back(site: Site, make_tensor: MakeTensor) -> None:
    sender = await site.connect()
    for frame in range(20):
        await sender.send(make_tensor((1, 64, 100, 100), frame=frame))
        await site.until(lambda: site.received.tensors)
        site.received.tensors.clear()
    assert site.listener.pool.idle_bytes <= 2 * 4 * 1024 * 1024


async def test_shaped_transfer_takes_its_time(site: Site, make_tensor: MakeTensor) -> None:
    shape = LinkShape(bytes_per_s=2e6, latency_s=0.05)
    sender = await site.connect(shape=shape)
    start_s = time.monotonic()
    transfer = await sender.send(make_tensor((100_000,), "uint8"))
    left_s = time.monotonic()
    assert transfer.target_bytes_per_s == 2e6
    assert (
        left_s - start_s >= 0.05 and transfer.taken_s <= left_s - start_s + 1e-3
    )  # `bench wire`: how exactly
    assert not site.received.tensors or left_s - start_s >= 0.1  # the last bytes are still in the delay line
    await site.until(lambda: site.received.tensors)
    assert time.monotonic() - start_s >= 0.1


async def test_shaped_tensors_share_the_link_one_after_the_other(site: Site, make_tensor: MakeTensor) -> None:
    sender = await site.connect(shape=LinkShape(2e6, 0.02))
    start_s = time.monotonic()
    await asyncio.gather(*(sender.send(make_tensor((40_000,), "uint8", frame=f)) for f in range(4)))
    assert time.monotonic() - start_s >= 0.08
    await site.until(lambda: len(site.received.tensors) == 4)
    assert [t.frame for t in site.received.tensors] == [0, 1, 2, 3]


async def test_links_with_one_pacing_share_its_rate(site: Site, make_tensor: MakeTensor) -> None:
    shape = LinkShape(2e6, 0.02)
    pacing = Pacing(shape)
    senders = [await site.connect(shape=shape, pacing=pacing) for _ in range(2)]
    start_s = time.monotonic()
    await asyncio.gather(
        *(sender.send(make_tensor((40_000,), "uint8", frame=f)) for f, sender in enumerate(senders * 2))
    )
    assert time.monotonic() - start_s >= 0.08  # 160 kB at 2 MB/s
    await site.until(lambda: len(site.received.tensors) == 4)


async def test_reshaped_link_holds_what_comes_to_the_new_rate(site: Site, make_tensor: MakeTensor) -> None:
    sender = await site.connect(shape=LinkShape(2e6, 0.02))
    under_way = asyncio.ensure_future(sender.send(make_tensor((40_000,), "uint8", frame=1)))
    await asyncio.sleep(0)
    start_s = time.monotonic()
    sender.reshape(LinkShape(4e5, 0.0))
    after = await sender.send(make_tensor((40_000,), "uint8", frame=2))
    before = await under_way
    assert (before.target_bytes_per_s, after.target_bytes_per_s) == (2e6, 4e5)
    assert time.monotonic() - start_s >= 0.09
    await site.until(lambda: len(site.received.tensors) == 2)
    assert [t.frame for t in site.received.tensors] == [1, 2]


async def test_unshaped_link_cannot_be_reshaped(site: Site) -> None:
    sender = await site.connect()
    with pytest.raises(LocalProtocolError, match="not shaped"):
        sender.reshape(LinkShape(1e6))


async def test_probe_sees_the_emulated_link(site: Site) -> None:
    sender = await site.connect(shape=LinkShape(4e6, 0.02))
    while True:  # a machine that is busy shows another rate now and then; `bench wire` says how exactly
        probe = await sender.probe()
        assert 0.04 <= probe.rtt_s == 2 * probe.latency_s
        if 2e6 < probe.bytes_per_s < 4.2e6:
            break


async def test_probe_and_tensors_get_along(site: Site, make_tensor: MakeTensor) -> None:
    sender = await site.connect()
    probing = asyncio.create_task(sender.probe())
    await asyncio.gather(*(sender.send(make_tensor(frame=f)) for f in range(50)))
    probe = await probing
    await site.until(lambda: len(site.received.tensors) == 50)
    assert probe.bytes_per_s > 0 and probe.rtt_s > 0


async def test_goodbye_is_orderly_on_both_sides(site: Site, make_tensor: MakeTensor) -> None:
    lost: list[Exception] = []
    sender = await site.connect(on_lost=lost.append)
    await sender.send(make_tensor())
    await sender.close()
    await site.until(lambda: site.received.lost)
    ((agent, pipeline, error),) = site.received.lost
    assert (agent, pipeline) == (DEVICE, PIPELINE) and isinstance(error, LinkClosed)
    assert sender.closed and lost == [] and site.listener.rejected == 0
    assert len(site.received.tensors) == 1
    with pytest.raises(LinkClosed, match="closed here"):
        await sender.send(make_tensor())


async def test_close_delivers_what_is_in_the_delay_line(site: Site, make_tensor: MakeTensor) -> None:
    sender = await site.connect(shape=LinkShape(1e7, 0.1))
    await sender.send(make_tensor((10_000,), "uint8"))
    await sender.close()
    await site.until(lambda: site.received.lost)
    assert len(site.received.tensors) == 1
    assert isinstance(site.received.lost[0][2], LinkClosed)


async def test_sender_is_told_when_the_listener_leaves(site: Site, make_tensor: MakeTensor) -> None:
    lost: list[Exception] = []
    sender = await site.connect(on_lost=lost.append)
    await site.listener.close()
    await site.until(lambda: lost)
    assert isinstance(lost[0], LinkClosed) and sender.closed
    with pytest.raises(LinkClosed, match="edge-1 is going away"):
        await sender.send(make_tensor())
    with pytest.raises(LinkClosed):
        await sender.probe()


@pytest.mark.parametrize(
    ("secret", "peer", "reason"),
    [
        (b"wrong", EDGE, "does not know the link secret"),
        (SECRET, AgentId("edge-9"), "this is edge-1, not edge-9"),
    ],
)
async def test_refusal_tells_the_reason(site: Site, secret: bytes, peer: AgentId, reason: str) -> None:
    with pytest.raises(LinkBroken, match=reason):
        await site.connect(secret=secret, peer=peer)
    assert site.listener.rejected == 1 and site.received.lost == []


async def test_secret_may_come_later(site: Site) -> None:
    site.listener.secret = None
    with pytest.raises(LinkBroken, match="not registered yet"):
        await site.connect()
    site.listener.secret = SECRET
    assert not (await site.connect()).closed


async def test_nobody_there_is_a_broken_link() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(LinkBroken, match=rf"edge-1 at {address}"):
        await Sender.connect(address, me=DEVICE, peer=EDGE, pipeline=PIPELINE, secret=SECRET)


@pytest.mark.parametrize("address", ["nowhere", "host:", ":1", "host:99999", "host:-1"])
async def test_malformed_address_is_the_users_error(address: str) -> None:
    with pytest.raises(ConfigError, match="not host:port"):
        await Sender.connect(address, me=DEVICE, peer=EDGE, pipeline=PIPELINE, secret=SECRET)


async def test_message_that_breaks_a_limit_leaves_the_link_up(site: Site, make_tensor: MakeTensor) -> None:
    sender = await site.connect()
    with pytest.raises(LocalProtocolError):
        await sender.send(make_tensor((3, 3), strides=(1, 1)))
    await sender.send(make_tensor())
    await site.until(lambda: site.received.tensors)
    assert not sender.closed


async def test_cancelled_send_leaves_no_half_message(site: Site, make_tensor: MakeTensor) -> None:
    sender = await site.connect(shape=LinkShape(2e6))
    task = asyncio.create_task(sender.send(make_tensor((60_000,), "uint8", frame=1)))
    await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await sender.send(make_tensor(frame=2))
    await site.until(lambda: len(site.received.tensors) == 2)
    assert [t.frame for t in site.received.tensors] == [1, 2]


# ── a peer that misbehaves towards the sender ─────────────────────────────────────────────────────


class Peer:
    """An acceptor on a plain socket that opens the link and then does what the test wants."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.server.getsockname()[1]}"
        self.server.setblocking(False)
        self.sock: socket.socket | None = None

    async def open(self, **kwargs: Any) -> Sender:
        accepting = asyncio.create_task(self._accept())
        sender = await Sender.connect(
            self.address, me=DEVICE, peer=EDGE, pipeline=PIPELINE, secret=SECRET, **kwargs
        )
        await accepting
        return sender

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        self.sock, _ = await loop.sock_accept(self.server)
        self.sock.setblocking(False)
        wire, acceptance = Wire(Role.ACCEPTOR), Acceptance(EDGE, SECRET, bytes(16))
        opened = False
        while not opened:
            wire.receive_data(await loop.sock_recv(self.sock, 4096))
            for event in wire.events_received():
                if isinstance(event, Hello):
                    wire.send(acceptance.greeted(event))
                elif isinstance(event, Proof):
                    wire.send(acceptance.proved(event)[1])
                    opened = True
            await loop.sock_sendall(self.sock, b"".join(wire.data_to_send()))

    def close(self) -> None:
        self.server.close()
        if self.sock is not None:
            self.sock.close()


@pytest.fixture
def peer() -> Any:
    made = Peer()
    yield made
    made.close()


@pytest.mark.parametrize("shape", [None, LinkShape(1e9), LinkShape(1e9, 0.01)])
async def test_slow_reader_holds_the_sender_back(
    peer: Peer, make_tensor: MakeTensor, shape: LinkShape | None
) -> None:
    sender = await peer.open(shape=shape, limits=Limits(timeout_s=1.0))
    tensor = make_tensor((1_000_000,), "float32")
    tasks = [asyncio.create_task(sender.send(tensor)) for _ in range(100)]
    await asyncio.sleep(0.3)
    in_delay_line = shape.bytes_per_s * shape.latency_s if shape is not None else 0
    assert sender.unsent_bytes <= 32 * 1024 * 1024 + in_delay_line  # of 400 MB
    assert sum(task.done() for task in tasks) < 12
    await sender.close()  # nobody reads the goodbye: it is given up
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[-1], LinkClosed) and sender.closed


async def test_dead_peer_is_a_broken_link(peer: Peer, make_tensor: MakeTensor) -> None:
    lost: list[Exception] = []
    sender = await peer.open(on_lost=lost.append)
    tensor = make_tensor((8_000_000,), "uint8")
    sending = asyncio.gather(*(sender.send(tensor) for _ in range(3)), return_exceptions=True)
    await asyncio.sleep(0.05)
    peer.close()
    results = await sending
    assert isinstance(results[-1], LinkBroken) and sender.closed
    assert [type(error) for error in lost] == [LinkBroken]
    with pytest.raises(LinkBroken):
        await sender.send(tensor)


async def test_dead_peer_ends_a_probe(peer: Peer) -> None:
    sender = await peer.open()
    probing = asyncio.create_task(sender.probe())
    await asyncio.sleep(0.02)
    peer.close()
    with pytest.raises(LinkBroken):
        await probing


async def test_garbage_from_the_peer_is_its_fault(peer: Peer) -> None:
    lost: list[Exception] = []
    sender = await peer.open(on_lost=lost.append)
    assert peer.sock is not None
    peer.sock.send(b"HTTP/1.1 400 Bad Request\r\n")
    async with asyncio.timeout(60):
        while not sender.closed:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    assert isinstance(lost[0], RemoteProtocolError)


async def test_silent_peer_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(LinkBroken, match="no answer in 0.1 s"):
            await Sender.connect(
                address,
                me=DEVICE,
                peer=EDGE,
                pipeline=PIPELINE,
                secret=SECRET,
                limits=Limits(timeout_s=0.1),
            )


@pytest.mark.parametrize("shaped", [False, True])
def test_loops_of_both_kinds_carry_a_tensor(shaped: bool, make_tensor: MakeTensor) -> None:
    async def there_and_gone() -> bytes:
        got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        listener = await Listener.start(
            "127.0.0.1",
            0,
            me=EDGE,
            secret=SECRET,
            on_tensor=lambda agent, pipeline, tensor: got.set_result(bytes(tensor.payload)),
            on_lost=lambda agent, pipeline, error: None,
        )
        sender = await Sender.connect(
            listener.address, me=DEVICE, peer=EDGE, pipeline=PIPELINE, secret=SECRET
        )
        await sender.send(make_tensor((1, 3, 500, 500)))
        payload = await got
        await sender.close()
        await listener.close()
        return payload

    with asyncio.Runner(loop_factory=lambda: new_event_loop(shaped)) as runner:
        assert runner.run(there_and_gone()) == make_tensor((1, 3, 500, 500)).payload


async def test_pieces_of_a_file_come_one_at_a_time(site: Site) -> None:
    content, digest = bytes(range(256)) * 10_000, "0" * 64
    site.listener.file_of = lambda sha256, behind: content[behind:][:PIECE_BYTES]
    sender, got = await site.connect(), b""
    while piece := await sender.piece(digest, len(got)):
        got += piece
    assert got == content

    gate = threading.Event()

    def blocked(sha256: str, behind_bytes: int) -> bytes:
        gate.wait(60)
        return b""

    site.listener.file_of = blocked
    try:
        with pytest.raises(LinkBroken, match="before it has this one"):
            await asyncio.gather(sender.piece(digest, 0), sender.piece(digest, 0))
    finally:
        gate.set()
