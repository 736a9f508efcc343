"""The doctor at a running server, with boards that answer as true ones would."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import websockets

from d3bed.core.checks import LinkCheck
from d3bed.core.ids import AgentId
from d3bed.core.messages import CheckLinks, LinksChecked, Peer, decode_to_agent, encode
from d3bed.server import ServerSettings, doctor
from tests.server.conftest import Script
from tests.server.lab import ALL, Lab, StartLab

pytestmark = pytest.mark.sockets

Answer = Callable[[CheckLinks], LinksChecked | None]


def well(order: CheckLinks) -> LinksChecked:
    return LinksChecked(order.number, tuple(map(reached, order.peers)), (time.time(), time.time()))


def reached(peer: Peer) -> LinkCheck:
    return LinkCheck(
        peer.agent, peer.address, local="127.0.0.1", interface="lo", interface_mtu_bytes=65536,
        path_mtu_bytes=65535, connect_s=0.001, rtt_s=0.002, bytes_per_s=1e7,
    )  # fmt: skip


class Boards:
    """Scripted agents that also answer the doctor; `answer` tells how, by agent."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._tasks: list[asyncio.Task[None]] = []
        self.answer: dict[AgentId, Answer] = {}

    async def join(self, *agents: AgentId) -> None:
        self._tasks += [asyncio.create_task(self._be(Script(agent))) for agent in agents]
        await self._lab.until(lambda found: len(found) == len(self._tasks), "api/agents")

    async def _be(self, script: Script) -> None:
        async with websockets.connect(self._lab.ws("ws/agent")) as connection:
            await connection.send(encode(script.register))
            async for text in connection:
                message = decode_to_agent(text)
                if isinstance(message, CheckLinks):
                    told = self.answer.get(script.agent, well)(message)
                    if told is not None:
                        await connection.send(encode(told))
                for answer in script.answers(message):
                    await connection.send(encode(answer))

    async def lose_last(self) -> None:
        self._tasks[-1].cancel()
        await self._lab.until(lambda found: any(a["state"] == "lost" for a in found), "api/agents")

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def boards(
    start_lab: StartLab, make_settings: Callable[..., ServerSettings], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Boards]:
    monkeypatch.setattr("d3bed.server.coordinator.SILENCE_S", 60.0)
    made = Boards(await start_lab(make_settings()))
    yield made
    await made.close()


async def examined(boards: Boards) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What is wrong, and the whole answer."""
    found = await boards._lab.post("api/doctor", {})
    assert await boards._lab.get("api/doctor") == found
    return [finding for finding in found["findings"] if finding["level"] != "ok"], found


async def test_a_healthy_testbed_is_examined_both_ways(boards: Boards) -> None:
    assert await boards._lab.get("api/doctor") is None
    await boards.join(*ALL)
    await boards._lab.running()
    wrong, found = await examined(boards)
    assert wrong == []
    links = {finding["subject"] for finding in found["findings"] if finding["about"] == "link"}
    assert {"pi-1→edge-1", "edge-1→pi-1", "edge-1→vm-1", "vm-1→edge-1", "edge-1→edge-2"} <= links


async def test_a_clock_an_hour_off_a_refused_link_and_a_missing_board_are_named(boards: Boards) -> None:
    def an_hour_ahead(order: CheckLinks) -> LinksChecked:
        return LinksChecked(order.number, (), (time.time() + 3600, time.time() + 3600))

    def refused(order: CheckLinks) -> LinksChecked:
        checks = (LinkCheck(order.peers[0].agent, order.peers[0].address, "refused", "refused"),)
        made_up = (LinkCheck(AgentId("made-up"), "192.0.2.1:1", "silent"),)
        return LinksChecked(order.number, checks + made_up, (time.time(), time.time()))

    boards.answer = {ALL[0]: an_hour_ahead, ALL[1]: refused}
    await boards.join(*ALL)
    await boards._lab.running()
    await boards.lose_last()
    wrong, _ = await examined(boards)
    told = {(finding["subject"], finding["about"]): finding for finding in wrong}
    assert set(told) == {("pi-1", "clock"), ("edge-1→pi-1", "refused"), ("vm-1", "connection")}
    assert "60 min ahead" in told["pi-1", "clock"]["text"]
    assert "d3bed agents invite vm-1" in told["vm-1", "connection"]["remedy"]


async def test_a_board_that_does_not_answer_is_a_finding(
    boards: Boards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "AGENT_S", 0.2)
    monkeypatch.setattr(doctor, "LINK_S", 0.0)
    boards.answer = {
        ALL[1]: lambda order: LinksChecked(order.number + 7, (), (0.0, 0.0)),
        ALL[2]: lambda _: None,
    }
    await boards.join(*ALL)
    await boards._lab.running()
    wrong, _ = await examined(boards)
    assert {(finding["subject"], finding["about"]) for finding in wrong} == {
        ("edge-1", "links"),
        ("edge-2", "links"),
    }
