"""The receiving end of all links to an agent: accepts peers, hands their tensors on, turns away others."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine
from typing import cast

from d3bed.core.errors import LinkBroken, LinkClosed, RemoteProtocolError
from d3bed.core.ids import AgentId, PipelineId
from d3bed.net.buffers import BufferPool
from d3bed.net.codec import (
    Breach,
    Goodbye,
    Hello,
    Limits,
    Message,
    Piece,
    Ping,
    Pong,
    Probed,
    Proof,
    Refused,
    TensorMessage,
    Want,
    WireViolation,
    encode,
)
from d3bed.net.handshake import NONCE_BYTES, Acceptance
from d3bed.net.relay import CALL, Relay
from d3bed.net.sockets import no_delay
from d3bed.net.tls import LinkTls, agent_named
from d3bed.net.wire import Event, ProbeBegun, ProbeEnded, Role, Wire, WireState

__all__ = ["Listener"]

_log = logging.getLogger(__name__)

_STRANGERS, _BACKLOG = 64, 128
#: After the system had no more connections for us.
_PAUSE_S = 1.0
_LOG_EVERY_S = 60.0
_LOGGED_HOSTS = 1024

#: What of a file is there behind its first so many bytes, at most `PIECE_BYTES`; called on a thread.
FileOf = Callable[[str, int], bytes]
OnTensor = Callable[[AgentId, PipelineId, TensorMessage], None]
OnLost = Callable[[AgentId, PipelineId, Exception], None]


class _OncePerMinute:
    """Says whether a host may be logged now; remembers a bounded number of hosts."""

    def __init__(self) -> None:
        self._last_s: OrderedDict[str, float] = OrderedDict()

    def __call__(self, host: str, now_s: float) -> bool:
        if now_s - self._last_s.get(host, float("-inf")) < _LOG_EVERY_S:
            return False
        self._last_s[host] = now_s
        self._last_s.move_to_end(host)
        if len(self._last_s) > _LOGGED_HOSTS:
            self._last_s.popitem(last=False)
        return True


class _Incoming(asyncio.BufferedProtocol):
    """One accepted connection."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._wire = Wire(Role.ACCEPTOR, listener.limits, listener.pool.take)
        self._acceptance = Acceptance(listener.me, listener.secret, secrets.token_bytes(NONCE_BYTES))
        self._hello: Hello | None = None
        self._host = "?"
        self._probe_begun_s = 0.0
        self._heard_s = time.monotonic()
        self._giving: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.ended: Exception | None = None

    @property
    def stranger(self) -> bool:
        """Not through the handshake."""
        return self._hello is None

    @property
    def peer(self) -> AgentId | None:
        """Who it is; None before that is proved."""
        return self._hello.origin[0] if self._hello is not None else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._host = str(peer[0]) if peer else "?"
        if sock := transport.get_extra_info("socket"):
            no_delay(sock)
        if not self._listener.admit(self):
            self.refuse(_crowded())
        elif self._listener.closed:  # it came to be while all others were closed
            self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._wire.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        if not self.stranger:
            self._heard_s = time.monotonic()
        try:
            try:
                self._wire.buffer_updated(nbytes)
            finally:  # what came before a violation counts
                for event in self._wire.events_received():
                    self._handle(event)
        except RemoteProtocolError as violation:
            self.refuse(violation)

    def eof_received(self) -> bool:
        try:
            self._wire.receive_eof()
        except LinkBroken as error:
            self._end(error)
        return False

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        if self._giving is not None:
            self._giving.cancel()
        self._end(LinkBroken(f"connection lost: {error}" if error else "connection lost"))
        self._listener.forget(self)
        if self._hello is not None and self.ended is not None:
            self._listener.on_lost(*self._hello.origin, self.ended)

    def check_stalled(self, now_s: float) -> None:
        """Refuse a peer that takes too long over its handshake or over the rest of a message."""
        limit_s = self._listener.limits.timeout_s
        if (
            self.ended is None
            and now_s - self._heard_s > limit_s
            and (self.stranger or self._wire.mid_message)
        ):
            where = "the handshake" if self.stranger else "a message"
            self.refuse(_stalled(where, self._listener.limits))

    def refuse(self, violation: RemoteProtocolError) -> None:
        """Say why, count, log, close."""
        if self.ended is not None:
            return
        if self._wire.state is not WireState.CLOSED:
            self._reply(Refused(violation.reason))
        self._end(violation)
        self._listener.count(self._host, violation)
        self._transport.close()

    def say_goodbye(self, reason: str) -> None:
        if self._wire.state is WireState.OPEN:
            self._reply(Goodbye(reason))
        self._end(LinkClosed(reason))
        self._transport.close()

    def _end(self, error: Exception) -> None:
        if self.ended is None:
            self.ended = error

    def _handle(self, event: Event) -> None:
        match event:
            case TensorMessage():
                assert self._hello is not None
                self._listener.on_tensor(*self._hello.origin, event)
            case Hello():
                self._check_certificate(event)
                self._reply(self._acceptance.greeted(event))
            case Proof():
                hello, accepted = self._acceptance.proved(event)
                self._reply(accepted)
                self._hello = hello
                self._heard_s = time.monotonic()
            case Ping():
                self._reply_later(Pong(event.number))
            case ProbeBegun():
                self._probe_begun_s = time.monotonic()
            case ProbeEnded():
                taken_s = time.monotonic() - self._probe_begun_s
                self._reply_later(Probed(event.number, event.bytes, taken_s))
            case Want():
                self._give(event)
            case Goodbye():
                self._end(LinkClosed(event.reason))
                self._transport.close()
            case _:  # the state table lets nothing else come this way
                raise WireViolation(Breach.ORDER, f"unexpected {type(event).__name__}")

    def _give(self, want: Want) -> None:
        if self._giving is not None and not self._giving.done():
            raise WireViolation(Breach.CROWDED, "asks for the next piece of a file before it has this one")
        self._giving = asyncio.create_task(self._give_piece(want))

    async def _give_piece(self, want: Want) -> None:
        await self._writable.wait()  # it may not read what it asked for
        try:
            found = await asyncio.to_thread(self._listener.file_of, want.sha256, want.behind_bytes)
        except OSError as error:
            _log.warning("a piece of %s cannot be read: %s", want.sha256, error)
            found = b""
        self._reply_if_open(Piece(want.number, found))

    def _check_certificate(self, hello: Hello) -> None:
        """On TLS: whoever it says it is must be in its certificate."""
        if self._transport.get_extra_info("ssl_object") is not None:
            named = agent_named(self._transport.get_extra_info("peercert"))
            if named != hello.sender:
                raise WireViolation(
                    Breach.PROOF, f"a certificate of {named or 'nobody'}, not of {hello.sender}"
                )

    def _reply(self, message: Message) -> None:
        self._wire.send(message)
        for piece in self._wire.data_to_send():
            self._transport.write(piece)

    def _reply_later(self, message: Message) -> None:
        """After the latency that the sender emulates, so that its round trip is twice that."""
        assert self._hello is not None
        if self._hello.latency_s:
            asyncio.get_running_loop().call_later(self._hello.latency_s, self._reply_if_open, message)
        else:
            self._reply_if_open(message)

    def _reply_if_open(self, message: Message) -> None:
        if self.ended is None:
            self._reply(message)


