"""Changes by users: what agents are told, when it ends, who replaced whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from d3bed.core.ids import AgentId, PipelineId
from d3bed.core.measurements import LinkShape
from d3bed.core.messages import Crash, Prepare, SetLoad, SetSpeed, ShapeLink, Stop, Welcome
from d3bed.server.conditions import loaded_speed
from d3bed.server.events import Change, ChangeStrategy, EndAgent, Undo
from d3bed.server.views import ConditionView

if TYPE_CHECKING:
    from tests.server.conftest import MakeStage, Stage

DEMO = PipelineId("demo")
DEVICE, EDGE_1, EDGE_2 = AgentId("pi-1"), AgentId("edge-1"), AgentId("edge-2")
WIFI, BASE = (DEVICE, EDGE_1), LinkShape(1e7, 0.001)


@pytest.fixture
def running(make_stage: MakeStage) -> Stage:
    stage: Stage = make_stage(frames=None, adapt=True)
    stage.join_all()
    assert stage.phase == "running"
    return stage


def shown(stage: Stage) -> tuple[ConditionView, ...]:
    return stage.coordinator.snapshot().conditions


def speed_shown(stage: Stage, agent: AgentId) -> float:
    return next(a.speed for a in stage.coordinator.snapshot().agents if a.agent == agent)


def test_a_changed_link_lies_over_what_is_configured_and_plans_are_not_told(running: Stage) -> None:
    running.submit(Change(WIFI, {"latency_s": 0.02}, "ann"))
    running.submit(Change(WIFI, {"bytes_per_s": 1e6}, "bob"))
    assert running.heard(DEVICE, ShapeLink) == [
        ShapeLink(EDGE_1, LinkShape(1e7, 0.02)),
        ShapeLink(EDGE_1, LinkShape(1e6, 0.02)),
    ]
    running.submit(ChangeStrategy(DEMO, "device"), ChangeStrategy(DEMO, "edge"))
    prepare = running.heard(DEVICE, Prepare)[-1]
    assert isinstance(prepare, Prepare)
    assert {p.agent: p.shape for p in prepare.peers}[EDGE_1] == BASE


def test_each_change_ends_at_its_own_time(running: Stage) -> None:
    running.submit(Change(WIFI, {"bytes_per_s": 1e6}, "ann", for_s=1))
    running.submit(Change(WIFI, {"latency_s": 0.02}, "ann", for_s=2))
    assert [(c.what, c.until_s) for c in shown(running)] == [("8 Mbit/s", 1001.0), ("20 ms", 1002.0)]
    running.tick(1.1)
    assert running.heard(DEVICE, ShapeLink)[-1] == ShapeLink(EDGE_1, LinkShape(1e7, 0.02))
    running.tick(1)
    assert running.heard(DEVICE, ShapeLink)[-1] == ShapeLink(EDGE_1, None)
    assert shown(running) == ()
    assert "pi-1→edge-1: 20 ms over, its time is over" in running.notes()


def test_the_later_of_two_people_holds_and_the_note_says_whom_it_replaced(running: Stage) -> None:
    running.submit(Change(WIFI, {"bytes_per_s": 1e6, "latency_s": 0.02}, "ann", for_s=1))
    running.submit(Change(WIFI, {"bytes_per_s": 2e6}, "bob"))
    assert running.notes()[-1] == "pi-1→edge-1: 16 Mbit/s, by bob, in place of 8 Mbit/s by ann"
    assert [(c.what, c.by) for c in shown(running)] == [("20 ms", "ann"), ("16 Mbit/s", "bob")]
    running.tick(1.1)
    assert [(c.what, c.by) for c in shown(running)] == [("16 Mbit/s", "bob")]


def test_undoing_brings_back_what_is_configured_and_nothing_else(running: Stage) -> None:
    running.submit(Change((EDGE_1,), {"speed": 0.5}, "ann"))
    running.submit(Change((EDGE_1,), {"load": 3}, "ann"))
    running.submit(Undo((EDGE_1,), ("load",), "bob"))
    assert running.notes()[-1] == "edge-1: 3 busy processes over, undone by bob"
    assert running.heard(EDGE_1, SetSpeed) == [SetSpeed(0.5), SetSpeed(0.125), SetSpeed(0.5)]
    before = len(running.notes())
    running.submit(Undo((EDGE_2,), ("load",), "bob"))
    assert len(running.notes()) == before


def test_a_real_board_carries_busy_processes(running: Stage) -> None:
    running.submit(Change((EDGE_1,), {"load": 2}, "ann", for_s=1))
    assert running.heard(EDGE_1, SetLoad) == [SetLoad(2)]
    assert [(c.what, c.emulated) for c in shown(running)] == [("2 busy processes", False)]
    running.tick(1.1)
    assert running.heard(EDGE_1, SetLoad) == [SetLoad(2), SetLoad(0)]
    assert running.heard(EDGE_1, SetSpeed) == []


def test_an_emulated_board_becomes_slower_and_that_is_said(running: Stage) -> None:
    running.lose(EDGE_2)
    running.join(EDGE_2, speed=0.4)
    running.submit(Change((EDGE_2,), {"load": 1}, "ann"))
    assert running.heard(EDGE_2, SetSpeed) == [SetSpeed(0.2)]
    assert running.heard(EDGE_2, SetLoad) == []
    assert speed_shown(running, EDGE_2) == 0.2
    assert "emulated: its speed drops" in running.notes()[-1]
    assert shown(running)[0].emulated


@pytest.mark.parametrize(
    ("base", "processes", "cores", "expected"),
    [
        (0.4, 0, 1, (0.4, 0)),
        (0.4, 1, 1, (0.2, 0)),
        (0.4, 3, 1, (0.1, 0)),
        (0.4, 2, 2, (0.2, 0)),
        (1.0, 3, 1, (1.0, 3)),
    ],
)
def test_load_shares_an_emulated_boards_cores_fairly(
    base: float, processes: int, cores: int, expected: tuple[float, int]
) -> None:
    assert loaded_speed(base, processes, cores) == expected


def test_a_new_process_starts_without_load_but_with_its_changed_links(running: Stage) -> None:
    running.submit(Change((DEVICE,), {"load": 2}, "ann"), Change((DEVICE,), {"speed": 0.5}, "ann"))
    running.submit(Change(WIFI, {"bytes_per_s": 1e6}, "ann"))
    running.lose(DEVICE)
    assert any("2 busy processes, speed 0.5 over, the agent is gone" in text for text in running.notes())
    running.join(DEVICE)
    heard = [
        m for m in running.scripts[DEVICE].heard if isinstance(m, Welcome | ShapeLink | SetLoad | SetSpeed)
    ]
    assert heard == [Welcome("secret", 0.5), ShapeLink(EDGE_1, LinkShape(1e6, 0.001))]
    assert speed_shown(running, DEVICE) == 1.0
    assert [c.what for c in shown(running)] == ["8 Mbit/s"]


def test_conditions_are_recorded_with_the_cause_that_their_notes_carry(running: Stage) -> None:
    running.submit(Change((EDGE_1,), {"load": 2}, "ann", for_s=1))
    running.tick(1.1)
    rows = [r.row for r in running.records if r.row.get("kind") == "condition"]
    data = [row["data"] for row in rows]
    assert [(d["event"], d["quantity"], d["value"]) for d in data if isinstance(d, dict)] == [
        ("begun", "load", 2.0),
        ("ended", "load", 2.0),
    ]
    assert len({row["cause_id"] for row in rows}) == 1


def test_an_agent_is_told_to_stop_or_to_crash_and_by_whom(running: Stage) -> None:
    running.submit(EndAgent(EDGE_1, crash=False, by="ann"), EndAgent(EDGE_2, crash=True, by="ann"))
    assert running.heard(EDGE_1, Stop) == [Stop("ann says so")]
    assert running.heard(EDGE_2, Crash) == [Crash()]
    assert "edge-2 was told to crash by ann" in running.notes()
