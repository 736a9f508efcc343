"""Boards behind two real NATs and a host on the open net between them: nobody can dial the boards, and data
gets from one to the other all the same. As root, with nftables."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

pytestmark = [pytest.mark.sockets, pytest.mark.processes]

#: Starts as its name says; answers questions, one a line.
NODE = """
import asyncio, json, sys
from d3bed.agent.checks import check_link
from d3bed.agent.lines import Lines
from d3bed.agent.links import Links
from d3bed.core.graph import Value
from d3bed.core.ids import AgentId, Epoch, FrameId, PipelineId, Tier
from d3bed.core.messages import Peer
from d3bed.core.ways import Way
from d3bed.net import Listener, TensorMessage
import msgspec

MAIN, SECRET = PipelineId("main"), b"what only the agents know"

async def main(name, host):
    came = []
    listener = await Listener.start(host, 4750, me=AgentId(name), secret=SECRET,
        on_tensor=lambda who, _, tensor: came.append((who, len(tensor.payload))), on_lost=lambda *_: None)
    links = Links(AgentId(name))
    links.secret, links.relay = SECRET, listener.relay
    lines = Lines(links._me, lambda: SECRET, listener.adopt)
    async def answer(kind, *words):
        if kind == "keep":
            lines.keep([Peer(AgentId("vm"), Tier.CLOUD, words[0])])
        elif kind == "check":
            return msgspec.to_builtins(await check_link(peer(*words), links.measure))
        elif kind == "send":
            sender = await links.to(MAIN, peer(*words))
            payload = bytes(5_000_000)
            tensor = TensorMessage(FrameId(1), Epoch(1), Value(1), "uint8", (5_000_000,), (1,), payload)
            return (await sender.send(tensor)).taken_s > 0
        elif kind == "came":
            async with asyncio.timeout(60):
                while not came:
                    await asyncio.sleep(0.01)
            return came.pop(0)
        return True
    def peer(to, address, by="", where=""):
        return Peer(AgentId(to), Tier.EDGE, address, None, Way(AgentId(by), where) if by else None)
    loop = asyncio.get_running_loop()
    print("true", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        try:
            said = await answer(*json.loads(line))
        except Exception as error:
            said = repr(error)
        print(json.dumps(said), flush=True)
asyncio.run(main(*sys.argv[1:]))
"""
VM = "198.51.100.1:4750"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class World:
    """`pi` and `edge` each behind a router of its own that translates addresses, `vm` on the net of both."""

    def __init__(self) -> None:
        self._tag = f"d3n{os.getpid()}"
        self._nodes: dict[str, subprocess.Popen[str]] = {}

    def space(self, name: str) -> str:
        return f"{self._tag}{name}"

    def make(self) -> None:
        for name in ("net", "vm", "nat1", "nat2", "pi", "edge"):
            _ip("netns", "add", self.space(name))
            _ip("-n", self.space(name), "link", "set", "lo", "up")
        _ip("-n", self.space("net"), "link", "add", "name", "switch", "type", "bridge", "forward_delay", "0")
        _ip("-n", self.space("net"), "link", "set", "switch", "up")
        for number, name in enumerate(("vm", "nat1", "nat2"), 1):
            plug = ["name", f"port{number}", "netns", self.space("net")]
            _ip("link", "add", "open", "netns", self.space(name), "type", "veth", "peer", *plug)
            _ip("-n", self.space("net"), "link", "set", f"port{number}", "master", "switch", "up")
            _ip("-n", self.space(name), "addr", "add", f"198.51.100.{number}/24", "dev", "open")
            _ip("-n", self.space(name), "link", "set", "open", "up")
        for nat, board in (("nat1", "pi"), ("nat2", "edge")):  # as at home: both have the same addresses
            plug = ["name", "eth0", "netns", self.space(board)]
            _ip("link", "add", "home", "netns", self.space(nat), "type", "veth", "peer", *plug)
            for name, wire, last in ((nat, "home", 1), (board, "eth0", 7 if board == "pi" else 8)):
                _ip("-n", self.space(name), "addr", "add", f"192.168.1.{last}/24", "dev", wire)
                _ip("-n", self.space(name), "link", "set", wire, "up")
            _ip("-n", self.space(board), "route", "add", "default", "via", "192.168.1.1")
            rules = "add table ip n; add chain ip n out { type nat hook postrouting priority 100; };"
            self._run(nat, "nft", f"{rules} add rule ip n out oifname open masquerade")
            self._run(nat, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        for name, host in (("vm", "198.51.100.1"), ("pi", "192.168.1.7"), ("edge", "192.168.1.8")):
            self._nodes[name] = subprocess.Popen(
                ["ip", "netns", "exec", self.space(name), sys.executable, "-c", NODE, name, host],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        for name in self._nodes:
            assert self._heard(name) is True

    def ask(self, name: str, *words: str) -> object:
        node = self._nodes[name]
        assert node.stdin is not None
        node.stdin.write(json.dumps(words) + "\n")
        node.stdin.flush()
        return self._heard(name)

    def _heard(self, name: str) -> object:
        node = self._nodes[name]
        assert node.stdout is not None
        return json.loads(node.stdout.readline())

    def _run(self, name: str, *command: str) -> None:
        subprocess.run(
            ["ip", "netns", "exec", self.space(name), *command], check=True, capture_output=True, text=True
        )

    def close(self) -> None:
        for node in self._nodes.values():
            node.kill()
            node.communicate()
        for name in ("net", "vm", "nat1", "nat2", "pi", "edge"):
            subprocess.run(["ip", "netns", "del", self.space(name)], check=False, capture_output=True)


@pytest.fixture
def world() -> Iterator[World]:
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "nft"))):
        pytest.skip("real NATs need root, iproute2 and nftables")
    made = World()
    try:
        try:
            made.make()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no namespaces with NAT here: {error.stderr}")
        yield made
    finally:
        made.close()


def test_behind_two_nats_data_goes_by_way_of_a_host_that_both_reach(world: World) -> None:
    found = world.ask("pi", "check", "edge", "192.168.1.8:4750")
    assert isinstance(found, dict) and found["stopped"] in ("route", "silent")
    found = world.ask("vm", "check", "pi", "192.168.1.7:4750")
    assert isinstance(found, dict) and found["stopped"] in ("route", "silent")
    for board in ("pi", "edge"):
        assert world.ask(board, "keep", VM) is True

    by_vm = ("edge", "192.168.1.8:4750", "vm", VM)
    found = world.ask("pi", "check", *by_vm)
    assert isinstance(found, dict) and found["stopped"] == "" and found["via"] == "vm"
    assert found["direct"] in ("route", "silent") and found["bytes_per_s"] > 0
    assert world.ask("pi", "send", *by_vm) is True
    assert world.ask("edge", "came") == ["pi", 5_000_000]

    back = ("pi", "192.168.1.7:4750", "vm", VM)  # the line that the board opened to us
    found = world.ask("vm", "check", *back)
    assert isinstance(found, dict) and found["stopped"] == "" and found["via"] == "vm"
    assert world.ask("vm", "send", *back) is True
    assert world.ask("pi", "came") == ["vm", 5_000_000]
