"""Plans follow changed conditions while frames flow: when, why, and how calmly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from d3bed.core.ids import AgentId, Epoch, PipelineId, Tier
from d3bed.core.messages import (
    Abandon,
    Activate,
    LinkMeasured,
    LoadModel,
    MeasureLinks,
    ModelFailed,
    ProfileModel,
    SampleSpeed,
)
from d3bed.plan import Pin
from d3bed.server.events import Change, StopRun

if TYPE_CHECKING:
    from tests.server.conftest import MakeStage, Stage

DEMO = PipelineId("demo")
DEVICE, EDGE_1, EDGE_2, CLOUD = AgentId("pi-1"), AgentId("edge-1"), AgentId("edge-2"), AgentId("vm-1")
EDGE_S = 0.020


@pytest.fixture
def on_edge(make_stage: MakeStage) -> Stage:
    """The whole network runs on edge-1, frames without end, and the plan may follow."""
    stage: Stage = make_stage(strategy="edge", frames=None, adapt=True)
    stage.join_all()
    assert stage.tiers[1:] == (Tier.EDGE,) * 3 and stage.phase == "running"
    stage.tick(1)  # what the first frames say counts for little
    return stage


def slow(stage: Stage, factor: float, frames: int = 5, *, agent: AgentId = EDGE_1) -> None:
    """Frames whose layers take `factor` times as long as profiled, told by the agent that runs them."""
    for number in range(frames):
        epoch = Epoch(stage.active)
        stage.say(
            agent, stage.scripts[agent].compute(number, epoch, stage.now - 3 * EDGE_S * factor, stage.now)
        )
        stage.tick(0.1)


def route(stage: Stage) -> dict[Tier, AgentId]:
    return stage.coordinator.view(DEMO).route


def test_a_loaded_edge_gives_way_and_the_reason_is_said(on_edge: Stage) -> None:
    slow(on_edge, 2.0)
    on_edge.tick(0.2)
    assert route(on_edge)[Tier.EDGE] == EDGE_2
    assert on_edge.active == 2
    said = next(text for text in on_edge.notes("info") if "epoch 2" in text)
    assert said.startswith("edge-1 became 2.0× slower → epoch 2: ")
    assert said.endswith("predicted 122 → 65 ms a frame")
    (activate,) = on_edge.heard(DEVICE, Activate)[1:]
    assert isinstance(activate, Activate) and activate.epoch == 2 and not on_edge.heard(DEVICE, Abandon)


def test_noise_inside_the_band_changes_nothing(on_edge: Stage) -> None:
    for factor in (1.2, 0.9, 1.15, 0.85, 1.2) * 5:
        slow(on_edge, factor, 1)
    assert on_edge.active == 1 and len(on_edge.plans) == 1


def test_where_no_plan_is_enough_better_the_old_one_is_kept_and_asked_about_only_once(
    make_stage: MakeStage,
) -> None:
    stage = make_stage(strategy="device", frames=None, adapt=True)
    stage.join_all()
    for number in range(40):
        stage.say(DEVICE, stage.scripts[DEVICE].compute(number, Epoch(1), stage.now - 0.6, stage.now))
        stage.tick(0.1)
    assert stage.active == 1
    kept = [text for text in stage.notes("info") if "kept" in text]
    assert kept == ["pi-1 became 2.0× slower: epoch 1 kept, because the plan is the same"]
    assert len(stage.plans) == 2


def test_a_change_for_which_there_is_no_plan_is_not_asked_about_at_every_tick(make_stage: MakeStage) -> None:
    pins = {"alexnet": (Pin("conv2", (Tier.EDGE,)),)}
    stage = make_stage(strategy="optimal", frames=None, adapt=True, pins=pins)
    stage.join_all()
    stage.lose(EDGE_1)
    stage.lose(EDGE_2)
    before, said = len(stage.plans), len(stage.notes("error"))
    assert said == 1 and "the device answers alone" in stage.notes("error")[0]
    assert "the device answers alone: no feasible plan" in stage.phase_text
    for number in range(100):
        stage.say(DEVICE, stage.scripts[DEVICE].compute(number, Epoch(1), stage.now - 3, stage.now))
        stage.tick(0.1)
    assert 2 <= len(stage.plans) - before <= 11, "about one a second"
    assert len(stage.notes("error")) == said + 1, "and said once"
    stage.join(EDGE_2)
    stage.tick(2)
    assert route(stage)[Tier.EDGE] == EDGE_2
    assert "alone" not in stage.phase_text


def test_a_fallen_link_moves_the_plan(make_stage: MakeStage) -> None:
    stage = make_stage(strategy="optimal", frames=None, adapt=True)
    stage.join_all()
    assert stage.tiers[1:] == (Tier.CLOUD,) * 3
    for _ in range(8):
        stage.transfer(EDGE_1, CLOUD, 400_000, 400_000 / 1e3, 1e7)
        stage.tick(0.1)
    stage.tick(0.2)
    assert stage.active == 2
    assert (EDGE_1, CLOUD) not in {(route(stage).get(Tier.EDGE), route(stage).get(Tier.CLOUD))}
    assert any("edge-1→vm-1 fell from 80 to 0.008 Mbit/s" in text for text in stage.notes("info"))


@pytest.mark.parametrize("changes", [{"adapt": False}, {}])
def test_a_fixed_plan_or_a_stopped_source_is_left_alone(
    make_stage: MakeStage, changes: dict[str, object]
) -> None:
    stage = make_stage(strategy="edge", frames=None, **{"adapt": True, **changes})
    stage.join_all()
    if not changes:
        stage.submit(StopRun(DEMO))
        stage.end_source(3, 3)
    slow(stage, 3.0, 10)
    assert stage.active == 1 and len(stage.plans) == 1


def test_links_that_carry_nothing_are_looked_at_again_while_frames_flow(on_edge: Stage) -> None:
    before = len(on_edge.heard(CLOUD, MeasureLinks))
    on_edge.tick(0.5)
    assert len(on_edge.heard(CLOUD, MeasureLinks)) == before
    on_edge.tick(60)
    asked = on_edge.heard(CLOUD, MeasureLinks)[before:]
    assert 20 <= len(asked) <= 30 and all(look.quick for look in asked)
    assert on_edge.active == 1


def test_an_idle_agent_whose_load_is_over_is_seen_and_used_again(on_edge: Stage) -> None:
    on_edge.scripts[EDGE_1].slower = 3.0
    slow(on_edge, 3.0)
    on_edge.tick(0.2)
    assert route(on_edge)[Tier.EDGE] == EDGE_2
    slow(on_edge, 1.7, 40, agent=EDGE_2)
    assert route(on_edge)[Tier.EDGE] == EDGE_2, "samples say that edge-1 is still loaded"
    on_edge.scripts[EDGE_1].slower = 1.0
    slow(on_edge, 1.7, 40, agent=EDGE_2)
    assert route(on_edge)[Tier.EDGE] == EDGE_1
    assert any(text.startswith("edge-1 became 3.0× faster → epoch 3") for text in on_edge.notes("info"))


def test_a_plan_moves_to_no_agent_that_nobody_heard_of_since(on_edge: Stage) -> None:
    on_edge.tick(0.2)
    on_edge.scripts[EDGE_2].slower = 4.0  # what slows the one in use slows the other one even more
    slow(on_edge, 2.0)
    on_edge.tick(0.5)
    assert route(on_edge)[Tier.EDGE] == EDGE_1 and on_edge.active == 1
    assert any("kept" in text for text in on_edge.notes("info"))


def test_what_may_be_used_instead_is_looked_at_with_the_first_frame_that_is_off(on_edge: Stage) -> None:
    """So that nobody waits for that once it is sure."""
    slow(on_edge, 1.0, 4)
    asked = [len(on_edge.heard(EDGE_2, kind)) for kind in (SampleSpeed, MeasureLinks)]
    slow(on_edge, 2.0, 1)
    assert [len(on_edge.heard(EDGE_2, kind)) for kind in (SampleSpeed, MeasureLinks)] == [
        n + 1 for n in asked
    ]
    slow(on_edge, 2.0, 2)
    assert on_edge.active == 2 and len(on_edge.plans) == 2, "planned once, and at once"
    assert [len(on_edge.heard(EDGE_2, kind)) for kind in (SampleSpeed, MeasureLinks)] == [
        n + 1 for n in asked
    ]


def test_links_that_are_back_together_cost_one_switch(make_stage: MakeStage) -> None:
    stage = make_stage(strategy="optimal", frames=None, adapt=True, cloud=None, tiling="none")
    stage.size = 224
    stage.join_all()
    two_links_fall(stage)
    assert stage.tiers[1:] == (Tier.DEVICE,) * 3
    stage.tick(5)
    active = stage.active
    stage.scripts[DEVICE].links = {}
    stage.tick(4)
    assert (stage.active, route(stage)[Tier.EDGE]) == (active + 1, EDGE_1)
    stage.tick(5)
    assert stage.active == active + 1


def test_what_links_to_a_device_show_is_believed_of_those_from_it(make_stage: MakeStage) -> None:
    """They share its radio, and the first to be seen back may be one that only brings answers."""
    stage = make_stage(strategy="optimal", frames=None, adapt=True, cloud=None, tiling="none")
    stage.size = 224
    stage.join_all()
    for edge in (EDGE_1, EDGE_2):
        stage.scripts[edge].links[DEVICE] = 5e4
    two_links_fall(stage)
    stage.tick(10)
    active, plans, looks = stage.active, len(stage.plans), len(stage.heard(DEVICE, MeasureLinks))
    assert stage.tiers[1:] == (Tier.DEVICE,) * 3
    for agent in (DEVICE, EDGE_1, EDGE_2):
        stage.scripts[agent].links = {}
    for _ in range(2):
        stage.say(EDGE_2, LinkMeasured(DEVICE, 1e7, 0.001, 0.002, quick=True))
    assert len(stage.plans) == plans + 1
    seen = stage.plans[plans].rates
    assert seen[DEVICE, EDGE_1].bytes_per_s == seen[DEVICE, EDGE_2].bytes_per_s == pytest.approx(1e7)
    asked = stage.heard(DEVICE, MeasureLinks)[looks:]
    assert sorted(peer.agent for look in asked for peer in look.peers) == [EDGE_1, EDGE_2], "once each"
    assert (stage.active, route(stage)[Tier.EDGE]) == (active + 1, EDGE_1)
    stage.tick(5)
    assert stage.active == active + 1


def test_a_link_in_use_is_looked_at_before_a_plan_follows_its_neighbour(make_stage: MakeStage) -> None:
    """Frames cross it too seldom, and with too little, to tell that it is back as well."""
    pin = Pin("conv3", (Tier.EDGE,))
    stage = make_stage(
        strategy="optimal", frames=None, adapt=True, cloud=None, tiling="none", pins={"alexnet": (pin,)}
    )
    stage.size = 224
    stage.join_all()
    stage.scripts[DEVICE].links = dict.fromkeys((EDGE_1, EDGE_2), 1e6)
    for _ in range(40):
        stage.transfer(DEVICE, EDGE_1, 150_528, 0.150, 1e7)
        stage.tick(0.2)
    active, plans = stage.active, len(stage.plans)
    assert route(stage)[Tier.EDGE] == EDGE_1
    stage.scripts[DEVICE].links = {}
    stage.tick(0.7)  # no frame crosses it meanwhile, yet it is no idle link
    assert len(stage.plans) > plans
    seen = stage.plans[-1].rates
    assert seen[DEVICE, EDGE_1].bytes_per_s == seen[DEVICE, EDGE_2].bytes_per_s == pytest.approx(1e7)
    assert stage.active == active and route(stage)[Tier.EDGE] == EDGE_1


def test_two_links_in_use_that_fall_together_cost_one_plan(make_stage: MakeStage) -> None:
    """When the first one is sure, only one tensor has crossed the second one: it is looked at."""
    stage = make_stage(strategy="cloud", frames=None, adapt=True)
    stage.join_all()
    for _ in range(8):
        stage.transfer(DEVICE, EDGE_1, 150_528, 0.015, 1e7)
        stage.transfer(EDGE_1, CLOUD, 150_528, 0.015, 1e7)
        stage.tick(0.2)
    plans = len(stage.plans)
    stage.scripts[DEVICE].links, stage.scripts[EDGE_1].links = {EDGE_1: 1e6}, {CLOUD: 1e6}
    stage.transfer(DEVICE, EDGE_1, 150_528, 0.150, 1e7)
    stage.transfer(DEVICE, EDGE_1, 150_528, 0.150, 1e7)
    stage.transfer(EDGE_1, CLOUD, 150_528, 0.150, 1e7)
    stage.transfer(DEVICE, EDGE_1, 150_528, 0.150, 1e7)
    stage.tick(2)
    assert len(stage.plans) == plans + 1
    seen = stage.plans[-1].rates
    assert seen[DEVICE, EDGE_1].bytes_per_s == pytest.approx(1e6, rel=0.01)
    assert seen[EDGE_1, CLOUD].bytes_per_s == pytest.approx(1e6, rel=0.01)


def test_one_slow_transfer_and_a_look_at_the_next_link_are_enough(make_stage: MakeStage) -> None:
    """Two witnesses of different kinds: neither would be believed alone."""
    stage = make_stage(strategy="edge", frames=None, adapt=True)
    stage.join_all()
    for _ in range(8):
        stage.transfer(DEVICE, EDGE_1, 150_528, 0.015, 1e7)
        stage.tick(0.2)
    plans = len(stage.plans)
    stage.transfer(DEVICE, EDGE_1, 150_528, 0.150, 1e7)
    stage.tick(0.2)
    assert len(stage.plans) == plans, "the next link is as it was"
    for _ in range(3):
        stage.transfer(DEVICE, EDGE_1, 150_528, 0.015, 1e7)
        stage.tick(1)
    assert len(stage.plans) == plans
    stage.scripts[DEVICE].links = dict.fromkeys((EDGE_1, EDGE_2), 1e6)
    stage.transfer(DEVICE, EDGE_1, 150_528, 0.150, 1e7)
    stage.tick(0.2)
    assert len(stage.plans) == plans + 1
    seen = stage.plans[-1].rates
    assert [seen[DEVICE, edge].bytes_per_s for edge in (EDGE_1, EDGE_2)] == pytest.approx(
        [1e6, 1e6], rel=0.01
    )
    stage.tick(1)
    assert len(stage.plans) == plans + 1


def test_a_link_in_use_follows_with_its_next_transfer_once_its_neighbour_has_changed(
    make_stage: MakeStage,
) -> None:
    stage = make_stage(strategy="edge", frames=None, adapt=True)
    stage.join_all()
    for _ in range(8):
        stage.transfer(DEVICE, EDGE_1, 150_528, 0.015, 1e7)
        stage.tick(0.2)
    plans = len(stage.plans)
    stage.scripts[DEVICE].silent.add(MeasureLinks)
    for _ in range(2):
        stage.say(DEVICE, LinkMeasured(EDGE_2, 1e6, 0.001, 0.002, quick=True))
    stage.tick(0.2)
    assert len(stage.plans) == plans, "the link in use is waited for"
    stage.transfer(DEVICE, EDGE_1, 150_528, 0.150, 1e7)
    assert len(stage.plans) == plans + 1
    assert stage.plans[-1].rates[DEVICE, EDGE_1].bytes_per_s == pytest.approx(1e6, rel=0.01)


def test_while_an_agent_gets_ready_plans_follow_without_it_and_then_with_it(on_edge: Stage) -> None:
    on_edge.lose(EDGE_1)
    assert route(on_edge)[Tier.EDGE] == EDGE_2
    on_edge.join(EDGE_1, silent=LoadModel)
    on_edge.tick(1.5)
    assert on_edge.phase == "running", "nobody waits for it"
    on_edge.scripts[EDGE_2].slower = 40.0
    slow(on_edge, 40.0, 8, agent=EDGE_2)
    on_edge.tick(1)
    epoch = on_edge.active
    assert any("edge-2 became" in text and "×" in text for text in on_edge.notes("info"))
    (order,) = on_edge.heard(EDGE_1, LoadModel)
    script = on_edge.scripts[EDGE_1]
    script.silent.clear()
    on_edge.say(EDGE_1, *script.answers(order))
    on_edge.tick(0.3)
    assert route(on_edge)[Tier.EDGE] == EDGE_1 and on_edge.active == epoch + 1
    assert any(text.startswith("edge-1 joined → epoch") for text in on_edge.notes("info"))


def test_looks_that_never_end_do_not_keep_an_agent_from_coming_back(on_edge: Stage) -> None:
    """Somebody always looks at something: no more looks begin while a profile waits for them."""
    on_edge.lose(EDGE_2)
    on_edge.scripts[CLOUD].silent.add(MeasureLinks)
    on_edge.tick(3)
    looks = len(on_edge.heard(DEVICE, MeasureLinks))
    on_edge.join(EDGE_2)
    assert not on_edge.heard(EDGE_2, ProfileModel), "vm-1 still looks"
    on_edge.tick(1)
    assert len(on_edge.heard(DEVICE, MeasureLinks)) == looks
    (*_, look) = on_edge.heard(CLOUD, MeasureLinks)
    on_edge.say(CLOUD, *(LinkMeasured(p.agent, 1e7, 0.001, 0.002, quick=True) for p in look.peers))
    assert on_edge.heard(EDGE_2, ProfileModel)


def test_an_agent_that_cannot_load_the_model_is_left_out_and_the_plan_goes_on(on_edge: Stage) -> None:
    on_edge.lose(EDGE_1)
    on_edge.join(EDGE_1, silent=LoadModel)
    (order,) = on_edge.heard(EDGE_1, LoadModel)
    on_edge.say(EDGE_1, ModelFailed(order.model, "no such weights"))
    on_edge.tick(1)
    assert on_edge.notes("error") == ["edge-1 is left out: no such weights"]
    assert on_edge.phase == "running" and len(on_edge.heard(EDGE_1, LoadModel)) == 1


def two_links_fall(stage: Stage) -> list[tuple[str, str]]:
    """Both of the device's links to the edge; the plan uses the first. Which moves were made then."""
    slow_s = 400_000 / 5e4
    stage.scripts[DEVICE].links[EDGE_2] = 5e4
    for _ in range(8):
        stage.transfer(DEVICE, EDGE_1, 400_000, slow_s, 1e7)
        stage.tick(0.1)
    stage.tick(0.3)
    return [
        (epoch.wish.cause, epoch.sentence()) for epoch in stage.coordinator.pipelines[DEMO].epochs.values()
    ][1:]


