"""Links to agents that nobody can dial, because a NAT or a firewall is before them.

    receiver                         relay                          sender
    0xD3, handshake as "=line"  ──▶  keeps the connection
                                     joins it to this one      ◀──  0xD3, handshake as "=to RECEIVER"
                                ◀──  0x01                      ──▶
    ◀────────────────────  an ordinary link, its own handshake first  ────────────────────▶

The agent that cannot be dialled opens lines to one that it can dial, which passes bytes on between the two,
or, where it is itself the one that wants to send, has the line for its own. What passes is a link like any
other: its ends prove themselves to each other, with TLS inside where the server speaks it, so that the relay
need not be believed. The handshake with the relay is `handshake`'s, in plain: it tells names only, and no
pipeline can be called as it calls itself. `Listener` tells such calls by their first byte.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Final, TypeVar

from d3bed.core.errors import LinkBroken
from d3bed.core.ids import AgentId, PipelineId
from d3bed.net.codec import (
    PREFIX_BYTES,
    Accepted,
    Breach,
    Challenge,
    Hello,
    Limits,
    Message,
    Proof,
    Refused,
    WireViolation,
    decode_header,
    decode_prefix,
    encode,
)
from d3bed.net.handshake import NONCE_BYTES, Acceptance, Introduction
from d3bed.net.sockets import connected, no_delay

__all__ = ["CALL", "Relay", "call", "wanted"]

#: The first byte of a call; no link begins with it, nor does TLS.
CALL: Final = b"\xd3"
_GO = b"\x01"
_LINE, _TO = "=line", "=to "
#: Spare lines kept of one agent, links passed on at a time, and at most how long a sender waits for a line.
_SPARE, _MOST, _WAIT_S = 4, 64, 3.0
_CHUNK_BYTES = 256 * 1024
#: How long the one direction may go on once the other has ended.
_LINGER_S = 5.0

_T = TypeVar("_T")


async def call(
    address: str, *, me: AgentId, relay: AgentId, to: AgentId | None, secret: bytes, limits: Limits
) -> socket.socket:
    """Dial `relay` and be let in: to be joined with `to`, or (None) to keep a line. See `wanted`.

    Raises `LinkBroken`, `RemoteProtocolError`, `OSError`, `TimeoutError`.
    """
    purpose = PipelineId(_LINE if to is None else f"{_TO}{to}")
    introduction = Introduction(me, relay, purpose, secret, secrets.token_bytes(NONCE_BYTES), 0.0)
    async with asyncio.timeout(limits.timeout_s):
        sock = await connected(address)
        try:
            await _say(sock, introduction.hello, limits, first=CALL)
            challenge = await _hear(sock, Challenge, limits)
            await _say(sock, introduction.challenged(challenge), limits)
            introduction.accepted(await _hear(sock, Accepted, limits))
        except BaseException:
            sock.close()
            raise
    return sock


async def wanted(
    sock: socket.socket, *, relay: AgentId, to: AgentId | None, within_s: float | None = None
) -> None:
    """Wait until the call is joined: from then on the socket is a link's. Closes it, and raises `LinkBroken`,
    where it comes to nothing."""
    try:
        async with asyncio.timeout(within_s):
            said = await asyncio.get_running_loop().sock_recv(sock, 1)
        if said != _GO:
            raise LinkBroken(f"{relay} closed the line" if to is None else f"{relay} has no line to {to}")
    except (OSError, TimeoutError) as error:
        sock.close()
        raise LinkBroken(f"the line by way of {relay} was lost: {error or 'no answer'}") from error
    except BaseException:
        sock.close()
        raise


class Relay:
    """Of a listener, agent `me`: the lines that others keep to it, and the links that it passes on.

    `refused` is told of callers that were turned away, by host.
    """

    def __init__(self, me: AgentId, limits: Limits, refused: Callable[[str, WireViolation], None]) -> None:
        self._me, self._limits, self._refused = me, limits, refused
        self._lines: dict[AgentId, deque[socket.socket]] = defaultdict(deque)
        self._came = asyncio.Condition()
        self._joined: dict[asyncio.Task[None], tuple[AgentId, AgentId]] = {}

    @property
    def passing(self) -> int:
        """Links that are passed on now."""
        return len(self._joined)

    def spare(self, peer: AgentId) -> int:
        """Lines of a peer that wait to be wanted."""
        return len(self._lines.get(peer, ()))

    async def answer(self, sock: socket.socket, secret: bytes | None) -> None:
        """A connection that begins with `CALL`. Owns `sock` from here on."""
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                hello = await self._let_in(sock, secret)
        except WireViolation as violation:
            self._refused(_host(sock), violation)
            sock.close()
            return
        except (OSError, TimeoutError, LinkBroken):
            sock.close()
            return
        except BaseException:
            sock.close()
            raise
        caller, purpose = hello.origin
        if purpose == _LINE:
            await self._keep(caller, sock)
        else:
            await self._join(caller, AgentId(purpose.removeprefix(_TO)), sock)

    async def take(self, peer: AgentId) -> socket.socket:
        """A line to `peer`, for a link of our own. Raises `LinkBroken` where it has none here."""
        line = await self._line(peer)
        if line is None:
            raise LinkBroken(f"{peer} keeps no line to {self._me}")
        return line

    def cut_off(self, peer: AgentId) -> None:
        """Close its lines, and what is passed on from it or to it."""
        for line in self._lines.pop(peer, ()):
            line.close()
        for task, ends in self._joined.items():
            if peer in ends:
                task.cancel()

    def sweep(self) -> None:
        """Forget lines that were closed at their other end."""
        for peer in list(self._lines):
            kept = deque(line for line in self._lines[peer] if _is_alive(line))
            if kept:
                self._lines[peer] = kept
            else:
                del self._lines[peer]

    async def close(self) -> None:
        for peer in list(self._lines):
            self.cut_off(peer)
        tasks = list(self._joined)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _let_in(self, sock: socket.socket, secret: bytes | None) -> Hello:
        await _exactly(sock, len(CALL))
        acceptance = Acceptance(self._me, secret, secrets.token_bytes(NONCE_BYTES))
        try:
            hello = await _hear(sock, Hello, self._limits)
            await _say(sock, acceptance.greeted(hello), self._limits)
            hello, accepted = acceptance.proved(await _hear(sock, Proof, self._limits))
            if hello.pipeline != _LINE and not hello.pipeline.startswith(_TO):
                raise WireViolation(Breach.CONTENT, f"a call for {hello.pipeline!r}")
        except WireViolation as violation:
            await _say(sock, Refused(violation.reason), self._limits)
            raise
        await _say(sock, accepted, self._limits)
        return hello

    async def _keep(self, peer: AgentId, sock: socket.socket) -> None:
        lines = self._lines[peer]
        lines.append(sock)
        while len(lines) > _SPARE:
            lines.popleft().close()
        async with self._came:
            self._came.notify_all()

    async def _line(self, peer: AgentId) -> socket.socket | None:
        """One that is told to go; None if there is none in time."""
        try:
            async with asyncio.timeout(_WAIT_S), self._came:
                while True:
                    lines = self._lines.get(peer)
                    while lines:
                        line = lines.popleft()
                        if _is_alive(line) and _tell(line):
                            return line
                    await self._came.wait()
        except TimeoutError:
            return None

    async def _join(self, sender: AgentId, receiver: AgentId, sock: socket.socket) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._joined) >= _MOST:
            sock.close()
            return
        self._joined[task] = sender, receiver
        line = None
        try:
            line = await self._line(receiver)
            if line is not None and _tell(sock):
                await _pass_on(sock, line)
        finally:
            del self._joined[task]
            sock.close()
            if line is not None:
                line.close()


async def _pass_on(one: socket.socket, other: socket.socket) -> None:
    """Bytes both ways until both ends are done, or one is lost."""
    ways = {asyncio.create_task(_pump(one, other)), asyncio.create_task(_pump(other, one))}
    try:
        done, rest = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        if rest and all(task.exception() is None for task in done):
            await asyncio.wait(rest, timeout=_LINGER_S)
    finally:
        for task in ways:
            task.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _pump(source: socket.socket, target: socket.socket) -> None:
    loop, buffer = asyncio.get_running_loop(), memoryview(bytearray(_CHUNK_BYTES))
    while nbytes := await loop.sock_recv_into(source, buffer):
        await loop.sock_sendall(target, buffer[:nbytes])
    target.shutdown(socket.SHUT_WR)


# ── a few messages on a plain socket ──────────────────────────────────────────────────────────────


async def _say(sock: socket.socket, message: Message, limits: Limits, *, first: bytes = b"") -> None:
    await asyncio.get_running_loop().sock_sendall(sock, first + encode(message, limits)[0])


async def _hear(sock: socket.socket, kind: type[_T], limits: Limits) -> _T:
    """Exactly one message: what follows it is a link's. Raises `LinkBroken`, `WireViolation`, `OSError`."""
    prefix = decode_prefix(await _exactly(sock, PREFIX_BYTES), 0, limits)
    if prefix.payload_bytes:
        raise WireViolation(Breach.ORDER, f"unexpected {prefix.kind.name}")
    header = decode_header(prefix, await _exactly(sock, prefix.header_bytes), limits)
    if isinstance(header, Refused):
        raise LinkBroken(f"refused: {header.reason}")
    if not isinstance(header, kind):
        raise WireViolation(Breach.ORDER, f"unexpected {prefix.kind.name}")
    return header


async def _exactly(sock: socket.socket, nbytes: int) -> bytes:
    loop, came = asyncio.get_running_loop(), b""
    while len(came) < nbytes:
        more = await loop.sock_recv(sock, nbytes - len(came))
        if not more:
            raise LinkBroken("closed during the handshake")
        came += more
    return came


def _is_alive(line: socket.socket) -> bool:
    """Nothing comes on a line before it is told to go, other than its end."""
    try:
        line.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        pass
    line.close()
    return False


def _tell(sock: socket.socket) -> bool:
    try:
        no_delay(sock)
        return sock.send(_GO) == 1
    except OSError:
        sock.close()
        return False


def _host(sock: socket.socket) -> str:
    try:
        return str(sock.getpeername()[0])
    except OSError:
        return "?"
