"""Tiles on several edge processes: exact, and a helper that stops costs no frame."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.tools import demo, fetch, free_port, running_agents, until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(480)]


def tiled(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [tile for tile in report["tiles"] if len(set(tile["agents"])) > 1]


async def test_three_edge_boxes_share_layers_exactly(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    arguments = (
        "--headless",
        "--edges",
        "3",
        "--strategy",
        "edge",
        "--frames",
        "6",
        "--port",
        "0",
        "--fixed",
    )
    async with demo(tmp_path, *arguments, "--report", str(path)) as process:
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    report = json.loads(path.read_text())
    assert report["exact"] == {"checked": 6, "identical": 6, "max_rel_err": 0.0}
    assert tiled(report) and all(tile["identical"] for tile in report["tiles"])
    between = {(a["from"], a["to"]) for a in report["links"] if a["bytes"] and "edge" in a["from"] + a["to"]}
    assert {("edge-1", "edge-2"), ("edge-2", "edge-1")} <= between
    assert all(tile["measured_s"] > 0 and tile["predicted_s"] > 0 for tile in report["tiles"])


async def test_a_helper_that_stops_and_comes_back_costs_no_frame(tmp_path: Path) -> None:
    port, path = free_port(), tmp_path / "report.json"
    arguments = ("--headless", "--edges", "3", "--strategy", "edge", "--frames", "60", "--port", str(port))
    async with demo(tmp_path, *arguments, "--report", str(path)) as process:
        agents = await until(lambda: running_agents(port), "the first frame")
        view = (await fetch(port, "/api/pipelines"))[0]
        owner = view["route"]["edge"]
        helpers = {agent for tile in view["tiles"] for agent in tile["agents"]} - {owner}
        assert helpers
        victim = psutil.Process(next(a["pid"] for a in agents if a["agent"] in helpers))
        name = next(a["agent"] for a in agents if a["pid"] == victim.pid)
        victim.send_signal(signal.SIGSTOP)

        async def done_without() -> bool:
            state = await fetch(port, "/api/state")
            active = [p for p in state["pipelines"] if p["epoch"] != view["epoch"]]
            return bool(active) and name not in {a for t in active[0]["tiles"] for a in t["agents"]}

        await until(done_without, f"a plan without {name}")
        victim.send_signal(signal.SIGCONT)
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    report = json.loads(path.read_text())
    assert report["frames"] == {"sent": 60, "answered": 60, "lost": 0, "dropped": 0}
    assert report["exact"]["identical"] == report["exact"]["checked"] == 60
    assert len(report["epochs"]) >= 2
