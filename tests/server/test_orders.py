"""What users asked for: pending until who it is for says so, done or failed by their word."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from d3bed.core.ids import AgentId, PipelineId
from d3bed.core.messages import Confirm, Confirmed, SetLoad, ShapeLink
from d3bed.server.events import (
    Change,
    ChangeRate,
    ChangeStrategy,
    EndAgent,
    StartRun,
    StopRun,
    Undo,
)
from d3bed.server.orders import KEPT, PATIENCE_S
from d3bed.server.views import OrderView

if TYPE_CHECKING:
    from tests.server.conftest import MakeStage, Stage

DEMO = PipelineId("demo")
DEVICE, EDGE_1, EDGE_2 = AgentId("pi-1"), AgentId("edge-1"), AgentId("edge-2")
WIFI = (DEVICE, EDGE_1)


@pytest.fixture
def running(make_stage: MakeStage) -> Stage:
    stage: Stage = make_stage(frames=None, adapt=True)
    stage.join_all()
    return stage


def last(stage: Stage) -> OrderView:
    return stage.coordinator.snapshot().orders[-1]


def test_change_of_a_link_is_done_when_its_sender_has_confirmed_it(running: Stage) -> None:
    running.scripts[DEVICE].silent.add(Confirm)
    running.submit(Change(WIFI, {"bytes_per_s": 1e6}, "ann", for_s=30))
    order = last(running)
    assert (order.what, order.by, order.state) == ("pi-1→edge-1: 8 Mbit/s", "ann", "pending")
    assert order.action == {
        "action": "link", "from": "pi-1", "to": "edge-1", "mbit_per_s": 8.0, "for_s": 30.0,
    }  # fmt: skip
    assert [type(m) for m in running.scripts[DEVICE].heard[-2:]] == [ShapeLink, Confirm]
    running.say(EDGE_1, Confirmed(order.id))  # not its order to confirm
    assert last(running).state == "pending"
    running.say(DEVICE, Confirmed(order.id))
    done = last(running)
    assert (done.state, done.answer, done.ended_s) == ("done", "pi-1 confirms", running.now)


def test_what_an_agent_could_not_do_has_failed_with_its_reason(running: Stage) -> None:
    running.scripts[EDGE_1].silent.add(Confirm)
    running.submit(Change((EDGE_1,), {"load": 2}, "ann"))
    assert running.heard(EDGE_1, SetLoad) == [SetLoad(2)]
    running.say(EDGE_1, Confirmed(last(running).id, "SetLoad: no more processes"))
    assert (last(running).state, last(running).answer) == ("failed", "edge-1: SetLoad: no more processes")


def test_an_agent_that_says_nothing_or_leaves_fails_its_orders(running: Stage) -> None:
    running.scripts[EDGE_1].silent.add(Confirm)
    running.submit(Change((EDGE_1,), {"speed": 0.5}, "ann"))
    running.tick(PATIENCE_S + 0.1)
    assert last(running).answer == "edge-1 did not confirm within 10 s"
    running.submit(Undo((EDGE_1,), ("speed",), "bob"))
    assert last(running).what == "edge-1: speed as configured"
    running.lose(EDGE_1)
    assert (last(running).state, last(running).answer) == ("failed", "edge-1 left before it could confirm")


def test_undoing_nothing_is_done_at_once(running: Stage) -> None:
    running.submit(Undo(WIFI, ("bytes_per_s", "latency_s", "loss"), "ann"))
    assert (last(running).state, last(running).answer) == ("done", "nothing of it was changed")
    assert last(running).action == {"action": "reset", "from": "pi-1", "to": "edge-1"}


def test_killing_is_done_when_the_agent_is_gone(running: Stage) -> None:
    running.submit(EndAgent(EDGE_2, crash=True, by="ann"))
    assert (last(running).what, last(running).state) == ("edge-2: crash", "pending")
    running.lose(EDGE_2)
    assert (last(running).state, last(running).answer) == ("done", "edge-2 is gone")


def test_strategy_is_done_with_its_epoch_in_force_and_not_before(running: Stage) -> None:
    running.hold_plans = True
    running.submit(ChangeStrategy(DEMO, "device", by="ann"))
    first = last(running)
    assert (first.what, first.state) == ("strategy device", "pending")
    running.submit(ChangeStrategy(DEMO, "edge", by="bob"))
    before, order = running.coordinator.snapshot().orders[-2:]
    assert (before.id, before.state) == (first.id, "failed")
    assert before.answer == "bob asked for something else: strategy edge"
    running.submit(running.plan(running.plans[-1]))
    done = last(running)
    assert (done.id, done.state) == (order.id, "done")
    assert done.answer == f"epoch {running.active} is in force"


def test_rate_start_and_stop_are_confirmed_by_the_device(running: Stage) -> None:
    running.submit(ChangeRate(DEMO, 12.0, "ann"))
    assert (last(running).what, last(running).answer) == ("12 frames/s", "pi-1 confirms")
    running.submit(StopRun(DEMO, "ann"))
    assert (last(running).what, last(running).state) == ("stop", "done")
    running.end_source(3, 3)
    running.submit(ChangeRate(DEMO, None, "ann"))
    assert last(running).answer == "it holds from the next run on"
    running.submit(StopRun(DEMO, "ann"))
    assert last(running).answer == "no frames flow"
    running.submit(StartRun(DEMO, 5, None, "ann"))
    assert (last(running).what, last(running).answer) == ("start 5 frames", "pi-1 confirms")


def test_a_run_asked_for_too_early_waits_for_its_plan(make_stage: MakeStage) -> None:
    stage = make_stage(autostart=False)
    stage.submit(StartRun(DEMO, 5, None, "ann"))
    assert last(stage).state == "pending"
    stage.tick(PATIENCE_S + 1)
    assert last(stage).state == "pending"
    stage.join_all()
    assert (last(stage).state, last(stage).answer) == ("done", "pi-1 confirms")


def test_only_the_last_orders_are_shown(running: Stage) -> None:
    for number in range(KEPT + 5):
        running.submit(Change((EDGE_1,), {"load": 1 + number % 3}, "ann"))
    assert len(running.coordinator.snapshot().orders) == KEPT
