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


async def test_three_edge_boxes_share_layers_exactly_and_one_that_stops_costs_no_frame(
    tmp_path: Path,
) -> None:
    port, path = free_port(), tmp_path / "report.json"
    arguments = ("--headless", "--edges", "3", "--strategy", "edge", "--frames", "60", "--port", str(port))
    async with demo(tmp_path, *arguments, "--report", str(path)) as process:
        agents = await until(lambda: running_agents(port), "the first frame")
        view = (await fetch(port, "/api/pipelines"))[0]
        owner = view["route"]["edge"]
        helpers = {agent for tile in view["tiles"] for agent in tile["agents"]} - {owner}
        assert helpers

        async def shared() -> dict[str, Any] | None:
            """What is said of the tiles once all have been timed."""
            report: dict[str, Any] = await fetch(port, f"/api/runs/{view['run']}/report")
            tiles = report["tiles"]
            return report if tiles and all(tile["measured_s"] for tile in tiles) else None

        report = await until(shared, "times of the tiles")
        assert report["exact"]["checked"] == report["exact"]["identical"] > 0
        assert tiled(report) and all(tile["identical"] for tile in report["tiles"])
        assert all(tile["measured_s"] > 0 and tile["predicted_s"] > 0 for tile in report["tiles"])
        carried = {(link["from"], link["to"]) for link in report["links"] if link["bytes"]}
        assert any({(owner, helper), (helper, owner)} <= carried for helper in helpers)

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
