"""TLS on data links: both ends show a certificate of the server's own authority, and it names the agent.

The listening side is asyncio's; the connecting side drives a non-blocking `ssl.SSLSocket` by hand, because
`Outbox` writes to the socket itself, at the link's pace. `TlsSocket` is what it and `Sender` need of one.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d3bed.core.errors import ConfigError

__all__ = ["LinkTls", "TlsSocket", "agent_named", "secured"]

#: Written at a time: a whole number of TLS records.
_CHUNK_BYTES = 16 * 16384
#: A message's head and the start of its payload go out in one record, at the cost of copying so much.
_JOINED_BYTES = 16384


class LinkTls:
    """The two contexts of an agent: `client` for links that it opens, `server` for those that it accepts.

    `own` is a file with the agent's key and certificate, `authority` the PEM of whom it trusts. Raises
    `ConfigError` if they do not fit.
    """

    def __init__(self, own: Path, authority: str) -> None:
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.client.check_hostname = False  # certificates name agents, not hosts; see `agent_named`
        try:
            for context in (self.client, self.server):
                context.minimum_version = ssl.TLSVersion.TLSv1_3
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(cadata=authority)
                context.load_cert_chain(own)
        except (OSError, ValueError) as error:  # SSLError is an OSError
            raise ConfigError(str(own), "", f"no certificate: {error}", "join again: d3bed join") from error
        self.server.num_tickets = 0  # links are long-lived, and nobody resumes one


def agent_named(certificate: dict[str, Any] | None) -> str:
    """Whose a verified certificate is, as `getpeercert` gives it; "" for nobody's."""
    for part in (certificate or {}).get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return ""


class TlsSocket:
    """A connected, non-blocking TLS socket with the few calls that a link makes of a plain one."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._socket = sock

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self._socket.setsockopt(level, option, value)

    @property
    def pending(self) -> int:
        """Bytes that have come and were decrypted: no event of the socket will tell of them."""
        return self._socket.pending()

    def sendmsg(self, pieces: Sequence[memoryview]) -> int:
        """Of the pieces' bytes, how many are on their way. Raises `BlockingIOError` as a socket does; then
        the same bytes must be offered again: OpenSSL has begun to encrypt them."""
        try:
            return self._socket.send(self._next(pieces))
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            raise BlockingIOError from None

    def recv_into(self, buffer: memoryview) -> int:
        try:
            return self._socket.recv_into(buffer)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    @staticmethod
    def _next(pieces: Sequence[memoryview]) -> memoryview | bytes:
        """What goes out now: never less than at a try before, since the pieces only grow at their end."""
        first, *rest = (piece for piece in pieces if len(piece))
        if rest and len(first) < _JOINED_BYTES:
            return first.tobytes() + rest[0][: _JOINED_BYTES - len(first)].tobytes()
        return first[:_CHUNK_BYTES]


async def secured(sock: socket.socket, tls: LinkTls, peer: str) -> TlsSocket:
    """Shake hands as the client, and see that it is `peer`. Owns `sock` from here on. Raises `OSError`."""
    wrapped = tls.client.wrap_socket(sock, do_handshake_on_connect=False, suppress_ragged_eofs=True)
    try:
        while True:
            try:
                wrapped.do_handshake()
                break
            except ssl.SSLWantReadError:
                await _ready(wrapped, reading=True)
            except ssl.SSLWantWriteError:
                await _ready(wrapped, reading=False)
        found = agent_named(wrapped.getpeercert())
        if found != peer:
            raise ssl.SSLError(f"the certificate there is of {found or 'nobody'}")
    except BaseException:
        wrapped.close()
        raise
    return TlsSocket(wrapped)


async def _ready(sock: ssl.SSLSocket, *, reading: bool) -> None:
    loop, descriptor = asyncio.get_running_loop(), sock.fileno()
    ready: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_reader, loop.remove_reader) if reading else (loop.add_writer, loop.remove_writer)

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    add(descriptor, tell)
    try:
        await ready
    finally:
        remove(descriptor)
