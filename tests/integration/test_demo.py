"""The demo as a newcomer runs it: real processes, real TCP, a report, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from d3bed.model.images import shipped
from tests.integration.tools import all_gone, children_of, demo, fetch, free_port, running_agents, until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(480)]

#: Where it does not matter who computes what, two small agents do.
TWO = """
[[agents]]
name = "pi-1"
tier = "device"
speed = 0.4
[[agents]]
name = "edge-1"
tier = "edge"
speed = 0.4

[pipelines.main]
device = "pi-1"
edges = ["edge-1"]
strategy = "edge"
model = "alexnet"
input = "3x96x96"
"""


def two(folder: Path, port: int) -> tuple[str, ...]:
    """Arguments of a small demo without end."""
    (folder / "two.toml").write_text(TWO)
    return ("--headless", "--frames", "100000", "--config", "two.toml", "--port", str(port))


async def test_headless_demo_answers_every_frame_exactly_over_shaped_links(tmp_path: Path) -> None:
    report_path = tmp_path / "report.json"
    arguments = ("--headless", "--frames", "6", "--report", str(report_path), "--port", "0", "--fixed")
    async with demo(tmp_path, *arguments) as process:
        output, _ = await process.communicate()
    text = output.decode()
    assert process.returncode == 0, text
    report = json.loads(report_path.read_text())
    assert report["frames"] == {"sent": 6, "answered": 6, "lost": 0, "dropped": 0}
    assert report["exact"] == {"checked": 6, "identical": 6, "max_rel_err": 0.0}
    assert set(report["plan"].values()) == {"device", "edge", "cloud"}
    assert {a["tier"] for a in report["agents"]} == {"device", "edge", "cloud"}
    assert len({a["pid"] for a in report["agents"]}) == len(report["agents"]) == 4
    assert len({a["fingerprint"] for a in report["agents"]}) == 1
    carried = {(link["from"], link["to"]) for link in report["links"] if link["bytes"] > 100_000}
    assert {("pi-1", "edge-1"), ("pi-1", "edge-2")} & carried
    assert all(link["target_bytes_per_s"] for link in report["links"])
    assert all(report["compute_s"][tier] > 0 for tier in ("device", "edge", "cloud"))
    assert 0 < report["latency_s"]["median"] <= report["latency_s"]["p95"]
    assert report["latency_s"]["predicted"] > 0
    assert "bit-identical" in text


async def test_files_are_decoded_in_the_cloud_to_the_bits_of_the_device(tmp_path: Path) -> None:
    report_path = tmp_path / "report.json"
    arguments = ("--headless", "--frames", "4", "--report", str(report_path), "--port", "0", "--fixed")
    files = ("--model", "resnet18", "--encoded", "128", "--strategy", "cloud")
    async with demo(tmp_path, *arguments, *files) as process:
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    report = json.loads(report_path.read_text())
    assert report["exact"] == {"checked": 4, "identical": 4, "max_rel_err": 0.0}
    assert (report["plan"]["input"], report["plan"]["decode"]) == ("device", "cloud")
    sent = sum(link["bytes"] for link in report["links"] if link["from"] == "pi-1")
    assert sent == sum(path.stat().st_size for path in shipped(jpeg=True))


async def test_strategy_switch_while_frames_flow_loses_and_mixes_nothing(tmp_path: Path) -> None:
    port, report_path = free_port(), tmp_path / "report.json"
    arguments = ("--headless", "--frames", "60", "--report", str(report_path), "--port", str(port), "--fixed")
    async with demo(tmp_path, *arguments) as process:
        await until(lambda: running_agents(port), "the first frame")
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            for strategy in ("device", "cloud", "edge"):
                url = "/api/pipelines/main/strategy"
                async with session.post(url, json={"strategy": strategy}) as answer:
                    assert answer.status == 202, await answer.text()

                async def switched(wanted: str = strategy) -> bool:
                    state = await fetch(port, "/api/state")
                    active = [e for e in state["epochs"] if e["state"] == "active"]
                    return [e["strategy"] for e in active] == [wanted]

                await until(switched, f"an active epoch of strategy {strategy}")
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    report = json.loads(report_path.read_text())
    assert report["frames"] == {"sent": 60, "answered": 60, "lost": 0, "dropped": 0}
    assert report["exact"]["checked"] == report["exact"]["identical"] == 60
    assert [e["strategy"] for e in report["epochs"]] == ["optimal", "device", "cloud", "edge"]
    numbers = [e["epoch"] for e in report["epochs"]]
    assert numbers == sorted(set(numbers))


async def test_links_that_fall_while_frames_flow_move_the_plan_and_the_reason_is_said(tmp_path: Path) -> None:
    port = free_port()
    async with demo(tmp_path, "--headless", "--frames", "100000", "--port", str(port)) as process:
        await until(lambda: running_agents(port), "the first frame")
        before = (await fetch(port, "/api/pipelines/main"))["plan"].count("device")
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            for edge in ("edge-1", "edge-2"):
                body = {"from": "pi-1", "to": edge, "mbit_per_s": 1, "latency_ms": 2}
                async with session.post("/api/links", json=body) as answer:
                    assert answer.status == 202, await answer.text()

        async def said() -> bool:
            causes = [d["cause"] for d in await fetch(port, "/api/decisions")]
            return any(re.search(r"pi-1→edge-\d fell", cause) for cause in causes)

        async def followed() -> dict[str, Any] | None:
            pipeline: dict[str, Any] = await fetch(port, "/api/pipelines/main")
            return pipeline if pipeline["plan"].count("device") > before else None

        await until(said, "a decision for the links")
        found = await until(followed, "a plan that keeps more on the device")
        children = await children_of(process)
        assert len(children) == 5
        process.send_signal(signal.SIGINT)
        await process.communicate()
    assert await all_gone(children), "Ctrl-C leaves no process"
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "and no open port"
    assert found["frames"]["lost"] == 0
    assert found["exact"]["checked"] == found["exact"]["identical"] > 1


@pytest.mark.parametrize("victim", ["edge", "server"])
async def test_a_killed_child_ends_the_demo_with_a_clear_error(tmp_path: Path, victim: str) -> None:
    port = free_port()
    async with demo(tmp_path, *two(tmp_path, port)) as process:
        agents = await until(lambda: running_agents(port), "the first frame")
        children = await children_of(process)
        pids = {a["pid"] for a in agents if a["tier"] == victim}
        if victim == "server":
            pids = {c.pid for c in children} - {a["pid"] for a in agents}
        os.kill(min(pids), signal.SIGKILL)
        output, _ = await process.communicate()
    assert process.returncode == 1
    assert "was killed by SIGKILL" in output.decode()
    assert await all_gone(children)


async def test_without_options_the_tour_is_played_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    port = free_port()
    async with demo(tmp_path, "--port", str(port)) as process:
        said = asyncio.create_task(process.communicate())
        await until(lambda: running_agents(port), "frames of the tour")
        changed = await until(lambda: fetch(port, "/api/conditions"), "the tour's first change")
        assert {condition["by"] for condition in changed} == {"the scenario"}
        children = await children_of(process)
        process.send_signal(signal.SIGINT)
        output, _ = await said
        assert process.returncode == 0
        assert "Wi-Fi fades" in output.decode() and "ended:" not in output.decode()
        await until(lambda: all_gone(children), "the children to end")


async def test_when_the_demo_itself_is_killed_its_children_end(tmp_path: Path) -> None:
    port = free_port()
    async with demo(tmp_path, *two(tmp_path, port)) as process:
        await until(lambda: running_agents(port), "the first frame")
        children = await children_of(process)
        process.kill()
        await process.communicate()
        await until(lambda: all_gone(children), "the children to end")
