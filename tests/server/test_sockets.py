"""Control connections whose other end does not read."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from d3bed.server import sockets
from d3bed.server.sockets import AgentSocket

_HANDSHAKE = (
    "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def test_who_reads_nothing_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_CLOSE_S", 0.05)
    over = asyncio.Event()

    async def handle(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        connection = AgentSocket(socket, request.transport)
        sender = asyncio.create_task(connection.pump())
        try:
            for _ in range(50):
                connection.send("x" * 2**20)
            while not (request.transport and request.transport.get_write_buffer_size()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            connection.close(4008, "silent")
            async for _ in socket:
                pass
        finally:
            over.set()
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
        return socket

    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
    try:
        writer.write(_HANDSHAKE.encode())
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        async with asyncio.timeout(60):
            await over.wait()
    finally:
        writer.close()
        await runner.cleanup()
