"""The sending end of a link: one TCP connection from this agent to a peer."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable

from d3bed.core.errors import D3Error, LinkBroken, LinkClosed, LocalProtocolError, Unreachable
from d3bed.core.ids import AgentId, PipelineId
from d3bed.core.measurements import LinkShape, Transfer
from d3bed.net.codec import (
    Accepted,
    Breach,
    Challenge,
    Goodbye,
    Limits,
    Message,
    Piece,
    Ping,
    Pong,
    Probed,
    ProbeData,
    Refused,
    TensorMessage,
    Want,
    WireViolation,
)
from d3bed.net.handshake import NONCE_BYTES, Introduction, is_of_another
from d3bed.net.outbox import Outbox, Outgoing
from d3bed.net.probe import PINGS, QUICK_PINGS, Probe, RateSearch
from d3bed.net.shaping import Pacing
from d3bed.net.sockets import connected, send_buffer_for
from d3bed.net.tls import LinkTls, TlsSocket, secured
from d3bed.net.wire import Event, Role, Wire, WireState

__all__ = ["DIAL_S", "Sender"]

_log = logging.getLogger(__name__)

#: A host that does not answer a connection for so long will not: there is time for a lost packet.
DIAL_S = 3.0

_Reply = Probed | Piece | None

_TENSORS_IN_FLIGHT = 8
_BYTES_IN_FLIGHT = 32 * 1024 * 1024


class _Room:
    """Lets in a few tensors and a bounded number of bytes at a time, first come, first served."""

    def __init__(self) -> None:
        self._bytes = self._tensors = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def _fits(self, nbytes: int) -> bool:
        few = self._tensors < _TENSORS_IN_FLIGHT and self._bytes + nbytes <= _BYTES_IN_FLIGHT
        return few or not self._tensors

    def enter_now(self, nbytes: int) -> bool:
        """Let in if nobody has to wait."""
        if self._waiting or not self._fits(nbytes):
            return False
        self._count(nbytes)
        return True

    async def enter(self, nbytes: int) -> None:
        if not self.enter_now(nbytes):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((nbytes, turn))
            try:
                await turn  # `_admit` has counted us in
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled() and turn.exception() is None:
                    self.leave(nbytes)
                raise

    def leave(self, nbytes: int) -> None:
        self._tensors -= 1
        self._bytes -= nbytes
        while self._waiting and (self._waiting[0][1].done() or self._fits(self._waiting[0][0])):
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._count(size)
                turn.set_result(None)

    def close(self, error: Exception) -> None:
        while self._waiting:
            turn = self._waiting.popleft()[1]
            if not turn.done():
                turn.set_exception(error)

    def _count(self, nbytes: int) -> None:
        self._tensors += 1
        self._bytes += nbytes


class Sender:
    """A link to `peer` for one pipeline; made by `connect`, usable by many tasks at once.

    Tensors leave in the order of the `send` calls. When the link is lost, every waiting and later
    call raises and `on_lost` is called once, unless `close` was.
    """

    def __init__(
        self,
        sock: socket.socket | TlsSocket,
        introduction: Introduction,
        address: str,
        shape: LinkShape | None,
        limits: Limits,
        on_lost: Callable[[Exception], None] | None,
        pacing: Pacing | None,
        *,
        echoed: bool = False,
    ) -> None:
        self.peer = AgentId(introduction.hello.receiver)
        self.pipeline = PipelineId(introduction.hello.pipeline)
        self.address = address
        self.shape = shape
        self._pacing = pacing
        self._loop = asyncio.get_running_loop()
        self._socket = sock
        self._limits = limits
        self._on_lost = on_lost
        self._introduction = introduction
        self._wire = Wire(Role.CONNECTOR, limits)
        self._room = _Room()
        self._down: D3Error | None = None
        self._leaving = False
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._replies: dict[tuple[type, int], asyncio.Future[_Reply]] = {}
        self._asked = 0
        #: Whether what a tensor takes is told by its echo: others than our kernel hold it on the way. The
        #: shortest round trip, and when the last echo came.
        self._echoed, self._rtt_s, self._echo_s = echoed, 0.0, 0.0
        self._probing = asyncio.Lock()
        self._posted: set[asyncio.Task[None]] = set()
        self._outbox = Outbox(sock, self._write_failed)
        self._loop.add_reader(sock.fileno(), self._readable)

    @classmethod
    async def connect(
        cls,
        address: str,
        *,
        me: AgentId,
        peer: AgentId,
        pipeline: PipelineId,
        secret: bytes,
        shape: LinkShape | None = None,
        limits: Limits = Limits(),  # noqa: B008 — frozen
        on_lost: Callable[[Exception], None] | None = None,
        pacing: Pacing | None = None,
        tls: LinkTls | None = None,
        dial: Callable[[], Awaitable[socket.socket]] | None = None,
        dial_s: float = DIAL_S,
    ) -> Sender:
        """Connect to `address` (`host:port`) and prove who we are, within `limits.timeout_s`; whoever listens
        there answers within `dial_s`. With `dial` the connection comes from that, and `address` only says
        where it leads.

        Links with the same `pacing` share one emulated link; a link that has a `shape` and none gets its own.
        With `tls` the peer must show a certificate of its name.

        Raises `Unreachable` if nobody is there, or somebody else; `LinkBroken` if the peer refuses us,
        `RemoteProtocolError` if it cannot prove itself.
        """
        latency_s = shape.latency_s if shape is not None else 0.0
        nonce = secrets.token_bytes(NONCE_BYTES)
        introduction = Introduction(me, peer, pipeline, secret, nonce, latency_s)
        try:
            async with asyncio.timeout(limits.timeout_s):
                sock: socket.socket | TlsSocket
                sock = await (dial() if dial is not None else _dialled(address, peer, dial_s))
                if tls is not None:
                    assert isinstance(sock, socket.socket)
                    sock = await secured(sock, tls, peer)
                echoed = dial is not None and shape is None
                sender = cls(sock, introduction, address, shape, limits, on_lost, pacing, echoed=echoed)
                try:
                    await sender._open()
                except BaseException as error:
                    sender._fail(error if isinstance(error, D3Error) else LinkBroken("gave up connecting"))
                    raise
        except TimeoutError:
            raise LinkBroken(f"{peer} at {address}: no answer in {limits.timeout_s:g} s") from None
        except OSError as error:
            lost = Unreachable if dial is None else LinkBroken
            raise lost(f"{peer} at {address}: {error.strerror or error}") from error
        return sender

    async def _open(self) -> None:
        self._write(self._introduction.hello)
        await self._opened
        if self._echoed:
            self._rtt_s = min([await self._ping() for _ in range(QUICK_PINGS)])
        if self.shape is not None:  # the handshake is not part of the emulated link
            send_buffer_for(self._socket, self.shape)
            hello = self._introduction.hello
            own = self._pacing or Pacing(self.shape, f"{hello.sender}→{hello.receiver}")
            self._outbox.start_pacing(own)

    @property
    def closed(self) -> bool:
        """Lost, or closed by either side: it will not send again."""
        return self._leaving or self._down is not None

    @property
    def unsent_bytes(self) -> int:
        """Of what was let in by `send`; payloads are not copied, this is the callers' memory."""
        return self._outbox.unsent_bytes

    # ── sending ───────────────────────────────────────────────────────────────────────────────────

    async def send(self, tensor: TensorMessage) -> Transfer:
        """Wait for room, send, and return when the last byte has left (pacing included, latency not), or by
        way of others has arrived.

        Do not change the payload until the peer has it. A call that is cancelled while its tensor is
        on the way out does not call it back. Raises `LinkBroken`, `LinkClosed`, or `LocalProtocolError` if
        the tensor breaks a limit or disagrees with its shape.
        """
        self._check_up()
        await self._room.enter(memoryview(tensor.payload).nbytes)
        sent: asyncio.Future[Transfer] = self._loop.create_future()

        def settle(transfer: Transfer | D3Error) -> None:
            if sent.done():
                return
            if isinstance(transfer, D3Error):
                sent.set_exception(transfer)
            else:
                sent.set_result(transfer)

        self._put(tensor, settle)
        return await sent

    def post(self, tensor: TensorMessage, then: Callable[[Transfer | D3Error], None]) -> None:
        """As `send`, but have the event loop call `then` with what `send` returns or raises. Without a task
        where there is room."""
        if self._room.enter_now(memoryview(tensor.payload).nbytes):
            self._put(tensor, then)
        else:
            waiting = asyncio.create_task(self._send_then(tensor, then))
            self._posted.add(waiting)
            waiting.add_done_callback(self._posted.discard)

    async def _send_then(self, tensor: TensorMessage, then: Callable[[Transfer | D3Error], None]) -> None:
        try:
            sent: Transfer | D3Error = await self.send(tensor)
        except D3Error as error:
            sent = error
        then(sent)

    def _put(self, tensor: TensorMessage, then: Callable[[Transfer | D3Error], None]) -> None:
        """Send what is in the room; it leaves the room when its last byte has left."""
        nbytes = memoryview(tensor.payload).nbytes
        try:
            self._check_up()
            item = self._write(tensor)
        except D3Error as error:
            self._room.leave(nbytes)
            self._loop.call_soon(then, error)
            return

        echo = self._echo() if self._echoed else None

        def left() -> None:
            self._room.leave(nbytes)
            if isinstance(item.error, D3Error):
                then(item.error)
            elif echo is None:
                then(self._transfer(tensor, item, nbytes, item.taken_s))
            else:
                echo.add_done_callback(arrived)

        def arrived(echo: asyncio.Future[_Reply]) -> None:
            """Tensors follow each other: none has the way for itself before the one ahead of it arrived."""
            if echo.cancelled() or echo.exception() is not None:
                then(self._transfer(tensor, item, nbytes, item.taken_s))
                return
            begun_s, now_s = max(item.started_s, self._echo_s - self._rtt_s), time.monotonic()
            self._echo_s = now_s
            then(self._transfer(tensor, item, nbytes, max(item.taken_s, now_s - self._rtt_s - begun_s)))

        self._outbox.when_left(item, left)

    def _echo(self) -> asyncio.Future[_Reply]:
        """Done when what was sent before has arrived."""
        awaited = (Pong, self._next_number())
        echo = self._replies[awaited] = self._loop.create_future()

        def done(echo: asyncio.Future[_Reply]) -> None:
            del self._replies[awaited]
            if not echo.cancelled():
                echo.exception()  # that the link was lost is told to all who wait for more than this

        echo.add_done_callback(done)
        try:
            self._write(Ping(awaited[1]))
        except D3Error as error:
            echo.set_exception(error)
        return echo

    def _transfer(self, tensor: TensorMessage, item: Outgoing, nbytes: int, taken_s: float) -> Transfer:
        return Transfer(
            self.peer,
            tensor.frame,
            tensor.epoch,
            tensor.value,
            nbytes,
            taken_s,
            item.slot.target_bytes_per_s if item.slot is not None else None,
        )

    def reshape(self, shape: LinkShape) -> None:
        """Hold tensors to come to another emulated rate and latency; those on their way keep theirs.

        Raises `LocalProtocolError` on a link that was not shaped from the start, `ValueError` for a shape
        that no link can have.
        """
        if self.shape is None:
            raise LocalProtocolError(f"the link to {self.peer} is not shaped")
        self._outbox.reshape(shape)
        self.shape = shape

    async def probe(self, *, quick: bool = False) -> Probe:
        """Measure the link; takes up to about half a second, a tenth of it when `quick`, and wants it idle.
        Raises as `send`."""
        async with self._probing:
            rtt_s = min([await self._ping() for _ in range(QUICK_PINGS if quick else PINGS)])
            search = RateSearch(rtt_s, self._limits.payload_bytes, quick=quick)
            while (nbytes := search.next_bytes()) is not None:
                number = self._next_number()
                reply = await self._ask(ProbeData(number, b"\x5a" * nbytes), (Probed, number))
                search.measured(nbytes, reply.taken_s if isinstance(reply, Probed) else 0.0)
            return Probe(search.bytes_per_s, rtt_s / 2, rtt_s)

    async def piece(self, sha256: str, behind_bytes: int) -> bytes:
        """Some of a file of the peer's, behind its first so many bytes; empty where it has no more of it yet.
        Raises as `send`."""
        number = self._next_number()
        reply = await self._ask(Want(number, sha256, behind_bytes), (Piece, number))
        return bytes(reply.payload) if isinstance(reply, Piece) else b""

    async def _ping(self) -> float:
        number = self._next_number()
        asked_s = time.monotonic()
        await self._ask(Ping(number), (Pong, number))
        return time.monotonic() - asked_s

    async def close(self) -> None:
        """Say goodbye after what is on its way (for at most `timeout_s`) and close."""
        if self._down is None and not self._leaving:
            self._leaving, self._on_lost = True, None
            self._room.close(self._closed_here())
            self._write(Goodbye("closed by the sender"))
            try:
                async with asyncio.timeout(self._limits.timeout_s):
                    await self._outbox.drained()
            except TimeoutError:
                _log.info("link to %s closed with %d bytes unsent", self.peer, self.unsent_bytes)
            self._fail(self._closed_here())

    def abort(self, reason: str) -> None:
        """Close at once: what is on its way does not arrive, and whoever waits is told `LinkBroken`."""
        self._fail(LinkBroken(f"link to {self.peer} was closed: {reason}"))

    # ── inside ────────────────────────────────────────────────────────────────────────────────────

    def _next_number(self) -> int:
        self._asked += 1
        return self._asked

    async def _ask(self, message: Message, awaited: tuple[type, int]) -> _Reply:
        self._check_up()
        reply: asyncio.Future[_Reply] = self._loop.create_future()
        self._replies[awaited] = reply
        try:
            self._write(message)  # a failure reaches the reply
            return await reply
        finally:
            del self._replies[awaited]

    def _write(self, message: Message) -> Outgoing:
        self._wire.send(message)
        return self._outbox.put(*self._wire.data_to_send())

    def _closed_here(self) -> LinkClosed:
        return LinkClosed(f"link to {self.peer} was closed here")

    def _check_up(self) -> None:
        if self._down is not None:
            raise self._down
        if self._leaving:
            raise self._closed_here()

    def _readable(self) -> None:
        try:
            self._read()
            while isinstance(self._socket, TlsSocket) and self._down is None and self._socket.pending:
                self._read()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(LinkBroken(f"link to {self.peer} was lost: {error.strerror or error}"))
        except D3Error as error:
            self._fail(error)

    def _read(self) -> None:
        received = self._socket.recv_into(self._wire.get_buffer())
        if not received:
            self._ended()
        self._wire.buffer_updated(received)
        for event in self._wire.events_received():
            self._handle(event)

    def _ended(self) -> None:
        try:
            self._wire.receive_eof()
        except LinkBroken as error:
            raise LinkBroken(f"link to {self.peer} was lost: {error}") from None
        raise LinkBroken(f"link to {self.peer} was lost")

    def _handle(self, event: Event) -> None:
        match event:
            case Challenge():
                self._write(self._introduction.challenged(event))
            case Accepted():
                self._introduction.accepted(event)
                self._opened.set_result(None)
            case Refused():
                lost = Unreachable if is_of_another(event.reason, self.peer) else LinkBroken
                raise lost(f"{self.peer} at {self.address} refused: {event.reason}")
            case Pong():
                self._resolve((Pong, event.number), None)
            case Probed():
                self._resolve((Probed, event.number), event)
            case Piece():
                self._resolve((Piece, event.number), event)
            case Goodbye():
                raise LinkClosed(f"{self.peer} closed the link: {event.reason}")
            case _:  # the state table lets nothing else come this way
                raise WireViolation(Breach.ORDER, f"unexpected {type(event).__name__}")

    def _resolve(self, awaited: tuple[type, int], answer: _Reply) -> None:
        reply = self._replies.get(awaited)
        if reply is not None and not reply.done():
            reply.set_result(answer)

    def _write_failed(self, error: OSError) -> None:
        # What the peer said before it went tells more than our failed write, so read that first.
        if self._wire.state is not WireState.CLOSED:
            self._readable()
        self._fail(LinkBroken(f"link to {self.peer} was lost: {error.strerror or error}"))

    def _fail(self, error: D3Error) -> None:
        """The first error is the one that counts."""
        if self._down is not None:
            return
        self._down = error
        self._outbox.close(error)
        self._room.close(error)
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        if not self._opened.done():
            self._opened.set_exception(error)
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(error)
        if self._on_lost is not None and self._opened_well():
            self._on_lost(error)

    def _opened_well(self) -> bool:
        return self._opened.done() and not self._opened.cancelled() and self._opened.exception() is None


async def _dialled(address: str, peer: AgentId, within_s: float) -> socket.socket:
    try:
        async with asyncio.timeout(within_s):
            return await connected(address)
    except TimeoutError:
        raise Unreachable(f"{peer} at {address}: no answer in {within_s:g} s") from None
