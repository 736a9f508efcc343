"""Links to an agent that nobody dials: over a line of its own to the sender, or by way of a third agent."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from d3bed.agent.certificate import new_key, signing_request
from d3bed.agent.lines import Lines
from d3bed.agent.links import Links
from d3bed.core.errors import D3Error, LinkBroken
from d3bed.core.ids import AgentId, PipelineId, Tier
from d3bed.core.messages import Peer
from d3bed.core.ways import Way
from d3bed.net import Limits, LinkTls, Listener, TensorMessage, call
from d3bed.net.codec import Breach
from d3bed.net.relay import CALL
from d3bed.net.sockets import connected, new_event_loop
from d3bed.server.authority import Authority

if TYPE_CHECKING:
    from tests.net.conftest import MakeTensor

pytestmark = pytest.mark.sockets

SECRET = b"what only the agents know"
PI, EDGE, VM, MAIN = AgentId("pi-1"), AgentId("edge-1"), AgentId("vm"), PipelineId("main")
#: Where nobody listens.
NOWHERE = "127.0.0.1:1"


class Node:
    """An agent's listener, links and lines."""

    def __init__(self, name: AgentId, tls: LinkTls | None = None) -> None:
        self.name, self._tls = name, tls
        self.came: list[TensorMessage] = []
        self.lost: list[Exception] = []
        self.links = Links(name, tls=tls)
        self.links.secret = SECRET

    async def start(self) -> Node:
        self.listener = await Listener.start(
            "127.0.0.1",
            0,
            me=self.name,
            secret=SECRET,
            on_tensor=lambda _agent, _pipeline, tensor: self.came.append(tensor),
            on_lost=lambda _agent, _pipeline, error: self.lost.append(error),
            tls=self._tls,
        )
        self.links.relay = self.listener.relay
        self.lines = Lines(self.name, lambda: self.links.secret, self.listener.adopt)
        return self

    @property
    def peer(self) -> Peer:
        return Peer(self.name, Tier.CLOUD, self.listener.address)

    def by(self, relay: Node) -> Peer:
        """This agent, as one that cannot be dialled."""
        return Peer(self.name, Tier.EDGE, NOWHERE, None, Way(relay.name, relay.listener.address))

    async def close(self) -> None:
        await self.lines.close()
        await self.links.close()
        await self.listener.close()


@contextlib.asynccontextmanager
async def three(tls: Callable[[AgentId], LinkTls | None]) -> AsyncIterator[tuple[Node, Node, Node]]:
    nodes = [await Node(name, tls(name)).start() for name in (PI, EDGE, VM)]
    try:
        yield nodes[0], nodes[1], nodes[2]
    finally:
        async with asyncio.timeout(60):  # the one between first: nothing that passes by it holds it up
            for node in reversed(nodes):
                await node.close()


@pytest.fixture(params=["plain", "tls"])
async def nodes(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Node, Node, Node]]:
    def tls(name: AgentId) -> LinkTls | None:
        if request.param == "plain":
            return None
        authority, key = Authority(tmp_path / "ca"), new_key()
        own = tmp_path / f"{name}.pem"
        own.write_bytes(key + authority.sign_agent(name, signing_request(key)).encode())
        return LinkTls(own, authority.pem)

    async with three(tls) as made:
        yield made


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 — the condition is not ours to signal
            await asyncio.sleep(0.002)


async def carries(source: Node, target: Node, peer: Peer, make_tensor: MakeTensor) -> None:
    sender = await source.links.to(MAIN, peer)
    sent = [make_tensor((1, 1, 1, n), frame=n) for n in (1, 5000, 3_000_000)]
    transfers = await asyncio.gather(*(sender.send(tensor) for tensor in sent))
    await until(lambda: len(target.came) == len(sent))
    for tensor, came in zip(sent, target.came, strict=True):
        assert (came.frame, came.shape) == (tensor.frame, tensor.shape)
        assert bytes(came.payload) == bytes(tensor.payload)
    assert all(transfer.taken_s > 0 for transfer in transfers)
    assert (await source.links.measure(peer, quick=True)).bytes_per_s > 0


async def test_a_third_agent_passes_on_what_is_for_one_that_nobody_dials(
    nodes: tuple[Node, Node, Node], make_tensor: MakeTensor
) -> None:
    pi, edge, vm = nodes
    edge.lines.keep([vm.peer])
    await carries(pi, edge, edge.by(vm), make_tensor)
    await until(lambda: vm.listener.relay.passing == 1)
    assert not vm.came
    sender = await pi.links.to(MAIN, edge.by(vm))
    await sender.close()
    await until(lambda: edge.lost and not vm.listener.relay.passing)
    assert "closed by the sender" in str(edge.lost[0]), "what was on its way, the goodbye last, has arrived"


