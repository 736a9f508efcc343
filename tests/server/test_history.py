"""What is kept of every frame, and what happens when it cannot be kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from d3bed.core.ids import AgentId, Epoch, PipelineId, Tier
from d3bed.core.measurements import SpanKind
from d3bed.server.events import StoreFailed, StoreRecovered
from d3bed.server.history import frame_series, frame_spans

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


def test_trouble_with_the_store_is_a_warning_and_recovery_records_what_it_must_have(stage: Stage) -> None:
    stage.join_all()
    stage.answer(Epoch(1), 1)
    stage.tick(2.0)
    stage.records.clear()
    stage.submit(StoreFailed("d3bed.sqlite3: database or disk is full"))
    assert "disk is full" in stage.notes("warn")[-1] and "frames go on" in stage.notes("warn")[-1]
    assert rows(stage, "runs") == []
    stage.submit(StoreRecovered(lost=3, remade=True))
    stage.tick(2.0)
    assert "3 rows are lost" in stage.notes("warn")[-1]
    assert [row["epoch"] for row in rows(stage, "epochs")] == [1]
    (run,) = stage.coordinator.runs()
    assert {row["id"] for row in rows(stage, "runs")} == {run.id}
