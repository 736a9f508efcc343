"""What is kept of every frame, and what happens when it cannot be kept."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from d3bed.core.ids import AgentId, Epoch, PipelineId, Tier
from d3bed.core.measurements import SpanKind
from d3bed.core.messages import LinkMeasured
from d3bed.server.about import about
from d3bed.server.circumstances import Circumstances
from d3bed.server.events import ChangeRate, ChangeStrategy, Noted, StartRun, StoreFailed, StoreRecovered
from d3bed.server.history import frame_series, frame_spans, run_history
from d3bed.server.store import Store

if TYPE_CHECKING:
    from tests.server.conftest import Stage

DEMO = PipelineId("demo")
DEVICE, CLOUD = AgentId("pi-1"), AgentId("vm-1")


def rows(stage: Stage, table: str) -> list[dict[str, object]]:
    return [record.row for record in stage.records if record.table == table]


def test_every_answered_frame_becomes_a_row_of_its_run_shown_or_not(stage: Stage) -> None:
    stage.join_all()
    stage.answer(Epoch(1), *range(1, 51), identical=True)
    stage.tick(1.0)
    (run,) = stage.coordinator.runs()
    assert len([event for event in stage.published if event.kind == "frame"]) < 50
    series = frame_series(run.id, rows(stage, "frames")[::-1])
    assert series.run == run.id
    assert series.frame == tuple(range(1, 51))
    assert series.latency_s == pytest.approx((0.3,) * 50)
    assert series.cloud_s == pytest.approx((0.02,) * 50)
    assert set(series.device_s) == {None}
    assert set(series.identical) == {True}


def test_frames_that_settle_after_the_next_run_began_belong_to_their_own(stage: Stage) -> None:
    stage.join_all()
    (run,) = stage.coordinator.runs()
    stage.scripts[CLOUD].silent.add(object)
    stage.answer(Epoch(1), 1)
    stage.end_source(1, 1)
    stage.tick(1.0)
    stage.answer(Epoch(1), 2)
    stage.tick(1.0)
    (later,) = stage.coordinator.runs()
    assert [row["run"] for row in rows(stage, "frames")] == [run.id, later.id]
    assert run.id != later.id


def test_spans_come_back_to_the_microsecond_with_their_clock_error(stage: Stage) -> None:
    stage.join_all()
    stage.answer(Epoch(1), 1)
    stage.tick(1.0)
    (row,) = rows(stage, "spans")
    kept = frame_spans(row)
    assert (kept.frame, kept.epoch) == (1, 1)
    assert kept.latency_s == pytest.approx(0.3, abs=1e-6)
    assert kept.clock_error_s[CLOUD] == 0.001
    (span,) = kept.spans
    assert (span.agent, span.tier, span.kind, span.vertices) == (CLOUD, Tier.CLOUD, SpanKind.COMPUTE, (1, 3))
    assert span.start_s == pytest.approx(kept.started_s, abs=1e-6)
    assert span.end_s - span.start_s == pytest.approx(0.02, abs=1e-6)


@pytest.mark.parametrize("tile, place", [(None, None), ((1, 2), (1, 2, 0)), ((0, 0, 3), (0, 0, 3))])
def test_spans_of_tiles_that_knew_no_shares_of_channels_come_back_too(
    tile: tuple[int, ...] | None, place: tuple[int, ...] | None, stage: Stage
) -> None:
    stage.join_all()
    stage.answer(Epoch(1), 1)
    stage.tick(1.0)
    (row,) = rows(stage, "spans")
    kept = row["data"]
    assert isinstance(kept, bytes)
    latency_us, errors, (span,) = msgspec.msgpack.decode(kept)
    assert span[-1] is None
    data = msgspec.msgpack.encode((latency_us, errors, [[*span[:-1], tile]]))
    assert frame_spans({**row, "data": data}).spans[0].tile == place


def test_trouble_with_the_store_is_a_warning_and_recovery_records_what_it_must_have(stage: Stage) -> None:
    stage.join_all()
    stage.answer(Epoch(1), 1)
    stage.tick(2.0)
    stage.records.clear()
    stage.submit(StoreFailed("d3bed.sqlite3: database or disk is full"))
    assert stage.coordinator.snapshot().unstored == "d3bed.sqlite3: database or disk is full"
    assert "disk is full" in stage.notes("warn")[-1] and "frames go on" in stage.notes("warn")[-1]
    assert rows(stage, "runs") == []
    stage.submit(StoreRecovered(lost=3, remade=True))
    stage.tick(2.0)
    assert "3 rows are lost" in stage.notes("warn")[-1]
    assert stage.coordinator.snapshot().unstored is None
    assert [e.data for e in stage.published if e.kind == "unstored"][-1] is None
    assert [row["epoch"] for row in rows(stage, "epochs")] == [1]
    (run,) = stage.coordinator.runs()
    assert {row["id"] for row in rows(stage, "runs")} == {run.id}


# ── a whole run ───────────────────────────────────────────────────────────────────────────────────


def keep(stage: Stage, directory: Path) -> Store:
    """Store what the coordinator wanted stored."""
    store = Store(directory)
    store.put("servers", {"boot": 1, "at_s": stage.now - 100.0, "data": about()})
    for record in stage.records:
        store.put(record.table, record.row)
    store.close()
    return Store(directory)


def test_history_tells_each_epoch_with_its_route_and_what_was_measured(stage: Stage, tmp_path: Path) -> None:
    stage.now = time.time()
    stage.join_all()
    stage.answer(Epoch(1), 1, 2, 3, identical=True)
    stage.tick(1.0)
    stage.submit(ChangeStrategy(DEMO, "edge"))
    stage.answer(Epoch(2), 4, identical=False)
    stage.tick(1.0)
    stage.end_source(4, 4)
    stage.tick(2.0)
    store = keep(stage, tmp_path)
    try:
        run = stage.coordinator.runs()[0].id
        history = run_history(store.read, run)
        assert run_history(store.read, "none") is None
    finally:
        store.close()
    assert history is not None
    assert (history.run.id, history.run.frames.answered) == (run, 4)
    assert history.frames.frame == (1, 2, 3, 4)
    first, second = history.epochs
    assert (first.epoch, first.strategy, first.frames) == (1, "optimal", 3)
    assert (second.epoch, second.strategy, second.frames) == (2, "edge", 1)
    assert first.route[Tier.CLOUD] == CLOUD
    assert second.route == {Tier.DEVICE: DEVICE, Tier.EDGE: AgentId("edge-1")}
    assert first.measured_s == pytest.approx(0.3)
    assert "strategy edge chosen → epoch 2" in "\n".join(each.text for each in history.decisions)
    assert {event.pipeline for event in history.events} == {None, DEMO}
    assert history.server == about()


def test_history_of_a_run_has_nothing_of_the_one_before_but_how_its_first_plan_came_about(
    stage: Stage, tmp_path: Path
) -> None:
    stage.now = time.time()
    stage.join_all()
    stage.answer(Epoch(1), 1)
    stage.tick(1.0)
    stage.submit(ChangeStrategy(DEMO, "edge"))
    stage.submit(ChangeStrategy(DEMO, "edge"))  # kept: it is in force
    stage.end_source(1, 1)
    stage.tick(0.5)
    stage.submit(Noted("said in between"))
    stage.tick(0.5)
    stage.submit(StartRun(DEMO, None, None))
    stage.tick(1.0)
    stage.submit(Noted("said in the second"))
    stage.submit(ChangeStrategy(DEMO, "device"))
    stage.tick(1.0)
    store = keep(stage, tmp_path)
    try:
        runs = dict.fromkeys(str(row["id"]) for row in rows(stage, "runs"))
        first, second = (run_history(store.read, run) for run in runs)
    finally:
        store.close()
    assert first is not None and second is not None
    assert [each.choice for each in first.decisions] == ["move", "move", "keep"]
    assert [event.text for event in first.events][-2:] == [
        f"run {first.run.id} ended: 1 of 1 frames answered",
        "said in between",
    ]
    assert [each.epoch for each in second.decisions] == [2, 3]
    assert all(event.at_s >= second.run.started_s for event in second.events)
    assert [event.text for event in second.events if event.pipeline is None] == ["said in the second"]


def test_history_does_without_what_the_store_lost(stage: Stage, tmp_path: Path) -> None:
    stage.now = time.time()
    stage.join_all()
    stage.answer(Epoch(1), 1)
    stage.tick(2.0)
    stage.records = [record for record in stage.records if record.table in ("runs", "frames")]
    store = Store(tmp_path)
    for record in stage.records:
        store.put(record.table, record.row)
    store.close()
    store = Store(tmp_path)
    history = run_history(store.read, stage.coordinator.runs()[0].id)
    store.close()
    assert history is not None
    assert (history.epochs, history.decisions, history.events, history.server) == ((), (), (), None)
    assert history.frames.frame == (1,)


def test_what_plans_were_made_from_is_recorded_when_it_changes(stage: Stage) -> None:
    stage.join_all()
    stage.tick(2.0)
    assert len(rows(stage, "grounds")) == len(rows(stage, "circumstances")) == 1
    record = stage.coordinator.world.links[DEVICE, AgentId("edge-1")]
    for size in (1.0, 1.01, 1.3):
        record.probed(LinkMeasured(AgentId("edge-1"), size * 1e7, 0.001, 0.002), stage.now)
        stage.tick(1.0)
    kept = msgspec.convert([row["data"] for row in rows(stage, "circumstances")], list[Circumstances])
    assert [dict((each[:2], each[2]) for each in one.rates)[DEVICE, AgentId("edge-1")] for one in kept] == [
        1e7, pytest.approx(1.3e7),
    ]  # fmt: skip
    assert all(one.alone and set(one.factors) == set(stage.scripts) for one in kept)
    stage.submit(ChangeRate(DEMO, 5.0))
    stage.tick(1.0)
    *_, last = msgspec.convert([row["data"] for row in rows(stage, "circumstances")], list[Circumstances])
    assert not last.alone
    stage.submit(StoreRecovered(lost=0, remade=True))
    stage.tick(1.0)
    assert len(rows(stage, "grounds")) == 2
