"""Socket settings and event loops that fit the links."""

from __future__ import annotations

import asyncio
import selectors
import socket
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from d3bed.core.errors import ConfigError
from d3bed.core.measurements import LinkShape

if TYPE_CHECKING:
    from d3bed.net.tls import TlsSocket

__all__ = ["connected", "new_event_loop", "no_delay", "notice_silence", "parse_address", "send_buffer_for"]

#: A peer whose kernel acknowledges nothing for this long is gone (its board lost power, or the cable).
_SILENCE_S = 10

_SHAPED_BUFFER_S = 0.050
_LEAST_BUFFER_BYTES = 64 * 1024
_MOST_BUFFER_BYTES = 2 * 1024 * 1024


def new_event_loop(shaped: bool) -> asyncio.AbstractEventLoop:
    """The loop for a process whose links are `shaped` or not.

    Pacing needs timers finer than a millisecond: `epoll` and uvloop round up to one, `select` does
    not. Unshaped links use uvloop where it is installed.
    """
    if shaped:
        return asyncio.SelectorEventLoop(selectors.SelectSelector())
    if find_spec("uvloop") is not None:
        loop = import_module("uvloop").new_event_loop()
        assert isinstance(loop, asyncio.AbstractEventLoop)
        return loop
    return asyncio.new_event_loop()


def parse_address(address: str) -> tuple[str, int]:
    """`host:port`, an IPv6 host in brackets. Raises `ConfigError`."""
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise ConfigError("data address", address, "not host:port", "write it as 192.168.0.7:4750")
    return host.removeprefix("[").removesuffix("]"), int(port)


async def connected(address: str) -> socket.socket:
    """A non-blocking connection to `host:port`. Raises `OSError`, `ConfigError`."""
    loop = asyncio.get_running_loop()
    host, port = parse_address(address)
    failure: OSError = OSError(f"no address for {host}")
    for family, kind, protocol, _, where in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        try:
            no_delay(sock)
            await loop.sock_connect(sock, where)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


def no_delay(sock: socket.socket) -> None:
    """Small messages leave at once, and a peer that fell silent is noticed."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    notice_silence(sock, _SILENCE_S)


def notice_silence(sock: socket.socket, silence_s: int) -> None:
    """End the connection once nothing is acknowledged for `silence_s` seconds (at least 2).

    It is the peer's kernel that acknowledges: a process that is busy, or stopped, keeps its connection.
    Where there is nothing to say the kernels ask each other.
    """
    every_s = max(1, silence_s // 5)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", every_s),
        ("TCP_KEEPINTVL", every_s),
        ("TCP_KEEPCNT", silence_s // every_s),
        ("TCP_USER_TIMEOUT", silence_s * 1000),
    ):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def send_buffer_for(sock: socket.socket | TlsSocket, shape: LinkShape) -> None:
    """Let the kernel hold about 50 ms of the emulated link, not the megabytes that it would by itself."""
    nbytes = min(max(shape.bytes_per_s * _SHAPED_BUFFER_S, _LEAST_BUFFER_BYTES), _MOST_BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, int(nbytes))
