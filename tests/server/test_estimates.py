"""What live spans and transfers say: kept per agent and link, shown, and used by the next plan only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from d3bed.core.ids import AgentId, Epoch, PipelineId, Tier
from d3bed.core.measurements import LinkRate
from d3bed.core.messages import LinkLost, MeasureLinks
from d3bed.server.events import ChangeStrategy, StopRun
from d3bed.server.views import AgentView, LinkView

if TYPE_CHECKING:
    from tests.server.conftest import MakeStage, Stage

DEMO = PipelineId("demo")
DEVICE, EDGE_1, EDGE_2, CLOUD = AgentId("pi-1"), AgentId("edge-1"), AgentId("edge-2"), AgentId("vm-1")
#: What the scripted edge says: three layers of 20 ms; and links of 10 MB/s, 1 ms.
EDGE_S, PROBED = 0.020, LinkRate(1e7, 0.001)


@pytest.fixture
def on_edge(make_stage: MakeStage) -> Stage:
    """The whole network runs on edge-1, frames without end."""
    stage: Stage = make_stage(strategy="edge", frames=None)
    stage.join_all()
    assert stage.tiers[1:] == (Tier.EDGE,) * 3 and stage.phase == "running"
    return stage


def run(stage: Stage, *slowness: float, agent: AgentId = EDGE_1, epoch: int = 1) -> None:
    for number, factor in enumerate(slowness):
        stage.now += 0.2
        span = stage.scripts[agent].compute(number, Epoch(epoch), stage.now - 3 * EDGE_S * factor, stage.now)
        stage.say(agent, span)


def agent_of(stage: Stage, agent: AgentId) -> AgentView:
    return next(view for view in stage.coordinator.snapshot().agents if view.agent == agent)


def link_of(stage: Stage, source: AgentId, target: AgentId) -> LinkView:
    return next(v for v in stage.coordinator.snapshot().links if (v.source, v.target) == (source, target))


def test_a_loaded_board_is_shown_within_five_frames_and_nothing_is_replanned(on_edge: Stage) -> None:
    run(on_edge, *[1.0] * 20, *[2.0] * 5)
    view = agent_of(on_edge, EDGE_1)
    assert view.factor == pytest.approx(2.0) and view.factor_spread is not None
    assert agent_of(on_edge, DEVICE).factor is None, "it has run nothing yet"
    assert on_edge.active == 1 and len(on_edge.plans) == 1


def test_the_next_plan_expects_what_spans_have_shown(on_edge: Stage) -> None:
    run(on_edge, *[2.0] * 5)
    on_edge.submit(ChangeStrategy(DEMO, "optimal"))
    profiles = on_edge.plans[-1].profiles
    assert profiles[EDGE_1] == pytest.approx((0.0, *[2 * EDGE_S] * 3))
    assert profiles[EDGE_2] == (0.0, *[0.021] * 3), "another agent is not corrected"
    run(on_edge, *[1.0] * 5)
    on_edge.submit(ChangeStrategy(DEMO, "edge"))
    assert on_edge.plans[-1].profiles[EDGE_1] == pytest.approx((0.0, *[EDGE_S] * 3))


def test_an_edge_that_is_loaded_gives_way_to_its_neighbour_in_the_next_plan(on_edge: Stage) -> None:
    assert on_edge.coordinator.view(DEMO).route[Tier.EDGE] == EDGE_1
    run(on_edge, *[1.5] * 5)
    on_edge.submit(ChangeStrategy(DEMO, "edge"))
    view = on_edge.coordinator.view(DEMO)
    assert view.route[Tier.EDGE] == EDGE_2
    assert view.profile_s[Tier.EDGE] == (0.0, *[0.021] * 3)


def test_one_slow_frame_is_not_shown(on_edge: Stage) -> None:
    run(on_edge, *[1.0] * 6, 40.0, 1.0)
    assert agent_of(on_edge, EDGE_1).factor == pytest.approx(1.0)


def test_spans_of_an_unknown_epoch_or_of_an_agent_off_the_route_tell_nothing(on_edge: Stage) -> None:
    run(on_edge, *[2.0] * 5, epoch=77)
    run(on_edge, *[2.0] * 5, agent=EDGE_2)
    assert agent_of(on_edge, EDGE_1).factor is None and agent_of(on_edge, EDGE_2).factor is None


def test_what_a_lost_agent_showed_is_forgotten(on_edge: Stage) -> None:
    run(on_edge, *[2.0] * 5)
    on_edge.lose(EDGE_1)
    assert agent_of(on_edge, EDGE_1).factor is None
    on_edge.join(EDGE_1)
    assert agent_of(on_edge, EDGE_1).factor is None


def transfer(stage: Stage, *rates: float, size: int = 400_000) -> None:
    for bytes_per_s in rates:
        stage.now += 0.2
        stage.transfer(DEVICE, EDGE_1, size, size / bytes_per_s, 1e7)


def test_a_probe_is_the_first_estimate(on_edge: Stage) -> None:
    on_edge.tick(2)
    view = link_of(on_edge, DEVICE, EDGE_1)
    assert view.estimate_bytes_per_s == view.bytes_per_s == PROBED.bytes_per_s
    assert view.estimate_spread is None and view.estimate_age_s == pytest.approx(2)


def test_transfers_over_a_fallen_link_are_shown_and_used_by_the_next_plan(on_edge: Stage) -> None:
    transfer(on_edge, *[1e7] * 8, *[2e6] * 4)
    view = link_of(on_edge, DEVICE, EDGE_1)
    assert view.estimate_bytes_per_s == pytest.approx(2e6)
    assert view.bytes_per_s == PROBED.bytes_per_s, "the probe stays what it was"
    assert view.estimate_spread is not None and view.estimate_age_s == pytest.approx(0.0)
    assert len(on_edge.plans) == 1
    on_edge.submit(ChangeStrategy(DEMO, "optimal"))
    rates = on_edge.plans[-1].rates
    assert rates[DEVICE, EDGE_1].bytes_per_s == pytest.approx(2e6)
    assert rates[DEVICE, EDGE_1].latency_s == PROBED.latency_s
    assert rates[EDGE_1, DEVICE] == PROBED


def test_estimates_are_published(on_edge: Stage) -> None:
    transfer(on_edge, *[2e6] * 6)
    run(on_edge, *[2.0] * 5)
    on_edge.tick(1.0)
    links = [e.data for e in on_edge.published if isinstance(e.data, LinkView)]
    assert links[-1].estimate_bytes_per_s == pytest.approx(2e6)


def test_small_transfers_do_not_change_what_plans_are_made_with(on_edge: Stage) -> None:
    transfer(on_edge, *[1e6] * 20, size=4000)
    on_edge.submit(ChangeStrategy(DEMO, "optimal"))
    assert on_edge.plans[-1].rates[DEVICE, EDGE_1] == PROBED


def test_a_lost_link_is_measured_anew_and_its_transfers_are_forgotten(on_edge: Stage) -> None:
    transfer(on_edge, *[2e6] * 6)
    on_edge.say(DEVICE, LinkLost(DEMO, Epoch(1), EDGE_1, "broken pipe"))
    assert on_edge.plans[-1].rates[DEVICE, EDGE_1] == PROBED


def test_idle_links_are_probed_again_before_the_next_plan_once_their_estimates_are_old(
    on_edge: Stage,
) -> None:
    on_edge.tick(61)
    probes = len(on_edge.heard(DEVICE, MeasureLinks))
    on_edge.submit(ChangeStrategy(DEMO, "cloud"))
    assert len(on_edge.heard(DEVICE, MeasureLinks)) == probes, "not while frames flow"
    on_edge.submit(StopRun(DEMO))
    on_edge.end_source(3, 3)
    on_edge.submit(ChangeStrategy(DEMO, "edge"))
    assert len(on_edge.heard(DEVICE, MeasureLinks)) == probes + 1
    assert link_of(on_edge, DEVICE, EDGE_1).estimate_age_s == pytest.approx(0.0)
    on_edge.submit(ChangeStrategy(DEMO, "device"))
    assert len(on_edge.heard(DEVICE, MeasureLinks)) == probes + 1, "that was just done"
    assert on_edge.tiers == (Tier.DEVICE,) * 4
