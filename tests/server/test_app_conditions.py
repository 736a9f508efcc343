"""Conditions that people change, over the JSON API of a running server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import websockets

from d3bed.core.messages import Crash, SetLoad, SetSpeed, ShapeLink, Stop
from tests.server.lab import ALL, EDGE_2, Lab

pytestmark = pytest.mark.sockets


async def test_emulated_links_and_speeds_can_be_changed(lab: Lab) -> None:
    scripts = await lab.join(*ALL)
    await lab.running()
    body = {"from": "pi-1", "to": "edge-1", "mbit_per_s": 5, "latency_ms": 20}
    assert "5 Mbit/s" in (await lab.post("api/links", body))["message"]
    assert "speed 0.25" in (await lab.post("api/agents/edge-1/speed", {"speed": 0.25}))["message"]
    load = {"processes": 2, "for_s": 60, "by": "ann"}
    assert "2 busy processes" in (await lab.post("api/agents/vm-1/load", load))["message"]
    await lab.until(lambda _: scripts[0].count(ShapeLink) == 1 and scripts[1].count(SetSpeed) == 1)
    assert SetLoad(2) in scripts[3].heard
    agents = await lab.get("api/agents")
    assert {a["agent"]: a["speed"] for a in agents}["edge-1"] == 0.25
    shown = {c["subject"]: c for c in await lab.get("api/conditions")}
    assert shown == {c["subject"]: c for c in (await lab.get("api/state"))["conditions"]}
    assert shown["pi-1→edge-1"]["values"] == {"bytes_per_s": 625_000, "latency_s": 0.02}
    vm = shown["vm-1"]
    assert (vm["by"], vm["until_s"] - vm["since_s"], vm["emulated"]) == ("ann", 60, False)
    ends = {"from": "pi-1", "to": "edge-1"}
    assert "over, undone by api" in (await lab.post("api/links/reset", ends))["message"]
    assert "nothing" in (await lab.post("api/links/reset", ends))["message"]
    await lab.post("api/agents/edge-1/speed", {"speed": None})
    await lab.post("api/agents/vm-1/load", {"processes": 0})
    assert await lab.get("api/conditions") == []


async def test_of_two_people_who_change_the_same_link_the_last_one_wins_and_both_are_told(lab: Lab) -> None:
    scripts = await lab.join(*ALL)
    await lab.running()
    ends = {"from": "pi-1", "to": "edge-1"}

    async def told(page: websockets.ClientConnection) -> list[str]:
        """What a page is told from now on, until it hears that bob has replaced what ann did."""
        texts: list[str] = []
        while not texts or "in place of" not in texts[-1]:
            events = json.loads(await page.recv())["events"]
            texts += [event["data"]["text"] for event in events if event["kind"] == "note"]
        return [text for text in texts if "pi-1→edge-1" in text]

    async with (
        websockets.connect(lab.ws("ws/events")) as anns,
        websockets.connect(lab.ws("ws/events")) as bobs,
    ):
        assert json.loads(await anns.recv())["type"] == json.loads(await bobs.recv())["type"] == "snapshot"
        first, second = await asyncio.gather(
            lab.post("api/links", {**ends, "mbit_per_s": 8, "by": "ann"}),
            lab.post("api/links", {**ends, "mbit_per_s": 16, "by": "bob"}),
        )
        assert "by ann" in first["message"] and "by bob" in second["message"]
        last, before = ("bob", "ann") if "in place of" in second["message"] else ("ann", "bob")
        both = [await told(anns), await told(bobs)]
    assert both[0] == both[1] and len(both[0]) == 2
    assert f"by {last}, in place of" in both[0][1] and both[0][1].endswith(f"by {before}")
    (held,) = await lab.get("api/conditions")
    assert held["by"] == last and held["values"]["bytes_per_s"] == {"ann": 1e6, "bob": 2e6}[last]
    await lab.until(lambda _: scripts[0].count(ShapeLink) == 2)
    shape = [order for order in scripts[0].heard if isinstance(order, ShapeLink)][-1].shape
    assert shape is not None and shape.bytes_per_s == held["values"]["bytes_per_s"]


async def test_agents_can_be_told_to_stop_or_crash(lab: Lab) -> None:
    scripts = await lab.join(*ALL)
    await lab.running()
    await lab.post("api/agents/edge-1/stop", {})
    await lab.post("api/agents/edge-2/kill", {"by": "ann"})
    await lab.until(lambda _: scripts[1].count(Stop) == 1 and scripts[2].count(Crash) == 1)


async def test_a_load_on_an_agent_that_just_left_is_refused(lab: Lab) -> None:
    await lab.join(*ALL)
    await lab.running()
    await lab.leave(EDGE_2)
    answer = await lab.post("api/agents/edge-2/load", {"processes": 1}, status=409)
    assert "edge-2 has left" in answer["error"] and "started again" in answer["error"]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("api/links", {"from": "pi-1", "to": "nobody", "mbit_per_s": 5}, 404, "nobody"),
        ("api/links", {"from": "vm-1", "to": "edge-1", "mbit_per_s": 5}, 409, "not emulated"),
        ("api/links", {"from": "pi-1", "to": "edge-1", "mbit_per_s": -5}, 400, "mbit_per_s"),
        ("api/links", {"from": "pi-1", "to": "edge-1", "rate": 5}, 400, "rate"),
        ("api/links", {"from": "pi-1", "to": "edge-1"}, 400, "latency_ms or loss_percent"),
        ("api/links", {"from": "pi-1", "to": "edge-1", "mbit_per_s": 5, "for_s": 0}, 400, "for_s"),
        ("api/links", {"from": "pi-1", "to": "edge-1", "loss_percent": 101}, 400, "loss_percent"),
        ("api/links/reset", {"from": "vm-1", "to": "edge-1"}, 409, "not emulated"),
        ("api/agents/edge-1/load", {"processes": -1}, 400, "processes"),
        ("api/agents/edge-1/load", {"processes": 65}, 400, "processes"),
        ("api/agents/edge-1/load", {"processes": 1, "for_s": -3}, 400, "for_s"),
        ("api/agents/pi-7/load", {"processes": 1}, 404, "pi-7"),
        ("api/agents/pi-7/kill", {}, 404, "pi-7"),
        ("api/agents/pi-1/speed", {"speed": 2}, 400, "speed"),
        ("api/agents/pi-7/speed", {"speed": 0.5}, 404, "pi-7"),
    ],
)
async def test_impossible_conditions_are_the_callers_fault(
    lab: Lab, path: str, body: dict[str, Any], status: int, says: str
) -> None:
    await lab.join(*ALL)
    await lab.running()
    assert says in (await lab.post(path, body, status=status))["error"]