def test_a_plan_moves_to_no_link_that_nobody_heard_of_since(make_stage: MakeStage) -> None:
    """What happened to the link in use may have happened to the next one, too."""
    stage = make_stage(strategy="optimal", frames=None, adapt=True, cloud=None, tiling="none")
    stage.size = 224  # the photo takes 15 ms on a link, and 3 s on one that fell
    stage.join_all()
    assert route(stage)[Tier.EDGE] == EDGE_1
    stage.tick(1.2)
    looks = len(stage.heard(DEVICE, MeasureLinks))
    (move,) = two_links_fall(stage)
    assert stage.tiers[1:] == (Tier.DEVICE,) * 3, move
    asked = stage.heard(DEVICE, MeasureLinks)[looks:]
    assert [peer.agent for look in asked for peer in look.peers] == [EDGE_2, EDGE_2], "the first is doubted"


def test_a_changed_link_that_carries_nothing_is_measured_again_at_once(on_edge: Stage) -> None:
    before = len(on_edge.heard(DEVICE, MeasureLinks))
    on_edge.submit(Change((DEVICE, EDGE_2), {"bytes_per_s": 1e6}, "ann", for_s=3))
    on_edge.tick(0.2)
    asked = on_edge.heard(DEVICE, MeasureLinks)
    assert len(asked) == before + 1
    assert isinstance(asked[-1], MeasureLinks)
    assert [p.agent for p in asked[-1].peers] == [EDGE_2]
    on_edge.tick(0.5)
    assert len(on_edge.heard(DEVICE, MeasureLinks)) == before + 1, "now it is known"
    on_edge.tick(2)
    assert len(on_edge.heard(DEVICE, MeasureLinks)) > before + 1


def test_hpa_says_how_little_it_looked_at(make_stage: MakeStage) -> None:
    stage = make_stage(strategy="hpa", frames=None, adapt=True, edges=(EDGE_1,), cloud=None)
    stage.join_all()
    assert stage.tiers[1:] == (Tier.EDGE,) * 3
    slow(stage, 20.0, 8)
    stage.tick(0.2)
    assert stage.tiers[1:] == (Tier.DEVICE,) * 3
    said = next(text for text in stage.notes("info") if "epoch 2" in text)
    assert "vertices looked at" in said


def test_link_to_an_agent_that_is_not_back_yet_is_kept_after_a_restart_of_the_server(stage: Stage) -> None:
    stage.join(DEVICE)
    stage.say(DEVICE, LinkMeasured(CLOUD, 1e7, 0.001, 0.002))
    assert (DEVICE, CLOUD) in stage.coordinator.world.links
