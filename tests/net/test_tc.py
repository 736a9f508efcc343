"""What the kernel is told of a link, and, as root, that it holds one."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from d3bed.core.errors import ConfigError
from d3bed.core.measurements import LinkShape
from d3bed.net.shaping import Pacing
from d3bed.net.tc import TrafficControl, _may_administer, class_lines, filter_lines, netem_line


def test_a_class_carries_the_payload_at_the_rate_and_headers_on_top() -> None:
    (line,) = class_lines("eth0", 11, LinkShape(1e7), mtu=1500)
    assert line.startswith("class replace dev eth0 parent 1: classid 1:b htb rate ")
    bits = int(line.split("rate ")[1].split("bit")[0])
    assert bits == pytest.approx(8e7 * 1514 / 1448, rel=1e-6)


def test_bursts_are_short_but_hold_two_frames() -> None:
    def burst(rate: float) -> int:
        return int(class_lines("eth0", 1, LinkShape(rate), mtu=1500)[0].rpartition(" ")[2])

    assert burst(1e4) == 3028
    assert burst(125e6) == pytest.approx(125e6 * 0.001, rel=0.05)


@pytest.mark.parametrize(
    ("address", "match"),
    [("198.18.0.3", "protocol ip prio 2 u32 match ip dst 198.18.0.3/32"),
     ("fd00::3", "protocol ipv6 prio 2 u32 match ip6 dst fd00::3/128")],
)  # fmt: skip
def test_all_that_leaves_for_an_address_takes_its_class(address: str, match: str) -> None:
    (line,) = filter_lines("eth0", 2, address)
    assert match in line and line.endswith("flowid 1:2")


def test_latency_and_loss_are_below_the_class() -> None:
    line = netem_line("eth0", 2, LinkShape(1e6, 0.02, 0.01), mtu=1500)
    assert line == "qdisc replace dev eth0 parent 1:2 handle 3: netem delay 20000us limit 1014 loss 1%"
    assert "loss" not in netem_line("eth0", 2, LinkShape(1e6, 0.02), mtu=1500)


def test_a_rate_that_others_hold_is_not_held_again() -> None:
    pacing = Pacing(LinkShape(math.inf, 0.05))
    slot = pacing.reserve(1.0, 5_000_000)
    assert slot.target_bytes_per_s is None and slot.end_s == 1.0
    assert (slot.due_bytes(1.049), slot.due_bytes(1.0501)) == (-1, 5_000_000)
    assert slot.release_s(0) == pytest.approx(1.05)


def test_who_may_not_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/sbin/{name}")
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nCapEff:\t0000000000000400\n")
    assert not _may_administer(status)
    status.write_text("Name:\tpython\nCapEff:\t0000000000001000\n")
    assert _may_administer(status)
    monkeypatch.setattr("d3bed.net.tc._may_administer", lambda: False)
    with pytest.raises(ConfigError, match="user space"):
        TrafficControl.check()


# ── as root ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def cable() -> Iterator[tuple[str, str]]:
    """The address of the near end and of the far one, which is in a namespace of its own."""
    name = f"d3t{uuid.uuid4().hex[:8]}"
    steps = [
        f"ip netns add {name}",
        f"ip link add {name} type veth peer name eth0 netns {name}",
        f"ip address add 198.19.255.1/30 dev {name}",
        f"ip -n {name} address add 198.19.255.2/30 dev eth0",
        f"ip link set {name} up",
        f"ip -n {name} link set eth0 up",
    ]
    try:
        for step in steps:
            done = subprocess.run(step.split(), capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"no network namespaces here: {done.stderr.strip()}")
        yield name, "198.19.255.2"
    finally:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", name], capture_output=True, check=False)


_SINK = """
import socket, time
with socket.create_server(("", 4750)) as server:
    print("ready", flush=True)
    for _ in range(2):
        with server.accept()[0] as peer:
            count = 0
            while data := peer.recv(65536):
                count += len(data)
            print(count, time.monotonic(), flush=True)
"""


@pytest.mark.sockets
@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("nsenter"), reason="needs root, iproute2"
)
async def test_the_kernel_holds_a_link_to_its_rate_and_to_another(cable: tuple[str, str]) -> None:
    name, address = cable
    sink = await asyncio.create_subprocess_exec(
        "nsenter", f"--net=/run/netns/{name}", "python3", "-c", _SINK, stdout=asyncio.subprocess.PIPE
    )
    assert sink.stdout is not None
    tc = TrafficControl()
    try:
        assert await sink.stdout.readline() == b"ready\n"
        for rate in (5e6, 2e6):
            rest = await tc.hold(address, LinkShape(rate, 0.005))
            assert rest is None or rest == LinkShape(math.inf, 0.005)
            began_s = time.monotonic()
            await asyncio.to_thread(_send, address, round(rate * 0.4))
            count, ended_s = (await sink.stdout.readline()).split()
            assert int(count) == round(rate * 0.4)
            assert int(count) / (float(ended_s) - began_s) < 1.3 * rate  # a busy machine makes it less
        await tc.close()
        shown = subprocess.run(  # noqa: ASYNC221
            ["tc", "class", "show", "dev", name], capture_output=True, text=True, check=True
        )
        assert shown.stdout == ""
    finally:
        if sink.returncode is None:
            sink.kill()
        await sink.wait()


def _send(address: str, nbytes: int) -> None:
    deadline_s = time.monotonic() + 60
    with socket.create_connection((address, 4750), timeout=20) as link:
        link.sendall(b"\0" * nbytes)
        assert time.monotonic() < deadline_s
