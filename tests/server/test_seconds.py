"""Where a frame's time went, and what became of a second."""

from __future__ import annotations

import msgspec
import pytest

from d3bed.core.ids import AgentId, Epoch, FrameId, PipelineId, Tier
from d3bed.core.measurements import SpanKind, Transfer
from d3bed.server.seconds import PARTS, SECONDS_KEPT, Seconds, SecondView, parts
from d3bed.server.views import FrameView, SpanView

PI, EDGE, CLOUD = AgentId("pi-1"), AgentId("edge-1"), AgentId("vm-1")
TIERS = {PI: Tier.DEVICE, EDGE: Tier.EDGE, CLOUD: Tier.CLOUD}
PIPELINE = PipelineId("demo")


def span(agent: AgentId, kind: SpanKind, start_s: float, end_s: float) -> SpanView:
    return SpanView(agent, TIERS[agent], kind, start_s, end_s, 0.0, (1, 1), None)


def test_parts_of_a_frame_add_up_to_its_latency() -> None:
    spans = [
        span(PI, SpanKind.COMPUTE, 10.1, 10.3),
        span(PI, SpanKind.TRANSFER, 10.2, 10.5),  # 0.1 s of it beside computing
        span(EDGE, SpanKind.WAIT, 10.0, 10.5),
        span(EDGE, SpanKind.QUEUE, 10.5, 10.6),
        span(EDGE, SpanKind.COMPUTE, 10.6, 10.7),
        span(CLOUD, SpanKind.COMPUTE, 10.65, 10.8),
        span(CLOUD, SpanKind.TRANSFER, 10.8, 11.5),  # ends after the frame: clocks differ
    ]
    found = parts(10.0, 1.0, 0.1, spans)
    assert found == pytest.approx(
        {"device": 0.2, "edge": 0.05, "cloud": 0.15, "transfer": 0.4, "queue": 0.2, "wait": 0.0}
    )
    assert tuple(found) == PARTS
    assert sum(found.values()) == pytest.approx(1.0)


def test_frame_without_spans_waited_all_the_time() -> None:
    assert parts(10.0, 0.5, 0.0, [])["wait"] == 0.5


def latest(seconds: Seconds) -> SecondView:
    """As readers of the API get it."""
    return msgspec.json.decode(seconds.last, type=SecondView)


def frame(number: int, at_s: float, latency_s: float) -> FrameView:
    spans = (span(PI, SpanKind.COMPUTE, at_s, at_s + latency_s),)
    return FrameView(
        pipeline=PIPELINE,
        run="demo-1-1",
        frame=FrameId(number),
        epoch=Epoch(1),
        photo="cat.jpg",
        answer="cat",
        started_s=at_s,
        latency_s=latency_s,
        identical=True,
        max_rel_err=0.0,
        attempts=1,
        compute_s={Tier.DEVICE: latency_s},
        spans=spans,
        parts_s=parts(at_s, latency_s, 0.0, spans),
    )


def tick(seconds: Seconds, now: float, *, counting: bool = True) -> bool:
    return seconds.tick(now, counting=counting, epoch=Epoch(1), predicted_s=0.1)


def test_second_tells_of_all_its_frames_once_it_is_over() -> None:
    seconds = Seconds(PIPELINE, TIERS)
    assert not tick(seconds, 100.2)
    for number in range(4):
        seconds.add_frame(frame(number, 100.3, 0.1 * (number + 1)), input_bytes=1000)
    seconds.add_transfer(PI, Transfer(EDGE, FrameId(1), Epoch(1), (1, 0), 50_000, 0.01, 6e6))  # type: ignore[arg-type]
    seconds.add_transfer(EDGE, Transfer(CLOUD, FrameId(1), Epoch(1), (1, 0), 600, 0.01))  # type: ignore[arg-type]
    assert not tick(seconds, 100.9)
    assert tick(seconds, 101.05)
    assert len(seconds.kept) == 1
    told = latest(seconds)
    assert (told.at_s, told.frames_per_s, told.epoch) == (100, 4.0, 1)
    assert told.parts_s["device"] == pytest.approx(0.25)
    assert told.p50_s == pytest.approx(0.3)
    assert told.p99_s == pytest.approx(0.4)
    assert (told.backbone_bytes, told.cloud_only_bytes) == (600, 4000)
    assert told.links == {"pi-1→edge-1": (50_000, 5_000_000, 6e6), "edge-1→vm-1": (600, None, None)}
    assert tick(seconds, 102.0)
    assert latest(seconds).frames_per_s == 0  # nothing is carried over
    assert latest(seconds).parts_s == {}


def test_percentiles_look_back_a_minute() -> None:
    seconds = Seconds(PIPELINE, TIERS)
    tick(seconds, 100.0)
    seconds.add_frame(frame(1, 100.0, 0.5), 0)
    tick(seconds, 101.0)
    assert latest(seconds).p50_s == 0.5
    tick(seconds, 150.0)
    assert latest(seconds).p50_s == 0.5
    tick(seconds, 170.0)
    tick(seconds, 171.0)
    assert latest(seconds).p50_s is None


def test_nothing_is_told_while_nothing_runs_and_only_so_much_is_kept() -> None:
    seconds = Seconds(PIPELINE, TIERS)
    tick(seconds, 10.0, counting=False)
    assert not tick(seconds, 11.0, counting=False)
    for second in range(2 * SECONDS_KEPT):
        tick(seconds, 12.0 + second)
    kept = [msgspec.json.decode(text, type=SecondView).at_s for text in seconds.kept]
    assert kept == list(range(11 + SECONDS_KEPT, 11 + 2 * SECONDS_KEPT)), "the latest, oldest first"
    assert seconds.kept[-1] == seconds.last
