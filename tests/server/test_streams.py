"""Frames at a rate: plans that keep up, several plans in turn above that, drops that are counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from d3bed.core.ids import AgentId, Epoch, FrameId, PipelineId, Tier
from d3bed.core.measurements import FrameReport
from d3bed.core.messages import (
    Abandon,
    Activate,
    Drained,
    FramesAnswered,
    Prepare,
    PrepareFailed,
    Ready,
    Retire,
    SetRate,
    SourceEnded,
    StartSource,
)
from d3bed.server.events import ChangeRate

if TYPE_CHECKING:
    from tests.server.conftest import MakeStage, Stage

DEMO = PipelineId("demo")
DEVICE, EDGE_1, CLOUD = AgentId("pi-1"), AgentId("edge-1"), AgentId("vm-1")
#: The cloud is done with a frame in 15 ms, the edge in 60, the device in 300.
MORE_THAN_ANY_TIER = 80.0


@pytest.fixture
def stream(make_stage: MakeStage) -> Stage:
    stage: Stage = make_stage(strategy="optimal", frames=None, adapt=True)
    stage.join_all()
    assert stage.tiers[1:] == (Tier.CLOUD,) * 3 and stage.phase == "running"
    return stage


def test_a_rate_reaches_the_planner_and_the_device(stream: Stage) -> None:
    stream.submit(ChangeRate(DEMO, 10.0))
    assert stream.heard(DEVICE, SetRate) == [SetRate(DEMO, 10.0)]
    assert stream.plans[-1].rate_per_s == 10.0
    view = stream.coordinator.view(DEMO)
    assert view.rate_per_s == 10.0 and view.sustains_per_s is not None and view.sustains_per_s > 10.0
    assert view.epoch == 1  # the plan in force sustains it


def test_above_what_one_plan_sustains_its_frames_take_turns(stream: Stage) -> None:
    stream.submit(ChangeRate(DEMO, MORE_THAN_ANY_TIER))
    activate = stream.heard(DEVICE, Activate)[-1]
    assert len(activate.mix) > 1
    assert sum(share for _, share in activate.mix) == pytest.approx(1.0)
    assert activate.epoch == activate.mix[0][0]
    prepared = {order.epoch: order.plan for order in stream.heard(DEVICE, Prepare)}
    assert len({prepared[epoch] for epoch, _ in activate.mix}) == len(activate.mix)
    view = stream.coordinator.view(DEMO)
    assert [(each.epoch, each.share) for each in view.mix] == list(activate.mix)
    assert view.sustains_per_s is not None and view.sustains_per_s > 1 / 0.015
    assert "% of frames" in view.phase_text


def test_all_plans_of_a_mix_are_ready_before_any_is_used(make_stage: MakeStage) -> None:
    stage: Stage = make_stage(strategy="optimal", frames=None, rate_per_s=MORE_THAN_ANY_TIER)
    stage.join(AgentId("edge-2"), CLOUD, EDGE_1)
    stage.join(DEVICE, silent=Prepare)
    orders = stage.heard(DEVICE, Prepare)
    assert len(orders) > 1 and not stage.heard(DEVICE, Activate)
    for order in orders[:-1]:
        stage.say(DEVICE, Ready(DEMO, order.epoch, 0.1))
    assert not stage.heard(DEVICE, Activate)
    stage.say(DEVICE, Ready(DEMO, orders[-1].epoch, 0.1))
    assert len(stage.heard(DEVICE, Activate)) == 1
    assert stage.heard(DEVICE, StartSource) == [StartSource(DEMO, None, None, MORE_THAN_ANY_TIER)]


def test_where_one_plan_of_a_mix_cannot_be_prepared_none_is_used(make_stage: MakeStage) -> None:
    stage: Stage = make_stage(strategy="optimal", frames=None, rate_per_s=MORE_THAN_ANY_TIER)
    stage.join(AgentId("edge-2"), CLOUD, EDGE_1)
    stage.join(DEVICE, silent=Prepare)
    orders = stage.heard(DEVICE, Prepare)
    stage.say(DEVICE, PrepareFailed(DEMO, orders[-1].epoch, "out of memory"))
    assert {order.epoch for order in stage.heard(DEVICE, Retire)} == {order.epoch for order in orders}
    assert not stage.heard(DEVICE, Activate) and stage.phase == "failed"


def test_a_mix_drains_plan_by_plan_when_another_follows(stream: Stage) -> None:
    stream.submit(ChangeRate(DEMO, MORE_THAN_ANY_TIER))
    mix = [epoch for epoch, _ in stream.heard(DEVICE, Activate)[-1].mix]
    stream.submit(ChangeRate(DEMO, None))
    assert stream.heard(DEVICE, Activate)[-1].mix == ()
    for epoch in mix:
        assert Retire(DEMO, epoch) not in stream.heard(DEVICE, Retire)
        stream.say(DEVICE, Drained(DEMO, epoch))
        assert Retire(DEMO, epoch) in stream.heard(DEVICE, Retire)


def test_a_node_that_a_mix_needs_abandons_all_its_frames(stream: Stage) -> None:
    stream.submit(ChangeRate(DEMO, MORE_THAN_ANY_TIER))
    mix = {epoch for epoch, _ in stream.heard(DEVICE, Activate)[-1].mix}
    stream.lose(CLOUD)
    assert mix <= {order.epoch for order in stream.heard(DEVICE, Abandon)}


def test_frames_of_all_plans_of_a_mix_count_into_one_latency(stream: Stage) -> None:
    stream.submit(ChangeRate(DEMO, MORE_THAN_ANY_TIER))
    mix = [epoch for epoch, _ in stream.heard(DEVICE, Activate)[-1].mix]
    for number, epoch in enumerate(mix * 3):
        report = FrameReport(FrameId(number), epoch, "a.jpg", stream.now - 0.4, stream.now, waited_s=0.1)
        stream.say(DEVICE, FramesAnswered(DEMO, number + 1, (report,), dropped=7))
    run = stream.coordinator.pipelines[DEMO].stream.run
    assert run is not None and run.numbers.latency_s.median == pytest.approx(0.4)
    assert len(mix) * 3 == run.frames.answered and run.frames.dropped == 7
    epochs = stream.coordinator.pipelines[DEMO].epochs
    assert [epochs[Epoch(e)].latency_s.median for e in mix] == [pytest.approx(0.3)] * len(mix)


def test_the_same_mix_is_kept(stream: Stage) -> None:
    stream.submit(ChangeRate(DEMO, MORE_THAN_ANY_TIER))
    activations = len(stream.heard(DEVICE, Activate))
    stream.submit(ChangeRate(DEMO, MORE_THAN_ANY_TIER + 1))
    assert len(stream.heard(DEVICE, Activate)) == activations


def test_a_pause_keeps_the_plan_and_is_said(stream: Stage) -> None:
    plans = len(stream.plans)
    stream.submit(ChangeRate(DEMO, 0.0))
    assert stream.heard(DEVICE, SetRate) == [SetRate(DEMO, 0.0)]
    assert len(stream.plans) == plans and "frames are paused" in stream.notes("info")
    assert stream.phase_text.startswith("frames are paused: ")


def test_what_was_dropped_is_said_at_the_end(stream: Stage) -> None:
    stream.say(DEVICE, SourceEnded(DEMO, 5, 5, 12))
    assert any("5 of 5 frames answered; 12 more came too fast" in text for text in stream.notes("info"))
    report = stream.coordinator.report("demo-1-1")
    assert report is not None and report.frames.dropped == 12