async def test_who_cannot_dial_sends_over_the_line_that_the_peer_opened(
    nodes: tuple[Node, Node, Node], make_tensor: MakeTensor
) -> None:
    pi, _, vm = nodes
    pi.lines.keep([vm.peer])
    await carries(vm, pi, pi.by(vm), make_tensor)
    assert vm.listener.relay.passing == 0


async def test_when_the_one_between_leaves_both_ends_know_and_lines_are_opened_anew(
    nodes: tuple[Node, Node, Node], make_tensor: MakeTensor
) -> None:
    pi, edge, vm = nodes
    edge.lines.keep([vm.peer, pi.peer])
    sender = await pi.links.to(MAIN, edge.by(vm))
    await vm.close()
    await until(lambda: sender.closed and edge.lost)
    with pytest.raises(D3Error):
        await sender.send(make_tensor())
    await carries(pi, edge, edge.by(pi), make_tensor)  # by another way


async def test_without_a_line_the_sender_is_told() -> None:
    async with three(lambda _: None) as (pi, edge, vm):
        other, own = await asyncio.gather(
            pi.links.measure(edge.by(vm)), pi.links.measure(edge.by(pi)), return_exceptions=True
        )
    assert isinstance(other, LinkBroken) and "vm has no line to edge-1" in str(other)
    assert isinstance(own, LinkBroken) and "edge-1 keeps no line to pi-1" in str(own)


async def test_who_is_cut_off_keeps_no_line_and_nothing_is_passed_on_for_it(
    nodes: tuple[Node, Node, Node], make_tensor: MakeTensor
) -> None:
    pi, edge, vm = nodes
    edge.lines.keep([vm.peer])
    sender = await pi.links.to(MAIN, edge.by(vm))
    await until(lambda: vm.listener.relay.spare(EDGE))
    vm.listener.secret = b"another"
    vm.listener.cut_off(EDGE)
    await until(lambda: sender.closed and not vm.listener.relay.passing)
    assert not vm.listener.relay.spare(EDGE)
    await until(lambda: vm.listener.rejected_by_reason[Breach.PROOF.value])  # it tries again, in vain
    assert not vm.listener.relay.spare(EDGE)


async def test_callers_that_cannot_prove_themselves_are_refused_and_counted() -> None:
    vm = await Node(VM).start()
    address, limits = vm.listener.address, Limits()
    try:
        with pytest.raises(LinkBroken, match="does not know the link secret"):
            await call(address, me=EDGE, relay=VM, to=None, secret=b"guessed", limits=limits)
        with pytest.raises(LinkBroken, match="this is vm, not pi-1"):
            await call(address, me=EDGE, relay=PI, to=None, secret=SECRET, limits=limits)
        for garbage in (b"\x00" * 64, b"d3bd" + b"\xff" * 60):
            sock = await connected(address)
            await asyncio.get_running_loop().sock_sendall(sock, CALL + garbage)
            await until(partial(_ended, sock))
            sock.close()
        await until(lambda: vm.listener.rejected == 4)
        assert not vm.listener.relay.spare(EDGE)
        kept = [
            await call(address, me=EDGE, relay=VM, to=None, secret=SECRET, limits=limits) for _ in range(9)
        ]
        await until(lambda: sum(map(_ended, kept)) == 5)  # the newest four are enough
        assert vm.listener.relay.spare(EDGE) == 4
        for sock in kept:
            sock.close()
        await until(lambda: not vm.listener.relay.spare(EDGE))  # swept
    finally:
        await vm.close()


def _ended(sock: socket.socket) -> bool:
    """Reads what has come, up to the end of the stream if that is there."""
    try:
        while sock.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def test_uvloop_carries_it_too(make_tensor: MakeTensor) -> None:
    async def main() -> None:
        async with three(lambda _: None) as (pi, edge, vm):
            edge.lines.keep([vm.peer])
            pi.lines.keep([vm.peer])
            await carries(pi, edge, edge.by(vm), make_tensor)
            await carries(vm, pi, pi.by(vm), make_tensor)

    with asyncio.Runner(loop_factory=lambda: new_event_loop(shaped=False)) as runner:
        runner.run(main())
