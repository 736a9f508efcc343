"""Links held to a rate by the kernel: a class of `tc` for each peer, on the interface that leads to it.

What a `LinkShape` says of rate goes to an `htb` class, which takes all that leaves for the peer's address.
The rate is the payload's, as everywhere: the class gets what the headers of full frames cost on top. Latency
and loss go to a `netem` below the class; where the kernel has none, `hold` hands both back, for user space
to emulate. What is for nobody known is not held at all.

It needs root (CAP_NET_ADMIN) and takes the interfaces' root qdiscs for itself, until `close`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import re
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from d3bed.core.errors import ConfigError
from d3bed.core.measurements import LinkShape

__all__ = ["TrafficControl", "class_lines", "netem_line"]

#: A class may be ahead of its rate by so much of its time, so that timers need not be exact, but by two
#: frames at least. What it is ahead by, short measurements take for rate.
_BURST_S = 0.001
_LEAST_BURST_BYTES = 2 * 1514
#: Of a full frame: what Ethernet adds, and what IP and TCP with timestamps take.
_FRAMING_BYTES, _HEADER_BYTES = 14, 52
#: Packets on the way that netem remembers beyond those that fill the link.
_SLACK_PACKETS = 1000
_ROOT = "1:"
_CAP_NET_ADMIN = 12


class TrafficControl:
    """Call `check` once, then `hold` for each peer and each change; `close` gives the interfaces back."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str], int] = {}  # (interface, address) → its class
        self._mtu: dict[str, int] = {}
        self._netem: bool | None = None
        self._lock = asyncio.Lock()

    @staticmethod
    def check() -> None:
        """Raise `ConfigError` where links cannot be held by the kernel."""
        for tool in ("tc", "ip"):
            if shutil.which(tool) is None:
                raise ConfigError("--tc", "", f"there is no {tool} here", "install iproute2")
        if not _may_administer():
            problem, remedy = "needs root, or CAP_NET_ADMIN", "leave it out: user space then paces the links"
            raise ConfigError("--tc", "", problem, remedy)

    async def hold(self, host: str, shape: LinkShape) -> LinkShape | None:
        """Hold what leaves for `host` to `shape`. Returns what is left for user space; None: nothing.

        Raises `OSError` with what `tc` said.
        """
        address = await _resolved(host)
        async with self._lock:
            device = await self._device(address)
            number = self._numbers.get((device, address))
            lines = []
            if number is None:
                number = self._numbers[device, address] = 1 + len(self._numbers)
                lines = filter_lines(device, number, address)
            lines = class_lines(device, number, shape, self._mtu[device]) + lines
            await _tc(lines)
            if self._netem is not False and not await self._delay(device, number, shape):
                return LinkShape(math.inf, shape.latency_s, shape.loss)
            return None if self._netem else LinkShape(math.inf, shape.latency_s, shape.loss)

    async def close(self) -> None:
        """Interfaces are as they were before the first `hold`."""
        for device in self._mtu:
            await _run("tc", "qdisc", "del", "dev", device, "root")
        self._mtu.clear()
        self._numbers.clear()

    async def _device(self, address: str) -> str:
        """The interface that leads to `address`, ready for classes."""
        code, said = await _run("ip", "-json", "route", "get", address)
        if code:
            raise OSError(f"no way to {address}: {said.strip()}")
        device = str(json.loads(said)[0]["dev"])
        if device not in self._mtu:
            _, said = await _run("ip", "-json", "link", "show", "dev", device)
            await _run("tc", "qdisc", "del", "dev", device, "root")  # what a process before left
            await _tc([f"qdisc add dev {device} root handle {_ROOT} htb"])
            self._mtu[device] = int(json.loads(said)[0]["mtu"])
        return device

    async def _delay(self, device: str, number: int, shape: LinkShape) -> bool:
        """Whether the kernel delays and loses."""
        code, said = await _run("tc", *netem_line(device, number, shape, self._mtu[device]).split())
        self._netem = code == 0
        if code and "unknown" not in said:
            raise OSError(f"tc: {said.strip()}")
        return self._netem


def class_lines(device: str, number: int, shape: LinkShape, mtu: int) -> list[str]:
    """What `tc` is to be told of a rate; makes the class, or changes it."""
    rate = shape.bytes_per_s * (mtu + _FRAMING_BYTES) / (mtu - _HEADER_BYTES)
    burst = max(int(rate * _BURST_S), _LEAST_BURST_BYTES)
    return [
        f"class replace dev {device} parent {_ROOT} classid {_ROOT}{number:x}"
        f" htb rate {round(rate * 8)}bit ceil {round(rate * 8)}bit burst {burst} cburst {burst}"
    ]


def filter_lines(device: str, number: int, address: str) -> list[str]:
    """All that leaves for `address` goes through its class."""
    protocol, match, bits = (
        ("ipv6", "ip6", 128) if ipaddress.ip_address(address).version == 6 else ("ip", "ip", 32)
    )
    return [
        f"filter add dev {device} parent {_ROOT} protocol {protocol} prio {number}"
        f" u32 match {match} dst {address}/{bits} flowid {_ROOT}{number:x}"
    ]


def netem_line(device: str, number: int, shape: LinkShape, mtu: int) -> str:
    """What `tc` is to be told of latency and loss, below the class."""
    packets = math.ceil(shape.bytes_per_s * shape.latency_s / mtu) + _SLACK_PACKETS
    line = f"qdisc replace dev {device} parent {_ROOT}{number:x} handle {number + 1:x}: netem"
    line += f" delay {round(shape.latency_s * 1e6)}us limit {packets}"
    return line + (f" loss {shape.loss * 100:g}%" if shape.loss else "")


def _may_administer(status: Path = Path("/proc/self/status")) -> bool:
    """Whether this process has CAP_NET_ADMIN; what it starts gets that if it is ambient, or root's."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", status.read_text(), re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> _CAP_NET_ADMIN & 1)


async def _resolved(host: str) -> str:
    """An address of `host`, which may be one."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return str(found[0][4][0])


async def _tc(lines: Sequence[str]) -> None:
    for line in lines:
        code, said = await _run("tc", *line.split())
        if code:
            raise OSError(f"tc {line}: {said.strip()}")


async def _run(*command: str) -> tuple[int, str]:
    """Exit code, and all that it said."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode(errors="replace")
