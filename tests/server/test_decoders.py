"""Files are decoded only where that makes the device's pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from d3bed.core.ids import AgentId, PipelineId, Tier
from d3bed.plan import Pin
from d3bed.server.events import ChangeStrategy

if TYPE_CHECKING:
    from tests.server.conftest import MakeStage, Stage

DEVICE, EDGE_2, CLOUD = AgentId("pi-1"), AgentId("edge-2"), AgentId("vm-1")


@pytest.fixture
def stage(make_stage: MakeStage) -> Stage:
    """Decoding is all there is to do, and fastest on the cloud."""
    stage: Stage = make_stage()
    stage.kind = "decode"
    return stage


def test_with_one_decoder_files_are_decoded_where_it_is_fastest(stage: Stage) -> None:
    stage.decoders = dict.fromkeys((DEVICE, AgentId("edge-1"), EDGE_2, CLOUD), "Pillow 13")
    stage.join_all()
    assert stage.plans[-1].pins == ()
    assert stage.tiers[1:] == (Tier.CLOUD,) * 3


def test_other_decoders_than_the_devices_decode_nothing_and_that_is_said_once(stage: Stage) -> None:
    stage.decoders = {
        DEVICE: "Pillow 13",
        AgentId("edge-1"): "Pillow 13",
        EDGE_2: "Pillow 12",
        CLOUD: "Pillow 11",
    }
    stage.join_all()
    assert stage.plans[-1].pins == tuple(Pin(f"conv{n}", (Tier.DEVICE,)) for n in (1, 2, 3))
    assert stage.tiers == (Tier.DEVICE,) * 4
    stage.submit(ChangeStrategy(PipelineId("demo"), "hpa"))
    assert len(stage.plans) == 2 and stage.plans[-1].pins
    said = [note for note in stage.notes() if "decoded" in note]
    assert said == [
        "photos are not decoded on edge-2, vm-1: pi-1 decodes with Pillow 13, "
        "edge-2 with Pillow 12, vm-1 with Pillow 11"
    ]


def test_a_tier_whose_agents_all_decode_as_the_device_may_decode(stage: Stage) -> None:
    stage.decoders = dict.fromkeys((DEVICE, AgentId("edge-1"), EDGE_2), "Pillow 13") | {CLOUD: "Pillow 11"}
    stage.join_all()
    assert {pin.tiers for pin in stage.plans[-1].pins} == {(Tier.DEVICE, Tier.EDGE)}
    assert stage.tiers[1:] == (Tier.EDGE,) * 3
