"""Decisions: each has one record that says what was seen, what could be done, what was done and what came."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from d3bed.core.ids import AgentId, Epoch, FrameId, PipelineId
from d3bed.core.measurements import FrameReport
from d3bed.core.messages import Drained, FramesAnswered, Prepare, PrepareFailed, ProfileModel
from d3bed.server.events import ChangeStrategy, StopRun
from d3bed.server.views import DecisionView

if TYPE_CHECKING:
    from tests.server.conftest import MakeStage, Stage

DEMO = PipelineId("demo")
DEVICE, EDGE_1, EDGE_2 = AgentId("pi-1"), AgentId("edge-1"), AgentId("edge-2")


@pytest.fixture
def on_edge(make_stage: MakeStage) -> Stage:
    stage: Stage = make_stage(strategy="edge", frames=None, adapt=True)
    stage.join_all()
    stage.tick(1)
    return stage


def slow(stage: Stage, agent: AgentId, taken_s: float, frames: int = 5) -> None:
    """The agent runs its three layers in `taken_s` for some frames."""
    for number in range(frames):
        span = stage.scripts[agent].compute(number, Epoch(stage.active), stage.now - taken_s, stage.now)
        stage.say(agent, span)
        stage.tick(0.1)
    stage.tick(0.2)


def answer(stage: Stage, epoch: int, *latencies_s: float, attempts: int = 1) -> None:
    now = stage.now
    reports = tuple(
        FrameReport(FrameId(n), Epoch(epoch), "cat.jpg", now - s, now, "cat", attempts)
        for n, s in enumerate(latencies_s)
    )
    stage.say(DEVICE, FramesAnswered(DEMO, 100, reports))


def latest(stage: Stage) -> DecisionView:
    return stage.coordinator.decisions()[-1]


def stored(stage: Stage) -> dict[object, dict[str, object]]:
    """The rows of decisions as the store keeps them: the last of each cause."""
    return {r.row["cause_id"]: r.row for r in stage.records if r.table == "decisions"}


def test_a_move_says_what_was_seen_and_what_each_way_was_predicted_to_take(on_edge: Stage) -> None:
    slow(on_edge, EDGE_1, 0.120)
    made = latest(on_edge)
    assert (made.choice, made.epoch, made.measured_s, made.error) == ("move", 2, None, None)
    (change,) = made.seen
    assert (change.subject, change.quantity, change.before) == (EDGE_1, "factor", 1.0)
    assert change.after == pytest.approx(2.0) and change.spread == pytest.approx(0.0)
    assert made.kept_s == pytest.approx(0.122, abs=0.001)
    assert made.predicted_s == pytest.approx(0.065, abs=0.001)
    ways = {way.plan: way.predicted_s for way in made.alternatives}
    assert next(iter(ways)) == "all on vm-1"  # the fastest, but the strategy is the edge alone
    assert ways[made.plan] == made.predicted_s and "edge-2" in made.plan
    assert ways["as it was: 1 vertex on the device (pi-1), 3 vertices on the edge (edge-1)"] == made.kept_s
    assert ways["all on pi-1"] == pytest.approx(0.3)
    assert list(ways.values()) == sorted(ways.values())


def test_the_sentence_ends_with_what_was_measured_and_is_said_once(on_edge: Stage) -> None:
    slow(on_edge, EDGE_1, 0.120)
    answer(on_edge, 2, 0.064, 0.063, 0.500, 0.066, 0.067, 0.066, 0.066)
    assert latest(on_edge).measured_s is None
    answer(on_edge, 2, 0.068)
    made = latest(on_edge)
    assert made.measured_s == pytest.approx(0.066) and made.frames == 8
    assert made.error == pytest.approx(0.066 / made.predicted_s - 1) if made.predicted_s else False
    words = "1 vertex on the device (pi-1), 3 vertices on the edge (edge-2)"
    said = f"edge-1 became 2.0× slower → epoch 2: {words}; predicted 122 → 65 ms a frame, measured 66 ms"
    assert made.text == said
    assert [text for text in on_edge.notes() if "edge-1 became" in text] == [said]
    assert stored(on_edge)[made.cause_id]["view"] == msgspec.to_builtins(made)
    answer(on_edge, 2, 0.5)
    assert latest(on_edge) == made


def test_the_gain_of_a_move_is_measured_from_the_last_frame_before_it(on_edge: Stage) -> None:
    answer(on_edge, 1, 0.064, 0.064)
    slow(on_edge, EDGE_1, 0.120)
    answer(on_edge, 1, 0.122)  # it was under way when the plan changed
    answer(on_edge, 2, *[0.066] * 8)
    made = latest(on_edge)
    assert made.before_s == pytest.approx(0.122) and made.measured_s == pytest.approx(0.066)
    assert made.text.endswith("predicted 122 → 65 ms a frame, measured 122 → 66 ms, 1.8 times as fast")
    on_edge.submit(ChangeStrategy(DEMO, "device"))
    answer(on_edge, 3, *[0.3] * 8)
    assert latest(on_edge).text.endswith("measured 66 → 300 ms")


def test_without_a_frame_before_a_move_no_gain_is_told(on_edge: Stage) -> None:
    answer(on_edge, 1, 5.0, attempts=2)
    on_edge.submit(ChangeStrategy(DEMO, "device"))
    answer(on_edge, 2, *[0.3] * 8)
    made = latest(on_edge)
    assert made.before_s is None and made.text.endswith("ms a frame, measured 300 ms")


def test_all_that_belongs_to_a_move_shares_its_cause(on_edge: Stage) -> None:
    slow(on_edge, EDGE_1, 0.120)
    made = latest(on_edge)
    assert on_edge.coordinator.pipelines[DEMO].epochs[Epoch(2)].wish.cause_id == made.cause_id
    tables = {r.table for r in on_edge.records if r.row.get("cause_id") == made.cause_id}
    assert tables == {"decisions", "plans", "epochs"}
    kinds = {event.kind for event in on_edge.published if event.cause_id == made.cause_id}
    assert kinds >= {"decision", "epoch"}


def test_not_to_move_is_a_decision_that_is_always_stored_and_said_when_it_is_news(
    make_stage: MakeStage,
) -> None:
    stage = make_stage(strategy="device", frames=None, adapt=True)
    stage.join_all()
    stage.tick(1)
    slow(stage, DEVICE, 0.6)
    made = latest(stage)
    assert (made.choice, made.epoch, made.reason) == ("keep", 1, "the plan is the same")
    assert made.predicted_s == made.kept_s == pytest.approx(0.6)
    assert made.text == "pi-1 became 2.0× slower: epoch 1 kept, because the plan is the same"
    slow(stage, DEVICE, 1.2, frames=10)
    assert latest(stage) == made
    assert [row["choice"] for row in stored(stage).values()] == ["move", "keep", "keep"]


def test_a_failure_names_its_problem_and_what_goes_on(on_edge: Stage) -> None:
    on_edge.scripts[DEVICE].silent.add(Prepare)
    on_edge.submit(ChangeStrategy(DEMO, "device"))
    on_edge.say(DEVICE, PrepareFailed(DEMO, Epoch(2), "out of memory"))
    made = latest(on_edge)
    assert (made.choice, made.epoch, made.level) == ("fail", 1, "error")
    problem = "pi-1 could not prepare epoch 2: out of memory"
    assert made.text == f"strategy device chosen: {problem}; epoch 1 goes on"


def test_frames_that_ran_twice_say_nothing_about_the_plan(on_edge: Stage) -> None:
    answer(on_edge, 1, *[5.0] * 8, attempts=2)
    assert latest(on_edge).measured_s is None


@pytest.mark.parametrize(("frames", "measured_s"), [(2, None), (3, 0.07)])
def test_an_epoch_that_is_over_early_is_measured_by_what_there_is(
    on_edge: Stage, frames: int, measured_s: float | None
) -> None:
    answer(on_edge, 1, *[0.07] * frames)
    first = latest(on_edge).cause_id
    on_edge.submit(ChangeStrategy(DEMO, "device"))
    on_edge.say(DEVICE, Drained(DEMO, Epoch(1)))
    (made,) = [d for d in on_edge.coordinator.decisions() if d.cause_id == first]
    assert made.measured_s == pytest.approx(measured_s) if measured_s else made.measured_s is None


def test_where_frames_wait_for_each_other_the_prediction_of_one_alone_is_not_judged(
    make_stage: MakeStage,
) -> None:
    stage = make_stage(strategy="edge", frames=None, in_flight=4)
    stage.join_all()
    answer(stage, 1, *[0.3] * 8)
    made = latest(stage)
    assert made.measured_s == pytest.approx(0.3) and made.error is None


def test_only_so_many_decisions_are_shown_and_all_are_stored(stage: Stage) -> None:
    stage.join_all()
    for turn in range(60):
        stage.submit(ChangeStrategy(DEMO, ("edge", "device")[turn % 2]))
        stage.submit(ChangeStrategy(DEMO, ("edge", "device")[turn % 2]))
    assert len(stage.coordinator.decisions()) == 100
    assert len(stored(stage)) == 121
    assert stage.coordinator.snapshot().decisions == tuple(stage.coordinator.decisions())


def test_three_predictions_in_a_row_that_fail_have_an_agent_profiled_anew_once_no_frames_flow(
    make_stage: MakeStage,
) -> None:
    stage = make_stage(strategy="device", frames=None)
    stage.join_all()

    def fail(strategy: str, latency_s: float) -> None:
        stage.submit(ChangeStrategy(DEMO, strategy))
        answer(stage, stage.active, *[latency_s] * 8)

    answer(stage, 1, *[0.9] * 8)
    fail("edge", 0.9)
    assert not stage.notes("warn")
    slow(stage, EDGE_1, 0.120)
    fail("cloud", 0.9)
    (said,) = stage.notes("warn")
    assert said.startswith("3 predictions in a row failed, the last by +")
    assert "profiles anew when no frames flow" in said
    before = {agent: len(stage.heard(agent, ProfileModel)) for agent in stage.scripts}
    stage.tick(1.0)
    assert before == {agent: len(stage.heard(agent, ProfileModel)) for agent in stage.scripts}
    stage.submit(StopRun(DEMO))
    stage.end_source(30, 30)
    stage.tick(2.0)
    fresh = [order for agent in stage.scripts for order in stage.heard(agent, ProfileModel)]
    assert sum(order.fresh for order in fresh if isinstance(order, ProfileModel)) == 1


def failing(stage: Stage) -> str:
    """Three predictions fail, under strategies edge, device and edge again; returns what is said of it."""
    for strategy in ("edge", "device", "edge"):
        if strategy != "edge" or stage.active > 1:
            stage.submit(ChangeStrategy(DEMO, strategy))
        if stage.active > 2:
            slow(stage, EDGE_1, 0.120)
        answer(stage, stage.active, *[0.9] * 8)
    (said,) = stage.notes("warn")
    return said


def test_an_agent_alone_on_its_machine_profiles_anew_while_frames_do_without_it(
    make_stage: MakeStage,
) -> None:
    stage = make_stage(strategy="edge", frames=None)
    stage.hosts = {agent: str(agent) for agent in (DEVICE, EDGE_1, EDGE_2)}
    stage.join_all()
    said = failing(stage)
    assert "edge-1 takes" in said and said.endswith("and profiles anew")
    left = stage.coordinator.pipelines[DEMO].active
    assert left is not None and EDGE_1 not in left.agents and EDGE_2 in left.agents
    stage.tick(1)
    assert stage.count_fresh(EDGE_1) == 0, "frames under way need it still"
    for number in range(1, stage.active):
        stage.say(DEVICE, Drained(DEMO, Epoch(number)))
    stage.tick(1)
    assert stage.count_fresh(EDGE_1) == 1
    assert EDGE_1 in stage.coordinator.pipelines[DEMO].members, "it is planned with again"


def test_one_that_frames_cannot_do_without_goes_on(make_stage: MakeStage) -> None:
    stage = make_stage(strategy="edge", frames=None, edges=(EDGE_1,), cloud=None)
    stage.hosts = {agent: str(agent) for agent in (DEVICE, EDGE_1)}
    stage.join_all()
    assert failing(stage).endswith("and profiles anew")
    stage.tick(5)
    active = stage.coordinator.pipelines[DEMO].active
    assert active is not None and EDGE_1 in active.agents and stage.count_fresh(EDGE_1) == 0


def test_predictions_that_hold_in_between_start_the_count_anew(make_stage: MakeStage) -> None:
    stage = make_stage(strategy="device", frames=None)
    stage.join_all()
    for turn, error in enumerate((2.0, 2.0, 1.0, 2.0, 2.0)):
        made = latest(stage)
        assert made.predicted_s is not None
        answer(stage, stage.active, *[error * made.predicted_s] * 8)
        stage.submit(ChangeStrategy(DEMO, ("edge", "device")[turn % 2]))
    assert not stage.notes("warn")
