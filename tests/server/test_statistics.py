"""Numbers of a run: medians, link rates, frames joined with their spans, the report."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3bed.core.graph import Value
from d3bed.core.ids import AgentId, Epoch, FrameId, PipelineId, Tier
from d3bed.core.measurements import FrameReport, Span, SpanKind, Transfer
from d3bed.server.frames import TRACKED, Allowance, FrameTracker
from d3bed.server.pace import shown_per_s
from d3bed.server.statistics import LinkTraffic, Recent
from d3bed.server.views import FrameView
from tests.server.conftest import Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from d3bed.server.settings import ServerSettings
    from tests.server.conftest import MakeStage

DEMO = PipelineId("demo")
DEVICE, EDGE_1, CLOUD = AgentId("pi-1"), AgentId("edge-1"), AgentId("vm-1")
TIERS_OF = {DEVICE: Tier.DEVICE, EDGE_1: Tier.EDGE, CLOUD: Tier.CLOUD}


def moved(size: int, taken_s: float, target: float | None = 1e6) -> Transfer:
    return Transfer(EDGE_1, FrameId(1), Epoch(1), Value(0), size, taken_s, target)


def report(frame: int, epoch: int = 1) -> FrameReport:
    return FrameReport(FrameId(frame), Epoch(epoch), "cat.jpg", 10.0, 10.3)


def span(frame: int, seconds: float, epoch: int = 1, kind: SpanKind = SpanKind.COMPUTE) -> Span:
    return Span(FrameId(frame), Epoch(epoch), kind, 10.0, 10.0 + seconds, (1, 2))


def test_quantiles_are_of_the_last_samples() -> None:
    recent = Recent(limit=4)
    assert recent.median is None
    for sample in (100.0, 1.0, 2.0, 3.0, 4.0):
        recent.add(sample)
    assert recent.last == 4.0
    assert recent.median == 2.5
    assert recent.p95 == pytest.approx(3.85)


@given(st.lists(st.floats(0, 9) | st.sampled_from([1.0, 2.0]), max_size=40), st.integers(1, 9))
def test_quantiles_are_those_of_the_sorted_last_samples(samples: list[float], limit: int) -> None:
    recent = Recent(limit)
    for sample in samples:
        recent.add(sample)
    ordered = sorted(samples[-limit:])
    assert recent.quantile(0.0) == (ordered[0] if ordered else None)
    assert recent.quantile(1.0) == (ordered[-1] if ordered else None)
    assert recent.median == (pytest.approx(statistics.median(ordered)) if ordered else None)


def test_big_transfers_rule_the_rate_where_there_are_any() -> None:
    link = LinkTraffic()
    link.add(moved(1_000, 0.1))
    assert link.achieved_bytes_per_s == pytest.approx(10_000)
    link.add(moved(200_000, 0.2))
    link.add(moved(200_000, 0.204))
    assert link.bytes == 401_000
    assert link.achieved_bytes_per_s == pytest.approx(400_000 / 0.404)
    assert link.deviation == pytest.approx(400_000 / 0.404 / 1e6 - 1)


def test_each_transfer_is_held_against_the_target_of_its_time() -> None:
    link = LinkTraffic()
    link.add(moved(200_000, 0.2, 1e6))
    link.add(moved(200_000, 0.4, 0.5e6))
    assert link.deviation == pytest.approx(0)


def test_small_transfers_do_not_tell_a_links_deviation() -> None:
    link = LinkTraffic()
    link.add(Transfer(EDGE_1, FrameId(1), Epoch(1), Value(1), 4000, 0.01, 1e6))
    assert link.achieved_bytes_per_s == pytest.approx(4e5)
    assert link.deviation is None


def test_unshaped_link_has_no_deviation() -> None:
    link = LinkTraffic()
    link.add(moved(200_000, 0.2, None))
    assert link.deviation is None and link.achieved_bytes_per_s == pytest.approx(1e6)


def test_frame_waits_for_the_spans_of_every_tier() -> None:
    counted: list[tuple[Tier, float]] = []
    tracker = FrameTracker(DEMO, TIERS_OF, lambda _: {DEVICE: 1, CLOUD: 2}, lambda *c: counted.append(c))
    tracker.add_report(report(1), now=100.0)
    tracker.add_spans(DEVICE, [span(1, 0.1)])
    tracker.add_spans(CLOUD, [span(1, 0.02)])
    assert tracker.take_ripe(100.1) == []
    tracker.add_spans(CLOUD, [span(1, 0.03), span(1, 0.2, kind=SpanKind.TRANSFER)])
    (frame,) = tracker.take_ripe(100.2)
    assert len(frame.spans) == 4
    assert frame.compute_s == pytest.approx({Tier.DEVICE: 0.1, Tier.CLOUD: 0.05})
    assert dict(counted) == pytest.approx({Tier.DEVICE: 0.1, Tier.CLOUD: 0.05})
    assert tracker.take_ripe(200.0) == []


def test_frame_waits_no_longer_than_half_a_second() -> None:
    counted: list[tuple[Tier, float]] = []
    tracker = FrameTracker(DEMO, TIERS_OF, lambda _: {DEVICE: 2}, lambda *c: counted.append(c))
    tracker.add_spans(DEVICE, [span(1, 0.1)])
    tracker.add_report(report(1), now=100.0)
    assert tracker.take_ripe(100.4) == []
    assert [frame.frame for frame in tracker.take_ripe(100.5)] == [1]
    assert dict(counted) == pytest.approx({Tier.DEVICE: 0.1})


def test_every_frame_is_given_out_once_and_memory_is_bounded() -> None:
    counted: list[float] = []
    tracker = FrameTracker(DEMO, TIERS_OF, lambda _: {DEVICE: 1}, lambda _, s: counted.append(s))
    found, kept = [], []
    for frame in range(1000):
        tracker.add_report(report(frame), 100.0)
        tracker.add_spans(DEVICE, [span(frame, 0.1)] if frame % 2 else [])
        if frame % 400 == 399:
            found += tracker.take_ripe(100.0)
            kept += tracker.take_settled(100.0)
    assert len(tracker) == TRACKED
    found += tracker.take_ripe(200.0)
    kept += tracker.take_settled(200.0)
    for frames in (found, kept):
        assert sorted(frame.frame for frame in frames) == list(range(1000))
    assert len(counted) == 500


def test_what_is_told_after_a_frame_is_complete_is_kept_with_it() -> None:
    tracker = FrameTracker(DEMO, TIERS_OF, lambda _: {DEVICE: 1}, lambda *c: None)
    tracker.add_report(report(1), now=100.0)
    tracker.add_spans(DEVICE, [span(1, 0.1)])
    assert len(tracker.take_ripe(100.1)[0].spans) == 1
    assert tracker.take_settled(100.1) == []
    tracker.add_spans(DEVICE, [span(1, 0.2, kind=SpanKind.TRANSFER)])
    (frame,) = tracker.take_settled(100.8)
    assert len(frame.spans) == 2
    assert tracker.take_ripe(200.0) == tracker.take_settled(200.0) == []


def test_at_most_twenty_frames_a_second_are_shown() -> None:
    allowance = Allowance()
    shown = sum(allowance.take(100.0 + frame / 100) for frame in range(1000))
    assert 200 <= shown <= 215


def test_of_many_pipelines_fewer_frames_are_shown_and_spans_are_kept_of_these(
    make_settings: Callable[..., ServerSettings],
) -> None:
    settings = make_settings(frames=None)
    (one,) = settings.pipelines
    others = [
        msgspec.structs.replace(one, id=PipelineId(f"other-{n}"), device=AgentId(f"absent-{n}"))
        for n in range(99)
    ]
    stage = Stage(msgspec.structs.replace(settings, pipelines=(one, *others)))
    stage.join_all()
    for frame in range(1, 51):
        stage.answer(Epoch(1), frame)
        stage.tick(0.1)
    stage.tick(2.0)
    shown = [e.data.frame for e in stage.published if isinstance(e.data, FrameView)]
    assert 5 <= len(shown) <= 7  # of fifty in five seconds
    kept = [(record.table, record.row["frame"]) for record in stage.records if "frame" in record.row]
    assert [frame for table, frame in kept if table == "spans"] == shown
    assert [frame for table, frame in kept if table == "frames"] == list(range(1, 51))


def test_a_hundred_frames_a_second_are_shown_and_one_of_each_pipeline() -> None:
    told = [shown_per_s(pipelines) for pipelines in (0, 1, 5, 10, 50, 167)]
    assert told == pytest.approx([20.0, 20.0, 20.0, 10.0, 2.0, 1.0])


def test_answers_and_spans_become_statistics(stage: Stage) -> None:
    stage.join_all()
    stage.answer(Epoch(1), 1, 2, 3, identical=True)
    stage.tick(1.0)
    view = stage.coordinator.view(DEMO)
    assert (view.frames.sent, view.frames.answered) == (3, 3)
    assert (view.exact.checked, view.exact.identical, view.exact.max_rel_err) == (3, 3, 0.0)
    assert view.latency_s.median == pytest.approx(0.3)
    assert view.compute_s == pytest.approx({Tier.CLOUD: 0.02})
    frames = [event.data for event in stage.published if event.kind == "frame"]
    assert [frame.frame for frame in frames if isinstance(frame, FrameView)] == [1, 2, 3]
    epochs = [event.data for event in stage.published if event.kind == "epoch"]
    assert msgspec.to_builtins(epochs[-1])["measured_s"] == pytest.approx(0.3)


def test_pipeline_events_carry_only_what_changed(stage: Stage) -> None:
    stage.join_all()
    stage.tick(1.0)
    stage.published.clear()
    stage.answer(Epoch(1), 1)
    stage.tick(1.0)
    changed = [event.data for event in stage.published if event.kind == "pipeline"]
    assert changed
    for data in changed:
        assert isinstance(data, dict)
        assert set(data) <= {"id", "frames", "exact", "latency_s", "compute_s"}


def test_difference_from_the_whole_model_is_said_once_an_epoch(stage: Stage) -> None:
    stage.join_all()
    stage.answer(Epoch(1), 1, 2, identical=False)
    assert stage.notes("error") == ["frame 1 differs from the undivided model (epoch 1)"]


def test_report_has_exactly_the_documented_keys(stage: Stage) -> None:
    stage.join_all()
    stage.answer(Epoch(1), *range(1, 11), identical=True)
    stage.transfer(DEVICE, EDGE_1, 200_000, 0.02, 1e7)
    stage.end_source(10, 10)
    stage.tick(2.0)
    (run,) = stage.coordinator.runs()
    found = msgspec.to_builtins(stage.coordinator.report(run.id))
    assert list(found) == [
        "format", "model", "strategy", "network", "frames", "exact", "latency_s", "compute_s", "agents",
        "links", "epochs", "plan", "tiles", "tolerance",
    ]  # fmt: skip
    assert found["frames"] == {"sent": 10, "answered": 10, "lost": 0, "dropped": 0}
    assert set(found["latency_s"]) == {"median", "p95", "predicted"}
    assert [agent["agent"] for agent in found["agents"]] == ["pi-1", "edge-1", "edge-2", "vm-1"]
    assert list(found["links"]) == [
        {
            "from": "pi-1",
            "to": "edge-1",
            "bytes": 200_000,
            "target_bytes_per_s": 1e7,
            "achieved_bytes_per_s": 1e7,
            "deviation": 0.0,
        }
    ]
    assert set(found["epochs"][0]) == {"epoch", "strategy", "cause", "activated_at", "moved"}
    assert found["plan"] == {"input": "device", "conv1": "cloud", "conv2": "cloud", "conv3": "cloud"}
    saved = [record.row for record in stage.records if record.table == "runs"]
    assert saved[-1]["report"] == found


def test_link_off_its_target_is_flagged_if_transfers_were_large_enough_to_tell(stage: Stage) -> None:
    stage.join_all()
    stage.transfer(EDGE_1, DEVICE, 4_000, 0.02, 1e7)
    stage.transfer(DEVICE, EDGE_1, 200_000, 0.02, 0.9e7)
    stage.end_source(10, 10)
    stage.tick(2.0)
    assert stage.notes("warn") == ["link pi-1→edge-1 ran +11.1% off its emulated rate"]


def test_lost_frames_are_counted_when_the_source_ends(stage: Stage) -> None:
    stage.join_all()
    stage.answer(Epoch(1), 1, 2)
    stage.end_source(10, 8)
    assert stage.coordinator.runs()[0].frames.lost == 2
    assert stage.phase == "running"
    stage.tick(0.7)
    assert stage.phase == "idle"


def test_source_that_outlived_the_server_gets_a_run(make_stage: MakeStage) -> None:
    stage = make_stage(last_epoch=5)
    stage.join(DEVICE, EDGE_1, CLOUD)
    pipeline = stage.coordinator.pipelines[DEMO]
    assert pipeline.stream.run is None
    stage.say_answer_of_unknown_epoch(7)
    assert pipeline.stream.run is not None and pipeline.stream.is_running
    stage.join(AgentId("edge-2"))
    assert stage.active == 8
    assert stage.starts == 0
    # What it did before is another server's.
    stage.answer(Epoch(8), 91, 92)
    assert (pipeline.stream.run.frames.sent, pipeline.stream.run.frames.answered) == (3, 3)
    stage.end_source(95, 93)
    frames = stage.coordinator.runs()[0].frames
    assert (frames.sent, frames.answered, frames.lost) == (6, 3, 2)


def test_frame_of_which_nothing_more_is_to_come_is_forgotten() -> None:
    counted: list[float] = []
    tracker = FrameTracker(DEMO, TIERS_OF, lambda _: {EDGE_1: 1}, lambda _, seconds: counted.append(seconds))
    for number in range(1, 6):
        tracker.add_spans(EDGE_1, [span(number, 0.2)])
        tracker.add_report(report(number), 100.0)
    assert len(tracker.take_ripe(100.0)) == 5
    assert not tracker.take_settled(100.0)
    assert len(tracker) == 5
    assert [frame.frame for frame in tracker.take_settled(101.0)] == [1, 2, 3, 4, 5]
    assert len(tracker) == 0
    assert not tracker.take_ripe(102.0) and not tracker.take_settled(102.0)
    assert counted == pytest.approx([0.2] * 5)
