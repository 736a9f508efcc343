"""Busy processes: as many as asked for, gone when told, and gone with their agent."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import psutil
import pytest

from d3bed.agent.load import BusyProcesses

pytestmark = pytest.mark.processes

AGENT = """
from d3bed.agent.load import BusyProcesses
load = BusyProcesses()
load.carry(1)
print(*load.pids, flush=True)
input()
"""


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while True:
            if condition():
                return
            await asyncio.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


async def test_there_are_as_many_as_asked_for_last_and_they_are_busy() -> None:
    load = BusyProcesses()
    load.carry(2)
    first, second = load.pids
    try:
        await until(lambda: all(psutil.Process(pid).cpu_times().user > 0.05 for pid in (first, second)))
        load.carry(1)
        assert is_gone(second) and not is_gone(first)
        assert load.pids == [first]
    finally:
        load.carry(0)
    assert is_gone(first) and load.pids == []


async def test_they_end_with_an_agent_that_was_killed() -> None:
    pipe = asyncio.subprocess.PIPE
    agent = await asyncio.create_subprocess_exec(sys.executable, "-c", AGENT, stdin=pipe, stdout=pipe)
    try:
        assert agent.stdout is not None
        pid = int(await agent.stdout.readline())
        assert not is_gone(pid)
    finally:
        agent.kill()
        await agent.communicate()
    await until(lambda: is_gone(pid))
    assert is_gone(pid)
