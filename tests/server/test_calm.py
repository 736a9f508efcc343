"""What keeps plans from following what is no change: of a machine that is slow for a moment, of what is over
before the plan for it is ready, of tiles that would only be cut otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from d3bed.core.ids import AgentId, Epoch, PipelineId, Tier
from d3bed.core.messages import LinkMeasured, Prepare, Ready
from d3bed.plan import Choice
from d3bed.server.runner import choice_for
from d3bed.server.stalls import WAIT_S

if TYPE_CHECKING:
    from tests.server.conftest import MakeStage, Stage

DEMO = PipelineId("demo")
DEVICE, EDGE_1, EDGE_2, CLOUD = AgentId("pi-1"), AgentId("edge-1"), AgentId("edge-2"), AgentId("vm-1")
EDGE_S = 0.020


def frames(stage: Stage, slower: float, count: int) -> None:
    """Of edge-1, whose layers take so many times as long as profiled."""
    for number in range(count):
        epoch = Epoch(stage.active)
        start_s = stage.now - 3 * EDGE_S * slower
        stage.say(EDGE_1, stage.scripts[EDGE_1].compute(number, epoch, start_s, stage.now))
        stage.tick(0.1)


def on_edge_1(make_stage: MakeStage, *, speed: float, hosts: dict[AgentId, str]) -> Stage:
    stage = make_stage(strategy="edge", frames=None, adapt=True)
    stage.hosts = hosts
    stage.join(DEVICE, CLOUD)
    stage.join(EDGE_1, EDGE_2, speed=speed)
    assert stage.coordinator.view(DEMO).route[Tier.EDGE] == EDGE_1
    stage.tick(1)
    frames(stage, 1.0, 8)
    return stage


def both_slower(stage: Stage, one: float = 2.0, other: float = 1.5) -> None:
    """The one in use more than the other one, which samples tell of."""
    stage.scripts[EDGE_2].slower = other
    frames(stage, one, 5)


def test_boards_of_one_machine_that_are_slower_together_for_a_moment_are_no_reason(
    make_stage: MakeStage,
) -> None:
    stage = on_edge_1(make_stage, speed=0.5, hosts={})
    both_slower(stage)
    assert stage.active == 1
    stage.scripts[EDGE_2].slower = 1.0
    frames(stage, 1.0, 60)
    assert stage.active == 1
    held = [text for text in stage.notes("info") if "together" in text]
    assert held == ["edge-1, edge-2 became slower together: it may be their machine, and over in a moment"]


def test_what_lasts_is_followed_though_it_began_together(make_stage: MakeStage) -> None:
    stage = on_edge_1(make_stage, speed=0.5, hosts={})
    both_slower(stage)
    assert stage.active == 1
    frames(stage, 2.0, round(WAIT_S / 0.1) + 3)
    assert stage.active == 2 and stage.coordinator.view(DEMO).route[Tier.EDGE] == EDGE_2


@pytest.mark.parametrize(("speed", "hosts"), [(1.0, {}), (0.5, {EDGE_2: "desktop"})])
def test_boards_that_share_no_cores_are_believed_at_once(
    make_stage: MakeStage, speed: float, hosts: dict[AgentId, str]
) -> None:
    stage = on_edge_1(make_stage, speed=speed, hosts=hosts)
    both_slower(stage)
    assert stage.active == 2 and stage.coordinator.view(DEMO).route[Tier.EDGE] == EDGE_2


def test_a_board_much_slower_than_its_neighbour_is_believed_at_once(make_stage: MakeStage) -> None:
    stage = on_edge_1(make_stage, speed=0.5, hosts={})
    both_slower(stage, 4.0, 1.5)
    assert stage.active == 2 and not [text for text in stage.notes("info") if "together" in text]


def test_a_plan_for_what_is_over_by_the_time_it_is_ready_is_called_off(make_stage: MakeStage) -> None:
    stage = on_edge_1(make_stage, speed=1.0, hosts={})
    stage.scripts[EDGE_2].silent.add(Prepare)
    frames(stage, 2.0, 4)
    assert stage.active == 1 and stage.scripts[EDGE_2].count(Prepare) == 1, "it gets ready"
    frames(stage, 1.0, 4)
    stage.say(EDGE_2, Ready(DEMO, Epoch(2), 0.8))
    assert stage.active == 1
    kept = [text for text in stage.notes("info") if "kept" in text]
    assert "edge-1 became 2.0× faster meanwhile: " in kept[-1]
    frames(stage, 1.0, 30)
    assert stage.active == 1 and stage.scripts[EDGE_2].count(Prepare) == 1


def test_a_plan_for_what_goes_on_comes_into_force_however_long_it_takes(make_stage: MakeStage) -> None:
    stage = on_edge_1(make_stage, speed=1.0, hosts={})
    stage.scripts[EDGE_2].silent.add(Prepare)
    frames(stage, 2.0, 20)
    stage.say(EDGE_2, Ready(DEMO, Epoch(2), 0.8))
    assert stage.active == 2


def test_a_change_that_matters_to_neither_plan_moves_none_and_hides_none(make_stage: MakeStage) -> None:
    """What a board strays by within its band is no reason, whoever else gives the occasion to look at it; and
    it is no new middle of that band."""
    stage = on_edge_1(make_stage, speed=1.0, hosts={})
    frames(stage, 1.2, 60)
    for _ in range(2):
        stage.say(CLOUD, LinkMeasured(EDGE_2, 2e7, 0.001, 0.002, quick=True))
    stage.tick(1)
    assert stage.active == 1
    (kept,) = [text for text in stage.notes("info") if "kept" in text]
    assert "vm-1→edge-2 rose" in kept and "what has changed matters to neither plan (74 → 65 ms" in kept
    frames(stage, 1.3, 10)
    assert stage.active == 2


def test_plans_that_only_cut_other_tiles_have_frames_at_the_same_places(make_stage: MakeStage) -> None:
    stage = make_stage(strategy="edge", frames=None, adapt=True)
    stage.size = 32
    stage.join_all()
    epoch = stage.coordinator.pipelines[DEMO].active
    assert epoch is not None and epoch.plan.tiles, "or this tells nothing"

    def planned(slower: float) -> Choice:
        command = stage.plans[-1]
        times_s = tuple(slower * time_s for time_s in command.profiles[EDGE_2])
        return choice_for(replace(command, profiles={**command.profiles, EDGE_2: times_s}))

    assert planned(1.3).plan != epoch.plan and epoch.places_alike(planned(1.3))
    assert not epoch.places_alike(planned(100.0)), "nobody helps any more"
