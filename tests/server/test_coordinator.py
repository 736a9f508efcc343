"""From registration to a running plan, and what happens when something goes wrong on the way."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec
import pytest

from d3bed.core.errors import IllegalTransition
from d3bed.core.ids import AgentId, Epoch, FrameId, PipelineId, Tier
from d3bed.core.measurements import FrameReport
from d3bed.core.messages import (
    Abandon,
    Activate,
    ClockPing,
    ClockPong,
    Drained,
    FrameFailed,
    FramesAnswered,
    FromAgent,
    Heartbeat,
    LinkFailed,
    LinkLost,
    LoadModel,
    MeasureLinks,
    ModelFailed,
    ModelSpec,
    Prepare,
    PrepareFailed,
    Profiled,
    ProfileModel,
    Ready,
    Retire,
    SourceEnded,
    StartSource,
    Stop,
    StopSource,
    Welcome,
)
from d3bed.plan import Pin
from d3bed.server.events import (
    AgentJoined,
    AgentLost,
    ChangeModel,
    ChangeStrategy,
    Event,
    PlanFailed,
    Shutdown,
    StartRun,
    StopRun,
    Ticked,
)
from d3bed.server.pace import batch_s

if TYPE_CHECKING:
    from tests.server.conftest import MakeStage, Stage

DEMO = PipelineId("demo")
DEVICE, EDGE_1, EDGE_2, CLOUD = AgentId("pi-1"), AgentId("edge-1"), AgentId("edge-2"), AgentId("vm-1")


def test_all_agents_registered_leads_to_a_running_plan(stage: Stage) -> None:
    stage.join_all()
    assert stage.phase == "running"
    assert stage.states() == {1: "active"}
    assert stage.tiers == (Tier.DEVICE, Tier.CLOUD, Tier.CLOUD, Tier.CLOUD)
    start = stage.heard(DEVICE, StartSource)
    assert start == [StartSource(DEMO, 10)]


def test_nothing_is_loaded_before_all_agents_are_there(stage: Stage) -> None:
    stage.join(DEVICE, EDGE_1, CLOUD)
    assert stage.phase == "waiting"
    assert not stage.heard(DEVICE, LoadModel)
    assert stage.coordinator.pipelines[DEMO].phase[1] == "for edge-2"


def test_welcome_comes_first_with_the_link_secret(stage: Stage) -> None:
    stage.join(DEVICE)
    assert stage.scripts[DEVICE].heard[0] == Welcome("secret", 0.5)


def test_where_agents_are_many_they_tell_of_frames_less_often() -> None:
    told_s = [batch_s(count) for count in (1, 50, 150, 300, 500, 5000)]
    assert told_s == pytest.approx([0.1, 0.2, 0.5, 0.5, 0.5, 0.5])


def test_clock_ping_is_answered_with_the_servers_clock(stage: Stage) -> None:
    stage.join(DEVICE)
    stage.say(DEVICE, ClockPing(7.5))
    assert stage.heard(DEVICE, ClockPong) == [ClockPong(7.5, 1000.0)]


def test_prepare_names_next_hops_of_the_relayed_path(stage: Stage) -> None:
    stage.join_all()
    hops = {}
    for agent in (DEVICE, EDGE_1, CLOUD):
        (prepare,) = stage.heard(agent, Prepare)
        assert isinstance(prepare, Prepare)
        hops[agent] = [peer.agent for peer in prepare.peers]
    assert hops == {DEVICE: [EDGE_1], EDGE_1: [DEVICE, CLOUD], CLOUD: [EDGE_1]}
    assert not stage.heard(EDGE_2, Prepare)


def test_shapes_go_to_the_directed_link_they_name(stage: Stage) -> None:
    stage.join_all()
    (down,) = stage.heard(EDGE_1, MeasureLinks)
    (up,) = stage.heard(DEVICE, MeasureLinks)
    assert isinstance(up, MeasureLinks) and isinstance(down, MeasureLinks)
    assert all(peer.shape is not None for peer in up.peers)
    assert all(peer.shape is None for peer in down.peers)


def test_device_only_plan_needs_the_device_only(make_stage: MakeStage) -> None:
    stage = make_stage(strategy="device")
    stage.join_all()
    assert stage.phase == "running"
    assert not stage.heard(EDGE_1, Prepare)


def test_one_agent_of_a_host_profiles_at_a_time(stage: Stage) -> None:
    for agent in (DEVICE, EDGE_1, EDGE_2, CLOUD):
        stage.join(agent, silent=ProfileModel)
    asked = [agent for agent in stage.scripts if stage.heard(agent, ProfileModel)]
    assert asked == [DEVICE]
    stage.say(DEVICE, Profiled(ModelSpec("alexnet"), (0.0, 1.0, 1.0, 1.0), False, 1.0))
    asked = [agent for agent in stage.scripts if stage.heard(agent, ProfileModel)]
    assert asked == [DEVICE, EDGE_1]
    assert stage.phase == "profiling"


def test_one_agent_measures_links_at_a_time(stage: Stage) -> None:
    for agent in (DEVICE, EDGE_1, EDGE_2, CLOUD):
        stage.join(agent, silent=MeasureLinks)
    assert [agent for agent in stage.scripts if stage.heard(agent, MeasureLinks)] == [DEVICE]
    assert stage.phase == "measuring"


def test_different_graphs_fail_and_name_the_agents(stage: Stage) -> None:
    stage.join(DEVICE, EDGE_1, EDGE_2)
    stage.join(CLOUD, layers=4)
    assert stage.phase == "failed"
    (text,) = stage.notes("error")
    assert "vm-1 have" in text and "pi-1, edge-1, edge-2 have" in text


def test_a_model_that_cannot_be_loaded_fails_with_its_reason(stage: Stage) -> None:
    stage.join(DEVICE, EDGE_1, EDGE_2)
    stage.join(CLOUD, silent=LoadModel)
    stage.say(CLOUD, ModelFailed(ModelSpec("alexnet"), "no such file"))
    assert stage.phase == "failed"
    assert "vm-1" in stage.notes("error")[0] and "no such file" in stage.notes("error")[0]
    stage.scripts[CLOUD].silent.clear()
    stage.submit(ChangeStrategy(DEMO, "optimal"))
    assert stage.phase == "running"


def test_a_profile_that_does_not_fit_its_graph_is_refused(stage: Stage) -> None:
    for agent in (DEVICE, EDGE_1, EDGE_2, CLOUD):
        stage.join(agent, silent=ProfileModel)
    stage.say(DEVICE, Profiled(ModelSpec("alexnet"), (0.0, 1.0), False, 1.0))
    assert stage.phase == "failed"


def test_a_profile_that_a_server_before_this_one_asked_for_is_not_held_against_its_agent(
    stage: Stage,
) -> None:
    stage.join(DEVICE, EDGE_1, EDGE_2)
    stage.join(CLOUD, silent=LoadModel)
    stage.say(CLOUD, Profiled(ModelSpec("alexnet"), (0.0, 1.0, 1.0, 1.0), False, 1.0))
    assert stage.phase == "loading"
    assert not stage.notes("error")


def test_planner_failure_is_said(stage: Stage) -> None:
    stage.hold_plans = True
    stage.join_all()
    assert stage.phase == "planning"
    stage.submit(PlanFailed(DEMO, stage.plans[0].request, "no feasible plan: edge: too small"))
    assert stage.phase == "failed"
    assert "no feasible plan" in stage.notes("error")[0]


def test_strategy_switch_drains_the_old_epoch_then_retires_it(stage: Stage) -> None:
    stage.join_all()
    stage.submit(ChangeStrategy(DEMO, "edge"))
    assert stage.states() == {1: "draining", 2: "active"}
    assert [order.epoch for order in stage.heard(DEVICE, Activate)] == [1, 2]
    assert not stage.heard(CLOUD, Retire)
    stage.say(DEVICE, Drained(DEMO, Epoch(1)))
    assert stage.states() == {1: "retired", 2: "active"}
    assert stage.heard(CLOUD, Retire) == [Retire(DEMO, Epoch(1))]
    assert stage.starts == 1


def test_equal_plan_keeps_the_epoch_and_says_so(stage: Stage) -> None:
    stage.join_all()
    stage.submit(ChangeStrategy(DEMO, "cloud"))
    assert stage.states() == {1: "active"}
    assert "epoch 1 kept, because the plan is the same" in stage.notes()[-1]
    assert stage.coordinator.view(DEMO).strategy == "cloud"


def test_failed_prepare_keeps_the_old_epoch_and_says_why(stage: Stage) -> None:
    stage.join_all()
    stage.scripts[EDGE_1].silent.add(Prepare)
    stage.submit(ChangeStrategy(DEMO, "edge"))
    assert stage.phase == "preparing"
    stage.say(EDGE_1, PrepareFailed(DEMO, Epoch(2), "out of memory"))
    assert stage.states() == {1: "active", 2: "failed"}
    assert "edge-1 could not prepare epoch 2: out of memory; epoch 1 goes on" in stage.notes("error")[0]
    assert stage.heard(DEVICE, Retire) == [Retire(DEMO, Epoch(2))]
    assert stage.coordinator.view(DEMO).strategy == "optimal"


def test_prepare_that_never_ends_is_given_up(stage: Stage) -> None:
    stage.join_all()
    stage.scripts[EDGE_1].silent.add(Prepare)
    stage.submit(ChangeStrategy(DEMO, "edge"))
    stage.tick(121)
    assert stage.states() == {1: "active", 2: "failed"}
    assert "edge-1 not ready for epoch 2 in time" in stage.notes("error")[0]


def test_a_newer_wish_replaces_one_that_is_being_prepared(stage: Stage) -> None:
    stage.join_all()
    stage.scripts[EDGE_1].silent.add(Prepare)
    stage.submit(ChangeStrategy(DEMO, "edge"))
    stage.submit(ChangeStrategy(DEMO, "device"))
    assert stage.states() == {1: "draining", 2: "failed", 3: "active"}
    stage.say(EDGE_1, Ready(DEMO, Epoch(2), 0.1))
    assert stage.active == 3


def test_stale_plan_is_ignored(stage: Stage) -> None:
    stage.join_all()
    stage.hold_plans = True
    stage.submit(ChangeStrategy(DEMO, "edge"), ChangeStrategy(DEMO, "device"))
    late, current = stage.plans[-2:]
    stage.submit(stage.plan(late))
    assert stage.active == 1
    stage.submit(stage.plan(current))
    assert stage.active == 2 and set(stage.tiers) == {Tier.DEVICE}


def test_model_switch_loads_and_profiles_while_the_old_epoch_runs(stage: Stage) -> None:
    """Its operators were never profiled here, so nothing can be said of them."""
    stage.kind = "conv3d"
    stage.join_all()
    for script in stage.scripts.values():
        script.kind = "linear"
    stage.scripts[CLOUD].silent.add(ProfileModel)
    stage.submit(ChangeModel(DEMO, ModelSpec("vgg16")))
    assert (stage.active, stage.phase) == (1, "profiling")
    stage.answer(Epoch(1), 1, 2)
    view = stage.coordinator.view(DEMO)
    assert view.model == "vgg16" and view.counting, "its frames go on meanwhile"
    stage.say(CLOUD, Profiled(ModelSpec("vgg16"), (0.0, 0.005, 0.005, 0.005), False, 1.0))
    assert stage.states() == {1: "draining", 2: "active"}
    assert len(stage.heard(DEVICE, MeasureLinks)) == 1
    view = stage.coordinator.view(DEMO)
    assert view.graph is not None and view.model == "vgg16"


def test_a_model_of_known_operators_is_planned_at_once_and_measured_when_no_frames_flow(
    stage: Stage,
) -> None:
    stage.join_all()
    stage.submit(ChangeModel(DEMO, ModelSpec("vgg16")))
    assert stage.active == 2 and stage.phase == "running"
    view = stage.coordinator.view(DEMO)
    assert set(view.guessed) == set(stage.scripts)
    assert view.profile_s[Tier.CLOUD][1:] == pytest.approx((0.005,) * 3, rel=0.3)
    assert "predicted from other networks" in stage.notes("info")[-1]
    stage.tick(2.0)
    assert all(len(stage.heard(agent, ProfileModel)) == 1 for agent in stage.scripts), "frames flow"
    stage.submit(StopRun(DEMO))
    stage.end_source(2, 2)
    stage.tick(2.0)
    assert all(len(stage.heard(agent, ProfileModel)) == 2 for agent in stage.scripts)
    said = stage.notes("info")
    assert any("pi-1 has measured vgg16: its time was predicted" in text for text in said)
    assert "vgg16 is measured now: epoch 2 kept, because the plan is the same" in said[-1]
    view = stage.coordinator.view(DEMO)
    assert view.guessed == () and view.profile_s[Tier.CLOUD] == (0.0, 0.005, 0.005, 0.005)


def test_a_background_measurement_that_fails_is_not_asked_for_again_and_again(stage: Stage) -> None:
    stage.join_all()
    stage.submit(ChangeModel(DEMO, ModelSpec("vgg16")), StopRun(DEMO))
    stage.end_source(2, 2)
    for script in stage.scripts.values():
        script.silent.add(ProfileModel)
    stage.tick(1.0)
    asked = len(stage.heard(CLOUD, ProfileModel))
    stage.say(CLOUD, ModelFailed(ModelSpec("vgg16"), "out of memory"))
    stage.tick(2.0)
    assert len(stage.heard(CLOUD, ProfileModel)) == asked
    assert stage.active == 2 and CLOUD not in stage.coordinator.view(DEMO).guessed


def test_pins_go_by_model(make_stage: MakeStage) -> None:
    pins = {"alexnet": (Pin("fire*", (Tier.DEVICE,)),), "vgg16": (Pin("conv1", (Tier.DEVICE,)),)}
    stage = make_stage(pins=pins)
    stage.join_all()
    assert stage.phase == "failed" and "fire*" in stage.notes("error")[0]
    stage.submit(ChangeModel(DEMO, ModelSpec("vgg16")))
    assert stage.tiers == (Tier.DEVICE, Tier.DEVICE, Tier.CLOUD, Tier.CLOUD)


def test_lost_edge_is_planned_around(stage: Stage) -> None:
    stage.join_all()
    stage.lose(EDGE_1)
    assert stage.states() == {1: "draining", 2: "active"}
    view = stage.coordinator.view(DEMO)
    assert view.route[Tier.EDGE] == EDGE_2
    assert stage.starts == 1
    last = stage.heard(DEVICE, Activate)[-1]
    assert last.epoch == 2 and stage.heard(DEVICE, Abandon) == [Abandon(DEMO, Epoch(1))]


def test_lost_agent_off_the_route_changes_nothing(stage: Stage) -> None:
    stage.join_all()
    stage.lose(EDGE_2)
    assert stage.states() == {1: "active"}


def test_without_any_edge_device_and_cloud_are_neighbours(stage: Stage) -> None:
    stage.join_all()
    stage.lose(EDGE_2)
    stage.lose(EDGE_1)
    assert stage.coordinator.view(DEMO).route == {Tier.DEVICE: DEVICE, Tier.CLOUD: CLOUD}
    prepare = stage.heard(CLOUD, Prepare)[-1]
    assert isinstance(prepare, Prepare) and [peer.agent for peer in prepare.peers] == [DEVICE]
    assert stage.phase == "running"


def test_without_anybody_the_device_goes_on_alone(stage: Stage) -> None:
    stage.join_all()
    for agent in (EDGE_2, EDGE_1, CLOUD):
        stage.lose(agent)
    assert set(stage.tiers) == {Tier.DEVICE}
    assert stage.phase == "running"


def test_a_device_that_answers_alone_has_worked_though_it_tells_of_no_spans(stage: Stage) -> None:
    stage.join_all()
    assert stage.coordinator.world.agents[DEVICE].worked_s is None
    report = FrameReport(FrameId(1), Epoch(1), "cat.jpg", stage.now - 0.3, stage.now, alone=True)
    stage.say(DEVICE, FramesAnswered(DEMO, 1, (report,)))
    assert stage.coordinator.world.agents[DEVICE].worked_s == stage.now


def test_agent_that_comes_back_is_loaded_measured_and_used(stage: Stage) -> None:
    stage.join_all()
    stage.lose(EDGE_1)
    stage.join(EDGE_1)
    assert stage.heard(EDGE_1, LoadModel)
    assert stage.heard(EDGE_1, ProfileModel)
    assert stage.coordinator.view(DEMO).route[Tier.EDGE] == EDGE_1
    assert stage.active == 3


def test_agent_lost_while_preparing_leads_to_another_plan(stage: Stage) -> None:
    for agent in (DEVICE, EDGE_2, CLOUD):
        stage.join(agent)
    stage.join(EDGE_1, silent=Prepare)
    assert stage.phase == "preparing"
    stage.lose(EDGE_1)
    assert stage.states() == {1: "failed", 2: "active"}
    assert stage.coordinator.view(DEMO).route[Tier.EDGE] == EDGE_2


def test_lost_device_ends_its_epochs_and_its_run_goes_on_when_it_is_back(stage: Stage) -> None:
    stage.join_all()
    stage.answer(Epoch(1), 1, 2, 3, 4)
    stage.lose(DEVICE)
    assert stage.states() == {1: "retired"}
    assert stage.phase == "waiting"
    assert stage.heard(CLOUD, Retire) == [Retire(DEMO, Epoch(1))]
    stage.join(DEVICE)
    assert stage.phase == "running"
    assert stage.heard(DEVICE, StartSource) == [StartSource(DEMO, 6)]


def test_silent_agent_is_lost_after_two_seconds(stage: Stage) -> None:
    stage.join_all()
    stage.tick(1.9, hearts=False)
    assert not stage.closed
    for agent in (DEVICE, EDGE_2, CLOUD):
        stage.say(agent, Heartbeat())
    stage.tick(0.3, hearts=False)
    assert [command.connection for command in stage.closed] == [stage.connections[EDGE_1]]
    assert stage.coordinator.view(DEMO).route[Tier.EDGE] == EDGE_2


def test_a_server_that_slept_blames_nobody(stage: Stage) -> None:
    stage.join_all()
    stage.tick()
    stage.now += 3600
    stage.submit(Ticked())
    assert not stage.closed


def test_agent_busy_loading_may_be_silent_for_longer(stage: Stage) -> None:
    for agent in (DEVICE, EDGE_1, EDGE_2, CLOUD):
        stage.join(agent, silent=LoadModel)
    stage.tick(10, hearts=False)
    assert not stage.closed
    stage.tick(21, hearts=False)
    assert len(stage.closed) == 4


def test_load_that_never_ends_is_given_up(stage: Stage) -> None:
    stage.join(DEVICE, EDGE_1, EDGE_2)
    stage.join(CLOUD, silent=LoadModel)
    stage.tick(301)
    assert stage.phase == "failed"
    assert "did not load in time" in stage.notes("error")[0]


def test_second_agent_of_a_name_is_refused(stage: Stage) -> None:
    stage.join_all()
    other = msgspec.structs.replace(stage.scripts[EDGE_1].register, pid=1)
    stage.submit(AgentJoined(99, other))
    assert [(command.connection, command.code) for command in stage.closed] == [(99, 4003)]
    stage.submit(AgentLost(99, "refused"))
    assert stage.phase == "running"


def test_same_process_over_a_new_connection_takes_over(stage: Stage) -> None:
    stage.join_all()
    old = stage.connections[EDGE_1]
    stage.join(EDGE_1)
    assert [(command.connection, command.code) for command in stage.closed] == [(old, 4009)]
    stage.submit(AgentLost(old, "closed"))
    assert stage.coordinator.world.is_connected(EDGE_1)
    assert stage.phase == "running"


def test_agent_on_the_wrong_tier_is_refused(make_stage: MakeStage) -> None:
    stage = make_stage(edges=(EDGE_1,), cloud=EDGE_2)
    stage.join(EDGE_2)
    assert stage.closed[0].code == 4003
    assert "configured as cloud" in stage.notes("error")[0]


def test_link_that_cannot_be_measured_is_planned_without(stage: Stage) -> None:
    for agent in (EDGE_1, EDGE_2, CLOUD):
        stage.join(agent)
    stage.join(DEVICE, silent=MeasureLinks)
    stage.say(DEVICE, LinkFailed(EDGE_1, "refused"), LinkFailed(EDGE_2, "refused"))
    assert set(stage.tiers) == {Tier.DEVICE}
    assert "link pi-1→edge-1 cannot be used: refused" in stage.notes("warn")


def test_what_was_said_of_the_link_to_a_dead_process_is_not_held_against_the_next_one(stage: Stage) -> None:
    stage.join(EDGE_2, CLOUD)
    stage.join(DEVICE, silent=MeasureLinks)
    stage.join(EDGE_1)
    stage.lose(EDGE_1)
    stage.say(DEVICE, LinkFailed(EDGE_1, "reset by peer"))
    assert not stage.notes("warn")[1:], "only that edge-1 is lost"
    before = len(stage.heard(DEVICE, MeasureLinks))
    stage.join(EDGE_1)
    stage.say(DEVICE, LinkFailed(EDGE_2, "refused"))
    asked = stage.heard(DEVICE, MeasureLinks)[before:]
    assert any(peer.agent == EDGE_1 for order in asked for peer in order.peers)


def test_lost_link_is_measured_again_and_prepared_anew(stage: Stage) -> None:
    stage.join_all()
    stage.say(DEVICE, LinkLost(DEMO, Epoch(1), EDGE_1, "reset"))
    stage.say(EDGE_1, LinkLost(DEMO, Epoch(1), DEVICE, "reset"))
    assert len(stage.heard(DEVICE, MeasureLinks)) == 2
    assert stage.states() == {1: "draining", 2: "active"}
    last = stage.heard(DEVICE, Activate)[-1]
    assert last.epoch == 2 and stage.heard(DEVICE, Abandon) == [Abandon(DEMO, Epoch(1))]


def test_link_that_only_an_older_epoch_lost_costs_its_frames_no_patience(stage: Stage) -> None:
    stage.join_all()
    stage.submit(ChangeStrategy(DEMO, "device"))
    assert stage.states() == {1: "draining", 2: "active"}
    stage.say(EDGE_1, LinkLost(DEMO, Epoch(1), DEVICE, "closed"))
    assert stage.heard(DEVICE, Abandon) == [Abandon(DEMO, Epoch(1))]
    assert stage.states() == {1: "draining", 2: "active"}, "the plan in force does not need it"


def test_frame_that_failed_is_said_and_changes_no_plan(stage: Stage) -> None:
    stage.join_all()
    stage.say(CLOUD, FrameFailed(DEMO, Epoch(1), FrameId(3), "step 1 failed"))
    assert stage.states() == {1: "active"}
    assert stage.notes("error") == ["vm-1: frame 3: step 1 failed"]
    assert stage.heard(DEVICE, Abandon) == [Abandon(DEMO, Epoch(1), FrameId(3))]


def test_epochs_go_on_from_the_last_one_in_the_store(make_stage: MakeStage) -> None:
    stage = make_stage(last_epoch=41)
    stage.join_all()
    assert stage.active == 42


def test_epoch_that_a_device_still_runs_is_never_given_out_again(make_stage: MakeStage) -> None:
    stage = make_stage(last_epoch=3)
    stage.join(DEVICE, EDGE_1, CLOUD)
    stage.say(DEVICE, Drained(DEMO, Epoch(7)))
    assert stage.heard(EDGE_1, Retire) == [Retire(DEMO, Epoch(7))]
    stage.join(EDGE_2)
    assert stage.active == 8


def test_epoch_life_refuses_an_illegal_move_and_stays_as_it_was(stage: Stage) -> None:
    stage.join_all()
    life = stage.coordinator.pipelines[DEMO].epochs[Epoch(1)].life
    with pytest.raises(IllegalTransition, match="prepare is not allowed in state active"):
        life.move("prepare")
    assert stage.states() == {1: "active"}


def test_start_waits_for_a_plan_and_stop_takes_it_back(make_stage: MakeStage) -> None:
    stage = make_stage(autostart=False)
    stage.submit(StartRun(DEMO, 5, 2))
    stage.submit(StopRun(DEMO))
    stage.join_all()
    assert (stage.phase, stage.starts) == ("idle", 0)
    stage.submit(StartRun(DEMO, 5, 2))
    assert stage.heard(DEVICE, StartSource) == [StartSource(DEMO, 5, 2)]
    stage.submit(StopRun(DEMO))
    assert stage.heard(DEVICE, StopSource)
    stage.end_source(3, 2)
    stage.tick(1.0)
    assert stage.phase == "idle"
    assert stage.coordinator.runs()[0].frames.lost == 0


def test_rows_of_one_decision_share_its_cause(stage: Stage) -> None:
    stage.join_all()
    stage.submit(ChangeStrategy(DEMO, "edge"))
    cause = stage.coordinator.cause_of(DEMO)
    tables = {record.table for record in stage.records if record.row.get("cause_id") == cause}
    assert tables >= {"plans", "epochs", "decisions"}


def test_shutdown_stops_all_agents(stage: Stage) -> None:
    stage.join_all()
    stage.submit(Shutdown("the demo is over"))
    assert all(stage.heard(agent, Stop) == [Stop("the demo is over")] for agent in stage.scripts)


@pytest.mark.parametrize("seed", range(40))
def test_events_in_any_order_never_break_it(make_stage: MakeStage, seed: int) -> None:
    """Random facts and orders, sensible or not: no exception, epochs grow, at most one is active."""
    dice = random.Random(seed)
    stage = make_stage()
    model = ModelSpec("alexnet")
    agents = [DEVICE, EDGE_1, EDGE_2, CLOUD]
    numbers: list[int] = []
    for _ in range(150):
        agent, epoch = dice.choice(agents), Epoch(dice.randrange(12))
        messages: list[FromAgent] = [
            Ready(DEMO, epoch, 0.1),
            Ready(PipelineId("other"), epoch, 0.1),
            Drained(DEMO, epoch),
            PrepareFailed(DEMO, epoch, "odd"),
            LinkLost(DEMO, epoch, dice.choice(agents), "odd"),
            LinkFailed(dice.choice(agents), "odd"),
            ModelFailed(model, "odd"),
            Profiled(model, (0.0, 0.1, 0.1, 0.1), True, 0.0),
            SourceEnded(DEMO, 3, 2),
            Heartbeat(1, 2, 3),
        ]
        orders: list[Event] = [
            ChangeStrategy(DEMO, dice.choice(["device", "edge", "cloud", "optimal"])),
            ChangeModel(DEMO, ModelSpec(dice.choice(["alexnet", "vgg16"]))),
            StartRun(DEMO, 3, 1),
            StopRun(DEMO),
        ]
        choice = dice.random()
        if choice < 0.3 and not stage.coordinator.world.is_connected(agent):
            stage.join(agent, silent=dice.choice([None, Prepare, LoadModel, ProfileModel, MeasureLinks]))
        elif choice < 0.35 and agent in stage.scripts:
            stage.lose(agent)
        elif choice < 0.7 and agent in stage.scripts:
            stage.say(agent, dice.choice(messages))
        elif choice < 0.85:
            stage.submit(dice.choice(orders))
        else:
            stage.tick(dice.choice([0.1, 1.0]), hearts=dice.random() < 0.9)
        states = stage.states()
        assert list(states.values()).count("active") <= 1
        numbers.extend(number for number in states if number not in numbers)
    assert numbers == sorted(numbers)
    assert stage.coordinator.snapshot().pipelines[0].id == DEMO