class Listener:
    """Accepts links for agent `me`; made by `start`.

    `on_tensor` and `on_lost` are called in the event loop and must not block. `on_tensor` may raise
    `RemoteProtocolError` for a tensor that nobody expects: its sender is refused. `on_lost` gets `LinkClosed`
    after a goodbye, `LinkBroken` or `RemoteProtocolError` otherwise. `secret` None refuses everybody.
    `rejected` counts connections that were closed for what they did. What peers get of files is `file_of`.
    """

    def __init__(
        self,
        me: AgentId,
        secret: bytes | None,
        on_tensor: OnTensor,
        on_lost: OnLost,
        limits: Limits,
        tls: LinkTls | None,
    ) -> None:
        self.me, self.secret = me, secret
        self.on_tensor, self.on_lost = on_tensor, on_lost
        self.file_of: FileOf = lambda sha256, behind_bytes: b""
        self.limits = limits
        self.pool = BufferPool()
        self.rejected_by_reason: Counter[str] = Counter()
        self.address = ""
        self.relay = Relay(me, limits, self.count)
        self._tls = tls
        self._may_log = _OncePerMinute()
        #: At the door: who has yet to say the first byte, and since when it is open to them.
        self._knocks: dict[socket.socket, float] = {}
        self._connections: set[_Incoming] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._gone = asyncio.Event()
        self._socket: socket.socket | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}

    @classmethod
    async def start(
        cls,
        host: str,
        port: int,
        *,
        me: AgentId,
        secret: bytes | None,
        on_tensor: OnTensor,
        on_lost: OnLost,
        limits: Limits = Limits(),  # noqa: B008 — frozen
        tls: LinkTls | None = None,
    ) -> Listener:
        """Listen on `host`, `port` (0: any free one); see `address`. With `tls` peers must show a certificate
        of the name that they give. Raises `OSError` if the port is taken."""
        listener = cls(me, secret, on_tensor, on_lost, limits, tls)
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, where = found[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(where)
            sock.listen(_BACKLOG)
        except BaseException:
            sock.close()
            raise
        bound = sock.getsockname()
        listener.address = f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"
        listener._socket = sock
        listener._open()
        listener._sweep()
        return listener

    @property
    def closed(self) -> bool:
        return self._socket is None

    @property
    def rejected(self) -> int:
        return self.rejected_by_reason.total()

    async def close(self) -> None:
        """Say goodbye to all peers and stop listening."""
        if self._socket is None:
            return
        sock, self._socket = self._socket, None
        for timer in self._timers.values():
            timer.cancel()
        loop = asyncio.get_running_loop()
        loop.remove_reader(sock.fileno())
        sock.close()
        for knock in list(self._knocks):
            self._leave_door(knock)
            knock.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, self.relay.close(), return_exceptions=True)
        for connection in list(self._connections):
            connection.say_goodbye(f"{self.me} is going away")
        self._set_gone()
        await self._gone.wait()

    def cut_off(self, peer: AgentId) -> None:
        """Refuse what `peer` sends on the links that it has, and what is passed on for it."""
        self.relay.cut_off(peer)
        for connection in list(self._connections):
            if connection.peer == peer:
                connection.refuse(WireViolation(Breach.PROOF, f"{peer} was revoked"))

    def adopt(self, sock: socket.socket) -> None:
        """A connection that we opened ourselves, on which a peer is about to introduce itself."""
        self._spawn(self._welcome(sock))

    # ── the door ──────────────────────────────────────────────────────────────────────────────────

    def _open(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._accept, self._socket)

    def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_BACKLOG):
            try:
                sock, where = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # too many open files, for one: not accepted it would wake us for ever
                _log.error("no connection can be accepted for %g s: %s", _PAUSE_S, error)
                loop.remove_reader(listening.fileno())
                self._timers["open"] = loop.call_later(_PAUSE_S, self._open)
                return
            sock.setblocking(False)
            self._knocks[sock] = time.monotonic()
            loop.add_reader(sock.fileno(), self._knocked, sock)
            if self._strangers > _STRANGERS:
                self._turn_away(sock, _crowded())

    def _knocked(self, sock: socket.socket) -> None:
        self._leave_door(sock)
        try:
            first = sock.recv(len(CALL), socket.MSG_PEEK)
        except OSError:
            first = b""
        if not first:
            sock.close()
        elif len(self._tasks) - self.relay.passing >= _STRANGERS:
            self._turn_away(sock, _crowded())
        elif first == CALL:
            self._spawn(self.relay.answer(sock, self.secret))
        else:
            self._spawn(self._welcome(sock))

    async def _welcome(self, sock: socket.socket) -> None:
        """Its handshake comes next, with TLS first where that is spoken."""
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _Incoming(self),
                sock,
                ssl=self._tls.server if self._tls is not None else None,
                ssl_handshake_timeout=self.limits.timeout_s if self._tls is not None else None,
                ssl_shutdown_timeout=1.0 if self._tls is not None else None,
            )
        except OSError as error:
            _log.debug("a connection did not begin: %s", error)
            sock.close()

    def _turn_away(self, sock: socket.socket, violation: WireViolation) -> None:
        if sock in self._knocks:
            self._leave_door(sock)
        try:
            host = str(sock.getpeername()[0])
            if self._tls is None:
                sock.send(encode(Refused(violation.reason), self.limits)[0])
        except OSError:  # it has left
            host = "?"
        sock.close()
        self.count(host, violation)

    def _leave_door(self, sock: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(sock.fileno())
        del self._knocks[sock]

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def _strangers(self) -> int:
        return len(self._knocks) + sum(c.stranger for c in self._connections)

    # ── for connections ───────────────────────────────────────────────────────────────────────────

    def admit(self, connection: _Incoming) -> bool:
        """Count a new connection in; False if too many have not introduced themselves."""
        self._connections.add(connection)
        return self._strangers <= _STRANGERS

    def forget(self, connection: _Incoming) -> None:
        self._connections.discard(connection)
        self._set_gone()

    def count(self, host: str, violation: RemoteProtocolError) -> None:
        breach = violation.breach if isinstance(violation, WireViolation) else Breach.CONTENT
        self.rejected_by_reason[breach.value] += 1
        if self._may_log(host, time.monotonic()):
            _log.warning("refused a peer at %s: %s", host, violation.reason)

    def _set_gone(self) -> None:
        if self._socket is None and not self._connections:
            self._gone.set()

    def _sweep(self) -> None:
        now_s = time.monotonic()
        for connection in list(self._connections):
            connection.check_stalled(now_s)
        for sock, since_s in list(self._knocks.items()):
            if now_s - since_s > self.limits.timeout_s:
                self._turn_away(sock, _stalled("the handshake", self.limits))
        self.relay.sweep()
        loop = asyncio.get_running_loop()
        self._timers["sweep"] = loop.call_later(self.limits.timeout_s / 4, self._sweep)


def _crowded() -> WireViolation:
    return WireViolation(Breach.CROWDED, f"more than {_STRANGERS} connections before a handshake")


def _stalled(where: str, limits: Limits) -> WireViolation:
    return WireViolation(Breach.STALL, f"stalled for {limits.timeout_s:g} s in {where}")
