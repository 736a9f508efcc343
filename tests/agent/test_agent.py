"""What an agent tells others about itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from d3bed.agent import agent as agent_module
from d3bed.agent.agent import Agent, reachable
from d3bed.agent.settings import AgentSettings
from d3bed.core.errors import ConfigError
from d3bed.core.ids import AgentId, CauseId, Tier
from d3bed.core.messages import Confirm, Confirmed, SetLoad, SetSpeed


def test_an_address_of_its_own_is_told_as_it_is() -> None:
    assert reachable("192.0.2.7:4750", "http://127.0.0.1:8333") == "192.0.2.7:4750"


def test_a_listener_on_every_address_tells_the_one_that_faces_the_server() -> None:
    assert reachable("0.0.0.0:4750", "http://127.0.0.1:8333") == "127.0.0.1:4750"


def test_without_a_way_to_the_server_the_address_stays() -> None:
    assert reachable("0.0.0.0:4750", "http://[::1]:8333") == "0.0.0.0:4750"


@pytest.mark.sockets
async def test_a_data_port_in_use_is_named_with_its_remedy(tmp_path: Path) -> None:
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    settings = AgentSettings(
        AgentId("a"), Tier.EDGE, "http://127.0.0.1:1", listen_port=port, cache_dir=tmp_path
    )
    with pytest.raises(ConfigError, match=f"{port}.*choose another port"):
        await Agent(settings).run()
    taken.close()
    await taken.wait_closed()


@pytest.mark.sockets
@pytest.mark.processes
async def test_a_load_does_not_outlive_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "SERVER_GONE_S", 1.0)
    settings = AgentSettings(AgentId("a"), Tier.EDGE, "http://127.0.0.1:1", speed=0.5, cache_dir=tmp_path)
    agent = Agent(settings)
    running = asyncio.create_task(agent.run())
    try:
        await agent._handle(SetSpeed(0.1))
        await agent._handle(SetLoad(1))
        (pid,) = agent._load_on_board.pids
        assert psutil.pid_exists(pid) and agent._executor.speed == 0.1
        async with asyncio.timeout(60):
            while psutil.pid_exists(pid):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
        assert agent._load_on_board.pids == [] and agent._executor.speed == 0.5
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_it_confirms_what_it_did_and_tells_what_it_could_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Agent(AgentSettings(AgentId("a"), Tier.EDGE, "http://127.0.0.1:1", speed=0.5, cache_dir=tmp_path))

    def refuse(count: int) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(agent._load_on_board, "carry", refuse)
    await agent._handle(SetLoad(2))
    await agent._handle(SetSpeed(0.25))
    await agent._handle(Confirm(CauseId("1-1")))
    assert agent._executor.speed == 0.25  # what follows is done all the same
    await agent._handle(Confirm(CauseId("1-2")))
    said = [message for message in agent._reporter.drain() if isinstance(message, Confirmed)]
    assert said == [
        Confirmed(CauseId("1-1"), "SetLoad: no more processes"),
        Confirmed(CauseId("1-2")),
    ]
