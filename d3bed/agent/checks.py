"""Checks a link step by step, as the doctor asks: name, route, connection, handshake, large messages.

Each step tells what the one before could not have: a refused connection is another mistake than a silent
one, and a link whose handshake passes but whose payloads do not has a packet size that somebody drops.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Awaitable, Callable

import psutil
from msgspec.structs import replace

from d3bed.core.checks import LinkCheck
from d3bed.core.errors import ConfigError, D3Error
from d3bed.core.messages import Peer
from d3bed.net import Probe
from d3bed.net.sockets import parse_address

__all__ = ["CONNECT_S", "PROBE_S", "check_link"]

#: A peer that does not answer a connection, or a probe, within these is silent, or stalled.
CONNECT_S, PROBE_S = 3.0, 12.0
_PROBLEM_CHARS = 300
#: Where it stops though the peer is there.
_THERE = ("", "stalled", "lost")
_IP_MTU, _IPV6_MTU = 14, 24
_NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL}


async def check_link(
    peer: Peer, measure: Callable[[Peer], Awaitable[Probe]], *, probe_s: float = PROBE_S
) -> LinkCheck:
    """How far one gets to `peer`, directly and else by its way; raises nothing. `measure` makes a link of its
    own and probes it."""
    found = await _dialled(replace(peer, way=None), measure, probe_s)
    if peer.way is None or found.stopped in _THERE:
        return found
    via = peer.way.agent
    try:
        async with asyncio.timeout(probe_s):
            probe = await measure(peer)
    except (D3Error, OSError, TimeoutError) as error:
        said = f"{found.problem}; nor by way of {via}: {error or 'no answer'}"
        return replace(found, problem=said[:_PROBLEM_CHARS])
    return replace(
        found, stopped="", direct=found.stopped, via=via, rtt_s=probe.rtt_s, bytes_per_s=probe.bytes_per_s
    )


async def _dialled(peer: Peer, measure: Callable[[Peer], Awaitable[Probe]], probe_s: float) -> LinkCheck:
    found = LinkCheck(peer.agent, peer.address)
    try:
        where = await _resolved(peer.address)
    except (OSError, ConfigError) as error:
        return _stopped(found, "name", str(error))
    try:
        found = await _reached(found, *where)
    except TimeoutError:
        return _stopped(_way(found, *where), "silent", f"no answer in {CONNECT_S:g} s")
    except OSError as error:
        step = "refused" if error.errno == errno.ECONNREFUSED else "route"
        if error.errno == errno.ETIMEDOUT:
            step = "silent"
        elif step == "route" and error.errno not in _NO_ROUTE:
            step = "lost"
        return _stopped(_way(found, *where), step, error.strerror or str(error))
    began_s = time.monotonic()
    try:
        async with asyncio.timeout(probe_s):
            probe = await measure(peer)
    except TimeoutError:
        return _stopped(found, "stalled", f"no payload arrived in {time.monotonic() - began_s:.0f} s")
    except (D3Error, OSError) as error:
        return _stopped(found, "stranger" if "refused" in str(error) else "lost", str(error))
    found = replace(found, rtt_s=probe.rtt_s, bytes_per_s=probe.bytes_per_s)
    try:  # what the kernel has learned of the way by now
        again = await _reached(found, *where)
    except OSError:
        return found
    return replace(found, path_mtu_bytes=again.path_mtu_bytes)


async def _resolved(address: str) -> tuple[socket.AddressFamily, tuple[str, int]]:
    host, port = parse_address(address)
    loop = asyncio.get_running_loop()
    try:
        family, _, _, _, where = (await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))[0]
    except socket.gaierror as error:
        raise OSError(f"{host}: {error.strerror}") from error
    return family, (str(where[0]), int(where[1]))


async def _reached(found: LinkCheck, family: socket.AddressFamily, where: tuple[str, int]) -> LinkCheck:
    """Connect, look at the connection, and close it. Raises `TimeoutError`, `OSError`."""
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        began_s = time.monotonic()
        async with asyncio.timeout(CONNECT_S):
            await asyncio.get_running_loop().sock_connect(sock, where)
        found = _with_interface(found, str(sock.getsockname()[0]))
        return replace(found, connect_s=time.monotonic() - began_s, path_mtu_bytes=_mtu(sock))


def _way(found: LinkCheck, family: socket.AddressFamily, where: tuple[str, int]) -> LinkCheck:
    """With what the way there would begin; nothing is sent."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(where)
        except OSError:
            return found
        return _with_interface(found, str(sock.getsockname()[0]))


def _with_interface(found: LinkCheck, local: str) -> LinkCheck:
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address.partition("%")[0] == local for address in addresses):
            stats = psutil.net_if_stats().get(name)
            mtu = stats.mtu if stats is not None else None
            return replace(found, local=local, interface=name, interface_mtu_bytes=mtu)
    return replace(found, local=local)


def _mtu(sock: socket.socket) -> int | None:
    level, option = (
        (socket.IPPROTO_IPV6, _IPV6_MTU) if sock.family == socket.AF_INET6 else (socket.IPPROTO_IP, _IP_MTU)
    )
    try:
        return int(sock.getsockopt(level, option))
    except OSError:  # only Linux tells
        return None


def _stopped(found: LinkCheck, step: str, problem: str) -> LinkCheck:
    return replace(found, stopped=step, problem=problem[:_PROBLEM_CHARS])
