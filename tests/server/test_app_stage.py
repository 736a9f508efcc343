"""What the page offers beyond single changes: network presets, scenarios, and why a layer is where it is."""

from __future__ import annotations

import msgspec
import pytest

from d3bed.core.measurements import LinkShape
from d3bed.core.messages import ShapeLink
from d3bed.server.settings import Network, Scene, SceneEvent
from tests.server.lab import ALL, Lab, MakeSettings, StartLab

pytestmark = pytest.mark.sockets

SLOW = LinkShape(1.25e6, 0.02)
EVENTS = (
    SceneEvent(0.0, "links", {"from": "pi-1", "to": "edge-1", "mbit_per_s": 5}, "link slower"),
    SceneEvent(0.1, "agents/nobody/load", {"processes": 1}, "load nobody 1"),
    SceneEvent(0.1, "pipelines/demo/strategy", {"strategy": "device"}, "strategy device"),
)


@pytest.fixture
async def offering(start_lab: StartLab, make_settings: MakeSettings) -> Lab:
    networks = {
        "lte": Network("slow", {"device-edge": SLOW}),
        "other": Network("more links", {"device-edge": SLOW, "edge-cloud": SLOW}),
    }
    scenes = (
        Scene("short", "three changes", 0.4, EVENTS),
        Scene("long", "one change", 600, EVENTS[:1]),
        Scene("never", "starts agents", 9, (), "it has agents started"),
    )
    return await start_lab(msgspec.structs.replace(make_settings(), networks=networks, scenes=scenes))


async def test_another_network_reshapes_links_that_are_open(offering: Lab) -> None:
    scripts = await offering.join(*ALL)
    await offering.running()
    state = await offering.get("api/state")
    assert [(n["name"], n["description"]) for n in state["networks"]] == [
        ("lte", "slow"),
        ("other", "more links"),
    ]
    await offering.post("api/links", {"from": "pi-1", "to": "edge-1", "mbit_per_s": 5})
    accepted = await offering.post("api/pipelines/demo/network", {"network": "lte", "by": "ann"})
    orders = await offering.until(lambda all: all[-1]["state"] == "done", "api/orders")
    assert (orders[-1]["id"], orders[-1]["what"], orders[-1]["by"]) == (
        accepted["order"],
        "network lte",
        "ann",
    )
    assert orders[-1]["answer"] == "all 4 agents confirm"
    assert ShapeLink(ALL[2], SLOW) in scripts[0].heard
    assert ShapeLink(ALL[1], LinkShape(625_000, 0.02)) in scripts[0].heard  # what is changed stays so
    assert not scripts[1].count(ShapeLink)  # edge-device is not shaped
    assert (await offering.get("api/pipelines/demo"))["network"] == "lte"
    await offering.post("api/links/reset", {"from": "pi-1", "to": "edge-1"})
    await offering.until(lambda _: ShapeLink(ALL[1], SLOW) in scripts[0].heard)
    refused = await offering.post("api/pipelines/demo/network", {"network": "other"}, status=409)
    assert "--network" in refused["error"]
    unknown = await offering.post("api/pipelines/demo/network", {"network": "wifi"}, status=400)
    assert "known: lte, other" in unknown["error"]


async def test_a_scenario_is_played_by_name_told_and_undone_at_its_end(offering: Lab) -> None:
    await offering.join(*ALL)
    await offering.running()
    assert (await offering.get("api/state"))["scene"] is None
    begun = await offering.post("api/scenario", {"scenario": "short", "by": "ann"})
    scene = (await offering.get("api/state"))["scene"]
    assert (scene["name"], scene["by"], scene["events"]) == ("short", "ann", 3)
    state = await offering.until(lambda state: state["scene"] is None, "api/state")
    orders = {order["id"]: order for order in state["orders"]}
    assert (orders[begun["order"]]["state"], orders[begun["order"]]["answer"]) == ("done", "to its end")
    assert [o["what"] for o in orders.values() if o["by"] == "scenario short"] == [
        "pi-1→edge-1: 5 Mbit/s",
        "strategy device",
        "pi-1→edge-1: as configured",
        "strategy optimal",
    ]
    assert state["conditions"] == []
    assert any("no connected agent 'nobody'" in note["text"] for note in state["notes"])


async def test_one_scenario_at_a_time_and_anybody_may_stop_it(offering: Lab) -> None:
    await offering.join(*ALL)
    await offering.running()
    await offering.post("api/scenario", {"scenario": "long"})
    await offering.until(lambda found: len(found) == 1, "api/conditions")
    busy = await offering.post("api/scenario", {"scenario": "short"}, status=409)
    assert "long is being played" in busy["error"]
    await offering.post("api/scenario/stop", {"by": "bob"})
    state = await offering.until(lambda state: state["scene"] is None, "api/state")
    assert state["conditions"] == []
    assert [o["state"] for o in state["orders"] if o["what"] == "scenario long"] == ["failed"]
    assert "no scenario" in (await offering.post("api/scenario/stop", {}))["message"]
    refused = await offering.post("api/scenario", {"scenario": "never"}, status=409)
    assert "it has agents started" in refused["error"]
    await offering.post("api/scenario", {"scenario": "nothing"}, status=400)


async def test_it_says_why_a_layer_is_where_it_is(offering: Lab) -> None:
    early = await offering.get("api/pipelines/demo/why/conv1", status=409)
    assert "no plan" in early["error"]
    await offering.join(*ALL)
    await offering.running()
    why = await offering.get("api/pipelines/demo/why/conv1")
    pipeline = await offering.get("api/pipelines/demo")
    assert (why["name"], why["vertex"], why["tier"]) == ("conv1", 1, pipeline["plan"][1])
    others = {other["tier"]: other for other in why["elsewhere"]}
    assert len(others) == 2 and all(other["more_s"] >= 0 for other in others.values())
    assert all(trigger["factor"] > 0 for trigger in why["triggers"])
    assert why["allowed"] == ["device", "edge", "cloud"]
    missing = await offering.get("api/pipelines/demo/why/conv9", status=404)
    assert "conv9" in missing["error"]
