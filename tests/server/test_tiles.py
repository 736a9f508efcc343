"""Tiles as the server sees them: who takes part, what is not exact, helpers that fail, what a report says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from d3bed.core.ids import AgentId, Epoch, FrameId, PipelineId, Tier
from d3bed.core.measurements import FrameReport, Span, SpanKind, TileReady
from d3bed.core.messages import (
    Abandon,
    Drained,
    FrameRescued,
    FramesAnswered,
    LinkLost,
    Prepare,
    Preparing,
    Ready,
    Retire,
    SpansRecorded,
)
from d3bed.plan import YOUNG_S
from d3bed.server.distrust import RESCUES, RESCUES_S, SHUN_S
from d3bed.server.events import ChangeStrategy

if TYPE_CHECKING:
    from tests.server.conftest import MakeStage, Stage

DEMO = PipelineId("demo")
DEVICE, EDGE_1, EDGE_2, CLOUD = AgentId("pi-1"), AgentId("edge-1"), AgentId("edge-2"), AgentId("vm-1")


@pytest.fixture
def stage(make_stage: MakeStage) -> Stage:
    """All layers on the edge, whose maps are large enough to be shared by its two agents."""
    stage: Stage = make_stage(strategy="edge", frames=None, adapt=True)
    stage.size = 32
    return stage


def helpers(stage: Stage) -> set[AgentId]:
    view = stage.coordinator.view(DEMO)
    return {agent for tile in view.tiles for agent in tile.agents} - set(view.route.values())


def prepared(stage: Stage, agent: AgentId) -> list[Prepare]:
    return [order for order in stage.heard(agent, Prepare) if isinstance(order, Prepare)]


def abandoned(stage: Stage) -> tuple[Epoch, ...]:
    orders = [order for order in stage.heard(DEVICE, Abandon) if isinstance(order, Abandon)]
    return tuple(order.epoch for order in orders)


def test_who_helps_with_tiles_is_prepared_and_retired_like_the_route(stage: Stage) -> None:
    stage.join_all()
    assert stage.active == 1 and helpers(stage) == {EDGE_2}
    (order,) = prepared(stage, EDGE_2)
    assert order.plan.tiles and {peer.agent for peer in order.peers} == {EDGE_1}
    assert "with tiles on edge-2" in stage.notes("info")[-1]
    stage.submit(ChangeStrategy(DEMO, "edge", "none"))
    assert stage.active == 2 and helpers(stage) == set()
    stage.say(DEVICE, Drained(DEMO, Epoch(1)))
    assert stage.heard(EDGE_2, Retire) == [Retire(DEMO, Epoch(1))]


def test_tiles_that_are_not_exact_are_replaced_and_that_is_said(stage: Stage) -> None:
    stage.join(DEVICE, EDGE_1, CLOUD)
    stage.join(EDGE_2, silent=Prepare)
    tiled = prepared(stage, EDGE_2)[0].plan.tiles[0]
    place = tiled.block.vertices[0], tiled.block.vertices[-1]
    stage.say(EDGE_2, Ready(DEMO, Epoch(1), 0.1, (TileReady(place, (1, 0, 0), False, 0),)))
    assert stage.states()[1] == "failed"
    again = [t for order in prepared(stage, EDGE_1)[1:] for t in order.plan.tiles]
    assert all(not set(t.block.vertices) & set(tiled.block.vertices) for t in again)
    assert any("on edge-2 differ from the undivided network" in text for text in stage.notes("info"))


def test_tiles_within_the_tolerance_are_used_and_the_report_says_so(make_stage: MakeStage) -> None:
    stage: Stage = make_stage(strategy="edge", frames=None, adapt=True, tolerance=1e-5)
    stage.size = 32
    stage.join(DEVICE, EDGE_1, CLOUD)
    stage.join(EDGE_2, silent=Prepare)
    (order,) = prepared(stage, EDGE_2)
    assert order.tolerance == 1e-5
    tiled = order.plan.tiles[0]
    place = tiled.block.vertices[0], tiled.block.vertices[-1]
    stage.say(EDGE_2, Ready(DEMO, Epoch(1), 0.1, (TileReady(place, (1, 0, 0), False, 0, 3e-7),)))
    assert stage.active == 1 and helpers(stage) == {EDGE_2}
    stage.answer(Epoch(1), 1)
    stage.tick(1.0)
    (run,) = stage.coordinator.runs()
    report = stage.coordinator.report(run.id)
    assert report is not None and report.tolerance == 1e-5
    assert [tile.max_rel_err for tile in report.tiles if not tile.identical] == [3e-7]


def test_how_many_tiles_are_checked_is_shown(stage: Stage) -> None:
    stage.join(DEVICE, EDGE_1, CLOUD)
    stage.join(EDGE_2, silent=Prepare)
    stage.say(EDGE_2, Preparing(DEMO, Epoch(1), (3, 7)))
    assert stage.coordinator.view(DEMO).phase_text == "epoch 1: edge-2 has checked 3 of its 7 tiles"
    stage.say(EDGE_2, Preparing(DEMO, Epoch(9), (1, 7)))
    assert "3 of its 7" in stage.coordinator.view(DEMO).phase_text


def test_what_tiles_were_measured_to_take_is_predicted_and_no_reason_to_doubt_the_agent(stage: Stage) -> None:
    stage.join(DEVICE, EDGE_1, CLOUD)
    stage.join(EDGE_2, silent=Prepare)
    epoch = stage.coordinator.pipelines[DEMO].epochs[Epoch(1)]
    tiled, estimated_s = epoch.plan.tiles[0], epoch.predicted_s
    place = tiled.block.vertices[0], tiled.block.vertices[-1]
    stage.say(EDGE_2, Ready(DEMO, Epoch(1), 0.1, (TileReady(place, (1, 0, 0), True, 0, time_s=0.5),)))
    assert stage.active == 1 and epoch.predicted_s > 0.5 > estimated_s
    for frame in range(1, 6):
        span = Span(FrameId(frame), Epoch(1), SpanKind.COMPUTE, 0.0, 0.5, place, tile=(1, 0, 0))
        stage.say(EDGE_2, SpansRecorded(DEMO, 0.0, (span,)))
    factor = stage.coordinator.world.agents[EDGE_2].correction.factor(stage.now)
    assert factor is not None and factor.value == pytest.approx(1.0)


@pytest.mark.parametrize("off", [2e-5, float("nan")])
def test_tiles_beyond_the_tolerance_are_replaced(off: float, make_stage: MakeStage) -> None:
    stage: Stage = make_stage(strategy="edge", frames=None, adapt=True, tolerance=1e-5)
    stage.size = 32
    stage.join(DEVICE, EDGE_1, CLOUD)
    stage.join(EDGE_2, silent=Prepare)
    tiled = prepared(stage, EDGE_2)[0].plan.tiles[0]
    place = tiled.block.vertices[0], tiled.block.vertices[-1]
    stage.say(EDGE_2, Ready(DEMO, Epoch(1), 0.1, (TileReady(place, (1, 0, 0), False, 0, off),)))
    assert stage.states()[1] == "failed"


@pytest.mark.parametrize(("off", "used"), [(3e-7, True), (2e-5, False), (float("nan"), False)])
def test_tiles_of_an_engine_that_promises_no_bits_need_only_be_close(
    off: float, used: bool, stage: Stage
) -> None:
    stage.engines[EDGE_2] = "onnx"
    stage.join(DEVICE, EDGE_1, CLOUD)
    stage.join(EDGE_2, silent=Prepare)
    tiled = prepared(stage, EDGE_2)[0].plan.tiles[0]
    place = tiled.block.vertices[0], tiled.block.vertices[-1]
    stage.say(EDGE_2, Ready(DEMO, Epoch(1), 0.1, (TileReady(place, (1, 0, 0), False, 0, off),)))
    assert (stage.active == 1) == used


def test_where_an_engine_promises_no_bits_an_answer_is_noted_only_if_it_is_far_off(stage: Stage) -> None:
    stage.engines[EDGE_1] = "onnx"
    stage.join_all()
    assert not stage.coordinator.view(DEMO).same_fingerprint
    close, far = (
        FrameReport(FrameId(n), Epoch(1), "cat.jpg", 1.0, 1.3, "cat", 1, False, off)
        for n, off in ((1, 4e-7), (2, 4e-3))
    )
    stage.say(DEVICE, FramesAnswered(DEMO, 1, (close,)))
    assert not any("differs" in text for text in stage.notes("error"))
    stage.say(DEVICE, FramesAnswered(DEMO, 2, (far,)))
    assert any("frame 2 differs" in text for text in stage.notes("error"))


def test_a_lost_helper_costs_a_plan_but_no_frame(stage: Stage) -> None:
    stage.join_all()
    stage.lose(EDGE_2)
    assert stage.active == 2 and helpers(stage) == set()
    assert abandoned(stage) == ()
    assert any("edge-2 lost" in text for text in stage.notes("info"))


def test_a_broken_link_between_edge_agents_abandons_no_frame(stage: Stage) -> None:
    stage.join_all()
    stage.say(EDGE_1, LinkLost(DEMO, Epoch(1), EDGE_2, "reset"))
    assert abandoned(stage) == ()
    stage.say(EDGE_1, LinkLost(DEMO, Epoch(stage.active), DEVICE, "reset"))
    assert abandoned(stage) != ()


def test_helpers_whose_tiles_do_not_come_are_left_out_for_a_while(stage: Stage) -> None:
    stage.join_all()
    for frame in range(RESCUES):
        assert stage.active == 1 and helpers(stage) == {EDGE_2}, "it may have been a hiccup"
        stage.say(EDGE_1, FrameRescued(DEMO, Epoch(1), FrameId(frame), "no tiles for 2 s"))
    assert stage.active == 2 and helpers(stage) == set()
    assert any("edge-1 computed all tiles alone" in text for text in stage.notes("warn"))
    stage.submit(ChangeStrategy(DEMO, "edge"))
    assert helpers(stage) == set(), "not yet"
    stage.tick(SHUN_S + 1)
    stage.submit(ChangeStrategy(DEMO, "edge"))
    assert helpers(stage) == {EDGE_2}


def test_tiles_that_are_late_now_and_then_cost_no_switch(stage: Stage) -> None:
    stage.join_all()
    for frame in range(4 * RESCUES):
        stage.say(EDGE_1, FrameRescued(DEMO, Epoch(1), FrameId(frame), "no tiles for 0.3 s"))
        stage.tick(RESCUES_S / 2)
    assert stage.active == 1 and helpers(stage) == {EDGE_2}


def test_a_slow_helper_is_seen_in_its_tiles(stage: Stage) -> None:
    stage.join_all()
    planned = stage.coordinator.pipelines[DEMO].epochs[Epoch(1)]
    step = next(s for s in planned._steps[EDGE_2] if s.tile is not None)
    assert step.tile is not None
    place, tile = (step.vertices[0], step.vertices[-1]), step.tile.place
    for number in range(5):
        span = Span(FrameId(number), Epoch(1), SpanKind.COMPUTE, stage.now, stage.now + 0.5, place, tile=tile)
        stage.say(EDGE_2, SpansRecorded(DEMO, 0.001, (span,)))
        stage.tick(0.1)
    factor = stage.coordinator.world.agents[EDGE_2].correction.factor(stage.now)
    assert factor is not None and factor.value > 5
    stage.tick(1.5)
    assert helpers(stage) == set(), "it is not worth waiting for"
    assert any("edge-2 became" in text for text in stage.notes("info"))


def test_what_a_late_tile_takes_off_the_next_one_is_no_change(stage: Stage) -> None:
    """So a slow board is emulated: what counts is the time of a frame's tiles together."""
    stage.join(DEVICE, EDGE_1, EDGE_2, CLOUD, layers=6)
    epoch = stage.coordinator.pipelines[DEMO].epochs[Epoch(1)]
    first, second = epoch.tiles_on(EDGE_2)
    found = []
    for frame, late_s in enumerate((0.018, 0.012, 0.018, 0.018, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)):
        for step, taken_s in ((first, 0.02 + late_s), (second, 0.02 - late_s)):
            assert step.tile is not None
            place, tile = (step.vertices[0], step.vertices[-1]), step.tile.place
            span = Span(FrameId(frame), Epoch(1), SpanKind.COMPUTE, 0.0, taken_s, place, tile=tile)
            stage.say(EDGE_2, SpansRecorded(DEMO, 0.0, (span,)))
        found.append(stage.coordinator.world.agents[EDGE_2].correction.factor(stage.now))
    before, after = found[3], found[-1]
    assert before is not None and after is not None
    assert after.value == pytest.approx(before.value) and after.spread == pytest.approx(0.0)


