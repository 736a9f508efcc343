"""The two WebSockets: agents' control connections, and the feed."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from aiohttp import WSCloseCode, WSMsgType, web

from d3bed.core.errors import RemoteProtocolError
from d3bed.core.messages import (
    MAX_CONTROL_BYTES,
    CredentialKept,
    LinksChecked,
    Register,
    decode_from_agent,
)
from d3bed.core.protocol import PROTOCOL, mismatch, spoken
from d3bed.core.together import decode_all
from d3bed.net.sockets import notice_silence
from d3bed.server.coordinator import REFUSED
from d3bed.server.credentials import Denied
from d3bed.server.doctor import Doctor
from d3bed.server.door import CALLER, Caller
from d3bed.server.events import AgentJoined, AgentLost, AgentSaid
from d3bed.server.runner import Runner
from d3bed.server.trust import Trust

__all__ = ["AgentSocket", "Sockets"]

logger = logging.getLogger(__name__)

#: A connection that has not registered by then is closed.
REGISTER_S = 5.0
#: An agent whose board acknowledges nothing for this long is gone, though it may be too busy to speak itself.
UNACKNOWLEDGED_S = 2
#: Orders that wait for an agent to read them; one that lets more pile up is closed.
QUEUED_ORDERS = 1024
MAX_NAME = 64
_CLOSE_S = 2.0
_PING_S = 20.0


class AgentSocket:
    """Sends in order, from a bounded queue, so that the coordinator never waits. Who reads nothing does not
    take leave either: then its connection is broken off."""

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport | None) -> None:
        self._socket, self._transport = socket, transport
        self._queue: asyncio.Queue[str] = asyncio.Queue(QUEUED_ORDERS)
        self._closing: tuple[int, str] | None = None

    def send(self, text: str) -> None:
        if self._closing is not None:
            return
        try:
            self._queue.put_nowait(text)
        except asyncio.QueueFull:
            self.close(WSCloseCode.TRY_AGAIN_LATER, "does not read its orders")

    def close(self, code: int, reason: str) -> None:
        """Close instead of sending what is still queued."""
        if self._closing is None:
            self._closing = (code, reason)
            while not self._queue.empty():
                self._queue.get_nowait()
            self._queue.put_nowait("")
            if self._transport is not None:
                asyncio.get_running_loop().call_later(2 * _CLOSE_S, self._transport.abort)

    async def pump(self) -> None:
        while True:
            text = await self._queue.get()
            if self._closing is not None:
                code, reason = self._closing
                await self._socket.close(code=code, message=reason.encode()[:123])
                return
            await self._socket.send_str(text)


class Sockets:
    """Handlers for `/ws/agent` and `/ws/events`; `close` says goodbye to all."""

    def __init__(self, runner: Runner, trust: Trust, doctor: Doctor) -> None:
        self._runner, self._trust, self._doctor = runner, trust, doctor
        self._open: set[web.WebSocketResponse] = set()

    async def close(self) -> None:
        """Close every socket with 1001, so that clients come back instead of waiting."""
        goodbyes = (s.close(code=WSCloseCode.GOING_AWAY, message=b"the server stops") for s in self._open)
        await asyncio.gather(*goodbyes, return_exceptions=True)

    # ── agents ────────────────────────────────────────────────────────────────────────────────────

    async def agent(self, request: web.Request) -> web.WebSocketResponse:
        caller = request[CALLER]
        socket = web.WebSocketResponse(timeout=_CLOSE_S, max_msg_size=MAX_CONTROL_BYTES)
        await socket.prepare(request)
        if request.transport is not None:
            notice_silence(request.transport.get_extra_info("socket"), UNACKNOWLEDGED_S)
        self._open.add(socket)
        try:
            async with asyncio.timeout(REGISTER_S):
                register = await self._receive_register(socket, caller)
            await self._trust.admit(caller, register)
            await self._converse(socket, request.transport, register, caller)
        except TimeoutError:
            await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"did not register in time")
        except Denied as denied:
            await socket.close(code=REFUSED, message=denied.text.encode()[:123])
        except RemoteProtocolError as error:
            logger.warning("control connection from %s: %s", request.remote, error.reason)
            await socket.close(code=WSCloseCode.PROTOCOL_ERROR, message=error.reason.encode()[:123])
        finally:
            self._open.discard(socket)
        return socket

    async def _receive_register(self, socket: web.WebSocketResponse, caller: Caller) -> Register:
        message = await socket.receive()
        if message.type is not WSMsgType.TEXT:
            raise RemoteProtocolError("the first message must be Register, as text")
        if text := mismatch(spoken(message.data), PROTOCOL):
            raise self._trust.refusal(caller, 400, text)
        register = decode_from_agent(message.data)
        if not isinstance(register, Register):
            raise RemoteProtocolError(f"the first message must be Register, not {type(register).__name__}")
        if not (0 < len(register.agent) <= MAX_NAME and register.agent.isprintable()):
            raise RemoteProtocolError(f"an agent's name has 1 to {MAX_NAME} printable characters")
        return register

    async def _converse(
        self,
        socket: web.WebSocketResponse,
        transport: asyncio.Transport | None,
        register: Register,
        caller: Caller,
    ) -> None:
        connection = AgentSocket(socket, transport)
        number = self._runner.add_connection(connection)
        sender = asyncio.create_task(connection.pump())
        reason = "its connection closed"
        try:
            self._runner.submit(AgentJoined(number, register))
            async for message in socket:
                if message.type is WSMsgType.ERROR:
                    break
                if message.type is not WSMsgType.TEXT:
                    raise RemoteProtocolError("control messages are text")
                size = len(message.data)
                for said in decode_all(message.data):
                    if isinstance(said, Register):
                        raise RemoteProtocolError("registered already")
                    if isinstance(said, CredentialKept):
                        await self._trust.credential_kept(caller, said)
                        continue
                    if isinstance(said, LinksChecked):
                        self._doctor.checked(register.agent, said)
                    self._runner.submit(AgentSaid(number, said, size))
                    size = 0
        except RemoteProtocolError as error:
            reason = error.reason
            raise
        finally:
            self._runner.submit(AgentLost(number, reason))
            self._runner.drop_connection(number)
            sender.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await sender

    # ── the feed ──────────────────────────────────────────────────────────────────────────────────

    async def events(self, request: web.Request) -> web.WebSocketResponse:
        try:
            after = int(request.query["after"]) if "after" in request.query else None
        except ValueError:
            raise web.HTTPBadRequest(text="after: not a number") from None
        socket = web.WebSocketResponse(timeout=_CLOSE_S, heartbeat=_PING_S, max_msg_size=4096, compress=False)
        await socket.prepare(request)
        self._open.add(socket)
        subscription = self._runner.feed.subscribe(after)

        async def pump() -> None:
            while True:
                await socket.send_str(await subscription.next())

        sender = asyncio.create_task(pump())
        try:
            async for _ in socket:  # nothing is expected; this notices the end
                continue
        finally:
            subscription.close()
            sender.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await sender
            self._open.discard(socket)
        return socket
