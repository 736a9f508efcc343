"""Load, links and crashes on real processes: they take hold, end by themselves, and harm no frame."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from d3bed.config import read_config
from d3bed.lab import client
from d3bed.lab.testbed import Testbed, open_testbed, start_agent

pytestmark = [pytest.mark.processes, pytest.mark.timeout(480)]

CONFIG = """
[[agents]]
name = "pi-1"
tier = "device"

[[agents]]
name = "edge-1"
tier = "edge"
speed = 0.4

[pipelines.main]
device = "pi-1"
edges = ["edge-1"]
strategy = "edge"
network = "wifi"
"""


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.05)


async def agent(bed: Testbed, name: str) -> dict[str, Any]:
    return next(a for a in await client.get(bed.base, "/api/agents") if a["agent"] == name)


async def target(bed: Testbed) -> float:
    links = await client.get(bed.base, "/api/links")
    return float(next(x["target_bytes_per_s"] for x in links if (x["from"], x["to"]) == ("pi-1", "edge-1")))


async def test_load_and_links_take_hold_and_end_by_themselves_and_a_crash_costs_no_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "two.toml"
    path.write_text(CONFIG)
    config = read_config(path)
    async with open_testbed(config, ["--port", "0", "--fixed"]) as bed:
        board = psutil.Process((await agent(bed, "pi-1"))["pid"])

        async def is_loaded() -> bool:
            return (await agent(bed, "edge-1"))["speed"] == 0.1 and len(board.children()) == 2

        async def is_slow() -> bool:
            return await target(bed) == 2e6 / 8

        async def is_as_configured() -> bool:
            ended = await client.get(bed.base, "/api/conditions") == []
            free = (await agent(bed, "edge-1"))["speed"] == 0.4 and board.children() == []
            return ended and free and await target(bed) == 80e6 / 8

        await client.post(bed.base, "/api/pipelines/main/start", {})
        await client.post(bed.base, "/api/agents/pi-1/load", {"processes": 2, "for_s": 6})
        await client.post(bed.base, "/api/agents/edge-1/load", {"processes": 3, "for_s": 6})
        change = {"from": "pi-1", "to": "edge-1", "mbit_per_s": 2, "loss_percent": 1, "for_s": 6}
        await client.post(bed.base, "/api/links", change)
        assert len(await client.get(bed.base, "/api/conditions")) == 3
        await until(is_loaded)
        await until(is_slow)
        await until(is_as_configured)

        await client.post(bed.base, "/api/agents/edge-1/kill", {})

        async def is_lost() -> bool:
            return bool((await agent(bed, "edge-1"))["state"] == "lost")

        async def is_back() -> bool:
            return not await is_lost()

        await until(is_lost)
        await start_agent(config, "edge-1", bed.base, bed.children)
        await until(is_back)
        await client.post(bed.base, "/api/pipelines/main/stop", {})

        async def is_idle() -> bool:
            return bool((await client.get(bed.base, "/api/pipelines/main"))["phase"] == "idle")

        await until(is_idle)
        (run,) = await client.get(bed.base, "/api/runs")
        report = await client.get(bed.base, f"/api/runs/{run['id']}/report")
        assert report["frames"]["lost"] == 0 and report["frames"]["answered"] > 0
        assert report["exact"]["checked"] == report["exact"]["identical"] == report["frames"]["answered"]