def test_where_there_is_no_plan_tiles_wait_until_there_is_one(make_stage: MakeStage) -> None:
    """They have to be checked first, and the device answers alone meanwhile."""
    edges = EDGE_1, EDGE_2, EDGE_3 = AgentId("edge-1"), AgentId("edge-2"), AgentId("edge-3")
    stage = make_stage(strategy="edge", frames=None, adapt=True, edges=edges)
    stage.size = 32
    stage.join_all()
    assert helpers(stage) == {EDGE_2, EDGE_3}
    plans = len(stage.plans)
    stage.lose(EDGE_1)
    assert [plan.tiling for plan in stage.plans[plans:]] == ["none", "vsm"]
    assert stage.active == 3 and helpers(stage) == {EDGE_3}
    assert "there is time for tiles now" in stage.notes("info")[-1]
    stage.lose(EDGE_2)
    assert stage.active == 4 and [plan.tiling for plan in stage.plans[plans + 2 :]] == ["none"]


def test_the_report_tells_of_every_block(stage: Stage) -> None:
    stage.join_all()
    planned = stage.coordinator.pipelines[DEMO].epochs[Epoch(1)]
    (part,) = planned.tiled_parts
    span = Span(FrameId(1), Epoch(1), SpanKind.TILED, stage.now, stage.now + 0.04, part.place)
    stage.say(EDGE_1, SpansRecorded(DEMO, 0.001, (span,)))
    stray = Span(FrameId(1), Epoch(1), SpanKind.TILED, stage.now, stage.now + 9.0, (0, 3))
    stage.say(EDGE_1, SpansRecorded(DEMO, 0.001, (stray,)))
    stage.answer(Epoch(1), 1)
    stage.tick(1.0)
    (run,) = stage.coordinator.runs()
    report = stage.coordinator.report(run.id)
    assert report is not None and report.tiles
    for tile in report.tiles:
        assert len(tile.agents) == tile.grid[0] * tile.grid[1] > 1 and tile.identical
        assert tile.redundancy >= 1 and tile.exchanged_bytes > 0
        assert tile.predicted_s == planned.choice.timeline.tiled_s[part.place] > 0
        assert tile.measured_s == pytest.approx(0.04)
    assert report.compute_s[Tier.EDGE] >= 0


