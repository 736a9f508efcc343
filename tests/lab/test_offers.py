"""What the page offers: every shipped preset and scenario, those that cannot be played with the reason."""

from __future__ import annotations

import msgspec

from d3bed.config import data_dir, networks, read_config
from d3bed.lab.offers import offered_networks, offered_scenes
from d3bed.lab.scenario import shipped_scenarios


def test_presets_shape_the_same_links_so_that_one_may_follow_another() -> None:
    found = offered_networks()
    assert found.keys() == networks().keys()
    assert len({frozenset(network.shapes) for network in found.values()}) == 1


def test_scenarios_are_offered_as_requests_in_order_or_with_a_reason() -> None:
    config = read_config(data_dir("configs") / "demo.toml")
    scenes = {scene.name: scene for scene in offered_scenes(config)}
    assert scenes.keys() == {path.stem for path in shipped_scenarios()}
    fades = scenes["wifi-fades"]
    assert not fades.refused
    assert (fades.events[0].path, fades.events[0].at_s) == ("links", 10)
    assert fades.events[0].words == "pi-1 ↔ edge-1: 8 Mbit/s"
    assert [event.at_s for event in fades.events] == sorted(event.at_s for event in fades.events)
    assert "d3bed scenario play edge-dies" in scenes["edge-dies"].refused
    lonely = msgspec.structs.replace(config, agents=config.agents[:1])
    assert "no agent named" in {s.name: s for s in offered_scenes(lonely)}["wifi-fades"].refused
