"""Facts are batched, put on the server's clock, and bounded."""

from __future__ import annotations

import asyncio

from d3bed.agent.clock import ClockOffset
from d3bed.agent.reporter import Reporter
from d3bed.core.graph import Value
from d3bed.core.ids import AgentId, Epoch, FrameId, PipelineId
from d3bed.core.measurements import BoardSample, FrameReport, Span, SpanKind, Transfer
from d3bed.core.messages import (
    BoardSampled,
    Drained,
    FramesAnswered,
    LinkLost,
    SpansRecorded,
    Transferred,
)

PIPELINE = PipelineId("p")


def make_reporter() -> Reporter:
    clock = ClockOffset()
    clock.sample(0.0, 100.0, 0.0)
    return Reporter(clock)


def span(frame: int, start_s: float = 1.0) -> Span:
    return Span(FrameId(frame), Epoch(1), SpanKind.COMPUTE, start_s, start_s + 0.5, (1, 3))


async def test_times_are_on_the_servers_clock_when_they_leave() -> None:
    reporter = make_reporter()
    reporter.span(PIPELINE, span(1))
    reporter.frame(PIPELINE, FrameReport(FrameId(1), Epoch(1), "a.png", 1.0, 2.0), sent=3, dropped=1)
    await reporter.wait()
    spans, frames = reporter.drain()
    assert isinstance(spans, SpansRecorded) and isinstance(frames, FramesAnswered)
    assert (spans.spans[0].start_s, spans.spans[0].end_s) == (101.0, 101.5)
    assert (frames.frames[0].started_s, frames.frames[0].latency_s, frames.sent) == (101.0, 1.0, 3)
    assert reporter.drain() == []


async def test_measurements_leave_before_facts_that_conclude_them() -> None:
    reporter = make_reporter()
    reporter.fact(Drained(PIPELINE, Epoch(1)))
    reporter.transfer(PIPELINE, Transfer(AgentId("e"), FrameId(1), Epoch(1), Value(2), 10, 0.1))
    reporter.lost(PIPELINE, Epoch(1), AgentId("e"), "gone")
    kinds = [type(message) for message in reporter.drain()]
    assert kinds == [Transferred, Drained, LinkLost]


async def test_while_the_server_is_away_the_newest_are_kept() -> None:
    reporter = make_reporter()
    for frame in range(5000):
        reporter.span(PIPELINE, span(frame))
    kept = [
        s.frame for message in reporter.drain() if isinstance(message, SpansRecorded) for s in message.spans
    ]
    assert kept == list(range(3000, 5000))


async def test_only_the_latest_sample_of_the_board_leaves() -> None:
    reporter = make_reporter()
    for load in (0.1, 0.2):
        reporter.sampled(BoardSample(load, 0.0, 0.0, 0.5))
    await reporter.wait()
    assert reporter.drain() == [BoardSampled(BoardSample(0.2, 0.0, 0.0, 0.5))]
    assert reporter.drain() == []


async def test_between_reports_it_rests_but_a_fact_leaves_at_once() -> None:
    reporter = make_reporter()
    reporter.batch_s = 3600.0
    reporter.span(PIPELINE, span(1))
    resting = asyncio.create_task(reporter.rest())
    await asyncio.sleep(0)
    assert not resting.done(), "spans can wait"
    reporter.fact(Drained(PIPELINE, Epoch(1)))
    await resting
    assert [type(message) for message in reporter.drain()] == [SpansRecorded, Drained]
