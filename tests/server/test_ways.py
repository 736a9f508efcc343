"""Agents that cannot be dialled: by way of whom they are reached, chosen, told, and given up again."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from d3bed.core.checks import LinkCheck
from d3bed.core.ids import AgentId, Epoch
from d3bed.core.messages import (
    CheckLinks,
    KeepLines,
    LinkFailed,
    LinkLost,
    LinksChecked,
    MeasureLinks,
    Prepare,
)
from d3bed.core.ways import Way
from d3bed.server.ways import RETRY_S
from tests.server.conftest import CLOUD, DEVICE, EDGE_1, EDGE_2, PIPELINE, MakeStage, Stage

ALL = (DEVICE, EDGE_1, EDGE_2, CLOUD)


@pytest.fixture
def stage(make_stage: MakeStage) -> Stage:
    """Every agent may have to send to every other one, unless links are emulated."""
    return make_stage(shapes={}, adapt=True, frames=None)


def hide(stage: Stage, *hidden: AgentId, but: Iterable[tuple[AgentId, AgentId]] = ()) -> None:
    """Nobody can dial these, other than the pairs in `but`."""
    for agent in ALL:
        stage.walls[agent] = {h for h in hidden if h != agent and (agent, h) not in set(but)}


def hide_two(stage: Stage) -> None:
    """Each behind a NAT of its own: neither can open a line to the other."""
    hide(stage, DEVICE, EDGE_1)
    stage.deaf = {DEVICE: {DEVICE}, EDGE_1: {EDGE_1}}


def via(stage: Stage, source: AgentId, target: AgentId) -> AgentId | None:
    return next(v.via for v in stage.coordinator.links() if (v.source, v.target) == (source, target))


def lines(stage: Stage, agent: AgentId) -> list[AgentId]:
    """Where an agent was told to keep lines last."""
    told = stage.heard(agent, KeepLines)
    return [peer.agent for peer in told[-1].at] if told else []


def test_without_walls_nobody_keeps_lines(stage: Stage) -> None:
    stage.join(*ALL)
    assert stage.phase == "running"
    assert all(v.via is None and not v.blocked for v in stage.coordinator.links())
    assert not any(stage.heard(agent, KeepLines) for agent in ALL)


def test_who_cannot_be_dialled_opens_lines_to_those_that_want_to_send(stage: Stage) -> None:
    hide(stage, DEVICE)
    stage.join(*ALL)
    assert stage.phase == "running"
    for agent in (EDGE_1, EDGE_2, CLOUD):
        assert via(stage, agent, DEVICE) == agent and via(stage, DEVICE, agent) is None
    assert lines(stage, DEVICE) == [EDGE_1, EDGE_2, CLOUD]
    peers = {p.agent: p for order in stage.heard(CLOUD, Prepare) for p in order.peers}
    assert peers[DEVICE].way == Way(CLOUD, "127.0.0.1:4000"), "frames go as the link was measured"
    assert "link vm-1→pi-1 goes over a line that pi-1 opens: no answer at 127.0.0.1:4000" in stage.notes(
        "warn"
    )


@pytest.mark.parametrize(("fast", "slow"), [(CLOUD, EDGE_2), (EDGE_2, CLOUD)])
def test_two_that_cannot_be_dialled_meet_at_the_third_that_carries_most(
    stage: Stage, fast: AgentId, slow: AgentId
) -> None:
    hide_two(stage)
    stage.rates[DEVICE] = stage.rates[EDGE_1] = {fast: 9e6, slow: 5e6}
    stage.join(*ALL)
    assert via(stage, EDGE_1, DEVICE) == fast
    assert fast in lines(stage, DEVICE) and fast in lines(stage, EDGE_1)
    assert stage.phase == "running"
    assert any(f"link edge-1→pi-1 goes by way of {fast}" in note for note in stage.notes())


def test_a_way_that_does_not_get_through_is_not_taken_again(stage: Stage) -> None:
    hide_two(stage)
    stage.deaf[DEVICE].add(CLOUD)
    stage.join(*ALL)
    assert via(stage, DEVICE, EDGE_1) == EDGE_2
    assert EDGE_2 in lines(stage, EDGE_1)
    assert stage.phase == "running"


def test_where_no_way_is_left_plans_do_without_and_all_are_tried_again(stage: Stage) -> None:
    hide_two(stage)
    stage.deaf[DEVICE] |= {CLOUD, EDGE_2}
    stage.join(*ALL)
    assert via(stage, DEVICE, EDGE_1) is None and stage.phase == "running"
    assert any("link pi-1→edge-1 cannot be used" in note for note in stage.notes("warn"))
    stage.deaf[DEVICE] -= {CLOUD, EDGE_2}
    stage.tick(12)
    assert via(stage, DEVICE, EDGE_1) is not None, "by one of those that did not get through before"


def test_when_the_one_between_is_lost_another_takes_its_place(stage: Stage) -> None:
    hide_two(stage)
    stage.join(*ALL)
    between = via(stage, DEVICE, EDGE_1)
    assert between in (EDGE_2, CLOUD)
    other = EDGE_2 if between == CLOUD else CLOUD
    stage.lose(between)
    stage.say(DEVICE, LinkLost(PIPELINE, Epoch(stage.active), EDGE_1, "the relay left"))
    stage.tick(1)
    assert via(stage, DEVICE, EDGE_1) == other and between not in lines(stage, EDGE_1)
    stage.lose(other)
    stage.tick(1)
    assert via(stage, DEVICE, EDGE_1) in (None, DEVICE)
    stage.join(other)
    stage.tick(12)
    assert via(stage, DEVICE, EDGE_1) == other and other in lines(stage, EDGE_1)


def test_an_agent_that_comes_anew_is_dialled_first(stage: Stage) -> None:
    hide(stage, DEVICE)
    stage.join(*ALL)
    stage.lose(DEVICE)
    assert via(stage, CLOUD, DEVICE) is None
    hide(stage)
    for script in stage.scripts.values():
        script.walls = set()
    stage.join(DEVICE)
    stage.tick(1)
    assert via(stage, CLOUD, DEVICE) is None and not stage.heard(DEVICE, KeepLines)


def test_direct_links_are_tried_again_and_taken_when_they_work(stage: Stage) -> None:
    hide(stage, DEVICE)
    stage.join(*ALL)
    assert not stage.heard(CLOUD, CheckLinks)
    stage.tick(RETRY_S + 1)
    (asked,) = stage.heard(CLOUD, CheckLinks)
    (peer,) = asked.peers
    assert peer.agent == DEVICE and peer.way is None
    check = LinkCheck(DEVICE, peer.address, "silent", "no answer in 3 s")
    stage.say(CLOUD, LinksChecked(asked.number, (check,), (0.0, 0.0)))
    assert via(stage, CLOUD, DEVICE) == CLOUD
    stage.scripts[CLOUD].walls = set()
    open_ = LinkCheck(DEVICE, peer.address, rtt_s=0.001, bytes_per_s=1e7)
    stage.say(CLOUD, LinksChecked(asked.number, (open_,), (0.0, 0.0)))
    assert via(stage, CLOUD, DEVICE) is None and lines(stage, DEVICE) == [EDGE_1, EDGE_2]
    assert any("vm-1 reaches pi-1 directly now" in note for note in stage.notes("info"))
    before = stage.active
    stage.tick(12)
    assert stage.phase == "running" and stage.active == before + 1, "frames need not wait for another plan"
    peers = {p.agent: p for order in stage.heard(CLOUD, Prepare) for p in order.peers}
    assert peers[DEVICE].way is None
    stage.tick(12)
    assert stage.active == before + 1


def test_a_peer_that_answers_its_address_but_fails_is_not_gone_round(stage: Stage) -> None:
    stage.join(EDGE_1, EDGE_2, CLOUD)
    stage.join(DEVICE, silent=MeasureLinks)
    stage.say(DEVICE, LinkFailed(EDGE_1, "refused: edge-1 is not registered yet"))
    assert via(stage, DEVICE, EDGE_1) is None and not stage.heard(EDGE_1, KeepLines)


def test_what_is_said_of_links_that_nobody_knows_changes_nothing(stage: Stage) -> None:
    stage.join(*ALL)
    before = stage.coordinator.links()
    checks = (LinkCheck(AgentId("ghost"), "x:1"), LinkCheck(EDGE_1, "x:1"))
    stage.say(DEVICE, LinksChecked(7, checks, (0.0, 0.0)), LinkFailed(AgentId("ghost"), "x", True))
    assert [(v.source, v.target, v.via) for v in stage.coordinator.links()] == [
        (v.source, v.target, v.via) for v in before
    ]
