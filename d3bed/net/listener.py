"""The receiving end of all links to an agent: accepts peers, hands their tensors on, turns away others."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
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
    Ping,
    Pong,
    Probed,
    Proof,
    Refused,
    TensorMessage,
    WireViolation,
)
from d3bed.net.handshake import NONCE_BYTES, Acceptance
from d3bed.net.sockets import no_delay
from d3bed.net.tls import LinkTls, agent_named
from d3bed.net.wire import Event, ProbeBegun, ProbeEnded, Role, Wire, WireState

__all__ = ["Listener"]

_log = logging.getLogger(__name__)

_STRANGERS = 64
_LOG_EVERY_S = 60.0
_LOGGED_HOSTS = 1024

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
            self.refuse(
                WireViolation(Breach.CROWDED, f"more than {_STRANGERS} connections before a handshake")
            )

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

    def connection_lost(self, error: Exception | None) -> None:
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
            self.refuse(WireViolation(Breach.STALL, f"stalled for {limit_s:g} s in {where}"))

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
            case Goodbye():
                self._end(LinkClosed(event.reason))
                self._transport.close()
            case _:  # the state table lets nothing else come this way
                raise WireViolation(Breach.ORDER, f"unexpected {type(event).__name__}")

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
        self._transport.write(b"".join(self._wire.data_to_send()))

    def _reply_later(self, message: Message) -> None:
        """After the latency that the sender emulates, so that its round trip is twice that."""
        assert self._hello is not None
        if self._hello.latency_s:
            asyncio.get_running_loop().call_later(self._hello.latency_s, self._reply_if_open, message)
        else:
            self._reply(message)

    def _reply_if_open(self, message: Message) -> None:
        if self.ended is None:
            self._reply(message)


class Listener:
    """Accepts links for agent `me`; made by `start`.

    `on_tensor` and `on_lost` are called in the event loop and must not block. `on_tensor` may raise
    `RemoteProtocolError` for a tensor that nobody expects: its sender is refused. `on_lost` gets `LinkClosed`
    after a goodbye, `LinkBroken` or `RemoteProtocolError` otherwise. `secret` None refuses everybody.
    `rejected` counts connections that were closed for what they did.
    """

    def __init__(
        self, me: AgentId, secret: bytes | None, on_tensor: OnTensor, on_lost: OnLost, limits: Limits
    ) -> None:
        self.me, self.secret = me, secret
        self.on_tensor, self.on_lost = on_tensor, on_lost
        self.limits = limits
        self.pool = BufferPool()
        self.rejected_by_reason: Counter[str] = Counter()
        self.address = ""
        self._may_log = _OncePerMinute()
        self._connections: set[_Incoming] = set()
        self._gone = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None

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
        listener = cls(me, secret, on_tensor, on_lost, limits)
        server = await asyncio.get_running_loop().create_server(
            lambda: _Incoming(listener),
            host,
            port,
            backlog=128,
            ssl=tls.server if tls is not None else None,
            ssl_handshake_timeout=limits.timeout_s if tls is not None else None,
            ssl_shutdown_timeout=1.0 if tls is not None else None,
        )
        listener._server = server
        bound = server.sockets[0].getsockname()
        listener.address = f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"
        listener._sweep()
        return listener

    @property
    def rejected(self) -> int:
        return self.rejected_by_reason.total()

    async def close(self) -> None:
        """Say goodbye to all peers and stop listening."""
        if self._server is None:
            return
        server, self._server = self._server, None
        if self._sweeper is not None:
            self._sweeper.cancel()
        server.close()
        for connection in list(self._connections):
            connection.say_goodbye(f"{self.me} is going away")
        await server.wait_closed()
        self._set_gone()
        await self._gone.wait()

    def cut_off(self, peer: AgentId) -> None:
        """Refuse what `peer` sends on the links that it has."""
        for connection in list(self._connections):
            if connection.peer == peer:
                connection.refuse(WireViolation(Breach.PROOF, f"{peer} was revoked"))

    # ── for connections ───────────────────────────────────────────────────────────────────────────

    def admit(self, connection: _Incoming) -> bool:
        """Count a new connection in; False if too many have not introduced themselves."""
        self._connections.add(connection)
        return sum(c.stranger for c in self._connections) <= _STRANGERS

    def forget(self, connection: _Incoming) -> None:
        self._connections.discard(connection)
        self._set_gone()

    def count(self, host: str, violation: RemoteProtocolError) -> None:
        breach = violation.breach if isinstance(violation, WireViolation) else Breach.CONTENT
        self.rejected_by_reason[breach.value] += 1
        if self._may_log(host, time.monotonic()):
            _log.warning("refused a peer at %s: %s", host, violation.reason)

    def _set_gone(self) -> None:
        if self._server is None and not self._connections:
            self._gone.set()

    def _sweep(self) -> None:
        now_s = time.monotonic()
        for connection in list(self._connections):
            connection.check_stalled(now_s)
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(self.limits.timeout_s / 4, self._sweep)
