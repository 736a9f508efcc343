"""Links that work, and those that stop at each step: on loopback, and between network namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import pytest

from d3bed.agent.checks import check_link
from d3bed.agent.links import Links
from d3bed.core.checks import LinkCheck
from d3bed.core.ids import AgentId, Tier
from d3bed.core.messages import Peer
from d3bed.net import Listener

pytestmark = pytest.mark.sockets

PI, EDGE, SECRET = AgentId("pi-1"), AgentId("edge-1"), b"what only the agents know"


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    made = await Listener.start(
        "127.0.0.1", 0, me=EDGE, secret=SECRET, on_tensor=lambda *_: None, on_lost=lambda *_: None
    )
    yield made
    await made.close()


async def check(address: str, *, secret: bytes = SECRET, probe_s: float = 10.0) -> LinkCheck:
    links = Links(PI)
    links.secret = secret
    found = await check_link(Peer(EDGE, Tier.EDGE, address), links.measure, probe_s=probe_s)
    await links.close()
    return found


async def test_a_link_that_works_tells_way_rate_and_packet_size(listener: Listener) -> None:
    found = await check(listener.address)
    assert found.stopped == "" and found.local == "127.0.0.1"
    assert found.interface == "lo" and found.path_mtu_bytes is not None
    assert found.bytes_per_s is not None and found.bytes_per_s > 0
    assert found.rtt_s is not None and found.connect_s is not None


async def test_nobody_there_is_refused() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        found = await check(f"127.0.0.1:{sock.getsockname()[1]}")
    assert found.stopped == "refused" and found.local == "127.0.0.1"


async def test_a_name_that_nobody_knows() -> None:
    assert (await check("no-such-board.invalid:4750")).stopped == "name"
    assert (await check("not an address")).stopped == "name"


async def test_an_agent_of_another_server_is_a_stranger(listener: Listener) -> None:
    found = await check(listener.address, secret=b"another server's")
    assert found.stopped == "stranger" and "link secret" in found.problem


async def test_something_else_that_closes_is_lost() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert (await check(f"127.0.0.1:{port}")).stopped == "lost"


async def test_a_half_open_connection_that_swallows_payloads_is_stalled(listener: Listener) -> None:
    """As behind a path that drops large packets: the handshake passes, then nothing arrives."""
    host, _, port = listener.address.rpartition(":")
    over = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))

        async def answers() -> None:
            while data := await there.read(4096):
                writer.write(data)

        answering, passed = asyncio.create_task(answers()), 0
        with contextlib.suppress(ConnectionError):
            while passed < 4096 and (data := await reader.read(1024)):
                passed += len(data)
                back.write(data)
            await over.wait()
        answering.cancel()
        for one in (back, writer):
            one.close()

    async with await asyncio.start_server(swallow, "127.0.0.1", 0) as server:
        found = await check(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", probe_s=1.0)
        over.set()
    assert found.stopped == "stalled"


# ── between namespaces ────────────────────────────────────────────────────────────────────────────

LISTEN = """
import asyncio, sys
from d3bed.core.ids import AgentId
from d3bed.net import Listener
async def main():
    await Listener.start("10.83.2.1", 4750, me=AgentId("edge-1"), secret=b"what only the agents know",
                         on_tensor=lambda *_: None, on_lost=lambda *_: None)
    print("up", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
CHECK = """
import asyncio, msgspec, sys
from d3bed.agent.checks import check_link
from d3bed.agent.links import Links
from d3bed.core.ids import AgentId, Tier
from d3bed.core.messages import Peer
async def main():
    links = Links(AgentId("pi-1"))
    links.secret = b"what only the agents know"
    peer = Peer(AgentId("edge-1"), Tier.EDGE, "10.83.2.1:4750")
    found = await check_link(peer, links.measure, probe_s=4.0)
    print(msgspec.json.encode(found).decode())
asyncio.run(main())
"""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Three:
    """Namespaces: a board, a router, another board that listens; removed at the end."""

    def __init__(self) -> None:
        self._tag = f"d3t{os.getpid()}"
        self.here, self.router, self.there = (f"{self._tag}{letter}" for letter in "abc")
        self._listener: subprocess.Popen[str] | None = None

    def make(self) -> None:
        for name in (self.here, self.router, self.there):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        for end, net in ((self.here, 1), (self.there, 2)):
            wire = f"d3t{net}"
            _ip("link", "add", wire, "netns", end, "type", "veth", "peer", "name", wire, "netns", self.router)
            for name, host in ((end, 1), (self.router, 254)):
                _ip("-n", name, "addr", "add", f"10.83.{net}.{host}/24", "dev", wire)
                _ip("-n", name, "link", "set", wire, "up")
            _ip("-n", end, "route", "add", "default", "via", f"10.83.{net}.254")
        self.run(self.router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        self._listener = subprocess.Popen(
            ["ip", "netns", "exec", self.there, sys.executable, "-c", LISTEN],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._listener.stdout is not None and self._listener.stdout.readline() == "up\n"

    def run(self, name: str, *command: str) -> str:
        done = subprocess.run(
            ["ip", "netns", "exec", name, *command], check=True, capture_output=True, text=True, timeout=240
        )
        return done.stdout

    def check(self) -> dict[str, object]:
        return dict(json.loads(self.run(self.here, sys.executable, "-c", CHECK)))

    def close(self) -> None:
        if self._listener is not None:
            self._listener.kill()
            self._listener.communicate()
        for name in (self.here, self.router, self.there):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.fixture
def three() -> Iterator[Three]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("namespaces need root and iproute2")
    made = Three()
    try:
        made.make()
        yield made
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no namespaces here: {error.stderr}")
    finally:
        made.close()


@pytest.mark.processes
def test_between_boards_a_small_path_and_missing_ways_are_told_apart(
    three: Three,
) -> None:
    found = three.check()
    assert found["stopped"] == "" and found["path_mtu_bytes"] == 1500 and found["interface"] == "d3t1"
    _ip("-n", three.router, "link", "set", "d3t2", "mtu", "1280")
    found = three.check()
    assert found["stopped"] == "" and found["path_mtu_bytes"] == 1280, (
        "the router tells; the kernel remembers"
    )
    assert found["interface_mtu_bytes"] == 1500
    _ip("-n", three.there, "route", "add", "blackhole", "10.83.1.0/24")
    found = three.check()
    assert (found["stopped"], found["local"], found["interface"]) == ("silent", "10.83.1.1", "d3t1")
    _ip("-n", three.here, "route", "del", "default")
    assert three.check()["stopped"] == "route"
