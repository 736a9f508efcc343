"""A running server for tests: real HTTP, real WebSockets, scripted agents over the true protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from d3bed.core.ids import AgentId
from d3bed.core.messages import Heartbeat, decode_to_agent, encode
from d3bed.server import ServerSettings, serve

if TYPE_CHECKING:
    from tests.server.conftest import Script

DEVICE, EDGE_1, EDGE_2, CLOUD = AgentId("pi-1"), AgentId("edge-1"), AgentId("edge-2"), AgentId("vm-1")
ALL = (DEVICE, EDGE_1, EDGE_2, CLOUD)

MakeSettings = Callable[..., ServerSettings]
MakeScript = Callable[..., "Script"]


class Lab:
    """A running server, and clients of it that end with the test."""

    def __init__(self, address: str, http: aiohttp.ClientSession, make_script: MakeScript) -> None:
        self.address = address
        self.http = http
        self.task: asyncio.Task[None] | None = None
        self._make_script = make_script
        self._agents: list[asyncio.Task[None]] = []

    def ws(self, path: str) -> str:
        return self.address.replace("http", "ws", 1) + path

    async def get(self, path: str, status: int = 200, **options: Any) -> Any:
        async with self.http.get(self.address + path, **options) as answer:
            assert answer.status == status, await answer.text()
            assert answer.content_type == "application/json"
            return await answer.json()

    async def post(self, path: str, body: Any = None, status: int = 202, **options: Any) -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body if body is not None else {})
        async with self.http.post(self.address + path, data=data, **options) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json()

    async def join(self, *agents: AgentId, token: str | None = None, layers: int = 3) -> list[Script]:
        scripts = [self._make_script(agent, layers=layers) for agent in agents]
        for script in scripts:
            self._agents.append(asyncio.create_task(self._be(script, token)))
        return scripts

    async def leave(self, agent: AgentId) -> None:
        """The agent that joined as number so and so of `ALL` closes its connection."""
        task = self._agents[ALL.index(agent)]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(60):
            while True:
                states = {a["agent"]: a["state"] for a in await self.get("api/agents")}
                if states[agent] == "lost":
                    return
                await asyncio.sleep(0.02)

    async def _be(self, script: Script, token: str | None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with websockets.connect(self.ws("ws/agent"), additional_headers=headers) as connection:
            await connection.send(encode(script.register))
            beating = asyncio.create_task(_beat(connection, script))
            try:
                async for text in connection:
                    for answer in script.answers(decode_to_agent(text)):
                        await connection.send(encode(answer))
            finally:
                beating.cancel()

    async def until(self, condition: Callable[[Any], bool], path: str = "api/pipelines/demo") -> Any:
        """Ask until the answer fits."""
        async with asyncio.timeout(60):
            while not condition(found := await self.get(path)):  # noqa: ASYNC110 — over HTTP nothing wakes us
                await asyncio.sleep(0.02)
        return found

    async def running(self) -> Any:
        return await self.until(lambda pipeline: pipeline["phase"] == "running")

    async def close(self) -> None:
        for task in (*self._agents, *([self.task] if self.task else [])):
            task.cancel()
        await asyncio.gather(*self._agents, return_exceptions=True)
        if self.task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self.task


async def _beat(connection: ClientConnection, script: Script) -> None:
    with contextlib.suppress(websockets.ConnectionClosed):
        while True:
            await connection.send(encode(Heartbeat(rss_bytes=1000)))
            while script.to_say:
                await connection.send(encode(script.to_say.pop(0)))
            await asyncio.sleep(0.1)


StartLab = Callable[[ServerSettings], Awaitable[Lab]]


@pytest.fixture
async def start_lab(make_script: MakeScript) -> AsyncIterator[StartLab]:
    labs: list[Lab] = []
    async with aiohttp.ClientSession() as http:

        async def start(settings: ServerSettings) -> Lab:
            address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            task = asyncio.create_task(serve(settings, ready=address.set_result))
            task.add_done_callback(lambda _: address.cancel())
            try:
                lab = Lab(await address, http, make_script)
            except asyncio.CancelledError:
                task.result()
                raise
            lab.task = task
            labs.append(lab)
            return lab

        try:
            yield start
        finally:
            for lab in labs:
                await lab.close()


@pytest.fixture
async def lab(start_lab: StartLab, make_settings: MakeSettings) -> Lab:
    return await start_lab(make_settings())