def test_a_helper_that_was_stopped_and_lost_for_it_is_trusted_when_it_is_back(stage: Stage) -> None:
    stage.join_all()
    assert helpers(stage) == {EDGE_2}
    for frame in range(RESCUES):
        stage.say(EDGE_1, FrameRescued(DEMO, Epoch(1), FrameId(frame), "no tiles for 0.3 s"))
    assert helpers(stage) == set()
    stage.lose(EDGE_2)
    stage.join(EDGE_2)
    stage.tick(0.2)
    assert helpers(stage) == {EDGE_2}


def test_a_move_whose_tiles_turn_out_to_take_longer_is_called_off(stage: Stage) -> None:
    stage.join(DEVICE, EDGE_1, CLOUD)
    stage.join(EDGE_2)
    assert helpers(stage) == {EDGE_2}
    stage.submit(ChangeStrategy(DEMO, "edge", "none"))
    assert helpers(stage) == set() and stage.active == 2
    stage.tick(YOUNG_S + 1)
    pipe = stage.coordinator.pipelines[DEMO]
    pipe.want("tiles may help")
    assert pipe.wish is not None
    pipe.wish = msgspec.structs.replace(pipe.wish, tiling="vsm", reconsider=True)
    stage.scripts[EDGE_2].silent.add(Prepare)
    stage.tick()
    order = prepared(stage, EDGE_2)[-1]
    assert order.epoch == 3 and order.plan.tiles
    slow = tuple(
        TileReady((t.block.vertices[0], t.block.vertices[-1]), (1, 0, 0), True, 0, time_s=9.0)
        for t in order.plan.tiles
    )
    stage.say(EDGE_2, Ready(DEMO, Epoch(3), 0.1, slow))
    assert stage.active == 2 and stage.states()[3] == "failed" and pipe.wish is None
    assert "kept, because with tiles as timed" in stage.notes("info")[-1]
    assert Retire(DEMO, Epoch(3)) in stage.heard(EDGE_2, Retire)
